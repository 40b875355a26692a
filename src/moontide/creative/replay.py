"""What a choice of creatives would have earned, told from a log or from counts.

Replay counts only the impressions at which the policy chooses what was shown. On traffic whose creatives were
drawn at random the rate there is that of the policy; on other traffic it is not, and no figure here mends
that (the log's propensities do, see `studies`). Top-k uplift needs counts alone.

Paper: Creative4U 3.8; sCTR and NSCTR analog Peri-CR, top-k uplift analog CG4CTR; coverage ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moontide.foundation.errors import DataError

if TYPE_CHECKING:
    from moontide.creative.bandit import BetaBandit


@dataclass(frozen=True)
class Replay:
    """Replay of a policy against a log.

    Args:
        sctr: clicks per matched impression; NaN where nothing matches.
        nsctr: the matched rate of each product, weighted by its logged impressions; NaN as well.
        logged_ctr: of the whole log.
        matched: impressions at which policy and log agree. impressions: all.
        num_products: in the log. num_unmatched: without a match; left out of nsctr, top and bottom.
    """

    sctr: float
    nsctr: float
    logged_ctr: float
    matched: int
    impressions: int
    num_products: int
    num_unmatched: int

    @property
    def coverage(self) -> float:
        """Share of products with at least one match."""
        return 1 - self.num_unmatched / self.num_products


@dataclass(frozen=True)
class Uplift:
    """Rate of the top k by a score over the rate of all, minus 1, for k = 1, 2, ...; headline: k = 1 to 5."""

    by_k: tuple[float, ...]
    base_ctr: float
    num_products: int

    @property
    def headline(self) -> float:
        """The mean of k = 1 to 5."""
        return float(np.mean(self.by_k[:5]))


def replay(
    product: Sequence[str] | np.ndarray,
    shown: Sequence[str] | np.ndarray,
    chosen: Sequence[str] | np.ndarray,
    is_click: Sequence[bool] | np.ndarray,
) -> Replay:
    """Replay a policy against a log, one row an impression.

        sCTR = sum_m K_m / sum_m M_m,     NSCTR = sum_m I_m K_m / M_m / sum_m I_m

    over products m with M > 0: I impressions, M matched ones, K clicks on those. sCTR leans to products whose
    log agrees with the policy, NSCTR does not.

    Args:
        product, shown: of each impression, as logged.
        chosen: the creative the policy would have shown there.
        is_click: whether it was clicked.

    Raises:
        DataError: no rows, or columns of different length.
    """
    columns = [np.asarray(one) for one in (product, shown, chosen, is_click)]
    if len({one.shape for one in columns}) > 1 or not len(columns[0]):
        raise DataError(
            f"a replay needs rows of equal number, got {', '.join(str(len(one)) for one in columns)}"
        )
    _, code = np.unique(columns[0], return_inverse=True)
    is_match, click = columns[1] == columns[2], columns[3].astype(np.float64)
    impressions = np.bincount(code)
    matched = np.bincount(code, weights=is_match)
    clicks = np.bincount(code, weights=is_match * click)
    seen = matched > 0
    if not seen.any():
        nsctr = sctr = float("nan")
    else:
        nsctr = float((impressions[seen] * clicks[seen] / matched[seen]).sum() / impressions[seen].sum())
        sctr = float(clicks.sum() / matched.sum())
    return Replay(
        sctr, nsctr, float(click.mean()), int(matched.sum()), len(code), len(impressions), int((~seen).sum())
    )


def replay_bandit(
    bandit: BetaBandit, rows: np.ndarray, slots: np.ndarray, is_click: np.ndarray, every: int = 1000
) -> Replay:
    """Replay a bandit that learns on the way, from the impressions it agrees with alone.

    Args:
        bandit: changed by what it learns.
        rows, slots: product and creative of each impression by the bandit's numbers, in the order of time.
        is_click: whether it was clicked.
        every: impressions after which it learns.

    Raises:
        DataError: as `replay`.
    """
    chosen = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), every):
        part = slice(start, start + every)
        chosen[part] = bandit.choose(rows[part]).slot
        same = start + np.flatnonzero(chosen[part] == slots[part])
        bandit.update(rows[same], slots[same], np.ones(len(same)), is_click[same])
    return replay(rows, slots, chosen, is_click)


def top_k_uplift(
    product: Sequence[str] | np.ndarray,
    score: Sequence[float] | np.ndarray,
    impressions: Sequence[int] | np.ndarray,
    clicks: Sequence[int] | np.ndarray,
    most: int = 10,
) -> Uplift:
    """How much better the top k of each product's creatives do than all of them, one row a creative.

        uplift(k) = (sum clicks / sum impressions of the top k) / (sum clicks / sum impressions of all) - 1

    summed over products with at least two creatives; a list of k or fewer goes in whole. Creatives of equal
    score share their places: each counts with the chance to be drawn into the top k. With unequal impressions
    the order by rate need not be the best one.

    Args:
        most: the largest k.

    Raises:
        DataError: columns of different length, a score that is not finite, no product with two creatives, or
            no clicks.
    """
    product, score = np.asarray(product), np.asarray(score, dtype=np.float64)
    shown, clicked = np.asarray(impressions, dtype=np.float64), np.asarray(clicks, dtype=np.float64)
    if len({one.shape for one in (product, score, shown, clicked)}) > 1 or not np.isfinite(score).all():
        raise DataError("uplift needs a finite score, impressions and clicks for each creative")
    _, code, count = np.unique(product, return_inverse=True, return_counts=True)
    several = count[code] > 1
    if not several.any() or not clicked[several].sum() > 0:
        raise DataError("uplift needs products with two creatives and clicks: give more counts")
    code, score, shown, clicked = code[several], score[several], shown[several], clicked[several]
    base = clicked.sum() / shown.sum()
    above, tied = _places(code, score)
    by_k = []
    for k in range(1, most + 1):
        weight = ((k - above) / tied).clip(0, 1)
        bottom = weight @ shown
        rate = (weight @ clicked) / bottom if bottom > 0 else float("nan")
        by_k.append(0.0 if (weight == 1).all() else float(rate / base - 1))
    return Uplift(tuple(by_k), float(base), int((count > 1).sum()))


def _places(code: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row: rows of its product above it, and those of equal score, itself counted."""
    order = np.lexsort((-score, code))
    c, s = code[order], score[order]
    place = np.arange(len(c))
    first = np.maximum.accumulate(np.where(np.r_[True, c[1:] != c[:-1]], place, 0))
    is_new = np.r_[True, (c[1:] != c[:-1]) | (s[1:] != s[:-1])]
    block = np.cumsum(is_new) - 1
    start = place[is_new][block]
    above, tied = np.empty(len(c)), np.empty(len(c))
    above[order] = start - first
    tied[order] = np.bincount(block)[block]
    return above, tied
