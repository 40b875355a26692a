import datetime
import threading

import numpy as np
import pytest

from moontide.center.int8 import decode_int8, encode_int8
from moontide.center.store import FEW_IDS, VectorStore
from moontide.foundation.errors import CheckpointError, DataError, StorageError


def unit(num, dim=8, seed=0):
    rows = np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def put(store, num=10, version="v1", seed=0, kind="product", dim=8):
    rows = unit(num, dim, seed)
    ids = [f"p{row}" for row in range(num)]
    store.upsert(kind, ids, version, rows, [f"h{row}" for row in range(num)])
    return ids, rows


@pytest.fixture
def store(tmp_path):
    return VectorStore.open(tmp_path / "center")


def test_get_keeps_order_and_repeats_and_flags_what_is_missing(store):
    _, rows = put(store)
    vectors, present = store.get("product", ["p7", "nobody", "p0", "p7"], "v1")
    assert present.tolist() == [True, False, True, True]
    assert np.array_equal(vectors[[0, 2, 3]], rows[[7, 0, 7]])
    assert not vectors[1].any()


def test_get_of_many_ids_equals_get_of_few(store):
    ids, rows = put(store, num=FEW_IDS + 50)
    order = np.random.default_rng(1).permutation(len(ids))
    vectors, present = store.get("product", [ids[row] for row in order], "v1")
    assert present.all()
    assert np.array_equal(vectors, rows[order])


def test_an_id_with_a_quote_in_it_is_an_id_like_any_other(store):
    store.upsert("product", ["it's", "x' OR '1'='1"], "v1", unit(2), ["a", "b'"])
    assert store.get("product", ["x' OR '1'='1", "it's"], "v1")[1].all()
    assert store.get("product", ["' OR ''='"], "v1")[1].tolist() == [False]
    assert set(store.find("product", ["b'"], "v1")) == {"b'"}


def test_upsert_twice_is_upsert_once(store):
    ids, rows = put(store)
    put(store)
    assert store.count("product", "v1") == len(ids)
    assert np.array_equal(store.get("product", ids, "v1")[0], rows)


def test_upsert_replaces_a_vector_and_its_hash(store):
    put(store)
    new = unit(1, seed=5)
    store.upsert("product", ["p3"], "v1", new, ["new"])
    assert np.array_equal(store.get("product", ["p3"], "v1")[0], new)
    assert store.hashes("product", ["p3", "p4", "gone"], "v1") == {"p3": "new", "p4": "h4"}


def test_of_an_id_named_twice_the_last_row_counts(store):
    rows = unit(3)
    store.upsert("product", ["a", "b", "a"], "v1", rows, ["1", "2", "3"])
    assert np.array_equal(store.get("product", ["a"], "v1")[0][0], rows[2])
    assert store.count("product", "v1") == 2


def test_versions_lie_side_by_side(store):
    ids, old = put(store, version="v1", seed=1)
    _, new = put(store, version="v2", seed=2)
    assert store.versions() == ["v1", "v2"]
    assert np.array_equal(store.get("product", ids, "v1")[0], old)
    assert np.array_equal(store.get("product", ids, "v2")[0], new)


def test_versions_stay_in_order_when_the_clock_is_between_two_seconds_or_set_back(store, monkeypatch):
    moments = iter([1_999_999_999, 2_000_000_000, 1_000_000_000, 1_000_000_001])
    monkeypatch.setattr("moontide.center.versions.time.time_ns", lambda: next(moments))
    for version in ("d", "c", "b", "a"):
        store.register(version, 4)
    assert store.versions() == ["d", "c", "b", "a"]


def test_a_store_reopened_has_what_was_written(store):
    ids, rows = put(store)
    store.activate("v1")
    again = VectorStore.open(store.path, must_exist=True)
    assert again.active() == "v1"
    assert np.array_equal(again.get("product", ids)[0], rows)


def test_another_open_store_sees_a_write_at_once(store):
    put(store, num=3)
    reader = VectorStore.open(store.path)
    assert reader.count("product", "v1") == 3
    put(store, num=5)
    assert reader.count("product", "v1") == 5


def test_load_gives_every_row_sorted_by_id_and_iterate_gives_bounded_batches(store):
    ids, rows = put(store, num=300)
    put(store, num=20, version="v2")
    found, vectors = store.load("product", "v1")
    assert found == sorted(ids)
    assert np.array_equal(vectors, rows[[ids.index(entity) for entity in found]])
    sizes = [len(batch) for batch in store.iterate("product", "v1", rows=64)]
    assert sum(sizes) == 300
    assert max(sizes) <= 64


def test_coverage_weighs_ids_by_how_often_they_come(store):
    put(store, num=2)
    assert store.coverage("product", ["p0", "p0", "p1", "gone"], "v1") == 0.75
    assert np.isnan(store.coverage("product", [], "v1"))


@pytest.mark.parametrize("version", [["v1", "v2"], ("v1",), 3])
def test_asking_for_several_versions_at_once_is_refused(store, version):
    put(store, version="v1")
    put(store, version="v2")
    with pytest.raises(DataError, match="one version at a time"):
        store.get("product", ["p0"], version)


def test_a_version_name_cannot_leave_the_folder(store):
    with pytest.raises(DataError, match="a version's name is"):
        put(store, version="../v1")


def test_vectors_of_two_encoders_under_one_version_are_refused(store):
    store.register("v1", 8, "encoder-a")
    put(store)
    with pytest.raises(CheckpointError, match="made by encoder encoder-a, this one is encoder-b"):
        store.register("v1", 8, "encoder-b")


