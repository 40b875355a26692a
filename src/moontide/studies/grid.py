"""A table of cells x seeds in a folder, computed one cell at a time and resumable.

Every finished cell is one JSON file, so that an interrupted table goes on where it stopped and a finished
cell is never computed twice. What a cell computes is passed in; a cell that fails is noted and does not
stop the others. Several processes may work on one folder: a cell is computed under a claim, which the
operating system takes back when its holder dies, however it dies.

    FOLDER/NAME.json    {"cell", "settings", "seconds", "result"} or {..., "error", "traceback"}
    FOLDER/NAME.claim   while the cell is computed
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from moontide.foundation.errors import CheckpointError
from moontide.foundation.settings import fingerprint
from moontide.foundation.storage import read_json, storage_errors, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its name is its file, its settings are checked when the table is resumed."""

    name: str
    settings: dict[str, Any]


def run_grid(
    folder: Path,
    cells: Sequence[Cell],
    compute: Callable[[Cell], dict[str, Any]],
    after_cell: Callable[[], object] = lambda: None,
    max_minutes: float | None = None,
) -> list[dict]:
    """Compute the cells that are not there yet, in order; returns the finished ones in the order of `cells`.

    A cell that failed in an earlier call is tried once more; one that another process computes is left to it.

    Args:
        folder: where the cells stand, see above.
        compute: gives a cell's result, anything JSON can hold.
        after_cell: called when a cell has ended.
        max_minutes: no cell begins later than this.

    Raises:
        CheckpointError: a finished cell was computed with other settings.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    finished(folder, cells)  # refuses other settings before an hour is spent
    earlier = {cell.name: _stamp(folder, cell) for cell in cells}
    tried, began = set(), time.monotonic()

    def is_open(cell: Cell) -> bool:
        entry = _entry(folder, cell)
        has_failed_now = cell.name in tried or _stamp(folder, cell) != earlier[cell.name]
        return entry is None or ("error" in entry and not has_failed_now)

    def compute_next() -> bool:
        """From the top each time: a process that died may have left an early cell."""
        for number, cell in enumerate(cells, 1):
            if not is_open(cell):
                continue
            with claim(folder / f"{cell.name}.claim") as is_ours:
                if not is_ours or not is_open(cell):  # its holder may have ended it just now
                    continue
                log.info("cell %s, %d of %d", cell.name, number, len(cells))
                tried.add(cell.name)
                _compute(folder, cell, compute)
            after_cell()
            return True
        return False

    while max_minutes is None or time.monotonic() - began < 60 * max_minutes:
        if not compute_next():
            break
    return finished(folder, cells)


def _compute(folder: Path, cell: Cell, compute: Callable[[Cell], dict[str, Any]]) -> None:
    start = time.monotonic()
    try:
        entry = {"result": compute(cell)}
    except Exception as error:  # a failed cell is noted, the table goes on
        log.warning("cell %s failed: %s", cell.name, error)
        entry = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    seconds = round(time.monotonic() - start, 1)
    file = folder / f"{cell.name}.json"
    write_json(file, {"cell": cell.name, "settings": cell.settings, "seconds": seconds, **entry})


def _entry(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """What a cell's file holds; None without one."""
    file = folder / f"{cell.name}.json"
    if not file.exists():
        return None
    found = read_json(file)
    asked = json.loads(json.dumps(cell.settings, default=str))
    if "result" in found and fingerprint(found["settings"]) != fingerprint(asked):
        raise CheckpointError(f"{file} was computed with other settings: name another folder, or delete it")
    return found


def _stamp(folder: Path, cell: Cell) -> int:
    file = folder / f"{cell.name}.json"
    return file.stat().st_mtime_ns if file.exists() else 0


def finished(folder: Path, cells: Iterable[Cell]) -> list[dict]:
    """The finished cells: {"cell", "settings", "seconds", "result"} each.

    Raises:
        CheckpointError: a finished cell was computed with other settings.
    """
    found = (_entry(folder, cell) for cell in cells)
    return [entry for entry in found if entry is not None and "result" in entry]


def unfinished(folder: Path, cells: Iterable[Cell]) -> dict[str, str]:
    """Why each cell that has no result has none: "not run", "begun" (and not ended) or "failed: ERROR"."""
    reasons = {}
    for cell in cells:
        entry = _entry(folder, cell)
        if entry is None or "result" not in entry:
            is_begun = (folder / f"{cell.name}.claim").exists()
            reason = "not run" if entry is None else f"failed: {entry['error']}"
            reasons[cell.name] = "begun" if is_begun else reason
    return reasons


def slug(name: str) -> str:
    """A row's name as a file's.

    Example:
        >>> slug("R3, one model")
        'r3-one-model'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@contextmanager
def claim(path: Path, wait: bool = False) -> Generator[bool]:
    """Hold `path` as this process's own while the block runs; gives whether it could be had.

    The claim is a lock on the file, not the file: it ends with the process, so that what a crash left behind
    holds nothing.

    Args:
        wait: until its holder lets go.
    """
    with storage_errors(path):
        file = _locked(path, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    if file is None:
        yield False
        return
    with file:
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)  # before the lock goes, see `_locked`


def _locked(path: Path, how: int) -> IO[bytes] | None:
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, how)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        file.close()  # its last holder removed this file between open and lock: claim the new one


def as_markdown(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a Markdown table; a number keeps four digits after the point, a missing value is a dash."""

    def show(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"
