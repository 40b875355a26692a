"""Metrics in parts against metrics of whole columns, bit for bit. Imports little: ranks import it anew."""

import json
import pickle

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from moontide.foundation.errors import DataError
from moontide.ranking.metrics import click_metrics, gauc
from moontide.ranking.tally import Tally

ROWS = 4000
KINDS = ("float32", "ties", "float64", "wide")


def columns(kind="float32", seed=0):
    rng = np.random.default_rng(seed)
    shopper = rng.integers(0, 300, ROWS)
    label = rng.random(ROWS) < 0.1
    p_click = 1 / (1 + np.exp(2.5 - label - rng.normal(size=ROWS)))
    if kind == "float32":
        p_click = p_click.astype(np.float32)
    if kind == "ties":
        p_click = np.round(p_click, 2)
    if kind == "wide":
        shopper = shopper * 10**15 - 7
    return shopper, p_click, label


def tally_of(columns, rows=slice(None), chunk=ROWS):
    tally, (group, score, label) = Tally(), columns
    places = np.arange(ROWS)[rows]
    for start in range(0, len(places), chunk):
        part = places[start : start + chunk]
        tally.add(group[part], score[part], label[part])
    return tally


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 37, 1000])
def test_chunks_of_any_size_in_any_order_equal_one_call(kind, chunk):
    shopper, p_click, label = columns(kind)
    wanted = click_metrics(p_click, label, shopper)
    order = np.random.default_rng(chunk).permutation(ROWS)
    found = tally_of((shopper, p_click, label), order, chunk)
    assert len(found) == ROWS
    assert found.result() == wanted
    assert found.result() == wanted  # asking changes nothing
    for name in ("auc", "log_loss", "normalized_entropy", "pcoc"):
        assert getattr(found, name)() == wanted[name]
    for weighting in ("impressions", "clicks", "equal"):
        assert found.gauc(weighting) == gauc(shopper, p_click, label, weighting)


def test_merged_shards_equal_the_whole_and_stay_as_they_were():
    for kind in KINDS:
        data = columns(kind)
        wanted = click_metrics(data[1], data[2], data[0])
        shards = [tally_of(data, slice(start, None, 3), chunk=100) for start in range(3)]
        sizes = [len(shard) for shard in shards]
        whole = Tally()
        for shard in reversed(shards):
            whole.merge(pickle.loads(pickle.dumps(shard)))
        assert whole.result() == wanted
        first = shards[0]
        first.merge(shards[1])
        first.merge(shards[2])
        first.merge(Tally())
        assert first.result() == wanted
        assert [len(shard) for shard in shards[1:]] == sizes[1:]


def test_a_part_of_doubles_among_float32_loses_no_digit():
    shopper, p_click, label = columns("float64")
    narrow = columns("float32")[1].astype(np.float64)
    mixed = np.where(np.arange(ROWS) < 100, p_click, narrow)
    found = tally_of((shopper, mixed, label), chunk=50)
    assert found.result() == click_metrics(mixed, label, shopper)


def test_names_of_shoppers_are_matched_between_shards():
    shopper, p_click, label = columns()
    names = np.array([f"u{one}" for one in shopper])
    wanted = click_metrics(p_click, label, shopper)
    late, early = (tally_of((names, p_click, label), rows) for rows in (slice(1000, None), slice(0, 1000)))
    late.merge(early)
    assert late.result() == wanted == click_metrics(p_click, label, names)


def test_rows_cost_what_the_docstring_says():
    assert tally_of(columns("float32")).size_bytes == 9 * ROWS
    assert tally_of(columns("float64")).size_bytes == 13 * ROWS
    assert tally_of(columns("wide")).size_bytes == 17 * ROWS


def test_a_tally_keeps_copies():
    shopper, p_click, label = columns("float64")
    wanted = click_metrics(p_click, label, shopper)
    tally = Tally()
    tally.add(shopper, p_click, label)
    shopper[:], p_click[:], label[:] = 0, 0, False
    assert tally.result() == wanted


def test_without_groups_there_is_auc_and_no_gauc():
    _, p_click, label = columns()
    tally = Tally()
    tally.add(None, p_click[:10], label[:10])
    tally.add(None, p_click[10:], label[10:])
    assert tally.result() == click_metrics(p_click, label)
    with pytest.raises(DataError, match="give `add` the shoppers"):
        tally.gauc()
    assert tally.size_bytes == 5 * ROWS


def test_an_empty_tally_is_undefined_and_empty_parts_change_nothing():
    empty = click_metrics(np.zeros(0), np.zeros(0))
    assert str(Tally().result()) == str(empty)
    tally = tally_of(columns())
    wanted = tally.result()
    tally.add([], [], [])
    assert tally.result() == wanted


def test_parts_that_do_not_fit_are_refused():
    tally = tally_of(columns())
    one = np.ones(1)
    with pytest.raises(DataError, match="numbers as groups in one part and no groups in another"):
        tally.add(None, one, one)
    with pytest.raises(DataError, match="numbers as groups in one part and names as groups in another"):
        tally.add(np.array(["a"]), one, one)
    with pytest.raises(DataError, match="1 of 1 scores are not finite"):
        tally.add(np.zeros(1, int), np.array([np.nan]), one)
    with pytest.raises(DataError, match="every row needs a group: 1 rows, 2 groups"):
        tally.add(np.zeros(2, int), one, one)
    with pytest.raises(DataError, match="got 'shoppers'"):
        tally.gauc("shoppers")
    assert len(tally) == ROWS


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for kind in KINDS:
        rows = slice(0, 1300) if rank == 0 else slice(1300, None)  # shoppers are on both ranks
        found[kind] = tally_of(columns(kind), rows, chunk=[170, 999][rank]).gathered().result()
    with open(f"{folder}/rank-{rank}.json", "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_ranks_have_the_metrics_of_one_process_to_the_last_bit(tmp_path):
    mp.spawn(one_rank, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        for kind in KINDS:
            shopper, p_click, label = columns(kind)
            assert found[kind] == click_metrics(p_click, label, shopper)


def test_a_process_alone_gathers_itself():
    tally = tally_of(columns())
    assert tally.gathered().result() == tally.result()
