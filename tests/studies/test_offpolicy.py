"""Off-policy estimates against closed forms, against the market's truth, and against two real policies."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from moontide.foundation.errors import DataError
from moontide.market.build import build_market
from moontide.market.policy import OraclePolicy, PopularityPolicy, RandomPolicy
from moontide.market.settings import MarketSettings
from moontide.market.world import World
from moontide.studies.experiment import ExperimentSettings
from moontide.studies.offpolicy import (
    CrossFit,
    Logged,
    OverlapSettings,
    estimate_rows,
    estimates,
    estimates_markdown,
    overlap,
    require_overlap,
    weights,
)
from moontide.studies.offpolicy_market import (
    PastRates,
    Recorder,
    _creative_ratio,
    _play,
    examination_curve,
    log_rows,
    off_policy_study,
    summary_markdown,
)
from moontide.studies.openbandit import chances_at, open_bandit_rows, read_open_bandit

# Two contexts, even; two actions. Rows are contexts, columns actions.
P_LOG = np.array([[0.8, 0.2], [0.3, 0.7]])
P_NEW = np.array([[0.1, 0.9], [0.6, 0.4]])
P_REWARD = np.array([[0.1, 0.4], [0.5, 0.2]])
TRUTH = float((0.5 * P_NEW * P_REWARD).sum())
BARE = OverlapSettings(least_effective=1, most_weight_error=9, most_weight_z=99, clip=1.0)


def draw(rng, num, model=P_REWARD, p_log=P_LOG, said=P_LOG):
    """A log of the toy; `said` are the propensities that are written down."""
    context = rng.integers(0, 2, num)
    action = (rng.random(num) < p_log[context, 1]).astype(int)
    reward = (rng.random(num) < P_REWARD[context, action]).astype(float)
    return Logged(
        reward,
        weights(P_NEW[context, action], said[context, action]),
        model_logged=model[context, action],
        model_target=(P_NEW * model)[context].sum(1),
    )


def means(model=P_REWARD, said=P_LOG, times=600, num=300):
    """Mean and standard error of each estimator over many logs, and how often its interval held the truth."""
    rng, found = np.random.default_rng(0), {}
    for _ in range(times):
        for one in estimates(draw(rng, num, model, said=said), BARE):
            held = one.value.low <= TRUTH <= one.value.high
            found.setdefault(one.name, []).append((one.value.value, held))
    return {
        name: (np.mean([v for v, _ in rows]), np.std([v for v, _ in rows]) / math.sqrt(times),
               np.mean([h for _, h in rows]))
        for name, rows in found.items()
    }  # fmt: skip


def test_ips_and_dr_are_unbiased_and_their_intervals_hold_the_truth():
    found = means()
    for name in ("IPS", "DR"):
        mean, error, held = found[name]
        assert abs(mean - TRUTH) < 4 * error, name
        assert held == pytest.approx(0.95, abs=0.035), name
    assert found["DR"][1] < 0.9 * found["IPS"][1]
    assert found["SNIPS"][0] == pytest.approx(TRUTH, rel=0.02)
    assert found["SNIPS"][1] < found["IPS"][1]
    assert found["clipped IPS"][0] < TRUTH - 10 * found["clipped IPS"][1]


def test_dr_survives_a_wrong_model_or_wrong_propensities_and_not_both():
    wrong_model, wrong_said = np.full((2, 2), 0.9), np.array([[0.5, 0.5], [0.5, 0.5]])
    mean, error, _ = means(model=wrong_model)["DR"]
    assert abs(mean - TRUTH) < 4 * error
    assert abs(means(model=wrong_model)["DM"][0] - TRUTH) > 0.3
    right_model = means(said=wrong_said)
    assert abs(right_model["DR"][0] - TRUTH) < 4 * right_model["DR"][1]
    assert abs(right_model["IPS"][0] - TRUTH) > 10 * right_model["IPS"][1]
    both = means(model=wrong_model, said=wrong_said)["DR"]
    assert abs(both[0] - TRUTH) > 10 * both[1]


def test_weights_by_position_are_unbiased_where_a_product_was_logged_elsewhere():
    """Three products, two places, the log in random order: e(target's place) / sum of p_logged e."""
    rng, look, appeal = np.random.default_rng(1), np.array([1.0, 0.5]), np.array([0.2, 0.6, 0.4])
    truth = (look * appeal[[1, 2]]).sum() / 2  # the target shows 1, then 2
    place_of = np.array([-1, 0, 1])
    expected_look = look.sum() / 3  # each product in each place with chance 1/3
    num = 60_000
    slate = rng.permuted(np.tile(np.arange(3), (num, 1)), axis=1)[:, :2]
    reward = (rng.random((num, 2)) < look * appeal[slate]).astype(float).ravel()
    given = place_of[slate]
    weight = (np.where(given >= 0, look[given], 0) / expected_look).ravel()
    control = weight * np.tile(look, num) / look.mean()
    group = np.repeat(np.arange(num), 2)
    by_position = estimates(Logged(reward, weight, group, control=control))
    by_place = estimates(Logged(reward, ((given == np.arange(2)) / (1 / 3)).ravel(), group))
    for one in (*by_position[:2], by_place[0]):
        assert one.refused is None
        assert abs(one.value.value - truth) < 4 * one.value.standard_error
    assert by_position[1].value.standard_error < by_place[0].value.standard_error


# ---- refusals


def test_a_log_that_never_takes_the_targets_actions_is_refused():
    one = np.ones(1_000)
    logged = Logged(one, one, uncovered=np.r_[np.ones(50), np.zeros(950)])
    with pytest.raises(DataError, match=r"no off-policy estimate: the log never takes 5.0% of the target's"):
        require_overlap(logged)
    assert {e.refused is None for e in estimates(logged)} == {False}


def test_too_few_effective_rows_are_refused_and_said():
    weight = np.r_[1_000.0, np.zeros(999)]
    with pytest.raises(DataError, match=r"1.0 effective rows of 1,000; log with more exploration"):
        require_overlap(Logged(np.ones(1_000), weight))
    assert overlap(Logged(np.ones(4), np.zeros(4))).effective_rows == 0


def test_weights_that_do_not_average_one_are_refused():
    rng = np.random.default_rng(2)
    weight = rng.permutation(np.repeat([0.5, 1.5], 5_000))
    assert overlap(Logged(weight, weight)).refused is None
    assert overlap(Logged(weight, 1.4 * weight)).refused.startswith("weights average 1.40, not 1")
    assert "standard errors from 1" in overlap(Logged(weight, 1.1 * weight)).refused
    found = estimates(Logged(weight, 1.4 * weight, model_logged=weight, model_target=weight))
    assert [e.name for e in found if e.refused is None] == ["DM"]


def test_effective_rows_are_those_of_equal_weights():
    weight = np.r_[np.full(300, 2.0), np.zeros(300)]
    found = overlap(Logged(weight, weight))
    assert found.effective_rows == pytest.approx(300)
    assert (found.mean_weight, found.largest_weight) == (1.0, 2.0)


def test_chances_that_are_none_are_refused_by_count():
    with pytest.raises(DataError, match=r"2 of 3 logged propensities are not in \(0, 1\]"):
        weights(np.ones(3), np.array([0.0, math.nan, 0.5]))
    with pytest.raises(DataError, match=r"1 of 1 of the target's chances are not in \[0, 1\]"):
        weights(np.array([1.5]), np.ones(1))
    with pytest.raises(DataError, match="needs logged rows, got 0"):
        weights(np.zeros(0), np.zeros(0))


# ---- the reward model


def test_no_row_is_judged_by_a_model_that_saw_its_group():
    rng = np.random.default_rng(3)
    features, group = rng.normal(size=(600, 3)), np.repeat(np.arange(100), 6)
    reward = (rng.random(600) < 0.3).astype(float)
    before = CrossFit(features, reward, group)
    one = np.flatnonzero(before.fold == before.fold[0])
    other = reward.copy()
    other[one] = 1 - other[one]
    after = CrossFit(features, other, group)
    assert np.array_equal(before.fold, after.fold)
    assert all(len(np.unique(before.fold[group == name])) == 1 for name in range(100))
    assert np.array_equal(before.predict(features)[one], after.predict(features)[one])
    rest = np.setdiff1d(np.arange(600), one)
    assert not np.allclose(before.predict(features)[rest], after.predict(features)[rest])


def test_a_reward_model_finds_what_matters_and_says_when_it_cannot():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(4_000, 2))
    p = 1 / (1 + np.exp(-features[:, 0]))
    found = CrossFit(features, (rng.random(4_000) < p).astype(float)).predict(features)
    assert np.corrcoef(found, p)[0, 1] > 0.99
    with pytest.raises(DataError, match="0 rewards: too few for a reward model"):
        CrossFit(features, np.zeros(4_000))
    with pytest.raises(DataError, match="rewards must be 0 or 1"):
        CrossFit(features, p)


