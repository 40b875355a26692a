"""Exchange rate: how many AUC points of a click model a point of an encoder's own metric buys.

    ER(m; v -> w, c) = (AUC(w, c) - AUC(v, c)) / (m(w, c) - m(v, c))        c: a slice of the test period

Encoder versions of rising quality are frozen, each embeds the catalog once, and for every seed one click
model is trained on each table of vectors: same log, same batches, same first weights, only the table is
swapped. `intermediate.py` has the encoder's own metrics, `exchange_rates.py` what follows from the numbers.

    TO/versions/...                    encoders along one training, unless encoders are given
    TO/samples  TO/vectors/VERSION     what the cells read, made once
    TO/cells/metrics-VERSION.json .npz the encoder's own metrics, with the outcome of every query
    TO/cells/VERSION-seedN.json .npz   one click model, with its scores of the test period
    TO/exchange.md .json .png .svg

Paper: MOON Embedding (2511.11305) 3.6, 3.7; the protocol is ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from moontide.catalog.dataset import Dataset
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder
from moontide.encoder.stages.posttrain import PosttrainSettings
from moontide.foundation.device import threads
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.settings import Settings
from moontide.foundation.storage import write_bytes, write_json
from moontide.ranking.content import ContentTable
from moontide.ranking.cube import CubeSettings
from moontide.ranking.heads import ContentSettings
from moontide.ranking.influence import auc_by_shopper, gauc_by_shopper
from moontide.ranking.metrics import click_metrics
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import Samples, SampleSettings
from moontide.ranking.search import SearchSettings
from moontide.ranking.slices import slice_masks
from moontide.ranking.train import TrainSettings, train_click_model
from moontide.studies.encoders import catalog_texts, period_start
from moontide.studies.exchange_plot import plot_exchange
from moontide.studies.exchange_rates import LEAST_CLICKS, Asked, Versions, exchange_markdown, exchange_table
from moontide.studies.grid import Cell, claim, finished, run_grid, slug, unfinished
from moontide.studies.intermediate import METRICS, measure
from moontide.studies.kept import keep_arrays, samples_at
from moontide.studies.outcomes import Outcomes
from moontide.studies.versions import SHARES, train_versions, version_table


class ExchangeSettings(Settings):
    """The click model that all versions stand behind, what versions are asked, and how they come about."""

    clicks: ClickSettings = pydantic.Field(
        ClickSettings(content=ContentSettings()), description="the click model; only its vectors change"
    )
    training: TrainSettings = pydantic.Field(TrainSettings(), description="how it is trained")
    samples: SampleSettings = pydantic.Field(SampleSettings(), description="how the log becomes samples")
    questions: EvaluateSettings = pydantic.Field(
        EvaluateSettings(max_gallery=1, replicates=10), description="what versions are asked; held-out alone"
    )
    encoder: EncoderSettings = pydantic.Field(EncoderSettings(), description="shape of the encoder")
    posttrain: PosttrainSettings = pydantic.Field(PosttrainSettings(), description="its whole training")
    shares: tuple[float, ...] = pydantic.Field(SHARES, description="of its steps, where it is frozen")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ExchangeSettings:
        if not self.clicks.reads_vectors:
            raise ValueError(
                "the click model must read vectors, or no version can move it: set clicks.content"
            )
        return self


def compositions(shared: ClickSettings) -> dict[str, ClickSettings]:
    """Click models to stand behind: `simtier` (the default), `muse` (long history by content), `cube`."""
    return {
        "simtier": shared.but(content=ContentSettings()),
        "muse": shared.but(content=ContentSettings(), search=SearchSettings()),
        "cube": shared.but(content=ContentSettings(cube=CubeSettings())),
    }


def run_exchange(
    dataset: Dataset,
    to: Path,
    settings: ExchangeSettings,
    seeds: Sequence[int] = range(3),
    encoders: Sequence[Path] = (),
    only: Sequence[str] = (),
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Compute the cells that are not there yet and write the report; gives what exchange.json holds.

    Args:
        dataset: with a log and held-out products.
        seeds: of the click models; three at least for an interval that means something.
        encoders: folders of encoders in the order of their quality; none: versions along one training, made
            in this call whatever `max_minutes` says (a call that is cut off goes on).
        only: names of versions or cells to compute; none: all.
        max_minutes: no cell begins later than this; 0 writes the report alone, from what is there.

    Raises:
        SettingsError: `only` names no version or cell; two encoders of one name.
        CheckpointError: a finished cell was computed with other settings, encoders or data.
        DataError: no product is held out, or the log has nothing to learn from.
    """
    dataset.require("an exchange rate", "products", "events")
    places = _named(encoders) if encoders else make_versions(dataset, to, settings)
    cells = exchange_cells(dataset, places, settings, seeds)
    finished(to / "cells", cells)  # refuses other settings, also of cells that are not chosen
    names = places.keys() | {cell.name for cell in cells}
    if unknown := [name for name in only if name not in names]:
        raise SettingsError(
            f"no version or cell is called {unknown[0]!r}: the versions are {', '.join(places)}"
        )
    chosen = [cell for cell in cells if not only or {cell.name, cell.settings["version"]} & set(only)]

    def compute(cell: Cell) -> dict[str, Any]:
        version, began = cell.settings["version"], time.process_time()
        table = _table(dataset, places[version], to, version, settings.samples)
        if cell.settings["seed"] is None:
            with threads():
                encoder = MoonEncoder(places[version], device="cpu")
                result, arrays = measure(encoder, dataset, settings.questions)
        else:
            samples = _samples(dataset, to, settings.samples)
            result, arrays = _click_cell(samples, table, settings, cell.settings["seed"])
        keep_arrays(to / "cells" / f"{cell.name}.npz", arrays)
        return {**result, "core_seconds": time.process_time() - began}

    run_grid(to / "cells", chosen, compute, max_minutes=max_minutes)
    return write_exchange(dataset, to, places, settings, seeds)


