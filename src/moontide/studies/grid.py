"""A table of cells x seeds in a folder, computed one cell at a time and resumable.

Every finished cell is one JSON file, so that an interrupted table goes on where it stopped and a finished
cell is never computed twice. What a cell computes is passed in; a cell that fails is noted and does not
stop the others.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moontide.foundation.errors import CheckpointError
from moontide.foundation.settings import fingerprint
from moontide.foundation.storage import read_json, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its name is its file, its settings are checked when the table is resumed."""

    name: str
    settings: dict[str, Any]


def run_grid(folder: Path, cells: Sequence[Cell], compute: Callable[[Cell], dict[str, Any]]) -> list[dict]:
    """Compute the cells that are not there yet, in order; returns the finished ones in the order of `cells`.

    Args:
        folder: where `NAME.json` of each cell stands: {"settings", "seconds", "result"} or {"error"}.
        compute: gives a cell's result, anything JSON can hold.

    Raises:
        CheckpointError: a finished cell was computed with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(cells, 1):
        file = folder / f"{cell.name}.json"
        if file.exists() and "result" in (found := read_json(file)):
            if fingerprint(found["settings"]) != fingerprint(
                json.loads(json.dumps(cell.settings, default=str))
            ):
                raise CheckpointError(
                    f"{file} was computed with other settings: name another folder, or delete it"
                )
            continue
        log.info("cell %s, %d of %d", cell.name, number, len(cells))
        start = time.monotonic()
        try:
            entry = {"result": compute(cell)}
        except Exception as error:  # a failed cell is noted, the table goes on
            log.warning("cell %s failed: %s", cell.name, error)
            entry = {"error": str(error), "traceback": traceback.format_exc()}
        seconds = round(time.monotonic() - start, 1)
        write_json(file, {"cell": cell.name, "settings": cell.settings, "seconds": seconds, **entry})
    return finished(folder, cells)


def finished(folder: Path, cells: Iterable[Cell]) -> list[dict]:
    """The finished cells: {"cell", "settings", "seconds", "result"} each."""
    files = [folder / f"{cell.name}.json" for cell in cells]
    rows = [read_json(file) for file in files if file.exists()]
    return [row for row in rows if "result" in row]


def as_markdown(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a Markdown table; a number keeps four digits after the point, a missing value is a dash."""

    def show(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"
