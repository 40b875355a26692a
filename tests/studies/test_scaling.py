"""The scaling study: what an axis changes and what it leaves, planted points, the whole study in small."""

import numpy as np
import pytest
from micro import MICRO

from moontide.catalog.dataset import Dataset
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.stages.posttrain import NegativeSettings, posttrain
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.ranking.heads import ContentSettings
from moontide.ranking.metrics import auc, gauc
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import Samples
from moontide.ranking.search import SearchSettings
from moontide.studies.intermediate import measure
from moontide.studies.scaling import ScalingSettings, Work, run_scaling
from moontide.studies.scaling_text import Measured, axis_table, scaling_markdown
from moontide.studies.versions import train_versions

NANO = ScalingSettings(
    factors=(1, 2), pools=(16, 32, 64), lengths=(1, 2, 4, 8, 16),
    encoder=MICRO.encoder, posttrain=MICRO.posttrain.but(num_steps=3),
    questions=EvaluateSettings(
        tasks=("retrieval", "image search"), max_queries=20, max_gallery=1, replicates=10
    ),
    clicks=ClickSettings(
        content=ContentSettings(), search=SearchSettings(), hidden=(16,), width=8, attention=8, history=4
    ),
    training=MICRO.training,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


# --- what an axis changes ------------------------------------------------------------


def test_an_axis_changes_its_own_setting_and_nothing_else():
    base = NANO.posttrain
    assert NANO.stage("pairs", 2, seed=7) == base.but(num_steps=6, seed=7)
    for pool, queue in ((16, 0), (32, 16), (64, 48)):
        assert NANO.stage("negatives", pool, 7) == base.but(negatives=NegativeSettings(queue=queue), seed=7)
    hard = NANO.but(posttrain=base.but(negatives=NegativeSettings(num_hard=1)), pools=(64,))
    assert hard.stage("negatives", 64, 0).negatives.queue == 32  # batch and hard negatives are in the pool


def test_a_length_bounds_all_that_the_click_model_reads():
    assert [NANO.model(length).all_steps for length in NANO.lengths] == list(NANO.lengths)
    assert NANO.model(1).history == 1
    assert NANO.model(16).history == 4
    plain = NANO.but(clicks=ClickSettings())
    assert [plain.model(length).history for length in (1, 16)] == [1, 16]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"factors": (2, 1)}, r"factors must be above 0 and ascend, got \(2, 1\)"),
        ({"lengths": (0, 1)}, "lengths must be above 0 and ascend"),
        ({"pools": (8, 32)}, "pools hold the batch and its hard negatives, 16 at least, got 8"),
    ],
)
def test_points_that_make_no_axis_are_refused(asked, sentence):
    with pytest.raises(SettingsError, match=sentence):
        NANO.but(**asked)


# --- planted points ------------------------------------------------------------


def planted(curve: np.ndarray, x: np.ndarray, noise: float = 0.002) -> Measured:
    """Three seeds of 600 questions on 300 products, whose mean follows a curve."""
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.normal(0, 0.1, 300), 2)
    cells = rng.normal(0, noise, (len(x), 3, 1))
    values = curve[:, None, None] + (hard - hard.mean()) + cells + rng.normal(0, 0.01, (len(x), 3, 600))
    facts = [{"core_minutes": 1.0} for _ in x]
    return Measured("recall", range(1, len(x) + 1), range(3), x, values, np.repeat(np.arange(300), 2), facts)


X = np.array([1e6, 2e6, 4e6, 8e6, 16e6])


def test_questions_on_one_product_are_one_and_the_figure_stays():
    one = planted(0.5 + 0 * X, X)
    assert one.by_query().shape == (5, 3, 300)
    assert one.by_query().mean(2) == pytest.approx(one.values.mean(2))


def test_an_axis_that_bends_says_where_it_ends():
    table = axis_table("pairs", [planted(0.6 - 0.3 * (X / 1e6) ** -1.0, X)])
    line = table["metrics"][0]
    assert line["chosen"] == "power"
    assert line["power"]["m_inf"] == pytest.approx(0.6, abs=0.02)
    assert "doubling x leaves 5" in line["sentence"]
    assert line["rise"]["value"] == pytest.approx(0.28, abs=0.01)
    assert line["rise"]["is_resolved"]
    assert 0 < line["rise"]["resolvable"] < 0.05


def test_an_axis_that_does_nothing_is_not_told_from_0_and_its_page_says_so():
    table = axis_table("history", [planted(0.5 + 0 * X, X)])
    line = table["metrics"][0]
    assert line["chosen"] == "log"
    assert "not told from 0" in line["sentence"]
    assert not line["rise"]["is_resolved"]
    page = scaling_markdown({"dataset": "planted", "axes": {"history": table}, "missing": {"a": "not run"}})
    assert line["sentence"] in page
    assert "| recall | 8,000,000 |" not in page  # the held-out point is the largest
    assert "| recall | 16,000,000 |" in page
    assert "- a: not run" in page


def test_one_point_is_no_axis():
    table = axis_table("history", [planted(np.array([0.5]), X[:1])])
    assert table["metrics"][0]["sentence"] == "recall: one point, nothing to compare."


# --- the study in small ------------------------------------------------------------


@pytest.fixture(scope="module")
def market(micro_run) -> Dataset:
    return Dataset.open(micro_run.path / "dataset")


