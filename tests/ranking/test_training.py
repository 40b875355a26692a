"""Training of click models: phases, one pass for ids, sparse tables, ranks, exact resume, early metrics."""

import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import ranks_clicks
import torch
import torch.multiprocessing as mp

from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.runs import Run
from moontide.ranking.batches import Feed
from moontide.ranking.content import ContentTable
from moontide.ranking.fit import JOINT, Fit, Phase, batches_of
from moontide.ranking.heads import ContentSettings
from moontide.ranking.make import MakeSettings
from moontide.ranking.metrics import pcoc
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.pretrain_content import content_phase
from moontide.ranking.train import Trained, TrainSettings, Watch, feed_of, train_click_model

QUICK = TrainSettings(batch_size=256)
SPEED = ("samples_per_second",)  # what two equal trainings differ in


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    ranks_clicks.write_small(folder)
    return folder


@pytest.fixture(scope="module")
def data(small):
    torch.set_num_threads(1)
    return ranks_clicks.read_small(small)


@pytest.fixture(scope="module")
def uninterrupted(data):
    return train_click_model(*data, ranks_clicks.SETTINGS, training=ranks_clicks.TRAINING)


def made(**changes) -> ClickSettings:
    make = MakeSettings(**{"epochs": 1, "width": 8, "hidden": (8,), **changes})
    return ClickSettings(content=ContentSettings(tiers=0, make=make))


def new_model(samples, settings) -> ClickModel:
    model = ClickModel(samples.vocabulary.sizes, settings, 5, 16 if settings.reads_vectors else 0)
    model.initialize(0)
    return model


