"""Each kind of defect, made on purpose in a sound dataset, is found, named and counted."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.shop import imported, picture, shop
from moontide.catalog.check import Findings, check
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.foundation.images import image_facts


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("check")
    return imported(shop(folder / "shop", 12), folder / "d")[0]


@pytest.fixture
def dataset(sound, tmp_path) -> Dataset:
    """A copy of the sound dataset, to be broken."""
    shutil.copytree(sound.path, tmp_path / "d")
    return Dataset.open(tmp_path / "d")


def changed(dataset: Dataset, name: str, **columns) -> Findings:
    """Write `columns` into the rows of a table as a new dataset over this one, and check it."""
    table = dataset.table(name).to_pylist()
    for column, cells in columns.items():
        for row, value in cells.items():
            table[row][column] = value
    return over(dataset, **{name: table})


def over(dataset: Dataset, **tables) -> Findings:
    """Check a dataset over this one with other tables."""
    to = dataset.path.with_name("changed")
    with DatasetWriter(to, "changed", base=dataset, replace=True) as writer:
        for name, rows in tables.items():
            (writer.append if name in ("events", "images") else writer.put)(name, rows)
    return check(Dataset.open(to))


def kinds(findings: Findings) -> dict[str, bool]:
    """Kind -> whether it is an error."""
    return {one.kind: one.is_error for one in findings.found}


def only(findings: Findings, kind: str):
    assert list(kinds(findings)) == [kind]
    return findings.found[0]


def test_a_sound_dataset_has_no_findings(dataset):
    findings = check(dataset)
    assert findings.found == findings.errors == findings.warnings == []
    assert findings.rows == {"products": 12, "images": 12, "splits": 12}


def test_a_changed_file_is_an_error(dataset):
    file = dataset.path / "splits.parquet"
    pq.write_table(pq.read_table(file), file, compression="none")
    found = only(check(dataset), "changed_file")
    assert (found.is_error, found.examples) == (True, ("splits.parquet",))


def test_a_file_that_is_gone_and_one_too_many_are_found(dataset):
    (dataset.path / "images-00000.parquet").unlink()
    pq.write_table(pa.table({"a": [1]}), dataset.path / "mystery.parquet")
    assert kinds(check(dataset)) == {
        "missing_file": True, "unlisted_file": False, "unknown_table": False, "broken_reference": True,
    }  # fmt: skip


def test_a_wrong_number_of_rows_is_an_error(dataset):
    dataset.info["rows"]["products"] = 13
    assert only(check(dataset), "wrong_count").examples == ("products",)


def test_a_broken_file_is_named_and_the_rest_is_still_checked(dataset):
    file = dataset.path / "splits.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    findings = check(dataset)
    assert kinds(findings)["broken_file"]
    assert findings.errors[0].examples == ("splits.parquet",)
    assert findings.rows == {"products": 12, "images": 12}


def test_columns_that_miss_or_are_too_many_or_of_another_type_are_found(dataset):
    file = dataset.path / "splits.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("extra", pa.array(range(12))), file)
    assert kinds(check(dataset)) == {"unknown_column": False, "changed_file": True}
    pq.write_table(table.drop_columns(["split"]), file)
    assert kinds(check(dataset)) == {"missing_column": True, "changed_file": True}
    pq.write_table(table.set_column(0, "product_id", pa.array(range(12))), file)
    assert kinds(check(dataset)) == {"wrong_type": True, "changed_file": True}


def test_values_that_do_not_fit_their_column_are_found_and_the_rest_is_checked(dataset):
    file = dataset.path / "products.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("price_cents")
    pq.write_table(table.set_column(place, "price_cents", pa.array(["much"] * 12)), file)
    found = {one.kind: one for one in check(dataset).found}
    assert found["wrong_value"].is_error
    assert found["wrong_value"].text.startswith(f"products of {dataset.path} cannot be read")


def test_empty_ids_are_errors(dataset):
    file = dataset.path / "products.parquet"
    table = pq.read_table(file)
    ids = pa.array([None, *table.column("product_id").to_pylist()[1:]])
    pq.write_table(table.set_column(0, "product_id", ids), file)
    found = {one.kind: one for one in check(dataset).found}["empty_value"]
    assert (found.text, found.examples) == ("products.product_id is empty in rows", ("0",))


def test_a_blank_title_is_an_error(dataset):
    assert only(changed(dataset, "products", title={2: "  "}), "empty_title").examples == ("p2",)


def test_a_negative_price_is_an_error(dataset):
    assert only(changed(dataset, "products", price_cents={3: -1}), "negative_price").examples == ("p3",)


def test_an_id_that_repeats_is_an_error(dataset):
    found = {one.kind: one for one in changed(dataset, "products", product_id={1: "p0"}).found}
    assert found["repeated_key"].text == "products.product_id repeats ids"
    assert found["repeated_key"].examples == ("p0",)


def test_an_id_that_points_nowhere_is_an_error(dataset):
    found = only(changed(dataset, "products", image_ids={1: ["p1-0", "lost"]}), "broken_reference")
    assert (found.text, found.examples) == ("products.image_ids names what is not there", ("lost",))


def test_a_query_that_asks_nothing_is_an_error(dataset):
    rows = [{"query_id": "q1", "text": "lamp"}, {"query_id": "q2"}, {"query_id": "q3", "image_id": "p1-0"}]
    assert only(over(dataset, queries=rows), "empty_query").examples == ("q2",)


def test_events_of_unknown_kind_or_without_their_impression_are_errors(dataset):
    rows = [
        {"event_id": "e1", "kind": "impression", "request_id": "r1", "product_id": "p1"},
        {"event_id": "e2", "kind": "click", "request_id": "r1", "product_id": "p1"},
        {"event_id": "e3", "kind": "order", "request_id": "r2", "product_id": "p1"},
        {"event_id": "e4", "kind": "glance"},
    ]
    found = {one.kind: one.examples for one in over(dataset, events=rows).found}
    assert found == {"unknown_kind": ("glance",), "no_impression": ("e3",)}


def test_a_campaign_of_an_unlisted_shop_is_no_error_and_of_an_unlisted_product_is_one(dataset):
    rows = [{"campaign_id": "c1", "merchant_id": "m1", "product_id": "p9999"}]
    found = only(over(dataset, campaigns=rows), "broken_reference")
    assert found.text == "campaigns.product_id names what is not there"


def test_pictures_that_cannot_be_used_or_are_not_what_is_said_are_errors(dataset):
    facts = vars(image_facts(picture(5)))
    rows = [
        {"image_id": "x1", "bytes": b"junk", **facts},
        {"image_id": "x2", "bytes": picture(5)[:-200], **facts},
        {"image_id": "x3", "bytes": picture(99), **facts},
    ]
    findings = over(dataset, images=rows)
    found = {one.text: one.examples for one in findings.errors}
    assert found == {
        "pictures that cannot be used (broken_pixels)": ("x2",),
        "pictures that cannot be used (not_an_image)": ("x1",),
        "pictures that are not what width, height, sha256 or dhash say": ("x3",),
    }
    assert check(Dataset.open(findings.path), pictures=False).errors == []


def test_equal_titles_and_equal_pictures_are_warnings(dataset):
    findings = changed(dataset, "products", title={1: "Oak LAMP, a"}, image_ids={2: ["p3-0"]})
    found = {one.kind: one.examples for one in findings.warnings}
    assert found["equal_titles"] == ("p0 = p1",)
    assert found["equal_pictures"] == ("p2 = p3",)


def test_a_group_on_both_sides_is_an_error_and_near_duplicates_a_warning(dataset):
    rows = dataset.table("splits").to_pylist()
    sides = {row["product_id"]: row["split"] for row in rows}
    train, test = (next(one for one in sides if sides[one] == side) for side in ("train", "test"))
    for row in rows:
        row["group_id"] = "g" if row["product_id"] in (train, test) else row["group_id"]
    found = only(over(dataset, splits=rows), "divided_group")
    assert found.examples == (f"{train} (train) ~ {test} (test)",)
    place = {one: number for number, one in enumerate(sides)}
    findings = changed(dataset, "products", spu_id={place[train]: "s", place[test]: "s"})
    assert only(findings, "leakage").examples == (f"{train} (train) ~ {test} (test)",)
    assert not findings.errors


def test_sides_that_miss_are_a_warning_and_unknown_ones_an_error(dataset):
    rows = dataset.table("splits").to_pylist()
    assert only(over(dataset, splits=rows[1:]), "no_split").examples == ("p0",)
    rows[0]["split"] = "dev"
    assert kinds(over(dataset, splits=rows))["unknown_split"]


def test_a_finding_keeps_five_examples_and_the_whole_count(dataset):
    found = only(changed(dataset, "products", price_cents=dict.fromkeys(range(8), -1)), "negative_price")
    assert (found.count, len(found.examples)) == (8, 5)
