"""MicroLens MMCTR (WWW'25 challenge): impressions with the sequence before each, and 128-d item vectors.

    train, valid, test   user_id, item_id, item_seq (up to 100, padded with 0 on the left), likes_level,
                         views_level (0 to 10), label (test has `ID` instead)
    item_info            item_id (0 is padding), item_tags (5), item_emb_d128 (128)

The official valid.parquet is the test part here; our validation part is some of the training shoppers. The
sequence is an impression's own and not a shopper's, so shoppers with several sequences become several rows of
shoppers with one id, one history each; rows with the same sequence share it.

The log has no times: counters are 0 and use_counters must be False.
"""

from __future__ import annotations

import logging
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from moontide.foundation.errors import DataError
from moontide.foundation.progress import track
from moontide.ranking.content import ContentTable
from moontide.ranking.entities import ATTRIBUTE
from moontide.ranking.facts import CLICK
from moontide.ranking.importers.build import Imported, Shows, coverage, entities_of, samples_of, texts
from moontide.ranking.importers.csvs import arrow, columns_of, connect, one
from moontide.ranking.importers.parts import TEST, TRAIN, VALIDATION, by_shopper, check_shares
from moontide.ranking.importers.tables import INTEGER, LIST, ParquetTable, Rejected, integers, lists, matrix
from moontide.ranking.importers.timed import Past
from moontide.ranking.importers.vectors import VectorSink

log = logging.getLogger(__name__)
DIM, TAGS = 128, 5
SIDES = ("train", "valid")
LEVELS = ("likes_level", "views_level")
NOTES = [
    "no times: counters are 0, so models must have use_counters=False",
    "the test part is the official valid.parquet; its AUC (0.87 published) cannot be compared with that of "
    "the official test (0.98 published), which has no labels and is left out",
    "the published split is random over rows: histories may hold what came after the impression",
    "likes_level and views_level were counted over the whole time of the log, the test part included",
]


def read_microlens(
    source: Path | str, scratch: Path, limit: int | None = None, validation_share: float = 0.05
) -> Imported:
    """Read the published tables.

    Args:
        source: folder with train, valid and item_info; test is not read. scratch: an empty folder.
        limit: impressions read of each side, None: all. With it only what these impressions name is kept.
        validation_share: of training shoppers.

    Raises:
        StorageError: a table is missing.
        DataError: a column is missing or of another type, or no row is left.
    """
    check_shares(0.0, validation_share)
    source, rejected = Path(source), Rejected()
    columns = dict.fromkeys(("user_id", "item_id", *LEVELS, "label"), INTEGER) | {"item_seq": LIST}
    tables = {side: ParquetTable(source, side, columns) for side in SIDES}
    needs = {"item_id": INTEGER, "item_tags": LIST, "item_emb_d128": LIST}
    info = ParquetTable(source, "item_info", needs)
    with connect(scratch) as connection:
        for number, (side, table) in enumerate(tables.items()):
            _load(connection, side, number, table, limit, rejected)
        _number(connection, info, limit is None)
        shows = columns_of(connection, "SELECT * FROM coded ORDER BY side, row")
        shoppers, past = _shoppers(connection)
        levels = _levels(connection)
        leaks = one(connection, "SELECT count(*) FROM shows WHERE list_contains(item_seq, item_id)")
    products, vectors = _items(info, levels, scratch, rejected)
    part = np.where(shows["side"] == 0, TRAIN, TEST).astype(np.uint8)
    own = part == TRAIN
    dealt = by_shopper(
        shows["user_id"][own], shows["label"][own], (1 - validation_share, validation_share, 0.0)
    )
    part[own] = np.where(dealt == VALIDATION, VALIDATION, TRAIN)
    built = Shows(
        event_id=_event_ids(shows),
        at=np.zeros(len(part), np.int64),
        shopper=shows["shopper"],
        product=shows["product"],
        position=np.full(len(part), -1),
        label=shows["label"],
        behavior_end=np.diff(past.start)[shows["shopper"]],
        part=part,
    )
    samples, marks = samples_of(built, past, entities_of(products, {"shopper": shoppers}))
    facts = {"log": "microlens", "has_times": False, "has_counters": False, "split": "published"}
    facts["coverage"] = coverage(samples, vectors)
    lines = [("impressions", len(samples)), ("clicks", int(samples.label.sum()))]
    lines += [("shopper rows", len(shoppers)), ("shoppers", len(shoppers.unique()))]
    lines += [("behaviors", len(past.product)), ("products", len(samples.entities.products))]
    lines += [("impressions of a product in their own history", leaks)]
    return Imported(samples, marks, vectors, rejected, facts, lines, list(NOTES))


