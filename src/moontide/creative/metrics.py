"""How good a judge is: right in each order, right in both, and where it goes by place instead of picture.

    strict            right in both orders
    flip              right in exactly one order
    order-invariant   strict + flip / 2  =  (accuracy A first + accuracy B first) / 2

A verdict that cannot be read is wrong in its order. Every pair weighs the same; intervals draw products, not
pairs, as those of one product depend on each other.

Paper: Creative4U 3.8 (ours: no metric but accuracy is in the text available to us).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moontide.creative.records import OTHER, CreativePair, Order, Verdict
from moontide.foundation.errors import DataError
from moontide.foundation.statistics import Interval, bootstrap_interval

GAP_EDGES = (0.2, 0.6, 1.0, 2.0)
CONFIDENCE_EDGES = (0.8, 0.95, 0.99)


@dataclass(frozen=True)
class Slice:
    """The pairs of one bucket: `by` says of what kind, `name` which one."""

    by: str
    name: str
    num_pairs: int
    strict: Interval
    order_invariant: Interval
    flip: float


@dataclass(frozen=True)
class JudgeMetrics:
    """The figures of a judge on a set of pairs.

    Args:
        num_pairs, num_products: sizes.
        accuracy_ab, accuracy_ba: right in the pair's own order, and in the other one.
        strict, order_invariant: as above.
        averaged: right by the mean p of both orders; half at exactly 0.5.
        flip: right in exactly one order: `always_first` + `always_second` + one order unreadable.
        always_first, always_second: named A in both orders, and B in both: place, not picture.
        share_a: share of A among letters named; NaN where none was.
        parsed_strict, parsed_lenient: share of verdicts that could be read so.
        ceiling: see `ceiling`.
        slices: by gap, category and confidence.
    """

    num_pairs: int
    num_products: int
    accuracy_ab: Interval
    accuracy_ba: Interval
    strict: Interval
    order_invariant: Interval
    averaged: Interval
    flip: float
    always_first: float
    always_second: float
    share_a: float
    parsed_strict: float
    parsed_lenient: float
    ceiling: float
    slices: tuple[Slice, ...] = field(default=(), repr=False)

    def row(self) -> dict[str, float]:
        """The figures as flat numbers, those with an interval also as NAME_low and NAME_high."""
        found: dict[str, float] = {}
        for name, value in vars(self).items():
            if isinstance(value, Interval):
                found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            elif name != "slices":
                found[name] = value
        return found


def judge_metrics(
    pairs: Sequence[CreativePair], verdicts: Sequence[Verdict], replicates: int = 1000, seed: int = 0
) -> JudgeMetrics:
    """Score a judge's verdicts on labeled pairs.

    Args:
        verdicts: one of each pair in each order, in any order.
        replicates, seed: of the bootstrap over products.

    Raises:
        DataError: no pairs, a pair without a verdict in an order, or a verdict twice or of no pair.
    """
    told = _both(pairs, verdicts)
    is_right = right_by_order(pairs, told)
    letters = np.array([[one.letter or "" for one in both] for both in told])
    products = np.array([pair.product_id for pair in pairs])

    def mean(values: np.ndarray) -> Interval:
        return bootstrap_interval(values, products, replicates, seed=seed)

    named = letters[letters != ""]
    return JudgeMetrics(
        num_pairs=len(pairs),
        num_products=len(np.unique(products)),
        accuracy_ab=mean(is_right[:, 0]),
        accuracy_ba=mean(is_right[:, 1]),
        strict=mean(is_right.min(1)),
        order_invariant=mean(is_right.mean(1)),
        averaged=mean(_averaged(pairs, told)),
        flip=float((is_right.sum(1) == 1).mean()),
        always_first=float((letters == "A").all(1).mean()),
        always_second=float((letters == "B").all(1).mean()),
        share_a=float((named == "A").mean()) if len(named) else math.nan,
        parsed_strict=float(np.mean([[one.parsed_strict for one in both] for both in told])),
        parsed_lenient=float(np.mean([[one.parsed_lenient for one in both] for both in told])),
        ceiling=ceiling(pairs),
        slices=tuple(_slices(pairs, is_right, products, replicates, seed)),
    )


def pair_scores(pairs: Sequence[CreativePair], verdicts: Sequence[Verdict]) -> np.ndarray:
    """(pairs,) 1 where right in both orders, 0.5 where in one, 0 where in none: to compare two judges.

    Raises:
        DataError: as `judge_metrics`.
    """
    return right_by_order(pairs, _both(pairs, verdicts)).mean(1)


def right_by_order(pairs: Sequence[CreativePair], told: Sequence[tuple[Verdict, Verdict]]) -> np.ndarray:
    """(pairs, 2) whether the verdict is right with A first, and with B first; unreadable ones are not."""
    rows = [
        (forward.letter == pair.label, backward.letter == OTHER[pair.label])
        for pair, (forward, backward) in zip(pairs, told, strict=True)
    ]
    return np.array(rows, dtype=bool).reshape(-1, 2)


def ceiling(pairs: Sequence[CreativePair], true_rates: Mapping[str, float] | None = None) -> float:
    """The accuracy of one who knows which creative is truly better: labels are noisy.

    The mean over pairs of the label's confidence; with true rates the exact share of labels that name the
    truly better creative, equal ones half.

    Args:
        true_rates: by creative id; known in a simulated market alone.

    Raises:
        DataError: no pairs, or a creative without a true rate.
    """
    if not pairs:
        raise DataError("no pairs: there is nothing to be right about")
    if true_rates is None:
        return float(np.mean([pair.label_confidence for pair in pairs]))
    shares = []
    for pair in pairs:
        missing = [one for one in (pair.creative_a, pair.creative_b) if one not in true_rates]
        if missing:
            raise DataError(f"creative {missing[0]!r} of pair {pair.pair_id!r} has no true rate: give all")
        apart = true_rates[pair.creative_a] - true_rates[pair.creative_b]
        shares.append(0.5 if apart == 0 else float((apart > 0) == (pair.label == "A")))
    return float(np.mean(shares))


def _both(pairs: Sequence[CreativePair], verdicts: Sequence[Verdict]) -> list[tuple[Verdict, Verdict]]:
    """The verdicts of each pair: A first, B first."""
    if not pairs:
        raise DataError("no pairs to score: give the pairs that were judged")
    known = {pair.pair_id for pair in pairs}
    by_key: dict[tuple[str, Order], Verdict] = {}
    for one in verdicts:
        key = (one.pair_id, one.order)
        if one.pair_id not in known:
            raise DataError(f"a verdict is of pair {one.pair_id!r}, which is not scored: give its pair too")
        if key in by_key:
            raise DataError(f"pair {one.pair_id!r} has two verdicts in order {one.order}: give one")
        by_key[key] = one
    orders: tuple[Order, Order] = ("ab", "ba")
    for pair in pairs:
        for order in orders:
            if (pair.pair_id, order) not in by_key:
                raise DataError(f"pair {pair.pair_id!r} has no verdict in order {order}: judge both orders")
    return [(by_key[pair.pair_id, "ab"], by_key[pair.pair_id, "ba"]) for pair in pairs]


def _averaged(pairs: Sequence[CreativePair], told: Sequence[tuple[Verdict, Verdict]]) -> np.ndarray:
    """The mean (p + 1 - p') / 2 is above 0.5 where p > p': compared so, as the sum rounds."""
    p_ab, p_ba = (np.array([both[place].p_a for both in told]) for place in (0, 1))
    is_a = np.array([pair.label == "A" for pair in pairs])
    return np.where(p_ab == p_ba, 0.5, (p_ab > p_ba) == is_a).astype(np.float64)


def _slices(
    pairs: Sequence[CreativePair], is_right: np.ndarray, products: np.ndarray, replicates: int, seed: int
) -> list[Slice]:
    kinds: dict[str, Callable[[CreativePair], Any]] = {
        "gap": lambda pair: bucket(pair.gap, GAP_EDGES, "{:.0%}"),
        "category": lambda pair: (1, pair.category[-1] if pair.category else "none"),
        "confidence": lambda pair: bucket(pair.label_confidence, CONFIDENCE_EDGES, "{:g}"),
    }
    found = []
    for by, place in kinds.items():
        places = [place(pair) for pair in pairs]
        for one in sorted(set(places)):
            rows = np.array([other == one for other in places])
            right, owners = is_right[rows], products[rows]
            found.append(
                Slice(
                    by, one[1], int(rows.sum()),
                    bootstrap_interval(right.min(1), owners, replicates, seed=seed),
                    bootstrap_interval(right.mean(1), owners, replicates, seed=seed),
                    float((right.sum(1) == 1).mean()),
                )
            )  # fmt: skip
    return found


def bucket(value: float, edges: Sequence[float], form: str) -> tuple[int, str]:
    """The place of a value among ascending edges, and its name; an edge belongs to the bucket above it.

    Example:
        >>> bucket(0.7, (0.6, 1.0), "{:.0%}"), bucket(1.0, (0.6, 1.0), "{:.0%}")
        ((1, '60% to 100%'), (2, '100% and more'))
    """
    place = int(np.searchsorted(edges, value, side="right"))
    if place == 0:
        return place, f"below {form.format(edges[0])}"
    if place == len(edges):
        return place, f"{form.format(edges[-1])} and more"
    return place, f"{form.format(edges[place - 1])} to {form.format(edges[place])}"
