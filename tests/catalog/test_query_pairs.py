"""Pairs of query and product, imported into a catalog."""

import os
from pathlib import Path

import pytest

from catalog.shop import imported, picture, reasons, shop, write_table, zipped
from catalog.test_commands import run
from moontide.catalog.check import check
from moontide.catalog.dataset import Dataset
from moontide.catalog.query_pairs import IN_SEVERAL, import_queries, parse_query_flags, plan_queries
from moontide.foundation.errors import DataError, SettingsError, StorageError

PAIRS = [
    {"query": "oak lamp", "photo": "", "sku": "p0", "split": "train"},
    {"query": "oak lamp", "photo": "", "sku": "p1", "split": "validation"},
    {"query": "", "photo": "asked/a.jpg", "sku": "p2", "split": "test"},
    {"query": "blue", "photo": "asked/a.jpg", "sku": "p2", "split": ""},
    {"query": "mug", "photo": "asked/none.jpg", "sku": "p3", "split": "test"},
    {"query": "", "photo": "asked/none.jpg", "sku": "p3", "split": "test"},
    {"query": "rug", "photo": "", "sku": "p99", "split": "test"},
    {"query": " ", "photo": "", "sku": "p1", "split": "test"},
    {"query": "oak lamp", "photo": "", "sku": "p0", "split": "test"},
    {"query": "sofa", "photo": "", "sku": "p4", "split": "later"},
    {"query": "sofa", "photo": "", "sku": "", "split": "test"},
]


@pytest.fixture
def catalog(tmp_path):
    return imported(shop(tmp_path / "shop", 6), tmp_path / "catalog")[0]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "asked").mkdir(parents=True)
    (folder / "asked" / "a.jpg").write_bytes(picture(77))
    (folder / "asked" / "same.jpg").write_bytes(picture(77))
    (folder / "asked" / "b.jpg").write_bytes(picture(78))
    return folder