# ---- the market


SMALL = MarketSettings(
    num_products=60, num_merchants=6, num_shoppers=60, num_impressions=12_000, days=6, image_side=48,
    images_per_product=1, creatives_per_product=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return build_market(tmp_path_factory.mktemp("market") / "small", SMALL, seed=2, workers=1)


def record(market, targets, epsilon=0.3, requests=2_500):
    world = World.open(market)
    made = {name: make(world) for name, make in targets.items()}
    rates, curve = PastRates.of(market, world), examination_curve(market)
    recorder = Recorder(world, PopularityPolicy(world, 1, epsilon), made, rates, curve)
    _play(world, recorder, ExperimentSettings(num_requests=requests, days=2), seed=5)
    return recorder


def test_the_markets_own_log_tells_what_its_ranking_and_chance_would_earn(market):
    for name, (logged, truth) in log_rows(market).items():
        found = {one.name: one for one in estimates(logged)}["IPS"]
        assert found.refused is None, name
        assert abs(found.value.value - truth) < 4 * found.value.standard_error, name
        assert overlap(logged).mean_weight == pytest.approx(1, abs=0.1), name


def test_the_examination_curve_falls_from_one(market):
    curve = examination_curve(market)
    assert curve[0] == 1
    assert (np.diff(curve) <= 0).all()
    assert 0 < curve[-1] < 0.9


def test_recorded_rows_estimate_the_true_chance_of_other_policies(market):
    targets = {"ranking": lambda world: PopularityPolicy(world, 9, 0.0), "truth": OraclePolicy}
    recorder = record(market, targets)
    assert recorder.truth("truth") > 1.1 * recorder.truth("ranking")
    for target in targets:
        for by_position in (False, True):
            logged = recorder.logged(target, by_position)
            assert not logged.uncovered.any()
            assert overlap(logged).mean_weight == pytest.approx(1, abs=0.15)
            for one in estimates(logged):
                if one.name in ("IPS", "SNIPS", "DR"):
                    apart = abs(one.value.value - recorder.truth(target)) / one.value.standard_error
                    assert apart < 4, (target, by_position, one.name)
    place, position = (overlap(recorder.logged("truth", by)).effective_rows for by in (False, True))
    assert position > 3 * place


def test_a_log_without_exploration_is_refused_for_another_policy(market):
    recorder = record(market, {"truth": OraclePolicy}, epsilon=0.0, requests=300)
    with pytest.raises(DataError, match=r"the log never takes \d\d\.\d% of the target's actions"):
        require_overlap(recorder.logged("truth"))


def test_recording_changes_nothing_the_shoppers_do_and_rates_are_the_logs(market):
    recorder = record(market, {}, requests=200)
    assert 0 < recorder.click_rate < 0.2
    world = World.open(market)
    rates = PastRates.of(market, world)
    events = [row for row in market.table("events").to_pylist() if row["kind"] in ("impression", "click")]
    first = world.product_ids[0]
    own = [row["kind"] for row in events if row["product_id"] == first]
    shows, clicks = own.count("impression"), own.count("click")
    mean = sum(row["kind"] == "click" for row in events) / sum(row["kind"] == "impression" for row in events)
    rate = (clicks + 20 * mean) / (shows + 20)
    assert rates.product[0] == pytest.approx(math.log(rate / (1 - rate)))


def test_a_policy_that_draws_products_or_nothing_recorded_is_refused(market):
    with pytest.raises(DataError, match="the policy chance draws its products at random"):
        record(market, {"chance": lambda _: RandomPolicy(8)}, requests=20)
    world = World.open(market)
    recorder = Recorder(
        world, PopularityPolicy(world), {}, PastRates.of(market, world), examination_curve(market)
    )
    with pytest.raises(DataError, match="nothing was recorded for the log: play some requests first"):
        _ = recorder.click_rate


def test_creatives_drawn_alike_need_no_weight_and_chosen_ones_do():
    from moontide.market.policy import Slates

    def slate(creative, chance):
        both = np.array([[1, 2, 3]])
        none = np.zeros((1, 3))
        return Slates(both, np.array([creative]), none, none, none, np.array([chance]))

    logged = slate([10, 21, -1], [0.5, 0.5, 1.0])
    given = np.array([[0, 1, 2]])
    assert _creative_ratio(logged, slate([11, 20, -1], [0.5, 0.5, 1.0]), given).tolist() == [[1, 1, 1]]
    assert _creative_ratio(logged, slate([10, 20, -1], [1.0, 1.0, 1.0]), given).tolist() == [[2, 0, 1]]


def test_the_study_is_resumed_and_its_table_has_every_estimator(market, tmp_path):
    targets = {"ranking": lambda world: PopularityPolicy(world, 9, 0.0)}
    settings = ExperimentSettings(num_requests=300, days=1)
    rows = off_policy_study(tmp_path / "cells", market, targets, 2, settings)
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2
    assert {(row["weighting"], row["estimator"]) for row in rows} == {
        (weighting, name)
        for weighting in ("place", "position")
        for name in ("IPS", "SNIPS", "clipped IPS", "DR")
    } | {("none", "DM")}
    assert all(row["logs"] == 2 for row in rows)
    assert rows == off_policy_study(tmp_path / "cells", market, targets, 2, settings)
    assert "position" in summary_markdown(rows)


# ---- two real policies


@pytest.fixture(scope="module")
def open_bandit() -> Path:
    if "MOONTIDE_DATA" not in os.environ:
        pytest.skip("MOONTIDE_DATA is unset: name the folder of real data")
    folder = Path(os.environ["MOONTIDE_DATA"]) / "open_bandit"
    if not (folder / "impressions.parquet").exists():
        pytest.skip(f"{folder} has no impressions.parquet")
    return folder


@pytest.mark.data
def test_each_real_policy_is_estimated_from_the_others_log_or_refused(open_bandit):
    rows = open_bandit_rows(open_bandit)
    for row in rows:
        if row["estimator"] in ("IPS", "SNIPS", "DR"):
            if (row["campaign"], row["log"]) == ("women", "bts"):
                assert row["refused"] == "2.1 effective rows of 10,000"
            else:
                assert row["refused"] is None
                assert abs(row["z"]) < 2.5
                assert row["mean weight"] == pytest.approx(1, abs=0.06)
    assert "2.1 effective rows" in estimates_markdown(rows, ("campaign", "log", "target"))


@pytest.mark.data
def test_real_logs_are_read_whole_and_chances_sum_to_one(open_bandit):
    logs = read_open_bandit(open_bandit)
    assert {key: (len(log), log.num_items, int(log.click.sum())) for key, log in logs.items()} == {
        ("random", "men"): (10_000, 34, 46), ("random", "women"): (10_000, 46, 46),
        ("bts", "men"): (10_000, 34, 69), ("bts", "women"): (10_000, 46, 46),
    }  # fmt: skip
    log = logs["bts", "men"]
    chance = chances_at(log, log.at_ms, log.place)
    assert chance.sum(1) == pytest.approx(1)
    same = np.take_along_axis(chance, log.item[:, None], axis=1)[:, 0]
    assert np.corrcoef(same, log.propensity)[0, 1] > 0.98


def test_a_folder_of_something_else_is_no_open_bandit(tmp_path):
    with pytest.raises(DataError, match="is not the Open Bandit Dataset"):
        read_open_bandit(tmp_path)


def test_rows_without_a_model_have_no_dm():
    rows = estimate_rows(draw(np.random.default_rng(5), 2_000))
    assert [row["estimator"] for row in rows] == ["IPS", "SNIPS", "clipped IPS", "DM", "DR"]
    bare = Logged(np.ones(500), np.ones(500))
    assert [row["estimator"] for row in estimate_rows(bare)] == ["IPS", "SNIPS", "clipped IPS"]
