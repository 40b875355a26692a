"""Where a click model gains: metrics by product age, frequency, history, category, merchant and position.

A slice on which a metric is undefined (no click, only clicks) keeps its line, with NaN and the `reason`: what
a table leaves out looks like success.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from moontide.foundation.statistics import holm, resolvable_difference
from moontide.ranking.entities import codes_of
from moontide.ranking.metrics import auc, auc_difference, click_metrics, gauc_difference
from moontide.ranking.samples import Samples

HISTORY_EDGES = (0, 1, 10, 50, 200)  # behaviors before the impression: none, 1-9, ..., 200 and more
LONG_HISTORY = 50  # behaviors from which a history is long: more than DIN reads
FREQUENCY_GROUPS = 8  # of equal impressions, from the rarest products to the most frequent; analog SimTier
MERCHANT_TIERS = ("small", "middle", "large")  # of equal impressions, by the merchant's impressions
MAX_POSITIONS = 10
MAX_CATEGORIES = 8  # top-level categories with most impressions; the others are one slice
OTHER, UNKNOWN = "(other)", "(unknown)"  # in brackets, as a category may be called so


def slice_masks(
    samples: Samples,
    rows: np.ndarray,
    merchant_tier: Mapping[str, str] | None = None,
    keep_empty: bool = False,
) -> dict[str, np.ndarray]:
    """Named parts of some impressions, as boolean columns.

    `new` and `rare` are of `SampleSettings`; `frequency 1` is the eighth of impressions whose products were
    shown least in training; `long history 50+` overlaps the histories above it. The slices of each other
    word (`category women`, ...) share no row and cover all.

    Args:
        rows: sample rows.
        merchant_tier: merchant id -> tier, as the catalog's `merchants` have it; None makes tiers of
            MERCHANT_TIERS from how often a merchant's products were shown in training.
        keep_empty: keep slices without impressions, which are left out otherwise.
    """
    masks = {"all": np.ones(len(rows), dtype=bool)}
    masks |= {"new": samples.is_new[rows], "known": ~samples.is_new[rows]}
    masks |= {"rare": samples.is_rare[rows], "frequent": ~samples.is_rare[rows]}
    shown = np.bincount(samples.product[~samples.is_test], minlength=len(samples.entities.products))
    group = _equal_groups(shown[samples.product[rows]], FREQUENCY_GROUPS)
    masks |= {f"frequency {number + 1}": group == number for number in range(FREQUENCY_GROUPS)}
    masks |= _history(samples.history_length[rows])
    masks |= _categories(samples, rows)
    masks |= _merchants(samples, rows, shown, merchant_tier)
    masks |= _positions(samples.position[rows])
    return masks if keep_empty else {name: mask for name, mask in masks.items() if mask.any()}


def slice_table(
    samples: Samples,
    rows: np.ndarray,
    scores: Mapping[str, np.ndarray],
    merchant_tier: Mapping[str, str] | None = None,
    keep_empty: bool = False,
) -> list[dict[str, Any]]:
    """One line for each slice and model: `slice`, `model`, `clicks`, those of `click_metrics`, and `reason`.

    Args:
        rows: sample rows. scores: model -> p(click) of those rows.
        merchant_tier, keep_empty: as in `slice_masks`.

    Returns:
        The lines; `reason` says why the AUC of a line is NaN, and is None where it is not.
    """
    table = []
    for name, mask in slice_masks(samples, rows, merchant_tier, keep_empty).items():
        label, shopper = samples.label[rows][mask], samples.shopper[rows][mask]
        facts = {"clicks": int(label.sum()), "reason": undefined_reason(label)}
        for model, p_click in scores.items():
            metrics = click_metrics(p_click[mask], label, shopper)
            table.append({"slice": name, "model": model, **metrics, **facts})
    return table


def undefined_reason(label: np.ndarray) -> str | None:
    """Why no AUC can be computed from these labels; None where it can."""
    clicks, num = int(np.sum(label)), len(label)
    if not num:
        return "no impressions"
    if not clicks:
        return f"no click in {num:,} impressions"
    return f"a click in each of {num:,} impressions" if clicks == num else None


def compare_scores(
    samples: Samples,
    rows: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    replicates: int = 200,
    seed: int = 0,
    only: tuple[str, ...] = (),
    merchant_tier: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """What `after` gains over `before` on the same impressions, slice by slice.

    Args:
        replicates: of the paired bootstrap over shoppers; 0 takes closed forms.
        only: names of slices; none: all.
        merchant_tier: as in `slice_masks`.

    Returns:
        One line a slice: AUC of both, `difference` and `gauc_difference` (`Interval`s over shoppers),
        `resolvable`, the smallest AUC difference this slice could show, `p_value` of no AUC difference,
        `p_adjusted`, the same for being one of many slices (Holm, over the lines returned), and `reason`.
    """
    table = []
    for name, mask in slice_masks(samples, rows, merchant_tier).items():
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
                "p_value": difference.p_value,
                "reason": undefined_reason(label),
            }
        )
    for line, p_adjusted in zip(table, holm(np.array([line["p_value"] for line in table])), strict=True):
        line["p_adjusted"] = float(p_adjusted)
    return table


def _equal_groups(value: np.ndarray, num: int) -> np.ndarray:
    """Group of each row by value, groups of about equal rows; equal values share a group."""
    if not len(value):
        return np.zeros(0, np.int64)
    edges = np.quantile(value, np.arange(1, num) / num)
    return np.searchsorted(edges, value, side="left")


def _history(length: np.ndarray) -> dict[str, np.ndarray]:
    masks = {}
    for low, high in pairwise((*HISTORY_EDGES, np.inf)):
        name = f"{low}+" if high == np.inf else str(low) if high == low + 1 else f"{low}-{high - 1}"
        masks[f"history {name}"] = (length >= low) & (length < high)
    masks[f"long history {LONG_HISTORY}+"] = length >= LONG_HISTORY
    return masks


def _categories(samples: Samples, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The largest top-level categories, the others together, and none; nothing if no product has any."""
    names, code = _values(samples, "top")
    code = code[samples.product[rows]]
    count = np.bincount(code[code >= 0], minlength=len(names))
    largest = np.argsort(-count, kind="stable")[:MAX_CATEGORIES]
    masks = {f"category {names[place]}": code == place for place in largest}
    if names:
        is_other = ~np.isin(code, largest) & (code >= 0)
        masks |= {f"category {OTHER}": is_other, f"category {UNKNOWN}": code < 0}
    return masks


