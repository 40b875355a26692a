"""Exact AUC by sorting, of all rows and inside each group: the counting that all ranking metrics rest on.

A click *wins* over a non-click with a lower score and half over one at its own score; AUC is wins over pairs.
Wins are counted twice, so halves are whole numbers and the order of rows, chunks and shards change no bit.

What it costs, for n rows: groups of one class are dropped before anything is sorted; a row is one 64-bit key,
group above, score below, sorted by value and never by index; the smaller class is looked up in the larger.
Doubles get the same key of their nearest float32, which keeps the order but may tie what differs: only the
groups in which a click ties are counted again, by the ranks of their doubles.

Leaves out on purpose: what is made of the counts (`metrics.py`), and weights per group (`paired.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moontide.foundation.errors import DataError

SCORE_BITS = np.uint64(32)  # lower half of a key


@dataclass(frozen=True)
class GroupCounts:
    """What was counted inside each group, groups in ascending order.

    Args:
        groups: distinct group ids. num_rows, num_clicks: int64.
        double_wins: int64, twice the wins of clicks over non-clicks; 0 in groups of one class.
    """

    groups: np.ndarray
    num_rows: np.ndarray
    num_clicks: np.ndarray
    double_wins: np.ndarray

    @property
    def has_both(self) -> np.ndarray:
        """Groups with a click and a non-click; the AUC of the others is undefined."""
        return (self.num_clicks > 0) & (self.num_clicks < self.num_rows)

    @property
    def auc(self) -> np.ndarray:
        """AUC of each group, NaN where it has one class only."""
        pairs = 2 * self.num_clicks * (self.num_rows - self.num_clicks)
        with np.errstate(invalid="ignore"):
            return self.double_wins / np.where(self.has_both, pairs, math.nan)


class _Rows(NamedTuple):
    code: np.ndarray
    score: np.ndarray

    def where(self, is_kept: np.ndarray) -> _Rows:
        return _Rows(self.code[is_kept], self.score[is_kept])


def checked(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores as floats and labels as booleans.

    Raises:
        DataError: columns of another shape, scores that are not finite, labels other than 0 and 1.
    """
    score, label = np.asarray(score), np.asarray(label)
    if score.shape != label.shape or score.ndim != 1:
        raise DataError(
            f"scores and labels must be columns of equal length, got {score.shape}, {label.shape}"
        )
    if score.dtype != np.float32:
        score = score.astype(np.float64, copy=False)
    if not np.isfinite(score).all():
        bad = int((~np.isfinite(score)).sum())
        raise DataError(
            f"{bad:,} of {len(score):,} scores are not finite: the model diverged or a join failed"
        )
    if label.dtype != bool:
        is_click = label == 1
        bad = len(label) - int(is_click.sum()) - int((label == 0).sum())
        if bad:
            raise DataError(f"{bad:,} of {len(label):,} labels are neither 0 nor 1: a join failed")
        label = is_click
    return score, label


def double_wins(clicks: np.ndarray, others: np.ndarray) -> int:
    """Twice the number of (click, non-click) pairs in order, a tie counting one half.

    Example:
        >>> double_wins(np.array([0.4, 0.8]), np.array([0.1, 0.4]))
        7
    """
    if len(clicks) <= len(others):
        return sum(int(place.sum()) for place in places(np.sort(clicks), np.sort(others)))
    lost = sum(int(place.sum()) for place in places(np.sort(others), np.sort(clicks)))
    return 2 * len(clicks) * len(others) - lost


