"""The generalized second-price auction, as pure functions of arrays.

    score  = bid * p_click^alpha * quality
    charge = max(reserve, score of the next / (p_click^alpha * quality)) + 1 cent, never above the bid

A charge is what one click costs. Nothing here knows budgets, shoppers or slates; `policy.py` and serving
call it. Also called: GSP, position auction. Paper: Edelman, Ostrovsky and Schwarz (2007); the exponent
alpha follows Lahaie and Pennock (2007).
"""

from __future__ import annotations

import numpy as np


def rank_score(
    bid: np.ndarray, p_click: np.ndarray, quality: np.ndarray | float = 1.0, alpha: float = 1.0
) -> np.ndarray:
    """What an ad is ranked by: bid * p_click^alpha * quality; arrays broadcast.

    Args:
        bid: cents a click, 0 or more.
        p_click: chance of a click, 0 to 1.
        quality: a factor such as relevance, 0 or more.
        alpha: how much the click rate counts; 1 ranks by expected revenue, above 1 favors shoppers.

    Example:
        >>> rank_score(np.array([40.0, 20.0]), np.array([0.1, 0.4])).tolist()
        [4.0, 8.0]
    """
    return bid * p_click**alpha * quality


def gsp(
    score: np.ndarray, bid: np.ndarray, slots: int, reserve: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Who is shown where, and what a click costs.

    Entries with a score of 0 or less, or a bid below the reserve, are not shown. Equal scores keep their
    order.

    Args:
        score: (batch, N) from `rank_score`.
        bid: (batch, N) cents; the weight of an entry is its score over its bid.
        slots: places to fill.
        reserve: least bid, cents a click.

    Returns:
        order: (batch, slots) columns of the entries shown, best first, -1 where a place stays empty.
        charge: (batch, slots) whole cents a click, 0 where empty.

    Example:
        >>> order, charge = gsp(np.array([[4.0, 8.0, 3.0]]), np.array([[40.0, 20.0, 30.0]]), slots=2)
        >>> order.tolist(), charge.tolist()  # 4 / 0.4 + 1, 3 / 0.1 + 1
        ([[1, 0]], [[11, 31]])
    """
    batch, num = score.shape
    is_in = (score > 0) & (bid >= reserve) & (bid > 0)
    ranked = np.where(is_in, score, 0.0)
    order = np.argsort(-ranked, axis=1, kind="stable")[:, : slots + 1]
    best = np.zeros((batch, slots + 1))
    best[:, : order.shape[1]] = np.take_along_axis(ranked, order, axis=1)
    order = np.pad(order[:, :slots], ((0, 0), (0, max(slots - num, 0))), constant_values=0)
    is_shown = best[:, :slots] > 0
    own_bid = np.take_along_axis(bid, order, axis=1)
    next_price = own_bid * (best[:, 1:] / np.where(is_shown, best[:, :slots], 1))
    charge = np.minimum(np.floor(np.maximum(next_price, reserve) + 1e-9) + 1, np.floor(own_bid))
    return np.where(is_shown, order, -1), np.where(is_shown, charge, 0).astype(np.int64)
