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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.foundation.errors import CheckpointError, DataError, SettingsError, StorageError
from moontide.foundation.progress import track
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings
from moontide.foundation.storage import read_json, write_bytes, write_json
from moontide.ranking.batches import Feed
from moontide.ranking.calibration import Calibrator, fit_calibrator
from moontide.ranking.content import ContentTable
from moontide.ranking.entities import Entities, Vocabulary
from moontide.ranking.metrics import auc, click_metrics, pcoc
from moontide.ranking.heads import ContentSettings
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.samples import Samples
from moontide.ranking.semantic import fit_centers

log = logging.getLogger(__name__)
FORMAT = 2
FIT_ROWS = 20_000  # rows that scales are measured on
SCORE_ROWS = 4_096
MAX_POSITIONS = 64
LOG_STEPS = 50


class TrainSettings(Settings):
    """How a click model is trained."""

    batch_size: int = pydantic.Field(1024, ge=1, description="impressions of one step")
    dense_lr: float = pydantic.Field(2e-3, gt=0, description="learning rate of layers (AdamW)")
    embedding_lr: float = pydantic.Field(5e-3, gt=0, description="learning rate of tables and linear parts")
    weight_decay: float = pydantic.Field(1e-2, ge=0, description="of layers; tables have none")
    warmup: float = pydantic.Field(0.05, ge=0, lt=1, description="share of steps in which the rate rises")
    epochs: int = pydantic.Field(1, ge=1, description="passes over the training period; ids want one")
    unknown_share: float = pydantic.Field(
        0.02, ge=0, lt=1, description="ids hidden in training, so that row 0 stands for the new; share"
    )
    calibration: str = pydantic.Field("platt", description="platt, isotonic or none")
    calibration_share: float = pydantic.Field(
        0.05, ge=0, lt=0.5, description="last share of the training period, kept to calibrate on"
    )


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
    calibrator: Calibrator
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
        facts |= {"dim": self.model.dim, "num_positions": self.model.num_positions, "training": self.training.model_dump()}
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
            Calibrator(**facts["calibrator"]),
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
) -> Trained:
    """Train on the training period and score the test period; the same seed gives the same model.

    Models of one seed see the same batches and start from the same weights where they share parts, so their
    difference is what the parts they do not share are worth.

    Args:
        samples: from `build_samples`.
        vectors: frozen vectors, aligned with the samples' codes; read only with `content`.
        settings: default ids alone, or ids and content when there are vectors.
        seed: of weights, order and hidden ids.
        training: see `TrainSettings`.
        run, stage: where loss and metrics are logged.

    Returns:
        The model and its test predictions. Metrics: those of `click_metrics` for `scores`, `auc_logged` with
        the logged positions, `pcoc_before` calibration, `train_loss` (last tenth), `samples_per_second`.

    Raises:
        SettingsError: `content` without vectors.
        DataError: the training period is empty or has no click.
    """
    settings = settings or ClickSettings(content=None if vectors is None else ContentSettings())
    training = training or TrainSettings()
    if settings.reads_vectors and vectors is None:
        raise SettingsError("content needs vectors: give a ContentTable, or set content to None")
    if vectors is not None and not settings.reads_vectors:
        log.warning("content is off: the vectors are not read")
        vectors = None
    learned, held = _learned_and_held(samples, training.calibration_share)
    model = _new_model(samples, settings, seed, learned, vectors)
    feed = feed_of(model, samples.vocabulary, samples.entities, vectors)
    fitted = np.sort(stream(seed, "scales").permutation(learned)[:FIT_ROWS])
    model.fit_scales(feed.of_samples(samples, fitted), *_by_position(samples, learned, model.num_positions))
    start = time.monotonic()
    loss = _fit(model, feed, samples, learned, training, seed, run, stage)
    rate = len(learned) * training.epochs / max(time.monotonic() - start, 1e-9)
    held_logit, _ = predict(model, feed, samples, held)
    calibrator = fit_calibrator(
        held_logit, samples.label[held], training.calibration if len(held) else "none"
    )
    rows = samples.test_rows
    logit, position = predict(model, feed, samples, rows)
    metrics = {"train_loss": loss, "samples_per_second": rate}
    metrics |= _test_metrics(samples, rows, logit, position, calibrator)
    if run is not None:
        run.log(stage, training.epochs, **metrics)
    plain = Calibrator()
    scores, logged = calibrator(logit), plain(logit + position)
    version = vectors.version if vectors else ""
    vocabulary = samples.vocabulary
    return Trained(model, vocabulary, calibrator, rows, scores, logged, metrics, training, version)


