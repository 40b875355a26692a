"""A paper's ablation: variants x tasks over seeds, every difference paired and with its interval.

What one variant is and how it is trained is passed in; this file knows rows, columns, seeds and files:

    TO/cells/ROW-seedN.json   what training returned, without the outcomes (see `grid.py`)
    TO/cells/ROW-seedN.npz    outcome of every query, by column key
    TO/runs/ROW-seedN/        the training's own folder: a cell that was cut off finds what it left there
    TO/table.md  .json        written again whenever a cell has ended
    TO/table.png  .svg        drawn when the run ends
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.settings import Settings
from moontide.foundation.storage import write_bytes, write_json
from moontide.studies.ablation_plot import plot_ablation
from moontide.studies.ablation_text import ablation_markdown
from moontide.studies.grid import Cell, claim, finished, run_grid, slug, unfinished
from moontide.studies.outcomes import Column, Outcomes, keep_outcomes, read_outcomes
from moontide.studies.paired import Difference, difference_over_seeds
from moontide.studies.published import compare_order


@dataclass(frozen=True)
class Row:
    """One variant, or one rung of a ladder; `note` says what it changes."""

    name: str
    settings: Settings
    note: str = ""


@dataclass(frozen=True)
class Ablation:
    """One table.

    Args:
        rows: the first is the full system, or the ladder's lowest rung.
        paper: title and arXiv id, for the heading.
        paper_order: column name -> {row name: published value}; only the order is compared and nothing of it
            shown as ours.
        reference: each row is compared with the first one, or with the row before it (a ladder).
    """

    name: str
    paper: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    paper_order: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reference: Literal["first", "previous"] = "first"

    def __post_init__(self) -> None:
        for kind, names in (
            ("rows", [slug(row.name) for row in self.rows]),
            ("columns", [column.name for column in self.columns]),
        ):
            if len(set(names)) < len(names):
                raise SettingsError(f"{kind} of {self.name} need distinct names, got {', '.join(names)}")
        known = {row.name for row in self.rows}
        for column, order in self.paper_order.items():
            if column not in {one.name for one in self.columns} or not set(order) <= known:
                raise SettingsError(
                    f"paper_order of {self.name} names a row or column it lacks, in {column!r}"
                )

    def cells(self, seeds: Sequence[int], data: Mapping[str, Any]) -> list[Cell]:
        """Cells in the order they are computed: every row once before the second seed.

        The full system comes first, then the rows by the size of their published drop, then the others; a
        ladder is climbed. So a table that is interrupted shows the large differences.
        """
        rows = list(self.rows)
        if self.reference == "first":
            rows[1:] = sorted(rows[1:], key=self._published_drop, reverse=True)
        return [
            Cell(
                f"{slug(row.name)}-seed{seed}",
                {
                    "row": row.name,
                    "seed": seed,
                    "settings": row.settings.model_dump(mode="json"),
                    "data": dict(data),
                },
            )
            for seed in seeds
            for row in rows
        ]

    def _published_drop(self, row: Row) -> float:
        full = self.rows[0].name
        drops = [
            order[full] - order[row.name]
            for order in self.paper_order.values()
            if full in order and row.name in order
        ]
        return float(np.mean(drops)) if drops else -math.inf


def run_ablation(
    to: Path,
    ablation: Ablation,
    seeds: Sequence[int],
    train: Callable[[Row, int, Path], dict[str, Any]],
    data: Mapping[str, Any],
    only: Sequence[str] = (),
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Compute the cells that are not there yet and write the table; returns what table.json holds.

    Args:
        train: (row, seed, the cell's own folder, not made yet) -> {
            "hits": {key: outcome of every query: 0/1, a share, or a rank where the column has `at`},
            "queries": {key: id of every query}; without it the n-th query is the same in all cells,
            "metrics": {key: value of a column without queries, such as AUC},
            "pairs": training pairs seen,
            "core_seconds": of the cell; without it what this process used,
            and whatever else JSON can hold: it is kept with the cell}.
        data: what the cells are computed on (name, fingerprint, ...): shown, and checked on resuming.
        only: names of rows or cells to compute; none: all.
        max_minutes: no cell begins later than this; 0 writes the table alone.

    Raises:
        SettingsError: `only` names a row or cell that is not there.
        CheckpointError: a finished cell was computed with other settings or data.
        DataError: two rows were asked different queries.
    """
    cells, folder = ablation.cells(seeds, data), to / "cells"
    finished(folder, cells)  # refuses other settings, also of cells that are not chosen
    rows = {row.name: row for row in ablation.rows}
    names = rows.keys() | {cell.name for cell in cells}
    if unknown := [name for name in only if name not in names]:
        raise SettingsError(f"no row or cell is called {unknown[0]!r}: the rows are {', '.join(rows)}")
    chosen = [cell for cell in cells if not only or {cell.name, cell.settings["row"]} & set(only)]

    def compute(cell: Cell) -> dict[str, Any]:
        began = _core_seconds()
        result = train(rows[cell.settings["row"]], cell.settings["seed"], to / "runs" / cell.name)
        result = {"core_seconds": _core_seconds() - began, **result}
        return keep_outcomes(folder / f"{cell.name}.npz", result, ablation.columns)

    def write(with_pictures: bool = False) -> dict[str, Any]:
        with claim(to / "table.claim", wait=True):  # or an older look would overwrite a newer one
            table = ablation_table(folder, ablation, seeds, data)
            write_json(to / "table.json", table)
            write_bytes(to / "table.md", ablation_markdown(table).encode())
            if with_pictures:
                for kind, picture in plot_ablation(table).items():
                    write_bytes(to / f"table.{kind}", picture)
            return table

    run_grid(folder, chosen, compute, write, max_minutes)
    return write(with_pictures=True)