def places(needles: np.ndarray, sorted_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each needle: how many values lie below it, and how many at most at it. Fast for sorted needles."""
    return np.searchsorted(sorted_values, needles), np.searchsorted(sorted_values, needles, side="right")


def count_groups(group: np.ndarray, score: np.ndarray, label: np.ndarray) -> GroupCounts:
    """Count rows, clicks and wins inside each group.

    Args:
        group: any ids; score, label: as `checked` gives them.

    Raises:
        DataError: not one group for each row.
    """
    groups, code, num_rows = group_codes(group, len(score))
    num_clicks = np.bincount(code[label], minlength=len(groups))
    counts = GroupCounts(groups, num_rows, num_clicks, np.zeros(len(groups), np.int64))
    is_kept = counts.has_both[code] if len(groups) else np.zeros(0, dtype=bool)
    rows = _Rows(code, score)
    wins = _group_wins(rows.where(is_kept & label), rows.where(is_kept & ~label), len(groups))
    return GroupCounts(groups, num_rows, num_clicks, wins)


def group_codes(group: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct groups in ascending order, the place of each row's group among them, and rows of each.

    Integers not much larger than the number of rows are looked up, everything else is sorted.

    Raises:
        DataError: not one group for each row.
    """
    group = np.asarray(group)
    if group.shape != (num_rows,):
        raise DataError(f"every row needs a group: {num_rows} rows, {len(group)} groups")
    is_small = num_rows > 0 and np.issubdtype(group.dtype, np.integer)
    if not is_small or group.min() < 0 or group.max() >= 8 * num_rows + 1024:
        groups, code, rows = np.unique(group, return_inverse=True, return_counts=True)
        return groups, code, rows
    code = group.astype(np.int64, copy=False)
    rows = np.bincount(code)
    is_seen = rows > 0
    if is_seen.all():
        return np.arange(len(rows), dtype=group.dtype), code, rows
    return np.flatnonzero(is_seen).astype(group.dtype), (np.cumsum(is_seen) - 1)[code], rows[is_seen]


def _group_wins(clicks: _Rows, others: _Rows, num: int) -> np.ndarray:
    """(num,) twice the wins in each group; all groups that occur have both classes."""
    if not len(clicks.code):
        return np.zeros(num, np.int64)
    with np.errstate(over="ignore"):  # beyond float32 lies infinity, in order all the same
        narrow = [rows.score.astype(np.float32, copy=False) for rows in (clicks, others)]
    wins, has_tie = _count_keys(*map(_key, (clicks.code, others.code), map(_ordered_bits, narrow)), num)
    is_rounded = any((a != b.score).any() for a, b in zip(narrow, (clicks, others), strict=True))
    if is_rounded and has_tie.any():
        clicks, others = (rows.where(has_tie[rows.code]) for rows in (clicks, others))
        _, rank = np.unique(np.concatenate([clicks.score, others.score]), return_inverse=True)
        ranks = np.split(rank.astype(np.uint32), [len(clicks.code)])
        again, _ = _count_keys(*map(_key, (clicks.code, others.code), ranks), num)
        wins[has_tie] = again[has_tie]
    return wins


def _count_keys(clicks: np.ndarray, others: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Twice the wins in each group, and whether a click ties there with a non-click."""
    few, many = (np.sort(keys) for keys in sorted((clicks, others), key=len))
    below, upto = places(few, many)
    owner = (few >> SCORE_BITS).astype(np.int64)
    first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])  # where each group's keys begin
    present = owner[first]
    wins, has_tie = np.zeros(num, np.int64), np.zeros(num, dtype=bool)
    has_tie[owner[below < upto]] = True
    start, end = (np.searchsorted(many, (present + more).astype(np.uint64) << SCORE_BITS) for more in (0, 1))
    num_few = np.diff(np.r_[first, len(few)])
    wins[present] = np.add.reduceat(below + upto, first) - 2 * num_few * start
    if len(clicks) > len(others):  # then these are what the non-clicks win
        wins[present] = 2 * num_few * (end - start) - wins[present]
    return wins, has_tie


def _key(code: np.ndarray, bits: np.ndarray) -> np.ndarray:
    key = code.astype(np.uint64)
    key <<= SCORE_BITS
    key |= bits
    return key


def _ordered_bits(score: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of float32 scores, equal where the scores are equal."""
    bits = (score + np.float32(0)).view(np.uint32)  # + 0 makes -0.0 equal 0.0
    if not len(bits) or bits.max() < 1 << 31:
        return bits  # none is negative: they are in order as they are
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
