"""Train a click model on ranking samples, score the test period, and keep both in a folder.

One pass over the training period: ids overfit from the second on (analog MAKE), so content must learn in
the same pass, for which its own numbers go to the tower and to a linear part with the embeddings' faster
rate. The last share of the training period is held out to calibrate on; the test period is only scored.

    FOLDER/model.pt  settings.json  vocabulary.json  metrics.json  scores.npz
"""

from __future__ import annotations

import io
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moontide.encoder.objectives.gather import rank
from moontide.foundation import checkpoints
from moontide.foundation.errors import CheckpointError, DataError, SettingsError, StorageError
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream
from moontide.foundation.storage import read_json, write_bytes, write_json
from moontide.ranking.batches import Feed
from moontide.ranking.calibration import (
    Calibrator,
    SlicedCalibrator,
    calibrator_of,
    fit_calibrator,
    fit_sliced,
    product_slices,
)
from moontide.ranking.content import ContentTable, check_versions
from moontide.ranking.entities import Entities, Vocabulary
from moontide.ranking.fit import JOINT, Fit, Phase, TrainSettings, Watch, scores_of
from moontide.ranking.heads import ContentSettings
from moontide.ranking.identity import identity_of
from moontide.ranking.metrics import auc, click_metrics, pcoc
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.pretrain_content import content_phase, frozen_names, learning_together
from moontide.ranking.samples import Samples
from moontide.ranking.semantic import fit_centers

log = logging.getLogger(__name__)
FORMAT = 2
FIT_ROWS = 20_000  # rows that scales are measured on
MAX_POSITIONS = 64


@dataclass
class Trained:
    """A trained click model with its predictions for the test period.

    Args:
        model, vocabulary, calibrator: what serving needs.
        rows: sample rows of the test period.
        scores: (rows,) calibrated p(click) at an average position: what serving would say.
        logged_scores: (rows,) p(click) at the position each impression had, not calibrated.
        metrics: of `scores`, see `train_click_model`.
    """

    model: ClickModel
    vocabulary: Vocabulary
    calibrator: Calibrator | SlicedCalibrator
    rows: np.ndarray
    scores: np.ndarray
    logged_scores: np.ndarray
    metrics: dict[str, float]
    training: TrainSettings
    version: str = ""

    def feed(self, entities: Entities, vectors: ContentTable | None) -> Feed:
        """Batches as the model wants them, for a dataset's entities."""
        return feed_of(self.model, self.vocabulary, entities, vectors)

    def save(self, folder: Path | str) -> None:
        """Write everything into `folder`, made if absent; settings.json comes last and marks it complete."""
        folder = Path(folder)
        weights, scores = io.BytesIO(), io.BytesIO()
        torch.save(self.model.state_dict(), weights)
        np.savez(scores, rows=self.rows, scores=self.scores, logged_scores=self.logged_scores)
        write_bytes(folder / "model.pt", weights.getvalue())
        write_bytes(folder / "scores.npz", scores.getvalue())
        self.vocabulary.save(folder / "vocabulary.json")
        write_json(folder / "metrics.json", self.metrics)
        facts: dict[str, Any] = {
            "format": FORMAT,
            "model": self.model.settings.model_dump(),
            "sizes": self.model.sizes,
        }
        facts |= {
            "dim": self.model.dim,
            "num_positions": self.model.num_positions,
            "training": self.training.model_dump(),
        }
        facts |= {"calibrator": self.calibrator.facts(), "version": self.version}
        write_json(folder / "settings.json", facts)

    @classmethod
    def load(cls, folder: Path | str) -> Trained:
        """What `save` wrote, exactly.

        Raises:
            CheckpointError: there is no click model in `folder`, or of another format.
        """
        folder = Path(folder)
        try:
            facts = read_json(folder / "settings.json")
        except StorageError:
            raise CheckpointError(f"no click model at {folder}: train one first") from None
        if facts.get("format") != FORMAT:
            raise CheckpointError(f"{folder} has a click model of format {facts.get('format')}: train again")
        settings = ClickSettings(**facts["model"])
        model = ClickModel(facts["sizes"], settings, facts["num_positions"], facts["dim"])
        try:
            model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{folder / 'model.pt'} cannot be read ({error}): train again") from None
        model.eval()
        with np.load(folder / "scores.npz") as scores:
            columns = {name: scores[name] for name in ("rows", "scores", "logged_scores")}
        return cls(
            model,
            Vocabulary.load(folder / "vocabulary.json"),
            calibrator_of(facts["calibrator"]),
            **columns,
            metrics=read_json(folder / "metrics.json"),
            training=TrainSettings(**facts["training"]),
            version=facts["version"],
        )


