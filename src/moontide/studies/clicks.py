"""Click models side by side: trained on the same samples, compared on the same impressions.

    arm            sees
    id             ids, categories, brand, merchant, price band, counters, behaviors by id (DIN)
    id_attributes  the attribute table's values as further ids
    content        id, and heads over frozen vectors (default SimTier)
    permuted       content, with the vectors dealt to other entities: the control that must gain nothing

Arms of one seed share batches and the weights of the parts they share. Each is trained in a process of its
own with one thread: at this size two threads train one model no faster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moontide.foundation import progress
from moontide.foundation.device import num_cores, threads
from moontide.foundation.errors import SettingsError
from moontide.foundation.progress import track
from moontide.foundation.runs import Run
from moontide.foundation.statistics import Interval
from moontide.foundation.workers import in_order
from moontide.ranking.baselines import logistic_scores, popularity_scores
from moontide.ranking.content import ContentTable
from moontide.ranking.heads import ContentSettings
from moontide.ranking.metrics import click_metrics
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import Samples
from moontide.ranking.slices import compare_scores, slice_masks
from moontide.ranking.train import Trained, TrainSettings, train_click_model

SLICES = ("all", "new", "rare")
COMPARISONS = (
    ("id", "content"),
    ("id_attributes", "content"),
    ("id", "id_attributes"),
    ("id", "permuted"),
)
TRUTH = "truth"


@dataclass(frozen=True)
class Arm:
    """One click model of a comparison; `is_permuted` deals its vectors to other entities."""

    name: str
    settings: ClickSettings
    is_permuted: bool = False


def arms_of(
    settings: ClickSettings, names: Sequence[str], content: ContentSettings | None = None
) -> list[Arm]:
    """The arms called `names`; `settings` holds what they share, content off.

    Args:
        content: what the content arms take from vectors; default SimTier and the query's cosine.

    Raises:
        SettingsError: an unknown name.
    """
    with_content = settings.but(content=content or ContentSettings())
    known = {
        "id": Arm("id", settings),
        "id_attributes": Arm("id_attributes", settings.but(use_attributes=True)),
        "content": Arm("content", with_content),
        "permuted": Arm("permuted", with_content, is_permuted=True),
    }
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"no arm is called {', '.join(unknown)}: the arms are {', '.join(known)}")
    return [known[name] for name in names]


@dataclass(frozen=True)
class _Task:
    """What a process needs to train one arm."""

    arm: Arm
    samples: Path
    vectors: Path | None
    out: Path
    run: Path | None
    training: TrainSettings
    seed: int


def train_arms(
    arms: Sequence[Arm],
    samples: Path,
    vectors: Path | None,
    out: Path,
    training: TrainSettings | None = None,
    seed: int = 0,
    run: Run | None = None,
) -> dict[str, Trained]:
    """Train the arms that are not in `out` yet, on all cores.

    Args:
        samples: folder of saved `Samples`. vectors: folder of a saved `ContentTable`.
        out: each model's folder is out / name of the arm.
        run: logs the losses, stage "ranking-NAME".

    Returns:
        the trained models by name of the arm.
    """
    training = training or TrainSettings()
    log_to = None if run is None else run.path
    tasks = [
        _Task(arm, samples, vectors if arm.settings.reads_vectors else None, out, log_to, training, seed)
        for arm in arms
        if not (out / arm.name / "settings.json").exists()
    ]
    if run is not None:
        for stage in (f"ranking-{task.arm.name}" for task in tasks):
            if not any(run.checkpoints(stage).glob("*.pt")):  # else training goes on, and rewinds to there
                run.rewind(stage, -1)  # lines of a try that was cut off
    with track(len(tasks), "click models") as meter:
        for _ in in_order(_train, tasks, min(num_cores(), len(tasks)), chunk=1):
            meter.step()
    return {arm.name: Trained.load(out / arm.name) for arm in arms}


def _train(task: _Task) -> None:
    progress.console.quiet = True  # the caller shows one bar for all
    with threads(1):
        samples = Samples.load(task.samples)
        table = None if task.vectors is None else ContentTable.load(task.vectors)
        if table is not None and task.arm.is_permuted:
            table = table.permuted(task.seed)
        run = None if task.run is None else Run.open(task.run)
        stage = f"ranking-{task.arm.name}"
        settings = task.arm.settings
        trained = train_click_model(samples, table, settings, task.seed, task.training, run, stage)
        trained.save(task.out / task.arm.name)


def all_scores(
    samples: Samples, trained: Mapping[str, Trained], truth: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """p(click) at an average position of the test impressions by every model, weakest kind first.

    Args:
        truth: (impressions,) true attraction of all samples, where it is known.
    """
    rows = samples.test_rows
    scores = {"popularity": popularity_scores(samples, rows), "logistic": logistic_scores(samples, rows)}
    scores |= {name: model.scores for name, model in trained.items()}
    if truth is not None:
        scores[TRUTH] = truth[rows]
    return scores


def click_results(
    samples: Samples, scores: Mapping[str, np.ndarray], replicates: int = 200, seed: int = 0
) -> dict[str, Any]:
    """The comparison as a run folder keeps it.

    Returns:
        table: one row a slice and model with the metrics of `click_metrics`; gains: one row a slice and pair
        of models with the paired difference of AUC and GAUC, what the slice can resolve, and `closed`: the
        share of the gap between the first model and the truth that the second closes.
    """
    rows = samples.test_rows
    masks = {name: mask for name, mask in slice_masks(samples, rows).items() if name in SLICES}
    table, aucs = [], {}
    for name, mask in masks.items():
        label, shopper = samples.label[rows][mask], samples.shopper[rows][mask]
        for model, score in scores.items():
            metrics = click_metrics(score[mask], label, shopper)
            aucs[name, model] = metrics["auc"]
            table.append({"slice": name, "model": model, "clicks": int(label.sum()), **metrics})
    gains: list[dict[str, Any]] = []
    for before, after in COMPARISONS:
        if before not in scores or after not in scores:
            continue
        for line in compare_scores(
            samples, rows, scores[before], scores[after], replicates, seed, only=SLICES
        ):
            entry = {"slice": line["slice"], "before": before, "after": after}
            entry |= {"difference": _plain(line["difference"]), "gauc": _plain(line["gauc_difference"])}
            entry |= {"resolvable": line["resolvable"]}
            if TRUTH in scores:
                gap = aucs[line["slice"], TRUTH] - line["auc_before"]
                entry["closed"] = line["difference"].value / gap if gap > 0 else math.nan
            gains.append(entry)
    gains.sort(key=lambda entry: SLICES.index(entry["slice"]))
    return {
        "table": table,
        "gains": gains,
        "impressions": len(rows),
        "clicks": int(samples.label[rows].sum()),
    }


def _plain(interval: Interval) -> dict[str, float]:
    return {name: float(value) for name, value in vars(interval).items()}
