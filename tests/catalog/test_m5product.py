"""M5Product by its description, and by what its published code reads."""

import json

import pytest

from catalog.shop import picture, reasons, write_table
from catalog.test_commands import run
from moontide.catalog.dataset import Dataset
from moontide.catalog.intake import WITHOUT_PICTURE, import_offers
from moontide.catalog.m5product import read_m5product
from moontide.catalog.properties import WITHOUT_VALUE
from moontide.foundation.errors import DataError, SettingsError


@pytest.fixture
def shots(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, name in enumerate(["1_main.jpg", "1_side.jpg", "7.jpg", "8_0.jpg", "8_1.jpg"]):
        (folder / name).write_bytes(picture(seed))
    return folder


def test_a_nested_meta_info_becomes_a_product_with_its_main_picture_first(tmp_path, shots):
    meta = {
        "item_id": "1", "caption": "Blind box storage", "image": ["1_main.jpg", "1_side.jpg"],
        "tabular": {"Material": "Acrylic", "Color": ["clear", "white"], "Brand": ""},
        "label": "Home > Storage", "video": "1.mp4",
    }  # fmt: skip
    file = tmp_path / "m5.jsonl"
    file.write_text(
        json.dumps({"meta_info": meta}) + "\n" + json.dumps({"meta_info": {"item_id": "2"}}) + "\n"
    )
    report = import_offers(read_m5product(file, shots), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    (box,) = dataset.products()
    assert (box.product_id, box.title, box.category) == ("1", "Blind box storage", ("Home", "Storage"))
    assert box.attributes == {"Material": ("Acrylic",), "Color": ("clear", "white"), "Brand": ()}
    assert [dataset.images[one] for one in box.image_ids] == [picture(0), picture(1)]
    assert reasons(dataset) == {"empty_title": 1}
    assert report.noted[WITHOUT_VALUE] == 1


def test_texts_of_pairs_and_pictures_named_after_products_are_read(tmp_path, shots):
    table = [
        {
            "id": "7",
            "title": "steel mug",
            "pv": "color#:#red#;#color#:#blue#;#size#:#350#:#ml",
            "category": "Mugs",
        },
        {"id": "9", "title": "lamp", "pv": "", "category": ""},
    ]
    report = import_offers(read_m5product(write_table(tmp_path / "m5.tsv", table), shots), tmp_path / "d")
    mug, lamp = Dataset.open(tmp_path / "d").products()
    assert mug.attributes == {"color": ("red", "blue"), "size": ("350#:#ml",)}
    assert (mug.category, len(mug.image_ids)) == (("Mugs",), 1)
    assert (lamp.category, lamp.attributes, lamp.image_ids) == ((), {}, ())
    assert report.noted[WITHOUT_PICTURE] == 1


def test_other_columns_and_a_pattern_of_pictures_are_named(tmp_path, shots):
    source = write_table(tmp_path / "m5.csv", [{"sku": "8", "name": "vase", "kind": "Decor"}])
    flags = "product_id=sku,title=name,category=kind,images={id}_*.jpg"
    code, output = run(
        "import", "m5product", source, "--images", shots, "--map", flags, "--to", tmp_path / "d"
    )
    assert (code, "pictures │ 2" in output) == (0, True)
    assert Dataset.open(tmp_path / "d").info["license"] == "non-commercial, by application"
    assert "row 1 ┃ taken" in run("import", "m5product", source, "--map", flags, "--dry-run")[1]


def test_wrong_names_are_one_sentence(tmp_path):
    source = write_table(tmp_path / "m5.csv", [{"sku": "8", "name": "vase"}])
    with pytest.raises(DataError, match=r"has no item_id or id or .* for product_id \(columns: sku, name\)"):
        read_m5product(source)
    with pytest.raises(DataError, match="has no nam for title"):
        read_m5product(source, columns={"product_id": "sku", "title": "nam"})
    with pytest.raises(
        SettingsError, match="M5Product has no field 'colour' to map: it has product_id, title"
    ):
        read_m5product(source, columns={"colour": "x"})
