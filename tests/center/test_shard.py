import threading

import numpy as np
import pytest

from moontide.center.shard import HotShard, ShardSettings
from moontide.center.store import VectorStore
from moontide.foundation.errors import DataError, SettingsError

ROWS, DIM, K = 6_000, 32, 10
GRAPH = ShardSettings(
    graph_rows=1_000, exact_values=300 * DIM
)  # graphs in small shards, exact only up to 300 rows


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered(num, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)
    return unit(
        rng.standard_normal((60, dim))[rng.integers(0, 60, num)] + 0.8 * rng.standard_normal((num, dim))
    )


def names(num, first=0):
    return [f"p{row}" for row in range(first, first + num)]


@pytest.fixture(scope="module")
def vectors():
    return clustered(ROWS)


@pytest.fixture(scope="module")
def queries():
    return clustered(ROWS + 80)[ROWS:]


@pytest.fixture(scope="module")
def shard(vectors):
    return HotShard(names(ROWS), vectors, GRAPH)


def oracle(vectors, queries, k, allowed=None):
    """Brute force in double precision, ties by row."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    k = min(k, len(vectors) if allowed is None else int(allowed.sum()))
    return np.stack([np.lexsort((np.arange(len(row)), -row))[:k] for row in scores])


def recall(found, wanted):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)])


@pytest.mark.parametrize("share", [None, 0.5, 0.1, 0.01, 0.005, 0.0005])
@pytest.mark.parametrize("prepared", [False, True])
def test_recall_is_at_least_99_percent_and_never_short_under_any_filter(
    shard, vectors, queries, share, prepared
):
    allowed = None if share is None else np.random.default_rng(5).random(ROWS) < share
    given = shard.filter(allowed) if prepared and allowed is not None else allowed
    scores, rows = shard.search(queries, K, given)
    wanted = oracle(vectors, queries, K, allowed)
    assert rows.shape == wanted.shape
    assert allowed is None or allowed[rows].all()
    assert recall(rows, wanted) >= 0.99
    assert np.allclose(scores, np.einsum("qkd,qd->qk", vectors[rows], queries), atol=1e-6)
    assert (np.diff(scores) <= 0).all()
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_a_filter_far_from_the_query_is_answered_in_full(vectors):
    order = np.argsort(vectors @ vectors[0])
    allowed = np.zeros(ROWS, bool)
    allowed[order[:2_000]] = (
        True  # a third of the rows, all of them far away: a graph search finds few or none
    )
    shard = HotShard(names(ROWS), vectors, GRAPH.but(filtered_beam=8))
    _, rows = shard.search(vectors[:1], K, allowed)
    assert rows.shape == (1, K)
    assert recall(rows, oracle(vectors, vectors[:1], K, allowed)) >= 0.99


def test_fewer_allowed_than_asked_gives_all_allowed(shard, queries):
    allowed = np.zeros(ROWS, bool)
    allowed[[5, 17, 4_000]] = True
    scores, rows = shard.search(queries, K, allowed)
    assert scores.shape == (len(queries), 3)
    assert {*rows.ravel().tolist()} == {5, 17, 4_000}
    scores, rows = shard.search(queries, K, np.zeros(ROWS, bool))
    assert scores.shape == rows.shape == (len(queries), 0)


def test_exact_search_equals_brute_force_row_by_row(vectors, queries):
    small = HotShard(names(900), vectors[:900])
    _, rows = small.search(queries, 25)
    assert np.array_equal(rows, oracle(vectors[:900], queries, 25))


def test_equal_scores_come_in_the_order_of_rows_in_every_plan(vectors):
    twins = np.repeat(vectors[:40], 50, axis=0)
    for settings in (ShardSettings(), ShardSettings(graph_rows=100, exact_values=1)):
        shard = HotShard(names(len(twins)), twins, settings)
        scores, rows = shard.search(twins[::50], 50)
        assert np.array_equal(scores, np.repeat(scores[:, :1], 50, axis=1)) or settings.graph_rows == 100
        tied = np.diff(scores) == 0
        assert (np.diff(rows)[tied] > 0).all()
    exact = HotShard(names(len(twins)), twins).search(twins[::50], 30)[1]
    assert np.array_equal(exact, np.arange(0, len(twins), 50)[:, None] + np.arange(30))


def test_a_query_gets_the_same_answer_alone_and_in_a_batch(shard, queries):
    allowed = np.random.default_rng(2).random(ROWS) < 0.04
    for filter_ in (None, allowed):
        scores, rows = shard.search(queries, K, filter_)
        for number in range(0, len(queries), 9):
            alone = shard.search(queries[number : number + 1], K, filter_)
            assert np.array_equal(alone[0][0], scores[number])
            assert np.array_equal(alone[1][0], rows[number])


def test_added_rows_are_found_at_once_and_removed_ones_never(vectors, queries):
    shard = HotShard(names(4_000), vectors[:4_000], GRAPH)
    shard.add(names(500, 4_000), vectors[4_000:4_500])
    assert shard.num_waiting == 500
    gone = [f"p{row}" for row in range(0, 4_500, 7)]
    assert shard.remove([*gone, "never here"]) == len(gone)
    alive = np.ones(4_500, bool)
    alive[::7] = False
    assert shard.num_alive == alive.sum()
    _, rows = shard.search(queries, K)
    assert alive[rows].all()
    assert recall(rows, oracle(vectors[:4_500], queries, K, alive)) >= 0.99
    allowed = np.random.default_rng(3).random(4_500) < 0.01
    assert np.array_equal(
        shard.search(queries, K, allowed)[1], oracle(vectors[:4_500], queries, K, allowed & alive)
    )
    new = vectors[4_000 + 6 : 4_000 + 7]
    assert shard.ids[shard.search(new, 1)[1][0, 0]] == "p4006"


def test_an_id_added_again_is_found_under_its_new_vector_only(vectors):
    shard = HotShard(names(50), vectors[:50])
    shard.add(["p3"], vectors[100:101])
    assert shard.num_alive == 50
    assert shard.row_of("p3") == 50
    scores, rows = shard.search(vectors[100:101], 50)
    assert rows[0, 0] == 50
    assert scores[0, 0] == pytest.approx(1)
    assert 3 not in rows


def test_rebuilding_changes_no_answer(vectors, queries):
    shard = HotShard(names(3_000), vectors[:3_000], GRAPH)
    shard.add(names(300, 3_000), vectors[3_000:3_300])
    shard.remove(names(40))
    rebuilt = shard.rebuilt()
    assert (rebuilt.num_waiting, len(rebuilt), shard.num_waiting) == (0, 3_260, 300)
    before = [[shard.ids[row] for row in rows] for rows in shard.search(queries, K)[1]]
    after = [[rebuilt.ids[row] for row in rows] for rows in rebuilt.search(queries, K)[1]]
    assert recall(after, before) >= 0.99


def test_searches_go_on_while_rows_come_and_go(vectors, queries):
    shard = HotShard(names(2_000), vectors[:2_000], GRAPH)
    wrong, stop = [], threading.Event()

    def search():
        while not stop.is_set():
            try:
                _, rows = shard.search(queries[:4], K)
                if rows.shape != (4, K):
                    wrong.append(rows.shape)
            except Exception as error:  # any error is the finding here
                wrong.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    for turn in range(40):
        shard.add(names(5, 2_000 + 5 * turn), vectors[2_000 + 5 * turn : 2_005 + 5 * turn])
        shard.remove(names(3, 10 * turn))
    stop.set()
    thread.join()
    assert not wrong


def test_a_prepared_filter_does_not_outlive_a_change(vectors):
    shard = HotShard(names(50), vectors[:50])
    kept = shard.filter(np.ones(50, bool))
    shard.remove(["p1"])
    with pytest.raises(DataError, match="built before the shard changed: build it again"):
        shard.search(vectors[:1], 3, kept)


def test_a_shard_loaded_from_the_store_knows_its_version(tmp_path, vectors):
    store = VectorStore.open(tmp_path)
    store.upsert("product", names(20), "v1", vectors[:20], ["h"] * 20)
    store.activate("v1")
    shard = HotShard.load(store)
    assert shard.version == "v1"
    assert shard.ids[shard.search(vectors[7:8], 1, version="v1")[1][0, 0]] == "p7"
    with pytest.raises(DataError, match="query is of version 'v2', the shard of 'v1'"):
        shard.search(vectors[:1], 1, version="v2")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"queries": np.ones((1, 3))}, r"queries must be \(rows, 32\), got \(1, 3\)"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"allowed": np.ones(3, bool)}, "one bool for each of the 6000 rows"),
        ({"allowed": np.ones(ROWS)}, "one bool for each of the 6000 rows, got float64"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(shard, queries, arguments, text):
    with pytest.raises(DataError, match=text):
        shard.search(**({"queries": queries, "k": 3} | arguments))


@pytest.mark.parametrize(
    ("ids", "rows", "text"),
    [
        (["a", "a"], np.eye(2), "1 ids come twice"),
        (["a"], np.eye(2), "1 ids and vectors of shape"),
        (["a", "b"], 2 * np.eye(2), "2 of 2 vectors are not of length one"),
        (["a", "b"], np.array([[np.nan, 0], [0, 1]]), "1 of 2 vectors are not of length one"),
    ],
)
def test_a_shard_of_bad_rows_is_refused(ids, rows, text):
    with pytest.raises(DataError, match=text):
        HotShard(ids, rows)


def test_an_empty_shard_answers_with_nothing():
    shard = HotShard([], np.zeros((0, 4)))
    assert shard.search(np.eye(4)[:2], 3)[0].shape == (2, 0)
    shard.add(["a"], np.eye(4)[:1])
    assert shard.search(np.eye(4)[:2], 3)[1].tolist() == [[0], [0]]


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingsError, match="beam"):
        ShardSettings(beam=0)
