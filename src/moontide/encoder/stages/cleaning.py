"""Cleaning of order pairs before the second stage: four steps, each of which says what it dropped.

Entity filter, merge of an SPU's pairs, hardest pair of each SPU, categories as often as they are shown. The
first three change nothing when run again; the last one does not only at its exact setting, so it runs once,
last. What is dropped is no longer drawn, yet stays known as a positive: no negative comes of it.

Paper: MOON Embedding 3.5 (steps paper reported; order and formulas ours).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pydantic

from moontide.encoder.model.inputs import Item, query_item
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.rows import codes_of
from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings

log = logging.getLogger(__name__)

StepName = Literal["entities", "spu", "hardest", "category"]
NOISE = 1e-6  # of a cosine computed in other company
STEPS: tuple[StepName, ...] = get_args(StepName)


class CleaningSettings(Settings):
    """Which steps are taken, always in the order of `STEPS`, and how strict they are."""

    steps: tuple[StepName, ...] = pydantic.Field(STEPS, description="the steps to take")
    min_entities: int = pydantic.Field(2, ge=1, description="entities of a title, and of a query with text")
    guard: float = pydantic.Field(
        0.01, ge=0, lt=1, description="share of least similar pairs to drop as mis-logged"
    )
    balance: float | None = pydantic.Field(
        1.0, gt=0, description="k: thins what is shown less than it sells; None: matches exposure exactly"
    )
    seed: int = pydantic.Field(0, description="of the pairs that thinning keeps")


@dataclass(frozen=True)
class CleaningStep:
    """Rows before and after one step."""

    name: str
    rows_in: int
    rows_out: int


@dataclass(frozen=True)
class CleaningReport:
    """What is left.

    Args:
        rows: the log rows to draw, for `TrainingPairs(rows=...)`.
        steps: rows in and out of each step.
        floor: similarity under which pairs counted as mis-logged; give it to a later pass.
    """

    rows: np.ndarray
    steps: tuple[CleaningStep, ...]
    floor: float | None = None


def clean(
    pairs: TrainingPairs,
    exposures: np.ndarray,
    encode: Callable[[Sequence[Item]], np.ndarray],
    num_entities: Callable[[str], int],
    settings: CleaningSettings = CleaningSettings(),
    rows: np.ndarray | None = None,
    floor: float | None = None,
) -> CleaningReport:
    """Which log rows of `pairs` are worth drawing.

    Args:
        pairs: made with the same dataset, cutoff and kinds as the pairs to train on.
        exposures: how often each product was shown, see `rows.num_exposures`; without any the last step is
            left out.
        encode: items to unit vectors, by the previous checkpoint.
        num_entities: how many entities a text names, for instance `len(gazetteer.find(text))`.
        rows: those to begin with; None: all that can be shown.
        floor: of an earlier pass; None: found here.

    Raises:
        DataError: nothing is left.
    """
    rows = np.flatnonzero(usable(pairs)) if rows is None else rows
    steps: list[CleaningStep] = []

    def take(name: str, kept: np.ndarray) -> np.ndarray:
        steps.append(CleaningStep(name, len(rows), len(kept)))
        log.info("cleaning, %s: %d rows in, %d out", name, len(rows), len(kept))
        if not len(kept):
            raise DataError(
                f"cleaning step {name!r} left none of {len(rows)} pairs: relax it, or take it out of `steps`"
            )
        return kept

    if "entities" in settings.steps:
        rows = take("entities", rows[has_entities(pairs, rows, num_entities, settings.min_entities)])
    spu = spu_of(pairs)[pairs.rows.product]
    if "spu" in settings.steps:
        rows = take("spu", rows[merged(pairs.rows.query[rows], spu[rows], pairs.rows.weight[rows])])
    if "hardest" in settings.steps:
        similarity = similarities(pairs, rows, encode)
        if floor is None:
            floor = float(np.quantile(similarity, settings.guard, method="lower"))
        rows = take("hardest", rows[hardest(similarity, spu[rows], floor)])
    if "category" in settings.steps and not exposures.any():
        log.warning("cleaning, category: left out, the log says of no product that it was shown")
    elif "category" in settings.steps:
        num = int(pairs.category.max()) + 2  # the last one: of no category
        shown = np.bincount(pairs.category % num, exposures, num)
        category = pairs.category[pairs.rows.product[rows]] % num
        rng = stream(settings.seed, "cleaning")
        rows = take("category", rows[balanced(category, shown, settings.balance, rng)])
    return CleaningReport(rows, tuple(steps), floor)


def has_entities(
    pairs: TrainingPairs, rows: np.ndarray, num_entities: Callable[[str], int], least: int
) -> np.ndarray:
    """Whether each row's title, and its query where that has a text, name enough entities: (rows,) bool."""
    known: dict[str, bool] = {}

    def is_enough(text: str) -> bool:
        if text not in known:
            known[text] = num_entities(text) >= least
        return known[text]

    texts = [
        (pairs.query(query).text, pairs.products[product].title)
        for query, product in zip(pairs.rows.query[rows], pairs.rows.product[rows], strict=True)
    ]
    return np.array([is_enough(title) and (not text or is_enough(text)) for text, title in texts], dtype=bool)


