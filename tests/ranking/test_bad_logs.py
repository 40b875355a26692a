"""Logs with defects: each is counted under its name, none stops the job, good rows stay as they are."""

import logging

import numpy as np
import pyarrow as pa
import pytest
from messy_log import KEPT, LEFT_OUT, assert_same_samples, event, messy_rows, shuffled, write_small
from planted_market import START

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.foundation.errors import DataError, SettingsError
from moontide.ranking.content import ContentTable, check_versions
from moontide.ranking.counters import PLACE
from moontide.ranking.facts import connect
from moontide.ranking.samples import Samples, SampleSettings, build_samples


def test_each_defect_is_counted_and_the_rest_is_as_if_it_had_not_been_there(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        samples = build_samples(write_small(tmp_path / "messy", messy_rows()))
    assert samples.left_out == LEFT_OUT
    assert samples.kept == KEPT
    for reason, count in LEFT_OUT.items():
        assert f"{count} rows of the log are left out: {reason}" in caplog.text
    ids = samples.event_id.to_pylist()
    assert ids == [f"e{n}" for n in range(10)]
    assert samples.label.tolist() == [name == "e1" for name in ids]  # not e3: its click came before it
    assert samples.counters[:, PLACE["all_clicks"]].tolist() == [0, 0, 1, 1, 1, 3, 3, 3, 3, 3]
    assert samples.counters[:, PLACE["shopper_orders"]].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    history = samples.history(np.array([9, 7]), 5).product
    assert history.tolist() == [[-1] * 5, [1, 2, 0, 0, -1]]
    samples.save(tmp_path / "samples")
    assert_same_samples(samples, Samples.load(tmp_path / "samples"))


def test_the_order_of_rows_in_the_files_changes_nothing(planted, tmp_path):
    first, second = (
        build_samples(write_small(tmp_path / str(n), shuffled(messy_rows(), n))) for n in range(2)
    )
    assert first.left_out == second.left_out == LEFT_OUT
    assert_same_samples(first, second)
    rows = planted.dataset.table("events")
    with DatasetWriter(tmp_path / "shuffled", "shuffled") as writer:
        for name in ("products", "queries", "creatives", "shoppers"):
            writer.put(name, planted.dataset.table(name))
        writer.append("events", rows.take(np.random.default_rng(0).permutation(len(rows))))
    assert_same_samples(planted.samples, build_samples(Dataset.open(tmp_path / "shuffled")))


def test_a_click_is_the_label_of_the_impressions_of_its_request_that_came_before_it(tmp_path):
    rows = [event(n, 10 * n, "impression", request="r") for n in range(3)]
    rows += [event(5, 10, "click", request="r"), event(6, -1, "click", request="r")]
    samples = build_samples(write_small(tmp_path / "data", rows))
    assert samples.label.tolist() == [True, True, False]  # the same moment is not before it
    assert samples.left_out == {"click before its impression": 1}
    assert samples.behavior_end.tolist() == [0, 0, 1]


def test_events_without_ids_pair_with_nothing_and_are_not_taken_for_repeats(tmp_path):
    none = {"event_id": None, "request_id": None}
    rows = [event(n, n, "impression") | none for n in range(3)]
    rows += [event(9, 5 + n, "click") | none for n in range(2)] + [event(7, 20, "impression")]
    samples = build_samples(write_small(tmp_path / "data", rows), SampleSettings(negative_share=0.5))
    assert samples.left_out == {}
    assert samples.kept == {"click without an impression": 2}
    assert samples.behavior_end.tolist() == [0, 0, 0, 2]
    assert not samples.label.any()
    rows = [event(n, n, "impression") | none for n in range(200)] + [event(7, 500, "impression")]
    samples = build_samples(write_small(tmp_path / "many", rows), SampleSettings(negative_share=0.5))
    assert 40 < len(samples.train_rows) < 120  # each is dealt with on its own, not all alike


def test_an_id_that_stands_twice_in_the_catalog_doubles_no_impression(tmp_path):
    with DatasetWriter(tmp_path / "data", "twice") as writer:
        writer.put("products", [{"product_id": name, "title": name} for name in ("p1", "p2", "p1")])
        writer.append("events", [event(n, n, "impression") for n in range(4)])
    samples = build_samples(Dataset.open(tmp_path / "data"))
    assert samples.product.tolist() == [0] * 4


def test_a_log_of_one_class_is_built_and_said(tmp_path, caplog):
    rows = [event(n, n, "impression") for n in range(10)]
    samples = build_samples(write_small(tmp_path / "none", rows))
    assert len(samples) == 10
    assert "0 of 8 training impressions were clicked" in caplog.text
    clicks = [event(100 + n, n, "click", request=f"r{n}") for n in range(10)]
    assert build_samples(write_small(tmp_path / "all", rows + clicks)).label.all()
    assert "8 of 8 training impressions were clicked" in caplog.text


def test_a_shopper_with_a_quarter_of_a_million_events_is_counted_as_any_other(tmp_path):
    num, rng = 200_000, np.random.default_rng(0)
    at = np.sort(rng.integers(0, 10**8, num))
    product, clicked = rng.integers(1, 5, num), rng.random(num) < 0.25
    start = int(START.timestamp() * 1000)

    def table(kind, rows, delay):
        columns = {"event_id": [f"{kind[0]}{row}" for row in rows], "kind": [kind] * len(rows)}
        columns |= {"shopper_id": ["bot"] * len(rows), "product_id": [f"p{one}" for one in product[rows]]}
        columns["request_id"] = [f"r{row}" for row in rows]
        return pa.table(columns | {"at": pa.array(start + at[rows] + delay, pa.timestamp("ms", tz="UTC"))})

    rows = write_small(tmp_path / "few", [event(0, 0, "impression", shopper="u")])
    with DatasetWriter(tmp_path / "bot", "bot", base=rows) as writer:
        writer.append("events", table("impression", np.arange(num), 0))
        writer.append("events", table("click", np.flatnonzero(clicked), 1))
    samples = build_samples(Dataset.open(tmp_path / "bot"))
    bot = samples.shopper == samples.entities.shopper_ids.to_pylist().index("bot")
    assert bot.sum() == num
    click_at = np.sort(at[clicked] + 1)
    assert samples.behavior_end[bot].tolist() == np.searchsorted(click_at, at, side="left").tolist()
    assert samples.label[bot].sum() == clicked.sum()
    late = samples.history(np.flatnonzero(bot)[-3:], 30_000)
    assert (late.product >= 0).all()
    assert late.at[0, :5].tolist() == (start + click_at[click_at < at[-3]][::-1][:5]).tolist()


def test_training_leaves_out_a_share_of_unclicked_impressions_by_their_id_alone(planted, tmp_path):
    whole, dataset = planted.samples, planted.dataset
    few = build_samples(dataset, SampleSettings(negative_share=0.25))
    np.testing.assert_array_equal(few.counters, whole.counters)
    np.testing.assert_array_equal(few.behavior_end, whole.behavior_end)
    np.testing.assert_array_equal(few.test_rows, whole.test_rows)
    dropped = np.setdiff1d(whole.train_rows, few.train_rows)
    assert not whole.label[dropped].any()
    negatives = whole.train_rows[~whole.label[whole.train_rows]]
    assert len(dropped) / len(negatives) == pytest.approx(0.75, abs=0.02)
    fewer = build_samples(dataset, SampleSettings(negative_share=0.1))
    assert np.isin(fewer.train_rows, few.train_rows).all()
    shown = np.bincount(few.product[few.train_rows], minlength=240)
    ids = np.array(few.entities.product_ids.to_pylist())
    assert set(few.vocabulary.values["product"]) == set(ids[shown >= 3])
    few.save(tmp_path / "few")
    loaded = Samples.load(tmp_path / "few")
    assert loaded.negative_share == 0.25
    np.testing.assert_array_equal(loaded.train_rows, few.train_rows)
    half = few.part(np.arange(0, len(few), 2))
    np.testing.assert_array_equal(half.train_rows, few.train_rows[few.train_rows % 2 == 0] // 2)
    assert half.event_id.to_pylist() == few.event_id.to_pylist()[::2]


def test_the_vector_version_of_each_impression_is_kept_and_compared_with_the_tables(tmp_path, caplog):
    named = {0: "v2", 1: "v1", 2: "v2", 3: None, 4: "v1", 5: "v2"}
    rows = [event(n, n, "impression", vector_version=name) for n, name in named.items()]
    samples = build_samples(write_small(tmp_path / "data", rows))
    assert [samples.versions[code] if code >= 0 else None for code in samples.version_code] == list(
        named.values()
    )
    assert samples.version_counts() == {"": 1, "v1": 2, "v2": 3}
    table = ContentTable.of(np.eye(4), version="v1")
    assert check_versions(samples, table) == {"same": 2, "other": 3, "unnamed": 1}
    assert "made with vectors of version 'v2' (3 impressions), the table has 'v1'" in caplog.text
    assert check_versions(samples, table.permuted()) == {"same": 2, "other": 3, "unnamed": 1}
    caplog.clear()
    early = samples.part(np.array([1, 3, 4]))
    assert check_versions(early, table) == {"same": 2, "other": 0, "unnamed": 1}
    assert not caplog.text
    plain = build_samples(write_small(tmp_path / "plain", [event(n, n, "impression") for n in range(4)]))
    assert plain.version_counts() == {"": 4}
    assert check_versions(plain, table) == {"same": 0, "other": 0, "unnamed": 4}


def test_an_unknown_backend_is_refused_with_the_choices():
    with pytest.raises(SettingsError, match=r"backend must be one of duckdb, spark, got 'flink'"):
        connect("flink")


def test_a_log_of_defects_alone_is_refused(tmp_path):
    rows = [event(0, 0, "impression", product="p99"), event(1, None, "impression")]
    with pytest.raises(DataError, match="check the ids"):
        build_samples(write_small(tmp_path / "data", rows))
