"""Query, product that was bought, product that was shown and left alone, divided into train and test.

A pair is on a side when both its product and its query are:

    product   the side of its group of near-duplicates (or of its category)
    query     the side of all its products; half of those with products on both sides, by hash, go to test

A negative was shown under the query and never clicked, put in a cart or bought under it by anyone, nor was
one of its group; it is on the same side, and of another leaf category where there is one.

Paper: MOON2.0 2 (triplets; negatives are exposed items of low relevance, paper reported); the rules are ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from moontide.catalog.exposures import UNKNOWN_TIME, Exposures
from moontide.catalog.schema import SCHEMAS, conform
from moontide.foundation.seeds import hash_share, seed_of

SIDES = ("train", "test")
TRIPLETS = pa.schema(
    [
        ("query_id", pa.string()),
        ("positive_id", pa.string()),
        ("negative_id", pa.string()),
        ("form", pa.string()),
        ("at", pa.timestamp("ms", tz="UTC")),
        ("negative", pa.string()),
    ]
)


@dataclass
class Division:
    """One way to divide a log into train and test.

    Args:
        name: "product" or "category".
        splits: side of every product that has one.
        judgments: the positive pairs, their side as source.
        triplets: by side.
        left_out: pairs that were not used, by reason.
    """

    name: str
    splits: pa.Table
    judgments: pa.Table
    triplets: dict[str, pa.Table]
    left_out: Counter[str] = field(default_factory=Counter)

    def products(self, side: str) -> list[str]:
        """The products of a side."""
        return [row["product_id"] for row in self.splits.to_pylist() if row["split"] == side]


def divide(
    log: Exposures, name: str, splits: pa.Table, leaves: list[str], photos: list[list[str]]
) -> Division:
    """Divide the pairs of a log, and find a negative for each.

    Args:
        splits: product_id, group_id, split; products that are not in it take no part.
        leaves: leaf category of each product of `log.product_ids`, "" for none.
        photos: sha256 of the pictures of each; a query asked with a picture of the other side is left out.
    """
    side, group = _sides(log.product_ids, splits)
    query, product = np.divmod(log.positive, len(log.product_ids))
    left_out: Counter[str] = Counter()
    query_side = _query_sides(log, name, query, side[product])
    shows_other = _shows_other_side(log, photos, side, query_side)
    has_side = side[product] >= 0
    agrees = has_side & (query_side[query] == side[product])
    left_out["the product has no side"] = int((~has_side).sum())
    left_out["query and product are on different sides"] = int((has_side & ~agrees).sum())
    left_out["the query's picture is one of a product of the other side"] = int(
        (agrees & shows_other[query]).sum()
    )
    rows = np.flatnonzero(agrees & ~shows_other[query])
    pairs = [(int(query[row]), int(product[row]), int(log.at[row])) for row in rows]
    judgments = [
        {
            "query_id": log.queries[q].query_id, "product_id": log.product_ids[p],
            "grade": 1.0, "source": SIDES[side[p]],
        }
        for q, p, _ in pairs
    ]  # fmt: skip
    found: dict[str, list[dict]] = {one: [] for one in SIDES}
    candidates = _Candidates(log, side, group, leaves)
    for q, p, at in pairs:
        negative, kind = candidates.negative(q, p)
        if negative is None:
            left_out[f"{SIDES[side[p]]} pairs without a negative (judgments only)"] += 1
            continue
        found[SIDES[side[p]]].append(
            {
                "query_id": log.queries[q].query_id, "positive_id": log.product_ids[p],
                "negative_id": log.product_ids[negative], "form": log.queries[q].form,
                "at": None if at == UNKNOWN_TIME else at, "negative": kind,
            }
        )  # fmt: skip
    triplets = {one: pa.Table.from_pylist(found[one], schema=TRIPLETS) for one in SIDES}
    return Division(name, conform("splits", splits), conform("judgments", judgments), triplets, left_out)


def _sides(product_ids: list[str], splits: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Side (-1: none) and group code of each product."""
    of = {row["product_id"]: row for row in splits.to_pylist()}
    codes: dict[str, int] = {}
    side = np.full(len(product_ids), -1)
    group = np.empty(len(product_ids), np.int64)
    for code, product_id in enumerate(product_ids):
        row = of.get(product_id)
        own = row["group_id"] if row and row["group_id"] else f"alone {product_id}"
        group[code] = codes.setdefault(own, len(codes))
        if row and row["split"] in SIDES:
            side[code] = SIDES.index(row["split"])
    return side, group