def feed_of(
    model: ClickModel, vocabulary: Vocabulary, entities: Entities, vectors: ContentTable | None
) -> Feed:
    """Batches as a model wants them, for a dataset's entities."""
    settings, content = model.settings, model.settings.content
    semantic = None
    if content is not None and vectors is not None:
        if vectors.product.dim != model.dim:
            raise CheckpointError(
                f"the click model reads vectors of {model.dim} numbers, these have {vectors.product.dim}: give "
                f"those of version {vectors.version!r} it was trained with, or train again"
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
    """Click logits of stored impressions at an average position, and what their own position adds."""
    model.eval()
    logits, positions = [np.zeros(0)], [np.zeros(0)]
    with torch.no_grad():
        for start in range(0, len(rows), SCORE_ROWS):
            batch = feed.of_samples(samples, rows[start : start + SCORE_ROWS])
            logits.append(model(batch)[:, 0].double().numpy())
            positions.append(model.position_logit(batch.position_BN)[:, 0].double().numpy())
    return np.concatenate(logits), np.concatenate(positions)


def _fit(
    model: ClickModel,
    feed: Feed,
    samples: Samples,
    rows: np.ndarray,
    training: TrainSettings,
    seed: int,
    run: Run | None,
    stage: str,
) -> float:
    optimizer = _optimizer(model, training)
    steps = -(-len(rows) // training.batch_size) * training.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, training.warmup))
    hidden, losses, step = stream(seed, "unknown"), [], 0
    model.train()
    with track(len(rows) * training.epochs, "click model") as meter:
        for epoch in range(training.epochs):
            order = stream(seed, "order", epoch).permutation(rows)
            for start in range(0, len(order), training.batch_size):
                picked = order[start : start + training.batch_size]
                batch = feed.of_samples(
                    samples, picked, hidden.random((len(picked), 3)) < training.unknown_share
                )
                logit_BN = model(batch) + model.position_logit(batch.position_BN)
                assert batch.label_BN is not None
                loss = nn.functional.binary_cross_entropy_with_logits(logit_BN, batch.label_BN)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                step += 1
                losses.append(float(loss.detach()))
                meter.step(len(picked))
                if run is not None and step % LOG_STEPS == 0:
                    run.log(stage, step, loss=float(np.mean(losses[-LOG_STEPS:])))
    model.eval()
    return float(np.mean(losses[-max(steps // 10, 1) :]))


def _optimizer(model: ClickModel, training: TrainSettings) -> torch.optim.Optimizer:
    """Two groups: layers, and tables with the linear parts, which see few or single inputs at a time."""
    quick = model.quick_parameters()
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, weight in model.named_parameters():
        groups[name in quick].append(weight)
    layers = {"params": groups[False], "lr": training.dense_lr, "weight_decay": training.weight_decay}
    tables = {"params": groups[True], "lr": training.embedding_lr, "weight_decay": 0.0}
    return torch.optim.AdamW([layers, tables], fused=True)


def _rate(step: int, steps: int, warmup: float) -> float:
    """A rise over the first share of steps, then a straight fall to a tenth."""
    rise = max(int(steps * warmup), 1)
    if step < rise:
        return (step + 1) / rise
    return 1 - 0.9 * (step - rise) / max(steps - rise, 1)


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
        centers = fit_centers(table.take(np.flatnonzero(table.present)).numpy(), settings.content.semantic, seed)
        model.semantic_centers.copy_(torch.from_numpy(centers))
    return model


def _by_position(samples: Samples, rows: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Impressions and clicks of each slot; impressions without one count in all slots alike."""
    position, label = samples.position[rows], samples.label[rows].astype(np.float64)
    known, place = position >= 0, np.clip(position, 0, slots - 1)
    shows = np.bincount(place[known], minlength=slots) + (~known).sum() / slots
    clicks = np.bincount(place[known], label[known], minlength=slots) + label[~known].sum() / slots
    return shows, clicks


def _test_metrics(
    samples: Samples, rows: np.ndarray, logit: np.ndarray, position: np.ndarray, calibrator: Calibrator
) -> dict[str, Any]:
    label, shopper = samples.label[rows], samples.shopper[rows]
    metrics = click_metrics(calibrator(logit), label, shopper)
    metrics["auc_logged"] = auc(logit + position, label)
    metrics["pcoc_before"] = pcoc(Calibrator()(logit), label)
    return metrics
