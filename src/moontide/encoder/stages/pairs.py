"""What is paired with what in post-training: rows of the log and views of the catalog, on a fixed schedule.

Every step has one pairing of forms, so that in-batch negatives cannot be told apart by their form. Only
products of the train split and events before the cutoff enter. A batch is a function of seed and step alone.

Paper: MOON Embedding 3.4: one global pairing per step (ours), positives from click, cart and order (paper);
the catalog pairings are ours, they bind text to pictures before a log is long enough to.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Query
from moontide.encoder.model.inputs import Form, Item, PictureSource, ProductView, product_item, query_item
from moontide.encoder.stages.hard import HardKind, Neighbors
from moontide.encoder.stages.pairings import BEHAVIOR, CATALOG, MIXED, Pairing, cycles, schedule
from moontide.encoder.stages.rows import (
    BEHAVIORS,
    WEIGHTS,
    SameRequest,
    log_rows,
    read_events,
)
from moontide.encoder.stages.stock import Stock
from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """The items of one step and the codes its masks need; item i is the positive of query i.

    Args:
        pairing: None where each row has its own.
        product, query: codes of each pair; query -1 has no log.
        content: equal for items that show the same, whatever the step.
        hard: hard negatives, those of query 0 first, each query equally many.
        hard_product, hard_content: codes of these.
        hard_sources: how many came from "clicked", "category", "random".
    """

    pairing: Pairing | None
    queries: list[Item]
    items: list[Item]
    product: np.ndarray
    content: np.ndarray
    query: np.ndarray
    hard: list[Item] = field(default_factory=list)
    hard_product: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    hard_content: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    hard_sources: Counter[str] = field(default_factory=Counter)


class TrainingPairs:
    """The pairs of a dataset.

    Args:
        dataset: products, splits, images; queries and events for the log.
        pictures: pixels by image id.
        before: events and products from this moment on are not seen; None: all are.
        catalog_share: share of steps that pair a product with another view of itself; a table with counts
            has its own.
        augment: strength of random picture variation, see `pictures.vary`.
        table: the pairings to choose from; those without rows are left out, the others share their steps.
        view: how products are shown.
        kinds: the behaviors that make a positive.
        rows: of the log's rows those to draw, see `cleaning.clean`; what is left out stays a known positive.
        num_hard: hard negatives of each query.
        hard_kind: where they come from first.
        is_mixed: each row of a batch draws its own pairing (ablation).

    Raises:
        DataError: nothing to pair.
    """

    def __init__(
        self,
        dataset: Dataset,
        pictures: PictureSource,
        before: datetime | None = None,
        catalog_share: float = 0.4,
        augment: float = 0.0,
        seed: int = 0,
        table: Sequence[Pairing] = (*BEHAVIOR, *CATALOG),
        view: ProductView = ProductView(),
        kinds: Sequence[str] = BEHAVIORS,
        rows: np.ndarray | None = None,
        num_hard: int = 0,
        hard_kind: HardKind = "category",
        is_mixed: bool = False,
    ):
        self.stock = Stock(dataset, pictures, before, augment, view)
        self.pictures, self.seed, self.num_hard, self.is_mixed = pictures, seed, num_hard, is_mixed
        self.products, self.group, self.category = self.stock.products, self.stock.group, self.stock.category
        self.is_train = self.stock.is_train
        self.rows = log_rows(dataset, self.stock.product_ids, self.is_train, before, kinds=kinds)
        if not len(self.rows.query) and len(kinds) < len(BEHAVIORS):
            raise DataError(
                f"{dataset.path} has nothing to pair: no {' or '.join(kinds)} of a train product under a "
                f"query; import a log with them, or let all of {', '.join(BEHAVIORS)} count"
            )
        self._is_drawn = np.ones(len(self.rows.query), dtype=bool)
        if rows is not None:
            self._is_drawn[:] = False
            self._is_drawn[rows] = True
        self._queries = {query.query_id: query for query in dataset.queries()} if len(self.rows.query) else {}
        self._known: dict[tuple[str, str, str], np.ndarray] = {}
        self.pairings = self._pairings(table, catalog_share)
        if not self.pairings:
            raise DataError(
                f"{dataset.path} has nothing to pair: no pairing has two rows to draw, of "
                f"{self._is_drawn.sum()} by {' or '.join(kinds)} and {self.stock.can_show('image').sum()} "
                "train products with a picture; import pictures or a log"
            )
        self.positives = self.rows.keys(len(self.products))
        if num_hard:
            clicked = self._clicked(dataset, before, kinds) if hard_kind == "clicked" else None
            self._neighbors = Neighbors(self.stock, self.positives, clicked)

    def _pairings(self, table: Sequence[Pairing], catalog_share: float) -> list[Pairing]:
        """The pairings that have rows, their shares within log and catalog as set."""
        if all(pairing.count for pairing in table):
            return self._counted(table)
        found: list[Pairing] = []
        for source, share in (("log", 1 - catalog_share), ("catalog", catalog_share)):
            rows = [row for row in table if row.source == source and len(self._members(row)) > 1]
            total = sum(row.share for row in rows)
            found += [replace(row, share=share * row.share / total) for row in rows if share]
        return found

    def _counted(self, table: Sequence[Pairing]) -> list[Pairing]:
        """The pairings of a table with counts that have rows; the cycle is the shorter for the others."""
        found = [(row, one) for row in table for one in row.sources() if len(self._members(one)) > 1]
        first = dict(reversed(found))  # the log before the catalog
        missing = [row for row in table if row not in first]
        if missing:
            names = ", ".join(f"{row.query_form} -> {row.item_form}" for row in missing)
            log.warning("no rows for %s: the other pairings share their steps", names)
        total = sum(row.count for row in first)
        return [replace(first[row], share=row.count / total) for row in table if row in first]

    def _members(self, pairing: Pairing) -> np.ndarray:
        """Rows a pairing may draw: log rows, repeated by weight, or product codes."""
        key = (pairing.source, pairing.query_form, pairing.item_form)
        if key not in self._known:
            self._known[key] = self._find(pairing)
        return self._known[key]

    def _find(self, pairing: Pairing) -> np.ndarray:
        if pairing.source == "log":
            forms = {"text": (True, False), "image": (False, True), "text_image": (True, True)}
            good = (self.query_has[self.rows.query] == forms[pairing.query_form]).all(1) & self._is_drawn
            rows = np.flatnonzero(good & self.stock.can_show(pairing.item_form)[self.rows.product])
            weight = self.rows.weight[rows]
            return np.repeat(rows, weight // np.gcd.reduce(weight)) if len(rows) else rows
        needs = 2 if pairing.query_form.endswith("image") and pairing.item_form.endswith("image") else 1
        return np.flatnonzero(self.is_train & (self.stock.num_pictures >= needs) & self.stock.has_title)

    @cached_property
    def query_has(self) -> np.ndarray:
        """Whether each query has a text, and a usable picture: (queries, 2)."""
        has = np.zeros((len(self.rows.query_ids), 2), dtype=bool)
        for code in np.unique(self.rows.query):
            query = self._queries[self.rows.query_ids[code]]
            has[code] = bool(query.text), query.image_id is not None and query.image_id in self.pictures
        return has

    def _clicked(self, dataset: Dataset, before: datetime | None, kinds: Sequence[str]) -> SameRequest:
        """Products clicked, or more, in the requests in which a query and its positive met."""
        events = read_events(dataset, self.stock.product_ids, BEHAVIORS, before)
        is_kind = np.isin(events.weight, [WEIGHTS[kind] for kind in kinds])
        return SameRequest(events.where(is_kind), events, len(self.products))

    def plan(self, num_steps: int) -> np.ndarray:
        """Which of `pairings` each step takes; `MIXED` where each row has its own."""
        if self.is_mixed:
            return np.full(num_steps, MIXED)
        if all(pairing.count for pairing in self.pairings):
            return cycles(self.pairings, num_steps, self.seed)
        return schedule(self.pairings, num_steps)

    def batch(self, number: int, turn: int, step: int, size: int) -> Batch:
        """The pairs of one step.

        Args:
            number: which pairing, or `MIXED`.
            turn: how often it was taken before: its position in the data.
            step: of the stage; seeds the picture variations.
            size: pairs; fewer if there are not as many.
        """
        if number == MIXED:
            pairing, drawn = None, self._draw(step, size)
        else:
            pairing = self.pairings[number]
            drawn = [(pairing, row) for row in self._next(pairing, turn, size)]
        rng = stream(self.seed, "views", step)
        made = [self._pair(one, row, rng) for one, row in drawn]
        codes = np.array([(pair.product, pair.content, pair.query) for pair in made], dtype=np.int64)
        batch = Batch(pairing, [pair.asked for pair in made], [pair.item for pair in made], *codes.T)
        return self._with_hard(batch, [one.item_form for one, _ in drawn], step) if self.num_hard else batch

    def _next(self, pairing: Pairing, turn: int, size: int) -> list[int]:
        """Rows of a pairing's turn: each once an epoch, shuffled."""
        members = self._members(pairing)
        size = min(size, len(members))
        per_epoch = len(members) // size
        rng = stream(self.seed, "pairs", pairing.query_form, pairing.item_form, turn // per_epoch)
        at = (turn % per_epoch) * size
        return members[rng.permutation(len(members))[at : at + size]].tolist()

    def _draw(self, step: int, size: int) -> list[tuple[Pairing, int]]:
        """Rows of any pairing, by their shares."""
        rng = stream(self.seed, "mixed", step)
        share = np.array([pairing.share for pairing in self.pairings])
        numbers = rng.choice(len(share), size, p=share / share.sum())
        drawn = [self.pairings[number] for number in numbers]
        return [(pairing, int(rng.choice(self._members(pairing)))) for pairing in drawn]

    def _pair(self, pairing: Pairing, row: int, rng: np.random.Generator) -> _Pair:
        if pairing.source == "log":
            return self._log_pair(pairing, row, rng)
        ids = self.stock.image_ids(row)
        order = [ids[at] for at in rng.permutation(len(ids))]
        query_form = cast(Form, pairing.query_form)
        pictures = {order[-1]: self.stock.picture(order[-1], rng)} if query_form.endswith("image") else None
        query = product_item(self.products[row], pictures, query_form)
        shown = order[: max(1, min(self.stock.view.num_images, len(order) - 1))]
        return _Pair(query, -1, row, *self._item(row, pairing.item_form, shown, rng))

    def _log_pair(self, pairing: Pairing, row: int, rng: np.random.Generator) -> _Pair:
        code, product = int(self.rows.query[row]), int(self.rows.product[row])
        asked = self.query(code)
        wants_picture = pairing.query_form.endswith("image") and asked.image_id is not None
        picture = self.stock.picture(asked.image_id, rng) if wants_picture else None
        query = query_item(asked.text if pairing.query_form.startswith("text") else None, picture)
        return _Pair(query, code, product, *self._shown(product, pairing.item_form, rng))

    def query(self, code: int) -> Query:
        """What was asked under a query code."""
        return self._queries[self.rows.query_ids[code]]

    def _shown(self, product: int, form: Form, rng: np.random.Generator) -> tuple[Item, int]:
        """A product in a form, with any of its pictures, and its content code."""
        chosen = self.stock.choose(product, rng) if form.endswith("image") else []
        return self._item(product, form, chosen, rng)

    def _item(
        self, product: int, form: Form, image_ids: Sequence[str], rng: np.random.Generator
    ) -> tuple[Item, int]:
        item = self.stock.item(product, form, image_ids, rng)
        shown = sorted(image_ids) if form.endswith("image") else ()
        digest = hashlib.blake2b(repr((item.text, *shown)).encode(), digest_size=8).digest()
        return item, int.from_bytes(digest, "big", signed=True)

    def _with_hard(self, batch: Batch, forms: Sequence[Form], step: int) -> Batch:
        rng = stream(self.seed, "hard", step)
        sources: Counter[str] = Counter()
        codes, shown = [], []
        for query, product, form in zip(batch.query.tolist(), batch.product.tolist(), forms, strict=True):
            found, counts = self._neighbors.draw(query, product, form, self.num_hard, rng)
            sources += counts
            codes.append(found)
            shown += [self._shown(code, form, rng) for code in found.tolist()]
        return replace(
            batch,
            hard=[item for item, _ in shown],
            hard_product=np.concatenate(codes),
            hard_content=np.array([content for _, content in shown], dtype=np.int64),
            hard_sources=sources,
        )


class _Pair(NamedTuple):
    asked: Item
    query: int
    product: int
    item: Item
    content: int


def turns_of(plan: np.ndarray) -> np.ndarray:
    """How often each step's pairing was taken before: where in its rows the step goes on.

    Example:
        >>> turns_of(np.array([0, 1, 0, 0, 1])).tolist()
        [0, 0, 1, 2, 1]
    """
    return np.array([np.sum(plan[:at] == now) for at, now in enumerate(plan)], dtype=np.int64)
