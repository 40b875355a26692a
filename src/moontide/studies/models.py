"""All click models side by side: models x training seeds on one log and one table of vectors.

A cell trains one model from one seed on the log before the cutoff and keeps its scores of the rest, so that
any two models are compared impression by impression. What a model is comes from outside (`Model`); popularity
and logistic regression need no training seed.

    TO/data/samples  vectors  truth.npz     what all cells read, made once
    TO/cells/MODEL-seedN.json  .npz         metrics; scores of the test period
    TO/models.md  models.json               written again whenever a cell has ended

`closed` is the share of the gap between the ID model and the market's truth; a real log has no truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.center.store import VectorStore
from moontide.foundation.device import threads
from moontide.foundation.errors import SettingsError
from moontide.foundation.storage import write_bytes, write_json
from moontide.ranking.baselines import logistic_scores, popularity_scores
from moontide.ranking.content import ContentTable
from moontide.ranking.influence import auc_by_shopper, gauc_by_shopper
from moontide.ranking.metrics import auc, click_metrics
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import Samples, SampleSettings
from moontide.ranking.slices import slice_masks
from moontide.ranking.train import TrainSettings, train_click_model
from moontide.studies.grid import Cell, as_markdown, claim, finished, run_grid, slug, unfinished
from moontide.studies.kept import keep_arrays, loaded_samples, samples_at
from moontide.studies.outcomes import Outcomes
from moontide.studies.paired import Difference, difference_over_seeds

BASELINES = {"popularity": popularity_scores, "logistic": logistic_scores}
TRUTH = "truth"
LONG = 200  # behaviors from which a history counts as long
LEAST_CLICKS = 20  # a slice with fewer says nothing
Control = Literal["", "permuted", "random"]


@dataclass(frozen=True)
class Model:
    """One row of the table.

    Args:
        settings: of the click model; None for a baseline of `BASELINES`.
        control: what is done to the vectors first: dealt to other entities, or replaced by random directions.
        above: rows that the literature has below this one.
        vectors: which vectors it reads, where there are several (`ladder.py`).
    """

    name: str
    settings: ClickSettings | None
    control: Control = ""
    above: tuple[str, ...] = ()
    vectors: str = ""


def prepare(
    to: Path,
    dataset: Dataset,
    center: Path | None,
    version: str | None = None,
    settings: SampleSettings | None = None,
) -> Path:
    """Samples, vectors and the truth of a dataset in TO/data, made once by whichever process comes first.

    Args:
        center: representation center with the vectors; None for models of ids alone.
        version: of the vectors; None: the active one.
    """
    folder = to / "data"
    folder.mkdir(parents=True, exist_ok=True)
    with claim(folder / "prepare.claim", wait=True):
        samples = samples_at(folder / "samples", dataset, settings)
        if center is not None and not (folder / "vectors" / "content.json").exists():
            store = VectorStore.open(center, must_exist=True)
            ContentTable.read(store, samples.entities, version or store.active()).save(folder / "vectors")
        has_truth = (dataset.path / "truth" / "impressions.parquet").exists()
        if has_truth and not (folder / "truth.npz").exists():
            truth = samples.join(dataset.truth("impressions"), "attraction")
            keep_arrays(folder / "truth.npz", {"truth": truth.astype(np.float32)})
    return folder


def vectors_folder(data: Path, name: str = "") -> Path:
    """Where the vectors of a name stand in a folder of `prepare`."""
    return data / (f"vectors-{slug(name)}" if name else "vectors")


def run_models(
    to: Path,
    data: Path,
    models: Sequence[Model],
    seeds: Sequence[int],
    training: TrainSettings,
    reference: str = "id",
    only: Sequence[str] = (),
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Compute the cells that are not there yet and write the table; gives what models.json holds.

    Args:
        data: folder of `prepare`.
        reference: the row others are compared with, and from which the gap to the truth is counted.
        only: names of rows; others are left as they are.

    Raises:
        SettingsError: `only` or `reference` names no row.
    """
    names = [model.name for model in models]
    if unknown := [name for name in (*only, reference) if name not in names]:
        raise SettingsError(f"no model is called {unknown[0]!r}: the models are {', '.join(names)}")
    cells = model_cells(models, seeds, training, data)
    wanted = [cell for cell in cells if not only or cell.settings["model"] in only]
    by_name = {model.name: model for model in models}

    def compute(cell: Cell) -> dict[str, Any]:
        model, seed = by_name[cell.settings["model"]], cell.settings["seed"]
        with threads(1):
            result, scores = _cell(model, seed, data, training)
        keep_arrays(to / "cells" / f"{cell.name}.npz", {"scores": scores.astype(np.float32)})
        return result

    def write() -> dict[str, Any]:
        table = models_table(to, cells, models, data, reference)
        write_json(to / "models.json", table)
        write_bytes(to / "models.md", models_markdown(table).encode())
        return table

    run_grid(to / "cells", wanted, compute, write, max_minutes)
    return write()


