"""Speed of exact metrics, beside scikit-learn where it has the metric: python benchmarks/metrics.py

Ratios are of runs in turn on the same columns, one thread; scikit-learn has no grouped AUC, so there the twin
is a loop over shoppers on a part of the rows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

from moontide.ranking.metrics import auc, auc_difference, gauc, gauc_difference

ROWS, SHOPPERS, LOOP_ROWS, PAIRED_ROWS, ROUNDS = 5_000_000, 200_000, 200_000, 80_000, 5


def seconds(measured: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    measured()
    return time.perf_counter() - start


def loop_gauc(shopper: np.ndarray, score: np.ndarray, label: np.ndarray) -> float:
    """The slow twin: one call a shopper."""
    order = np.argsort(shopper, kind="stable")
    edges = np.flatnonzero(np.diff(shopper[order])) + 1
    total = weight = 0.0
    for rows in np.split(order, edges):
        if 0 < label[rows].sum() < len(rows):
            total += len(rows) * roc_auc_score(label[rows], score[rows])
            weight += len(rows)
    return total / weight


def main() -> None:
    """Print one line for each metric."""
    rng = np.random.default_rng(0)
    label, shopper = rng.random(ROWS) < 0.03, rng.integers(0, SHOPPERS, ROWS)
    score = rng.random(ROWS).astype(np.float32)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: auc(score, label)))
        theirs.append(seconds(lambda: roc_auc_score(label, score)))
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    print(f"AUC: {ROWS / statistics.median(ours) / 1e6:.1f} M rows/s, {ratio:.1f} times scikit-learn")
    whole = statistics.median(seconds(lambda: gauc(shopper, score, label)) for _ in range(ROUNDS))
    part = (shopper[:LOOP_ROWS] % 4_000, score[:LOOP_ROWS], label[:LOOP_ROWS])
    assert abs(gauc(*part).value - loop_gauc(*part)) < 1e-9
    ratio = seconds(lambda: loop_gauc(*part)) / seconds(lambda: gauc(*part))
    print(f"grouped AUC: {ROWS / whole / 1e6:.1f} M rows/s, {ratio:.0f} times a loop over shoppers")
    columns = (score[:PAIRED_ROWS], score[-PAIRED_ROWS:], label[:PAIRED_ROWS], shopper[:PAIRED_ROWS] % 4_000)
    for difference in (auc_difference, gauc_difference):
        took = seconds(lambda difference=difference: difference(*columns, replicates=200))
        print(f"{difference.__name__}: {PAIRED_ROWS:,} rows, 200 replicates in {took:.2f} s")


if __name__ == "__main__":
    main()
