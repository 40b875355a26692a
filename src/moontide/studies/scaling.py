"""Scaling: what more training pairs, more negatives and longer histories are worth, and whether it ends.

    axis       x                                              metric
    pairs      tokens trained on: pairs x tokens of a pair    recall@10 of the encoder, held-out products
    negatives  vectors a query is told from, at fixed steps   the same
    history    behaviors a click model may read               GAUC, AUC

Every point is trained from the start by itself, with its own schedule, once a seed; all see the same data and
answer the same questions. `fits.py` has the curves.

    TO/cells/AXIS-POINT-seedN.json .npz    figures; outcomes by query, or scores of the test period
    TO/runs/AXIS-POINT-seedN/              log lines of an encoder's training
    TO/encoder  TO/samples  TO/vectors     what the history cells read, made once
    TO/scaling.md .json, AXIS.png .svg

Paper: MOON Embedding (2511.11305) 3.9: the three axes are the paper's, forms and ranges ours.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from moontide.catalog.dataset import Dataset
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder
from moontide.encoder.stages.posttrain import PosttrainSettings
from moontide.foundation.device import threads
from moontide.foundation.errors import SettingsError
from moontide.foundation.runs import Run
from moontide.foundation.settings import Settings
from moontide.foundation.storage import write_bytes, write_json
from moontide.ranking.content import ContentTable
from moontide.ranking.heads import ContentSettings
from moontide.ranking.influence import auc_by_shopper, gauc_by_shopper
from moontide.ranking.metrics import click_metrics
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import Samples, SampleSettings
from moontide.ranking.search import SearchSettings
from moontide.ranking.train import TrainSettings, train_click_model
from moontide.studies.encoders import catalog_texts, period_start
from moontide.studies.grid import Cell, claim, finished, run_grid, unfinished
from moontide.studies.intermediate import measure
from moontide.studies.kept import keep_arrays, samples_at
from moontide.studies.scaling_plot import plot_axis
from moontide.studies.scaling_text import Measured, axis_table, scaling_markdown
from moontide.studies.versions import Watched, train_versions, version_table, watched_posttrain

AXES = ("pairs", "negatives", "history")
RECALLS = ("text recall@10", "image recall@10", "photo recall@10")
METRICS = {"pairs": RECALLS, "negatives": RECALLS, "history": ("GAUC", "AUC")}


class ScalingSettings(Settings):
    """The three axes and what is trained along them."""

    factors: tuple[int, ...] = pydantic.Field(
        (1, 2, 4, 8), description="pairs: times the steps of `posttrain`"
    )
    pools: tuple[int, ...] = pydantic.Field(
        (64, 128, 256, 512, 1024, 2048, 4096), description="negatives: batch, hard ones and queue together"
    )
    lengths: tuple[int, ...] = pydantic.Field((20, 50, 100, 200, 500, 1000), description="history: behaviors")
    encoder: EncoderSettings = pydantic.Field(EncoderSettings(), description="shape of the encoder")
    posttrain: PosttrainSettings = pydantic.Field(
        PosttrainSettings(batch_size=32),
        description="of one point; the smallest of pairs, every one of negatives",
    )
    questions: EvaluateSettings = pydantic.Field(
        EvaluateSettings(tasks=("retrieval", "image search"), max_gallery=1, replicates=10),
        description="what encoders are asked; held-out products alone",
    )
    clicks: ClickSettings = pydantic.Field(
        ClickSettings(content=ContentSettings(), search=SearchSettings()),
        description="history: the click model",
    )
    training: TrainSettings = pydantic.Field(TrainSettings(), description="how it is trained")
    samples: SampleSettings = pydantic.Field(SampleSettings(), description="how the log becomes samples")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ScalingSettings:
        for name in ("factors", "pools", "lengths"):
            points = getattr(self, name)
            if any(one < 1 for one in points) or list(points) != sorted(set(points)):
                raise ValueError(f"{name} must be above 0 and ascend, got {points}")
        if self.pools and self.pools[0] < (batch := _in_batch(self.posttrain)):
            raise ValueError(
                f"pools hold the batch and its hard negatives, {batch} at least, got {self.pools[0]}"
            )
        return self

    def points(self, axis: str) -> tuple[int, ...]:
        """The points of an axis."""
        return {"pairs": self.factors, "negatives": self.pools, "history": self.lengths}[axis]

    def stage(self, axis: str, point: int, seed: int) -> PosttrainSettings:
        """The training of one point of `pairs` or `negatives`."""
        stage = self.posttrain.but(seed=seed)
        if axis == "pairs":
            return stage.but(num_steps=stage.num_steps * point)
        return stage.but(negatives=stage.negatives.but(queue=point - _in_batch(stage)))

    def model(self, length: int) -> ClickSettings:
        """The click model that reads at most `length` behaviors; its latest ones are among them."""
        clicks = self.clicks
        if clicks.search is None:
            return clicks.but(history=length)
        return clicks.but(history=min(clicks.history, length), search=clicks.search.but(steps=length))


def _in_batch(stage: PosttrainSettings) -> int:
    return stage.batch_size * (1 + stage.negatives.num_hard)


def run_scaling(
    dataset: Dataset,
    to: Path,
    settings: ScalingSettings,
    seeds: Sequence[int] = range(3),
    axes: Sequence[str] = AXES,
    encoder: Path | None = None,
    only: Sequence[str] = (),
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Compute the cells that are not there yet and write the report; gives what scaling.json holds.

    Args:
        axes: which of `pairs`, `negatives`, `history`.
        encoder: folder of the frozen encoder behind all history cells; None: one trained as `posttrain` says,
            at TO/encoder, when the first of them begins.
        only: names of axes or cells to compute; none: all.
        max_minutes: no cell begins later than this; 0 writes the report alone.

    Raises:
        SettingsError: an unknown axis, or `only` names no axis or cell.
        CheckpointError: a finished cell was computed with other settings or data.
        DataError: no product is held out, or the log has nothing to learn from.
    """
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise SettingsError(f"no axis is called {unknown[0]!r}: the axes are {', '.join(AXES)}")
    work = Work(dataset, to, settings, encoder)
    cells = scaling_cells(work, seeds, axes)
    finished(to / "cells", cells)  # refuses other settings, also of cells that are not chosen
    names = {*axes} | {cell.name for cell in cells}
    if unknown := [name for name in only if name not in names]:
        raise SettingsError(f"no axis or cell is called {unknown[0]!r}: the axes are {', '.join(axes)}")
    chosen = [cell for cell in cells if not only or {cell.name, cell.settings["axis"]} & set(only)]
    run_grid(to / "cells", chosen, work.compute, max_minutes=max_minutes)
    return write_scaling(work, seeds, axes)


