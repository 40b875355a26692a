"""Statistics: against closed forms and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from moontide.foundation.errors import DataError
from moontide.foundation.statistics import (
    Interval,
    benjamini_hochberg,
    bootstrap_interval,
    bootstrap_statistic,
    bootstrap_weights,
    compare_ratios,
    cuped,
    exact_sum,
    holm,
    normal_interval,
    paired_difference,
    ratio_delta,
    resolvable_difference,
    wilson_interval,
)


def test_the_bootstrap_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    for kind in ("poisson", "multinomial"):
        interval = bootstrap_interval(values, replicates=2000, kind=kind)
        assert interval.value == pytest.approx(values.mean())
        assert interval.standard_error == pytest.approx(values.std() / math.sqrt(2000), rel=0.08)
        assert interval.low < interval.value < interval.high


def test_multinomial_weights_draw_exactly_as_many_groups_and_poisson_weights_on_average():
    rng = np.random.default_rng(0)
    assert (bootstrap_weights(50, 20, rng, "multinomial").sum(1) == 50).all()
    assert bootstrap_weights(50, 2000, rng).mean() == pytest.approx(1, abs=0.02)
    with pytest.raises(DataError, match="got 'jackknife'"):
        bootstrap_weights(5, 5, rng, "jackknife")


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).normal(size=300)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_repeating_every_row_within_its_group_does_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=400)
    once = bootstrap_interval(values)
    groups = np.repeat(np.arange(400), 10)
    grouped = bootstrap_interval(np.repeat(values, 10), groups)
    ignored = bootstrap_interval(np.repeat(values, 10))
    assert grouped.standard_error == pytest.approx(once.standard_error, rel=1e-6)
    assert ignored.standard_error < 0.5 * once.standard_error


def test_chunks_of_replicates_change_nothing(monkeypatch):
    values = np.random.default_rng(0).normal(size=300)
    whole = bootstrap_interval(values, replicates=100)
    monkeypatch.setattr("moontide.foundation.statistics.CHUNK_CELLS", 1000)
    chunked = bootstrap_interval(values, replicates=100)
    assert vars(chunked) == pytest.approx(vars(whole), rel=1e-12)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits_bootstrap = hits_delta = 0
    for trial in range(300):
        shown = rng.integers(1, 30, 120)
        rate = rng.beta(2, 38, 120)
        clicked = rng.binomial(shown, rate)
        interval = ratio_delta(clicked, shown)
        hits_delta += interval.low <= 0.05 <= interval.high
        sample = rng.normal(0.05, 1, 80)
        interval = bootstrap_interval(sample, replicates=300, seed=trial)
        hits_bootstrap += interval.low <= 0.05 <= interval.high
    assert 0.88 < hits_delta / 300 < 0.99
    assert 0.88 < hits_bootstrap / 300 < 0.99


def test_a_paired_difference_cancels_what_both_share():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 1000)
    after = base + 0.1 + rng.normal(0, 0.1, 1000)
    interval = paired_difference(base, after)
    assert interval.excludes_zero
    assert interval.value == pytest.approx(0.1, abs=0.02)
    assert interval.standard_error < 0.01
    assert paired_difference(base, base).standard_error == 0
    with pytest.raises(DataError, match="score the same rows"):
        paired_difference(base, after[:10])


def test_the_delta_method_of_a_ratio_without_groups_is_the_binomial_error():
    clicked = np.zeros(1000)
    clicked[:37] = 1
    interval = ratio_delta(clicked, np.ones(1000))
    assert interval.value == pytest.approx(0.037)
    assert interval.standard_error == pytest.approx(math.sqrt(0.037 * 0.963 / 999), rel=1e-9)


def test_the_delta_method_agrees_with_the_bootstrap_over_shoppers():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 500, 20_000)
    clicked = rng.random(20_000) < rng.beta(1, 19, 500)[groups]
    delta = ratio_delta(clicked, np.ones(20_000), groups)
    drawn = bootstrap_interval(clicked, groups, replicates=2000)
    assert delta.standard_error == pytest.approx(drawn.standard_error, rel=0.1)
    assert delta.standard_error > 1.5 * ratio_delta(clicked, np.ones(20_000)).standard_error


def test_an_experiment_without_a_difference_gives_uniform_p_values():
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(400):
        shown = rng.integers(1, 20, (2, 200))
        clicked = rng.binomial(shown, rng.beta(2, 38, (2, 200)))
        p_values.append(compare_ratios(clicked[0], shown[0], clicked[1], shown[1]).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_an_experiment_with_a_difference_reports_it_both_ways():
    ones = np.ones(10_000)
    a, b = np.arange(10_000) < 400, np.arange(10_000) < 500
    found = compare_ratios(a, ones, b, ones)
    assert (found.value_a, found.value_b) == (0.04, 0.05)
    assert found.difference.value == pytest.approx(0.01)
    assert found.lift.value == pytest.approx(0.25)
    assert found.difference.excludes_zero
    assert found.lift.excludes_zero
    z = 0.01 / math.sqrt((0.04 * 0.96 + 0.05 * 0.95) / 9999)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(z), rel=1e-6)


def test_arms_without_clicks_have_no_lift_and_arms_without_impressions_are_refused():
    found = compare_ratios(np.zeros(5), np.ones(5), np.zeros(5), np.ones(5))
    assert math.isnan(found.lift.value)
    assert found.p_value == 1.0
    with pytest.raises(DataError, match="no impressions"):
        ratio_delta(np.zeros(3), np.zeros(3))


def test_the_resolvable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    size = resolvable_difference(1.0)
    found = np.abs(rng.normal(size, 1.0, 20_000)) > stats.norm.ppf(0.975)
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_wilson_intervals_match_the_score_test_and_stay_inside_zero_and_one():
    reference = stats.binomtest(7, 50).proportion_ci(0.95, method="wilson")
    interval = wilson_interval(7, 50)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), rel=1e-9)
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == pytest.approx(1.0, abs=1e-12)
    assert wilson_interval(10, 10).high <= 1.0
    assert math.isnan(wilson_interval(0, 0).value)
    with pytest.raises(DataError, match="got 5 of 3"):
        wilson_interval(5, 3)


def test_one_group_has_a_value_but_no_interval_and_none_is_refused():
    interval = bootstrap_interval(np.ones(4), groups=np.zeros(4))
    assert interval.value == 1
    assert math.isnan(interval.standard_error)
    with pytest.raises(DataError, match="at least one group"):
        bootstrap_interval(np.array([]))
    with pytest.raises(DataError, match="got 95"):
        bootstrap_interval(np.ones(4), level=95)
    with pytest.raises(DataError, match="every row needs a group"):
        bootstrap_interval(np.ones(4), groups=np.zeros(3))


def test_any_statistic_of_group_weights_can_be_bootstrapped():
    values = np.random.default_rng(0).normal(size=200) ** 2

    def second_moment(weight_RG):
        return (weight_RG @ values) / weight_RG.sum(1)

    interval = bootstrap_statistic(second_moment, 200, replicates=1000)
    assert interval.value == pytest.approx(values.mean(), rel=1e-5)
    assert interval.standard_error == pytest.approx(values.std() / math.sqrt(200), rel=0.15)


def test_the_past_takes_noise_out_of_a_comparison_and_no_difference():
    rng = np.random.default_rng(5)
    shown, before = rng.integers(20, 200, 2_000).astype(float), rng.integers(50, 400, 2_000).astype(float)
    rate = rng.beta(4, 60, 2_000)
    is_b = rng.random(2_000) < 0.5
    clicks, past = (
        rng.binomial(shown.astype(int), rate * np.where(is_b, 1.1, 1.0)),
        rng.binomial(before.astype(int), rate),
    )
    plain = compare_ratios(clicks[~is_b], shown[~is_b], clicks[is_b], shown[is_b])
    better = cuped(clicks.astype(float), shown, past.astype(float), before)
    adjusted = compare_ratios(better[~is_b], shown[~is_b], better[is_b], shown[is_b])
    assert better.sum() == pytest.approx(clicks.sum())
    assert adjusted.difference.standard_error < 0.8 * plain.difference.standard_error
    assert abs(adjusted.lift.value - 0.1) < 3 * adjusted.lift.standard_error


def test_a_past_that_says_nothing_changes_nothing():
    clicks, shown, none = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0]), np.zeros(3)
    assert cuped(clicks, shown, none, none).tolist() == clicks.tolist()


def test_a_p_value_says_how_far_from_zero_an_interval_lies():
    interval = normal_interval(1.96, 1.0)
    assert interval.p_value == pytest.approx(0.05, abs=1e-4)
    assert interval.low == pytest.approx(0, abs=1e-4)
    assert normal_interval(-3.0, 2.0).p_value == pytest.approx(2 * stats.norm.sf(1.5))
    assert Interval(0.0, 0.0, 0.0, 0.0).p_value == 1
    assert Interval(0.5, 0.5, 0.5, 0.0).p_value == 0
    assert math.isnan(Interval(0.5, math.nan, math.nan, math.nan).p_value)


def test_adjusted_p_values_match_their_definitions():
    p = np.array([0.02, 0.9, 0.001, math.nan, 0.04, 0.04])
    tested = p[~np.isnan(p)]
    found = benjamini_hochberg(p)
    assert found[~np.isnan(p)] == pytest.approx(stats.false_discovery_control(tested))
    assert math.isnan(found[3])
    assert holm(p) == pytest.approx([0.08, 0.9, 0.005, math.nan, 0.12, 0.12], nan_ok=True)
    for adjust in (holm, benjamini_hochberg):
        assert (adjust(tested) >= tested).all()
        assert adjust(np.array([0.03])).tolist() == [0.03]
        assert adjust(np.array([])).tolist() == []
        assert np.isnan(adjust(np.array([math.nan]))).all()
        with pytest.raises(DataError, match="between 0 and 1"):
            adjust(np.array([0.5, 1.2]))


def test_holm_keeps_a_false_alarm_among_many_tests_rare_and_benjamini_hochberg_finds_more():
    rng = np.random.default_rng(0)
    alarms = [(holm(rng.random(20)) < 0.05).any() for _ in range(1000)]
    assert 0.03 < np.mean(alarms) < 0.07
    found = {holm: 0, benjamini_hochberg: 0}
    false = 0
    for _ in range(200):
        p = np.r_[2 * stats.norm.sf(np.abs(rng.normal(3, 1, 10))), rng.random(10)]
        for adjust in found:
            found[adjust] += int((adjust(p)[:10] < 0.05).sum())
        false += int((benjamini_hochberg(p)[10:] < 0.05).sum())
    assert found[benjamini_hochberg] > 1.1 * found[holm]
    assert false / (false + found[benjamini_hochberg]) < 0.05


def test_exact_sums_do_not_depend_on_order_or_length():
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(size=100_001), rng.lognormal(0, 8, 999), -rng.random(500) * 1e-9, 1e17, -1e17]
    assert exact_sum(values) == exact_sum(rng.permutation(values)) == exact_sum(values[::-1])
    assert exact_sum(values) == pytest.approx(math.fsum(values), rel=1e-15)
    assert exact_sum(rng.random(1000).astype(np.float32)) > 400
    assert exact_sum(np.array([1e17, 0.1, -1e17])) == 0.1
    assert exact_sum(np.zeros(0)) == 0.0
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match="only finite numbers"):
            exact_sum(np.array([1.0, bad]))
