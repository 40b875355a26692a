"""Is content worth anything to the click model? Markets x training seeds, the `blind` control beside.

A cell is one market and one training seed: an encoder trained from nothing, its vectors, and the click
models of `clicks.py`, judged on the last part of the market's log. The seed moves the encoder and the click
models alike, so the spread over cells is that of the whole chain. Cells of one market share its dataset.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.foundation.runs import Run
from moontide.foundation.statistics import Interval
from moontide.market.build import build_market
from moontide.studies.chain import ChainSettings, run_chain
from moontide.studies.clicks import COMPARISONS, SLICES
from moontide.studies.grid import Cell, as_markdown, run_grid

KINDS = ("default", "blind")
SPARE = ("checkpoints", "center", "samples", "vectors", "ranking", "encoder")  # deleted when a cell is done


def content_cells(
    settings: ChainSettings, market_seeds: int, training_seeds: int, kinds: Sequence[str] = KINDS
) -> list[Cell]:
    """The cells, every kind and market once before the second training seed.

    Raises:
        SettingsError: an unknown kind of market.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise SettingsError(f"no kind of market is called {unknown[0]!r}: the kinds are {', '.join(KINDS)}")
    asked = settings.model_dump(mode="json")
    return [
        Cell(
            f"{kind}-market{market}-seed{seed}",
            {"kind": kind, "market_seed": market, "seed": seed, "settings": asked},
        )
        for seed in range(training_seeds)
        for market in range(market_seeds)
        for kind in kinds
    ]


def run_content_study(folder: Path, settings: ChainSettings, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Compute the cells that are not there yet; gives the finished ones (see `grid.run_grid`)."""

    def compute(cell: Cell) -> dict[str, Any]:
        dataset = _market(folder, settings, cell)
        place = folder / "runs" / cell.name
        plain = settings.but(market=None, experiment=None)
        run_chain(place, "content study", plain, cell.settings["seed"], dataset, with_report=False)
        run = Run.open(place)
        result = {name: run.results(name) for name in ("retrieval", "clicks")}
        for name in SPARE:
            shutil.rmtree(place / name, ignore_errors=True)
        return result

    return run_grid(folder / "cells", cells, compute)


def _market(folder: Path, settings: ChainSettings, cell: Cell) -> Path:
    assert settings.market is not None
    kind, seed = cell.settings["kind"], cell.settings["market_seed"]
    path = folder / "markets" / f"{kind}-{seed}"
    wanted = settings.market.but(blind=kind == "blind")
    if not (path / "dataset.json").exists():
        build_market(path, wanted, seed)
    made = Dataset.open(path).info.get("market", {})
    if (made.get("settings"), made.get("seed")) != (wanted.model_dump(mode="json"), seed):
        raise CheckpointError(f"{path} is another market than asked for: name another folder, or delete it")
    return path


def content_tables(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The finished cells as tables: `models` (mean AUC and GAUC), `gains` and `retrieval`.

    A gain's interval is Student's over the means of the markets: training seeds of one market are not
    independent. `resolvable` is the mean over cells of what one test period resolves.
    """
    kinds = [kind for kind in KINDS if any(row["settings"]["kind"] == kind for row in rows)]
    tables: dict[str, list[dict[str, Any]]] = {"models": [], "gains": [], "retrieval": []}
    for kind in kinds:
        own = [row for row in rows if row["settings"]["kind"] == kind]
        for where in SLICES:
            models = dict.fromkeys(line["model"] for row in own for line in row["result"]["clicks"]["table"])
            for model in models:
                lines = [_line(row, where, model) for row in own]
                found = [line for line in lines if line is not None]
                entry = {"market": kind, "slice": where, "model": model, "cells": len(found)}
                entry |= {name: _mean([line[name.lower()] for line in found]) for name in METRICS}
                tables["models"].append(entry)
            for before, after in COMPARISONS:
                tables["gains"].append(_gain(kind, own, where, before, after))
        tables["retrieval"] += _retrieval(kind, own)
    return tables


METRICS = ("AUC", "GAUC")


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that are defined; NaN without any."""
    found = [value for value in values if math.isfinite(value)]
    return float(np.mean(found)) if found else math.nan


def _line(row: dict[str, Any], where: str, model: str) -> dict[str, Any] | None:
    table = row["result"]["clicks"]["table"]
    return next((line for line in table if (line["slice"], line["model"]) == (where, model)), None)


def _gain(kind: str, rows: Sequence[dict[str, Any]], where: str, before: str, after: str) -> dict[str, Any]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        for gain in row["result"]["clicks"]["gains"]:
            if (gain["slice"], gain["before"], gain["after"]) == (where, before, after):
                found.setdefault(row["settings"]["market_seed"], []).append(gain)
    every = [gain for gains in found.values() for gain in gains]
    entry: dict[str, Any] = {"market": kind, "slice": where, "comparison": f"{after} over {before}"}
    entry["AUC"] = _over_markets(
        [[gain["difference"]["value"] for gain in gains] for gains in found.values()]
    )
    entry["GAUC"] = _over_markets([[gain["gauc"]["value"] for gain in gains] for gains in found.values()])
    if every:
        values = [gain["difference"]["value"] for gain in every]
        entry |= {"least": min(values), "most": max(values)}
        entry["resolvable"] = _mean([gain["resolvable"] for gain in every])
        entry["gap closed"] = _mean([gain.get("closed", math.nan) for gain in every])
    return entry


def _over_markets(values: Sequence[Sequence[float]], level: float = 0.95) -> Interval:
    """Mean of the markets' means with Student's interval over markets; NaN bounds with one market."""
    means = np.array([mean for one in values if math.isfinite(mean := _mean(one))])
    if not len(means):
        return Interval(*[math.nan] * 4, level)
    if len(means) < 2:
        return Interval(float(means[0]), math.nan, math.nan, math.nan, level)
    error = float(means.std(ddof=1) / math.sqrt(len(means)))
    reach = float(t.ppf((1 + level) / 2, len(means) - 1)) * error
    mean = float(means.mean())
    return Interval(mean, mean - reach, mean + reach, error, level)


def _retrieval(kind: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        for line in row["result"]["retrieval"]["table"]:
            lines.setdefault((line["protocol"], line["gallery"]), []).append(line)
    names = ("n", "size", "recall@1", "recall@10", "chance@10")
    return [
        {"market": kind, "search": protocol, "gallery": gallery, "cells": len(found)}
        | {name: float(np.mean([line[name] for line in found])) for name in names}
        for (protocol, gallery), found in lines.items()
    ]


def content_markdown(tables: dict[str, list[dict[str, Any]]]) -> str:
    """The tables as Markdown, gains first."""
    parts = []
    for name in ("gains", "models", "retrieval"):
        if tables[name]:
            parts.append(as_markdown(list(tables[name][0]), tables[name]))
    return "\n".join(parts)