def train_click_model(
    samples: Samples,
    vectors: ContentTable | None = None,
    settings: ClickSettings | None = None,
    seed: int = 0,
    training: TrainSettings | None = None,
    run: Run | None = None,
    stage: str = "ranking",
    watch: Watch | None = None,
) -> Trained:
    """Train on the training period and score the test period; the same seed gives the same model.

    Models of one seed see the same batches and start from the same weights where they share parts, so their
    difference is what the parts they do not share are worth. With MAKE its content model is trained first.
    Under torchrun (`foundation.device.ranks`) all ranks call this and get the same result.

    Args:
        samples: from `build_samples`.
        vectors: frozen vectors, aligned with the samples' codes; read only with `content`.
        settings: default ids alone, or ids and content when there are vectors.
        seed: of weights, order and hidden ids.
        training: see `TrainSettings`.
        run, stage: where loss and metrics are logged, and checkpoints are kept until the training has ended.
        watch: instead of `run` and `stage`, with more to set: checkpoints without a run, how often.

    Returns:
        The model and its test predictions. Metrics: those of `click_metrics` for `scores`, `auc_logged` with
        the logged positions, `pcoc_before` calibration, `train_loss` (last tenth), `samples_per_second`, and
        `make_auc_1`, ...: AUC of MAKE's content model on the held-out slice after each of its passes.

    Raises:
        SettingsError: `content` without vectors.
        DataError: the training period is empty or has no click; a loss is no finite number.
        CheckpointError: the run holds checkpoints of a training with other settings or data.
    """
    settings = settings or ClickSettings(content=None if vectors is None else ContentSettings())
    training = training or TrainSettings()
    watch = watch or Watch(run, stage, run.checkpoints(stage) if run is not None else None)
    settings, vectors = _agreed(settings, training, vectors)
    learned, held = _learned_and_held(samples, training.calibration_share)
    model = _new_model(samples, settings, seed, learned, vectors)
    feed = feed_of(model, samples.vocabulary, samples.entities, vectors)
    fitted = np.sort(stream(seed, "scales").permutation(learned)[:FIT_ROWS])
    model.fit_scales(feed.of_samples(samples, fitted), *_by_position(samples, learned, model.num_positions))
    phases = _phases(model, feed, samples, vectors, training)
    asked = [settings.model_dump(), training.model_dump(), seed]
    identity = identity_of(samples, vectors, asked) if watch.folder is not None else ""
    done = Fit(model, samples, learned, held, training, seed, watch, identity).run(phases)
    trained = _finished(model, feed, samples, held, training, vectors)
    steps = -(-len(learned) // training.batch_size) * training.epochs
    rows = len(learned) * sum(phase.epochs for phase in phases)
    figures = {"train_loss": float(np.mean(done.losses[-max(steps // 10, 1) :])), **done.figures}
    if vectors is not None:
        versions = check_versions(samples, vectors)
        figures |= {f"vectors_{name}": float(count) for name, count in versions.items()}
    trained.metrics = {**figures, "samples_per_second": rows / max(done.seconds, 1e-9), **trained.metrics}
    if rank() == 0:
        if watch.run is not None:
            watch.run.log(watch.stage, steps, **trained.metrics)
        checkpoints.forget(watch.folder)
    return trained


def feed_of(
    model: ClickModel, vocabulary: Vocabulary, entities: Entities, vectors: ContentTable | None
) -> Feed:
    """Batches as a model wants them, for a dataset's entities."""
    settings, content = model.settings, model.settings.content
    semantic = None
    if content is not None and vectors is not None:
        if vectors.product.dim != model.dim:
            raise CheckpointError(
                f"the click model reads vectors of {model.dim} numbers, these have {vectors.product.dim}: "
                f"give those of version {vectors.version!r} it was trained with, or train again"
            )
        semantic = model.semantic_codes(vectors.product.vectors, vectors.product.present)
    return Feed(
        entities,
        vocabulary,
        steps=settings.history,
        attributes=model.attributes,
        vectors=vectors if content is not None else None,
        long_steps=settings.search.steps if settings.search is not None else 0,
        has_creatives=content is not None and content.creative,
        has_queries=content is not None and content.reads_past_queries,
        semantic=semantic,
    )


def predict(
    model: ClickModel, feed: Feed, samples: Samples, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Click logits of stored impressions at an average position, and what their own position adds.

    Under torchrun each rank computes its share, all ranks must call this, and each gets all rows.
    """
    model.eval()
    logit = scores_of(model, feed, samples, rows)
    with torch.no_grad():
        position_B = torch.from_numpy(samples.position[rows].astype(np.int64))
        return logit, model.position_logit(position_B).double().numpy()


def _agreed(
    settings: ClickSettings, training: TrainSettings, vectors: ContentTable | None
) -> tuple[ClickSettings, ContentTable | None]:
    """Settings and vectors that fit each other, with a warning for what is ignored."""
    if settings.reads_vectors and vectors is None:
        raise SettingsError("content needs vectors: give a ContentTable, or set content to None")
    if vectors is not None and not settings.reads_vectors:
        log.warning("content is off: the vectors are not read")
        vectors = None
    if training.epochs > 1 and not training.reset_ids:
        log.warning(
            "%d epochs: ids overfit from the second on; set reset_ids, or epochs to 1", training.epochs
        )
    if training.epochs == 1 and training.reset_ids:
        log.warning("reset_ids has no effect in one epoch")
    return learning_together(settings), vectors


def _phases(
    model: ClickModel, feed: Feed, samples: Samples, vectors: ContentTable | None, training: TrainSettings
) -> list[Phase]:
    """MAKE's content model alone, if there is one; then everything that is not frozen."""
    names = frozenset(name for name, _ in model.named_parameters()) - frozen_names(model)
    ids = frozenset(name for name in names if name.startswith("tables."))
    joint = Phase(
        JOINT,
        training.epochs,
        feed,
        model,
        names,
        unknown_share=training.unknown_share,
        resets=ids if training.reset_ids and training.epochs > 1 else frozenset(),
        is_in_time=training.order == "time" and bool(samples.at.min() < samples.at.max()),
    )
    content = content_phase(model, samples.vocabulary, samples.entities, vectors)
    return [joint] if content is None else [content, joint]


def _finished(
    model: ClickModel,
    feed: Feed,
    samples: Samples,
    held: np.ndarray,
    training: TrainSettings,
    vectors: ContentTable | None,
) -> Trained:
    """Calibrate on the held-out slice and score the test period."""
    share = float(getattr(samples, "negative_share", 1.0))
    keys = product_slices(training.calibration_by, samples.entities, samples.vocabulary)
    held_logit, _ = predict(model, feed, samples, held)
    fitted = (held_logit, samples.label[held])
    method, by = training.calibration if len(held) else "none", training.calibration_by
    if keys is None:
        calibrator = fit_calibrator(*fitted, method, share)
    else:
        calibrator = fit_sliced(*fitted, keys[samples.product[held]], by, method, share)
    rows = samples.test_rows
    logit, position = predict(model, feed, samples, rows)
    scores = calibrator(logit, None if keys is None else keys[samples.product[rows]])
    plain = Calibrator(negative_share=share)
    label = samples.label[rows]
    metrics: dict[str, Any] = click_metrics(scores, label, samples.shopper[rows])
    metrics["auc_logged"] = auc(logit + position, label)
    metrics["pcoc_before"] = pcoc(Calibrator()(logit), label)
    version = vectors.version if vectors else ""
    logged = plain(logit + position)
    return Trained(model, samples.vocabulary, calibrator, rows, scores, logged, metrics, training, version)


def _learned_and_held(samples: Samples, share: float) -> tuple[np.ndarray, np.ndarray]:
    rows = samples.train_rows
    border = len(rows) - int(len(rows) * share)
    learned, held = rows[:border], rows[border:]
    if not samples.label[learned].any():
        raise DataError(
            f"the training period has {len(learned):,} impressions and no click: import more of the log"
        )
    return learned, held


def _new_model(
    samples: Samples, settings: ClickSettings, seed: int, learned: np.ndarray, vectors: ContentTable | None
) -> ClickModel:
    slots = int(np.clip(samples.position[learned].max(initial=0) + 1, 1, MAX_POSITIONS))
    dim = vectors.product.dim if vectors is not None else 0
    model = ClickModel(samples.vocabulary.sizes, settings, slots, dim)
    model.initialize(seed)
    if settings.content is not None and settings.content.semantic is not None and vectors is not None:
        table = vectors.product
        centers = fit_centers(
            table.take(np.flatnonzero(table.present)).numpy(), settings.content.semantic, seed
        )
        model.semantic_centers.copy_(torch.from_numpy(centers))
    return model


def _by_position(samples: Samples, rows: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Impressions and clicks of each slot; impressions without one count in all slots alike."""
    position, label = samples.position[rows], samples.label[rows].astype(np.float64)
    known, place = position >= 0, np.clip(position, 0, slots - 1)
    shows = np.bincount(place[known], minlength=slots) + (~known).sum() / slots
    clicks = np.bincount(place[known], label[known], minlength=slots) + label[~known].sum() / slots
    return shows, clicks
