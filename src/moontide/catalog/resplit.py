"""The split of a dataset that exists, made again: only `splits.parquet` and `dataset.json` change."""

from __future__ import annotations

import hashlib
import io
from collections import Counter

import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset
from moontide.catalog.splits import (
    HASH_DISTANCE,
    TEST_SHARE,
    near_duplicate_groups,
    split_by_group,
    split_rule,
)
from moontide.foundation.storage import write_bytes, write_json


def write_splits(
    dataset: Dataset,
    test_share: float = TEST_SHARE,
    salt: str = "split",
    hash_distance: int | None = HASH_DISTANCE,
) -> Counter[str]:
    """Hold out groups of near-duplicates, and write that down in the dataset; other files stay as they are.

    Each file is replaced whole. A dataset opened over this one keeps its own split: files are never
    changed in place.

    Returns:
        How many products are for train and for test.

    Raises:
        DataError: there are no products, or they cannot be read.
        SettingsError: `test_share` is not in [0, 1].
        StorageError: the folder cannot be written.
    """
    dataset.require("a split", "products")
    products = dataset.table("products", ["product_id", "spu_id", "title", "image_ids"])
    images = dataset.images.facts(("sha256", "dhash")) if dataset.has("images") else None
    groups = near_duplicate_groups(products, images, hash_distance)
    splits = split_by_group(products.column("product_id").to_pylist(), groups, test_share, salt)
    stream = io.BytesIO()
    pq.write_table(splits, stream, compression="zstd")
    data = stream.getvalue()
    write_bytes(dataset.path / "splits.parquet", data)
    dataset.info["split_rule"] = split_rule(test_share, salt, hash_distance)
    dataset.info.setdefault("rows", {})["splits"] = len(splits)
    dataset.info.setdefault("sha256", {})["splits.parquet"] = hashlib.sha256(data).hexdigest()
    write_json(dataset.path / "dataset.json", dataset.info)
    return Counter(splits.column("split").to_pylist())
