"""Published tables on disk: found by name, their columns checked, their bad rows counted by reason.

A table is `NAME.parquet` or `NAME.csv`, a folder NAME of such files, or shards `NAME-*`, `NAME_part*`. A file
or a column that is missing raises one sentence; a row that is wrong is counted and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moontide.foundation.errors import DataError, StorageError

BATCH_ROWS = 8_192
KEPT_ROWS = 1_000  # rejected rows written out for each table and reason; all are counted
SHARDS = ("-*", "_part*", "_[0-9]*", "_pure*")
Check = Callable[[pa.DataType], bool]


@dataclass
class Rejected:
    """Rows left out, counted by (table, reason); the first of each reason are kept with their place."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    rows: list[dict] = field(default_factory=list)

    def add(self, table: str, reason: str, rows: np.ndarray, values: list[str], detail: str) -> None:
        """Count rows of one reason.

        Args:
            table: name of the file. reason: short key.
            rows: number of each row in its file, from 1. values: what stood there; may be shorter.
            detail: the sentence for people.
        """
        held = self.counts[table, reason]
        self.counts[table, reason] += len(rows)
        for place, row in enumerate(rows[: max(KEPT_ROWS - held, 0)].tolist()):
            entity = values[place] if place < len(values) else None
            entry = {"table": table, "row": row, "entity_id": entity, "reason": reason, "detail": detail}
            self.rows.append(entry)

    def save(self, file: Path) -> None:
        """Write the kept rows, with the columns of a catalog import's rejected.parquet."""
        names = {"table": pa.string(), "row": pa.int64()}
        names |= dict.fromkeys(("entity_id", "reason", "detail"), pa.string())
        pq.write_table(pa.Table.from_pylist(self.rows, schema=pa.schema(names)), file)

    def lines(self) -> list[tuple[str, int]]:
        """The counts for people, most first."""
        order = sorted(self.counts.items(), key=lambda one: (-one[1], one[0]))
        return [(f"{table}: {reason}", number) for (table, reason), number in order]


def find_files(source: Path, name: str, ending: str) -> list[Path]:
    """The file, or the shards, of one table.

    Raises:
        StorageError: there is none.
    """
    if not source.is_dir():
        raise StorageError(f"{source} is no folder: give the one with {name}{ending}")
    if (source / f"{name}{ending}").is_file():
        return [source / f"{name}{ending}"]
    found = sorted((source / name).glob(f"*{ending}"))
    found = found or sorted({file for shard in SHARDS for file in source.glob(f"{name}{shard}{ending}")})
    if not found:
        raise StorageError(f"no {name}{ending} in {source}: download that table, or check the folder")
    return found


@dataclass(frozen=True)
class ParquetTable:
    """One published Parquet table, read in batches of the columns asked for.

    Args:
        source: folder. name: of the table. needs: column -> (what its type must be, the type in words).

    Raises:
        StorageError: no such file. DataError: a column is missing or of another type.
    """

    source: Path
    name: str
    needs: Mapping[str, tuple[Check, str]]

    def __post_init__(self) -> None:
        for file in self.files:
            schema = self._open(file).schema_arrow
            for column, (is_right, words) in self.needs.items():
                if column not in schema.names:
                    raise DataError(
                        f"{file} has no column {column} (it has {', '.join(schema.names)}): "
                        "give the table as published"
                    )
                if not is_right(schema.field(column).type):
                    raise DataError(
                        f"column {column} of {file} is {schema.field(column).type}, {words} expected: "
                        "give the table as published"
                    )

    @property
    def files(self) -> list[Path]:
        """Its files, in order."""
        return find_files(self.source, self.name, ".parquet")

    @property
    def label(self) -> str:
        """The name rejected rows are counted under."""
        return f"{self.name}.parquet"

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(self._open(file).metadata.num_rows for file in self.files)

    def batches(
        self, columns: list[str], limit: int | None = None, size: int = BATCH_ROWS
    ) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first row, rows) piece by piece, at most `limit` rows in all.

        Published row groups may hold a million rows of a thousand numbers, so pages are read one by one.
        """
        start = 0
        for file in self.files:
            reader = self._open(file)
            try:
                for batch in reader.iter_batches(size, columns=columns):
                    table = pa.Table.from_batches([batch])
                    if limit is not None:
                        table = table.slice(0, limit - start)
                    yield start + 1, table
                    start += len(table)
                    if limit is not None and start >= limit:
                        return
            except (pa.ArrowException, OSError) as error:
                text = str(error).splitlines()[0]
                raise DataError(f"{file} cannot be read ({text}): download it again") from None

    def _open(self, file: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            text = str(error).splitlines()[0]
            raise DataError(f"{file} cannot be read ({text}): download it again") from None


def is_integer(kind: pa.DataType) -> bool:
    """A column of whole numbers."""
    return pa.types.is_integer(kind)


def is_list(kind: pa.DataType) -> bool:
    """A column of lists of numbers, of fixed or of any length."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


INTEGER = (is_integer, "whole numbers")
LIST = (is_list, "lists of numbers")


def integers(table: pa.Table, column: str) -> np.ndarray:
    """A column of ids as int64, null as 0, which stands for "missing"."""
    return table.column(column).cast(pa.int64()).fill_null(0).to_numpy()


def lists(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists as (all numbers one after another, length of each list); null is an empty list."""
    held = table.column(column).combine_chunks()
    if isinstance(held, pa.ChunkedArray):
        held = pa.concat_arrays(held.chunks)
    if pa.types.is_fixed_size_list(held.type):
        held = held.cast(pa.list_(held.type.value_type))
    length = held.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return held.flatten().fill_null(0).to_numpy(zero_copy_only=False), length


def matrix(table: pa.Table, column: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists as (rows of the right width (rows, width), which rows of the table these are)."""
    numbers, length = lists(table, column)
    right = length == width
    kept = numbers[np.repeat(right, length)]
    return kept.reshape(-1, width), np.flatnonzero(right)
