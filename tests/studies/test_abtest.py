"""Before, during and after an A/B test: the lift it can see, when it may stop, its slices; and A/A tests."""

import numpy as np
import pytest

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.foundation.statistics import holm
from moontide.market.build import build_market
from moontide.market.policy import PopularityPolicy, RandomPolicy
from moontide.market.settings import MarketSettings
from moontide.market.world import World
from moontide.studies import aatest
from moontide.studies.aatest import aa_figure, aa_markdown, aa_picture, aa_summary, aa_tests, shuffled_tests
from moontide.studies.abtest import (
    Past,
    ab_markdown,
    ab_results,
    ab_test,
    least_lift,
    past_traffic,
    product_slices,
    slice_rows,
)
from moontide.studies.experiment import COUNTS, ExperimentSettings, Outcome
from moontide.studies.stopping import boundary, decision, looks, planned_looks, spending

SMALL = MarketSettings(
    num_products=60, num_merchants=6, num_shoppers=40, num_impressions=4_000, days=6, image_side=48,
    images_per_product=1, creatives_per_product=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return build_market(tmp_path_factory.mktemp("market") / "small", SMALL, seed=2, workers=1)


def shoppers_at_work(rng, num=400, days=5, lift=0.0, spread=0.5, shown=40.0):
    """Counts of two arms: shoppers differ in how often they come and click, and come back every day."""
    arm_of = (rng.random(num) < 0.5).astype(np.int64)
    rate = np.minimum(0.05 * np.exp(spread * rng.normal(size=num)) * (1 + lift * arm_of), 1)
    activity = rng.gamma(2, 0.5, num)
    impressions = rng.poisson(shown / days * activity, (days, num)).astype(float)
    clicks = rng.binomial(impressions.astype(int), rate).astype(float)
    daily = {name: np.zeros((days, num)) for name in COUNTS}
    daily |= {"impressions": impressions, "clicks": clicks, "requests": impressions}
    counts = {name: each.sum(0) for name, each in daily.items()}
    past_shown = rng.poisson(4 * shown * activity)
    plain = rate / (1 + lift * arm_of)
    past = rng.binomial(past_shown, plain).astype(float), past_shown.astype(float)
    return Outcome(("a", "b"), arm_of, counts, *past, daily=daily)


# ---- before


def test_the_least_lift_of_the_log_is_that_of_the_tests_that_follow():
    rng = np.random.default_rng(0)
    found = {"plain": [], "cuped": []}
    for _ in range(300):
        outcome = shoppers_at_work(rng)
        found["cuped"].append(outcome.compare(0, 1, "clicks").difference.value)
        bare = Outcome(outcome.names, outcome.arm_of, outcome.counts)
        found["plain"].append(bare.compare(0, 1, "clicks").difference.value)
    seen = outcome.past_impressions
    requests = outcome.counts["impressions"].sum()
    past = Past(int(seen.sum()), seen, outcome.past_clicks, seen, seen, seen)
    told = least_lift(past, int(requests))
    for name, key in (("cuped", "least_lift"), ("plain", "least_lift_plain")):
        measured = 2.8016 * np.std(found[name])  # 1.96 + 0.84 standard errors
        assert told[key] * told["value"] == pytest.approx(measured, rel=0.15), name
    assert told["least_lift"] < 0.9 * told["least_lift_plain"]


def test_more_requests_of_the_same_shoppers_do_not_help_without_end():
    outcome = shoppers_at_work(np.random.default_rng(1))
    seen = outcome.past_impressions
    past = Past(1_000, seen, outcome.past_clicks, seen, seen, seen)
    few, many, most = (least_lift(past, n)["least_lift_plain"] for n in (100, 100_000, 10_000_000))
    assert few > 1.5 * many
    assert many == pytest.approx(most, rel=0.05)  # what is left is the difference between shoppers


def test_a_metric_that_never_happened_cannot_be_planned():
    none, one = np.zeros(3), np.ones(3)
    with pytest.raises(DataError, match="CTR was 0 in the log"):
        least_lift(Past(3, one, none, none, none, none), 10)


def test_the_past_counts_every_event_of_the_log(market):
    past, events = past_traffic(market), market.table("events").to_pylist()
    for kind, column in (("impression", past.impressions), ("click", past.clicks), ("order", past.orders)):
        assert column.sum() == sum(row["kind"] == kind for row in events)
    paid = [row["charge_cents"] for row in events if row["kind"] == "click" and row["charge_cents"]]
    assert past.revenue_cents.sum() == sum(paid)
    assert past.revenue_squares.sum() == sum(cents**2 for cents in paid)
    assert past.num_requests == len({r["request_id"] for r in events if r["kind"] == "impression"})


# ---- slices


def test_slices_are_new_products_top_categories_and_merchant_tiers(market):
    slices = product_slices(market)
    products = market.table("products").to_pylist()
    tiers = {row["merchant_id"]: row["tier"] for row in market.table("merchants").to_pylist()}
    for row, number in zip(products, range(len(products)), strict=True):
        own = {name for name, members in slices.items() if members[number]}
        assert f"category {row['category'][0]}" in own
        assert f"merchant tier {tiers[row['merchant_id']]}" in own
        assert len(own & {"new products", "older products"}) == 1
        assert len(own) == 3
    late = product_slices(market, new_since_ms=0)
    assert late["new products"].all()
    assert "older products" not in late


def test_holm_keeps_the_chance_of_any_false_finding():
    rng = np.random.default_rng(3)
    p = rng.random((2_000, 12))
    any_found = np.mean([holm(row).min() < 0.05 for row in p])
    assert 0.03 < any_found < 0.065
    assert (p.min(1) < 0.05).mean() > 0.4  # without


def test_a_slice_is_compared_by_its_own_sums_and_a_thin_one_is_not():
    outcome = shoppers_at_work(np.random.default_rng(4), lift=0.5)
    thin = {name: np.zeros_like(column) for name, column in outcome.counts.items()}
    thin["impressions"][:5], thin["clicks"][:5] = 3, 1
    sliced = Outcome(
        outcome.names, outcome.arm_of, outcome.counts, sliced={"all": outcome.counts, "thin": thin}
    )
    rows = {(row["slice"], row["metric"]): row for row in slice_rows(sliced)}
    alone = Outcome(outcome.names, outcome.arm_of, outcome.counts).compare(0, 1, "clicks")
    assert rows["all", "CTR"]["lift"] == vars(alone.lift)
    assert rows["all", "CTR"]["p_adjusted"] == rows["all", "CTR"]["p_value"]  # one slice is tested alone
    assert "lift" not in rows["thin", "CTR"]
    assert rows["thin", "CTR"]["clicks_before"] + rows["thin", "CTR"]["clicks_after"] == 5
    assert "lift" not in rows["all", "revenue (RPM)"]  # nothing was earned


# ---- stopping


def test_bounds_are_those_of_the_tables():
    """Five even looks, two-sided 0.05, the O'Brien-Fleming-like spending of Lan and DeMets."""
    assert boundary([0.2, 0.4, 0.6, 0.8, 1.0]).tolist() == pytest.approx(
        [4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4
    )
    assert boundary([1.0]).tolist() == pytest.approx([1.959964], abs=1e-5)


def test_alpha_is_spent_to_the_end_and_not_before():
    spent = spending(np.linspace(0.05, 1, 20), 0.1)
    assert (np.diff(spent) > 0).all()
    assert spent[0] < 1e-9
    assert spent[-1] == pytest.approx(0.1)


def test_a_walk_without_drift_crosses_the_bounds_with_the_chance_alpha():
    shares = np.array([0.1, 0.3, 0.35, 0.8, 1.0])
    bounds = boundary(shares.tolist(), 0.1)
    step = np.sqrt(np.diff(np.r_[0, shares])) * np.random.default_rng(5).normal(size=(200_000, 5))
    crossed = (np.abs(step.cumsum(1)) >= bounds * np.sqrt(shares)).any(1).mean()
    assert crossed == pytest.approx(0.1, abs=0.0035)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_equal_arms_stop_no_more_often_than_alpha_and_peeking_would(spread):
    """Shoppers differ and return, so that looks share more than their requests."""
    rng, num, days, tests = np.random.default_rng(6), 200, 5, 4_000
    rate = np.minimum(0.05 * np.exp(spread * rng.normal(size=(tests, 1, num))), 0.9)
    shown = np.full((tests, days, num), 20).cumsum(1)
    clicks = rng.binomial(20, np.broadcast_to(rate, shown.shape)).cumsum(1)
    parts = []
    for arm in (slice(0, num // 2), slice(num // 2, num)):
        x, y = clicks[:, :, arm], shown[:, :, arm]
        r = x.sum(2) / y.sum(2)
        parts.append((r, ((x - r[:, :, None] * y) ** 2).sum(2) / y.sum(2) ** 2))
    z = (parts[1][0] - parts[0][0]) / np.sqrt(parts[0][1] + parts[1][1])
    stopped = (np.abs(z) >= boundary([0.2, 0.4, 0.6, 0.8, 1.0])).any(1).mean()
    peeked = (np.abs(z) >= 1.96).any(1).mean()
    assert stopped < 0.062  # 0.05, three standard errors, and what the normal distribution leaves
    assert peeked > stopped + 0.02


def test_looks_are_the_comparisons_of_the_days_against_their_bounds():
    outcome = shoppers_at_work(np.random.default_rng(7), lift=0.0)
    planned = int(outcome.counts["requests"].sum())
    rows = looks(outcome, planned)
    shares = outcome.daily["requests"].sum(1).cumsum() / planned
    assert [row.day for row in rows] == [1, 2, 3, 4, 5]
    assert [row.bound for row in rows] == pytest.approx(boundary(shares.tolist()).tolist())
    third = Outcome(
        outcome.names, outcome.arm_of, {k: v[:3].sum(0) for k, v in outcome.daily.items()},
        outcome.past_clicks, outcome.past_impressions,
    ).compare(0, 1, "clicks")  # fmt: skip
    assert rows[2].z == pytest.approx(third.difference.value / third.difference.standard_error)
    assert rows[2].low < third.lift.low < third.lift.value == rows[2].lift < third.lift.high < rows[2].high
    told = decision(rows, 5)
    assert told["stopped"] is None
    assert "no difference found by day 5" in told["decision"]


def test_a_large_difference_stops_early_and_says_what_it_found():
    outcome = shoppers_at_work(np.random.default_rng(8), lift=1.0)
    rows = looks(outcome, int(outcome.counts["requests"].sum()))
    told = decision(rows, 5)
    assert told["stopped"] < 5
    assert len(rows) == told["stopped"]
    assert rows[-1].low > 0
    assert told["decision"].startswith(f"stop after day {told['stopped']} of 5: raised, by +")


def test_an_experiment_without_a_click_has_no_look():
    outcome = shoppers_at_work(np.random.default_rng(9))
    daily = outcome.daily | {"clicks": np.zeros_like(outcome.daily["clicks"])}
    empty = Outcome(outcome.names, outcome.arm_of, outcome.counts, daily=daily)
    assert looks(empty, 100) == []
    assert decision([], 5)["decision"] == "no look had enough counts"


def test_looks_that_cannot_be_are_refused():
    with pytest.raises(SettingsError, match=r"alpha must lie between 0 and 1, got 1.5"):
        boundary([1.0], 1.5)
    for shares in ([], [0.5, 0.5], [0.5, 0.505, 1.0], [0.5, 1.2]):
        with pytest.raises(SettingsError, match=r"looks must rise by 0.01 of the plan at least and end by 1"):
            boundary(shares)


def test_planned_looks_come_after_each_day_and_no_closer_than_the_grid_allows():
    rows = planned_looks(14)
    assert [row["day"] for row in rows] == list(range(1, 15))
    assert rows[-1]["spent"] == pytest.approx(0.05)
    assert [row["bound"] for row in rows] == sorted((row["bound"] for row in rows), reverse=True)
    assert planned_looks(1)[0]["bound"] == pytest.approx(1.96, abs=1e-3)
    assert planned_looks(301)[-1]["day"] == 301


# ---- one experiment, whole


def test_a_whole_test_in_the_market_keeps_what_was_planned_and_what_came(market):
    world = World.open(market)
    settings = ExperimentSettings(num_requests=900, days=3)
    policies = [RandomPolicy(8, 1), PopularityPolicy(world, 2)]
    results = ab_test(market, policies, world, settings, seed=1)
    assert [row["day"] for row in results["planned"]["looks"]] == [1, 2, 3]
    assert results["planned"]["least_lift"]["CTR"]["least_lift"] > 0
    assert results["stopping"]["looks"]
    text = ab_markdown(results)
    assert "new products" in text
    assert results["stopping"]["decision"] in text
    shown = sum(row["impressions"] for row in results["arms"])
    parts = [
        row for row in results["slices"] if row["metric"] == "CTR" and row["slice"].startswith("category")
    ]
    assert sum(row["impressions_before"] + row["impressions_after"] for row in parts) == shown


def test_results_without_a_past_have_no_planned_lift():
    outcome = shoppers_at_work(np.random.default_rng(10))
    results = ab_results(outcome, ExperimentSettings(num_requests=16_000, days=5))
    assert "least_lift" not in results["planned"]
    assert results["slices"] == []


# ---- no difference


def test_equal_arms_in_the_market_are_resumed_and_give_no_two_equal_tests(market, tmp_path, monkeypatch):
    monkeypatch.setattr(aatest, "TESTS_A_CELL", 2)
    settings = ExperimentSettings(num_requests=200, days=2)
    first = aa_tests(tmp_path / "aa", market, 2, settings)
    assert len(list((tmp_path / "aa").glob("*.json"))) == 1
    stamp = (tmp_path / "aa" / "aa-000.json").stat().st_mtime_ns
    both = aa_tests(tmp_path / "aa", market, 4, settings)
    assert (tmp_path / "aa" / "aa-000.json").stat().st_mtime_ns == stamp
    p_values = both["p_values"]["true chance of a click"]
    assert len(set(p_values)) == 4
    assert set(first["p_values"]["true chance of a click"]) < set(p_values)
    assert "stopped at a planned look" in aa_markdown(both)
    with pytest.raises(CheckpointError, match="computed with other settings"):
        aa_tests(tmp_path / "aa", market, 2, settings.but(days=3))


def test_one_log_split_again_and_again_gives_uniform_p_values():
    outcome = shoppers_at_work(np.random.default_rng(11), num=600)
    seen = outcome.past_impressions
    past = Past(1, seen, outcome.past_clicks, outcome.past_clicks * 3, seen, seen)
    row = shuffled_tests(past, 400)["table"][0]
    assert row["tests"] == 400
    assert row["ks_p"] > 0.001
    assert row["low"] < 0.05 < row["high"]


def test_p_values_that_are_not_uniform_are_told():
    rng = np.random.default_rng(12)
    good, bad = rng.random(200), rng.random(200) ** 2
    pairs = zip(good, bad, strict=True)
    tests = [{"CTR": p, "revenue (RPM)": q, "stopped": False, "peeked": q < 0.1} for p, q in pairs]
    results = aa_summary(tests)
    rows = {row["what"]: row for row in results["table"]}
    assert rows["CTR"]["ks_p"] > 0.001 > rows["revenue (RPM)"]["ks_p"]
    assert rows["revenue (RPM)"]["low"] > 0.05
    assert rows["stopped at a planned look"]["share"] == 0
    curve = aa_figure(results).series["CTR"]
    assert [p for _, p in curve] == sorted(good.tolist())
    assert curve[0][0] == pytest.approx(0.0025)
    assert aa_picture(results).startswith(b"\x89PNG")


def test_a_dataset_without_events_has_no_past(tmp_path):
    from moontide.catalog.dataset import DatasetWriter

    with DatasetWriter(tmp_path / "words", "words") as writer:
        writer.put("products", [{"product_id": "1", "title": "a mug"}])
    with pytest.raises(DataError, match="an A/B test needs events"):
        past_traffic(Dataset.open(tmp_path / "words"))
