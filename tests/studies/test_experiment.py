"""Counts of an experiment become comparisons; tables of a study become means over markets."""

import math

import numpy as np
import pytest
from micro import MICRO

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.statistics import cuped
from moontide.market.policy import DAY_MS, PopularityPolicy, RandomPolicy
from moontide.market.traffic import run
from moontide.market.world import World
from moontide.ranking.models import ClickSettings
from moontide.ranking.score import ClickScorer
from moontide.studies import aatest
from moontide.studies.arms import ClickPolicy
from moontide.studies.clicks import arms_of
from moontide.studies.content import content_cells, content_markdown, content_tables
from moontide.studies.experiment import (
    ExperimentSettings,
    Outcome,
    outcome_results,
    run_experiment,
    split_shoppers,
)
from moontide.studies.trials import aa_trial, ab_trial, off_policy_trial


@pytest.fixture
def world(micro_run):
    return World.open(Dataset.open(micro_run.path / "dataset"))


def scorer_of(micro_run, name):
    from moontide.center.store import VectorStore
    from moontide.ranking.samples import Samples

    store = VectorStore.open(micro_run.path / "center", must_exist=True)
    samples = Samples.load(micro_run.path / "samples")
    return ClickScorer.load(micro_run.path / "ranking" / name, None, store, samples=samples)


def test_a_lift_is_the_ratio_of_the_arms_and_its_interval_comes_from_shoppers():
    arm_of = np.array([0, 0, 0, 1, 1, 1])
    counts = {"clicks": np.array([1, 2, 3, 2, 4, 6.0]), "impressions": np.array([10, 20, 30, 10, 20, 30.0])}
    found = Outcome(("a", "b"), arm_of, counts).compare(0, 1, "clicks")
    assert (found.value_a, found.value_b) == (0.1, 0.2)
    assert found.lift.value == pytest.approx(1.0)
    assert found.lift.low == pytest.approx(1.0)  # every shopper has the very same ratio


def test_shoppers_without_an_impression_are_no_cluster():
    arm_of = np.array([0, 0, 0, 1, 1])
    counts = {"clicks": np.array([1, 1, 0, 1, 2.0]), "impressions": np.array([10, 9, 0, 10, 9.0])}
    with_idle = Outcome(("a", "b"), arm_of, counts).compare(0, 1, "clicks")
    busy = {name: np.delete(value, 2) for name, value in counts.items()}
    assert Outcome(("a", "b"), np.delete(arm_of, 2), busy).compare(0, 1, "clicks") == with_idle


def test_the_split_is_fixed_by_id_and_salt_and_about_even(world):
    one, again = split_shoppers(world, 2, "x"), split_shoppers(world, 2, "x")
    assert np.array_equal(one, again)
    assert not np.array_equal(one, split_shoppers(world, 2, "y"))
    assert 0.25 < one.mean() < 0.75


def test_a_popular_shop_beats_a_random_one_in_true_chances(world):
    policies = [RandomPolicy(8), PopularityPolicy(world)]
    outcome = run_experiment(world, policies, ExperimentSettings(num_requests=1_500, days=3), seed=1)
    results = outcome_results(outcome)
    assert [row["arm"] for row in results["arms"]] == ["random", "popularity"]
    assert results["compared"]["true chance of a click"]["lift"]["value"] > 0
    clicks = sum(row["clicks"] for row in results["arms"])
    expected = sum(row["expected_clicks"] for row in results["arms"])
    assert abs(clicks - expected) < 4 * math.sqrt(expected)


def test_the_same_seed_plays_the_same_experiment(micro_run):
    settings, results = ExperimentSettings(num_requests=200, days=1), []
    for _ in range(2):
        world = World.open(Dataset.open(micro_run.path / "dataset"))
        policies = [ClickPolicy(name, scorer_of(micro_run, name), world) for name in ("id", "content")]
        results.append(outcome_results(run_experiment(world, policies, settings, seed=4)))
    assert results[0] == results[1]


def test_a_click_policy_remembers_its_own_arm_alone(micro_run, world):
    scorers = [scorer_of(micro_run, name) for name in ("id", "content")]
    before = [scorer.state._all.copy() for scorer in scorers]
    policies = [ClickPolicy(f"{at}", scorer, world) for at, scorer in enumerate(scorers)]
    outcome = run_experiment(world, policies, ExperimentSettings(num_requests=200, days=1))
    for arm, scorer in enumerate(scorers):
        seen = scorer.state._all - before[arm]
        assert seen[0] == outcome.total(arm, "impressions")
        assert seen[1] == outcome.total(arm, "clicks")


