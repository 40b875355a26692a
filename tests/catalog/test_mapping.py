"""Which column becomes what: guessed, corrected by flags, or given whole by a file."""

import pytest

from moontide.catalog.mapping import filled, guess, parse_flags, pattern_columns, read_file, resolve
from moontide.foundation.errors import DataError, SettingsError, StorageError

COLUMNS = [
    "SKU",
    "Product Name",
    "brand",
    "price",
    "gender",
    "category",
    "image_1",
    "image_2",
    "Colour",
    "notes",
]


def test_usual_names_are_guessed():
    assert resolve(COLUMNS, {}).model_dump(exclude_defaults=True) == {
        "product_id": "SKU", "title": "Product Name", "brand": "brand", "price": "price",
        "category": ("gender", "category"), "images": ("image_1", "image_2"),
        "attributes": {"color": "Colour"},
    }  # fmt: skip


def test_a_gender_alone_is_an_attribute_and_numbered_levels_are_a_path():
    assert guess(["id", "title", "gender"]).get("attributes") == {"gender": "gender"}
    assert guess(["id", "title", "cat2", "cat1"])["category"] == ["cat1", "cat2"]
    assert guess(["id", "title", "gender", "breadcrumbs"])["category"] == ["breadcrumbs"]


def test_flags_name_fields_levels_and_attributes():
    flags = ["title=name, category=gender>type", "attributes.color=hue,images=a|b,brand=-,attributes.fit=-"]
    assert parse_flags(flags) == {
        "title": "name", "category": ["gender", "type"], "images": ["a", "b"], "brand": None,
        "attributes": {"color": "hue", "fit": None},
    }  # fmt: skip
    assert parse_flags(["id=a,seller=b"]) == {"product_id": "a", "merchant_id": "b"}


def test_flags_correct_the_guess_and_the_rest_stays_guessed():
    mapping = resolve(COLUMNS, parse_flags(["brand=notes,images=-,attributes.color=-,attributes.sex=gender"]))
    assert (mapping.product_id, mapping.title, mapping.price) == ("SKU", "Product Name", "price")
    assert (mapping.brand, mapping.images) == ("notes", ())
    assert mapping.attributes == {"sex": "gender"}


def test_a_column_given_to_one_field_is_not_guessed_for_another():
    mapping = resolve(["id", "title", "group", "price"], parse_flags(["category=group,price_cents=price"]))
    assert (mapping.category, mapping.spu_id) == (("group",), None)
    assert (mapping.price, mapping.price_cents) == (None, "price")


def test_a_file_is_the_whole_mapping(tmp_path):
    file = tmp_path / "map.toml"
    file.write_text('name = "Product Name"\ncategory = "category"\n[attributes]\nhue = "Colour"\n')
    given = read_file(file)
    assert given == {"title": "Product Name", "category": ["category"], "attributes": {"hue": "Colour"}}
    assert resolve(COLUMNS, given, guesses=False).model_dump(exclude_defaults=True) == {
        "product_id": "SKU", "title": "Product Name", "category": ("category",),
        "attributes": {"hue": "Colour"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("title", "--map takes FIELD=COLUMN, got 'title': for example title=name,price=cost"),
        ("=x", "--map takes FIELD=COLUMN, got '=x': for example title=name,price=cost"),
        ("wheels=x", "a product has no field 'wheels' to map: it has product_id, title,"),
        ("attributes=x", "a product has no field 'attributes' to map: it has product_id,"),
    ],
)
def test_a_flag_that_says_nothing_is_refused(flag, text):
    with pytest.raises(SettingsError) as caught:
        parse_flags([flag])
    assert str(caught.value).startswith(text)


def test_contradictions_and_missing_columns_are_refused():
    with pytest.raises(SettingsError, match="Mapping: price and price_cents contradict each other: map one"):
        resolve(COLUMNS, {"price": "price", "price_cents": "price"})
    with pytest.raises(DataError, match=r"^the source has no column 'colour': did you mean 'Colour'\?$"):
        resolve(COLUMNS, {"brand": "colour"})
    with pytest.raises(
        DataError, match=r"^the source has no column 'zzz': the columns are SKU, Product Name,"
    ):
        resolve(COLUMNS, {"brand": "zzz"})
    with pytest.raises(
        DataError, match=r"no column looks like a title: give --map title=COLUMN \(columns: id\)"
    ):
        resolve(["id"], {})
    with pytest.raises(DataError, match=r"no column looks like a product_id: give --map product_id=COLUMN"):
        resolve([], {})


def test_a_mapping_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"no mapping file at .*none.toml"):
        read_file(tmp_path / "none.toml")
    (tmp_path / "map.toml").write_text("title = ")
    with pytest.raises(SettingsError, match=r"map.toml is not valid TOML \("):
        read_file(tmp_path / "map.toml")
    (tmp_path / "map.toml").write_text("title = 3")
    with pytest.raises(SettingsError, match="Mapping: title: input should be a valid string, got 3"):
        resolve(COLUMNS, read_file(tmp_path / "map.toml"), guesses=False)


def test_patterns_take_cells_and_stars_in_cells_stand_for_themselves():
    assert filled("{brand}/{id}.jpg", "7", {"brand": " Acme "}) == "Acme/7.jpg"
    assert filled("{id}.jpg", "a*", {}) == "a*.jpg"
    assert filled("{id}_*.jpg", "a*", {}) == "a[*]_*.jpg"
    assert pattern_columns("{brand}/{id}_{size}.jpg") == ["brand", "size"]
    with pytest.raises(
        SettingsError, match=r"the picture pattern '{id.jpg' has an open brace: write {id}.jpg"
    ):
        pattern_columns("{id.jpg")
