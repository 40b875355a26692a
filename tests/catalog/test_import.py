"""A shop's table and pictures become a dataset."""

import json

import pytest

from catalog.shop import imported, picture, reasons, refused, rows, shop, write_pictures, write_table, zipped
from moontide.catalog.dataset import Dataset
from moontide.catalog.landing import plan_import
from moontide.catalog.mapping import parse_flags
from moontide.catalog.tables import import_table, preview
from moontide.foundation.errors import DataError, SettingsError, StorageError


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_dataset(tmp_path, ending):
    first, _ = imported(shop(tmp_path / "csv"), tmp_path / "one")
    other, report = imported(shop(tmp_path / "other", ending=ending), tmp_path / "two")
    assert other.fingerprint() == first.fingerprint()
    assert (report.rows, report.products, report.images) == (6, 6, 6)
    assert sum(report.splits.values()) == 6


def test_values_land_where_the_names_of_columns_say(tmp_path):
    dataset, _ = imported(shop(tmp_path / "shop"), tmp_path / "d", name="Shop", license="MIT")
    lamp = dataset.products()[1]
    assert (lamp.product_id, lamp.title, lamp.brand) == ("p1", "oak mug a", "Brand 1")
    assert lamp.category == ("Home", "Living")
    assert (lamp.price_cents, lamp.attributes) == (250, {"color": ("blue",)})
    assert lamp.image_ids == ("p1-0",)
    assert dataset.images["p1-0"] == picture(1)
    assert {key: dataset.info[key] for key in ("name", "license", "source")} == {
        "name": "Shop", "license": "MIT", "source": "table.csv",
    }  # fmt: skip
    assert dataset.info["mapping"]["images"] == ["photo"]
    assert dataset.info["split_rule"]["test_share"] == 0.2


def test_folder_zip_and_zip_of_a_folder_give_the_same_dataset(tmp_path):
    table = write_table(tmp_path / "table.csv", rows(5))
    folder = write_pictures(tmp_path / "shop", [f"p{number}" for number in range(5)])
    archives = [zipped(folder, tmp_path / "a.zip"), zipped(folder, tmp_path / "b.zip", "top/")]
    prints = {
        imported(table, tmp_path / f"d{place}", images)[0].fingerprint()
        for place, images in enumerate([folder, *archives])
    }
    assert len(prints) == 1


def test_pictures_named_after_products_need_no_column(tmp_path):
    table = [{key: value for key, value in row.items() if key != "photo"} for row in rows(4)]
    file = write_table(tmp_path / "table.csv", table)
    folder = write_pictures(tmp_path / "shop", ["p0", "p1", "p2", "p3", "logo"])
    dataset, report = imported(file, tmp_path / "d", folder)
    assert dataset.info["mapping"]["images"] == ["pics/{id}.jpg"]
    assert report.images == 4


def test_a_product_may_have_several_pictures_and_two_may_share_one(tmp_path):
    table = rows(3)
    table[0]["photo"] = "pics/p0.jpg|pics/p1.jpg"
    table[1]["photo"] = '["pics/p1.jpg", "pics/p1.jpg"]'
    write_pictures(tmp_path, ["p0", "p1", "p2"])
    dataset, report = imported(write_table(tmp_path / "t.csv", table), tmp_path / "d")
    assert [one.image_ids for one in dataset.products()] == [("p0-0", "p0-1"), ("p0-1",), ("p2-0",)]
    assert report.images == 3
    splits = {row["product_id"]: row["group_id"] for row in dataset.table("splits").to_pylist()}
    assert splits["p0"] == splits["p1"] != splits["p2"]  # an identical picture joins them


def test_a_star_pattern_takes_all_pictures_of_a_product(tmp_path):
    write_pictures(tmp_path, ["p0_1", "p0_2", "p1_1"])
    table = write_table(tmp_path / "t.csv", rows(2))
    given = parse_flags(["images=pics/{id}_*.jpg"])
    dataset, _ = imported(table, tmp_path / "d", tmp_path, given=given)
    assert [len(one.image_ids) for one in dataset.products()] == [2, 1]


def test_one_lost_picture_of_two_costs_the_picture_and_not_the_product(tmp_path):
    table = rows(2)
    table[1]["photo"] = "pics/p9.jpg|pics/p1.jpg"
    write_pictures(tmp_path, ["p0", "p1"])
    dataset, report = imported(write_table(tmp_path / "t.csv", table), tmp_path / "d")
    assert report.products == 2
    assert refused(dataset) == [("images", 2, "p1", "missing_image")]