def pairs_of(dataset):
    queries = {one.query_id: one for one in dataset.queries()}
    rows = dataset.table("judgments").to_pylist()
    return [
        (queries[row["query_id"]].text, queries[row["query_id"]].image_id is not None, row["product_id"],
         row["source"]) for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_pairs_become_queries_pictures_and_judgments(tmp_path, catalog, photos, ending):
    source = write_table(tmp_path / f"pairs{ending}", PAIRS)
    report = import_queries(plan_queries(source, photos), catalog, tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    side = {row["product_id"]: row["split"] for row in catalog.table("splits").to_pylist()}
    assert pairs_of(dataset) == [
        ("oak lamp", False, "p0", "train"), ("oak lamp", False, "p1", "val"), (None, True, "p2", "test"),
        ("blue", True, "p2", side["p2"]), ("mug", False, "p3", "test"),
    ]  # fmt: skip
    assert (report.rows, report.queries, report.images) == (11, 4, 1)
    assert set(dataset.table("judgments").column("grade").to_pylist()) == {1.0}
    assert [one for one in dataset.images if one.startswith("asked")] == ["asked-photo-0000006"]
    assert not dataset.has("events")
    assert check(dataset).errors == []


def test_refused_rows_are_counted_with_their_reason(tmp_path, catalog, photos):
    source = write_table(tmp_path / "pairs.csv", PAIRS)
    report = import_queries(plan_queries(source, photos), catalog, tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    assert reasons(dataset, "queries") == {
        "missing_image": 1, "unknown_product": 1, "empty_query": 1, "duplicate_pair": 1, "unknown_split": 1,
        "missing_id": 1,
    }  # fmt: skip
    assert reasons(dataset, "images") == {"missing_image": 2}
    assert ("rows refused", 6) in report.lines()
    assert report.noted[IN_SEVERAL] == 1  # "oak lamp" is asked in train and in val


def test_the_catalog_stays_and_its_files_are_shared(tmp_path, catalog, photos):
    before = catalog.fingerprint()
    source = write_table(tmp_path / "pairs.csv", PAIRS)
    import_queries(plan_queries(source, photos), catalog, tmp_path / "d")
    assert Dataset.open(catalog.path).fingerprint() == before
    for name in ("products.parquet", "images-00000.parquet", "splits.parquet"):
        assert (tmp_path / "d" / name).samefile(catalog.path / name)


def test_a_second_table_goes_on_where_the_first_ended(tmp_path, catalog, photos):
    source = write_table(tmp_path / "pairs.csv", PAIRS[:3])
    import_queries(plan_queries(source, photos), catalog, tmp_path / "one")
    more = [
        {"query": "oak lamp", "photo": "", "sku": "p5"},
        {"query": "", "photo": "asked/same.jpg", "sku": "p4"},  # the bytes of a.jpg
        {"query": "", "photo": "asked/b.jpg", "sku": "p4"},
    ]
    again = write_table(tmp_path / "more.csv", more)
    report = import_queries(plan_queries(again, photos), Dataset.open(tmp_path / "one"), tmp_path / "two")
    dataset = Dataset.open(tmp_path / "two")
    assert (report.queries, report.images) == (1, 1)
    assert [one.query_id for one in dataset.queries()] == ["asked-0000000", "asked-0000001", "asked-0000002"]
    assert len(dataset.table("judgments")) == 6
    assert check(dataset).errors == []


def test_a_zip_of_photos_gives_the_same_dataset(tmp_path, catalog, photos):
    source = write_table(tmp_path / "pairs.csv", PAIRS)
    archive = zipped(photos, tmp_path / "photos.zip")
    prints = []
    for place in (photos, archive):
        to = tmp_path / f"d{place.suffix}"
        import_queries(plan_queries(source, place), catalog, to)
        sums = Dataset.open(to).info["sha256"]
        prints.append(
            [sums[name] for name in ("queries.parquet", "judgments.parquet", "images-00001.parquet")]
        )
    assert prints[0] == prints[1]


def test_times_and_kinds_make_a_log_in_which_a_pair_may_come_again(tmp_path, catalog):
    log = [
        {"query": "lamp", "item": "p0", "time": "2026-03-01T10:00:00", "event": "click"},
        {"query": "lamp", "item": "p0", "time": "2026-03-01T10:05:00", "event": "purchase"},
        {"query": "lamp", "item": "p1", "time": "2026-03-02", "event": "view"},
        {"query": "lamp", "item": "p1", "time": "soon", "event": "order"},
    ]
    source = write_table(tmp_path / "log.csv", log)
    report = import_queries(plan_queries(source), catalog, tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    events = dataset.table("events").to_pylist()
    assert [(row["kind"], row["product_id"], row["at"].isoformat()) for row in events] == [
        ("click", "p0", "2026-03-01T10:00:00+00:00"), ("order", "p0", "2026-03-01T10:05:00+00:00"),
    ]  # fmt: skip
    assert len(dataset.table("judgments")) == 1
    assert reasons(dataset, "queries") == {"unknown_kind": 1, "bad_date": 1}
    assert report.events == 2
    assert check(dataset).errors == []
    with pytest.raises(SettingsError, match=r"has a log already: leave out --map at=-,kind=-"):
        import_queries(plan_queries(source), dataset, tmp_path / "e")
    plan = plan_queries(source, given=parse_query_flags(["at=-,kind=-"]))
    assert import_queries(plan, dataset, tmp_path / "e").events == 0


def test_what_the_catalog_refused_stays_on_record(tmp_path, photos):
    source = shop(tmp_path / "shop", 6)
    (source.parent / "pics" / "p3.jpg").unlink()
    catalog, _ = imported(source, tmp_path / "catalog")
    import_queries(plan_queries(write_table(tmp_path / "p.csv", PAIRS), photos), catalog, tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    assert reasons(dataset, "products") == {"missing_image": 1}
    assert reasons(dataset, "queries")["unknown_product"] == 3  # p3 is asked for twice


def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, catalog, photos):
    source = write_table(tmp_path / "pairs.csv", PAIRS)
    with pytest.raises(DataError, match=r"no column looks like a product: give --map product_id=COLUMN"):
        plan_queries(write_table(tmp_path / "a.csv", [{"query": "x", "answer": "p1"}]))
    with pytest.raises(SettingsError, match=r"no column looks like a query: give --map text=COLUMN"):
        plan_queries(write_table(tmp_path / "b.csv", [{"sku": "p1"}]))
    with pytest.raises(DataError, match=r"no column 'quer': did you mean 'query'\?"):
        plan_queries(source, photos, {"text": "quer"})
    with pytest.raises(SettingsError, match=r"--map takes FIELD=COLUMN with a field of product_id, text"):
        parse_query_flags(["title=name"])
    with pytest.raises(StorageError, match="holds something that is no dataset"):
        import_queries(plan_queries(source, photos), catalog, photos)
    with pytest.raises(SettingsError, match="is the catalog itself"):
        import_queries(plan_queries(source, photos), catalog, catalog.path, replace=True)
    nobody = write_table(tmp_path / "n.csv", [{"query": "x", "sku": "zz"}])
    with pytest.raises(DataError, match=r"none of the 1 rows .* can be used \(1 unknown_product\)"):
        import_queries(plan_queries(nobody), catalog, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_the_command_prints_mapping_counts_and_what_comes_next(tmp_path, catalog, photos):
    source = write_table(tmp_path / "pairs.csv", PAIRS)
    words = ("import", "queries", source, "--images", photos, "--dataset", catalog.path)
    code, output = run(*words, "--dry-run")
    assert code == 0
    assert "row 1 ┃ taken" in output
    assert "row 5 ┃ taken, without its picture: missing_image" in output
    code, output = run(*words, "--to", tmp_path / "d")
    assert code == 0
    for piece in (
        "image │ photo",
        "product_id │ sku",
        "rows read │ 11",
        "pairs for val │ 1",
        "rows refused │ 6",
    ):
        assert piece in output
    assert f"Next: moontide data check {tmp_path / 'd'}" in output


@pytest.mark.data
def test_real_photos_of_groceries_are_imported_by_guessing_alone(tmp_path):
    if "MOONTIDE_DATA" not in os.environ:
        pytest.skip("MOONTIDE_DATA is unset: name the folder of real data")
    folder = Path(os.environ["MOONTIDE_DATA"]) / "grocery_store"
    if not (folder / "images.parquet").exists():
        pytest.skip(f"{folder} has no images.parquet")
    catalog, _ = imported(folder / "products.parquet", tmp_path / "catalog", folder / "images.zip")
    plan = plan_queries(folder / "images.parquet", folder / "images.zip")
    report = import_queries(plan, catalog, tmp_path / "d")
    assert (report.rows, report.queries, report.images) == (5421, 5421, 5421)
    assert report.splits == {"train": 2640, "val": 296, "test": 2485}
    assert not report.rejected
    assert check(Dataset.open(tmp_path / "d"), pictures=False).errors == []
