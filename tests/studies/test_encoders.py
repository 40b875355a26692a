"""Cells of an encoder table: what a plan may ask for, that every kind trains, repeats itself and goes on."""

import math
import re

import numpy as np
import pytest

from encoder.conftest import SMALL, write_catalog
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.experts.guided import GuidedSettings
from moontide.encoder.model.experts.modality import ModalitySettings
from moontide.encoder.model.reasoner import ReasoningSettings
from moontide.encoder.stages import loop
from moontide.encoder.stages.cleaning import CleaningSettings
from moontide.encoder.stages.coldstart import ColdStartSettings
from moontide.encoder.stages.csft import CsftSettings
from moontide.encoder.stages.posttrain import NegativeSettings, PosttrainSettings
from moontide.encoder.stages.reason import ReasonSettings
from moontide.encoder.stages.triplets import TripletSettings
from moontide.encoder.twotower import TwoTowerSettings
from moontide.foundation.errors import SettingsError
from moontide.foundation.runs import Run
from moontide.studies.encoders import (
    COLUMNS,
    EncoderPlan,
    catalog_texts,
    make_start,
    period_start,
    train_cell,
)

ASKED = EvaluateSettings(
    tasks=("retrieval", "classification", "attributes"), max_queries=12, max_gallery=20, replicates=10
)
PAIRS = PosttrainSettings(
    num_steps=3, batch_size=6, checkpoint_every=1, log_every=1, pairings="moon", is_symmetric=False,
    kinds=("order",), negatives=NegativeSettings(num_hard=1, queue=60, queue_from=0.0),
)  # fmt: skip
TITLES = PAIRS.but(pairings="titles", negatives=NegativeSettings())
TRIPLETS = TripletSettings(num_steps=3, batch_size=4, log_every=1, checkpoint_every=1)
TOWER = TwoTowerSettings(width=8, dim=16, vocab_size=320, image_side=32)
CSFT = CsftSettings(num_steps=3, batch_size=4, queue=60, momentum=0.9, log_every=1)
GUIDED, MODALITY = GuidedSettings(num_experts=4), ModalitySettings(num_experts=3)
REASONER = ReasoningSettings(budget=12, heads=2, head_width=8, dim=16, widths=(8, 16), residual_every=1)
COLD = ColdStartSettings(num_steps=3, num_pairs=4, log_every=1, checkpoint_every=1)
JOINT = ReasonSettings(num_steps=2, num_pairs=3, rollouts=2, queue=6, log_every=1, checkpoint_every=1)
PLANS = {
    "guided, crops": EncoderPlan(guided=GUIDED, crops="added", pairs=(PAIRS,)),
    "crops alone": EncoderPlan(crops="only", pairs=(PAIRS.but(num_steps=1),)),
    "modality, triplets": EncoderPlan(modality=MODALITY, has_augmented=True, triplets=TRIPLETS),
    "two-tower": EncoderPlan(two_tower=TOWER, tower_start=TITLES, pairs=(PAIRS,)),
    "two-tower from nothing": EncoderPlan(two_tower=TOWER, pairs=(PAIRS.but(num_steps=1),)),
    "cleaning": EncoderPlan(cleaning=CleaningSettings(), pairs=(PAIRS, PAIRS.but(loss="circle"))),
    "csft": EncoderPlan(csft=CSFT),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """The drawn catalog, regions annotated, some products with an enriched title and one more picture."""
    folder = tmp_path_factory.mktemp("data")
    drawn = write_catalog(folder / "drawn")
    added = []
    for product in drawn.products()[:20]:
        kept = {"product_id": product.product_id, "source": "test", "version": "1", "accepted": True}
        added.append(kept | {"kind": "title", "title": f"{product.title}, plain"})
        added.append(kept | {"kind": "main", "image_id": f"new {product.product_id}"})
    with DatasetWriter(folder / "augmented", "augmented", base=drawn) as writer:
        for row in added[1::2]:
            source = f"i{row['product_id'][1:]}a"
            writer.add_image(row["image_id"], drawn.images[source])
        writer.put("augmented", added)
    return Dataset.open(folder / "augmented")


def new_encoder(dataset: Dataset) -> MoonEncoder:
    return MoonEncoder.tiny(catalog_texts(dataset, period_start(dataset)), SMALL, device="cpu")


@pytest.fixture(scope="module")
def start(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start"
    return make_start(path, dataset, lambda: new_encoder(dataset), TITLES, 0)


# --- plans ------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"guided": GUIDED, "modality": MODALITY},
            "guided and modality experts fill the same slot: choose one",
        ),
        (
            {"two_tower": TOWER, "guided": GUIDED},
            "a two-tower has neither experts, crops nor triplets: leave",
        ),
        (
            {"two_tower": TOWER, "crops": "added"},
            "a two-tower has neither experts, crops nor triplets: leave",
        ),
        ({"two_tower": TOWER, "triplets": TRIPLETS}, "a two-tower has neither experts, crops nor triplets"),
        ({"cleaning": CleaningSettings()}, "cleaning needs a stage on pairs"),
        ({"tower_start": TITLES, "pairs": (PAIRS,)}, "tower_start needs a two_tower"),
        ({"has_augmented": True, "pairs": (PAIRS,)}, "has_augmented needs the stage on triplets"),
        *[
            (
                {"reasoner": REASONER} | other,
                "a reasoner has neither towers, experts, csft nor triplets: leave",
            )
            for other in (
                {"two_tower": TOWER},
                {"guided": GUIDED},
                {"modality": MODALITY},
                {"csft": CSFT},
                {"triplets": TRIPLETS},
            )
        ],
        ({"cold_start": COLD}, "cold_start and reason train a reasoner: give one"),
        ({"reason": JOINT}, "cold_start and reason train a reasoner: give one"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_in_one_sentence(asked, sentence):
    with pytest.raises(SettingsError, match=sentence) as refused:
        EncoderPlan(**asked)
    assert len(str(refused.value).splitlines()) == 1


# --- the start ------------------------------------------------------------


def test_the_start_is_made_once_and_sees_no_product_of_the_test_side(dataset, start):
    before = {file: file.stat().st_mtime_ns for file in start.rglob("*")}

    def never() -> MoonEncoder:
        raise AssertionError("it is there already")

    assert make_start(start, dataset, never, TITLES, 0) == start
    assert {file: file.stat().st_mtime_ns for file in start.rglob("*")} == before
    texts = catalog_texts(dataset, period_start(dataset))
    held_out = [product.title for product in dataset.products()[3::4]]
    assert not any(title in text for title in held_out for text in texts)
    assert "red square" in texts
    assert MoonEncoder(start, device="cpu").fingerprint() != new_encoder(dataset).fingerprint()


# --- cells ------------------------------------------------------------


def without_times(figures):
    if isinstance(figures, dict):
        return {
            name: without_times(one) for name, one in figures.items() if not re.search("seconds|here", name)
        }
    return figures


@pytest.fixture(scope="module")
def cell(dataset, start, tmp_path_factory):
    """What a cell of seed 1 gave, and its run; trained once."""
    folder, known = tmp_path_factory.mktemp("cells"), {}

    def trained(name: str):
        if name not in known:
            known[name] = train_cell(PLANS[name], 1, folder / name, dataset, start, ASKED)
        return known[name], Run.open(folder / name)

    return trained


@pytest.mark.parametrize("name", PLANS)
def test_a_cell_trains_answers_every_column_and_repeats_itself(dataset, start, cell, tmp_path, name):
    plan, (first, run) = PLANS[name], cell(name)
    again = train_cell(plan, 1, tmp_path / "again", dataset, start, ASKED)
    assert {column.key for column in COLUMNS} == set(first["hits"]) == set(first["queries"])
    for column, hits in first["hits"].items():
        assert len(hits) == len(first["queries"][column]) > 0
        assert np.isin(hits, (0, 1)).all()
        assert np.array_equal(hits, again["hits"][column])
    assert without_times(again["figures"]) == without_times(first["figures"])
    stages = [*plan.pairs, *filter(None, (plan.csft, plan.triplets))]
    assert first["pairs"] == sum(stage.num_steps * stage.batch_size for stage in stages)
    lines = run.metrics()
    assert len(lines) == sum(stage.num_steps for stage in stages)
    assert all(math.isfinite(row["loss"]) and row["gradient_norm"] > 0 for row in lines)
    assert lines == Run.open(tmp_path / "again").metrics()
    assert any("balance" in row for row in lines) == (plan.guided is not None or plan.modality is not None)


def test_another_seed_is_another_cell_and_dual_encoders_share_what_they_were_trained_on_before(
    dataset, start, cell, tmp_path
):
    _, run = cell("two-tower")
    train_cell(PLANS["two-tower"], 2, tmp_path / "2", dataset, start, ASKED)
    losses = [[row["loss"] for row in one.metrics()] for one in (run, Run.open(tmp_path / "2"))]
    assert losses[0] != losses[1]
    assert len(list(start.parent.glob("start-tower-*.pt"))) == 1


def test_cleaning_says_what_it_dropped_and_a_cell_cut_in_its_second_stage_goes_on(
    dataset, start, cell, tmp_path, monkeypatch
):
    plan, (whole, run) = PLANS["cleaning"], cell("cleaning")
    steps = whole["figures"]["cleaning"]
    assert [step["name"] for step in steps] == ["entities", "spu", "hardest", "category"]
    assert steps[0]["rows_in"] >= steps[-1]["rows_out"] > 0
    assert steps[2]["rows_out"] < steps[2]["rows_in"]  # of each product its hardest pair alone

    class Stop(Exception): ...

    calls = iter(range(100))

    def rate_until(step, settings, real=loop.rate_at):
        if next(calls) == 4:  # three steps of the first stage, one of the second
            raise Stop
        return real(step, settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "rate_at", rate_until)
        with pytest.raises(Stop):
            train_cell(plan, 1, tmp_path / "cut", dataset, start, ASKED)
    again = train_cell(plan, 1, tmp_path / "cut", dataset, start, ASKED)
    assert again["figures"]["pairs0"]["steps_here"] == 0
    assert again["figures"]["pairs1"]["steps_here"] == 2
    assert all(np.array_equal(again["hits"][key], hits) for key, hits in whole["hits"].items())
    assert Run.open(tmp_path / "cut").metrics() == run.metrics()
