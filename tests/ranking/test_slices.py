"""Slices of a log: which rows they hold, and what their tables say where a metric is undefined."""

import dataclasses
import math

import numpy as np
import pytest

from moontide.foundation.statistics import holm
from moontide.ranking.metrics import auc, click_metrics
from moontide.ranking.slices import compare_scores, slice_masks, slice_table, undefined_reason


@pytest.fixture(scope="module")
def samples(planted):
    return planted.samples


def scores_of(samples, seed=0):
    rng = np.random.default_rng(seed)
    label = samples.label[samples.test_rows]
    return 1 / (1 + np.exp(2.0 - 0.5 * label - rng.normal(size=len(label))))


def test_slices_of_one_word_share_no_row_and_cover_all(samples):
    masks = slice_masks(samples, samples.test_rows)
    for word in ("frequency", "history", "category", "merchant", "position"):
        parts = [mask.astype(int) for name, mask in masks.items() if name.split()[0] == word]
        assert (sum(parts) == 1).all(), word
    assert all(mask.any() for mask in masks.values())


def test_frequency_groups_are_eighths_from_rare_to_frequent(samples):
    rows = samples.test_rows
    masks = slice_masks(samples, rows)
    shown = np.bincount(samples.product[samples.train_rows], minlength=len(samples.entities.products))
    means = []
    for number in range(1, 9):
        if (mask := masks.get(f"frequency {number}")) is not None:
            means.append(shown[samples.product[rows[mask]]].mean())
    assert means == sorted(means)
    assert masks["frequency 8"].mean() == pytest.approx(1 / 8, abs=0.04)


def test_long_histories_are_a_slice_of_their_own(samples):
    rows = samples.test_rows
    long = dataclasses.replace(samples, behavior_end=np.arange(len(samples)).astype(np.int32) % 400)
    masks = slice_masks(long, rows)
    assert (masks["long history 50+"] == (long.history_length[rows] >= 50)).all()
    assert (masks["long history 50+"] == masks["history 50-199"] | masks["history 200+"]).all()
    assert (masks["history 0"] == (long.history_length[rows] == 0)).all()


def test_categories_beyond_the_largest_and_products_without_one_have_slices(samples, monkeypatch):
    rows = samples.test_rows
    products = samples.entities.products
    tops = [None if code % 6 == 0 else f"top {code % 6}" for code in range(len(products))]
    place = products.column_names.index("top")
    changed = dataclasses.replace(
        samples,
        entities=dataclasses.replace(samples.entities, products=products.set_column(place, "top", [tops])),
    )
    monkeypatch.setattr("moontide.ranking.slices.MAX_CATEGORIES", 2)
    masks = slice_masks(changed, rows)
    names = [name for name in masks if name.startswith("category")]
    assert names[2:] == ["category (other)", "category (unknown)"]
    assert (masks["category (unknown)"] == (samples.product[rows] % 6 == 0)).all()
    kind = samples.product[rows] % 6
    count = np.bincount(kind, minlength=6)[1:]
    assert names[:2] == [f"category top {1 + one}" for one in np.argsort(-count, kind="stable")[:2]]
    assert masks["category (other)"].sum() == np.sort(count)[:3].sum()


def test_merchants_are_sliced_by_the_tier_that_is_given_or_by_their_impressions(samples):
    rows = samples.test_rows
    merchant = np.array(samples.entities.products.column("merchant").to_pylist())[samples.product[rows]]
    masks = slice_masks(samples, rows, {"m0": "gold", "m1": "gold", "m2": "plain"})
    assert [name for name in masks if name.startswith("merchant")] == [
        "merchant gold",
        "merchant plain",
        "merchant (unknown)",
    ]
    assert (masks["merchant gold"] == np.isin(merchant, ["m0", "m1"])).all()
    masks = slice_masks(samples, rows)
    is_train = ~samples.is_test
    all_merchants = np.array(samples.entities.products.column("merchant").to_pylist())[samples.product]
    shown = {one: (all_merchants[is_train] == one).sum() for one in set(all_merchants)}
    sizes = [
        [shown[one] for one in merchant[masks[f"merchant {tier}"]]] for tier in ("small", "middle", "large")
    ]
    assert max(sizes[0]) < min(sizes[1]) <= max(sizes[1]) < min(sizes[2])


def test_far_and_unknown_positions_are_not_dropped(samples):
    rows = samples.test_rows
    position = samples.position.copy()
    position[rows[0]], position[rows[1]] = 14, -1
    masks = slice_masks(dataclasses.replace(samples, position=position), rows)
    assert np.flatnonzero(masks["position 10+"]).tolist() == [0]
    assert np.flatnonzero(masks["position (unknown)"]).tolist() == [1]


def test_a_slice_of_one_class_keeps_its_line_and_says_why(samples):
    rows = samples.test_rows
    position = np.where(samples.is_new & (samples.position == 0), 1, samples.position)
    label = np.where(samples.is_new, False, np.where(position == 0, True, samples.label))
    changed = dataclasses.replace(samples, label=label, position=position)
    score = scores_of(changed)
    lines = {line["slice"]: line for line in slice_table(changed, rows, {"one": score}, keep_empty=True)}
    num_new, num_first = samples.is_new[rows].sum(), (position[rows] == 0).sum()
    assert lines["new"]["reason"] == f"no click in {num_new:,} impressions"
    assert lines["position 0"]["reason"] == f"a click in each of {num_first:,} impressions"
    assert lines["position 9"]["reason"] == "no impressions"
    for name, clicks in (("new", 0), ("position 0", num_first), ("position 9", 0)):
        assert math.isnan(lines[name]["auc"])
        assert lines[name]["clicks"] == clicks
    assert lines["all"]["reason"] is None
    assert "position 9" not in slice_masks(changed, rows)
    gains = {line["slice"]: line for line in compare_scores(changed, rows, score, -score, replicates=20)}
    assert gains["new"]["reason"] == lines["new"]["reason"]
    assert math.isnan(gains["new"]["p_value"])
    assert math.isnan(gains["new"]["p_adjusted"])
    assert gains["all"]["p_adjusted"] <= 1


def test_reasons_are_given_for_one_class_only():
    assert undefined_reason(np.array([0, 1])) is None
    assert undefined_reason(np.zeros(0)) == "no impressions"
    assert undefined_reason(np.zeros(1200)) == "no click in 1,200 impressions"


def test_lines_have_the_metrics_of_their_rows(samples):
    rows, score = samples.test_rows, scores_of(samples)
    masks = slice_masks(samples, rows)
    for line in slice_table(samples, rows, {"one": score}):
        mask = masks[line["slice"]]
        wanted = click_metrics(score[mask], samples.label[rows][mask], samples.shopper[rows][mask])
        assert {name: line[name] for name in wanted} == pytest.approx(wanted, nan_ok=True)


def test_comparisons_are_corrected_for_the_number_of_slices(samples):
    rows = samples.test_rows
    weak, strong = scores_of(samples, 1), scores_of(samples, 2)
    strong = strong + 0.05 * samples.label[rows]
    for replicates in (0, 60):
        table = compare_scores(samples, rows, weak, strong, replicates)
        p_values = np.array([line["p_value"] for line in table])
        assert [line["p_adjusted"] for line in table] == pytest.approx(holm(p_values).tolist())
        assert table[0]["difference"].value == pytest.approx(
            auc(strong, samples.label[rows]) - auc(weak, samples.label[rows]), abs=1e-12
        )
        assert p_values[0] < 1e-3
    only = compare_scores(samples, rows, weak, strong, 0, only=("all",))
    assert only[0]["p_adjusted"] == only[0]["p_value"]
