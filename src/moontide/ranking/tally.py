"""Click metrics of predictions that arrive in parts: batches, files, shards, ranks.

A `Tally` keeps every row, in the smallest types that lose nothing, and computes its metrics from all of them
at the end: they equal those of one call on the whole columns bit for bit, whatever the parts were.

Memory: 9 bytes a row when scores are float32 (or doubles that float32 holds exactly) and group ids are below
2^32; 4 more for other doubles, 4 more for other ids. While `result` is computed, 45 bytes a row on top of it;
a log too long for that can be cut by shopper: its GAUC is a mean of the parts, by impressions that count.

Leaves out on purpose: sketches and histograms, which need less and are not exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moontide.foundation.errors import DataError
from moontide.ranking.auc import checked
from moontide.ranking.metrics import (
    GroupedAuc,
    auc,
    click_metrics,
    gauc,
    log_loss,
    normalized_entropy,
    pcoc,
)

MIXED = "{} in one part and {} in another: every part of a tally needs the same"


class Tally:
    """An accumulator of (group, score, label) rows with exact metrics at any time; it can be pickled.

    Example:
        >>> whole, first, second = Tally(), Tally(), Tally()
        >>> whole.add(np.array([1, 1, 2]), np.array([0.1, 0.3, 0.2]), np.array([0, 1, 0]))
        >>> first.add(np.array([2]), np.array([0.2]), np.array([0]))
        >>> second.add(np.array([1, 1]), np.array([0.3, 0.1]), np.array([1, 0]))
        >>> first.merge(second)
        >>> first.result() == whole.result(), first.auc(), first.gauc().num_skipped
        (True, 1.0, 1)
    """

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray | None, np.ndarray, np.ndarray]] = []
        self._codes: dict[Any, int] = {}  # of group ids that are not whole numbers
        self._kind: str | None = None

    def __len__(self) -> int:
        return sum(len(label) for _, _, label in self._parts)

    @property
    def size_bytes(self) -> int:
        """Memory of the rows kept, in bytes."""
        return sum(column.nbytes for part in self._parts for column in part if column is not None)

    def add(self, group: np.ndarray | None, score: np.ndarray, label: np.ndarray) -> None:
        """Take in some rows.

        Args:
            group: shopper of each row, whole numbers or text; None in every part: metrics without GAUC.
            score: (rows,) predictions. label: (rows,) 0 or 1.

        Raises:
            DataError: columns of unequal length, scores that are not finite, or groups of another kind than
                those of the parts before.
        """
        score, label = checked(score, label)
        if not len(score):
            return
        code = None
        if group is not None:
            group = np.asarray(group)
            if group.shape != score.shape:
                raise DataError(f"every row needs a group: {len(score)} rows, {len(group)} groups")
            is_number = np.issubdtype(group.dtype, np.integer)
            self._agree("numbers as groups" if is_number else "names as groups")
            code = _narrow_ids(group if is_number else self._coded(group))
        else:
            self._agree("no groups")
        self._parts.append((code, _narrow_scores(score), label.copy()))

    def merge(self, other: Tally) -> None:
        """Take in all rows of another tally, which stays as it is.

        Raises:
            DataError: its groups are of another kind.
        """
        if other._kind is None:
            return
        self._agree(other._kind)
        parts = list(other._parts)
        if other._codes:
            names = [self._codes.setdefault(name, len(self._codes)) for name in other._codes]
            moved = _narrow_ids(np.array(names))
            parts = [(moved[code], score, label) for code, score, label in parts]
        self._parts += parts

    def gathered(self) -> Tally:
        """The rows of all ranks of `torch.distributed`, on every rank; a copy of this one without it."""
        from torch import distributed

        tallies: list[Any] = [self]
        if distributed.is_available() and distributed.is_initialized():
            tallies = [None] * distributed.get_world_size()
            distributed.all_gather_object(tallies, self)
        whole = Tally()
        for tally in tallies:
            whole.merge(tally)
        return whole

    def result(self) -> dict[str, float]:
        """All metrics, as `click_metrics` names them."""
        group, score, label = self._columns()
        return click_metrics(score, label, group)

    def auc(self) -> float:
        """As `metrics.auc` of all rows."""
        return auc(*self._columns()[1:])

    def gauc(self, weighting: str = "impressions") -> GroupedAuc:
        """As `metrics.gauc` of all rows.

        Raises:
            DataError: another weighting, or rows without groups.
        """
        group, score, label = self._columns()
        if group is None:
            raise DataError("GAUC needs a group for every row: give `add` the shoppers")
        return gauc(group, score, label, weighting)

    def log_loss(self) -> float:
        """As `metrics.log_loss` of all rows."""
        return log_loss(*self._columns()[1:])

    def normalized_entropy(self) -> float:
        """As `metrics.normalized_entropy` of all rows."""
        return normalized_entropy(*self._columns()[1:])

    def pcoc(self) -> float:
        """As `metrics.pcoc` of all rows."""
        return pcoc(*self._columns()[1:])

    def _agree(self, kind: str) -> None:
        if self._kind not in (None, kind):
            raise DataError(MIXED.format(self._kind, kind))
        self._kind = kind

    def _coded(self, group: np.ndarray) -> np.ndarray:
        names, place = np.unique(group, return_inverse=True)
        codes = [self._codes.setdefault(name, len(self._codes)) for name in names.tolist()]
        return np.array(codes, np.int64)[place]

    def _columns(self) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """All rows as columns; they replace the parts, so that rows are not kept twice."""
        if not self._parts:
            return None, np.zeros(0, np.float32), np.zeros(0, dtype=bool)
        if len(self._parts) > 1:
            group, score, label = zip(*self._parts, strict=True)
            joined = None if group[0] is None else np.concatenate(group)
            self._parts = [(joined, np.concatenate(score), np.concatenate(label))]
        return self._parts[0]


def _narrow_ids(group: np.ndarray) -> np.ndarray:
    if len(group) and (group.min() < 0 or group.max() >= 1 << 32):
        return group.astype(np.int64)  # ids above 2^63 wrap around and stay distinct
    return group.astype(np.uint32)


def _narrow_scores(score: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = score.astype(np.float32)
    return narrow if (narrow == score).all() else score.copy()
