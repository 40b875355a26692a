"""Judges' accuracy table, pictures changed one by one, what choosing is worth: by value, once end to end."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from moontide.creative.bandit import BanditSettings
from moontide.creative.image_ranker import RankerSettings
from moontide.creative.metrics import judge_metrics
from moontide.creative.pairs import PairSettings
from moontide.creative.prompt import Asked
from moontide.creative.records import CreativePair, Verdict
from moontide.creative.schooling import Schooling
from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.market.build import build_market
from moontide.market.creative_test import Contexts
from moontide.market.query_pictures import looks_of
from moontide.market.settings import MarketSettings
from moontide.recipes import creative4u
from moontide.studies.counterfactual import (
    CHANGES,
    alter,
    counterfactual_markdown,
    measure,
    moves,
    redraw,
    true_effects,
)
from moontide.studies.creative_study import CreativePlan, CreativeStudy
from moontide.studies.creatives import Contestant, JudgeTable, ceilings, counts_of, figures, keep, kept
from moontide.studies.creatives_text import accuracy_markdown, accuracy_table
from moontide.studies.selection import (
    BEST,
    FLAT,
    Field,
    SelectionSettings,
    _reached,
    compare_bandits,
    fitted_eta,
    priors,
    select,
    simulate,
    strengths_by,
    top_one,
)
from moontide.studies.selection_text import selection_markdown

MARKET = MarketSettings(
    num_products=60, num_merchants=5, num_shoppers=30, num_impressions=4_000, days=5, image_side=56,
    images_per_product=1, creatives_per_product=3, image_queries=0, mixed_queries=0,
)  # fmt: skip
SMALL = SelectionSettings(
    max_products=60,
    days=6,
    impressions=400,
    counted=(50,),
    eta_impressions=400,
    replay_impressions=100,
    seeds=2,
)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return build_market(tmp_path_factory.mktemp("market") / "small", MARKET, seed=6, workers=1)


@pytest.fixture(scope="module")
def contexts(market):
    return Contexts.of(market)


@pytest.fixture(scope="module")
def field(market, contexts):
    return Field.of(market, contexts, contexts.world.product_ids, SMALL)


def ids(market) -> list[str]:
    return market.table("products", ["product_id"]).column(0).to_pylist()


# --- pictures changed one by one ---


def test_a_creative_drawn_again_is_the_stored_picture_byte_for_byte(market):
    looks, seen = looks_of(market), 0
    for row in market.table("creatives").to_pylist()[:40]:
        if row["params"]:
            data = redraw(
                looks[row["product_id"]], row["image_id"], row["template"], dict(row["params"]), 6, 56
            )
            assert data == market.images[row["image_id"]]
            seen += 1
    assert seen == 30


def test_a_change_alters_its_own_parameters_alone():
    before = {"text": "", "size": "0.80", "background": "plain", "props": "0", "border": "none", "x": "0.5"}
    changed = {one.name: {k for k, v in one.changed(before).items() if v != before[k]} for one in CHANGES}
    assert changed == {
        "text overlay added": {"text"},
        "subject shrunk": {"size"},
        "background cluttered": {"background", "props"},
        "border added": {"border"},
        "props added": {"props"},
    }
    assert all(one.applies(before) for one in CHANGES)
    after = before | {"text": "SALE", "size": "1.10", "background": "blocks", "props": "3", "border": "thin"}
    assert not any(one.applies(after) for one in CHANGES)


def test_the_true_effect_of_no_change_is_none(market, contexts):
    altered = alter(market, CHANGES[0], ids(market), 5)
    same = [replace(one, after=one.before) for one in altered]
    before, after = true_effects(contexts, same)
    assert after == pytest.approx(before, rel=1e-12)
    before, after = true_effects(contexts, altered)
    assert (np.abs(after - before) > 0).all()


def test_an_altered_creative_is_compared_with_another_one_of_its_product(market):
    altered = alter(market, CHANGES[3], ids(market), 8)
    assert len({one.product_id for one in altered}) == len(altered) == 8
    made = {row["creative_id"]: row for row in market.table("creatives").to_pylist()}
    for one in altered:
        assert one.before == market.images[made[one.creative_id]["image_id"]]
        own = [row["image_id"] for row in made.values() if row["product_id"] == one.product_id]
        assert one.other in [market.images[image] for image in own]
        assert len({one.before, one.after, one.other}) == 3


def test_a_judge_that_knows_the_truth_moves_the_right_way_and_its_opposite_never_does(market, contexts):
    altered = alter(market, CHANGES[3], ids(market), 20)
    before, after = true_effects(contexts, altered)
    worth = {one.before: rate for one, rate in zip(altered, before, strict=True)}
    worth |= {one.after: rate for one, rate in zip(altered, after, strict=True)}

    def compare(sign: float):
        def told(asked: list[Asked]) -> np.ndarray:
            apart = [worth[one.image_a] - worth.get(one.image_b, 0.02) for one in asked]
            return 1 / (1 + np.exp(-sign * 50 * np.array(apart)))

        return told

    good, bad = (measure([moves(contexts, altered, compare(sign))]) for sign in (1, -1))
    assert (good["own"]["value"], good["direct"]["value"]) == (1, 1)
    assert (bad["own"]["value"], bad["direct"]["value"]) == (0, 0)
    assert good["shift"]["value"] == pytest.approx(-bad["shift"]["value"])
    assert good["effect"]["value"] == pytest.approx(after.sum() / before.sum() - 1)
    assert "border added" in counterfactual_markdown({"judge": {"border added": good}})


def test_a_row_of_the_counterfactual_table_by_value():
    one = {"before": [0.04] * 8, "after": [0.02] * 6 + [0.03, 0.05], "direct": [0.4] * 8}
    row = measure([one | {"shift": [-0.1] * 5 + [0.1, 0.0, 0.1]}])
    assert row["direction"] == -1
    assert row["effect"]["value"] == pytest.approx(0.2 / 0.32 - 1)
    assert row["harmed"] == 7 / 8
    assert row["right"]["value"] == pytest.approx(5.5 / 8)  # what did not move counts half
    assert row["own"]["value"] == pytest.approx(6.5 / 8)
    assert row["direct"]["value"] == pytest.approx(7 / 8)
    even = measure(
        [{"before": [0.04, 0.04], "after": [0.05, 0.03], "shift": [0.1, 0.1], "direct": [0.6, 0.6]}]
    )
    assert (even["direction"], even["right"]) == (0, None)


def test_a_change_that_no_creative_allows_and_a_market_of_photos_are_refused(market, contexts):
    with pytest.raises(DataError, match="no creative of 0 products can be changed so: border added"):
        alter(market, CHANGES[3], [])


# --- the accuracy table ---


def pair(number: int, label: str = "A", **changes) -> CreativePair:
    values = {
        "pair_id": f"x{number}", "product_id": f"p{number // 2}", "category": ("Home",), "title": "lamp",
        "queries": (), "creative_a": f"a{number}", "creative_b": f"b{number}", "image_a": "i", "image_b": "j",
        "impressions_a": 2000, "clicks_a": 60, "impressions_b": 2000, "clicks_b": 30, "label": label,
        "label_confidence": 0.9, "split": "test",
    }  # fmt: skip
    return CreativePair(**(values | changes))


def verdicts(pairs, letters: str) -> list[Verdict]:
    """Two letters a pair, A first and B first; `-` for none."""
    found = []
    for number, one in enumerate(pairs):
        for order, letter in zip(("ab", "ba"), letters[2 * number : 2 * number + 2], strict=True):
            is_read = letter != "-"
            found.append(Verdict(one.pair_id, order, letter if is_read else None,
                                 0.7 if letter == "A" else 0.3, {}, "", is_read, is_read, ""))  # fmt: skip
    return found


def test_a_cell_keeps_all_that_the_metrics_need():
    pairs = [pair(0), pair(1, "B"), pair(2), pair(3, "B")]
    told = verdicts(pairs, "ABBAAA--")
    result = json.loads(json.dumps(keep(pairs, told)))
    assert judge_metrics(pairs, kept(pairs, result)).row() == judge_metrics(pairs, told).row()


def test_figures_of_a_row_are_means_over_seeds_pair_by_pair():
    pairs = [pair(0), pair(1, "B"), pair(2), pair(3, "B")]
    extra = {"pairs_seen": 7, "core_seconds": 60.0}
    results = {seed: keep(pairs, verdicts(pairs, letters)) | extra for seed, letters in
               enumerate(("ABBAABBA", "AAAAAAAA"))}  # fmt: skip
    row = figures(Contestant("both", "random"), pairs, results)
    assert row.by_pair["strict"].tolist() == [0.5] * 4
    assert row.by_pair["order_invariant"].tolist() == [0.75] * 4
    assert row.by_pair["accuracy_ab"].tolist() == [1, 0.5, 1, 0.5]
    assert row.by_pair["accuracy_ba"].tolist() == [0.5, 1, 0.5, 1]
    assert row.shares["flip"] == row.shares["always_first"] == 0.5
    assert row.by_seed == [1.0, 0.5]
    assert row.core_minutes == 1.0


def test_the_ceiling_is_the_labels_confidence_or_their_truth():
    pairs = [pair(0), pair(1, label_confidence=0.7), pair(2)]
    rates = {"a0": 0.03, "b0": 0.01, "a1": 0.01, "b1": 0.03, "a2": 0.02, "b2": 0.02}
    found = ceilings(pairs, rates)
    assert found["ceiling, by the counts"].tolist() == [0.9, 0.7, 0.9]
    assert found["ceiling, by the truth"].tolist() == [1.0, 0.0, 0.5]


def test_the_table_has_every_pair_in_one_bucket_and_paired_differences():
    pairs = [pair(n, clicks_a=clicks) for n, clicks in enumerate((50, 55, 80, 100, 300, 31))]
    extra = {"pairs_seen": 0, "core_seconds": 0.0}
    rows = [
        figures(Contestant(name, "random"), pairs, {0: keep(pairs, verdicts(pairs, letters)) | extra})
        for name, letters in (("good", "AB" * 6), ("first", "AA" * 6))
    ]
    table = accuracy_table(pairs, rows, ceilings(pairs), "good")
    assert table["bucket_pairs"] == {
        "below 20%": 1, "60% to 100%": 2, "100% to 200%": 1, "200% and more": 2
    }  # fmt: skip
    assert table["rows"][1]["difference"]["value"] == -0.5
    assert "difference" not in table["rows"][0]
    text = accuracy_markdown(table, {"table-x-seed0": "not run"})
    assert "| first | 100.0%" in text
    assert "Not there yet: table-x-seed0: not run." in text


def test_rows_that_cannot_be_are_refused(tmp_path):
    plan = Schooling()
    for rows, said in (
        ([Contestant("a b", "random"), Contestant("a-b", "random")], "rows need distinct names"),
        ([Contestant("x", "judge")], "row 'x' is a judge without a plan"),
        ([Contestant("x", "judge", plan, after="y")], "row 'x' goes on from 'y', which is no judge's row"),
    ):
        with pytest.raises(SettingsError, match=said):
            JudgeTable(tmp_path, None, rows)
    assert len(counts_of([pair(0), pair(1, creative_a="a0")])) == 3


# --- what choosing is worth ---


def test_the_truth_as_strength_earns_all_and_its_opposite_less_than_chance(field):
    log_rate = np.where(field.is_real, np.log(np.maximum(field.rate, 1e-9)), 0)
    found = top_one(field, {"true": [log_rate], "opposite": [-log_rate], "none": [0 * log_rate]}, SMALL)
    assert found["true"]["of_best"] == pytest.approx(1)
    assert found["true"]["uplift"] == found[BEST]["uplift"]
    assert found["none"]["uplift"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["opposite"]["uplift"]["value"] < 0
    assert 0 < found["highest CTR of 50 impressions"]["of_best"] < 1


def test_half_of_the_products_fit_eta_and_the_other_half_are_measured(field):
    assert field.is_measured.sum() == 30
    assert len(field.measured(field.rate)) == 30
    log_rate = np.where(field.is_real, np.log(np.maximum(field.rate, 1e-9)), 0)
    assert fitted_eta(field, log_rate, SMALL.but(eta_impressions=100_000)) == pytest.approx(1, abs=0.1)
    assert fitted_eta(field, -log_rate, SMALL) == 0


def test_a_flat_prior_says_the_same_of_all_and_a_true_one_starts_ahead(field):
    log_rate = np.where(field.is_real, np.log(np.maximum(field.rate, 1e-9)), 0)
    flat = priors(field, log_rate, 0.0, 0.02, 100)
    assert flat[0][field.measured(field.is_real)] == pytest.approx(2.0)
    curves = {
        FLAT: simulate(field, flat, SMALL, BanditSettings()),
        "judge": simulate(field, priors(field, log_rate, 1.0, 0.02, 100), SMALL, BanditSettings()),
    }
    assert curves[FLAT].shape == (7, 30)
    assert curves[FLAT][-1].mean() > curves[FLAT][0].mean()
    assert curves["judge"][0].mean() > curves[FLAT][0].mean()
    found = compare_bandits(field, curves, SMALL, (0.3,))
    assert found["judge"]["regret"]["value"] < found[FLAT]["regret"]["value"]
    assert found[BEST]["regret"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["judge"]["lift"]["value"] > 0
    first = found["judge"]["saved"]["first day"]
    assert first["prior"] == 0
    assert first["saved"]["value"] == pytest.approx(first["flat"])
    assert first["flat"] > 0


def test_impressions_until_a_rate_are_read_between_days():
    settings = SMALL.but(days=3, impressions=100)
    mean = np.array([[0.01, 0.02, 0.04, 0.04], [0.01, 0.01, 0.01, 0.01], [0.05, 0.05, 0.05, 0.05]])
    assert _reached(mean, np.array([0.03, 0.03, 0.03]), settings).tolist() == pytest.approx([150, 300, 0])


def test_strengths_come_from_all_pairs_of_a_product(field):
    rate = {image: r for images, row in zip(field.images, field.rate, strict=True)
            for image, r in zip(images, row, strict=False)}  # fmt: skip

    def compare(asked):
        return np.array([float(rate[one.image_a] > rate[one.image_b]) for one in asked])

    found = strengths_by(field, compare)
    best = np.where(field.is_real, found, -np.inf).argmax(1)
    assert (best == np.where(field.is_real, field.rate, -1).argmax(1)).mean() > 0.95  # equal pictures aside


def test_selection_is_told_whole_with_replay_of_a_uniform_log(field):
    log_rate = np.where(field.is_real, np.log(np.maximum(field.rate, 1e-9)), 0)
    found = select(field, {"true": [log_rate, log_rate]}, 0.02, SMALL.but(replay_impressions=2_000))
    json.dumps(found, allow_nan=False)
    best = found["replay"][BEST]
    assert best["sctr"] == pytest.approx(best["true_ctr"], rel=0.1)  # unbiased on such a log
    assert best["nsctr"] == pytest.approx(best["true_ctr"], rel=0.1)
    assert best["coverage"] == 1
    assert found["replay"]["true"] == best
    text = selection_markdown(found)
    assert "| bandit, prior of true |" in text
    assert "Fitted eta, by seed: true:" in text


def test_too_few_held_out_products_are_refused(market, contexts):
    with pytest.raises(
        DataError, match="selection needs four held-out products with two creatives each, got 1"
    ):
        Field.of(market, contexts, ids(market)[:1], SMALL)


# --- end to end ---


def small_plan() -> CreativePlan:
    school = Schooling(depth=1, sft_steps=2, grpo_steps=1, num_prompts=2, num_generations=2)
    ranker = RankerSettings(image_side=32, width=4, epochs=1)
    return CreativePlan(
        rows=creative4u.rows(school, ranker), shown=("image-only ranker", "SFT only"),
        reference="image-only ranker", market=MARKET, impressions=2_000, pairs=PairSettings(max_pairs=2),
        selection=SMALL.but(max_products=8, days=2, seeds=1), bandit=BanditSettings(), altered=2, depth=1,
    )  # fmt: skip


def test_a_study_is_computed_cell_by_cell_and_a_second_call_computes_nothing(market, tmp_path):
    study = CreativeStudy(market, tmp_path, small_plan())
    with pytest.raises(SettingsError, match="no part, row or cell is called 'nothing': parts are table,"):
        study.run(range(1), ["nothing"])
    study.run(range(1), max_minutes=0)
    assert "Not there yet" in (tmp_path / "table.md").read_text()
    assert not (tmp_path / "selection.md").exists()
    study.run(range(1), ["random", "image-only ranker"])
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4  # two of the table, and the ranker's others
    study.run(range(1))
    cells = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")}
    assert len(cells) == 6 + 2 + 2
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["missing"] == {}
    seen = {row["row"]: row["pairs_seen"] for row in table["rows"]}
    assert (seen["SFT only"], seen["GRPO only"], seen["SFT then GRPO"]) == ([32], [2], [34])
    CreativeStudy(market, tmp_path, small_plan()).run(range(1))
    assert {file: file.stat().st_mtime_ns for file in cells} == cells
    with pytest.raises(CheckpointError, match="pairs was made by another pair rule"):
        CreativeStudy(market, tmp_path, replace(small_plan(), pairs=PairSettings()))
    text = (tmp_path / "creative.md").read_text()
    assert all(part in text for part in ("ceiling, by the truth", "subject shrunk", "bandit, flat prior"))


def test_every_size_of_the_recipe_is_whole():
    for name, size in creative4u.SIZES.items():
        plan = creative4u.with_ablations(size())
        names = [row.name for row in plan.rows]
        assert len(set(names)) == len(names) == 6 + 12, name
        assert set(plan.shown) <= set(names)
    assert creative4u.strict_pairs().min_confidence == 0.95
    with pytest.raises(SettingsError, match="'random' cannot be shown"):
        replace(creative4u.tiny(), shown=("random",))


def test_the_command_has_help_and_knows_its_sizes():
    from moontide.recipes.study import creative, study

    found = CliRunner().invoke(study, ["creative", "--help"])
    assert found.exit_code == 0
    with pytest.raises(
        SettingsError, match="no size is called 'huge': the sizes are nano, tiny, small, paper"
    ):
        creative("nowhere", "nowhere", size="huge")