def _merchants(
    samples: Samples, rows: np.ndarray, shown: np.ndarray, merchant_tier: Mapping[str, str] | None
) -> dict[str, np.ndarray]:
    """Tiers of merchants, given or made from training impressions; nothing if no product has a merchant."""
    names, code = _values(samples, "merchant")
    merchant = code[samples.product[rows]]
    if merchant_tier is not None:
        tiers = sorted({merchant_tier.get(name, UNKNOWN) for name in names} - {UNKNOWN})
        place_of = {tier: place for place, tier in enumerate(tiers)}
        given = [place_of.get(merchant_tier.get(name, UNKNOWN), -1) for name in names]
        tier = np.array([*given, -1])[merchant]  # the last one is of products without a merchant
    else:
        tiers = list(MERCHANT_TIERS)
        total = np.bincount(code[code >= 0], weights=shown[code >= 0], minlength=len(names))
        tier = np.full(len(rows), -1)
        tier[merchant >= 0] = _equal_groups(total[merchant[merchant >= 0]], len(tiers))
    masks = {f"merchant {name}": tier == place for place, name in enumerate(tiers)}
    return masks | ({f"merchant {UNKNOWN}": tier < 0} if names else {})


def _values(samples: Samples, field: str) -> tuple[list[str], np.ndarray]:
    """Distinct values of a field of products, and the place of each product's value, -1 for none."""
    encoded = samples.entities.products.column(field).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), codes_of(encoded.indices)


def _positions(position: np.ndarray) -> dict[str, np.ndarray]:
    masks = {f"position {place}": position == place for place in range(MAX_POSITIONS)}
    return masks | {
        f"position {MAX_POSITIONS}+": position >= MAX_POSITIONS,
        f"position {UNKNOWN}": position < 0,
    }
