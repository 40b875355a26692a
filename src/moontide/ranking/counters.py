"""What was known of a product, shopper, category and query at a moment: counts, and features made of them.

Counts are kept raw in samples and in the online state; both turn them into features here, so training and
serving cannot differ. Every count is of events strictly earlier than the impression: same millisecond is
not the past.
"""

from __future__ import annotations

import numpy as np

COUNTED = ("product", "shopper", "leaf", "query")
COUNTERS = (
    *(f"{name}_{what}" for name in COUNTED for what in ("shows", "clicks")),
    "product_orders",
    "shopper_orders",
    "all_shows",
    "all_clicks",
)
FEATURES = (
    *(f"{name}_{what}" for name in COUNTED for what in ("log_shows", "log_lift")),
    "product_log_orders",
    "shopper_log_orders",
    "log_age_days",
    "age_is_known",
    "price",
    "price_is_known",
)
PRIOR_SHOWS = 20.0  # impressions at the overall CTR that every smoothed CTR starts from
DAY_MS = 86_400_000
PLACE = {name: number for number, name in enumerate(COUNTERS)}


def count_past(code: np.ndarray, at: np.ndarray, kind: np.ndarray, kinds: int = 3) -> np.ndarray:
    """How many facts of each kind with the same code are strictly earlier; facts of one moment share a count.

    Args:
        code: (facts,) int32. at: (facts,) int64 ms, ascending. kind: (facts,) 0 to `kinds` - 1.

    Returns:
        (facts, kinds) int32.

    Example:
        >>> code, at, kind = np.array([7, 7, 9, 7]), np.array([1, 2, 2, 2]), np.array([0, 1, 0, 0])
        >>> count_past(code, at, kind, 2).tolist()
        [[0, 0], [1, 0], [0, 0], [1, 0]]
    """
    order = order_of_codes(code)
    sorted_code, sorted_at, sorted_kind = code[order], at[order], kind[order]
    is_first = np.ones(len(code), bool)  # of its code
    is_first[1:] = sorted_code[1:] != sorted_code[:-1]
    is_later = is_first.copy()  # than the fact before it, or of another code
    is_later[1:] |= sorted_at[1:] != sorted_at[:-1]
    place = np.arange(len(code), dtype=np.int32)
    first, moment = (np.maximum.accumulate(np.where(is_edge, place, 0)) for is_edge in (is_first, is_later))
    counts = np.empty((len(code), kinds), np.int32)
    for number in range(kinds):
        earlier = np.zeros(len(code) + 1, np.int32)
        np.cumsum(sorted_kind == number, out=earlier[1:])
        counts[order, number] = earlier[moment] - earlier[first]
    return counts


def order_of_codes(code: np.ndarray) -> np.ndarray:
    """The stable order of int32 codes: two passes over 16 bits each, which numpy sorts by radix."""
    code = code.astype(np.int32, copy=False)
    order = np.argsort((code & 0xFFFF).astype(np.uint16), kind="stable")
    high = (code >> 16).astype(np.int16)
    if len(high) and high.min() != high.max():
        order = order[np.argsort(high[order], kind="stable")]
    return order


def smoothed_ctr(counters: np.ndarray, name: str = "product") -> np.ndarray:
    """CTR of the product (shopper, leaf, query) so far, pulled toward the overall CTR so far.

    Formula: (clicks + K * overall) / (shows + K), K = PRIOR_SHOWS; overall = (clicks + 1) / (shows + 50).

    Args:
        counters: (..., len(COUNTERS)).
    """
    shows, clicks = counters[..., PLACE[f"{name}_shows"]], counters[..., PLACE[f"{name}_clicks"]]
    return (clicks + PRIOR_SHOWS * overall_ctr(counters)) / (shows + PRIOR_SHOWS)


def overall_ctr(counters: np.ndarray) -> np.ndarray:
    """CTR of everything so far; 2 % before the first impression."""
    return (counters[..., PLACE["all_clicks"]] + 1.0) / (counters[..., PLACE["all_shows"]] + 50.0)


def dense_features(
    counters: np.ndarray, at: np.ndarray, created_at: np.ndarray, log_price: np.ndarray
) -> np.ndarray:
    """The numbers a click model sees beside ids, in the order of FEATURES.

    Args:
        counters: (..., len(COUNTERS)) counts.
        at: (...) time of the impression, ms.
        created_at: (...) when the product came, ms; very negative if not known.
        log_price: (...) NaN if not known.

    Returns:
        (..., len(FEATURES)) float32, not yet scaled.
    """
    overall = overall_ctr(counters)
    columns = []
    for name in COUNTED:
        columns.append(np.log1p(counters[..., PLACE[f"{name}_shows"]]))
        columns.append(np.log(smoothed_ctr(counters, name) / overall))
    columns.append(np.log1p(counters[..., PLACE["product_orders"]]))
    columns.append(np.log1p(counters[..., PLACE["shopper_orders"]]))
    has_age, has_price = created_at >= 0, np.isfinite(log_price)
    age_days = np.where(has_age, np.maximum(at - created_at, 0), 0) / DAY_MS
    columns += [np.log1p(age_days), has_age, np.where(has_price, log_price, 0.0), has_price]
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=-1)
