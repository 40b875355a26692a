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