@pytest.fixture(scope="module")
def study(market, tmp_path_factory):
    to = tmp_path_factory.mktemp("scaling") / "study"
    return to, run_scaling(market, to, NANO, seeds=range(2))


def test_the_study_has_every_point_of_every_axis_and_its_files(study):
    to, table = study
    assert not table["missing"]
    for axis, num in (("pairs", 2), ("negatives", 3), ("history", 5)):
        lines = table["axes"][axis]["metrics"]
        assert lines
        assert all(len(line["points"]) == num for line in lines)
        assert all(line["seeds"] == [0, 1] for line in lines)
        assert (to / f"{axis}.png").read_bytes().startswith(b"\x89PNG")
    assert (to / "scaling.md").read_text().count("## ") >= 3
    pairs = table["axes"]["pairs"]["metrics"][0]["points"]
    assert [one["facts"]["pairs"] for one in pairs] == [48, 96]
    assert pairs[1]["x"] == pytest.approx(2 * pairs[0]["x"], rel=0.1)
    queued = [one["facts"]["queued"] for one in table["axes"]["negatives"]["metrics"][0]["points"]]
    assert queued[0] == 0 < queued[1] <= queued[2]
    longer = [one["facts"]["longer"] for one in table["axes"]["history"]["metrics"][0]["points"]]
    assert longer == sorted(longer, reverse=True)
    assert longer[0] > longer[-1]


def test_an_encoder_cell_is_the_plain_stage_and_its_figures_are_the_benchmarks(study, market):
    _, table = study
    work = Work(market, study[0], NANO)
    encoder = work.new_encoder(1)
    posttrain(encoder, market, NANO.stage("negatives", 32, 1).but(before=work.before))
    result, _ = measure(encoder, market, NANO.questions)
    found = {line["metric"]: line["points"][1] for line in table["axes"]["negatives"]["metrics"]}
    for metric, point in found.items():
        assert point["by_seed"][1] == pytest.approx(result["metrics"][metric], abs=1e-6)
    assert found


def test_the_history_cells_share_one_table_and_their_figures_are_those_of_the_scores(study):
    to, table = study
    samples = Samples.load(to / "samples")
    label, shopper = samples.label[samples.test_rows], samples.shopper[samples.test_rows]
    with np.load(to / "cells" / "history-4-seed1.npz") as kept:
        scores = kept["scores"]
    found = {line["metric"]: line["points"][2]["by_seed"][1] for line in table["axes"]["history"]["metrics"]}
    assert found["AUC"] == pytest.approx(auc(scores, label))
    assert found["GAUC"] == pytest.approx(gauc(shopper, scores, label).value)
    assert (to / "vectors" / "content.json").exists()


def test_a_second_call_computes_nothing_and_a_lost_cell_alone_is_computed_again(study, market):
    to, table = study
    lost, kept = to / "cells" / "history-2-seed1.json", to / "cells" / "pairs-1-seed0.json"
    lost.unlink()
    before = kept.stat().st_mtime_ns
    partial = run_scaling(market, to, NANO, seeds=range(2), max_minutes=0)
    assert partial["missing"] == {"history-2-seed1": "not run"}
    assert [one["point"] for one in partial["axes"]["history"]["metrics"][0]["points"]] == [1, 4, 8, 16]
    again = run_scaling(market, to, NANO, seeds=range(2))
    assert lost.exists()
    for one, other in zip(again["axes"].values(), table["axes"].values(), strict=True):
        assert [line["sentence"] for line in one["metrics"]] == [
            line["sentence"] for line in other["metrics"]
        ]
    assert kept.stat().st_mtime_ns == before


def test_a_given_encoder_stands_behind_the_history_cells(study, market, tmp_path):
    work = Work(market, tmp_path, NANO)
    stage = NANO.posttrain.but(before=work.before)
    places = train_versions(lambda: work.new_encoder(0), market, stage, tmp_path / "v", (0.0, 1.0))
    given = NANO.but(lengths=(4,))
    found = {
        name: run_scaling(market, tmp_path / name, given, [1], ["history"], place)
        for name, place in (("first", places["0%"]), ("last", places["100%"]))
    }
    whole = study[1]["axes"]["history"]["metrics"]
    values = {
        name: [line["points"][0]["by_seed"][0] for line in one["axes"]["history"]["metrics"]]
        for name, one in found.items()
    }
    assert values["last"] == [line["points"][2]["by_seed"][1] for line in whole]  # the one it trains itself
    assert values["first"] != values["last"]


def test_other_settings_and_unknown_names_are_refused(study, market):
    to, _ = study
    with pytest.raises(CheckpointError, match="was computed with other settings"):
        run_scaling(market, to, NANO.but(posttrain=NANO.posttrain.but(num_steps=4)), seeds=range(2))
    with pytest.raises(
        SettingsError, match=r"no axis is called 'depth': the axes are pairs, negatives, history"
    ):
        run_scaling(market, to, NANO, axes=["depth"])
    with pytest.raises(SettingsError, match=r"no axis or cell is called 'pairs-3': the axes are pairs"):
        run_scaling(market, to, NANO, only=["pairs-3"])
    assert MoonEncoder(to / "encoder" / "step-000003", device="cpu").fingerprint()
