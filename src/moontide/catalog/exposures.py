"""What a log says of each query: which products were shown under it, which were touched, which were bought.

Queries of equal content (words without case, pixels of the picture) count as one, whoever asked and however
often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.catalog.splits import normalized_title
from moontide.foundation.errors import DataError

Positives = Literal["order", "cart", "click"]
COUNTED: dict[Positives, tuple[str, ...]] = {
    "order": ("order",),
    "cart": ("cart", "order"),
    "click": ("click", "cart", "order"),
}
TOUCHED = ("click", "cart", "order")
UNKNOWN_TIME = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Asked:
    """A query as its content: the words without case and spelling, and the sha256 of the picture."""

    query_id: str
    text: str
    photo: str | None

    @property
    def form(self) -> str:
        """text, image or both."""
        return "both" if self.text and self.photo else "image" if self.photo else "text"

    @property
    def unit(self) -> str:
        """What may not stand on both sides of a split: the picture where there is one, else the words."""
        return f"photo {self.photo}" if self.photo else f"text {self.text}"


@dataclass(frozen=True)
class Exposures:
    """Pairs of query and product, as sorted unique keys `query code * number of products + product code`.

    Args:
        product_ids, queries: by code.
        positive: bought, or what counts as such; at: (positive,) first time of each, in milliseconds.
        shown: in a slate; touched: clicked, put in a cart or bought, by anyone.
    """

    product_ids: list[str]
    queries: list[Asked]
    positive: np.ndarray
    at: np.ndarray
    shown: np.ndarray
    touched: np.ndarray


def read_exposures(dataset: Dataset, positives: Positives = "order") -> Exposures:
    """The pairs of a dataset's log.

    Args:
        positives: the weakest kind of event that makes a pair positive.

    Raises:
        DataError: the log has no impressions, or no such event.
    """
    product_ids = dataset.table("products", ["product_id"]).column(0).to_pylist()
    ids, code_of_id, queries = _queries(dataset)
    events = dataset.table("events", ["kind", "at", "query_id", "product_id"])
    query = _codes(events.column("query_id"), ids)
    product = _codes(events.column("product_id"), product_ids)
    known = (query >= 0) & (product >= 0)
    query[known] = code_of_id[query[known]]
    known &= query >= 0
    keys = query * len(product_ids) + product

    def of_kinds(kinds: Sequence[str]) -> np.ndarray:
        is_kind = pc.is_in(events.column("kind"), value_set=pa.array(list(kinds)))
        return np.flatnonzero(known & is_kind.to_numpy(zero_copy_only=False))

    shown, bought = of_kinds(["impression"]), of_kinds(COUNTED[positives])
    if not len(shown):
        raise DataError(
            f"the log of {dataset.path} has no impressions under a query: "
            "a negative is a product that was shown and left alone"
        )
    if not len(bought):
        weaker = {"order": ": try --positives click", "cart": ": try --positives click", "click": ""}
        raise DataError(f"the log of {dataset.path} has no {positives} under a query{weaker[positives]}")
    at = events.column("at").cast(pa.int64()).fill_null(UNKNOWN_TIME).to_numpy()
    order = bought[np.lexsort((at[bought], keys[bought]))]
    positive, first = np.unique(keys[order], return_index=True)
    return Exposures(
        product_ids, queries, positive, at[order][first],
        np.unique(keys[shown]), np.unique(keys[of_kinds(TOUCHED)]),
    )  # fmt: skip


def _queries(dataset: Dataset) -> tuple[list[str], np.ndarray, list[Asked]]:
    """All query ids, the content code of each (-1: it asks nothing that is here), and the contents."""
    facts = dataset.images.facts(("sha256",)).to_pylist()
    digest = {row["image_id"]: row["sha256"] for row in facts}
    codes: dict[tuple[str, str | None], int] = {}
    ids, code, queries = [], [], []
    for query in dataset.queries():
        text, photo = normalized_title(query.text), digest.get(query.image_id or "")
        is_whole = (text or photo) and (photo or not query.image_id)
        ids.append(query.query_id)
        code.append(codes.setdefault((text, photo), len(codes)) if is_whole else -1)
        if code[-1] == len(queries):
            queries.append(Asked(query.query_id, text, photo))
    return ids, np.array(code, dtype=np.int64), queries


def _codes(column: pa.ChunkedArray, ids: list[str]) -> np.ndarray:
    """The place of each value among `ids`, -1 where it is not there."""
    found = pc.index_in(column, value_set=pa.array(ids, pa.string()))
    return found.fill_null(-1).to_numpy().astype(np.int64)
