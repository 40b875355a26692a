"""Which products and which events are held out: by group of near-duplicates, and by time.

Products of one group stand on one side of the split together, so that nothing a model has seen in training
comes back, renamed or in another size, as a test. The side depends on the group's id and a salt alone: the
same catalog gives the same split on every machine, and a new product moves only the groups it joins.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from moontide.catalog.schema import SCHEMAS
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.seeds import hash_share

TEST_SHARE = 0.2
HASH_DISTANCE = 2  # bits of 64: a picture saved again differs by 0 to 2
PLACEHOLDER_PRODUCTS = 50  # a picture of more products than this is a "no picture" sign, not a likeness

_COLORS = (
    "black white red blue green yellow orange purple pink brown grey gray beige navy gold silver cream multi"
)
_SIZES = "xxs xs s m l xl xxl xxxl small medium large size one"
_VARIANT_WORDS = frozenset(f"{_COLORS} {_SIZES}".split())
_NOT_WORDS = re.compile(r"[\W_]+")


def split_by_group(
    product_ids: Sequence[str], group_ids: Sequence[str], test_share: float = TEST_SHARE, salt: str = "split"
) -> pa.Table:
    """The `splits` table: whole groups are held out for test, chosen by the hash of the group's id.

    Args:
        product_ids, group_ids: equally long; the group of each product.
        test_share: share of groups to hold out, in [0, 1].
        salt: another salt, another split.

    Raises:
        SettingsError: `test_share` is not in [0, 1].

    Example:
        >>> split_by_group(["a", "b", "c"], ["g1", "g1", "g3"], 0.5).column("split").to_pylist()
        ['test', 'test', 'train']
    """
    check_share(test_share)
    ids, groups = [str(one) for one in product_ids], [str(one) for one in group_ids]
    assert len(ids) == len(groups)
    side = {group: "test" if hash_share(group, salt) < test_share else "train" for group in set(groups)}
    return pa.table([ids, groups, [side[group] for group in groups]], schema=SCHEMAS["splits"])


def check_share(test_share: float) -> None:
    """Refuse a share of groups that is not in [0, 1], with a `SettingsError`."""
    if not 0 <= test_share <= 1:
        raise SettingsError(f"test_share must be between 0 and 1, got {test_share}")


def split_rule(
    test_share: float = TEST_SHARE, salt: str = "split", hash_distance: int | None = HASH_DISTANCE
) -> dict[str, object]:
    """The entry `split_rule` of dataset.json: all it takes to make the split again."""
    joined = ["spu_id", "title", "picture sha256"]
    return {
        "by": "group",
        "groups": joined if hash_distance is None else [*joined, "picture dhash and title stem"],
        "test_share": test_share,
        "salt": salt,
        "hash_distance": hash_distance,
    }


def cutoff(events: pa.Table, share: float = 0.2) -> datetime:
    """The time from which on impressions are for test: the last `share` of them, in UTC.

    Rows with `at >= cutoff` are the test period, whatever their kind; one millisecond is never divided.

    Raises:
        DataError: there are no impressions with a time.
        SettingsError: `share` is not in (0, 1).
    """
    if not 0 < share < 1:
        raise SettingsError(f"share must be above 0 and below 1, got {share}")
    shown = events.filter(pc.equal(events.column("kind"), "impression")).column("at").drop_null()
    if not len(shown):
        raise DataError("the log has no impressions, so it has no test period: import impressions first")
    times = np.sort(shown.cast(pa.int64()).to_numpy())
    first = min(int(np.ceil(len(times) * (1 - share) - 1e-9)), len(times) - 1)
    return pa.scalar(int(times[first]), shown.type).as_py()


def near_duplicate_groups(
    products: pa.Table,
    images: pa.Table | None = None,
    hash_distance: int | None = HASH_DISTANCE,
    placeholder_products: int = PLACEHOLDER_PRODUCTS,
) -> list[str]:
    """The group of each product: products are joined, transitively, when they are nearly the same thing.

    Joined are products of the same `spu_id`; of equal normalized title; with an identical picture (sha256);
    and, with `hash_distance`, with pictures whose 64-bit difference hashes differ in at most that many bits
    while the titles are equal but for colors, sizes and numbers. A picture of over `placeholder_products`
    products is taken for a "no picture" sign and joins nothing.

    Args:
        products: rows of a `products` table (product_id, spu_id, title, image_ids).
        images: `Dataset.images.facts()`: image_id, sha256, dhash. None: by text alone.
        hash_distance: bits of 64; None leaves that rule out.

    Returns:
        One id per product, in their order: the smallest product id of the group, whatever the order of rows.
    """
    ids = products.column("product_id").to_pylist()
    if not ids:
        return []
    titles = products.column("title").to_pylist()
    keys = [_keys(products, "spu_id", ids), _pairs("title", [normalized_title(title) for title in titles])]
    if images is not None and "image_ids" in products.column_names:
        owners, rows = _owners(products, images)
        sums = np.asarray(images.column("sha256").to_pylist(), dtype=object)[rows]
        keys.append(_without_placeholders(owners, sums, placeholder_products))
        if hash_distance is not None:
            hashes = images.column("dhash").to_pylist()
            stems = [title_stem(title) for title in titles]
            keys.append(_alike(owners, [hashes[row] for row in rows], stems, hash_distance))
    labels = _components(len(ids), keys)
    smallest: dict[int, str] = {}
    for label, product_id in zip(labels, ids, strict=True):
        smallest[label] = min(product_id, smallest.get(label, product_id))
    return [smallest[label] for label in labels]


def normalized_title(title: str | None) -> str:
    """A title without case, punctuation, accents' spelling and repeated spaces; empty for none.

    Example:
        >>> normalized_title("  Red—SHIRT,  slim_fit ")
        'red shirt slim fit'
    """
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", title or "").casefold()).strip()


def title_stem(title: str | None) -> str:
    """A normalized title without what tells variants apart: colors, sizes, and words with digits.

    Example:
        >>> title_stem("Nike Air 90 Black XL") == title_stem("nike air 95, red")
        True
    """
    words = normalized_title(title).split()
    return " ".join(w for w in words if w not in _VARIANT_WORDS and not any(map(str.isdigit, w)))


Pairs = tuple[np.ndarray, np.ndarray]  # (product rows, keys): products of one key belong together


def _pairs(kind: str, keys: Sequence[str | None]) -> Pairs:
    rows = np.array([row for row, key in enumerate(keys) if key], dtype=np.int64)
    return rows, np.array([f"{kind}\x1f{keys[row]}" for row in rows], dtype=object)


def _keys(products: pa.Table, column: str, ids: list[str]) -> Pairs:
    if column not in products.column_names:
        return _pairs(column, [None] * len(ids))
    return _pairs(column, products.column(column).to_pylist())


def _owners(products: pa.Table, images: pa.Table) -> Pairs:
    """Each use of a known picture: row of the product, row of the picture."""
    place = {image_id: row for row, image_id in enumerate(images.column("image_id").to_pylist())}
    uses = [
        (row, place[image_id])
        for row, image_ids in enumerate(products.column("image_ids").to_pylist())
        for image_id in dict.fromkeys(image_ids or ())
        if image_id in place
    ]
    array = np.array(uses, dtype=np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _without_placeholders(owners: np.ndarray, sums: np.ndarray, limit: int) -> Pairs:
    uses: dict[str, set[int]] = {}
    for owner, digest in zip(owners.tolist(), sums, strict=True):
        if digest:
            uses.setdefault(digest, set()).add(owner)
    kept = [
        (owner, f"sha\x1f{digest}") for digest, rows in uses.items() if len(rows) <= limit for owner in rows
    ]
    return np.array([row for row, _ in kept], dtype=np.int64), np.array([k for _, k in kept], dtype=object)


def _alike(owners: np.ndarray, hashes: list[str | None], stems: list[str], distance: int) -> Pairs:
    """Products with one title stem and pictures within `distance` bits; a blank picture is like nothing."""
    blocks: dict[str, dict[int, list[int]]] = {}
    for owner, text in zip(owners.tolist(), hashes, strict=True):
        if text and int(text, 16) and stems[owner]:
            blocks.setdefault(stems[owner], {}).setdefault(int(text, 16), []).append(owner)
    found: list[tuple[int, str]] = []
    for block in blocks.values():
        bits = np.fromiter(block, dtype=np.uint64, count=len(block))
        uses = list(block.values())
        found += [(owner, f"hash\x1f{same[0]}") for same in uses for owner in same]
        for row in range(len(bits) - 1):
            near = np.flatnonzero(np.bitwise_count(bits[row + 1 :] ^ bits[row]) <= distance) + row + 1
            found += [(uses[other][0], f"hash\x1f{uses[row][0]}") for other in near.tolist()]
    return np.array([row for row, _ in found], dtype=np.int64), np.array([k for _, k in found], dtype=object)


def _components(num_products: int, pairs: list[Pairs]) -> list[int]:
    """Connected components of the graph whose nodes are products and keys."""
    rows = np.concatenate([row for row, _ in pairs])
    codes: dict[str, int] = {}
    keys = [codes.setdefault(key, len(codes)) for _, keys in pairs for key in keys.tolist()]
    size = num_products + len(codes)
    columns = np.array(keys, dtype=np.int64) + num_products
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:num_products].tolist()
