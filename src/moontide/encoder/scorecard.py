"""What an evaluation found: rows to print, numbers to compare encoders by, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moontide.encoder.metrics import CLASS_METRICS, class_intervals, class_scores, intervals
from moontide.foundation.statistics import wilson_interval

Key = tuple[str, str, str]  # task, direction, gallery


@dataclass(frozen=True)
class Answers:
    """One number a query and metric; what encoders are compared by, query for query.

    Args:
        values: by metric, (n,) each. chance: the same of a random order or guess, where it is known.
        group: product group of each query: they are drawn again together.
        rank: of the best positive, where there are ranks.
        classes: true and predicted class of each query, where there are classes.
    """

    values: Mapping[str, np.ndarray]
    group: np.ndarray
    chance: Mapping[str, np.ndarray] = field(default_factory=dict)
    rank: np.ndarray | None = None
    classes: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.group)

    def of(self, is_in: np.ndarray) -> Answers:
        """Those of a part of the queries."""
        return Answers(
            {name: one[is_in] for name, one in self.values.items()},
            self.group[is_in],
            {name: one[is_in] for name, one in self.chance.items()},
            None if self.rank is None else self.rank[is_in],
            None if self.classes is None else (self.classes[0][is_in], self.classes[1][is_in]),
        )


class Scorecard:
    """The rows of an evaluation.

    Each row has: task, direction, gallery, source (where the queries come from), slice (empty: all of them),
    n queries, size of the gallery or number of classes, metric, value, low, high (None: not known), chance.
    Where all queries are right or all are wrong, the interval is Wilson's over product groups.

    Args:
        replicates, level, seed: of the bootstrap intervals.
    """

    def __init__(self, replicates: int = 1_000, level: float = 0.95, seed: int = 0):
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.answers: dict[Key, Answers] = {}
        self.bootstrap = (replicates, level, seed)

    def note(self, line: str) -> None:
        """Say once what is missing, and why."""
        if line not in self.notes:
            self.notes.append(line)

    def add(
        self,
        key: Key,
        size: int,
        answers: Answers,
        source: str = "",
        slices: Mapping[str, np.ndarray] | None = None,
        name: str = "",
    ) -> None:
        """The rows of some queries; intervals draw their product groups again.

        Args:
            slices: masks of the queries that get rows of their own; empty ones get none.
            name: of the slice that all these queries are; only unnamed ones are kept to compare by.
        """
        if not name:
            self.answers[key] = answers
        parts = {name: np.ones(len(answers), bool), **(slices or {})}
        for part, is_in in parts.items():
            if is_in.any():
                head = dict(zip(("task", "direction", "gallery"), key, strict=True))
                self.rows += self._measured(head | {"source": source, "slice": part}, size, answers.of(is_in))

    def add_value(self, key: Key, size: int, metric: str, value: float, num: int) -> None:
        """One row without an interval."""
        head = dict(zip(("task", "direction", "gallery"), key, strict=True)) | {"source": "", "slice": ""}
        self.rows.append(head | {"n": num, "size": size} | _cells(metric, value))

    def _measured(self, head: dict[str, Any], size: int, answers: Answers) -> list[dict[str, Any]]:
        head = head | {"n": len(answers), "size": size}
        rows = []
        if answers.values:
            table = np.stack(list(answers.values.values()), axis=1).astype(float)
            low, high = intervals(table, answers.group, *self.bootstrap)
            num_groups = len(np.unique(answers.group))
            for at, metric in enumerate(answers.values):
                if set(table[:, at]) <= {0.0} or set(table[:, at]) <= {1.0}:  # no draw differs
                    wilson = wilson_interval(round(table[0, at]) * num_groups, num_groups, self.bootstrap[1])
                    low[at], high[at] = wilson.low, wilson.high
                chance = answers.chance.get(metric)
                mean = None if chance is None else float(chance.mean())
                rows.append(head | _cells(metric, table[:, at].mean(), low[at], high[at], mean))
        if answers.classes is not None:
            value = class_scores(*answers.classes)[0]
            low, high = class_intervals(*answers.classes, answers.group, *self.bootstrap)
            for at, metric in enumerate(CLASS_METRICS):
                if metric not in answers.values:
                    rows.append(head | _cells(metric, value[at], low[at], high[at]))
        return rows

    def find(self, task: str, direction: str, gallery: str, metric: str) -> dict[str, Any] | None:
        """The row of a whole, or None."""
        wanted = {"task": task, "direction": direction, "gallery": gallery, "metric": metric, "slice": ""}
        return next((row for row in self.rows if wanted.items() <= row.items()), None)


def differences(before: Scorecard, after: Scorecard) -> list[dict[str, Any]]:
    """What `after` gained over `before` on the queries both answered: paired bootstrap, products drawn again.

    Both must come from the same dataset and settings: then their queries are the same.

    Returns:
        rows: task, direction, gallery, metric, n, value (after - before), low, high.
    """
    rows = []
    for key, first in before.answers.items():
        second = after.answers.get(key)
        if second is None or not np.array_equal(first.group, second.group):
            continue
        head = dict(zip(("task", "direction", "gallery"), key, strict=True)) | {"n": len(first)}
        change = np.stack([second.values[metric] - first.values[metric] for metric in first.values], axis=1)
        low, high = intervals(change, first.group, *before.bootstrap)
        for at, metric in enumerate(first.values):
            cells = _cells(metric, change[:, at].mean(), low[at], high[at])
            rows.append(head | {name: cells[name] for name in ("metric", "value", "low", "high")})
    return rows


def _cells(
    metric: str,
    value: float,
    low: float = math.nan,
    high: float = math.nan,
    chance: float | None = None,
) -> dict[str, Any]:
    """Numbers as JSON knows them."""
    found = {"value": value, "low": low, "high": high}
    numbers = {name: float(one) if math.isfinite(one) else None for name, one in found.items()}
    return {"metric": metric, **numbers, "chance": chance}