def copied(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def fit_ids(samples, training, after_step, epochs=1, resets=frozenset()):
    """A phase of the ID model; `after_step(model, step, rows of its batch)`."""
    model = new_model(samples, ClickSettings())
    feed = feed_of(model, samples.vocabulary, samples.entities, None)
    names = frozenset(copied(model))
    phase = Phase(JOINT, epochs, feed, model, names, resets=resets)
    rows = samples.train_rows
    seen = [piece.rows for piece in batches_of(phase, samples, rows, training.batch_size, 0)]
    watch = Watch(after_step=lambda _, step: after_step(model, step, seen[step - 1]))
    Fit(model, samples, rows, rows[:0], training, 0, watch, "").run([phase])
    return model


def test_the_first_phase_learns_content_alone_and_no_id_gets_a_gradient(data):
    samples, vectors = data
    model = new_model(samples, made(is_frozen=False))
    before, looked = copied(model), []

    def look(phase, step):
        looked.append(phase)
        for name, weight in model.named_parameters():
            assert (weight.grad is None) == (not name.startswith("heads.make.")), name

    phase = content_phase(model, samples.vocabulary, samples.entities, vectors)
    rows = samples.train_rows
    Fit(model, samples, rows, rows[:100], QUICK, 0, Watch(after_step=look), "").run([phase])
    assert looked == ["make"] * len(looked)
    assert len(looked) == -(-len(rows) // 256)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == (not name.startswith("heads.make.")), name
        assert weight.requires_grad, name


def test_the_joint_pass_leaves_a_frozen_content_model_as_it_is_and_moves_another(data):
    weights = {}
    for is_frozen in (True, False):
        for epochs in (1, 2):  # the first phase is the same in both
            training = QUICK.but(epochs=epochs, reset_ids=epochs > 1)
            model = train_click_model(*data, made(is_frozen=is_frozen), training=training).model
            weights[is_frozen, epochs] = copied(model)
    for name in weights[True, 1]:
        if name.startswith("heads.make."):
            assert torch.equal(weights[True, 1][name], weights[True, 2][name]), name
            assert not torch.equal(weights[False, 1][name], weights[False, 2][name]), name
            assert not torch.equal(weights[True, 1][name], weights[False, 1][name]), name
    assert any(name.startswith("heads.make.") for name in weights[True, 1])


def test_a_content_model_without_passes_of_its_own_learns_with_the_ids(data):
    trained = train_click_model(*data, made(epochs=0), training=QUICK)
    assert trained.model.settings.content.make.is_frozen is False
    start = new_model(data[0], made(epochs=0))
    for (name, weight), (_, first) in zip(
        trained.model.named_parameters(), start.named_parameters(), strict=True
    ):
        if name.startswith("heads.make."):
            assert not torch.equal(weight, first), name
    assert not [name for name in trained.metrics if name.startswith("make_auc")]


def test_content_alone_gets_better_from_pass_to_pass_and_is_read_off_after_each(planted, tmp_path):
    content = ContentTable.of(planted.product_vectors, planted.query_vectors)
    settings = ClickSettings(content=ContentSettings(tiers=0, make=MakeSettings(epochs=5)))
    run = Run.start(tmp_path / "run", "test", {}, 0)
    training = QUICK.but(dense_lr=5e-3)
    trained = train_click_model(planted.samples, content, settings, training=training, run=run)
    aucs = [trained.metrics[f"make_auc_{number}"] for number in range(1, 6)]
    assert "make_auc_6" not in trained.metrics
    assert aucs[-1] > aucs[0] + 0.03
    assert [line["auc"] for line in run.metrics("ranking-make") if "auc" in line] == aucs


def test_ids_start_anew_in_each_pass_and_layers_go_on(data):
    samples, _ = data
    training, kept = QUICK.but(epochs=2, reset_ids=True, sparse_rows=None), {}
    start = copied(new_model(samples, ClickSettings()))
    per_pass = -(-len(samples.train_rows) // training.batch_size)

    def look(model, step, rows):
        if step in (per_pass, per_pass + 1):
            kept[step] = copied(model)
            kept["unseen"] = np.setdiff1d(np.arange(len(samples.entities.products)), samples.product[rows])

    resets = frozenset(name for name in start if name.startswith("tables."))
    fit_ids(samples, training, look, 2, resets)
    table, tower = kept[per_pass + 1]["tables.merchant_.weight"], "tower.out.weight"
    first = start["tables.merchant_.weight"]
    assert not torch.equal(kept[per_pass]["tables.merchant_.weight"], first)
    # One step away from the start, of AdamW with no moments: no number moves by more than the rate.
    assert (table - first).abs().max() <= 1.001 * training.embedding_lr
    assert (kept[per_pass]["tables.merchant_.weight"] - first).abs().max() > 2 * training.embedding_lr
    moved = (kept[per_pass + 1][tower] - kept[per_pass][tower]).abs().max()
    assert moved < (kept[per_pass][tower] - start[tower]).abs().max()
    assert moved > 0


def test_more_passes_are_warned_of_unless_ids_start_anew(data, caplog):
    samples, _ = data
    for training, told in (
        (QUICK.but(epochs=2), "ids overfit from the second on"),
        (QUICK.but(reset_ids=True), "no effect in one epoch"),
    ):
        caplog.clear()
        train_click_model(samples, training=training)
        assert told in caplog.text
    caplog.clear()
    first = train_click_model(samples, training=QUICK.but(epochs=2, reset_ids=True))
    assert not caplog.text
    other = train_click_model(samples, training=QUICK.but(epochs=2))
    assert first.scores.tolist() != other.scores.tolist()


@pytest.mark.parametrize("sparse_rows", [50, None])
def test_a_sparse_table_moves_only_the_rows_of_the_batch(data, sparse_rows):
    samples, _ = data
    kept = [copied(new_model(samples, ClickSettings()))["tables.product_.weight"]]
    touched = []

    def look(model, step, rows):
        if step > 3:
            return
        kept.append(model.tables["product_"].weight.detach().clone())
        feed = feed_of(model, samples.vocabulary, samples.entities, None)
        touched.append(np.unique(feed.of_samples(samples, rows).item_rows_UF[:, 0]))

    training = QUICK.but(batch_size=16, sparse_rows=sparse_rows)
    model = fit_ids(samples, training, look)
    moved = [np.flatnonzero((after != before).any(1)) for before, after in pairwise(kept)]
    spread = [np.setdiff1d(rows, seen).size for rows, seen in zip(moved, touched, strict=True)]
    assert spread[0] == 0
    assert (sum(spread) == 0) == (sparse_rows is not None)  # dense moments go on moving rows seen before
    assert all(rows.size for rows in moved)
    assert not model.tables["product_"].sparse


def test_two_ranks_give_the_model_of_one_process_and_the_first_one_writes(small, uninterrupted, tmp_path):
    run = Run.start(small / "run", "test", {}, 0)
    mp.spawn(ranks_clicks.as_rank, (str(small),), nprocs=2)
    first, second = (torch.load(small / f"rank-{rank}.pt") for rank in range(2))
    for name, weight in uninterrupted.model.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        assert (first["weights"][name] - weight).abs().max() < 1e-5, name
    assert np.abs(first["scores"].numpy() - uninterrupted.scores).max() < 1e-5
    assert torch.equal(first["scores"], second["scores"])
    assert first["loss"] == pytest.approx(uninterrupted.metrics["train_loss"], abs=1e-5)
    steps = [line["step"] for line in run.metrics("ranking") if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))  # once, not twice
    assert not run.checkpoints("ranking").exists()


class Killed(Exception):
    """Stands for the end of a process."""


def train_until(data, folder, phase, step, training=ranks_clicks.TRAINING, every=3) -> Trained:
    def kill(name, number):
        if (name, number) == (phase, step):
            raise Killed

    watch = Watch(folder=folder, after_step=kill, checkpoint_every=every)
    return train_click_model(*data, ranks_clicks.SETTINGS, training=training, watch=watch)


@pytest.mark.parametrize(
    "kills",
    [[("make", 1)], [("make", 5)], [("make", 7)], [("joint", 2)], [("make", 4), ("joint", 3), ("joint", 7)]],
)  # fmt: skip
def test_a_killed_training_ends_where_an_uninterrupted_one_ends(data, uninterrupted, tmp_path, kills):
    for phase, step in kills:
        with pytest.raises(Killed):
            train_until(data, tmp_path / "kept", phase, step)
    done = []
    trained = train_click_model(
        *data,
        ranks_clicks.SETTINGS,
        training=ranks_clicks.TRAINING,
        watch=Watch(folder=tmp_path / "kept", after_step=lambda *where: done.append(where)),
    )
    for name, weight in uninterrupted.model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], weight), name
    assert trained.scores.tolist() == uninterrupted.scores.tolist()
    facts = [{k: v for k, v in one.metrics.items() if k not in SPEED} for one in (trained, uninterrupted)]
    assert facts[0] == facts[1]
    phase, step = kills[-1]
    rest = [number for name, number in done if name == phase]
    assert rest[:1] == [step - step % 3 + 1] or (phase, step) == ("make", 7)
    assert ("make" in dict(done)) == (phase == "make" and step < 7)
    assert not (tmp_path / "kept").exists()


