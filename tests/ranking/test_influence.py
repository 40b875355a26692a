"""Pseudo-values: their mean is the metric, their spread its standard error, and pairs cancel."""

import numpy as np
import pytest

from moontide.ranking.influence import auc_by_shopper, gauc_by_shopper
from moontide.ranking.metrics import auc, auc_difference, gauc


def log_of(num=4_000, shoppers=150, seed=0, decimals=2):
    rng = np.random.default_rng(seed)
    shopper = rng.integers(0, shoppers, num) * 3
    taste = rng.normal(size=3 * shoppers)[shopper]
    p = 1 / (1 + np.exp(2.2 - rng.normal(size=num) - 0.5 * taste))
    label = rng.random(num) < p
    return np.round(p + 0.1 * rng.normal(size=num), decimals), label, shopper


def test_the_mean_of_pseudo_values_is_the_metric():
    score, label, shopper = log_of()
    shoppers, value = auc_by_shopper(score, label, shopper)
    assert value.mean() == pytest.approx(auc(score, label), abs=1e-12)
    assert shoppers.tolist() == sorted(set(shopper.tolist()))
    shoppers, value = gauc_by_shopper(score, label, shopper)
    assert value.mean() == pytest.approx(gauc(shopper, score, label).value, abs=1e-12)
    assert len(shoppers) == gauc(shopper, score, label).num_groups


def test_a_pseudo_value_is_what_leaving_the_shopper_out_changes_to_first_order():
    score, label, shopper = log_of()
    shoppers, value = auc_by_shopper(score, label, shopper)
    whole = auc(score, label)
    left_out = [
        len(shoppers) * whole - (len(shoppers) - 1) * auc(score[keep], label[keep])
        for keep in (shopper != one for one in shoppers[:40])
    ]
    assert np.corrcoef(left_out, value[:40])[0, 1] > 0.999
    np.testing.assert_allclose(left_out, value[:40], atol=0.05)


def test_the_spread_of_paired_differences_is_that_of_the_bootstrap():
    score, label, shopper = log_of()
    better = score + 0.05 * label
    difference = auc_by_shopper(better, label, shopper)[1] - auc_by_shopper(score, label, shopper)[1]
    interval = auc_difference(score, better, label, shopper, replicates=400)
    assert difference.mean() == pytest.approx(interval.value, abs=1e-12)
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    assert error == pytest.approx(interval.standard_error, rel=0.2)


def test_one_class_has_no_value_and_equal_scores_have_one_half():
    score, label, shopper = log_of(200)
    assert np.isnan(auc_by_shopper(score, np.zeros(200, bool), shopper)[1]).all()
    assert len(gauc_by_shopper(score, np.zeros(200, bool), shopper)[1]) == 0
    assert auc_by_shopper(np.zeros(200), label, shopper)[1].mean() == pytest.approx(0.5)