def make_versions(dataset: Dataset, to: Path, settings: ExchangeSettings) -> dict[str, Path]:
    """The versions along one training in TO/versions, made once."""
    before = period_start(dataset, settings.samples.test_share)
    asked = settings.posttrain.but(before=before)

    def new() -> MoonEncoder:
        return MoonEncoder.tiny(catalog_texts(dataset, before), settings.encoder, asked.seed, device="cpu")

    return train_versions(new, dataset, asked, to / "versions", settings.shares)


def exchange_cells(
    dataset: Dataset, places: Mapping[str, Path], settings: ExchangeSettings, seeds: Sequence[int]
) -> list[Cell]:
    """The cells in the order they are computed: metrics first, then every version before the second seed."""
    data = {"fingerprint": dataset.fingerprint(), "samples": settings.samples.model_dump(mode="json")}
    asked = {"questions": settings.questions.model_dump(mode="json")}
    model = {
        "clicks": settings.clicks.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json"),
    }
    known = {name: {"version": name, "encoder": _fingerprint(place)} for name, place in places.items()}
    cells = [
        Cell(f"metrics-{slug(name)}", {**one, "seed": None, "data": data, **asked})
        for name, one in known.items()
    ]
    return cells + [
        Cell(f"{slug(name)}-seed{seed}", {**one, "seed": seed, "data": data, **model})
        for seed in seeds
        for name, one in known.items()
    ]


# --- cells --------------------------------------------------------------------------------------------------