def test_passes_with_new_ids_resume_as_well(data, tmp_path):
    training = ranks_clicks.TRAINING.but(epochs=2, reset_ids=True)
    whole = train_click_model(*data, ranks_clicks.SETTINGS, training=training)
    for step in (7, 10):  # at the border of two passes, and after it
        with pytest.raises(Killed):
            train_until(data, tmp_path, "joint", step, training, every=step)
        trained = train_until(data, tmp_path, "", 0, training)
        assert trained.scores.tolist() == whole.scores.tolist()


def test_a_checkpoint_of_something_else_is_refused_and_a_broken_one_passed_over(data, tmp_path, caplog):
    with pytest.raises(Killed):
        train_until(data, tmp_path, "joint", 7)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["1-00000003.pt", "1-00000006.pt"]
    with pytest.raises(CheckpointError, match="other settings or data: name another run, or delete"):
        train_until(data, tmp_path, "", 0, ranks_clicks.TRAINING.but(dense_lr=1e-3))
    samples, vectors = data
    label = samples.label.copy()
    label[0] = ~label[0]
    with pytest.raises(CheckpointError, match="other settings or data"):
        train_until((replace(samples, label=label), vectors), tmp_path, "", 0)
    with pytest.raises(CheckpointError, match="other settings or data"):
        train_until((samples, vectors.permuted()), tmp_path, "", 0)
    files[-1].write_bytes(b"cut")
    steps = []
    watch = Watch(folder=tmp_path, after_step=lambda name, step: steps.append((name, step)))
    with caplog.at_level(logging.WARNING):
        train_click_model(*data, ranks_clicks.SETTINGS, training=ranks_clicks.TRAINING, watch=watch)
    assert "trying the one before" in caplog.text
    assert steps[0] == ("joint", 4)


def test_a_run_keeps_each_line_once_and_early_metrics_show_on_the_way(data, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)

    def kill(name, step):
        if (name, step) == (JOINT, 6):
            raise Killed

    watch = Watch(run, "clicks", run.checkpoints("clicks"), 1, 2, 4, kill)
    asked = {"settings": ranks_clicks.SETTINGS, "training": ranks_clicks.TRAINING}
    with pytest.raises(Killed):
        train_click_model(*data, **asked, watch=watch)
    trained = train_click_model(*data, **asked, watch=replace(watch, after_step=None))
    losses = [line["step"] for line in run.metrics("clicks") if "loss" in line]
    assert losses == list(range(1, 8))
    early = [line for line in run.metrics("clicks") if "early_auc" in line]
    assert [line["step"] for line in early] == [2, 4, 6]
    assert all(0 < line["early_auc"] < 1 and line["early_log_loss"] > 0 for line in early)
    assert len([line for line in run.metrics("clicks-make") if "loss" in line]) == 7
    last = run.metrics("clicks")[-1]
    assert (last["step"], last["auc"]) == (7, trained.metrics["auc"])


