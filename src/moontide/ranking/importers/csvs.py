"""Published CSV files through DuckDB: read in pieces, spilled when large, every bad row counted by reason.

All cells are read as text and then cast, so that one bad cell costs its row and not the file. A table in the
connection has the columns asked for and `row`, the number of the row among those of its table.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from moontide.foundation.errors import DataError
from moontide.ranking.entities import SHOPPER_FACT
from moontide.ranking.importers.build import texts
from moontide.ranking.importers.tables import KEPT_ROWS, Rejected

MEMORY = "2GB"
EMPTY = ("", "NULL", "null", "\\N")
BROKEN = "broken_row"


@dataclass(frozen=True)
class Cell:
    """What a column must hold.

    Args:
        kind: SQL type. needed: a row without it is refused; else the cell becomes null.
        rule: SQL condition on the column for a good cell, with the words for people; None: any value.
        names: other names it goes by.
    """

    kind: str = "BIGINT"
    needed: bool = True
    rule: tuple[str, str] | None = None
    names: tuple[str, ...] = ()


FLAG = Cell("TINYINT", rule=("{} IN (0, 1)", "0 or 1"))
TEXT = Cell("VARCHAR", needed=False)
NUMBER = Cell("DOUBLE", needed=False)


def connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own in a scratch folder, which spills there when its memory is used up."""
    connection = duckdb.connect(str(scratch / "import.duckdb"))
    connection.execute(f"SET memory_limit = '{MEMORY}'")
    connection.execute(f"SET temp_directory = '{_quoted(scratch / 'spill')}'")
    return connection


