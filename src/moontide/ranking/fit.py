"""The loop under a click model: phases, batches, optimizers, ranks, early metrics, exact resume.

A training is a list of phases (`Phase`): MAKE's content model first, then everything in one pass. A phase's
batches depend on its step number alone, so that the data position *is* the step. A checkpoint holds weights,
optimizers, phase and step; a training killed at any moment and started again ends with the weights it would
have had. Under torchrun each rank takes its share of every batch, and gradients are averaged.

    FOLDER/PHASE-STEP.pt       the newest two, gone when the training has ended
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moontide.encoder.objectives.gather import gather, rank, world_size
from moontide.foundation import checkpoints
from moontide.foundation.errors import DataError
from moontide.foundation.progress import Meter, track
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings
from moontide.ranking.batches import Batch, Feed
from moontide.ranking.metrics import auc, log_loss
from moontide.ranking.models import ClickModel
from moontide.ranking.optimizer import average, mark_sparse, new_optimizers, rate_at, set_rates, start_anew
from moontide.ranking.samples import Samples

log = logging.getLogger(__name__)
SCORE_ROWS = 4_096
CHECK_ROWS = 4_096  # of the held-out slice, for the early metrics
NAMED_IDS = 20  # of a bad batch
JOINT = "joint"  # the phase in which everything learns


class TrainSettings(Settings):
    """How a click model is trained."""

    batch_size: int = pydantic.Field(1024, ge=1, description="impressions of one step, over all ranks")
    dense_lr: float = pydantic.Field(2e-3, gt=0, description="learning rate of layers (AdamW)")
    embedding_lr: float = pydantic.Field(5e-3, gt=0, description="learning rate of tables and linear parts")
    weight_decay: float = pydantic.Field(1e-2, ge=0, description="of layers; tables have none")
    warmup: float = pydantic.Field(0.05, ge=0, lt=1, description="share of steps in which the rate rises")
    epochs: int = pydantic.Field(1, ge=1, description="passes over the training period; ids want one")
    order: Literal["time", "random"] = pydantic.Field(
        "time",
        description="of impressions in a pass. At random the embedding of a behavior has learned, before an "
        "impression comes, from later ones that have its click in their past: it leaks. Logs without times "
        "are taken at random",
    )
    reset_ids: bool = pydantic.Field(
        False, description="id embeddings start anew in each pass, layers go on (analog EST, MAKE's reason)"
    )
    sparse_rows: int | None = pydantic.Field(
        200_000, ge=1, description="tables of so many rows get sparse gradients and SparseAdam; None: none"
    )
    unknown_share: float = pydantic.Field(
        0.02, ge=0, lt=1, description="ids hidden in training, so that row 0 stands for the new; share"
    )
    calibration: str = pydantic.Field("platt", description="platt, isotonic or none")
    calibration_by: Literal["all", "known", "top"] = pydantic.Field(
        "all", description="one calibrator; or by whether the product has an embedding; or by top category"
    )
    calibration_share: float = pydantic.Field(
        0.05, ge=0, lt=0.5, description="last share of the training period, kept to calibrate on"
    )


@dataclass(frozen=True)
class Watch:
    """What one sees of a training, and what is kept to go on with it; nothing here changes its outcome.

    Args:
        run, stage: where losses and metrics are logged; MAKE's own phase as "STAGE-make".
        folder: of the checkpoints; None keeps none.
        log_every, check_every, checkpoint_every: steps between log lines, early metrics and checkpoints.
        after_step: called with phase and step after each.
    """

    run: Run | None = None
    stage: str = "ranking"
    folder: Path | None = None
    log_every: int = 50
    check_every: int = 200
    checkpoint_every: int = 1000
    after_step: Callable[[str, int], None] | None = None


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one objective: binary cross-entropy of `score` plus the position's logit.

    Args:
        name: "make" or "joint".
        epochs: passes over the rows.
        feed: makes its batches.
        score: click logits (B, N) at an average position.
        weights: names of what learns; nothing else gets a gradient.
        unknown_share: ids hidden, see `TrainSettings`.
        reads_off: AUC on the held-out slice after each pass, as the figure NAME_auc_PASS.
        resets: names of weights that start anew in each pass.
        is_in_time: rows in order of time instead of at random, see `TrainSettings.order`.
    """

    name: str
    epochs: int
    feed: Feed
    score: Callable[[Batch], Tensor]
    weights: frozenset[str]
    unknown_share: float = 0.0
    reads_off: bool = False
    resets: frozenset[str] = frozenset()
    is_in_time: bool = False


@dataclass
class Progress:
    """How far a training is: phase and step to go on with, and what it found so far.

    Args:
        losses: of the phase's last steps. figures: what phases read off. seconds: spent in all calls.
    """

    phase: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Piece:
    """One step's batch: this rank's share of it, None if the batch has fewer rows than ranks."""

    step: int
    rows: np.ndarray
    batch: Batch | None
    share: float


