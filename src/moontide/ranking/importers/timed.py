"""What was known at each impression of a log with times: counters and behaviors strictly earlier.

The definitions are those of `counters.py` and `samples.py`; here are logs in which a click has no time of its
own, and in which shoppers did things elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moontide.ranking.counters import COUNTERS, PLACE, count_past
from moontide.ranking.facts import CLICK, ORDER, SHOW


@dataclass(frozen=True)
class Past:
    """All behaviors, shopper by shopper, the oldest first; `start` has one more entry than shoppers."""

    product: np.ndarray
    at: np.ndarray
    kind: np.ndarray
    start: np.ndarray


@dataclass(frozen=True)
class Timed:
    """Impressions of a log with times: ms, int64 codes of shopper and product, clicked."""

    at: np.ndarray
    shopper: np.ndarray
    product: np.ndarray
    label: np.ndarray
    num_shoppers: int


class Events:
    """Behaviors in any order: ms, int64 codes, and their kind (CLICK, ORDER), one for all or one each."""

    def __init__(self, at: np.ndarray, shopper: np.ndarray, product: np.ndarray, kind: int | np.ndarray):
        self.at, self.shopper, self.product = at, shopper, product
        self.kinds = np.broadcast_to(np.asarray(kind, np.uint8), at.shape)

    def and_(self, other: Events) -> Events:
        """Both together."""
        names = ("at", "shopper", "product", "kinds")
        return Events(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    def only(self, mask: np.ndarray) -> Events:
        """Some of them."""
        return Events(self.at[mask], self.shopper[mask], self.product[mask], self.kinds[mask])


def counted(
    shows: Timed, leaf_of: np.ndarray, more: Events | None = None
) -> tuple[np.ndarray, np.ndarray, Past]:
    """What was known at each impression, as `counters.py` defines it, for a log of impressions with times.

    A click is of the moment of its impression, so nothing of one moment knows of the other. Events that are
    not of the log (`more`: what the shopper did elsewhere) are behaviors, and orders among them count for
    the shopper; they count for no product, for their impressions are not known.

    Args:
        leaf_of: (products,) code of each product's category, -1 for none.

    Returns:
        Counters (impressions, len(COUNTERS)), behaviors before each impression, and the behaviors.
    """
    clicked = np.flatnonzero(shows.label)
    clicks = Events(*(getattr(shows, name)[clicked] for name in ("at", "shopper", "product")), CLICK)
    at = np.concatenate([shows.at, clicks.at])
    order = np.argsort(at, kind="stable")
    kind = np.repeat(np.array([SHOW, CLICK], np.uint8), [len(shows.at), len(clicked)])[order]
    place = np.argsort(order, kind="stable")[: len(shows.at)]
    counters = np.zeros((len(shows.at), len(COUNTERS)), np.int32)
    codes = {
        name: np.concatenate([getattr(shows, name), getattr(clicks, name)]) for name in ("product", "shopper")
    }
    codes["leaf"] = leaf_of[codes["product"]]
    for name, code in codes.items():
        past = count_past(code[order].astype(np.int32), at[order], kind)[place]
        past[code[: len(place)] < 0] = 0
        counters[:, PLACE[f"{name}_shows"]], counters[:, PLACE[f"{name}_clicks"]] = (
            past[:, SHOW],
            past[:, CLICK],
        )
    counters[:, PLACE["all_shows"]] = np.searchsorted(np.sort(shows.at), shows.at, side="left")
    counters[:, PLACE["all_clicks"]] = np.searchsorted(np.sort(clicks.at), shows.at, side="left")
    every = clicks if more is None else clicks.and_(more)
    past, end = _past_of(every, shows)
    orders = every.only(every.kinds == ORDER)
    counters[:, PLACE["shopper_orders"]] = _past_of(orders, shows)[1]
    return counters, end, past


def _past_of(events: Events, shows: Timed) -> tuple[Past, np.ndarray]:
    """Events shopper by shopper in order of time, and how many of its shopper's precede each impression."""
    order = np.lexsort((events.kinds, events.at, events.shopper))
    at, shopper = events.at[order], events.shopper[order]
    start = np.searchsorted(shopper, np.arange(shows.num_shoppers + 1))
    # One ascending number for shopper and moment, so that one search finds the border in all of them.
    low = min(int(shows.at.min()), int(at.min(initial=0)))
    span = max(int(shows.at.max()), int(at.max(initial=0))) - low + 1
    assert span * (shows.num_shoppers + 1) < 2**63
    found = np.searchsorted(shopper * span + (at - low), shows.shopper * span + (shows.at - low), side="left")
    return Past(events.product[order], at, events.kinds[order], start), found - start[shows.shopper]