def test_a_loss_that_is_no_number_names_the_step_and_the_events(data, tmp_path):
    samples, _ = data
    with pytest.raises(
        DataError, match=r"\(joint\) stopped at step \d+: the loss is (nan|inf) on the batch"
    ) as e:
        train_click_model(samples, training=QUICK.but(batch_size=32, dense_lr=1e30, warmup=0.0))
    assert "no checkpoint was written yet" in str(e.value)
    ids = set(samples.event_id.to_pylist())
    assert str(e.value).split("events ")[1].split(" and ")[0].split(", ")[0] in ids


def test_each_slice_has_its_calibrator_and_the_model_folder_keeps_it(data, tmp_path):
    samples, vectors = data
    for by, names in (("top", {"all"}), ("known", {"known", "new"})):
        training = QUICK.but(calibration_by=by, calibration_share=0.4)
        trained = train_click_model(samples, vectors, training=training)
        assert trained.calibrator.by == by
        assert set(trained.calibrator.slices) <= names
        trained.save(tmp_path / by)
        loaded = Trained.load(tmp_path / by)
        assert loaded.calibrator == trained.calibrator
        assert loaded.training.calibration_by == by


def test_predictions_are_those_of_all_impressions_although_training_left_out_clickless_ones(planted):
    samples = planted.samples
    rng = np.random.default_rng(0)
    share = 0.25
    is_kept = samples.is_test | samples.label | (rng.random(len(samples)) < share)
    fewer = replace(samples, is_kept=is_kept, negative_share=share)
    trained = train_click_model(fewer, training=QUICK)
    label = samples.label[trained.rows]
    assert trained.metrics["pcoc_before"] > 2
    assert trained.metrics["pcoc"] == pytest.approx(1, abs=0.15)
    assert 0.75 < pcoc(trained.logged_scores, label) < 1.4  # not calibrated, but counted back as well
    assert trained.calibrator.negative_share == share


def test_every_batch_depends_on_its_step_alone(data):
    samples, vectors = data
    model = new_model(samples, ranks_clicks.SETTINGS)
    feed = feed_of(model, samples.vocabulary, samples.entities, vectors)
    phase = Phase(JOINT, 2, feed, model, frozenset(), unknown_share=0.2)
    whole = list(batches_of(phase, samples, samples.train_rows, 300, 5))
    assert [piece.step for piece in whole] == list(range(len(whole)))
    assert sorted(np.concatenate([piece.rows for piece in whole])) == sorted([*samples.train_rows] * 2)
    for first in (1, 6, 7, 11):
        for piece, expected in zip(
            batches_of(phase, samples, samples.train_rows, 300, 5, first), whole[first:], strict=True
        ):
            assert piece.rows.tolist() == expected.rows.tolist()
            assert torch.equal(piece.batch.request_rows_BF, expected.batch.request_rows_BF)
            assert torch.equal(piece.batch.item_rows_UF, expected.batch.item_rows_UF)


def test_impressions_come_in_order_of_time_so_that_no_behavior_has_learned_from_what_follows(data, tmp_path):
    samples, _ = data

    def rows_of(samples, training):
        seen, kept = [], Feed.of_samples

        def watched(feed, samples, rows, unknown=None):
            seen.extend(rows.tolist() if unknown is not None else [])  # hidden ids: the joint pass alone
            return kept(feed, samples, rows, unknown)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Feed, "of_samples", watched)
            train_click_model(samples, None, ClickSettings(), training=training)
        return seen

    in_time = rows_of(samples, QUICK)
    assert in_time == sorted(in_time)
    assert len(in_time) > 500
    at_random = rows_of(samples, QUICK.but(order="random"))
    assert sorted(at_random) == in_time
    assert at_random != in_time
    timeless = replace(samples, at=np.zeros_like(samples.at))  # shoppers may stand one after the other
    assert rows_of(timeless, QUICK) == at_random
