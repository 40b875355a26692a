"""Bandit and prior by value; in a small market: regret, propensities, right and wrong priors, bad counts."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from moontide.creative.bandit import BanditSettings, BetaBandit
from moontide.creative.best_of import p_best, top_two
from moontide.creative.prior import PriorExport, PriorSettings, export_priors, fit_eta, prior_means
from moontide.creative.records import CreativePair, CreativeStat
from moontide.foundation.errors import CheckpointError, DataError, SettingsError

SHAPE = (30, 4)


def true_rates(seed: int = 0) -> np.ndarray:
    """Rates around 3 %, creatives of a product a factor of two apart."""
    rng = np.random.default_rng(seed)
    return 0.03 * np.exp(rng.normal(0, 0.3, (SHAPE[0], 1)) + rng.normal(0, 0.5, SHAPE))


def regret(bandit: BetaBandit, rates: np.ndarray, days: int = 25, a_day: int = 60, seed: int = 0) -> float:
    """Clicks lost against the best creative of each product, as a share of what that would have brought."""
    rng = np.random.default_rng(seed)
    lost = could = 0.0
    for _ in range(days):
        rows = np.repeat(np.arange(len(rates)), a_day)
        slots = bandit.choose(rows).slot
        rate = rates[rows, slots]
        bandit.update(rows, slots, np.ones(len(rows)), rng.random(len(rows)) < rate)
        lost += float((rates.max(1)[rows] - rate).sum())
        could += float(rates.max(1)[rows].sum())
    return lost / could


def flat(settings: BanditSettings | None = None, mean: float = 0.03, kappa: float = 10.0) -> BetaBandit:
    return BetaBandit(np.full(SHAPE, kappa * mean), np.full(SHAPE, kappa * (1 - mean)), settings)


def informed(log_rates: np.ndarray, kappa: float, explore: float = 0.05) -> BetaBandit:
    """A bandit whose prior has the given log rates up to each product's mean."""
    found = [
        one
        for row, t in enumerate(log_rates)
        for one in export_priors(
            f"p{row}", [f"p{row}.{i}" for i in range(len(t))], t, 0.03, PriorSettings(kappa=kappa)
        )
    ]
    return BetaBandit.of_priors(found, BanditSettings(explore=explore))


# --- chances ---


def exact_p_first(a: int, b: int, c: int, d: int) -> float:
    """P(Beta(a, b) > Beta(c, d)) for whole a, by the finite sum of Evan Miller."""
    return sum(
        math.exp(betaln(c + i, b + d) - math.log(b + i) - betaln(1 + i, b) - betaln(c, d)) for i in range(a)
    )


@pytest.mark.parametrize(
    "case", [(1, 1, 1, 1), (2, 1, 1, 1), (3, 90, 5, 95), (40, 960, 20, 980), (1, 200, 9, 40)]
)
def test_the_chance_to_be_best_of_two_is_the_finite_sum(case):
    a, b, c, d = case
    found = p_best(np.array([[a, c]], float), np.array([[b, d]], float))[0]
    assert found[0] == pytest.approx(exact_p_first(a, b, c, d), abs=1e-7)
    assert found.sum() == pytest.approx(1)


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_chance_to_be_best_is_how_often_draws_are(seed):
    rng = np.random.default_rng(seed)
    alpha, beta = rng.uniform(0.05, 30, (1, 5)), rng.uniform(0.5, 500, (1, 5))
    drawn = rng.beta(alpha, beta, (40_000, 5)).argmax(1)
    found = p_best(alpha, beta)[0]
    assert found == pytest.approx(np.bincount(drawn, minlength=5) / 40_000, abs=0.013)


def test_equal_beliefs_are_equally_likely_and_empty_places_have_no_chance():
    is_real = np.array([[True, True, False], [True, True, True]])
    found = p_best(np.full((2, 3), 0.4), np.full((2, 3), 20.0), is_real)
    assert found[0] == pytest.approx([0.5, 0.5, 0])
    assert found[1] == pytest.approx([1 / 3] * 3)


def test_extreme_beliefs_still_add_up_to_one():
    alpha = np.array([[1e-4, 1e-4, 1e-4], [1e5, 2.0, 1e-3], [5e5, 5e5, 5e5]])
    beta = np.array([[1e-3, 1.0, 200.0], [1e7, 100.0, 1.0], [1e7, 1e7, 1.001e7]])
    found = p_best(alpha, beta)
    assert np.isfinite(found).all()
    assert found.sum(1) == pytest.approx(np.ones(3))
    assert found[2, 0] == pytest.approx(found[2, 1])


