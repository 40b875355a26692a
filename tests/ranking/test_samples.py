"""Samples: what is known at an impression, against a slow walk through the log; no future leaks in."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_market import START

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.foundation.errors import CheckpointError, DataError
from moontide.ranking.counters import COUNTED, COUNTERS, PLACE, count_past, dense_features, smoothed_ctr
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.samples import (
    Samples,
    SampleSettings,
    build_samples,
    latest_by_index,
    latest_by_row,
)
from moontide.ranking.state import OnlineState


def event(number, seconds, kind, shopper="u1", product="p1", request=None, **fields):
    row = {"event_id": f"e{number}", "kind": kind, "shopper_id": shopper, "product_id": product}
    row |= {"at": START + timedelta(seconds=seconds), "request_id": request or f"r{number}", "position": 0}
    return row | fields


def write(path, events, num_products=4):
    products = [
        {
            "product_id": f"p{code}",
            "title": "x",
            "category": ["all", f"kind {code % 2}"],
            "price_cents": 100 * code,
            "created_at": START,
        }
        for code in range(1, num_products + 1)
    ]
    with DatasetWriter(path, "small") as writer:
        writer.put("products", products)
        writer.put("queries", [{"query_id": "q1", "text": "one"}, {"query_id": "q2", "text": "two"}])
        writer.append("events", events)
    return Dataset.open(path)


def walk(table, samples):
    """Counters and histories of every sample, by a slow walk through all facts before it."""
    facts, first = [], {}
    query_of = {}
    for row in table.to_pylist():
        if row["kind"] == "impression":
            query_of[row["request_id"]] = row["query_id"]
    for row in table.to_pylist():
        at = round(row["at"].timestamp() * 1000)
        key = (row["request_id"], row["product_id"])
        if row["kind"] == "click" and first.get(key, at + 1) <= at:
            continue
        if row["kind"] == "click":
            first[key] = at
        query = query_of.get(row["request_id"]) or row["query_id"]
        facts.append((at, row["kind"], row["shopper_id"], row["product_id"], query))
    products = samples.entities.products.to_pylist()
    leaf = {row["product"]: row["leaf"] for row in products}
    names = {
        "shopper": samples.entities.shopper_ids.to_pylist(),
        "product": samples.entities.product_ids.to_pylist(),
        "query": samples.entities.query_ids.to_pylist(),
    }
    for row in range(0, len(samples), 487):
        mine = {name: names[name][getattr(samples, name)[row]] for name in ("shopper", "product")}
        mine["query"] = names["query"][samples.query[row]] if samples.query[row] >= 0 else None
        mine["leaf"] = leaf[mine["product"]]
        past = [fact for fact in facts if fact[0] < samples.at[row]]
        counts = dict.fromkeys(COUNTERS, 0)
        for _, kind, shopper, product, query in past:
            what = {"impression": "shows", "click": "clicks", "order": "orders"}[kind]
            theirs = {"shopper": shopper, "product": product, "query": query, "leaf": leaf[product]}
            same = ["all", *(name for name in COUNTED if mine[name] == theirs[name] is not None)]
            for name in same:
                if f"{name}_{what}" in counts:
                    counts[f"{name}_{what}"] += 1
        behaved = [fact for fact in past if fact[1] != "impression" and fact[2] == mine["shopper"]]
        yield row, counts, [fact[3] for fact in behaved][::-1]


def test_counters_and_histories_are_those_of_a_slow_walk_through_the_log(planted):
    samples, table = planted.samples, planted.dataset.table("events")
    ids = samples.entities.product_ids.to_pylist()
    for row, counts, behaved in walk(table, samples):
        assert dict(zip(COUNTERS, samples.counters[row].tolist(), strict=True)) == counts
        assert samples.behavior_end[row] == len(behaved)
        history = samples.history(np.array([row]), 8)
        found = [ids[code] for code in history.product[0] if code >= 0]
        assert found == behaved[:8]
        assert (history.at[0][: len(found)] < samples.at[row]).all()


def test_labels_are_clicks_of_the_same_request_and_product(planted):
    table, samples = planted.dataset.table("events").to_pylist(), planted.samples
    clicked = {(row["request_id"], row["product_id"]) for row in table if row["kind"] == "click"}
    shown = [row for row in table if row["kind"] == "impression"]
    expected = {row["event_id"]: (row["request_id"], row["product_id"]) in clicked for row in shown}
    found = dict(zip(samples.event_id.to_pylist(), samples.label.tolist(), strict=True))
    assert found == expected
    assert (np.diff(samples.at) >= 0).all()


def test_changing_the_future_changes_no_earlier_row(planted, tmp_path):
    samples = planted.samples
    table = planted.dataset.table("events")
    moment = int(samples.at[len(samples) // 2])
    late = table.column("at").cast(pa.int64()).to_numpy() >= moment
    rows = table.to_pylist()
    rng = np.random.default_rng(0)
    for number in np.flatnonzero(late):
        rows[number] |= {"product_id": f"p{rng.integers(240):04d}", "shopper_id": f"u{rng.integers(120):04d}"}
        rows[number]["kind"] = ("impression", "click", "order")[rng.integers(3)]
    with DatasetWriter(tmp_path / "changed", "changed") as writer:
        for name in ("products", "queries", "creatives", "shoppers"):
            writer.put(name, planted.dataset.table(name))
        writer.append("events", rows)
    changed = build_samples(Dataset.open(tmp_path / "changed"))
    early = samples.at < moment
    assert early.sum() == (changed.at < moment).sum() > 1000
    for name in ("at", "shopper", "product", "query", "position", "counters", "behavior_end"):
        kept, found = getattr(samples, name)[early], getattr(changed, name)[: early.sum()]
        np.testing.assert_array_equal(found, kept, err_msg=name)
    old, new = (s.history(np.flatnonzero(early), 50) for s in (samples, changed))
    np.testing.assert_array_equal(old.product, new.product)


def test_events_of_the_same_millisecond_are_not_the_past(tmp_path):
    events = [
        event(0, 0, "impression"),
        event(1, 5, "click", request="r0"),
        event(2, 5, "impression", product="p3"),
        event(3, 5, "impression"),
        event(4, 5.001, "impression"),
    ]
    samples = build_samples(write(tmp_path / "data", events))
    assert samples.counters[:, PLACE["shopper_clicks"]].tolist() == [0, 0, 0, 1]
    assert samples.counters[:, PLACE["shopper_shows"]].tolist() == [0, 1, 1, 3]
    assert samples.behavior_end.tolist() == [0, 0, 0, 1]
    assert samples.label.tolist() == [True, False, False, False]


def test_an_order_counts_when_it_happens_and_a_repeated_click_counts_once(tmp_path):
    events = [
        event(0, 0, "impression"),
        event(1, 1, "click", request="r0"),
        event(2, 2, "click", request="r0"),
        event(3, 100, "order", request="r0"),
        event(4, 50, "impression"),
        event(5, 200, "impression"),
    ]
    samples = build_samples(write(tmp_path / "data", events))
    assert samples.counters[:, PLACE["product_orders"]].tolist() == [0, 0, 1]
    assert samples.counters[:, PLACE["product_clicks"]].tolist() == [0, 1, 1]
    assert samples.history(np.array([2]), 3).kind[0, :2].tolist() == [ORDER, CLICK]
    assert samples.history(np.array([2]), 3).product[0].tolist() == [0, 0, -1]


def test_a_click_takes_the_query_of_its_request_and_requests_without_query_share_nothing(tmp_path):
    events = [
        event(0, 0, "impression", query_id="q1"),
        event(1, 1, "click", request="r0"),
        event(2, 2, "impression", query_id="q1"),
        event(3, 3, "impression", query_id="q2"),
        event(4, 4, "impression"),
        event(5, 5, "impression"),
    ]
    samples = build_samples(write(tmp_path / "data", events))
    assert samples.query.tolist() == [0, 0, 1, -1, -1]
    assert samples.counters[:, PLACE["query_clicks"]].tolist() == [0, 1, 0, 0, 0]
    assert samples.counters[:, PLACE["query_shows"]].tolist() == [0, 1, 0, 0, 0]


def test_rows_of_unknown_products_are_left_out_and_shoppers_need_no_table(tmp_path):
    events = [event(0, 0, "impression", product="p99"), event(1, 1, "impression", shopper="stranger")]
    samples = build_samples(write(tmp_path / "data", [*events, event(2, 2, "search", product=None)]))
    assert samples.entities.shopper_ids.to_pylist() == ["stranger", "u1"]
    assert samples.shopper.tolist() == [0]


def test_the_split_is_by_time_and_the_vocabulary_is_of_training_alone(planted):
    samples = planted.samples
    assert samples.at[samples.is_test].min() == samples.cutoff_ms > samples.at[~samples.is_test].max()
    assert samples.is_test.mean() == pytest.approx(0.2, abs=0.001)
    known = set(samples.vocabulary.values["product"])
    ids = samples.entities.product_ids.to_pylist()
    shown = np.bincount(samples.product[~samples.is_test], minlength=len(ids))
    assert known == {name for name, num in zip(ids, shown, strict=True) if num >= 3}
    rows = samples.vocabulary.rows("product", samples.entities.product_ids)
    assert (rows[:-1] == 0).tolist() == (shown < 3).tolist()
    assert rows[-1] == 0
    assert (rows[:-1][shown >= 3] > 0).all()
    new = samples.is_new
    created = samples.entities.created_at[samples.product]
    assert new.tolist() == (created >= samples.cutoff_ms).tolist()
    assert new.any()
    assert not new[~samples.is_test].any()
    assert samples.is_rare.tolist() == (shown[samples.product] < 20).tolist()


def test_new_can_mean_young_at_the_impression(planted):
    samples = build_samples(planted.dataset, SampleSettings(new_days=2))
    age = samples.at - samples.entities.created_at[samples.product]
    assert samples.is_new.tolist() == (age < 2 * 86_400_000).tolist()
    assert samples.is_new[~samples.is_test].any()


def test_samples_saved_and_loaded_are_the_same(planted, tmp_path):
    samples = planted.samples
    samples.save(tmp_path / "samples")
    loaded = Samples.load(tmp_path / "samples")
    for name in vars(samples):
        kept, found = getattr(samples, name), getattr(loaded, name)
        if isinstance(kept, np.ndarray):
            assert kept.dtype == found.dtype, name
            np.testing.assert_array_equal(kept, found, err_msg=name)
    assert loaded.event_id.equals(samples.event_id)
    assert loaded.vocabulary == samples.vocabulary
    assert loaded.entities.products.equals(samples.entities.products)
    assert loaded.cutoff_ms == samples.cutoff_ms
    with pytest.raises(CheckpointError, match="no ranking samples"):
        Samples.load(tmp_path)


def test_other_tables_are_joined_by_event(planted):
    samples = planted.samples
    ids = samples.event_id.to_pylist()
    table = pa.table({"event_id": ids[::-1][:-1], "p_click": np.arange(len(ids) - 1) / 7})
    joined = samples.join(table, "p_click")
    assert np.isnan(joined[0])
    assert joined[1:].tolist() == (np.arange(len(ids) - 1)[::-1] / 7).tolist()


def test_histories_are_newest_first_padded_at_the_end_and_cut_to_length(planted):
    samples = planted.samples
    rows = samples.test_rows[:500]
    long, short = samples.history(rows, 50), samples.history(rows, 5)
    np.testing.assert_array_equal(long.product[:, :5], short.product)
    real = long.product >= 0
    assert (real.sum(1) == np.minimum(samples.behavior_end[rows], 50)).all()
    assert (np.diff(real.astype(int), axis=1) <= 0).all()
    newer_first = np.where(real[:, 1:], np.diff(long.at, axis=1), 0)
    assert (newer_first <= 0).all()


@pytest.mark.parametrize("steps", [1, 7, 5000])
def test_histories_are_the_same_copied_row_by_row_or_by_index(steps):
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 9, 4000).astype(kind) for kind in (np.int32, np.int64, np.uint8, np.int32)]
    end = rng.integers(0, 4001, 60)
    end[:2] = 0, 4000
    length = np.minimum(rng.integers(0, 3000, 60), np.minimum(end, steps))
    length[1] = min(4000, steps)
    by_row, by_index = (latest(columns, end, length, steps) for latest in (latest_by_row, latest_by_index))
    for one, other, column, filler in zip(by_row, by_index, columns, (-1, 0, 0, -1), strict=True):
        assert one.dtype == other.dtype == column.dtype
        np.testing.assert_array_equal(one, other)
        for row in range(60):
            expected = column[: end[row]][::-1][: length[row]].tolist()
            assert one[row].tolist() == expected + [filler] * (steps - len(expected))
    empty = [column[:0] for column in columns]
    for latest in (latest_by_row, latest_by_index):
        assert (latest(empty, end * 0, length * 0, 3)[0] == -1).all()


def test_long_histories_are_those_of_a_slow_walk_over_the_stored_behaviors(planted, monkeypatch):
    samples, rows = planted.samples, planted.samples.test_rows[::9]
    histories = []
    for many in (-1, 10**9):
        monkeypatch.setattr("moontide.ranking.samples.MANY_STEPS", many)
        histories.append(samples.history(rows, 300))
    for name, filler in (("product", -1), ("at", 0), ("kind", 0), ("query", -1)):
        stored = getattr(samples, f"behavior_{name}")
        for history in histories:
            found = getattr(history, name)
            assert found.dtype == stored.dtype
            for place, row in enumerate(rows[:40]):
                start = samples.behavior_start[samples.shopper[row]]
                past = stored[start : start + samples.behavior_end[row]][::-1][:300].tolist()
                assert found[place].tolist() == past + [filler] * (300 - len(past))
        np.testing.assert_array_equal(*(getattr(history, name) for history in histories))


def test_samples_of_the_format_before_are_still_read(planted, tmp_path):
    samples = planted.samples
    samples.save(tmp_path / "old")
    names = ("product", "query", "at", "kind")
    behaviors = {name: getattr(samples, f"behavior_{name}") for name in names}
    pq.write_table(pa.table(behaviors), tmp_path / "old" / "behaviors.parquet")
    pq.write_table(pa.table({"start": samples.behavior_start}), tmp_path / "old" / "starts.parquet")
    for file in (tmp_path / "old").glob("*.npy"):
        file.unlink()
    facts = {"format": 1, "cutoff_ms": samples.cutoff_ms}
    (tmp_path / "old" / "samples.json").write_text(json.dumps(facts))
    loaded = Samples.load(tmp_path / "old")
    np.testing.assert_array_equal(loaded.behavior_at, samples.behavior_at)
    np.testing.assert_array_equal(loaded.behavior_start, samples.behavior_start)
    assert (loaded.negative_share, loaded.versions, loaded.left_out) == (1.0, (), {})
    (tmp_path / "old" / "samples.json").write_text(json.dumps(facts | {"format": 3}))
    with pytest.raises(CheckpointError, match="samples of format 3: build them again"):
        Samples.load(tmp_path / "old")


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 5), st.integers(0, 2)), max_size=40),
    st.sampled_from([1, 70_000]),
)
@settings(max_examples=60, deadline=None)
def test_past_counts_are_those_of_a_double_loop(facts, scale):
    facts = sorted(facts, key=lambda fact: fact[1])
    code, at, kind = np.array(facts, np.int64).reshape(-1, 3).T
    code = (code * scale).astype(np.int32)
    expected = [
        [
            sum(o == c and t < now and k == which for o, t, k in zip(code, at, kind, strict=True))
            for which in range(3)
        ]
        for c, now in zip(code, at, strict=True)
    ]
    assert count_past(code, at, kind).tolist() == expected


def test_a_log_without_clicks_has_samples_without_behaviors(tmp_path):
    samples = build_samples(write(tmp_path / "data", [event(n, n, "impression") for n in range(10)]))
    assert not samples.label.any()
    assert samples.history(np.arange(3), 4).product.tolist() == [[-1] * 4] * 3
    samples.save(tmp_path / "samples")
    assert Samples.load(tmp_path / "samples").history(np.arange(3), 4).product.tolist() == [[-1] * 4] * 3


def test_a_log_without_known_impressions_is_refused(tmp_path):
    with pytest.raises(DataError, match="check the ids"):
        build_samples(write(tmp_path / "data", [event(0, 0, "impression", product="p99")]))
    with DatasetWriter(tmp_path / "none", "none") as writer:
        writer.put("products", [{"product_id": "p1", "title": "x"}])
    with pytest.raises(DataError, match="ranking needs events"):
        build_samples(Dataset.open(tmp_path / "none"))


def test_smoothed_ctr_starts_at_the_overall_rate_and_ends_at_the_products_own():
    counters = np.zeros((2, len(COUNTERS)))
    counters[:, PLACE["all_shows"]], counters[:, PLACE["all_clicks"]] = 950, 19
    counters[1, PLACE["product_shows"]], counters[1, PLACE["product_clicks"]] = 1e6, 1e5
    assert smoothed_ctr(counters) == pytest.approx([0.02, 0.1], rel=1e-3)
    features = dense_features(counters, np.array([10, 10]), np.array([-1, 0]), np.array([np.nan, 5.0]))
    assert np.isfinite(features).all()
    assert features[0, 1] == 0


def test_products_without_a_category_share_no_counts(tmp_path):
    at = datetime(2026, 3, 2, tzinfo=UTC)
    with DatasetWriter(tmp_path / "bare", "bare") as writer:
        writer.put("products", [{"product_id": name, "title": name} for name in ("a", "b")])
        rows = []
        for number in range(20):
            event = {"request_id": f"r{number}", "at": at + timedelta(minutes=number), "shopper_id": "s"}
            event |= {"product_id": "ab"[number % 2], "event_id": f"e{number}", "kind": "impression"}
            rows.append(event)
        writer.append("events", rows)
    samples = build_samples(Dataset.open(tmp_path / "bare"))
    assert samples.counters[:, PLACE["leaf_shows"]].tolist() == [0] * 20
    assert samples.counters[:, PLACE["product_shows"]].max() == 9
    state = OnlineState.of_samples(samples)
    live = state.counters(np.array([0]), np.array([-1]), np.array([[0, 1]]))
    assert live[..., PLACE["leaf_shows"]].tolist() == [[0, 0]]
