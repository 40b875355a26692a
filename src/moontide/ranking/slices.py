"""Where a click model gains: metrics by product age, frequency, history and position, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from moontide.foundation.statistics import resolvable_difference
from moontide.ranking.metrics import auc, auc_difference, click_metrics, gauc_difference
from moontide.ranking.samples import Samples

HISTORY_EDGES = (0, 1, 10, 50)  # behaviors before the impression: none, 1-9, 10-49, 50 and more
FREQUENCY_GROUPS = 4  # of equal impressions, from the rarest products to the most frequent
MAX_POSITIONS = 10


def slice_masks(samples: Samples, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Named parts of some impressions, as boolean columns; empty ones are left out.

    `new` and `rare` are of `SampleSettings`; `frequency 1` is the quarter of impressions whose products were
    shown least in training.
    """
    masks = {"all": np.ones(len(rows), dtype=bool)}
    masks |= {"new": samples.is_new[rows], "known": ~samples.is_new[rows]}
    masks |= {"rare": samples.is_rare[rows], "frequent": ~samples.is_rare[rows]}
    shown = np.bincount(samples.product[~samples.is_test], minlength=len(samples.entities.products))
    group = _equal_groups(shown[samples.product[rows]], FREQUENCY_GROUPS)
    masks |= {f"frequency {number + 1}": group == number for number in range(FREQUENCY_GROUPS)}
    length, edges = samples.history_length[rows], (*HISTORY_EDGES, np.inf)
    for low, high in pairwise(edges):
        name = f"history {low}+" if high == np.inf else f"history {low}-{high - 1}"
        masks[name] = (length >= low) & (length < high)
    position = samples.position[rows]
    for place in range(min(int(position.max(initial=-1)) + 1, MAX_POSITIONS)):
        masks[f"position {place}"] = position == place
    return {name: mask for name, mask in masks.items() if mask.any()}


def slice_table(samples: Samples, rows: np.ndarray, scores: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """One line for each slice and model: `slice`, `model` and the metrics of `click_metrics`.

    Args:
        rows: sample rows. scores: model -> p(click) of those rows.
    """
    table = []
    for name, mask in slice_masks(samples, rows).items():
        label, shopper = samples.label[rows][mask], samples.shopper[rows][mask]
        for model, p_click in scores.items():
            table.append({"slice": name, "model": model, **click_metrics(p_click[mask], label, shopper)})
    return table


def compare_scores(
    samples: Samples,
    rows: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    replicates: int = 200,
    seed: int = 0,
    only: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """What `after` gains over `before` on the same impressions, slice by slice.

    Returns:
        One line a slice: AUC of both, `difference` and `gauc_difference` (paired bootstrap over shoppers,
        `Interval`), and `resolvable`, the smallest AUC difference this slice could show.
    """
    table = []
    for name, mask in slice_masks(samples, rows).items():
        if only and name not in only:
            continue
        label, shopper = samples.label[rows][mask], samples.shopper[rows][mask]
        columns = (before[mask], after[mask], label, shopper)
        difference = auc_difference(*columns, replicates=replicates, seed=seed)
        table.append(
            {
                "slice": name,
                "impressions": int(mask.sum()),
                "clicks": int(label.sum()),
                "auc_before": auc(before[mask], label),
                "auc_after": auc(after[mask], label),
                "difference": difference,
                "gauc_difference": gauc_difference(*columns, replicates=replicates, seed=seed),
                "resolvable": resolvable_difference(difference.standard_error),
            }
        )
    return table


def _equal_groups(value: np.ndarray, num: int) -> np.ndarray:
    """Group of each row by value, groups of about equal rows; equal values share a group."""
    if not len(value):
        return np.zeros(0, np.int64)
    edges = np.quantile(value, np.arange(1, num) / num)
    return np.searchsorted(edges, value, side="left")