class Fit:
    """One training: `run` goes through the phases, from the newest checkpoint on if there is one.

    Args:
        model: is changed in place.
        samples, learned, held: rows to learn from, rows to look at.
        training, seed: decide the outcome.
        watch: see `Watch`.
        identity: of settings and data; checkpoints of another one are refused.
    """

    def __init__(
        self,
        model: ClickModel,
        samples: Samples,
        learned: np.ndarray,
        held: np.ndarray,
        training: TrainSettings,
        seed: int,
        watch: Watch,
        identity: str,
    ):
        self.model, self.samples, self.learned, self.held = model, samples, learned, held
        self.training, self.seed, self.watch, self.identity = training, seed, watch, identity
        self.progress = Progress()
        self._checked = np.sort(stream(seed, "check").permutation(held)[:CHECK_ROWS])
        self._began = time.monotonic()

    def run(self, phases: list[Phase]) -> Progress:
        """Train; gives what was found.

        Raises:
            DataError: a loss or a weight is no finite number.
            CheckpointError: the folder holds a training with other settings or data.
        """
        resets = frozenset().union(*(phase.resets for phase in phases))
        start = {name: w.detach().clone() for name, w in self.model.named_parameters() if name in resets}
        saved = checkpoints.newest(self.watch.folder, self.identity)
        if saved is not None:
            self.model.load_state_dict(saved["weights"])
            self.progress = Progress(**saved["progress"])
            torch.set_rng_state(saved["random"])
        self._rewind(phases)
        if world_size() > 1:  # k-means and files need not agree to the last bit between machines
            for tensor in self.model.state_dict().values():
                dist.broadcast(tensor, 0)
        self._began = time.monotonic() - self.progress.seconds
        for number in range(self.progress.phase, len(phases)):
            phase = phases[number]
            optimizers = new_optimizers(self.model, phase.weights, self.training)
            rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
            if saved is not None and number == saved["progress"]["phase"]:
                for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
                    optimizer.load_state_dict(state)
            if number > self.progress.phase:
                self.progress = Progress(number, figures=self.progress.figures)
            with learning(self.model, phase.weights):
                self._phase(phase, optimizers, rates, start, number == len(phases) - 1)
        mark_sparse(self.model, None)
        self.progress.seconds = time.monotonic() - self._began
        return self.progress

    def _phase(
        self,
        phase: Phase,
        optimizers: list[torch.optim.Optimizer],
        rates: list[list[float]],
        start: dict[str, Tensor],
        is_last: bool,
    ) -> None:
        progress, training, size = self.progress, self.training, self.training.batch_size
        per_pass = -(-len(self.learned) // size)
        steps, first = per_pass * phase.epochs, progress.step
        self.model.train()
        left = rows_before(steps, len(self.learned), size) - rows_before(first, len(self.learned), size)
        with track(left, f"click model ({phase.name})") as meter:
            for piece in batches_of(phase, self.samples, self.learned, size, self.seed, first):
                if piece.step and piece.step % per_pass == 0:
                    start_anew(self.model, phase.resets, start, optimizers)
                set_rates(optimizers, rates, rate_at(piece.step, steps, training.warmup))
                progress.losses.append(self._step(phase, optimizers, piece))
                progress.step = piece.step + 1
                meter.step(len(piece.rows))
                self._look(phase, per_pass, meter)
                is_due = progress.step % self.watch.checkpoint_every == 0
                if is_due or (progress.step == steps and not is_last):
                    self._keep(optimizers, max(steps // 10, self.watch.log_every))
                if self.watch.after_step is not None:
                    self.watch.after_step(phase.name, progress.step)
        self.model.eval()

    def _step(self, phase: Phase, optimizers: list[torch.optim.Optimizer], piece: Piece) -> float:
        """One step of all ranks together; gives the loss of the whole batch."""
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        if piece.batch is not None:
            logit_BN = phase.score(piece.batch) + self.model.position_logit(piece.batch.position_BN)
            assert piece.batch.label_BN is not None
            mean = nn.functional.binary_cross_entropy_with_logits(logit_BN, piece.batch.label_BN)
            loss = mean * piece.share
            loss.backward()
        loss = loss.detach()
        if world_size() > 1:  # before the check, so that all ranks stop together
            dist.all_reduce(loss)
            loss /= world_size()
        if not math.isfinite(loss):
            raise self._no_number(phase, piece, float(loss))
        average(optimizers)
        for optimizer in optimizers:
            optimizer.step()
        return float(loss)

    def _look(self, phase: Phase, per_pass: int, meter: Meter) -> None:
        """Log lines, early metrics on a fixed part of the held-out slice, what is read off after a pass."""
        progress, watch, step = self.progress, self.watch, self.progress.step
        if step % watch.log_every == 0:
            self._log(phase, loss=float(np.mean(progress.losses[-watch.log_every :])))
        if step % watch.check_every == 0 and len(self._checked):
            score, label = self._scores(phase, self._checked), self.samples.label[self._checked]
            early = {"early_auc": auc(score, label), "early_log_loss": log_loss(_probability(score), label)}
            self._log(phase, **early)
            meter.note(f"held-out AUC {early['early_auc']:.4f}")
        if phase.reads_off and step % per_pass == 0 and len(self.held):
            value = auc(self._scores(phase, self.held), self.samples.label[self.held])
            progress.figures[f"{phase.name}_auc_{step // per_pass}"] = value
            self._log(phase, auc=value)

    def _scores(self, phase: Phase, rows: np.ndarray) -> np.ndarray:
        self.model.eval()
        scores = scores_of(phase.score, phase.feed, self.samples, rows)
        self.model.train()
        return scores

    def _keep(self, optimizers: list[torch.optim.Optimizer], tail: int) -> None:
        folder, progress = self.watch.folder, self.progress
        progress.losses = progress.losses[-tail:]
        progress.seconds = time.monotonic() - self._began
        if folder is None or rank() != 0:
            return
        broken = [name for name, w in self.model.named_parameters() if not torch.isfinite(w).all()]
        if broken:
            raise DataError(f"{broken[0]} is not finite after step {progress.step}: lower the learning rates")
        state = {
            "identity": self.identity,
            "progress": vars(progress),
            "weights": self.model.state_dict(),
            "optimizers": [one.state_dict() for one in optimizers],
            "random": torch.get_rng_state(),
        }
        checkpoints.keep(folder, f"{progress.phase}-{progress.step:08d}", state)

    def _log(self, phase: Phase, **values: float) -> None:
        if self.watch.run is not None and rank() == 0:
            self.watch.run.log(stage_of(phase, self.watch), self.progress.step, **values)

    def _rewind(self, phases: list[Phase]) -> None:
        """Drop log lines of steps that are done again; without any the file is left alone."""
        run = self.watch.run
        if run is None or rank() != 0:
            return
        for number, phase in enumerate(phases):
            stage = stage_of(phase, self.watch)
            done = self.progress.step if number == self.progress.phase else 0
            if number >= self.progress.phase and any(line["step"] > done for line in run.metrics(stage)):
                run.rewind(stage, done)

    def _no_number(self, phase: Phase, piece: Piece, loss: float) -> DataError:
        ids = self.samples.event_id.take(piece.rows[:NAMED_IDS]).to_pylist()
        more = f" and {len(piece.rows) - len(ids):,} more" if len(piece.rows) > len(ids) else ""
        return DataError(
            f"training ({phase.name}) stopped at step {piece.step}: the loss is {loss} on the batch of "
            f"events {', '.join(map(str, ids))}{more}; {checkpoints.last_of(self.watch.folder)}"
        )


def batches_of(
    phase: Phase, samples: Samples, rows: np.ndarray, size: int, seed: int, first: int = 0
) -> Iterator[Piece]:
    """The batches of a phase from step `first` on; each depends on its step number alone.

    Each rank gets its share of a batch. `Piece.share` is what the mean loss of the share counts for, so that
    the mean over ranks is the mean over the batch.
    """
    hidden, step = stream(seed, "unknown"), 0
    assert isinstance(hidden.bit_generator, np.random.PCG64)
    hidden.bit_generator.advance(3 * rows_before(first, len(rows), size))  # one draw a number
    prefix = () if phase.name == JOINT else (phase.name,)
    for epoch in range(phase.epochs):
        order = np.sort(rows) if phase.is_in_time else stream(seed, "order", *prefix, epoch).permutation(rows)
        for start in range(0, len(order), size):
            if step >= first:
                picked = order[start : start + size]
                unknown = hidden.random((len(picked), 3)) < phase.unknown_share
                mine = slice(*(len(picked) * (rank() + i) // world_size() for i in (0, 1)))
                own = picked[mine]
                is_hidden = unknown[mine] if phase.unknown_share else None
                batch = phase.feed.of_samples(samples, own, is_hidden) if len(own) else None
                yield Piece(step, picked, batch, len(own) * world_size() / len(picked))
            step += 1


def rows_before(step: int, num_rows: int, size: int) -> int:
    """How many rows the steps before `step` have read, over all passes."""
    passes, rest = divmod(step, -(-num_rows // size))
    return passes * num_rows + min(rest * size, num_rows)


def scores_of(score: Callable[[Batch], Tensor], feed: Feed, samples: Samples, rows: np.ndarray) -> np.ndarray:
    """Click logits of stored impressions, float64; under torchrun each rank computes its share."""
    own = np.array_split(rows, world_size())[rank()]
    logits = [torch.zeros(0, dtype=torch.float64)]
    with torch.no_grad():
        for start in range(0, len(own), SCORE_ROWS):
            logits.append(score(feed.of_samples(samples, own[start : start + SCORE_ROWS]))[:, 0].double())
    return gather(torch.cat(logits)).numpy()


@contextmanager
def learning(model: ClickModel, names: frozenset[str]) -> Generator[None]:
    """For the length of a block only the weights called `names` get gradients."""
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in names)
    try:
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.requires_grad_(before[name])


def stage_of(phase: Phase, watch: Watch) -> str:
    """The name a phase is logged under: steps of a stage rise, so each phase has its own."""
    return watch.stage if phase.name == JOINT else f"{watch.stage}-{phase.name}"


def _probability(click_logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-click_logit))
