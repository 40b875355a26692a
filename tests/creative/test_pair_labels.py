"""The pair rule on whole numbers, how sure a label is, and the noise table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.creative.labels import (
    compare_rates,
    has_gap,
    impressions_needed,
    label_confidence,
    p_value,
    wrong_label_rate,
)

counts = st.integers(1, 400).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num)))


def test_a_gap_of_exactly_sixty_percent_fails_and_one_above_it_passes():
    assert not has_gap(100, 10_000, 160, 10_000)
    assert has_gap(100, 10_000, 161, 10_000)
    assert not has_gap(10, 1_000, 32, 2_000)  # 1.0 % and 1.6 %, of different impressions


def test_the_base_of_the_gap_decides():
    assert has_gap(100, 10_000, 161, 10_000, base="lower")
    assert not has_gap(100, 10_000, 161, 10_000, base="higher")  # 61 of 161: 38 %
    assert not has_gap(100, 10_000, 161, 10_000, base="mean")  # 61 of 130.5: 47 %
    assert not has_gap(100, 10_000, 250, 10_000, base="higher")  # exactly 60 %
    assert has_gap(100, 10_000, 251, 10_000, base="higher")
    assert not has_gap(35, 5_000, 65, 5_000, base="mean")  # 30 of 50: exactly 60 %
    assert has_gap(35, 5_000, 66, 5_000, base="mean")


def test_counts_are_compared_as_whole_numbers_where_floats_err():
    assert 1.1 * 3 > 3.3
    assert not has_gap(30, 1_000, 33, 1_000, min_gap=0.1)
    big = 3 * 10**15
    assert not has_gap(big, 10**17, big * 8 // 5, 10**17)
    assert has_gap(big, 10**17, big * 8 // 5 + 1, 10**17)


def test_without_clicks_there_is_no_gap_to_the_lower_rate():
    assert not has_gap(0, 1_000, 0, 1_000, base="mean")
    assert not has_gap(0, 1_000, 50, 1_000)
    assert has_gap(0, 1_000, 50, 1_000, base="higher")


@given(counts, counts, st.sampled_from(["lower", "higher", "mean"]))
def test_gap_and_order_do_not_depend_on_which_comes_first(a, b, base):
    assert has_gap(*a, *b, base=base) == has_gap(*b, *a, base=base)
    assert compare_rates(*a, *b) == -compare_rates(*b, *a)


@given(counts)
def test_equal_counts_leave_the_label_open(a):
    assert label_confidence(*a, *a) == 0.5
    assert p_value(*a, *a) == 1.0


@settings(deadline=None)
@given(counts, counts)
def test_the_chances_of_both_creatives_sum_to_one(a, b):
    assert label_confidence(*a, *b) + label_confidence(*b, *a) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("w", "lo"),
    [((3, 100), (9, 90)), ((2, 60), (0, 50)), ((30, 1000), (20, 1000)), ((500, 9_000), (450, 9_100))],
)
def test_label_confidence_is_the_share_of_posterior_draws(w, lo):
    rng = np.random.default_rng(0)
    drawn = [rng.beta(1 + clicks, 1 + shown - clicks, 400_000) for clicks, shown in (w, lo)]
    assert label_confidence(*w, *lo) == pytest.approx((drawn[0] > drawn[1]).mean(), abs=0.004)


def test_label_confidence_stays_exact_for_large_counts():
    """At a million impressions the posterior is normal: the z-score of the rates gives the same."""
    assert label_confidence(30_300, 10**6, 30_000, 10**6) == pytest.approx(
        1 - p_value(30_300, 10**6, 30_000, 10**6) / 2, abs=1e-5
    )


NOISE = [  # base rate, true gap, impressions, share of wrong labels in percent, impressions for 5 % wrong
    (0.01, 0.60, 1_000, 11.8, 1_928), (0.02, 0.60, 1_000, 4.6, 951), (0.03, 0.60, 1_000, 1.9, 625),
    (0.03, 0.20, 1_000, 22.6, 4_796), (0.03, 0.20, 10_000, 0.9, 4_796),
    (0.03, 0.10, 1_000, 35.0, 18_340), (0.03, 0.10, 10_000, 11.2, 18_340),
    (0.03, 0.05, 1_000, 42.3, 71_680), (0.03, 0.05, 10_000, 26.9, 71_680),
]  # fmt: skip


@pytest.mark.parametrize(("base", "gap", "shown", "wrong", "needed"), NOISE)
def test_the_noise_table_is_reproduced_by_formula_and_by_simulation(base, gap, shown, wrong, needed):
    assert 100 * wrong_label_rate(base, shown, base * (1 + gap), shown) == pytest.approx(wrong, abs=0.05)
    assert impressions_needed(base, gap) == pytest.approx(needed, rel=1e-3)
    rng = np.random.default_rng(1)
    low, high = (rng.binomial(shown, p, 200_000) for p in (base, base * (1 + gap)))
    simulated = (low > high).mean() + (low == high).mean() / 2  # equal counts: a coin
    # the normal approximation is off by up to a third of a point at 10 clicks; Monte Carlo by 0.1
    assert 100 * simulated == pytest.approx(wrong, abs=0.5)


def test_the_z_test_has_its_level_when_rates_are_equal():
    rng = np.random.default_rng(2)
    pairs = rng.binomial(2_000, 0.03, (4_000, 2))
    share = np.mean([p_value(int(a), 2_000, int(b), 2_000) < 0.05 for a, b in pairs])
    assert share == pytest.approx(0.05, abs=0.01)
    assert p_value(0, 100, 0, 100) == 1.0