def merged(query: np.ndarray, spu: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One row of each query and SPU, the strongest, then the first: positions, in order."""
    order = np.lexsort((np.arange(len(query)), -weight, spu, query))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (np.diff(query[order]) != 0) | (np.diff(spu[order]) != 0)
    return np.sort(order[is_first])


def hardest(similarity: np.ndarray, item: np.ndarray, floor: float) -> np.ndarray:
    """The least similar row of each item, those under the floor left out: positions, in order.

    Example:
        >>> hardest(np.array([0.9, 0.5, -0.8, 0.7]), np.array([0, 0, 0, 1]), floor=-0.5).tolist()
        [1, 3]
    """
    good = np.flatnonzero(similarity >= floor - NOISE)
    order = good[np.lexsort((similarity[good], item[good]))]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.diff(item[order]) != 0
    return np.sort(order[is_first])


def keep_shares(num_pairs: np.ndarray, shown: np.ndarray, k: float | None) -> np.ndarray:
    """Share of its pairs that each category keeps: min(1, k * pi / rho); 1 where there are none.

    rho is a category's share of the pairs, pi its share of what was shown. k None: min rho / pi, at which the
    kept pairs have exactly the shares pi of the categories that have pairs.

    Example:
        >>> keep_shares(np.array([500, 300, 200]), np.array([2, 5, 3]), 1.0).round(2).tolist()
        [0.4, 1.0, 1.0]
    """
    has = num_pairs > 0
    rho, pi = num_pairs / num_pairs.sum(), shown / shown.sum()
    ratio = np.divide(pi, rho, out=np.ones(len(rho)), where=has)
    if k is None:
        shown_too = has & (shown > 0)
        k = float(1 / ratio[shown_too].max()) if shown_too.any() else 1.0
    return np.where(has, np.minimum(1, k * ratio), 1.0)


def balanced(
    category: np.ndarray, shown: np.ndarray, k: float | None, rng: np.random.Generator
) -> np.ndarray:
    """Rows thinned to `keep_shares`, drawn by chance within each category: positions, in order."""
    num_pairs = np.bincount(category, minlength=len(shown))
    expected = keep_shares(num_pairs, shown, k) * num_pairs
    whole = np.floor(expected + 1e-9)
    num_kept = (whole + (rng.random(len(shown)) < expected - whole)).astype(np.int64)
    kept = [
        rng.permutation(np.flatnonzero(category == code))[: num_kept[code]] for code in np.unique(category)
    ]
    return np.sort(np.concatenate(kept))


def usable(pairs: TrainingPairs) -> np.ndarray:
    """Whether there is something to show of each row's product and of its query: (rows,) bool."""
    return pairs.query_has[pairs.rows.query].any(1) & pairs.stock.can_show("rich_image")[pairs.rows.product]


def spu_of(pairs: TrainingPairs) -> np.ndarray:
    """SPU code of each product: that of its record, else its group."""
    both = zip(pairs.products, pairs.group.tolist(), strict=True)
    return codes_of([("spu", one.spu_id) if one.spu_id else ("group", group) for one, group in both])


def similarities(
    pairs: TrainingPairs, rows: np.ndarray, encode: Callable[[Sequence[Item]], np.ndarray]
) -> np.ndarray:
    """Cosine of each row's query and product, both as they are."""
    queries, query = np.unique(pairs.rows.query[rows], return_inverse=True)
    products, product = np.unique(pairs.rows.product[rows], return_inverse=True)
    query_vectors = encode([_asked(pairs, code) for code in queries.tolist()])
    view = pairs.stock.view
    product_vectors = encode([view.item(pairs.products[code], pairs.pictures) for code in products.tolist()])
    return np.einsum("nd,nd->n", query_vectors[query], product_vectors[product])


def _asked(pairs: TrainingPairs, code: int) -> Item:
    query = pairs.query(code)
    picture = pairs.pictures[query.image_id] if query.image_id and pairs.query_has[code, 1] else None
    return query_item(query.text, picture)