def _load(
    connection: duckdb.DuckDBPyConnection,
    side: str,
    number: int,
    table: ParquetTable,
    limit: int | None,
    rejected: Rejected,
) -> None:
    """Good rows into the table `shows`, with the padding taken off their sequences."""
    names = ", ".join(f"'{file}'" for file in (str(one).replace("'", "''") for one in table.files))
    until = "" if limit is None else f"LIMIT {limit}"
    rules = {
        "missing_user": ("user_id IS NULL OR user_id = 0", "user_id is 0 or null"),
        "missing_item": ("item_id IS NULL OR item_id = 0", "item_id is 0 (padding) or null"),
        "bad_label": ("label IS NULL OR label NOT IN (0, 1)", "label must be 0 or 1"),
    }
    when = " ".join(f"WHEN {wrong} THEN '{reason}'" for reason, (wrong, _) in rules.items())
    connection.execute(
        f"CREATE TABLE raw AS SELECT *, CASE {when} END AS reason FROM (SELECT row_number() OVER () AS row, "
        f"user_id, item_id, item_seq, likes_level, views_level, label FROM "
        f"(FROM read_parquet([{names}]) {until}))"
    )
    for reason, (_, detail) in rules.items():
        bad = columns_of(connection, f"SELECT row FROM raw WHERE reason = '{reason}' ORDER BY row")["row"]
        if len(bad):
            rejected.add(table.label, reason, bad, [], detail)
    if not one(connection, "SELECT count(*) FROM raw WHERE reason IS NULL"):
        raise DataError(f"no row of {table.label} in {table.source} can be used: give it as published")
    # No copy of a padded sequence is kept: most rows of a shopper share one.
    connection.execute(
        f"{'CREATE TABLE shows AS' if not number else 'INSERT INTO shows'} SELECT {number} AS side, row, "
        "user_id::BIGINT AS user_id, item_id::BIGINT AS item_id, likes_level, views_level, "
        "label::TINYINT AS label, "
        "list_filter(coalesce(item_seq, []), lambda one: one IS NOT NULL AND one <> 0) AS item_seq "
        "FROM raw WHERE reason IS NULL"
    )
    connection.execute("DROP TABLE raw")


def _number(connection: duckdb.DuckDBPyConnection, info: ParquetTable, every: bool) -> None:
    """Codes of products and of shopper rows, and the impressions by code."""
    items = "SELECT item_id FROM shows UNION SELECT unnest(item_seq) FROM shows"
    if every:
        names = ", ".join("'" + str(file).replace("'", "''") + "'" for file in info.files)
        items += f" UNION SELECT item_id FROM read_parquet([{names}])"
    connection.execute(
        "CREATE TABLE products AS SELECT item_id::BIGINT AS item_id, "
        f"row_number() OVER (ORDER BY item_id) - 1 AS product FROM ({items}) WHERE item_id <> 0"
    )
    connection.execute(
        "CREATE TABLE shoppers AS SELECT *, row_number() OVER (ORDER BY user_id, first) - 1 AS shopper FROM "
        "(SELECT user_id, item_seq, min(side * 1000000000000 + row) AS first FROM shows "
        "GROUP BY user_id, item_seq)"
    )
    connection.execute(
        "CREATE TABLE coded AS SELECT side, row, user_id, shopper, product, label FROM shows "
        "JOIN shoppers USING (user_id, item_seq) JOIN products USING (item_id)"
    )


