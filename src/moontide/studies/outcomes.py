"""What every query of a cell came to: kept small beside the cell, read again by column.

A table compares its rows query by query, so a mean is not enough. A cell's outcomes are one compressed file,
some hundred bytes for a thousand hits; ids of queries are kept as 32-bit hashes, which is enough to see that
two rows were asked the same (two ids of one hash are drawn together, nothing worse).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moontide.foundation.errors import DataError
from moontide.studies.kept import keep_arrays


@dataclass(frozen=True)
class Column:
    """One task: higher is better.

    Args:
        key: under which training returns it; two columns may share one.
        at: outcomes are ranks from 1, and a rank up to this one is a hit; None: they are taken as they are.
    """

    name: str
    key: str
    at: int | None = None

    def outcomes(self, hits: np.ndarray) -> np.ndarray:
        """Training's outcomes as the numbers whose mean is the metric."""
        return hits <= self.at if self.at is not None else hits


@dataclass(frozen=True)
class Outcomes:
    """One number for each query of one run; a metric without queries is a single number.

    Args:
        values: (queries,), such as hit or not.
        queries: (queries,) code of each; rows of one code (questions on one product) are drawn together.
    """

    values: np.ndarray
    queries: np.ndarray

    @property
    def mean(self) -> float:
        """The metric."""
        return float(self.values.mean())


def keep_outcomes(file: Path, result: dict[str, Any], columns: Sequence[Column]) -> dict[str, Any]:
    """Write the outcomes of one cell as small as they go; gives the result without them.

    Raises:
        DataError: outcomes that are no numbers, ids of another number, or a metric that is not
            the mean of its outcomes.
    """
    hits = {key: np.asarray(values) for key, values in result.get("hits", {}).items()}
    metrics = {key: float(value) for key, value in result.get("metrics", {}).items()}
    for key, values in hits.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"{key} has outcomes that are no numbers: give 0 or 1, a share or a rank for each"
            )
    arrays = {key: _small(values) for key, values in hits.items()}
    for key, ids in result.get("queries", {}).items():
        if len(ids) != len(hits[key]):
            raise DataError(f"{key} has {len(hits[key])} outcomes and {len(ids)} query ids: give one each")
        arrays[f"{key}:queries"] = np.array([zlib.crc32(str(one).encode()) for one in ids], np.uint32)
    for column in columns:
        if len(hits.get(column.key, ())) and column.key in metrics:
            mean = column.outcomes(hits[column.key]).mean()
            if abs(mean - metrics[column.key]) > 1e-3:  # room for a rounded metric
                raise DataError(
                    f"{column.name} is {metrics[column.key]} as a metric, {mean} by its outcomes: give one"
                )
    keep_arrays(file, arrays)
    rest = {key: value for key, value in result.items() if key not in ("hits", "queries")}
    return {**rest, "metrics": metrics, "pairs": int(result["pairs"])}


def read_outcomes(folder: Path, entry: dict[str, Any], columns: Sequence[Column]) -> dict[str, Outcomes]:
    """Outcomes of one finished cell by column name; a column it did not measure is left out."""
    found = {}
    with np.load(folder / f"{entry['cell']}.npz") as arrays:
        for column in columns:
            metric = entry["result"]["metrics"].get(column.key, math.nan)
            if column.key in arrays and len(hits := arrays[column.key]):
                ids = f"{column.key}:queries"
                queries = arrays[ids] if ids in arrays else np.arange(len(hits), dtype=np.uint32)
                found[column.name] = Outcomes(column.outcomes(hits), queries)
            elif math.isfinite(metric):
                found[column.name] = Outcomes(np.array([metric]), np.zeros(1, np.uint32))
    return found


def _small(values: np.ndarray) -> np.ndarray:
    """The same numbers in fewer bytes: hits as bool, ranks as integers."""
    if np.isin(values, (0, 1)).all():
        return values.astype(bool)
    return values.astype(np.int32 if (values == values.astype(np.int32)).all() else np.float32)