def ablation_table(
    folder: Path, ablation: Ablation, seeds: Sequence[int], data: Mapping[str, Any]
) -> dict[str, Any]:
    """The finished cells of `folder` as one table; a value that is not there is None.

    Returns:
        `rows` with the mean over seeds and the paired difference to their reference, by column;
        `resolvable` by column: the median over rows;
        `order`: see `published.compare_order`.
    """
    cells = ablation.cells(seeds, data)
    found = finished(folder, cells)
    measured = _Measured(folder, ablation, found)
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(ablation.rows):
        results = [entry["result"] for entry in found if entry["settings"]["row"] == row.name]
        before = None
        if number:
            before = ablation.rows[0 if ablation.reference == "first" else number - 1].name
        rows.append({
            "row": row.name,
            "note": row.note,
            "reference": before,
            "seeds": measured.seeds(row.name),
            "missing": unfinished(folder, [cell for cell in cells if cell.settings["row"] == row.name]),
            "pairs": sorted({result["pairs"] for result in results}),
            "core_minutes": _mean([result["core_seconds"] / 60 for result in results]),
            "values": {column.name: measured.mean(row.name, column.name) for column in ablation.columns},
            "differences": {
                column.name: _plain(measured.difference(before, row.name, column.name))
                for column in ablation.columns if before is not None
            },
        })  # fmt: skip
    resolvable = {}
    for column in ablation.columns:
        known = [one for row in rows if (one := row["differences"].get(column.name))]
        sizes = [one["resolvable"] for one in known if one["resolvable"] is not None]
        resolvable[column.name] = float(np.median(sizes)) if sizes else None
    return {
        "ablation": ablation.name,
        "paper": ablation.paper,
        "reference": ablation.reference,
        "data": dict(data),
        "seeds": list(seeds),
        "columns": [column.name for column in ablation.columns],
        "rows": rows,
        "resolvable": resolvable,
        "order": [
            compare_order(column, published, measured.difference)
            for column, published in ablation.paper_order.items()
        ],
    }


class _Measured:
    """The outcomes of the finished cells, by row, seed and column."""

    def __init__(self, folder: Path, ablation: Ablation, found: Sequence[dict[str, Any]]):
        self.name = ablation.name
        self.outcomes: dict[str, dict[int, dict[str, Outcomes]]] = {row.name: {} for row in ablation.rows}
        for entry in found:
            row, seed = entry["settings"]["row"], entry["settings"]["seed"]
            self.outcomes[row][seed] = read_outcomes(folder, entry, ablation.columns)

    def seeds(self, row: str) -> list[int]:
        return sorted(self.outcomes[row])

    def mean(self, row: str, column: str) -> float | None:
        return _mean([own[column].mean for own in self.outcomes[row].values() if column in own])

    def difference(self, before: str, after: str, column: str) -> Difference | None:
        """after - before over the seeds that both have; None without one."""
        one, other = self.outcomes[before], self.outcomes[after]
        both = [seed for seed in sorted(one) if column in one[seed] and column in other.get(seed, {})]
        if not both:
            return None
        try:
            return difference_over_seeds([one[s][column] for s in both], [other[s][column] for s in both])
        except DataError as error:
            raise DataError(f"{self.name}, {column}, {before} and {after}: {error}") from None


def _plain(difference: Difference | None) -> dict[str, Any] | None:
    """As JSON: bounds that are not known are None."""
    if difference is None:
        return None
    interval = difference.interval
    numbers = {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "resolvable": difference.resolvable,
    }
    known = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    return {**known, "over": difference.over, "is_resolved": difference.is_resolved}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _core_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])
