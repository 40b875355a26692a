"""The dataset folder: what is written comes back, closed files never change, nothing is half-written."""

import hashlib
import json
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.shop import picture
from moontide.catalog.dataset import IMAGE_ROWS, Dataset, DatasetWriter, ImageStore
from moontide.catalog.schema import SCHEMAS, conform
from moontide.foundation.errors import DataError, ImageError, StorageError
from moontide.foundation.images import image_facts

PRODUCTS = [
    {
        "product_id": "a", "title": "Red lamp", "category": ["Home", "Lamps"], "brand": "Lux",
        "attributes": [("color", ["red", "pink"])], "price_cents": 1250, "image_ids": ["a-0"],
    },
    {"product_id": "b", "title": "Mug"},
]  # fmt: skip


def write(path, **options):
    with DatasetWriter(path, "small", **options) as writer:
        writer.put("products", PRODUCTS)
        writer.add_image("a-0", picture(1))
        writer.reject("products", 3, "c", "empty_title", "the row has no title")
    return Dataset.open(path)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_what_is_written_comes_back(tmp_path):
    dataset = write(tmp_path / "d", license="MIT", source="by hand", facts={"note": 1})
    lamp, mug = dataset.products()
    assert (lamp.product_id, lamp.title, lamp.category, lamp.brand) == (
        "a",
        "Red lamp",
        ("Home", "Lamps"),
        "Lux",
    )
    assert lamp.attributes == {"color": ("red", "pink")}
    assert (lamp.price_cents, lamp.image_ids) == (1250, ("a-0",))
    assert (mug.title, mug.category, mug.attributes, mug.price_cents) == ("Mug", (), {}, None)
    assert dataset.images["a-0"] == picture(1)
    assert dataset.table("rejected").to_pylist() == [
        {
            "table": "products",
            "row": 3,
            "entity_id": "c",
            "reason": "empty_title",
            "detail": "the row has no title",
        }
    ]


def test_dataset_json_tells_counts_license_and_the_hash_of_every_file(tmp_path):
    path = tmp_path / "d"
    write(path, license="MIT", source="by hand", facts={"note": 1})
    info = json.loads((path / "dataset.json").read_text())
    assert info["rows"] == {"images": 1, "products": 2, "rejected": 1}
    assert {info[key] for key in ("name", "license", "source", "note")} == {"small", "MIT", "by hand", 1}
    assert names(path) == ["dataset.json", "images-00000.parquet", "products.parquet", "rejected.parquet"]
    for name, digest in info["sha256"].items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest


def test_equal_content_has_an_equal_fingerprint_and_other_content_another(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    with DatasetWriter(tmp_path / "three", "small", base=one) as writer:
        writer.put("products", PRODUCTS[:1])
    assert one.fingerprint() == two.fingerprint() != Dataset.open(tmp_path / "three").fingerprint()


def test_columns_may_be_chosen_and_an_absent_table_is_empty(tmp_path):
    dataset = write(tmp_path / "d")
    assert dataset.table("products", ["title", "product_id"]).column_names == ["title", "product_id"]
    assert dataset.table("events").schema == SCHEMAS["events"]
    assert len(dataset.table("events")) == 0
    assert (dataset.has("products"), dataset.has("events")) == (True, False)
    assert dataset.queries() == []


def test_a_column_nobody_knows_does_not_stop_reading(tmp_path):
    dataset = write(tmp_path / "d")
    file = tmp_path / "d" / "products.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("extra", pa.array([1, 2])), file)
    assert dataset.table("products").equals(table)


def test_a_missing_table_says_which_verb_lacks_it_and_how_to_get_it(tmp_path):
    dataset = write(tmp_path / "d")
    with pytest.raises(DataError) as caught:
        dataset.require("ranking", "products", "events")
    assert str(caught.value) == (
        f"ranking needs events, which {dataset.path} lacks: import a click log, "
        f"or let simulated shoppers in: `moontide market open --dataset {dataset.path} --to MARKET`"
    )
    with pytest.raises(DataError, match="only a simulated market has one"):
        dataset.truth("tastes")


def test_what_is_no_dataset_of_this_version_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no dataset at .*none: it has no dataset.json"):
        Dataset.open(tmp_path / "none")
    write(tmp_path / "d")
    file = tmp_path / "d" / "dataset.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(DataError, match="has schema version 9, this moontide reads 1: import again"):
        Dataset.open(tmp_path / "d")
    file.write_text("[]")
    with pytest.raises(DataError, match="is not of a dataset: import again"):
        Dataset.open(tmp_path / "d")


def test_an_exception_leaves_nothing_behind(tmp_path):
    def half_done(writer):
        writer.put("products", PRODUCTS)
        writer.append("events", [{"event_id": "1"}])
        writer.add_image("a", picture(1))
        raise KeyError

    with pytest.raises(KeyError), DatasetWriter(tmp_path / "d", "small") as writer:
        half_done(writer)
    assert names(tmp_path) == []


def test_a_failure_while_closing_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError), DatasetWriter(tmp_path / "d", "small") as writer:
        writer.reject("products", "one", None, "empty_title")
    assert names(tmp_path) == []