def test_a_click_model_of_another_dataset_is_refused(micro_run, world):
    world.shelf.product_ids.reverse()
    with pytest.raises(DataError, match="are of different datasets"):
        ClickPolicy("id", scorer_of(micro_run, "id"), world)


def test_an_arm_cannot_spend_the_budget_of_the_other(world):
    """Bids are open exactly while the arm's own share of the day's budget is not spent."""
    shelf, days = world.shelf, 2
    shelf.budget[:] = np.where(shelf.campaign >= 0, 60, 0)
    arm_of = (np.arange(len(world.shoppers)) % 4 == 0).astype(np.int64)  # a quarter in arm 1
    share = np.bincount(arm_of) / len(arm_of)
    spent = np.zeros((days, 2, len(shelf)))
    seen = set()
    policies = [PopularityPolicy(world, 1), PopularityPolicy(world, 2)]
    for batch in run(world, policies, arm_of, 2_500, world.end_ms, days, 3, "budgets"):
        found = batch.requests.candidates
        day = int((batch.requests.at.min() - world.end_ms) // DAY_MS)
        left = spent[day] < 60 * share[:, None]
        is_ad = (found >= 0) & (shelf.campaign[np.maximum(found, 0)] >= 0)
        is_open = left[batch.arm[:, None], np.maximum(found, 0)]
        assert np.array_equal(batch.requests.bids > 0, is_ad & is_open)
        seen |= {(bool(a), bool(b)) for a, b in zip(*left[:, shelf.campaign >= 0], strict=True)}
        shown = np.maximum(batch.slates.product, 0)
        arm = np.broadcast_to(batch.arm[:, None], shown.shape)
        np.add.at(spent[day], (arm, shown), batch.charge_cents)
    assert {(True, False), (False, True)} <= seen  # either arm was closed while the other went on


def test_the_past_takes_out_noise_and_no_difference():
    rng, num, effect = np.random.default_rng(0), 400, 0.01
    rate = np.clip(rng.normal(0.08, 0.03, num), 0.005, 0.3)
    shown, past_shown = rng.integers(50, 150, num), rng.integers(100, 300, num)
    past = rng.binomial(past_shown, rate).astype(float), past_shown.astype(float)
    found: dict[str, list] = {"plain": [], "adjusted": []}
    errors: dict[str, list] = {"plain": [], "adjusted": []}
    for _ in range(300):
        arm_of = rng.permutation(num) % 2
        clicks = rng.binomial(shown, rate + effect * arm_of).astype(float)
        counts = {"clicks": clicks, "impressions": shown.astype(float)}
        for name, own in (("plain", ()), ("adjusted", past)):
            difference = Outcome(("a", "b"), arm_of, counts, *own).compare(0, 1, "clicks").difference
            found[name].append(difference.value)
            errors[name].append(difference.standard_error)
    for name in found:  # right on average, and as uncertain as said
        assert np.mean(found[name]) == pytest.approx(effect, abs=4 * np.std(found[name]) / math.sqrt(300))
        assert np.mean(errors[name]) == pytest.approx(np.std(found[name]), rel=0.2)
    assert np.var(found["adjusted"]) < 0.8 * np.var(found["plain"])
    assert cuped(clicks, counts["impressions"], *past).sum() == pytest.approx(clicks.sum())


def test_days_and_slices_that_cover_the_catalog_add_up_to_the_whole(world):
    half = np.arange(len(world.shelf)) % 3 == 0
    settings = ExperimentSettings(num_requests=400, days=3)
    slices = {"third": half, "rest": ~half, "none": np.zeros(len(half), bool)}
    policies = [RandomPolicy(8, 1), PopularityPolicy(world)]
    outcome = run_experiment(world, policies, settings, seed=2, slices=slices)
    assert outcome.counts["requests"].sum() == 400
    for name, counts in outcome.counts.items():
        assert outcome.daily[name].shape == (3, len(world.shoppers))
        assert np.array_equal(outcome.daily[name].sum(0), counts)
        parts = [outcome.sliced[part][name] for part in ("third", "rest")]
        whole = parts[0] if name == "requests" else parts[0] + parts[1]
        assert np.allclose(whole, counts)
        assert name == "requests" or not outcome.sliced["none"][name].any()
    assert (outcome.daily["requests"].sum(1) > 0).all()
    assert np.array_equal(outcome.until(3).counts["clicks"], outcome.counts["clicks"])
    assert outcome.until(1).counts["requests"].sum() < 400
    third = outcome.within("third")
    assert third.total(1, "clicks") == outcome.sliced["third"]["clicks"][outcome.arm_of == 1].sum()


def test_slices_change_nothing_that_happens(micro_run):
    settings, found = ExperimentSettings(num_requests=200, days=1), []
    for slices in (None, {"all": np.ones(100, bool)}):
        world = World.open(Dataset.open(micro_run.path / "dataset"))
        policies = [RandomPolicy(8, 1), RandomPolicy(8, 2)]
        found.append(outcome_results(run_experiment(world, policies, settings, seed=4, slices=slices)))
    assert found[0] == found[1]


def test_the_studies_of_live_traffic_write_their_tables(micro_run, tmp_path, monkeypatch):
    dataset, settings = Dataset.open(micro_run.path / "dataset"), ExperimentSettings(num_requests=300, days=2)
    trial = ab_trial(micro_run.path, dataset, tmp_path, settings=settings)
    assert [row["arm"] for row in trial["arms"]] == ["id", "content"]
    assert {"new products", "older products"} & {row["slice"] for row in trial["slices"]}
    monkeypatch.setattr(aatest, "TESTS_A_CELL", 1)
    equal = aa_trial(dataset, tmp_path, 1, settings)
    assert {row["tests"] for row in equal["market"]["table"]} == {1}
    found = off_policy_trial(micro_run.path, dataset, tmp_path, num_seeds=1, settings=settings)
    targets = {row["target"] for row in found["market"]}
    assert targets == {"ranking without chance", "id", "content", "truth"}
    assert {row["target"] for row in found["log"]} == {"ranking", "random"}
    for name in ("ab", "aa", "off-policy"):
        assert (tmp_path / f"{name}.json").stat().st_size > 100
        assert "| " in (tmp_path / f"{name}.md").read_text()


def test_an_unknown_arm_is_refused_by_name():
    with pytest.raises(SettingsError, match="no arm is called pixels: the arms are id, id_attributes"):
        arms_of(ClickSettings(), ["id", "pixels"])
    assert [arm.is_permuted for arm in arms_of(ClickSettings(), ["content", "permuted"])] == [False, True]


def study_row(kind, market, seed, gain, auc):
    entry = {"slice": "all", "before": "id", "after": "content", "resolvable": 0.01, "closed": 0.5}
    entry |= {"difference": {"value": gain}, "gauc": {"value": gain / 2}}
    models = [{"slice": "all", "model": "id", "auc": auc, "gauc": auc}]
    line = {"protocol": "title -> photo", "gallery": "all", "n": 5, "size": 9, "recall@1": 0.1}
    line |= {"recall@10": 0.2, "chance@10": 0.05}
    return {
        "settings": {"kind": kind, "market_seed": market, "seed": seed},
        "result": {"clicks": {"gains": [entry], "table": models}, "retrieval": {"table": [line]}},
    }


def test_a_study_averages_seeds_within_markets_and_takes_its_interval_over_markets():
    gains = {(0, 0): 0.01, (0, 1): 0.03, (1, 0): 0.04, (1, 1): 0.04, (2, 0): 0.06, (2, 1): 0.06}
    rows = [study_row("default", market, seed, gain, 0.6) for (market, seed), gain in gains.items()]
    tables = content_tables(rows)
    found = next(
        line for line in tables["gains"]
        if line["slice"] == "all" and line["comparison"] == "content over id"
    )  # fmt: skip
    assert found["AUC"].value == pytest.approx(0.04)  # means 0.02, 0.04, 0.06
    assert found["AUC"].high - found["AUC"].value == pytest.approx(4.3027 * 0.02 / math.sqrt(3), rel=1e-4)
    assert (found["least"], found["most"]) == (0.01, 0.06)
    assert "content over id" in content_markdown(tables)


def test_the_cells_of_a_study_cover_markets_before_seeds():
    cells = content_cells(MICRO, market_seeds=2, training_seeds=2)
    assert [cell.name for cell in cells[:4]] == [
        "default-market0-seed0", "blind-market0-seed0", "default-market1-seed0", "blind-market1-seed0",
    ]  # fmt: skip
    assert len(cells) == 8


def test_an_unknown_kind_of_market_is_refused_by_name():
    with pytest.raises(
        SettingsError, match="no kind of market is called 'deaf': the kinds are default, blind"
    ):
        content_cells(MICRO, 1, 1, ["default", "deaf"])