def _query_sides(log: Exposures, name: str, query: np.ndarray, product_side: np.ndarray) -> np.ndarray:
    """Side of each query, decided once for all queries of one picture, or of the same words."""
    codes: dict[str, int] = {}
    unit = np.array([codes.setdefault(asked.unit, len(codes)) for asked in log.queries], np.int64)
    has = np.zeros((2, len(codes)), bool)
    for side in (0, 1):
        has[side, unit[query[product_side == side]]] = True
    chosen = np.where(has[1], 1, 0)
    for key, code in codes.items():
        if has[:, code].all():
            chosen[code] = hash_share(key, f"queries by {name}") < 0.5
    return chosen[unit]


def _shows_other_side(
    log: Exposures, photos: list[list[str]], side: np.ndarray, query_side: np.ndarray
) -> np.ndarray:
    """Whether the picture of each query is one of a product of the other side."""
    owners: dict[str, set[int]] = {}
    for code, digests in enumerate(photos):
        for digest in digests:
            owners.setdefault(digest, set()).add(int(side[code]))
    return np.array(
        [
            1 - int(own) in owners.get(asked.photo or "", ())
            for asked, own in zip(log.queries, query_side, strict=True)
        ]
    )


class _Candidates:
    """Products that were shown under a query and left alone."""

    def __init__(self, log: Exposures, side: np.ndarray, group: np.ndarray, leaves: list[str]):
        self._log, self._side, self._group = log, side, group
        codes: dict[str, int] = {"": 0}
        self._leaf = np.array([codes.setdefault(leaf, len(codes)) for leaf in leaves], np.int64)
        self._alone: dict[int, np.ndarray] = {}

    def negative(self, query: int, product: int) -> tuple[int | None, str]:
        """A candidate by the hash of query and product, and of which category it is."""
        alone = self._left_alone(query)
        alone = alone[self._side[alone] == self._side[product]]
        if not len(alone):
            return None, ""
        leaf = self._leaf[product]
        other = alone[(self._leaf[alone] != leaf) & (self._leaf[alone] > 0)] if leaf else alone[:0]
        choices = other if len(other) else alone
        names = (self._log.queries[query].query_id, self._log.product_ids[product])
        chosen = int(choices[seed_of(0, "negative", *names) % len(choices)])
        return chosen, "other category" if len(other) else "same category"

    def _left_alone(self, query: int) -> np.ndarray:
        if query not in self._alone:
            shown, touched = self._under(self._log.shown, query), self._under(self._log.touched, query)
            self._alone[query] = shown[~np.isin(self._group[shown], self._group[touched])]
        return self._alone[query]

    def _under(self, keys: np.ndarray, query: int) -> np.ndarray:
        size = len(self._log.product_ids)
        first, last = np.searchsorted(keys, (query * size, (query + 1) * size))
        return keys[first:last] - query * size


def category_splits(
    product_ids: list[str], splits: pa.Table, leaves: list[str], test_share: float
) -> pa.Table:
    """A `splits` table whose train and test have no leaf category and no group in common.

    Categories that share a group stay together. They go to test in the order of their hash, as long as test
    has at most `test_share` of the products (the smallest, where none is so small); products without a
    category take no part. Empty when there are not two such sets of categories.
    """
    groups = {row["product_id"]: row["group_id"] or row["product_id"] for row in splits.to_pylist()}
    members: dict[str, list[int]] = {}
    root: dict[str, str] = {}

    def top(name: str) -> str:
        while root.setdefault(name, name) != name:
            root[name] = name = root[root[name]]
        return name

    known = [code for code, leaf in enumerate(leaves) if leaf and product_ids[code] in groups]
    for code in known:
        first, second = sorted((top(f"leaf {leaves[code]}"), top(f"group {groups[product_ids[code]]}")))
        root[first] = second  # "leaf ..." sorts last: the name of a set is one of its categories
    for code in known:
        members.setdefault(top(f"leaf {leaves[code]}"), []).append(code)
    room, test = int(np.ceil(test_share * len(known))), set()
    for name in sorted(members, key=lambda name: hash_share(name, "categories")):
        if len(members[name]) <= room and len(test) + 1 < len(members):
            room -= len(members[name])
            test.add(name)
    if len(members) < 2:
        return SCHEMAS["splits"].empty_table()
    if not test:  # few, large categories
        test.add(min(members, key=lambda name: (len(members[name]), name)))
    rows = [
        {
            "product_id": product_ids[code], "group_id": groups[product_ids[code]],
            "split": SIDES[top(f"leaf {leaves[code]}") in test],
        }
        for code in known
    ]  # fmt: skip
    return conform("splits", rows)
