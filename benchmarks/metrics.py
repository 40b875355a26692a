"""Speed of exact metrics on a made-up log, beside other ways to the same number: python benchmarks/metrics.py

    5,000,000 impressions, 3 % clicks, 200,000 shoppers, one thread; float32 scores and doubles

Each line gives rows a second and how many times faster than its twin, which is timed in turn on the same
rows (a part of them where the twin is slow): scikit-learn for AUC, a loop of it for grouped AUC,
whole columns for chunks, a bootstrap for closed forms. Both must give the same number before they are timed,
and brute force over pairs too. Wall time and processor time are both taken; where others use the machine only
the second says what one core needs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from moontide.ranking.metrics import auc, auc_difference, click_metrics, gauc, gauc_difference
from moontide.ranking.tally import Tally

ROWS, SHOPPERS, CTR, ROUNDS = 5_000_000, 200_000, 0.03, 5
LOOP_ROWS, PAIR_ROWS, PAIRED_ROWS, CHUNK, REPLICATES = 50_000, 20_000, 500_000, 100_000, 200


@dataclass(frozen=True)
class Log:
    """Columns of impressions, in order of time."""

    shopper: np.ndarray
    score: np.ndarray
    label: np.ndarray

    @classmethod
    def made_up(cls, dtype: type, rows: int = ROWS, shoppers: int = SHOPPERS) -> Log:
        """Clicks at CTR, scores that know a little of them and of the shopper."""
        rng = np.random.default_rng(0)
        label, shopper = rng.random(rows) < CTR, rng.integers(0, shoppers, rows)
        logit = rng.normal(-3.8, 0.8, rows) + label + rng.normal(0, 0.5, shoppers)[shopper]
        return cls(shopper, (1 / (1 + np.exp(-logit))).astype(dtype), label)

    def first(self, rows: int, shoppers: int) -> Log:
        """The first rows, spread over fewer shoppers."""
        return Log(self.shopper[:rows] % shoppers, self.score[:rows], self.label[:rows])

    def tally(self) -> Tally:
        """The rows, fed in chunks."""
        tally = Tally()
        for start in range(0, len(self.label), CHUNK):
            part = slice(start, start + CHUNK)
            tally.add(self.shopper[part], self.score[part], self.label[part])
        return tally


def seconds(measured: Callable[[], object]) -> np.ndarray:
    """Wall and processor seconds of one call."""
    before = np.array([time.perf_counter(), time.process_time()])
    measured()
    return np.array([time.perf_counter(), time.process_time()]) - before


def show(
    name: str, rows: int, ours: Callable[[], object], twin: Callable[[], object], of: str, twin_rows: int = 0
) -> None:
    """Time both in turn and print one line; `twin_rows` scales a twin that has fewer rows."""
    took, other = [], []
    for _ in range(ROUNDS):
        other.append(seconds(twin) * (rows / (twin_rows or rows)))
        took.append(seconds(ours))
    ratio = statistics.median(b[0] / a[0] for a, b in zip(took, other, strict=True))
    wall, core = np.median(took, axis=0)
    print(
        f"{name:42} {rows / wall / 1e6:7.1f} M rows/s wall, {rows / core / 1e6:7.1f} M rows/s of one core, "
        f"{ratio:8.1f} times {of}"
    )


def loop_gauc(log: Log) -> float:
    """The slow twin: one call of scikit-learn a shopper."""
    order = np.argsort(log.shopper, kind="stable")
    edges = np.flatnonzero(np.diff(log.shopper[order])) + 1
    total = weight = 0.0
    for rows in np.split(order, edges):
        if 0 < log.label[rows].sum() < len(rows):
            total += len(rows) * float(roc_auc_score(log.label[rows], log.score[rows]))
            weight += len(rows)
    return total / weight


def pairwise_auc(log: Log) -> float:
    """The slowest twin: every pair of a click and a non-click."""
    gap = log.score[log.label][:, None] - log.score[~log.label]
    return float((gap > 0).mean() + (gap == 0).mean() / 2)


def pairwise_gauc(log: Log) -> float:
    """The same inside each shopper, weighted by impressions."""
    value, weight = [], []
    for shopper in np.unique(log.shopper):
        mine = log.shopper == shopper
        if 0 < log.label[mine].sum() < mine.sum():
            value.append(pairwise_auc(Log(log.shopper[mine], log.score[mine], log.label[mine])))
            weight.append(mine.sum())
    return float(np.average(value, weights=weight))


def exact(dtype: type) -> None:
    """AUC and grouped AUC, whole and in chunks."""
    log, kind = Log.made_up(dtype), np.dtype(dtype).name
    part, small = log.first(LOOP_ROWS, SHOPPERS * LOOP_ROWS // ROWS), log.first(PAIR_ROWS, 400)
    shopper, score, label = log.shopper, log.score, log.label
    assert abs(auc(score, label) - roc_auc_score(label, score)) < 1e-12
    assert abs(auc(small.score, small.label) - pairwise_auc(small)) < 1e-12
    assert abs(gauc(small.shopper, small.score, small.label).value - pairwise_gauc(small)) < 1e-12
    assert abs(gauc(part.shopper, part.score, part.label).value - loop_gauc(part)) < 1e-12
    assert log.tally().result() == click_metrics(score, label, shopper)
    twins = {
        "AUC": (lambda: auc(score, label), lambda: log.tally().auc()),
        "grouped AUC": (lambda: gauc(shopper, score, label), lambda: log.tally().gauc()),
        "all click metrics": (lambda: click_metrics(score, label, shopper), lambda: log.tally().result()),
    }
    sklearn, loop = lambda: roc_auc_score(label, score), lambda: loop_gauc(part)
    show(f"AUC, {kind}", ROWS, twins["AUC"][0], sklearn, "scikit-learn")
    show(f"grouped AUC, {kind}", ROWS, twins["grouped AUC"][0], loop, "a loop", LOOP_ROWS)
    for name, (whole, chunked) in twins.items():
        show(f"{name} in chunks, {kind}", ROWS, chunked, whole, "whole columns")


def paired() -> None:
    """Paired differences: bootstrap over shoppers, and the closed form beside it."""
    log = Log.made_up(np.float32, PAIRED_ROWS, SHOPPERS // 10)
    after = log.score + np.random.default_rng(1).normal(0, 0.01, PAIRED_ROWS).astype(np.float32)
    columns = (log.score, after, log.label, log.shopper)
    for name, difference in (("AUC", auc_difference), ("GAUC", gauc_difference)):
        drawn = difference(*columns, replicates=REPLICATES)
        closed = difference(*columns, replicates=0)
        assert 0.8 < closed.standard_error / drawn.standard_error < 1.25
        took = seconds(lambda difference=difference: difference(*columns, replicates=REPLICATES))
        speed = PAIRED_ROWS * REPLICATES / took / 1e6
        print(
            f"{f'paired bootstrap, {name} difference':42} {speed[0]:7.1f} M rows/s x replicate wall, "
            f"{speed[1]:7.1f} of one core; standard error {drawn.standard_error:.6f}, "
            f"closed form {closed.standard_error:.6f}"
        )
        fast = lambda difference=difference: difference(*columns, replicates=0)  # noqa: E731
        slow = lambda difference=difference: difference(*columns, replicates=REPLICATES // 10)  # noqa: E731
        show(f"closed form, {name} difference", PAIRED_ROWS, fast, slow, f"{REPLICATES // 10} replicates")


def main() -> None:
    """Print one line for each metric."""
    print(f"{ROWS:,} rows, {SHOPPERS:,} shoppers, {CTR:.0%} clicks, chunks of {CHUNK:,}")
    for dtype in (np.float32, np.float64):
        exact(dtype)
    paired()


if __name__ == "__main__":
    main()
