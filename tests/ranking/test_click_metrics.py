"""Metrics: against brute force, scikit-learn and worked examples; ties, empty and one-class columns."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import roc_auc_score

from moontide.foundation.errors import DataError
from moontide.ranking.metrics import (
    auc,
    auc_difference,
    auc_interval,
    calibration_bins,
    calibration_error,
    click_metrics,
    delong,
    delong_difference,
    gauc,
    gauc_difference,
    group_auc,
    log_loss,
    normalized_entropy,
    pcoc,
    weighted_auc,
)


def brute_force(score, label, weight=None):
    weight = np.ones(len(score)) if weight is None else weight
    won = total = 0.0
    for i, j in product(np.flatnonzero(label), np.flatnonzero(1 - label)):
        pair = weight[i] * weight[j]
        won += pair * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
        total += pair
    return won / total if total else math.nan


def columns(num=400, seed=0, decimals=2, dtype=np.float64, rate=0.2):
    rng = np.random.default_rng(seed)
    label = (rng.random(num) < rate).astype(int)
    score = np.round(rng.normal(label * 0.7, 1.0), decimals).astype(dtype)
    return score, label, rng.integers(0, 25, num)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_auc_is_the_share_of_ordered_pairs_with_ties_one_half(decimals, dtype):
    score, label, _ = columns(decimals=decimals, dtype=dtype)
    assert auc(score, label) == pytest.approx(brute_force(score, label), abs=1e-12)
    assert auc(score, label) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_auc_of_one_class_or_no_rows_is_undefined_and_of_constant_scores_one_half():
    assert math.isnan(auc(np.ones(3), np.ones(3)))
    assert math.isnan(auc(np.ones(3), np.zeros(3)))
    assert math.isnan(auc(np.zeros(0), np.zeros(0)))
    assert auc(np.ones(5), np.array([0, 1, 0, 0, 1])) == 0.5


def test_scores_that_are_not_finite_or_rows_that_do_not_match_are_refused():
    with pytest.raises(DataError, match="1 of 3 scores are not finite"):
        auc(np.array([0.1, np.nan, 0.3]), np.array([0, 1, 0]))
    with pytest.raises(DataError, match="equal length"):
        auc(np.ones(3), np.ones(2))
    with pytest.raises(DataError, match="got 'shoppers'"):
        gauc(np.zeros(2), np.ones(2), np.array([0, 1]), "shoppers")
    with pytest.raises(DataError, match="every row needs a group"):
        gauc(np.zeros(1), np.ones(2), np.array([0, 1]))
    for metric in (auc, log_loss, pcoc, calibration_error):
        with pytest.raises(DataError, match="1 of 2 scores are not finite"):
            metric(np.array([0.1, np.inf]), np.array([0, 1]))
        with pytest.raises(DataError, match="1 of 3 labels are neither 0 nor 1"):
            metric(np.ones(3), np.array([0, 1, np.nan]))


def test_200_thresholds_differ_from_the_exact_value_at_low_ctr():
    rng = np.random.default_rng(0)
    label = rng.random(60_000) < 0.01
    score = 1 / (1 + np.exp(-rng.normal(-4.6 + label * 1.0, 0.8)))
    edges = np.linspace(0, 1, 200)
    tpr = np.array([(score[label] >= edge).mean() for edge in edges])
    fpr = np.array([(score[~label] >= edge).mean() for edge in edges])
    assert abs(np.trapezoid(tpr[::-1], fpr[::-1]) - auc(score, label)) > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_group_auc_is_the_auc_of_each_group_alone(decimals, dtype):
    score, label, shopper = columns(decimals=decimals, dtype=dtype)
    groups, value, num_rows = group_auc(shopper, score, label)
    assert (groups == np.unique(shopper)).all()
    for group, found, rows in zip(groups, value, num_rows, strict=True):
        mine = shopper == group
        assert rows == mine.sum()
        assert found == pytest.approx(brute_force(score[mine], label[mine]), abs=1e-12, nan_ok=True)


def test_group_auc_takes_any_ids_and_scores_of_both_signs():
    score = np.array([-3.0, -1.0, -0.0, 0.0, 2.0, -2.0])
    label = np.array([0, 1, 1, 0, 1, 0])
    names = np.array(["b", "b", "b", "b", "a", "a"])
    groups, value, _ = group_auc(names, score, label)
    assert groups.tolist() == ["a", "b"]
    assert value.tolist() == [1.0, (2 + 0.5) / 4]
    _, by_number, _ = group_auc(np.where(names == "a", -5, 10**15), score, label)
    assert by_number.tolist() == value.tolist()


def test_doubles_that_float32_cannot_tell_apart_are_not_made_ties():
    score, label = np.array([0.5, 0.5 + 1e-12]), np.array([0, 1])
    assert group_auc(np.zeros(2, int), score, label)[1].tolist() == [1.0]


def test_doubles_that_share_a_float32_are_counted_again_where_they_tie():
    rng = np.random.default_rng(3)
    shopper, label = rng.integers(0, 12, 600), (rng.random(600) < 0.3).astype(int)
    close = 0.5 + rng.integers(0, 9, 600) * 1e-12 + (rng.random(600) < 0.5)  # 18 doubles, two float32
    for score in (close, -close, close * 1e300, close * 1e-300):
        _, value, _ = group_auc(shopper, score, label)
        for group, found in enumerate(value):
            mine = shopper == group
            assert found == pytest.approx(brute_force(score[mine], label[mine]), abs=1e-12)
    mixed = np.where(shopper < 6, close, np.round(rng.normal(size=600), 1).astype(np.float32))
    _, value, _ = group_auc(shopper, mixed, label)
    assert value[:6].tolist() == group_auc(shopper, close, label)[1][:6].tolist()
    assert value[7] == pytest.approx(brute_force(mixed[shopper == 7], label[shopper == 7]), abs=1e-12)


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.97])
def test_either_class_may_be_the_smaller_one(rate):
    score, label, shopper = columns(num=600, decimals=1, rate=rate)
    assert auc(score, label) == pytest.approx(brute_force(score, label), abs=1e-12)
    _, value, _ = group_auc(shopper, score, label)
    wanted = [brute_force(score[shopper == group], label[shopper == group]) for group in range(25)]
    assert value == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_auc_of_reversed_scores_is_the_rest_and_growing_maps_change_nothing():
    score, label, shopper = columns(num=2000, decimals=1)
    assert auc(-score, label) == pytest.approx(1 - auc(score, label), abs=1e-12)
    for better in (score, 3 * score - 7, np.exp(score)):
        assert auc(better, label) == auc(score, label)
        assert gauc(shopper, better, label) == gauc(shopper, score, label)


def test_gauc_weights_by_impressions_and_counts_skipped_shoppers():
    shopper = np.array([1, 1, 2, 2, 2, 2, 2, 2, 3, 3])
    label = np.array([0, 1, 0, 0, 0, 1, 1, 1, 0, 0])
    score = np.array([0.1, 0.9] + [0.5] * 6 + [0.2, 0.8])
    found = gauc(shopper, score, label)
    assert found.value == pytest.approx(0.625)  # AUC 1 with 2 rows, 0.5 with 6 rows
    assert (found.num_groups, found.num_skipped) == (2, 1)
    assert gauc(shopper, score, label, "equal").value == pytest.approx(0.75)
    assert gauc(shopper, score, label, "clicks").value == pytest.approx((1 + 3 * 0.5) / 4)


def test_gauc_of_one_shopper_is_auc_and_of_constant_scores_one_half():
    score, label, shopper = columns()
    assert gauc(np.zeros(len(score), int), score, label).value == pytest.approx(auc(score, label), abs=1e-12)
    assert gauc(shopper, np.zeros(len(score)), label).value == 0.5
    assert math.isnan(gauc(np.arange(4), np.ones(4), np.ones(4)).value)
    assert math.isnan(gauc(np.zeros(0, int), np.zeros(0), np.zeros(0)).value)


@pytest.mark.parametrize("decimals", [1, 12])
def test_the_order_of_rows_and_the_names_of_shoppers_change_no_bit_of_any_metric(decimals):
    score, label, shopper = columns(num=5000, decimals=decimals)
    p_click = 1 / (1 + np.exp(-score))
    wanted = click_metrics(p_click, label, shopper)
    rng = np.random.default_rng(1)
    for _ in range(5):
        shuffled = rng.permutation(len(score))
        renamed = rng.permutation(25)[shopper] * 10**12
        assert click_metrics(p_click[shuffled], label[shuffled], renamed[shuffled]) == wanted


def test_ties_are_neither_losses_nor_wins():
    score, label, shopper = columns(num=3000, decimals=1)
    as_losses = score - 1e-6 * label  # a click just below every non-click at its score
    as_wins = score + 1e-6 * label
    lost, won = (gauc(shopper, one, label).value for one in (as_losses, as_wins))
    assert gauc(shopper, score, label).value == pytest.approx((lost + won) / 2, abs=1e-12)
    assert won - lost > 0.01


def test_an_unweighted_gauc_is_another_number_and_is_named():
    rng = np.random.default_rng(0)
    shopper = np.repeat(np.arange(40), np.where(np.arange(40) < 20, 5, 100))  # few impressions, or many
    label = (rng.random(len(shopper)) < 0.3).astype(int)
    score = np.where(shopper < 20, rng.normal(size=len(shopper)), rng.normal(label * 2.0))
    by = {weighting: gauc(shopper, score, label, weighting) for weighting in ("impressions", "equal")}
    assert by["impressions"].value - by["equal"].value > 0.05
    assert {name: one.weighting for name, one in by.items()} == {
        "impressions": "impressions",
        "equal": "equal",
    }
    assert by["equal"].num_groups + by["equal"].num_skipped == 40
    metrics = click_metrics(1 / (1 + np.exp(-score)), label, shopper)
    assert metrics["gauc"] == by["impressions"].value
    assert metrics["gauc_equal"] == by["equal"].value
    assert metrics["gauc_clicks"] == gauc(shopper, score, label, "clicks").value


def test_without_shoppers_there_is_no_gauc():
    score, label, shopper = columns()
    with_shoppers = click_metrics(score, label, shopper)
    without = click_metrics(score, label)
    assert {name for name in with_shoppers if name not in without} == {
        "gauc", "gauc_equal", "gauc_clicks", "gauc_shoppers", "gauc_skipped",
    }  # fmt: skip
    assert without == {name: with_shoppers[name] for name in without}


def test_a_gauc_inside_each_batch_would_be_another_number():
    score, label, shopper = columns(num=2000, decimals=1)
    batches = [
        gauc(shopper[i : i + 50], score[i : i + 50], label[i : i + 50]).value for i in range(0, 2000, 50)
    ]
    assert abs(np.nanmean(batches) - gauc(shopper, score, label).value) > 0.005


def test_log_loss_and_normalized_entropy_match_their_definitions():
    score, label, _ = columns()
    p_click = 1 / (1 + np.exp(-score))
    assert log_loss(p_click, label) == pytest.approx(reference_log_loss(label, p_click), rel=1e-12)
    base = np.full(len(label), label.mean())
    assert normalized_entropy(base, label) == pytest.approx(1.0)
    assert math.isfinite(log_loss(np.array([0.0, 1.0]), np.array([1, 0])))
    assert math.isnan(normalized_entropy(np.ones(3), np.zeros(3)))
    assert math.isnan(log_loss(np.zeros(0), np.zeros(0)))


def test_pcoc_is_predicted_over_observed_clicks():
    assert pcoc(np.array([0.5, 0.5, 0.2]), np.array([1, 0, 0])) == pytest.approx(1.2)
    assert math.isnan(pcoc(np.array([0.5]), np.array([0])))


def test_calibration_bins_hold_equal_rows_and_add_up():
    rng = np.random.default_rng(0)
    p_click = rng.beta(1, 20, 10_000)
    label = rng.random(10_000) < p_click
    found = calibration_bins(p_click, label)
    assert [one.impressions for one in found] == [1000] * 10
    assert sum(one.clicks for one in found) == label.sum()
    assert sum(one.predicted for one in found) == pytest.approx(p_click.sum())
    assert all(a.high <= b.low for a, b in pairwise(found))
    in_first = p_click <= found[0].high
    assert found[0].pcoc == pytest.approx(p_click[in_first].sum() / label[in_first].sum())
    with pytest.raises(DataError, match="got 0"):
        calibration_bins(p_click, label, 0)
    assert calibration_bins(p_click[:0], label[:0]) == []


def test_equal_predictions_share_a_calibration_bin_in_any_order():
    p_click, label = np.repeat([0.1, 0.3], [8, 2]), np.arange(10) < 1
    found = calibration_bins(p_click, label, 5)
    assert [(one.low, one.high, one.impressions, one.clicks) for one in found] == [
        (0.1, 0.1, 8, 1),
        (0.3, 0.3, 2, 0),
    ]
    assert math.isnan(found[1].pcoc)
    assert calibration_error(p_click, label, 5) == pytest.approx((8 * 0.025 + 2 * 0.3) / 10)
    assert calibration_error(p_click[::-1], label[::-1], 5) == calibration_error(p_click, label, 5)
    assert math.isnan(calibration_error(p_click[:0], label[:0]))


def test_calibration_error_sees_what_pcoc_forgives():
    rng = np.random.default_rng(0)
    truth = rng.choice([0.05, 0.15], 200_000)
    label = rng.random(200_000) < truth
    flat = np.full(200_000, 0.1) + 1e-9 * truth  # right on the whole, wrong on each half
    assert pcoc(flat, label) == pytest.approx(1, abs=0.02)
    assert calibration_error(flat, label) == pytest.approx(0.05, abs=0.003)
    assert calibration_error(truth, label) < 0.003


def test_weighted_auc_counts_a_group_as_often_as_it_was_drawn():
    score, label, shopper = columns(num=150, decimals=1)
    statistic, num_groups = weighted_auc(score, label, shopper)
    weights = np.random.default_rng(2).poisson(1.0, (5, num_groups)).astype(np.float32)
    for weight, found in zip(weights, statistic(weights), strict=True):
        assert found == pytest.approx(brute_force(score, label, weight[shopper].astype(float)), abs=1e-9)
    assert math.isnan(statistic(np.zeros((1, num_groups), np.float32))[0])


def test_paired_differences_see_a_real_gain_and_no_gain_where_there_is_none():
    rng = np.random.default_rng(0)
    shopper, label = rng.integers(0, 300, 6000), (rng.random(6000) < 0.1).astype(int)
    noise = rng.normal(size=6000)
    weak, strong = label * 0.5 + noise, label * 0.8 + noise
    for difference, metric in ((auc_difference, auc), (gauc_difference, None)):
        gain = difference(weak, strong, label, shopper)
        assert gain.excludes_zero
        assert gain.low > 0
        if metric:
            assert gain.value == pytest.approx(metric(strong, label) - metric(weak, label), abs=1e-12)
        same = difference(weak, weak, label, shopper)
        assert (same.value, same.standard_error) == (0, 0)
    alone = auc_interval(weak, label, shopper)
    assert alone.low < alone.value < alone.high
    assert auc_difference(weak, strong, label, shopper).standard_error < 0.5 * alone.standard_error


def slow_delong(scores, signs, label):
    """The covariance of structural components, pair by pair."""
    clicks, others = np.flatnonzero(label), np.flatnonzero(1 - label)
    won = np.zeros((len(clicks), len(others)))
    for score, sign in zip(scores, signs, strict=True):
        gap = score[clicks][:, None] - score[others]
        won += sign * ((gap > 0) + 0.5 * (gap == 0))
    return won.mean(), won.mean(1).var(ddof=1) / len(clicks) + won.mean(0).var(ddof=1) / len(others)


def test_delong_is_the_variance_of_structural_components():
    score, label, _ = columns(num=300, decimals=1)
    other = np.round(score + np.random.default_rng(4).normal(size=300), 1)
    for found, (scores, signs) in (
        (delong(score, label), ([score], [1])),
        (delong_difference(score, other, label), ([score, other], [-1, 1])),
    ):
        value, variance = slow_delong(scores, signs, label)
        assert found.value == pytest.approx(value, abs=1e-12)
        assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    rows = np.random.default_rng(0).permutation(300)
    assert delong(score, label, rows).standard_error == pytest.approx(delong(score, label).standard_error)


def test_closed_forms_over_shoppers_agree_with_the_bootstrap_and_ignore_repeated_rows():
    rng = np.random.default_rng(1)
    shopper = rng.integers(0, 300, 9000)
    taste = rng.normal(0, 1.0, 300)[shopper]  # what the rows of a shopper share
    label = (rng.random(9000) < 1 / (1 + np.exp(2.2 - taste))).astype(int)
    before, after = taste + rng.normal(0, 1.5, 9000), taste + 0.3 * label + rng.normal(0, 1.5, 9000)
    for difference in (auc_difference, gauc_difference):
        drawn = difference(before, after, label, shopper, replicates=600)
        closed = difference(before, after, label, shopper, replicates=0)
        assert closed.value == pytest.approx(drawn.value, abs=1e-12)
        assert closed.standard_error == pytest.approx(drawn.standard_error, rel=0.15)
    drawn, closed = (auc_interval(after, label, shopper, replicates) for replicates in (600, 0))
    assert closed.standard_error == pytest.approx(drawn.standard_error, rel=0.15)
    assert closed.standard_error > 1.3 * delong(after, label).standard_error
    twice = [np.tile(column, 2) for column in (after, label, shopper)]
    assert delong(*twice).standard_error == pytest.approx(closed.standard_error, rel=1e-9)


def test_p_values_of_no_difference_are_uniform():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        shopper, label = rng.integers(0, 80, 1200), (rng.random(1200) < 0.2).astype(int)
        hint = 0.5 * label + rng.normal(0, 0.7, 80)[shopper]
        before, after = hint + rng.normal(size=(2, 1200))
        p_values.append(delong_difference(before, after, label, shopper).p_value)
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_differences_of_one_class_are_undefined():
    score, shopper = np.arange(6.0), np.arange(6) % 3
    for label in (np.zeros(6), np.ones(6)):
        assert math.isnan(delong(score, label, shopper).value)
        for replicates in (0, 50):
            assert math.isnan(auc_difference(score, -score, label, shopper, replicates).value)
            assert math.isnan(gauc_difference(score, -score, label, shopper, replicates).p_value)
    alone = delong(score, np.arange(6) > 4, shopper)  # one click: no variance over clicks
    assert alone.value == 1
    assert math.isnan(alone.standard_error)