def _click_cell(
    samples: Samples, table: ContentTable, settings: ExchangeSettings, seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with threads(1):
        trained = train_click_model(samples, table, settings.clicks, seed, settings.training)
    label, shopper = samples.label[trained.rows], samples.shopper[trained.rows]
    metrics = click_metrics(trained.scores, label, shopper)
    return {"metrics": metrics, "coverage": table.product.coverage}, {
        "scores": trained.scores.astype(np.float32)
    }


# --- the report ---------------------------------------------------------------------------------------------


def write_exchange(
    dataset: Dataset,
    to: Path,
    places: Mapping[str, Path],
    settings: ExchangeSettings,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Write exchange.md, .json, .png and .svg from the finished cells; gives what exchange.json holds."""
    cells = exchange_cells(dataset, places, settings, seeds)
    entries = {entry["cell"]: entry for entry in finished(to / "cells", cells)}
    with claim(to / "exchange.claim", wait=True):
        held = read_versions(dataset, to, list(places), settings.samples, seeds, entries)
        facts = {
            "dataset": dataset.info.get("name", dataset.path.name),
            "fingerprint": dataset.fingerprint(),
            "click model": settings.clicks.model_dump(mode="json"),
            "missing": unfinished(to / "cells", cells),
            "core_seconds": {name: entry["result"]["core_seconds"] for name, entry in entries.items()},
        }
        table = exchange_table(held, facts)
        write_json(to / "exchange.json", table)
        write_bytes(to / "exchange.md", exchange_markdown(table).encode())
        for kind, picture in plot_exchange(table).items():
            write_bytes(to / f"exchange.{kind}", picture)
    return table


def read_versions(
    dataset: Dataset,
    to: Path,
    versions: Sequence[str],
    sampled: SampleSettings,
    seeds: Sequence[int],
    entries: Mapping[str, dict[str, Any]],
) -> Versions:
    """What is compared: of the finished cells the most that form a whole table of versions x seeds."""
    done = {
        name: [seed for seed in seeds if f"{slug(name)}-seed{seed}" in entries]
        for name in versions
        if f"metrics-{slug(name)}" in entries
    }
    shared = max(done.values(), key=lambda own: _num_cells(own, done), default=[])
    whole = [name for name, own in done.items() if shared and set(shared) <= set(own)]
    metrics = {name: _read_metrics(to, entries[f"metrics-{slug(name)}"]) for name in whole}
    if not whole:
        return Versions([], [], {}, {}, {})
    samples = _samples(dataset, to, sampled)
    masks = exchange_slices(samples)
    scores = {}
    for name in whole:
        for seed in shared:
            with np.load(to / "cells" / f"{slug(name)}-seed{seed}.npz") as kept:
                scores[name, seed] = kept["scores"]
    rows = samples.test_rows
    label, shopper = samples.label[rows], samples.shopper[rows]
    values = {}
    for kind, by_shopper in (("AUC", auc_by_shopper), ("GAUC", gauc_by_shopper)):
        for where, mask in masks.items():
            columns = label[mask], shopper[mask]
            values[kind, where] = np.stack(
                [
                    np.stack([by_shopper(scores[name, seed][mask], *columns)[1] for seed in shared])
                    for name in whole
                ]
            )
    clicks = {where: int(label[mask].sum()) for where, mask in masks.items()}
    return Versions(whole, shared, metrics, values, clicks)


def _num_cells(seeds: Sequence[int], done: Mapping[str, Sequence[int]]) -> int:
    """Cells of the versions that have all these seeds."""
    return len(seeds) * sum(set(seeds) <= set(own) for own in done.values())


def exchange_slices(samples: Samples) -> dict[str, np.ndarray]:
    """Masks over the test rows: all, new, rare, and each `category NAME` (the top one) with enough clicks."""
    rows = samples.test_rows
    masks = {n: mask for n, mask in slice_masks(samples, rows).items() if n in ("all", "new", "rare")}
    top = samples.entities.products.column("top").take(samples.product[rows]).to_pylist()
    top = np.array([name or "" for name in top])
    masks |= {f"category {name}": top == name for name in sorted(set(top.tolist())) if name}
    label = samples.label[rows]

    def is_enough(mask: np.ndarray) -> bool:
        return min(label[mask].sum(), (~label[mask]).sum()) >= LEAST_CLICKS

    kept = {name: mask for name, mask in masks.items() if name == "all" or is_enough(mask)}
    if not label.any() or label.all():
        raise DataError("the test period has clicks alone, or none: no AUC is defined")
    return kept


def _read_metrics(to: Path, entry: Mapping[str, Any]) -> dict[str, Asked]:
    names = entry["result"]["categories"]
    found = {}
    with np.load(to / "cells" / f"{entry['cell']}.npz") as kept:
        for metric in METRICS:
            if metric not in kept or not len(kept[metric]):
                continue
            inside = f"{metric}:within" if f"{metric}:within" in kept else metric
            top = kept[f"{inside}:top"]
            by_top = {
                names[code]: Outcomes(kept[inside][top == code], kept[f"{inside}:group"][top == code])
                for code in np.unique(top).tolist()
            }
            found[metric] = Asked(Outcomes(kept[metric], kept[f"{metric}:group"]), by_top)
    return found


# --- what cells read, made once -----------------------------------------------------------------------------


def _samples(dataset: Dataset, to: Path, settings: SampleSettings) -> Samples:
    return samples_at(to / "samples", dataset, settings)


def _table(dataset: Dataset, place: Path, to: Path, name: str, sampled: SampleSettings) -> ContentTable:
    path = to / "vectors" / slug(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    entities = _samples(dataset, to, sampled).entities
    return version_table(dataset, lambda: MoonEncoder(place, device="cpu"), entities, path)


@lru_cache(maxsize=64)
def _fingerprint(place: Path) -> str:
    return MoonEncoder(place, device="cpu").fingerprint()


def _named(encoders: Sequence[Path]) -> dict[str, Path]:
    places = {Path(one).name: Path(one) for one in encoders}
    if len({slug(name) for name in places}) < len(encoders):
        raise SettingsError(f"encoders need distinct names, got {', '.join(map(str, encoders))}: copy one")
    return places
