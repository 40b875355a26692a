"""Pictures of a dataset by id, in memory that does not grow with their number.

`Dataset.images` keeps every id and up to 128 row groups in memory: right for training, which comes back to
the same pictures; wrong for an embedding job, which reads each one once. Here the ids lie in a temporary
file, and pictures are read in the order of the disk, one row group at a time.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset

ASK = 500  # ids in one question to the index


@dataclass(frozen=True, order=True)
class Place:
    """Where a picture lies (file, row group, row in it), and the SHA-256 of its bytes."""

    file: int
    group: int
    row: int
    sha256: bytes


class PictureIndex:
    """Finds and reads pictures by id; made for one pass over a dataset by one thread.

    Args:
        dataset: its image files are listed once, which reads ids and hashes but no pictures.
    """

    def __init__(self, dataset: Dataset):
        self._files = [open_streaming(file) for file in dataset.files("images")]
        self._index = sqlite3.connect("")  # a private file that vanishes with the connection
        self._index.execute("PRAGMA journal_mode = OFF")
        self._index.execute(
            "CREATE TABLE picture (id TEXT PRIMARY KEY, file INT, grp INT, row INT, sha256 BLOB)"
            " WITHOUT ROWID"
        )
        for number, file in enumerate(self._files):
            for group in range(file.num_row_groups):
                self._index.executemany(
                    "INSERT OR REPLACE INTO picture VALUES (?, ?, ?, ?, ?)", _listed(file, number, group)
                )

    def locate(self, image_ids: Iterable[str]) -> dict[str, Place]:
        """The places of those pictures that exist."""
        wanted = list(dict.fromkeys(image_ids))
        found = {}
        for start in range(0, len(wanted), ASK):
            part = wanted[start : start + ASK]
            marks = ", ".join("?" * len(part))
            rows = self._index.execute(
                f"SELECT id, file, grp, row, sha256 FROM picture WHERE id IN ({marks})", part
            )
            found.update({image_id: Place(*place) for image_id, *place in rows})
        return found

    def read(self, image_ids: Iterable[str]) -> dict[str, bytes]:
        """The bytes of those pictures that exist; row groups are opened one after the other, each once."""
        order = sorted(self.locate(image_ids).items(), key=lambda pair: pair[1])
        found: dict[str, bytes] = {}
        opened, column = None, None
        for image_id, place in order:
            if (place.file, place.group) != opened:
                opened = (place.file, place.group)
                column = None  # let go of one group before the next is read
                column = self._files[place.file].read_row_group(place.group, columns=["bytes"]).column(0)
            assert column is not None
            found[image_id] = column[place.row].as_py()
        return found


def open_streaming(file: Path) -> pq.ParquetFile:
    """A Parquet file read in small pieces: without this, a column of a row group is fetched whole."""
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)


def _listed(file: pq.ParquetFile, number: int, group: int) -> Iterator[tuple[str, int, int, int, bytes]]:
    table = file.read_row_group(group, columns=["image_id", "sha256"])
    hashes: list[str | None] = table.column("sha256").to_pylist()
    if None in hashes:  # an importer left them out
        data: pa.ChunkedArray = file.read_row_group(group, columns=["bytes"]).column(0)
        hashes = [hashlib.sha256(item.as_py()).hexdigest() for item in data]
    for row, (image_id, sha256) in enumerate(zip(table.column("image_id").to_pylist(), hashes, strict=True)):
        yield image_id, number, group, row, bytes.fromhex(sha256 or "")
