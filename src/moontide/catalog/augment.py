"""Enriched titles and added pictures of products: what they must fulfill, and where they are kept.

Only training reads them: a product's `image_ids` and title stay as they are, so that evaluation, embedding
and serving see what the merchant gave. `encoder/augment.py` makes them.

Paper: MOON2.0 3.3: entities kept, nothing made up, low consistency dropped (paper reported; rules ours).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.catalog.entities import Entity, words_of
from moontide.catalog.records import Product

if TYPE_CHECKING:
    from moontide.catalog.regions import Box

MAX_WORDS = 60
LOWEST_SHARE = 0.15
FEWEST_PRODUCTS = 7  # 15 % of fewer are none
_UNITS = "mm cm m km in inch inches ft ml cl l oz g kg lb mg w kw v mah hz gb tb mp x pcs pc pack d k p"
_MEASURES = frozenset(_UNITS.split())


class TextEnricher(Protocol):
    """Gives a title that says more than the product's own, or None.

    `source` and `version` are kept beside what it gives.
    """

    source: str
    version: str

    def enrich(self, product: Product, picture: np.ndarray | None) -> str | None: ...


class ImageExpander(Protocol):
    """Makes pictures (height, width, 3) uint8 of a product from one, `box` being where it is, in shares.

    `main` shows the product alone (I_m); `context` shows it elsewhere (I_k^c), number 1, 2, ... each another
    way. It may raise an `ImageError`: the picture is then left out.
    """

    source: str
    version: str

    def main(self, picture: np.ndarray, box: Box, title: str) -> np.ndarray: ...
    def context(self, picture: np.ndarray, box: Box, number: int, title: str) -> np.ndarray: ...


class ConsistencyFilter(Protocol):
    """How well pictures and texts go together: a score per pair, higher is better."""

    def scores(self, pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray: ...


def accepts(
    title: str,
    title_plus: str,
    entities_of: Callable[[str], Iterable[Entity]],
    identities: Collection[tuple[str, ...]],
    description: str = "",
) -> str | None:
    """Why an enriched title is refused; None if it may be used.

    Every entity of the title must be kept. No brand or model may appear that neither title nor description
    has: a known name, or a word with a digit that is neither a measure ("500 ml") nor part of a known value.
    A brand that the catalog does not know is not noticed.

    Args:
        identities: words of known brands and models, `Gazetteer.identities`.

    Returns:
        None, "too_long" (60 words), "lost_entity", "new_brand" or "new_model".

    Paper: MOON2.0 3.3 (1) (paper reported); E is of the title, for a description names what goes with a
    product or compares it (ours).
    """
    before, after = words_of(title), words_of(title_plus)
    if len(after) > MAX_WORDS:
        return "too_long"
    if any(not _has(after, words_of(entity.text)) for entity in entities_of(title)):
        return "lost_entity"
    told, entities = words_of(description), list(entities_of(title_plus))
    named = [words_of(entity.text) for entity in entities]
    if any(words in identities and not (_has(before, words) or _has(told, words)) for words in named):
        return "new_brand"
    known = {*before, *told, *(word for words in named for word in words)}
    for word, following in zip(after, (*after[1:], ""), strict=True):
        if word not in known and any(map(str.isdigit, word)) and not _is_measure(word, following):
            return "new_model"
    return None


def _has(words: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1))


def _is_measure(word: str, following: str) -> bool:
    unit = word.lstrip("0123456789.,")
    return unit in _MEASURES if unit else following in _MEASURES


def lowest(
    scores: np.ndarray,
    product_ids: Sequence[str],
    categories: Sequence[tuple[str, ...]],
    share: float = LOWEST_SHARE,
) -> np.ndarray:
    """Which rows are the lowest share of their leaf category; a score that is not a number counts as none.

    Rows of a leaf with fewer than seven products are held against each other under its parent, and so on up
    to the whole catalog. Of n rows, floor(share n) are marked; of equal scores the earlier.

    Paper: MOON2.0 3.3 (3): low scores dropped (paper reported; 15 % per category ours).
    """
    is_low = np.zeros(len(scores), dtype=bool)
    group = {row: categories[row] for row in np.flatnonzero(~np.isnan(scores)).tolist()}
    for depth in range(max(map(len, group.values()), default=0), -1, -1):
        members: dict[tuple[str, ...], list[int]] = {}
        for row, path in group.items():
            if len(path) == depth:
                members.setdefault(path, []).append(row)
        for path, rows in members.items():
            if depth and len({product_ids[row] for row in rows}) < FEWEST_PRODUCTS:
                group |= dict.fromkeys(rows, path[:-1])
                continue
            order = np.argsort(scores[rows], kind="stable")
            is_low[np.array(rows)[order[: int(share * len(rows) + 1e-9)]]] = True
    return is_low


@dataclass(frozen=True)
class Augmented:
    """What a dataset adds to its train products, refused entries included.

    Example:
        >>> rows = [{"product_id": "p", "kind": "title", "title": "red chair, oak", "accepted": True}]
        >>> Augmented(tuple(rows)).as_mapping()
        {'p': ('red chair, oak', ())}
    """

    rows: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, dataset: Dataset) -> Augmented:
        """The `augmented` table; none gives an empty one."""
        return cls(tuple(dataset.table("augmented").to_pylist()))

    def as_mapping(self) -> dict[str, tuple[str | None, tuple[str, ...]]]:
        """By product id its enriched title, or None, and the ids of its added pictures, main one first."""
        titles: dict[str, str] = {}
        pictures: dict[str, list[str]] = {}
        for row in self.rows:
            if not row["accepted"]:
                continue
            if row["kind"] == "title":
                titles[row["product_id"]] = row["title"]
            else:
                own = pictures.setdefault(row["product_id"], [])
                own.insert(0 if row["kind"] == "main" else len(own), row["image_id"])
        ids = dict.fromkeys([*titles, *pictures])
        return {one: (titles.get(one), tuple(pictures.get(one, ()))) for one in ids}

    def counts(self) -> Counter[tuple[str, str]]:
        """How many of each kind were "accepted", or refused for which reason."""
        return Counter((row["kind"], "accepted" if row["accepted"] else row["reason"]) for row in self.rows)
