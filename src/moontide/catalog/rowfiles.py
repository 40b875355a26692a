"""Rows of a shop's file, one at a time: CSV, TSV, JSON lines or Parquet.

A row that cannot be read becomes a `Row` with a problem, and reading goes on. A file that cannot be read at
all raises. Nested objects become columns with dotted names ("specs.color").
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moontide.foundation.errors import DataError, StorageError

FORMATS = {
    ".csv": "csv", ".txt": "csv", ".tsv": "csv", ".tab": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
PEEK_ROWS = 1_000
BATCH_ROWS = 1_024
MAX_CELL_CHARS = 1 << 20
MAX_LINE_BYTES = 1 << 24


@dataclass(frozen=True)
class Row:
    """One data row: `number` counts from 1 (a header does not count); `problem` is (reason, sentence)."""

    number: int
    cells: dict[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


class RowFile:
    """A table on disk, read row by row, as often as asked.

    Args:
        path: the file; its ending tells the format.
        encoding: of a text file; None: UTF-8, or UTF-16 when the file begins with its mark.

    Raises:
        DataError: the ending is unknown, the header cannot be read, or two columns have one name.
        StorageError: the file is missing or may not be read.
    """

    def __init__(self, path: Path | str, encoding: str | None = None):
        self.path = Path(path)
        self.format = FORMATS.get(self.path.suffix.lower())
        if not self.path.exists():
            raise StorageError(f"no file at {self.path}: check the path")
        if self.format is None or not self.path.is_file():
            raise DataError(f"{self.path} is not a table: give one of {', '.join(FORMATS)}")
        self.encoding = encoding or self._found_encoding()
        try:
            "".encode(self.encoding)
        except LookupError:
            raise DataError(f"no encoding is called {encoding!r}: try utf-8, latin-1 or cp1252") from None

    def __iter__(self) -> Iterator[Row]:
        readers = {"csv": self._csv_rows, "json": self._json_rows, "parquet": self._parquet_rows}
        try:
            yield from readers[self.format or ""]()
        except UnicodeError as error:
            raise DataError(f"{self.path} is not {self.encoding} text ({error}): give --encoding") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read ({str(error).splitlines()[0]})") from None

    @cached_property
    def peek(self) -> list[Row]:
        """The first rows, from which columns, decimal marks and the like are told."""
        return list(itertools.islice(self, PEEK_ROWS))

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        if self.format == "csv":
            try:
                with self._text() as lines:
                    return self._header(next(csv.reader(lines, delimiter=self._delimiter), []))
            except UnicodeError:
                raise DataError(
                    f"the first line of {self.path} is not {self.encoding}: give --encoding"
                ) from None
            except (csv.Error, OSError) as error:
                raise DataError(f"{self.path} cannot be read ({error})") from None
        return list(dict.fromkeys(name for row in self.peek for name in row.cells))

    @cached_property
    def num_rows(self) -> int | None:
        """About how many rows there are: exact for Parquet, else the number of lines."""
        if self.format == "parquet":
            try:
                return pq.ParquetFile(self.path).metadata.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.path} cannot be read ({str(error).splitlines()[0]})") from None
        with self.path.open("rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))

    def _found_encoding(self) -> str:
        try:
            with self.path.open("rb") as file:
                start = file.read(4)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror}") from None
        return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"

    def _text(self) -> Any:
        errors = "surrogateescape" if "16" not in self.encoding else "strict"
        return self.path.open(encoding=self.encoding, errors=errors, newline="")

    @cached_property
    def _delimiter(self) -> str:
        if self.path.suffix.lower() in (".tsv", ".tab"):
            return "\t"
        with self._text() as lines:
            first = lines.readline(MAX_CELL_CHARS)
        counts = {sign: next(csv.reader([first], delimiter=sign), []) for sign in ",;\t|"}
        return max(counts, key=lambda sign: len(counts[sign]))

    def _header(self, cells: list[str]) -> list[str]:
        "".join(cells).encode()  # raises where a byte was not text
        names = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, 1)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{self.path} has two columns called {', '.join(twice)}: rename one")
        return names

    def _csv_rows(self) -> Iterator[Row]:
        csv.field_size_limit(MAX_CELL_CHARS)
        with self._text() as lines:
            reader = csv.reader(lines, delimiter=self._delimiter)
            next(reader, None)
            number = 0
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    number += 1
                    yield Row(number, problem=("broken_row", f"line {reader.line_num}: {error}"))
                    continue
                if cells:
                    number += 1
                    yield self._csv_row(number, cells)

    def _csv_row(self, number: int, cells: list[str]) -> Row:
        try:
            "\n".join(cells).encode()
        except UnicodeEncodeError:
            text = f"the row is not {self.encoding.removesuffix('-sig')} text: save it so, or give --encoding"
            return Row(number, problem=("wrong_encoding", text))
        if len(cells) != len(self.columns):
            text = f"the row has {len(cells)} fields, the header has {len(self.columns)}"
            return Row(number, problem=("wrong_field_count", text))
        return Row(number, dict(zip(self.columns, cells, strict=True)))

    def _json_rows(self) -> Iterator[Row]:
        number = 0
        with self._text() as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                if not line.strip():
                    continue
                number += 1
                if number == 1 and line.lstrip().startswith("["):
                    raise DataError(f"{self.path} is one JSON array: write one object per line")
                yield _json_row(number, line)

    def _parquet_rows(self) -> Iterator[Row]:
        number = itertools.count(1)
        file = pq.ParquetFile(self.path)
        for batch in file.iter_batches(BATCH_ROWS):
            table = _without_nanoseconds(pa.Table.from_batches([batch]))
            for cells in table.to_pylist():
                yield Row(next(number), _flat(cells))


def _json_row(number: int, line: str) -> Row:
    try:
        line.encode()
        cells = json.loads(line)
        if not isinstance(cells, dict):
            return Row(number, problem=("broken_row", "the line is no JSON object"))
        if "\\u" in line:
            json.dumps(cells, ensure_ascii=False).encode()  # raises for half of a surrogate pair
        return Row(number, _flat(cells))
    except UnicodeEncodeError:
        return Row(number, problem=("wrong_encoding", "the line is not UTF-8 text"))
    except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, too deep
        return Row(number, problem=("broken_row", f"the line is no JSON ({error})"))


def _flat(cells: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in cells.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _without_nanoseconds(table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            times = table.column(place).cast(pa.timestamp("us", column.type.tz), safe=False)
            table = table.set_column(place, column.name, times)
    return table