def _shoppers(connection: duckdb.DuckDBPyConnection) -> tuple[pa.Array, Past]:
    held = arrow(connection, "SELECT user_id, len(item_seq) AS steps FROM shoppers ORDER BY shopper")
    start = np.concatenate([[0], np.cumsum(held.column("steps").to_numpy())])
    found = columns_of(
        connection,
        "SELECT product FROM (SELECT shopper, unnest(item_seq) AS item_id, "
        "generate_subscripts(item_seq, 1) AS step FROM shoppers) JOIN products "
        "USING (item_id) ORDER BY shopper, step",
    )["product"]
    assert len(found) == start[-1]
    past = Past(found, np.zeros(len(found), np.int64), np.full(len(found), CLICK, np.uint8), start)
    return texts(held.column("user_id").to_numpy(), None), past


def _levels(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """The products in order of code with the levels that most of their impressions have."""
    modes = ", ".join(f"mode({name})::BIGINT AS {name}" for name in LEVELS)
    return arrow(
        connection,
        f"SELECT products.item_id, {', '.join(LEVELS)} FROM products LEFT JOIN "
        f"(SELECT item_id, {modes} FROM shows GROUP BY item_id) USING (item_id) ORDER BY product",
    )


def _items(
    info: ParquetTable, levels: pa.Table, scratch: Path, rejected: Rejected
) -> tuple[dict[str, pa.Array], ContentTable]:
    """Fields and vectors of the products."""
    products = levels.column("item_id").to_numpy()
    tags = np.zeros((len(products), TAGS), np.int64)
    sink, widths = VectorSink(scratch / "vectors.npy", len(products), DIM), set()
    with track(info.num_rows, info.name) as meter:
        for first, rows in info.batches(["item_id", "item_tags", "item_emb_d128"]):
            item, length = integers(rows, "item_id"), lists(rows, "item_emb_d128")[1]
            code = np.minimum(np.searchsorted(products, item), len(products) - 1)
            known = (products[code] == item) & (item != 0)
            widths |= set(np.unique(length[item != 0]).tolist())
            bad = np.flatnonzero((length != DIM) & (item != 0))
            if len(bad):
                values = [str(one) for one in item[bad].tolist()]
                rejected.add(
                    info.label, "bad_vector", first + bad, values, f"item_emb_d128 must have {DIM} numbers"
                )
            for name, width, put in (("item_tags", TAGS, tags), ("item_emb_d128", DIM, sink)):
                held, place = matrix(rows, name, width)
                keep = known[place]
                if isinstance(put, VectorSink):
                    put.put(code[place[keep]], held[keep])
                else:
                    put[code[place[keep]]] = held[keep]
            meter.step(len(rows))
    if widths and DIM not in widths:
        raise DataError(
            f"column item_emb_d128 of {info.label} in {info.source} has vectors of {sorted(widths)[0]} "
            f"numbers, {DIM} expected: give the table as published"
        )
    columns = {"product": texts(products, None), "leaf": texts(tags[:, 0])}
    columns |= {f"{ATTRIBUTE}tag_{number + 1}": texts(tags[:, number]) for number in range(1, TAGS)}
    columns |= {ATTRIBUTE + name: levels.column(name).cast(pa.string()).combine_chunks() for name in LEVELS}
    return columns, sink.table("microlens d128")


def _event_ids(shows: dict[str, np.ndarray]) -> pa.Array:
    names = zip(shows["side"].tolist(), shows["row"].tolist(), strict=True)
    return pa.array([f"{SIDES[side]}-{row}" for side, row in names], pa.string())
