"""What an evaluation asks, and what would be right: queries of the log, or else views of held-out products.

    query   with a log                               without one
    t       a text query                             the title
    i       a picture query                          another photo than those the product is shown with
    mm      a query of text and picture; where no    title and other photo
            query has both, a text query and
            another photo of the product

A view never meets itself: a title is held against candidates without titles, a photo against other photos;
a product's only photo asks for texts alone.

Paper: MOON 3.5 (query forms and purchases as truth: paper; views, and the composed mm query: ours).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from moontide.catalog.records import Query
from moontide.encoder.model.inputs import Item, Picture, query_item
from moontide.encoder.pool import Pool, Shown
from moontide.encoder.stages.rows import BEHAVIORS, WEIGHTS, is_known, log_rows

QueryForm = Literal["t", "i", "mm"]
SHOWN: dict[str, Shown] = {"t": Shown("rich"), "i": Shown("image"), "mm": Shown("rich_image")}
TITLE = Shown("title")
NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Asked:
    """Queries and the product each should find; row r asks items[item[r]] for products[product[r]].

    Args:
        source: "log", "log and photo" (composed), or "views".
        also: products that were chosen for the same query as well; they count neither way.
        is_known: whether training saw the query, with whatever product.
        without: what candidates must not show, because the query shows it.
    """

    source: str
    items: list[Item]
    item: np.ndarray
    product: np.ndarray
    also: list[np.ndarray]
    is_known: np.ndarray
    without: tuple[str, ...] = ()


class Questions:
    """All that can be asked about a pool.

    Args:
        chosen: the weakest event that makes a product right for a query.
    """

    def __init__(self, pool: Pool, chosen: Literal["click", "cart", "order"] = "click", limit: int = 1_000):
        self.pool, self.limit = pool, limit
        kinds = [kind for kind in BEHAVIORS if WEIGHTS[kind] >= WEIGHTS[chosen]]
        wanted = np.full(len(pool.ids), pool.dataset.has("events"))  # judgments are asked elsewhere
        self._log = log_rows(pool.dataset, pool.ids, wanted, kinds=kinds)
        self._queries = {q.query_id: q for q in pool.dataset.queries()} if len(self._log.query) else {}

    def ask(
        self, query: QueryForm, candidate: QueryForm, is_wanted: np.ndarray | None = None
    ) -> Asked | None:
        """The questions of one direction; None where neither log nor catalog has any.

        Args:
            is_wanted: products that may be asked for, all of them unseen in training; None: those held out.
        """
        wanted = self.pool.is_held if is_wanted is None else is_wanted
        shown = self.pool.is_member & wanted & self.pool.can_show(SHOWN[candidate])
        asked = self._from_log(query, shown)
        if asked is None and query == "mm":
            asked = self._composed(shown)
        if asked is None and is_wanted is None:
            asked = self._views(query, candidate, shown)
        return asked

    @cached_property
    def _trained(self) -> np.ndarray:
        """Codes of the queries that training may have seen."""
        pool = self.pool
        seen = ~pool.is_held & is_known(pool.products, pool.before)
        return np.unique(log_rows(pool.dataset, pool.ids, seen, before=pool.before).query)

    @cached_property
    def _forms(self) -> list[str | None]:
        """t, i or mm for each query code; None where its picture is missing."""
        return [self._form(self._queries[query_id]) for query_id in self._log.query_ids]

    def _form(self, query: Query) -> str | None:
        if query.image_id is None:
            return "t"
        if query.image_id not in self.pool.dataset.images:
            return None
        return "mm" if query.text else "i"

    @cached_property
    def _chosen(self) -> dict[int, np.ndarray]:
        """Products chosen for each query code."""
        order = np.argsort(self._log.query, kind="stable")
        codes, starts = np.unique(self._log.query[order], return_index=True)
        return dict(zip(codes.tolist(), np.split(self._log.product[order], starts[1:]), strict=True))

    def _rows(self, form: str, is_wanted: np.ndarray) -> np.ndarray:
        """Rows of the log by form of query, one for each query and group of products."""
        if not len(self._log.query):
            return NONE
        right = np.array([found == form for found in self._forms])[self._log.query]
        rows = np.flatnonzero(right & is_wanted[self._log.product])
        pairs = np.stack([self._log.query[rows], self.pool.group[self._log.product[rows]]], axis=1)
        return np.sort(rows[np.unique(pairs, axis=0, return_index=True)[1]]) if len(rows) else rows

    def _from_log(self, form: QueryForm, is_wanted: np.ndarray) -> Asked | None:
        rows = self.pool.some(self._rows(form, is_wanted), self.limit, "log", form)
        if not len(rows):
            return None
        distinct, place = np.unique(self._log.query[rows], return_inverse=True)
        asked = [self._queries[self._log.query_ids[code]] for code in distinct]
        images = self.pool.dataset.images
        items = [query_item(q.text, images[q.image_id] if q.image_id else None) for q in asked]
        return self._asked("log", rows, items, place)

    def _composed(self, is_wanted: np.ndarray) -> Asked | None:
        """Text queries, each with another photo of what was chosen."""
        rows = [
            row
            for row in self._rows("t", is_wanted)
            if self.pool.other_photo(self._log.product[row]) is not None
        ]
        rows = self.pool.some(np.array(rows, dtype=np.int64), self.limit, "log", "composed")
        if not len(rows):
            return None
        texts = [self._queries[self._log.query_ids[code]].text for code in self._log.query[rows]]
        photos = [self._other(code) for code in self._log.product[rows]]
        items = [query_item(text, photo) for text, photo in zip(texts, photos, strict=True)]
        return self._asked("log and photo", rows, items, np.arange(len(rows)))

    def _asked(self, source: str, rows: np.ndarray, items: list[Item], place: np.ndarray) -> Asked:
        query, product = self._log.query[rows], self._log.product[rows]
        group = self.pool.group
        pairs = zip(query.tolist(), product.tolist(), strict=True)
        also = [chosen[group[chosen] != group[own]] for q, own in pairs for chosen in [self._chosen[q]]]
        return Asked(source, items, place, product, also, np.isin(query, self._trained))

    def _views(self, query: QueryForm, candidate: QueryForm, is_wanted: np.ndarray) -> Asked | None:
        pool = self.pool
        has_title = pool.can_show(TITLE)
        has_other = np.array(
            [pool.other_photo(code) is not None for code in range(len(pool.ids))], dtype=bool
        )
        needs = {"t": has_title, "i": has_other, "mm": has_title & has_other}[query]
        if (query, candidate) == ("i", "t"):
            needs = pool.is_pictured
        without = ("title",) if query != "i" and candidate != "i" else ()
        showable = pool.can_show(replace(SHOWN[candidate], without=without))
        codes = pool.some(np.flatnonzero(is_wanted & needs & showable), self.limit, "views", query, candidate)
        if not len(codes):
            return None
        make: dict[str, Callable[[int], Item]] = {
            "t": lambda code: query_item(pool.products[code].title),
            "i": lambda code: query_item(image=self._other(code) or self._only(code)),
            "mm": lambda code: query_item(pool.products[code].title, self._other(code)),
        }
        items = [make[query](code) for code in codes]
        unseen = np.zeros(len(codes), bool)
        return Asked("views", items, np.arange(len(codes)), codes, [NONE] * len(codes), unseen, without)

    def _other(self, code: int) -> Picture | None:
        image_id = self.pool.other_photo(code)
        return None if image_id is None else self.pool.dataset.images[image_id]

    def _only(self, code: int) -> Picture:
        return self.pool.dataset.images[self.pool.pictures[code][0]]