def load_csv(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    files: list[Path],
    cells: Mapping[str, Cell],
    rejected: Rejected,
    *,
    quote: str = "",
    limit: int | None = None,
    keep: str = "true",
    rules: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Make `table` of the good rows of some files, and count the others.

    Args:
        cells: column -> what it must hold. Other columns are not read.
        quote: the quoting sign, where the source quotes; without it a stray one cannot swallow the file.
        limit: rows read, over all files.
        keep: SQL condition on the cells as text; good rows without it are left out and not counted.
        rules: reason -> (SQL condition of a good row, sentence), for what concerns several columns.

    Raises:
        DataError: a column is missing, a file is no CSV, or no row of any file is good.
    """
    checks = _checks(cells, rules or {})
    parts, left = [], limit
    for number, file in enumerate(files):
        if left is not None and left <= 0:
            break
        raw = f"{table}_{number}"
        num_rows = _read(connection, raw, file, cells, checks, keep, quote, left, rejected)
        left = None if left is None else left - num_rows
        _count(connection, raw, file, checks, rejected)
        columns = ", ".join(f'TRY_CAST("{name}" AS {cell.kind}) AS "{name}"' for name, cell in cells.items())
        parts.append(f"SELECT {columns} FROM {raw} WHERE reason IS NULL")
    every = " UNION ALL ".join(parts)
    connection.execute(f"CREATE TABLE {table} AS SELECT row_number() OVER () AS row, * FROM ({every})")
    for number in range(len(parts)):
        connection.execute(f"DROP TABLE {table}_{number}")
    if keep == "true" and not one(connection, f"SELECT count(*) FROM {table}"):
        reasons = ", ".join(name for name, _ in rejected.lines()) or "there are none"
        names = ", ".join(str(file) for file in files)
        raise DataError(f"no row of {names} can be used ({reasons}): give the files as published")


def columns_of(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, np.ndarray]:
    """The columns of a query as arrays; nulls are not allowed."""
    table = arrow(connection, query)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def arrow(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's result, with one chunk a column."""
    return connection.sql(query).to_arrow_table().combine_chunks()


def shoppers_of(
    connection: duckdb.DuckDBPyConnection, person: str, table: str, key: str, fields: Iterable[str]
) -> dict[str, pa.Array]:
    """Ids and fields of the shoppers in `people`, by code; of repeated rows of `table` the first counts.

    Args:
        person: the id's column in people. table, key: where the fields are, and the id's column there.
    """
    facts = ", ".join(f'facts.{name} AS "{SHOPPER_FACT}{name}"' for name in fields)
    found = arrow(
        connection,
        f'SELECT people."{person}" AS id, {facts} FROM people LEFT JOIN '
        f"(SELECT DISTINCT ON ({key}) * FROM {table} ORDER BY {key}, row) AS facts "
        f'ON facts.{key} = people."{person}" ORDER BY people.shopper',
    )
    columns = {name: found.column(name).combine_chunks() for name in found.column_names[1:]}
    return {"shopper": texts(found.column("id").to_numpy(), None)} | columns


def one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """The single number a query gives."""
    rows = connection.execute(query).fetchall()  # fetchone would leave a result open
    return int(rows[0][0] or 0)


@dataclass(frozen=True)
class _Check:
    """One thing that can be wrong with a row: SQL condition, reason, sentence, the cell to show."""

    wrong: str
    reason: str
    detail: str
    shown: str = "NULL"


def _checks(cells: Mapping[str, Cell], rules: Mapping[str, tuple[str, str]]) -> list[_Check]:
    checks = []
    for name, cell in cells.items():
        if not cell.needed:
            continue
        cast, words = f'TRY_CAST("{name}" AS {cell.kind})', "a whole number"
        wrong = f"{cast} IS NULL"
        if cell.rule is not None:
            wrong, words = f"{wrong} OR NOT ({cell.rule[0].format(cast)})", cell.rule[1]
        checks.append(_Check(f'"{name}" IS NULL', f"missing_{name}", f"{name} is empty"))
        checks.append(_Check(wrong, f"bad_{name}", f"{name} must be {words}", f'"{name}"'))
    return checks + [_Check(f"NOT ({good})", reason, text) for reason, (good, text) in rules.items()]


def _read(
    connection: duckdb.DuckDBPyConnection,
    raw: str,
    file: Path,
    cells: Mapping[str, Cell],
    checks: list[_Check],
    keep: str,
    quote: str,
    limit: int | None,
    rejected: Rejected,
) -> int:
    """Rows as text, with the first thing wrong in `reason`; broken ones are counted. Gives the rows held."""
    header = _header(file)
    kept = {name: _found(header, name, cell, file) for name, cell in cells.items()}
    columns = ", ".join(f"'{_quoted(name)}': 'VARCHAR'" for name in header)
    picked = ", ".join(f'trim("{at}") AS "{name}"' for name, at in kept.items())
    nulls = ", ".join(f"'{value}'" for value in EMPTY)
    source = (
        f"read_csv('{_quoted(file)}', header = true, auto_detect = false, all_varchar = true, delim = ',', "
        f"quote = '{quote}', escape = '{quote}', columns = {{{columns}}}, nullstr = [{nulls}], "
        f"store_rejects = true, rejects_table = 'rejects_{raw}', rejects_scan = 'scans_{raw}', "
        "rejects_limit = 0)"
    )
    until = "" if limit is None else f" LIMIT {limit}"
    cases = " ".join(f"WHEN {check.wrong} THEN '{check.reason}'" for check in checks)
    try:
        connection.execute(
            f"CREATE TABLE {raw} AS SELECT *, CASE {cases} END AS reason FROM (SELECT "
            f"row_number() OVER () AS row, {picked} FROM (FROM {source}{until})) "
            f"WHERE reason IS NOT NULL OR ({keep})"
        )
        broken = columns_of(
            connection, f"SELECT DISTINCT line::BIGINT AS line FROM rejects_{raw} ORDER BY line"
        )["line"]
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        raise DataError(f"{file} cannot be read as CSV ({text}): give the file as published") from None
    if len(broken):
        detail = f"the row has not the {len(header)} fields of the header, or is no UTF-8 text"
        rejected.add(file.name, BROKEN, broken - 1, [], detail)
        # Rows are numbered among the whole ones; in the file, the broken ones before them count as well.
        connection.register("broken", pa.table({"before": broken - 2 - np.arange(len(broken))}))
        connection.execute(
            f"UPDATE {raw} SET row = row + (SELECT count(*) FROM broken WHERE before < {raw}.row) "
            "WHERE reason IS NOT NULL"
        )
        connection.unregister("broken")
    return one(connection, f"SELECT count(*) FROM {raw}") + len(broken)


def _count(
    connection: duckdb.DuckDBPyConnection, raw: str, file: Path, checks: list[_Check], rejected: Rejected
) -> None:
    for check in checks:
        bad = f"FROM {raw} WHERE reason = '{check.reason}'"
        number = one(connection, f"SELECT count(*) {bad}")
        if number:
            first = arrow(
                connection,
                f"SELECT row, {check.shown}::VARCHAR AS value {bad} ORDER BY row LIMIT {KEPT_ROWS}",
            )
            rows = np.zeros(number, np.int64)
            rows[: len(first)] = first.column("row").to_numpy()
            rejected.add(file.name, check.reason, rows, first.column("value").to_pylist(), check.detail)


def _header(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return next(csv.reader(lines), [])
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(
            f"the first line of {file} cannot be read ({error}): give the file as published"
        ) from None


def _found(header: list[str], name: str, cell: Cell, file: Path) -> str:
    """The column as it stands in the file: published headers have a blank at the end of some names."""
    for at in header:
        if at.strip() in (name, *cell.names):
            return at
    held = ", ".join(at.strip() for at in header)
    raise DataError(f"{file} has no column {name} (it has {held}): give the file as published")


def _quoted(value: object) -> str:
    return str(value).replace("'", "''")