def test_top_two_has_the_value_of_its_formula_and_of_its_draws():
    a = np.array([[0.6, 0.3, 0.1]])
    found = top_two(a, np.ones((1, 3), bool), 0.5)[0]
    first = 0.5 * 0.6 + 0.5 * (0.3 * 0.6 / 0.7 + 0.1 * 0.6 / 0.9)
    assert found[0] == pytest.approx(first)
    assert found.sum() == pytest.approx(1)
    sure = top_two(np.array([[1.0, 0.0, 0.0]]), np.ones((1, 3), bool), 0.5)[0]
    assert sure == pytest.approx([0.5, 0.25, 0.25])
    alone = top_two(np.array([[1.0, 0.0]]), np.array([[True, False]]), 0.5)[0]
    assert alone == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("rule", ["thompson", "top_two"])
def test_logged_propensities_add_up_to_one_and_are_how_often_each_was_chosen(rule):
    rng = np.random.default_rng(1)
    shape = (3, 4)
    is_real = np.array([[True] * 4, [True, True, True, False], [True, False, False, False]])
    bandit = BetaBandit(
        rng.uniform(1, 9, shape), rng.uniform(50, 90, shape), BanditSettings(rule=rule, explore=0.2), is_real
    )
    p = bandit.p_choice()
    assert p.sum(1) == pytest.approx(np.ones(3))
    assert p[is_real].min() > 0.05 * (1 - 1e-9)
    assert not p[~is_real].any()
    rows = np.repeat(np.arange(3), 40_000)
    found = bandit.choose(rows)
    assert found.p_creative == pytest.approx(p[rows, found.slot])
    counts = np.zeros(shape)
    np.add.at(counts, (rows, found.slot), 1 / 40_000)
    assert counts == pytest.approx(p, abs=0.011)
    assert found.is_explored.mean() == pytest.approx(0.2, abs=0.01)
    bucket = np.bincount(found.slot[found.is_explored & (rows == 0)], minlength=4)
    assert bucket / bucket.sum() == pytest.approx([0.25] * 4, abs=0.025)


def test_clicks_weighted_by_logged_propensities_tell_every_creatives_rate():
    rates, rng = np.array([[0.5, 0.3, 0.1]]), np.random.default_rng(0)
    bandit = BetaBandit(np.ones((1, 3)), np.ones((1, 3)), BanditSettings(explore=0.3))
    total, num = np.zeros(3), 0
    for _ in range(40):
        rows = np.zeros(500, int)
        found = bandit.choose(rows)
        is_click = rng.random(500) < rates[0, found.slot]
        np.add.at(total, found.slot, is_click / found.p_creative)
        bandit.update(rows, found.slot, np.ones(500), is_click)
        num += 500
    assert total / num == pytest.approx(rates[0], abs=0.03)


# --- learning ---


@pytest.mark.parametrize("rule", ["thompson", "top_two"])
def test_its_regret_is_below_that_of_uniform_choice(rule):
    rates = true_rates()
    uniform = regret(flat(BanditSettings(explore=1.0)), rates)
    assert regret(flat(BanditSettings(rule=rule)), rates) < 0.75 * uniform


def test_a_right_prior_lowers_regret_and_a_wrong_one_with_a_capped_weight_is_overcome():
    rates = true_rates()
    t = np.log(rates)
    alone = regret(flat(), rates)
    right, wrong = informed(t, 200), informed(-t, 10_000)
    assert regret(right, rates) < 0.7 * alone
    early = regret(wrong, rates, days=5)
    later = regret(wrong, rates, days=150, a_day=100)
    last = regret(wrong, rates, days=20)
    assert (wrong.alpha0 + wrong.beta0).max() == pytest.approx(200)
    assert last < 0.35 * early
    assert last < later < early


def test_top_two_stops_at_the_best_but_never_by_its_prior_alone():
    settings = BanditSettings(rule="top_two", explore=0.1, delta=0.05, settle_after=100)
    bandit = BetaBandit(np.array([[100.0, 1.0]]), np.array([[100.0, 199.0]]), settings)
    assert bandit.p_best()[0, 0] > 0.999
    assert not bandit.is_settled().any()
    assert bandit.p_choice()[0] == pytest.approx([0.5, 0.5], abs=0.01)
    bandit.update(np.zeros(2, int), np.arange(2), np.array([100, 100]), np.array([50, 1]))
    assert bandit.is_settled().all()
    assert bandit.p_choice()[0] == pytest.approx([0.95, 0.05])
    assert not BetaBandit(bandit.alpha, bandit.beta, settings.but(delta=0)).is_settled().any()


# --- counts and state ---


def test_the_posterior_mean_is_clicks_and_prior_over_impressions_and_kappa():
    bandit = informed(np.array([[0.4, -0.4, 0.0]]), 80)
    bandit.update(np.array([0, 0]), np.array([1, 1]), np.array([30, 10]), np.array([2, 1]))
    expected = (bandit.alpha0[0, 1] + 3) / (80 + 40)
    assert bandit.mean[0, 1] == pytest.approx(expected)
    assert bandit.mean[0, 0] == pytest.approx(bandit.alpha0[0, 0] / 80)


