"""What jobs add to a dataset that exists: a table written anew, in the dataset or in a copy of it.

Files are never changed in place: a table is written whole beside its place and renamed, then dataset.json
takes its row count and sha256. A dataset that shares the old file by hard link keeps it.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.schema import SHARDED, conform
from moontide.foundation.errors import DataError
from moontide.foundation.storage import read_json, write_bytes, write_json


def replace_table(dataset: Dataset, name: str, rows: pa.Table | list[dict]) -> None:
    """Write table `name` whole in the place of the one there.

    Raises:
        DataError: the rows do not fit the table. StorageError: the folder cannot be written.
    """
    assert name not in SHARDED
    table, stream = conform(name, rows), io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    data = stream.getvalue()
    write_bytes(dataset.path / f"{name}.parquet", data)
    info = read_json(dataset.path / "dataset.json")  # another job may have written there since
    info.setdefault("rows", {})[name] = len(table)
    info.setdefault("sha256", {})[f"{name}.parquet"] = hashlib.sha256(data).hexdigest()
    write_json(dataset.path / "dataset.json", info)
    dataset.info = info


def copy_of(dataset: Dataset, to: Path | str | None) -> Dataset:
    """The dataset to add to: itself where `to` is None, else a copy at `to` that shares its files.

    A copy that is there already is gone on with.

    Raises:
        DataError: `to` holds another dataset. StorageError: it cannot be written.
    """
    if to is None or Path(to).resolve() == dataset.path.resolve():
        return dataset
    if (Path(to) / "dataset.json").is_file():
        copy = Dataset.open(to)
        names = ["products.parquet", *(file.name for file in dataset.files("images"))]
        sums = [[one.info.get("sha256", {}).get(name) for name in names] for one in (copy, dataset)]
        if sums[0] != sums[1]:
            raise DataError(f"{to} holds other products than {dataset.path}: name another folder")
        return copy
    with DatasetWriter(to, dataset.info["name"], base=dataset):
        pass
    return Dataset.open(to)
