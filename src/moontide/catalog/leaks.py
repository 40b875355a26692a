"""Whether anything of a benchmark's test is in its training, counted; 0 everywhere is what is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset
from moontide.catalog.splits import near_duplicate_groups, normalized_title
from moontide.foundation.errors import DataError

Side = dict[str, str]  # product or query id -> train or test


@dataclass(frozen=True)
class Leak:
    """One thing that was looked for: in which division, how often it was found, whether it is an error."""

    division: str
    what: str
    count: int
    is_error: bool = True


def find_leaks(benchmark: Dataset) -> list[Leak]:
    """Look for what is on both sides, in each division of a benchmark.

    Raises:
        DataError: a table is missing or cannot be read.
    """
    folders = {"product": benchmark.path, "category": benchmark.path / "by_category"}
    return [
        leak
        for name, folder in folders.items()
        if (folder / "splits.parquet").exists()
        for leak in _leaks(benchmark, name, folder)
    ]


def _leaks(benchmark: Dataset, name: str, folder: Path) -> Iterator[Leak]:
    splits, judgments = _read(folder / "splits.parquet"), _read(folder / "judgments.parquet")
    side = {row["product_id"]: row["split"] for row in splits}
    asked = {(row["query_id"], row["source"]) for row in judgments}
    queries = {query.query_id: query for query in benchmark.queries()}
    facts = benchmark.images.facts(("sha256", "dhash"))
    digest = dict(zip(facts.column("image_id").to_pylist(), facts.column("sha256").to_pylist(), strict=True))
    content = {
        key: (normalized_title(one.text), digest.get(one.image_id or "")) for key, one in queries.items()
    }

    def both(pairs: Iterable[tuple[Any, str]]) -> int:
        sides: dict[Any, set[str]] = {}
        for key, own in pairs:
            if key:
                sides.setdefault(key, set()).add(own)
        return sum(len(one) > 1 for one in sides.values())

    yield Leak(name, "products in train and test", both((row["product_id"], row["split"]) for row in splits))
    yield Leak(name, "groups in train and test", both((row["group_id"], row["split"]) for row in splits))
    if name == "category":
        leaf = {one.product_id: one.category for one in benchmark.products()}
        pairs = ((leaf[product_id], own) for product_id, own in side.items())
        yield Leak(name, "leaf categories in train and test", both(pairs))
    yield Leak(name, "queries in train and test", both((content[query_id], own) for query_id, own in asked))
    photos = {(content[query_id][1], own) for query_id, own in asked}
    yield Leak(name, "query pictures in train and test", both(photos))
    shown = [
        (digest.get(image), side.get(p.product_id)) for p in benchmark.products() for image in p.image_ids
    ]
    others = {(sha, {"train": "test", "test": "train"}.get(own or "")) for sha, own in shown if sha}
    yield Leak(name, "query pictures of a product of the other side", len(photos & others))
    yield from _wrong_rows(name, folder, side, judgments)
    products = benchmark.table("products", ["product_id", "spu_id", "title", "image_ids"])
    groups = near_duplicate_groups(products, facts)
    ids = products.column("product_id").to_pylist()
    near = ((group, side[one]) for group, one in zip(groups, ids, strict=True) if one in side)
    yield Leak(name, "near-duplicate groups in train and test (a notice)", both(near), False)


def _wrong_rows(name: str, folder: Path, side: Side, judgments: list[dict[str, Any]]) -> Iterator[Leak]:
    """Rows of triplets and of enriched views that are not where they belong."""
    positive = {(row["query_id"], row["product_id"]) for row in judgments}
    wrong_side, no_judgment, is_positive = 0, 0, 0
    for own in ("train", "test"):
        for row in _read(folder / "triplets" / f"{own}.parquet"):
            wrong_side += side.get(row["positive_id"]) != own or side.get(row["negative_id"]) != own
            no_judgment += (row["query_id"], row["positive_id"]) not in positive
            is_positive += (row["query_id"], row["negative_id"]) in positive
    wrong_side += sum(side.get(row["product_id"]) != row["source"] for row in judgments)
    yield Leak(name, "pairs and triplets with a product of another side", wrong_side)
    yield Leak(name, "triplets whose positive is not judged", no_judgment)
    yield Leak(name, "negatives that are positives of their query", is_positive)
    file = folder / "augmented.parquet"
    views = _read(file) if file.exists() else []
    count = sum(side.get(row["product_id"]) != "train" for row in views)
    yield Leak(name, "enriched views of products not for train", count)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        return pq.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}): build the benchmark again") from None