def test_a_table_alone_is_a_catalog_without_pictures(tmp_path):
    source = write_table(tmp_path / "t.csv", rows(4))
    plan = plan_import(source)
    assert plan.mapping.images == ()
    assert plan.notes[0] == "no pictures are imported: give --images for the paths in photo"
    import_table(plan, tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    assert not dataset.has("images")
    assert len(dataset.products()) == 4


def test_columns_that_are_left_out_are_named(tmp_path):
    plan = plan_import(shop(tmp_path), given=parse_flags(["attributes.color=-"]))
    assert plan.notes == ("columns that are not imported: colour (--map attributes.NAME=COLUMN)",)


def test_the_decimal_mark_is_that_of_the_column(tmp_path):
    table = rows(2)
    table[0]["price"], table[1]["price"] = "1.299", "12,50"
    dataset, _ = imported(write_table(tmp_path / "t.csv", table), tmp_path / "d")
    assert [one.price_cents for one in dataset.products()] == [129900, 1250]
    given = parse_flags(["price_cents=price"])
    table[0]["price"], table[1]["price"] = "1299", "12.5"
    dataset, _ = imported(write_table(tmp_path / "t2.csv", table), tmp_path / "d2", given=given)
    assert [one.price_cents for one in dataset.products()] == [1299]
    assert reasons(dataset) == {"bad_price": 1}


def test_a_preview_reads_pictures_and_writes_nothing(tmp_path):
    plan = plan_import(shop(tmp_path / "shop", 8))
    landed = preview(plan, 3)
    assert [row.product_id for row in landed] == ["p0", "p1", "p2"]
    assert all(row.problem is None and len(row.outcomes) == 1 for row in landed)
    assert names(tmp_path) == ["shop"]


def test_the_number_of_threads_changes_nothing(tmp_path, monkeypatch):
    source = shop(tmp_path / "shop", 90)
    prints = set()
    for num in ("1", "3"):
        monkeypatch.setenv("MOONTIDE_THREADS", num)
        prints.add(imported(source, tmp_path / num)[0].fingerprint())
    assert len(prints) == 1


@pytest.mark.parametrize("text", ["", "sku,name\n"])
def test_an_empty_catalog_is_refused_and_leaves_nothing(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        imported(tmp_path / "t.csv", tmp_path / "d")
    assert str(caught.value) == f"{tmp_path / 't.csv'} has no rows: there is nothing to import"
    assert names(tmp_path) == ["t.csv"]


def test_a_catalog_without_a_usable_row_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("sku,name\n,a\nb,\n")
    with pytest.raises(DataError) as caught:
        imported(tmp_path / "t.csv", tmp_path / "d")
    assert str(caught.value) == (
        f"none of the 2 rows of {tmp_path / 't.csv'} can be used (1 missing_id, 1 empty_title): "
        "look at --dry-run, and check --map and --images"
    )
    assert names(tmp_path) == ["t.csv"]


def test_a_share_that_is_none_is_refused_before_the_work(tmp_path):
    with pytest.raises(SettingsError, match=r"test_share must be between 0 and 1, got 1.5"):
        imported(shop(tmp_path / "shop"), tmp_path / "d", test_share=1.5)
    assert names(tmp_path) == ["shop"]


def test_a_dataset_in_the_way_is_replaced_only_when_asked(tmp_path):
    source = shop(tmp_path / "shop")
    imported(source, tmp_path / "d")
    with pytest.raises(StorageError, match="already exists: name another folder, or delete it first"):
        imported(source, tmp_path / "d")
    dataset, _ = imported(source, tmp_path / "d", name="again", replace=True)
    assert dataset.info["name"] == "again"


def test_pictures_that_cannot_be_found_by_any_name_are_asked_for(tmp_path):
    source = write_table(tmp_path / "t.csv", [{"sku": "a", "name": "lamp"}])
    folder = write_pictures(tmp_path / "shop", ["other"])
    with pytest.raises(
        DataError, match=r"no column looks like picture paths, and no file in .*shop is named after"
    ):
        plan_import(source, folder)


def test_a_list_of_categories_must_be_readable_and_not_empty(tmp_path):
    source = shop(tmp_path / "shop")
    with pytest.raises(StorageError, match=r"no readable list of categories at .*none: give a text file"):
        plan_import(source, categories=tmp_path / "none")
    (tmp_path / "list").write_text("\n")
    with pytest.raises(SettingsError, match="list has no categories: write one per line"):
        plan_import(source, categories=tmp_path / "list")


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    source = shop(tmp_path / "shop", 20)
    monkeypatch.setattr("moontide.catalog.tables.near_duplicate_groups", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        imported(source, tmp_path / "d")
    assert names(tmp_path) == ["shop"]


def test_dataset_json_is_plain_json(tmp_path):
    dataset, _ = imported(shop(tmp_path / "shop"), tmp_path / "d")
    info = json.loads((dataset.path / "dataset.json").read_text())
    assert info["rows"] == {"images": 6, "products": 6, "splits": 6}