def model_cells(
    models: Sequence[Model], seeds: Sequence[int], training: TrainSettings, data: Path
) -> list[Cell]:
    """The cells, every model once before the second seed; baselines have one seed."""
    log = _samples(data)
    facts: dict[str, Any] = {"impressions": len(log), "test": len(log.test_rows), "cutoff_ms": log.cutoff_ms}
    cells = []
    for number, seed in enumerate(seeds):
        for model in models:
            if model.settings is None and number:
                continue
            asked: dict[str, Any] = {"model": model.name, "seed": seed, "control": model.control}
            asked |= {"data": facts}
            if model.settings is not None:
                folder = vectors_folder(data, model.vectors)
                reads = model.settings.reads_vectors and folder.exists()
                asked |= {"vectors": ContentTable.load(folder).version if reads else None}
                asked |= {"settings": model.settings.model_dump(mode="json")}
                asked |= {"training": training.model_dump(mode="json")}
            cells.append(Cell(f"{slug(model.name)}-seed{seed}", asked))
    return cells


def _cell(model: Model, seed: int, data: Path, training: TrainSettings) -> tuple[dict[str, Any], np.ndarray]:
    samples = _samples(data)
    rows = samples.test_rows
    if model.settings is None:
        scores, extra = BASELINES[model.name](samples, rows), {}
    else:
        vectors = (
            _vectors(vectors_folder(data, model.vectors), model.control, seed)
            if model.settings.reads_vectors
            else None
        )
        trained = train_click_model(samples, vectors, model.settings, seed, training)
        weights = sum(weight.numel() for weight in trained.model.parameters())
        scores, extra = trained.scores, {"parameters": weights, "trained": trained.metrics}
    slices = {}
    for name, mask in table_slices(samples, rows).items():
        label, shopper = samples.label[rows][mask], samples.shopper[rows][mask]
        slices[name] = {"clicks": int(label.sum()), **click_metrics(scores[mask], label, shopper)}
    return {"slices": slices, **extra}, scores


