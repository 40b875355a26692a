"""Metrics: against brute force, scikit-learn and worked examples; ties, empty and one-class columns."""

import math
from itertools import product

import numpy as np
import pytest
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import roc_auc_score

from moontide.foundation.errors import DataError
from moontide.ranking.metrics import (
    auc,
    auc_difference,
    auc_interval,
    click_metrics,
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


def test_the_order_of_rows_changes_no_metric():
    score, label, shopper = columns(decimals=1)
    p_click = 1 / (1 + np.exp(-score))
    shuffled = np.random.default_rng(1).permutation(len(score))
    assert click_metrics(p_click, label, shopper) == pytest.approx(
        click_metrics(p_click[shuffled], label[shuffled], shopper[shuffled]), abs=1e-12
    )


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