def test_a_failed_replacement_leaves_the_old_dataset(tmp_path):
    write(tmp_path / "d")
    with pytest.raises(KeyError), DatasetWriter(tmp_path / "d", "new", replace=True):
        raise KeyError
    assert Dataset.open(tmp_path / "d").info["name"] == "small"
    assert names(tmp_path) == ["d"]


def test_a_dataset_is_replaced_only_when_asked_and_other_folders_never(tmp_path):
    write(tmp_path / "d")
    with pytest.raises(StorageError, match="already exists: name another folder, or delete it first"):
        write(tmp_path / "d")
    with DatasetWriter(tmp_path / "d", "new", replace=True) as writer:
        writer.put("products", PRODUCTS[:1])
    assert names(tmp_path / "d") == ["dataset.json", "products.parquet"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_text("mine")
    with pytest.raises(StorageError, match="holds something that is no dataset: name another folder"):
        write(tmp_path / "home", replace=True)
    assert names(tmp_path / "home") == ["thesis"]


def test_a_base_is_shared_by_link_and_never_changed(tmp_path):
    base = write(tmp_path / "base", license="MIT", source="by hand", facts={"split_rule": {"by": "group"}})
    before = {file.name: file.read_bytes() for file in base.path.iterdir()}
    with DatasetWriter(tmp_path / "more", "more", base=base) as writer:
        writer.put("products", PRODUCTS[:1])
        writer.add_image("a-1", picture(2))
        writer.reject("products", 9, None, "missing_id")
    more = Dataset.open(tmp_path / "more")
    assert {file.name: file.read_bytes() for file in base.path.iterdir()} == before
    image = "images-00000.parquet"
    assert (more.path / image).samefile(base.path / image)
    assert list(more.images) == ["a-0", "a-1"]
    assert [one.product_id for one in more.products()] == ["a"]
    assert more.info["rows"] == {"images": 2, "products": 1, "rejected": 1}
    assert {key: more.info[key] for key in ("name", "license", "source", "split_rule")} == {
        "name": "more", "license": "MIT", "source": "by hand", "split_rule": {"by": "group"},
    }  # fmt: skip


def test_a_dataset_may_be_opened_over_itself(tmp_path):
    base = write(tmp_path / "d")
    with DatasetWriter(tmp_path / "d", "again", base=base, replace=True) as writer:
        writer.put("products", PRODUCTS[1:])
    assert [one.product_id for one in Dataset.open(tmp_path / "d").products()] == ["b"]
    assert Dataset.open(tmp_path / "d").images["a-0"] == picture(1)


def test_long_tables_are_divided_into_files_and_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("moontide.catalog.dataset.SHARD_ROWS", {"images": 2, "events": 3, "vectors": 2})
    with DatasetWriter(tmp_path / "d", "small") as writer:
        for start in (0, 5):
            writer.append("events", [{"event_id": str(number)} for number in range(start, start + 5)])
    dataset = Dataset.open(tmp_path / "d")
    assert [file.name for file in dataset.files("events")] == [
        f"events-{part:05d}.parquet" for part in range(4)
    ]
    assert dataset.table("events", ["event_id"]).column(0).to_pylist() == [
        str(number) for number in range(10)
    ]
    assert dataset.info["rows"] == {"events": 10}


def test_truth_is_kept_apart(tmp_path):
    with DatasetWriter(tmp_path / "d", "small") as writer:
        writer.put_truth("tastes", pa.table({"shopper_id": ["s"], "taste": [0.5]}))
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.truth("tastes").to_pylist() == [{"shopper_id": "s", "taste": 0.5}]
    assert "truth/tastes.parquet" in dataset.info["sha256"]


def test_a_bad_picture_is_not_added(tmp_path):
    with DatasetWriter(tmp_path / "d", "small") as writer:
        with pytest.raises(ImageError, match="not a readable JPEG, PNG or WebP"):
            writer.add_image("a", b"junk")
        writer.add_image("b", picture(1))
    assert list(Dataset.open(tmp_path / "d").images) == ["b"]


@pytest.fixture
def album(tmp_path):
    with DatasetWriter(tmp_path / "album", "album") as writer:
        for number in range(2 * IMAGE_ROWS + 3):
            writer.add_image(f"i{number}", picture(number))
    return Dataset.open(tmp_path / "album")


def test_pictures_are_found_by_id_in_any_order_within_bounded_memory(album, monkeypatch):
    monkeypatch.setattr(ImageStore, "CACHED_BYTES", 1)
    store = album.images
    assert len(store) == 2 * IMAGE_ROWS + 3
    assert list(store)[:2] == ["i0", "i1"]
    assert "i5" in store
    assert "no" not in store
    for number in (514, 0, 300, 299, 514):
        assert store[f"i{number}"] == picture(number)
        assert len(store._cache) == 1


def test_an_unknown_picture_is_an_error_with_a_remedy(album):
    with pytest.raises(DataError) as caught:
        album.images["no"]
    assert str(caught.value) == "no image has the id 'no': run `moontide data check`"


def test_facts_come_without_the_bytes(album):
    facts = album.images.facts()
    assert facts.column_names == ["image_id", "width", "height", "sha256", "dhash"]
    assert facts.slice(7, 1).to_pylist() == [{"image_id": "i7", **vars(image_facts(picture(7)))}]
    assert album.images.facts(["width"]).column_names == ["image_id", "width"]
    assert len(ImageStore([]).facts()) == 0


def test_pictures_may_be_read_from_several_threads(album, monkeypatch):
    monkeypatch.setattr(ImageStore, "CACHED_BYTES", 1)  # every thread throws out what the others read
    wrong = []

    def read(first):
        for number in range(first, 2 * IMAGE_ROWS, 37):
            if album.images[f"i{number}"] != picture(number):
                wrong.append(number)

    workers = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_broken_files_are_a_sentence_not_a_traceback(album):
    (album.path / "images-00000.parquet").write_bytes(b"PAR1junk")
    with pytest.raises(
        DataError, match=r"images-00000.parquet cannot be read \(.*\): import the dataset again"
    ):
        _ = Dataset.open(album.path).images
    (album.path / "products.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"products of .* cannot be read \(.*\): import the dataset again"):
        album.table("products")


@pytest.mark.parametrize(
    ("name", "rows", "text"),
    [
        ("wares", [], "no table is called 'wares': the tables are products, images"),
        (
            "queries",
            [{"query_id": "q", "words": "x"}],
            "queries has unknown columns words: it may have query_id",
        ),
        ("queries", pa.table({"words": ["x"]}), "queries has unknown columns words: it may have query_id"),
        ("products", [{"product_id": "a"}], "products.title has 1 empty values: it must have none"),
        ("products", [{"product_id": 3, "title": "x"}], "a row of products does not fit its columns:"),
        ("campaigns", [{"bid_cents": 2**80}], "a row of campaigns does not fit its columns:"),
        ("campaigns", pa.table({"bid_cents": ["one"]}), "campaigns.bid_cents is not int64:"),
    ],
)
def test_rows_that_do_not_fit_are_refused(name, rows, text):
    with pytest.raises(DataError) as caught:
        conform(name, rows)
    assert str(caught.value).startswith(text)


def test_columns_are_ordered_and_missing_ones_are_null():
    table = conform("queries", pa.table({"text": ["lamp"], "query_id": ["q"]}))
    assert table.schema == SCHEMAS["queries"]
    assert table.to_pylist() == [{"query_id": "q", "text": "lamp", "image_id": None}]