def table_slices(samples: Samples, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The slices of the table: all, new, rare, and long histories; those with too few clicks are left out."""
    masks = {
        name: mask for name, mask in slice_masks(samples, rows).items() if name in ("all", "new", "rare")
    }
    length = samples.history_length[rows]
    masks |= {"history 50+": length >= 50, f"history {LONG}+": length >= LONG}
    label = samples.label[rows]
    return {name: mask for name, mask in masks.items() if name == "all" or label[mask].sum() >= LEAST_CLICKS}


def models_table(
    to: Path, cells: Sequence[Cell], models: Sequence[Model], data: Path, reference: str = "id"
) -> dict[str, Any]:
    """The finished cells as one table.

    Returns:
        rows: one a slice and model with means over seeds, the paired difference of AUC and GAUC to the
        reference, what it could resolve, and the share of the gap closed; order: the published order pair by
        pair; missing: cells without a result, and why.
    """
    entries = finished(to / "cells", cells)
    held = {
        model.name: sorted(
            (entry for entry in entries if entry["settings"]["model"] == model.name),
            key=lambda entry: entry["settings"]["seed"],
        )
        for model in models
    }
    samples = _samples(data)
    rows, label, shopper = samples.test_rows, samples.label, samples.shopper
    truth = _truth(data)[rows] if (data / "truth.npz").exists() else None
    scores = {
        name: {entry["settings"]["seed"]: _scores(to, entry) for entry in found}
        for name, found in held.items()
    }
    table, order = [], []
    for where, mask in table_slices(samples, rows).items():
        columns = (label[rows][mask], shopper[rows][mask])
        limit = auc(truth[mask], columns[0]) if truth is not None else math.nan
        outcomes = {
            name: {seed: _outcomes(one[mask], *columns) for seed, one in by_seed.items()}
            for name, by_seed in scores.items()
        }
        for model in models:
            if held[model.name]:
                table.append(_row(where, model, held[model.name], outcomes, reference, limit))
        if truth is not None:
            metrics = {"auc": limit, "gauc": float(gauc_by_shopper(truth[mask], *columns)[1].mean())}
            table.append(
                {"slice": where, "model": TRUTH, "seeds": [], "clicks": int(columns[0].sum()), **metrics}
            )
        order += [
            {"slice": where, "below": below, "above": model.name, **found}
            for model in models
            for below in model.above
            if (found := _compared(outcomes, below, model.name)) is not None
        ]
    return {"rows": table, "order": order, "missing": unfinished(to / "cells", cells), "reference": reference}


def _row(
    where: str,
    model: Model,
    entries: Sequence[dict[str, Any]],
    outcomes: Mapping[str, Mapping[int, Mapping[str, Outcomes]]],
    reference: str,
    limit: float,
) -> dict[str, Any]:
    found = [entry["result"]["slices"][where] for entry in entries]
    row: dict[str, Any] = {"slice": where, "model": model.name, "control": model.control}
    row |= {"seeds": [entry["settings"]["seed"] for entry in entries], "clicks": found[0]["clicks"]}
    for name in ("auc", "gauc", "log_loss", "normalized_entropy", "pcoc"):
        row[name] = float(np.mean([one[name] for one in found]))
    row["auc_spread"] = float(np.std([one["auc"] for one in found], ddof=1)) if len(found) > 1 else math.nan
    if model.settings is None and model.name == "popularity":
        row |= {
            "log_loss": math.nan,
            "pcoc": math.nan,
            "normalized_entropy": math.nan,
        }  # a rate, not p(click)
    if model.name != reference:
        row |= _compared(outcomes, reference, model.name) or {}
    base = [one["auc"].mean for one in outcomes.get(reference, {}).values()]
    if base and math.isfinite(limit):
        row["closed"] = (row["auc"] - float(np.mean(base))) / (limit - float(np.mean(base)))
    row["core_seconds"] = float(np.mean([entry["seconds"] for entry in entries]))
    return row


def _compared(
    outcomes: Mapping[str, Mapping[int, Mapping[str, Outcomes]]], before: str, after: str
) -> dict[str, Any] | None:
    """The paired difference of two rows over the seeds both have; one seed of a baseline stands for all."""
    first, second = outcomes.get(before, {}), outcomes.get(after, {})
    if not first or not second:
        return None
    seeds = sorted(set(first) & set(second)) if min(len(first), len(second)) > 1 else sorted(
        max(first, second, key=len)
    )  # fmt: skip
    if not seeds:
        return None
    compared = {}
    for metric in ("auc", "gauc"):
        pairs = [(_of(first, seed)[metric], _of(second, seed)[metric]) for seed in seeds]
        difference = difference_over_seeds([a for a, _ in pairs], [b for _, b in pairs])
        compared[f"{metric}_difference"] = _plain(difference)
    return compared


def _of(by_seed: Mapping[int, Mapping[str, Outcomes]], seed: int) -> Mapping[str, Outcomes]:
    return by_seed[seed] if seed in by_seed else next(iter(by_seed.values()))


def _plain(difference: Difference) -> dict[str, Any]:
    interval = difference.interval
    return {
        "value": interval.value, "low": interval.low, "high": interval.high, "over": difference.over,
        "resolvable": difference.resolvable, "is_resolved": difference.is_resolved,
    }  # fmt: skip


def _outcomes(score: np.ndarray, label: np.ndarray, shopper: np.ndarray) -> dict[str, Outcomes]:
    """AUC and GAUC as one pseudo-value a shopper."""
    found = {"auc": auc_by_shopper(score, label, shopper), "gauc": gauc_by_shopper(score, label, shopper)}
    return {name: Outcomes(value, shoppers) for name, (shoppers, value) in found.items()}


COLUMNS = ("slice", "model", "seeds", "clicks", "AUC", "over reference", "resolves", "GAUC", "log loss",
           "PCOC", "gap closed", "core s")  # fmt: skip


def models_markdown(table: Mapping[str, Any]) -> str:
    """The table as Markdown; a difference is bold where its interval excludes 0 and covers seeds."""
    lines = []
    for row in table["rows"]:
        found = row.get("auc_difference")
        line = {"slice": row["slice"], "model": row["model"], "seeds": len(row["seeds"]) or None}
        line |= {"clicks": row["clicks"], "AUC": row["auc"], "GAUC": row["gauc"]}
        line |= {"log loss": _known(row.get("log_loss")), "PCOC": _known(row.get("pcoc"))}
        if found:
            line |= {"over reference": _difference(found), "resolves": _known(found["resolvable"])}
        if "closed" in row and row["model"] != table["reference"]:
            line["gap closed"] = f"{row['closed']:.0%}"
        if "core_seconds" in row:
            line["core s"] = f"{row['core_seconds']:.0f}"
        lines.append(line)
    text = as_markdown(COLUMNS, lines) + f"\nThe reference is `{table['reference']}`.\n"
    if table["order"]:
        text += "\nThe order the literature has, pair by pair:\n\n"
        text += as_markdown(
            ("slice", "below", "above", "AUC of the one above, less the other's", "as published"),
            [
                {
                    "slice": one["slice"], "below": one["below"], "above": one["above"],
                    "AUC of the one above, less the other's": _difference(one["auc_difference"]),
                    "as published": _verdict(one["auc_difference"]),
                }
                for one in table["order"]
            ],
        )  # fmt: skip
    if table["missing"]:
        text += "\nWithout a result: " + "; ".join(f"{k} ({v})" for k, v in table["missing"].items()) + "\n"
    return text


def _difference(found: Mapping[str, Any]) -> str:
    text = f"{found['value']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f})"
    return f"**{text}**" if found["is_resolved"] else text


def _verdict(found: Mapping[str, Any]) -> str:
    if not found["is_resolved"]:
        return "not resolved"
    return "yes" if found["value"] > 0 else "no: reversed"


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _samples(data: Path) -> Samples:
    return loaded_samples(data / "samples")


def _truth(data: Path) -> np.ndarray:
    with np.load(data / "truth.npz") as kept:
        return kept["truth"]


@lru_cache(maxsize=2)
def _vectors(folder: Path, control: Control, seed: int) -> ContentTable:
    table = ContentTable.load(folder)
    if control == "permuted":
        return table.permuted(seed)
    return table.random(seed) if control == "random" else table


def _scores(to: Path, entry: Mapping[str, Any]) -> np.ndarray:
    with np.load(to / "cells" / f"{entry['cell']}.npz") as kept:
        return kept["scores"]