def test_rows_that_cannot_be_are_left_out_and_counted_by_reason():
    bandit = BetaBandit(np.ones((2, 3)), np.ones((2, 3)), is_real=np.array([[True] * 3, [True, True, False]]))
    before = bandit.alpha.copy()
    rows = np.array([0, 5, 1, 0, 0, 0, -1])
    slots = np.array([0, 0, 2, 1, 1, 2, 0])
    counted = bandit.update(
        rows, slots, np.array([10, 1, 1, math.nan, -5, 3, 1]), np.array([2, 0, 0, 1, 0, 4, 0])
    )
    assert counted == 1
    assert bandit.refused == {
        "unknown creative": 3, "not a number": 1, "below 0": 1, "more clicks than impressions": 1,
    }  # fmt: skip
    before[0, 0] += 2
    assert bandit.alpha == pytest.approx(before)
    assert bandit.beta[0, 0] == 1 + 8


def test_one_broken_counter_moves_a_belief_by_no_more_than_the_bound():
    bandit = BetaBandit(np.ones((1, 2)), np.ones((1, 2)), BanditSettings(most=1000))
    bandit.update(np.zeros(1, int), np.zeros(1, int), np.array([1e12]), np.array([1e11]))
    assert bandit.impressions[0, 0] == pytest.approx(1000)
    assert bandit.clicks[0, 0] == pytest.approx(100)
    assert bandit.refused["too many impressions, cut"] == 1


def test_a_saved_bandit_goes_on_as_if_never_stopped(tmp_path):
    bandit = informed(np.random.default_rng(0).normal(size=(5, 3)), 50)
    rows = np.tile(np.arange(5), 40)
    bandit.update(rows, bandit.choose(rows).slot, np.ones(200), np.zeros(200))
    bandit.update(np.array([0]), np.array([0]), np.array([-1]), np.array([0]))
    bandit.save(tmp_path / "bandit.json")
    again = BetaBandit.load(tmp_path / "bandit.json")
    assert again.alpha.tolist() == bandit.alpha.tolist()
    assert again.refused == bandit.refused
    assert again.names == bandit.names
    assert again.settings == bandit.settings
    for _ in range(3):
        before, after = bandit.choose(rows), again.choose(rows)
        assert after.slot.tolist() == before.slot.tolist()
        assert after.p_creative.tolist() == before.p_creative.tolist()


def test_creatives_are_chosen_and_learned_by_their_ids():
    priors = export_priors("p", ["a", "b"], [3.0, -3.0], 0.05, PriorSettings(kappa=200))
    priors += export_priors("q", ["c"], [0.0], 0.05)
    bandit = BetaBandit.of_priors(priors, BanditSettings(explore=0.1))
    chosen = bandit.choose_for(["q", "p", "q"])
    assert [one.product_id for one in chosen] == ["q", "p", "q"]
    assert (chosen[0].creative_id, chosen[0].p_creative) == ("c", pytest.approx(1.0))
    counts = [CreativeStat("b", "p", "i", 50, 5), CreativeStat("x", "p", "i", 50, 5)]
    assert bandit.learn(counts) == 1
    assert bandit.impressions.tolist() == [[0, 50], [0, 0]]
    assert bandit.refused == {"unknown creative": 1}
    with pytest.raises(DataError, match="does not know product 'z'"):
        bandit.choose_for(["z"])


