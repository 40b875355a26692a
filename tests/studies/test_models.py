"""The table of click models: cells, controls, pairs of rows, and the ladder's encoders."""

import json

import numpy as np
import pytest
import torch
from micro import MICRO

from moontide.catalog.dataset import Dataset
from moontide.encoder.twotower import TwoTowerSettings
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.ranking.heads import ContentSettings
from moontide.ranking.metrics import auc, gauc
from moontide.ranking.samples import Samples
from moontide.recipes import click_models
from moontide.studies.encoders import EncoderPlan
from moontide.studies.ladder import train_rungs
from moontide.studies.models import Model, models_markdown, prepare, run_models, vectors_folder

SMALL = MICRO.clicks
SIMTIER = SMALL.but(content=ContentSettings())
ROWS = [
    Model("popularity", None),
    Model("id", SMALL, above=("popularity",)),
    Model("simtier, wide", SIMTIER, above=("id",)),
    Model("permuted", SIMTIER, "permuted"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(micro_run, tmp_path_factory):
    to = tmp_path_factory.mktemp("models")
    dataset = Dataset.open(micro_run.path / "dataset")
    data = prepare(to, dataset, micro_run.path / "center")
    return to, data, run_models(to, data, ROWS, range(2), MICRO.training)


def row_of(table, name, where="all"):
    return next(row for row in table["rows"] if (row["slice"], row["model"]) == (where, name))


def test_rows_are_means_over_seeds_of_the_metrics_of_kept_scores(made):
    to, data, table = made
    samples = Samples.load(data / "samples")
    rows = samples.test_rows
    label, shopper = samples.label[rows], samples.shopper[rows]
    for name, file in (("id", "id"), ("simtier, wide", "simtier-wide")):
        scores = [np.load(to / "cells" / f"{file}-seed{seed}.npz")["scores"] for seed in (0, 1)]
        row = row_of(table, name)
        assert row["seeds"] == [0, 1]
        assert row["auc"] == pytest.approx(np.mean([auc(one, label) for one in scores]), abs=1e-5)
        found = np.mean([gauc(shopper, one, label).value for one in scores])
        assert row["gauc"] == pytest.approx(found, abs=1e-5)
    assert row_of(table, "popularity")["seeds"] == [0]
    assert np.isnan(row_of(table, "popularity")["pcoc"])  # a rate is no p(click)


def test_differences_are_paired_with_the_reference_and_the_gap_is_counted_from_it(made):
    _, _, table = made
    ids, wide, truth = (row_of(table, name) for name in ("id", "simtier, wide", "truth"))
    assert wide["auc_difference"]["value"] == pytest.approx(wide["auc"] - ids["auc"], abs=1e-5)
    assert wide["auc_difference"]["over"] == "seeds and queries"
    gap = truth["auc"] - ids["auc"]
    assert wide["closed"] == pytest.approx((wide["auc"] - ids["auc"]) / gap, abs=1e-5)
    order = {(one["slice"], one["below"], one["above"]) for one in table["order"]}
    assert {("all", "popularity", "id"), ("all", "id", "simtier, wide")} <= order
    text = models_markdown(table)
    assert "| all | simtier, wide | 2 |" in text
    assert "as published" in text


def test_permuted_vectors_are_another_table_and_finished_cells_are_kept(made):
    to, data, table = made
    assert row_of(table, "permuted")["auc"] != row_of(table, "simtier, wide")["auc"]
    stamps = {file: file.stat().st_mtime_ns for file in (to / "cells").glob("*.json")}
    assert len(stamps) == 7
    again = run_models(to, data, ROWS, range(2), MICRO.training)
    assert {file: file.stat().st_mtime_ns for file in (to / "cells").glob("*.json")} == stamps
    assert json.dumps(again) == json.dumps(table)


def test_other_settings_and_unknown_rows_are_refused(made):
    to, data, _ = made
    with pytest.raises(CheckpointError, match="other settings"):
        run_models(to, data, ROWS, range(2), MICRO.training.but(batch_size=64))
    with pytest.raises(SettingsError, match="no model is called 'nobody'"):
        run_models(to, data, ROWS, range(1), MICRO.training, only=("nobody",))


def test_a_dual_encoder_of_the_ladder_embeds_everything_the_log_names(micro_run, tmp_path):
    dataset = Dataset.open(micro_run.path / "dataset")
    data = prepare(tmp_path, dataset, None)
    stage = MICRO.posttrain.but(pairings="titles", num_steps=2)
    plan = EncoderPlan(two_tower=TwoTowerSettings(width=8, dim=16, image_side=56), pairs=(stage,))
    train_rungs(tmp_path, data, dataset, {"R1": plan}, micro_run.path / "encoder")
    rungs = [Model("R0", SMALL), Model("R1, vector", SIMTIER, vectors="R1")]
    table = run_models(tmp_path, data, rungs, [0], MICRO.training, "R0")
    assert vectors_folder(data, "R1").name == "vectors-r1"
    facts = json.loads((tmp_path / "cells" / "r1-vector-seed0.json").read_text())
    assert facts["settings"]["vectors"] == "R1"
    assert {row["model"] for row in table["rows"]} == {"R0", "R1, vector", "truth"}


def test_every_table_of_the_recipes_has_distinct_rows_that_can_be_built():
    for rows in (make() for make in (*click_models.TABLES.values(), click_models.ladder)):
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        assert {below for row in rows for below in row.above} <= set(names)