def test_another_dimension_is_refused_in_a_version_and_in_a_table(store):
    put(store)
    with pytest.raises(CheckpointError, match="vectors of 8 numbers, got 4"):
        store.upsert("product", ["a"], "v1", unit(1, 4), ["h"])
    with pytest.raises(CheckpointError, match=r"have 8 numbers, got 4: embed into another center"):
        store.upsert("product", ["a"], "v2", unit(1, 4), ["h"])


def test_an_unknown_version_names_those_there_are(store):
    put(store)
    with pytest.raises(CheckpointError, match=r"no version 'v9' \(it has: v1\)"):
        store.get("product", ["p0"], "v9")
    with pytest.raises(CheckpointError, match=r"no version of .* is active"):
        store.get("product", ["p0"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ids": ["a"]}, "1 ids, 2 hashes and vectors of shape"),
        ({"vectors": np.array([[1.0, np.nan], [0, 1]])}, "vectors of a are not finite"),
        ({"kind": "Product!"}, "a kind is lower-case letters"),
    ],
)
def test_rows_that_make_no_sense_are_refused(store, change, text):
    good = {"kind": "product", "ids": ["a", "b"], "vectors": np.eye(2), "content_hashes": ["1", "2"]}
    with pytest.raises(DataError, match=text):
        store.upsert(version="v1", **(good | change))


def test_opening_nothing_says_what_to_run(tmp_path):
    with pytest.raises(StorageError, match=r"no vectors at .*: run `moontide embed` first"):
        VectorStore.open(tmp_path / "no", must_exist=True)
    with pytest.raises(StorageError, match="a local folder for now"):
        VectorStore.open("s3://bucket/center")


def test_rollback_walks_back_through_the_versions_served(store):
    for version in ("v1", "v2", "v3"):
        put(store, num=2, version=version)
        store.activate(version)
    assert store.rollback() == "v2"
    assert store.rollback() == "v1" == store.active()
    with pytest.raises(CheckpointError, match="no version was served before 'v1'"):
        store.rollback()


def test_a_version_without_vectors_cannot_be_activated(store):
    put(store)
    with pytest.raises(CheckpointError, match="no version 'v2'"):
        store.activate("v2")
    assert store.active() is None


def test_a_version_that_may_be_served_again_cannot_be_dropped(store):
    for version in ("v1", "v2", "v3"):
        put(store, num=2, version=version)
    store.activate("v1")
    store.activate("v2")
    for version in ("v1", "v2"):
        with pytest.raises(CheckpointError, match="is served or may be again"):
            store.drop(version)
    store.drop("v3")
    assert store.versions() == ["v1", "v2"]
    assert store.stats().rows == {"product": {"v1": 2, "v2": 2}}


def test_readers_never_see_half_a_switch(store):
    for version in ("v1", "v2"):
        put(store, num=4, version=version)
    store.activate("v1")
    seen, stop = set(), threading.Event()
    wrong = []

    def read():
        reader = VectorStore.open(store.path)
        while not stop.is_set():
            try:
                seen.add(reader.active())
            except Exception as error:  # any error is the finding here
                wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        store.activate(("v2", "v1")[turn % 2])
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert seen == {"v1", "v2"}


def test_two_threads_that_activate_leave_one_whole_pointer(store):
    for version in ("v1", "v2"):
        put(store, num=2, version=version)
    writers = [
        threading.Thread(target=lambda name=name: [store.activate(name) for _ in range(30)])
        for name in ("v1", "v2")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.active() in ("v1", "v2")
    assert store.rollback() in ("v1", "v2")


def test_compacting_joins_fragments_and_keeps_every_vector(store):
    rows = unit(20)
    for row in range(20):
        store.upsert("product", [f"p{row}"], "v1", rows[row : row + 1], ["h"])
    assert store.stats().small_fragments["product"] == 20
    store.compact()
    assert store.stats().small_fragments["product"] <= 1
    assert np.array_equal(store.get("product", [f"p{row}" for row in range(20)], "v1")[0], rows)


def test_compacting_a_table_with_an_old_tag_keeps_the_tagged_state(store):
    put(store, num=3)
    table = store._table("product")
    table.tags.create("release", table.version)
    for seed in range(4):
        put(store, num=3, seed=seed)
    with pytest.raises(RuntimeError, match="tagged version"):  # what LanceDB does by itself
        table.optimize(cleanup_older_than=datetime.timedelta(0))
    store.compact(keep_days=0)
    assert store.stats().small_fragments["product"] <= 1
    table.checkout("release")
    assert table.count_rows() == 3


def test_int8_errs_by_at_most_half_a_step_and_keeps_the_direction():
    rows = unit(2_000, 128, seed=3)
    codes = encode_int8(rows)
    assert codes.dtype == np.int8
    assert np.abs(decode_int8(codes, normalize=False) - rows).max() <= 1 / 254 + 1e-7
    decoded = decode_int8(codes)
    assert np.allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-6)
    assert (decoded * rows).sum(1).min() > 0.999


def test_int8_refuses_what_does_not_fit_and_keeps_zero_zero():
    with pytest.raises(DataError, match="between -1 and 1, got 2"):
        encode_int8(np.array([[2.0, 0.0]]))
    with pytest.raises(DataError, match="normalize the vectors first"):
        encode_int8(np.array([[np.nan, 0.0]]))
    assert not decode_int8(np.zeros((2, 4), np.int8)).any()
    assert encode_int8(np.array([[1.0, -1.0]])).tolist() == [[127, -127]]