def test_mistakes_of_a_bandit_are_named(tmp_path):
    with pytest.raises(DataError, match="finite and above 0"):
        BetaBandit(np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(DataError, match="two equal tables"):
        BetaBandit(np.ones((1, 2)), np.ones((2, 2)))
    with pytest.raises(DataError, match="product 1 has no creative"):
        BetaBandit(np.ones((2, 1)), np.ones((2, 1)), is_real=np.array([[True], [False]]))
    with pytest.raises(DataError, match="numbered 0 to 0, got 3 to 3"):
        BetaBandit(np.ones((1, 2)), np.ones((1, 2))).choose(np.array([3]))
    with pytest.raises(DataError, match="columns of equal length"):
        BetaBandit(np.ones((1, 2)), np.ones((1, 2))).update(
            np.zeros(2), np.zeros(2), np.zeros(1), np.zeros(2)
        )
    with pytest.raises(DataError, match="'a' has two priors"):
        BetaBandit.of_priors([PriorExport("p", "a", 1, 1, "judge", False)] * 2)
    with pytest.raises(SettingsError, match="explore: input should be less than or equal to 1, got 2"):
        BanditSettings(explore=2)
    (tmp_path / "other.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="no saved bandit"):
        BetaBandit.load(tmp_path / "other.json")


# --- prior ---


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.floats(0.001, 0.05), st.floats(0, 2))
@settings(max_examples=100, deadline=None)
def test_a_prior_has_the_rates_of_the_formula_and_their_mean_is_the_products(strength, rate, eta):
    exp = np.exp(eta * np.array(strength))
    means = prior_means(strength, rate, eta)
    assert means == pytest.approx(rate * exp / exp.mean())
    assert means.mean() == pytest.approx(rate)
    found = export_priors(
        "p", list("abcdefgh")[: len(strength)], strength, rate, PriorSettings(kappa=70, eta=eta)
    )
    for one, mean in zip(found, means, strict=True):
        assert one.alpha0 / (one.alpha0 + one.beta0) == pytest.approx(np.clip(mean, 1e-5, 0.5))
        assert one.alpha0 + one.beta0 == pytest.approx(70)
        assert one.capped == (not 1e-5 <= mean <= 0.5)


def test_without_eta_all_creatives_start_equal():
    found = export_priors("p", ["a", "b", "c"], [5.0, 0.0, -5.0], 0.02, PriorSettings(eta=0, kappa=100))
    assert [(one.alpha0, one.beta0) for one in found] == [(pytest.approx(2.0), pytest.approx(98.0))] * 3
    assert not any(one.capped for one in found)


def test_kappa_is_capped_and_so_is_a_rate_and_both_are_told():
    much = export_priors("p", ["a", "b"], [0.0, 0.0], 0.02, PriorSettings(kappa=5000))
    assert [(one.alpha0 + one.beta0, one.capped) for one in much] == [(pytest.approx(200), True)] * 2
    high = export_priors("p", ["a", "b"], [9.0, -9.0], 0.4, PriorSettings(kappa=100))
    assert high[0].alpha0 == pytest.approx(50)
    assert high[1].alpha0 == pytest.approx(100 * 1e-5)
    assert [one.capped for one in high] == [True, True]


def test_with_kappa_near_0_the_judge_is_ignored():
    found = export_priors("p", ["a", "b"], [2.0, -2.0], 0.02, PriorSettings(kappa=1e-6))
    bandit = BetaBandit.of_priors(found)
    bandit.update(np.zeros(2, int), np.arange(2), np.array([1000, 1000]), np.array([20, 35]))
    assert bandit.mean[0] == pytest.approx([0.02, 0.035], abs=1e-6)


def pair(number: int, shown_a: int, clicks_a: int, shown_b: int, clicks_b: int) -> CreativePair:
    counts = (shown_a, clicks_a, shown_b, clicks_b)
    return CreativePair(
        f"pair{number}", f"p{number}", (), "", (), "a", "b", "ia", "ib", *counts, "A", 0.9, "test"
    )


def test_a_planted_eta_is_found_from_counts_of_held_out_pairs():
    rng = np.random.default_rng(0)
    d = rng.normal(0, 1.5, 400)
    rate_b = rng.uniform(0.01, 0.04, 400)
    shown = rng.integers(1000, 4000, (2, 400))
    clicks = rng.poisson([shown[0] * rate_b * np.exp(0.4 * d), shown[1] * rate_b])
    pairs = [pair(i, shown[0, i], clicks[0, i], shown[1, i], clicks[1, i]) for i in range(400)]
    found = fit_eta(pairs, d)
    assert found.eta == pytest.approx(0.4, abs=0.02)
    assert found.gain > 0.02
    assert found.num_pairs == 400
    assert found.num_clicks == clicks.sum()


def test_a_judge_that_is_no_help_gets_an_eta_of_0_and_bounds_hold():
    pairs = [pair(0, 1000, 50, 1000, 10)]
    assert fit_eta(pairs, [-1.0]).eta == 0.0
    assert fit_eta(pairs, [0.0]).eta == 0.0
    assert fit_eta(pairs, [2.0]).eta == pytest.approx(math.log(5) / 2)
    assert fit_eta([pair(0, 1000, 50, 1000, 0)], [2.0]).eta == 10.0


def test_mistakes_of_a_prior_are_named():
    with pytest.raises(DataError, match="rate must lie between 0 and 1, got 0"):
        export_priors("p", ["a"], [0.0], 0.0)
    with pytest.raises(DataError, match="2 creatives and 1 strengths"):
        export_priors("p", ["a", "b"], [0.0], 0.02)
    with pytest.raises(DataError, match="one finite strength"):
        export_priors("p", ["a"], [math.inf], 0.02)
    with pytest.raises(DataError, match="these have none"):
        fit_eta([pair(0, 100, 0, 100, 0)], [1.0])
    with pytest.raises(DataError, match="one finite difference for each pair, got 2 for 1"):
        fit_eta([pair(0, 100, 1, 100, 0)], [1.0, 2.0])
    with pytest.raises(SettingsError, match="kappa: input should be greater than 0"):
        PriorSettings(kappa=0)