def scaling_cells(work: Work, seeds: Sequence[int], axes: Sequence[str]) -> list[Cell]:
    """The cells: every point of every axis once before the second seed, small ones first."""
    settings, data = work.settings, {"fingerprint": work.dataset.fingerprint()}
    cells = []
    for seed in seeds:
        for axis in axes:
            for point in settings.points(axis):
                asked: dict[str, Any] = {"axis": axis, "point": point, "seed": seed, "data": data}
                if axis == "history":
                    asked |= {"clicks": settings.model(point).model_dump(mode="json")}
                    asked |= {"training": settings.training.model_dump(mode="json")}
                    asked |= {"samples": settings.samples.model_dump(mode="json")}
                    asked |= {"encoder": work.encoder_name}
                else:
                    asked |= {"stage": settings.stage(axis, point, seed).model_dump(mode="json")}
                    asked |= {"encoder": settings.encoder.model_dump(mode="json")}
                    asked |= {"questions": settings.questions.model_dump(mode="json")}
                cells.append(Cell(f"{axis}-{point}-seed{seed}", asked))
    return cells


class Work:
    """What cells are computed with.

    Args:
        encoder: see `run_scaling`.
    """

    def __init__(self, dataset: Dataset, to: Path, settings: ScalingSettings, encoder: Path | None = None):
        self.dataset, self.to, self.settings, self.encoder = dataset, to, settings, encoder
        self.before = period_start(dataset, settings.samples.test_share)

    @property
    def encoder_name(self) -> str:
        """What tells the encoder behind the history cells from another."""
        if self.encoder is not None:
            return MoonEncoder(self.encoder, device="cpu").fingerprint()
        settings = self.settings
        return f"trained: {settings.posttrain.fingerprint()} {settings.encoder.fingerprint()}"

    def compute(self, cell: Cell) -> dict[str, Any]:
        """One cell."""
        axis, point, seed = (cell.settings[name] for name in ("axis", "point", "seed"))
        began = time.process_time()
        if axis == "history":
            result, arrays = self._clicks(point, seed)
        else:
            stage = self.settings.stage(axis, point, seed).but(before=self.before)
            result, arrays = self._encoder(stage, self.to / "runs" / cell.name)
        keep_arrays(self.to / "cells" / f"{cell.name}.npz", arrays)
        return {**result, "core_seconds": time.process_time() - began}

    def new_encoder(self, seed: int) -> MoonEncoder:
        """An encoder with random weights."""
        texts = catalog_texts(self.dataset, self.before)
        return MoonEncoder.tiny(texts, self.settings.encoder, seed, device="cpu")

    def _encoder(
        self, stage: PosttrainSettings, folder: Path
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Train an encoder from nothing and measure it; a training that was cut off goes on."""
        run = Run.start(folder, "scaling", stage.model_dump(mode="json"), stage.seed, "cpu")
        encoder, seen = self.new_encoder(stage.seed), []

        def watch(now: Watched) -> None:
            seen.append(now.queued)

        with threads():
            figures = watched_posttrain(encoder, self.dataset, stage, watch, run)
            result, arrays = measure(encoder, self.dataset, self.settings.questions)
        shutil.rmtree(run.path / "checkpoints")  # three times the weights, twice
        tokens, pairs = figures["tokens"], figures["pairs"]
        result |= {"pairs": pairs, "tokens_of_pair": tokens, "tokens": tokens * pairs}
        result |= {"seconds": figures["seconds"], "queued": float(np.mean(seen)) if seen else None}
        kept = {name: one for name, one in arrays.items() if name.split(":")[0] in RECALLS}
        return result, {name: one for name, one in kept.items() if not name.endswith(":top")}

    def _clicks(self, length: int, seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        samples, settings = self.samples(), self.settings
        model = settings.model(length)
        table = self.table(samples) if model.reads_vectors else None
        with threads(1):
            trained = train_click_model(samples, table, model, seed, settings.training)
        label, shopper = samples.label[trained.rows], samples.shopper[trained.rows]
        longer = float((samples.history_length[trained.rows] > length).mean())
        metrics = click_metrics(trained.scores, label, shopper)
        return {"metrics": metrics, "longer": longer}, {"scores": trained.scores.astype(np.float32)}

    def samples(self) -> Samples:
        """The samples of the history cells, made once."""
        return samples_at(self.to / "samples", self.dataset, self.settings.samples)

    def table(self, samples: Samples) -> ContentTable:
        """The frozen vectors of the history cells, made once."""
        stage = self.settings.posttrain.but(before=self.before)

        def load() -> MoonEncoder:
            place = self.encoder
            if place is None:
                new = self.new_encoder
                made = train_versions(
                    lambda: new(stage.seed), self.dataset, stage, self.to / "encoder", (1.0,)
                )
                place = made["100%"]
            return MoonEncoder(place, device="cpu")

        return version_table(self.dataset, load, samples.entities, self.to / "vectors")


# --- the report ---------------------------------------------------------------------------------------------


def write_scaling(work: Work, seeds: Sequence[int], axes: Sequence[str]) -> dict[str, Any]:
    """Write scaling.md, .json and a picture an axis from the finished cells; gives what is in the JSON."""
    to, cells = work.to, scaling_cells(work, seeds, axes)
    with claim(to / "scaling.claim", wait=True):
        entries = finished(to / "cells", cells)
        tables = {axis: axis_table(axis, read_axis(work, axis, entries)) for axis in axes}
        table = {
            "dataset": work.dataset.info.get("name", work.dataset.path.name),
            "fingerprint": work.dataset.fingerprint(),
            "axes": tables,
            "missing": unfinished(to / "cells", cells),
            "core_seconds": {entry["cell"]: entry["result"]["core_seconds"] for entry in entries},
        }
        write_json(to / "scaling.json", table)
        write_bytes(to / "scaling.md", scaling_markdown(table).encode())
        for axis, found in tables.items():
            for kind, picture in plot_axis(found, table["dataset"]).items():
                write_bytes(to / f"{axis}.{kind}", picture)
    return table


def read_axis(work: Work, axis: str, entries: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """The metrics of an axis: of the finished cells the most that form a whole table of points x seeds."""
    own = {
        (entry["settings"]["point"], entry["settings"]["seed"]): entry
        for entry in entries
        if entry["settings"]["axis"] == axis
    }
    done: dict[int, set[int]] = {}
    for point, seed in own:
        done.setdefault(point, set()).add(seed)

    def num_cells(seeds: set[int]) -> int:
        return len(seeds) * sum(seeds <= own_seeds for own_seeds in done.values())

    shared = max(done.values(), key=num_cells, default=set())
    points = sorted(point for point, one in done.items() if shared and shared <= one)
    if not points:
        return []
    grid = [[own[point, seed] for seed in sorted(shared)] for point in points]
    x = [_x_of(axis, row) for row in grid]
    facts = [_facts(axis, row) for row in grid]
    found = []
    for metric in METRICS[axis]:
        values, queries = _values(work, axis, metric, grid)
        if values is not None and queries is not None:
            found.append(Measured(metric, points, sorted(shared), np.array(x), values, queries, facts))
    return found


def _x_of(axis: str, row: Sequence[Mapping[str, Any]]) -> float:
    if axis == "pairs":
        return float(np.mean([entry["result"]["tokens"] for entry in row]))
    return float(row[0]["settings"]["point"])


def _facts(axis: str, row: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a reader of a point must know beside its figures."""
    names = {"pairs": ("pairs", "tokens_of_pair"), "negatives": ("queued",), "history": ("longer",)}[axis]
    known = {name: [e["result"][name] for e in row if e["result"][name] is not None] for name in names}
    facts = {name: float(np.mean(values)) for name, values in known.items() if values}
    return facts | {"core_minutes": float(np.mean([entry["result"]["core_seconds"] for entry in row])) / 60}


def _values(
    work: Work, axis: str, metric: str, grid: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(points, seeds, queries) of one metric, and the queries' codes; None where cells lack it."""
    arrays = [[np.load(work.to / "cells" / f"{entry['cell']}.npz") for entry in row] for row in grid]
    if axis != "history":
        if not all(metric in one for row in arrays for one in row):
            return None, None
        return np.array([[one[metric] for one in row] for row in arrays]), arrays[0][0][f"{metric}:group"]
    samples = work.samples()
    label, shopper = samples.label[samples.test_rows], samples.shopper[samples.test_rows]
    by_shopper = auc_by_shopper if metric == "AUC" else gauc_by_shopper
    found = [[by_shopper(one["scores"], label, shopper) for one in row] for row in arrays]
    return np.array([[values for _, values in row] for row in found]), found[0][0][0]
