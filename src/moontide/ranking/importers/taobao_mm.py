"""Taobao-MM (`TaoBao-MM/Taobao-MM`): impressions, a long history a shopper, one int8 vector an item.

    item_features            205 item, 206 category, 213, 214
    scl_embedding_int8_p90   205, 205_c = 128 int8, scale 1/127
    {train,test}_samples     label_0 = [no click, click], 129_1 shopper, 205
    {train,test}_user_features   129_1, 130_1 to 130_5, 150_2_180 items (newest right), 151_2_180 categories

Ids are signed 64-bit hashes, 0 is "missing". The log has no times: `at` is 0, every counter is 0 and models
must be built with use_counters=False (`moontide ranking train` does so by import.json). There is no position.

A shopper of both tables has two histories, one before training and one before the test, and neither is a
part of the other. So it is two rows of shoppers with one id: each row has the history of its table, both
have the same id embedding, and no test impression is scored with the history of training or the other way.

Paper: MUSE 2512.07216, whose public data this is (paper for the layout; the validation part is ours).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from moontide.foundation.errors import DataError
from moontide.foundation.progress import track
from moontide.ranking.content import ContentTable
from moontide.ranking.entities import ATTRIBUTE, SHOPPER_FACT
from moontide.ranking.facts import CLICK
from moontide.ranking.importers.build import Imported, Shows, coverage, entities_of, samples_of, texts
from moontide.ranking.importers.parts import TEST, TRAIN, VALIDATION, by_shopper, check_shares
from moontide.ranking.importers.tables import (
    INTEGER,
    LIST,
    ParquetTable,
    Rejected,
    integers,
    lists,
    matrix,
)
from moontide.ranking.importers.timed import Past
from moontide.ranking.importers.vectors import VectorSink

log = logging.getLogger(__name__)
SIDES = ("train", "test")
USER, ITEM, LABEL, ITEMS, CATEGORIES = "129_1", "205", "label_0", "150_2_180", "151_2_180"
USER_FIELDS = tuple(f"130_{number}" for number in range(1, 6))
ITEM_FIELDS = ("206", "213", "214")
DIM = 128
LONG_ROWS = 1_024  # shoppers with a thousand behaviors read at once: 16 MB
Split = Literal["published", "shoppers"]
NOTES = [
    "no times: counters are 0, so models must have use_counters=False; leakage over time cannot be checked",
    "vectors only, no pictures or titles: the log tests heads, never an encoder",
    "a shopper of both published tables is two rows with one id, one history each",
]


@dataclass
class _Log:
    """What one side's sample and user tables hold, row by row of the source."""

    row: np.ndarray
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    users: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    fields: np.ndarray = field(default_factory=lambda: np.zeros((0, len(USER_FIELDS)), np.int64))
    past: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    kinds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    length: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def read_taobao_mm(
    source: Path | str,
    scratch: Path,
    limit: int | None = None,
    history: int = 1000,
    split: Split = "published",
    test_share: float = 0.2,
    validation_share: float = 0.05,
) -> Imported:
    """Read the published tables.

    Args:
        source: folder with the six tables. scratch: an empty folder for what does not fit in memory.
        limit: impressions read of each side, None: all. With it only what these impressions name is kept.
        history: latest behaviors kept of a shopper.
        split: "published", or "shoppers": both sides in one pot, whole shoppers dealt anew.
        test_share: of shoppers, with split="shoppers". validation_share: of training shoppers, or of all.

    Raises:
        StorageError: a table is missing.
        DataError: a column is missing or of another type, or no row is left.
    """
    check_shares(test_share, validation_share)
    tables, rejected = _tables(Path(source)), Rejected()
    logs = [_samples(tables[f"{side}_samples"], limit, rejected) for side in SIDES]
    for side, one in zip(SIDES, logs, strict=True):
        _users(tables[f"{side}_user_features"], one, limit is not None, history, rejected)
        known = np.isin(one.user, one.users)
        _warn_if_none(known, f"{side}_samples.parquet: no shopper is in {side}_user_features.parquet")
    products, category = _products(tables, logs, limit is not None)
    fields = _item_fields(tables["item_features"], products, category, rejected)
    shoppers, shopper, past = _shoppers(logs, products)
    item = np.searchsorted(products, np.concatenate([one.item for one in logs]))
    user = np.concatenate([one.user for one in logs])
    label = np.concatenate([one.label for one in logs])
    side = np.repeat((TRAIN, TEST), [len(one.user) for one in logs]).astype(np.uint8)
    part = _parts(user, label, side, split, test_share, validation_share)
    length = np.diff(past.start)
    shows = Shows(
        event_id=_event_ids(logs),
        at=np.zeros(len(user), np.int64),
        shopper=shopper,
        product=item,
        position=np.full(len(user), -1),
        label=label,
        behavior_end=length[shopper],
        part=part,
    )
    samples, marks = samples_of(shows, past, entities_of(fields, shoppers))
    vectors = _vectors(tables["scl_embedding_int8_p90"], products, scratch, rejected)
    share = coverage(samples, vectors)
    _warn_if_none(vectors.product.present[samples.product], "no product shown has a vector: check the ids")
    facts = {"log": "taobao-mm", "has_times": False, "has_counters": False, "split": split, "coverage": share}
    return Imported(samples, marks, vectors, rejected, facts, _lines(samples, logs, label), list(NOTES))


def _tables(source: Path) -> dict[str, ParquetTable]:
    needs = {"item_features": dict.fromkeys((ITEM, *ITEM_FIELDS), INTEGER)}
    needs["scl_embedding_int8_p90"] = {ITEM: INTEGER, "205_c": LIST}
    for side in SIDES:
        needs[f"{side}_samples"] = {LABEL: LIST, USER: INTEGER, ITEM: INTEGER}
        users = dict.fromkeys((USER, *USER_FIELDS), INTEGER)
        needs[f"{side}_user_features"] = {**users, ITEMS: LIST, CATEGORIES: LIST}
    return {name: ParquetTable(source, name, columns) for name, columns in needs.items()}


def _samples(table: ParquetTable, limit: int | None, rejected: Rejected) -> _Log:
    pieces: list[list[np.ndarray]] = [[], [], [], []]
    total = table.num_rows if limit is None else min(limit, table.num_rows)
    with track(total, table.name) as meter:
        for first, rows in table.batches([LABEL, USER, ITEM], limit):
            user, item = integers(rows, USER), integers(rows, ITEM)
            pair, place = matrix(rows, LABEL, 2)
            label = np.full(len(rows), -1, np.int64)
            is_right = (pair.sum(1) == 1) & ((pair == 0) | (pair == 1)).all(1)
            label[place[is_right]] = pair[is_right, 1]
            number = first + np.arange(len(rows))
            refused = {
                "missing_shopper": (user == 0, user, f"{USER} is 0 or null"),
                "missing_item": (item == 0, item, f"{ITEM} is 0 or null"),
                "bad_label": (label < 0, item, f"{LABEL} must be [1, 0] (no click) or [0, 1] (click)"),
            }
            good = _refuse(table.label, number, refused, rejected)
            for held, column in zip(pieces, (number, user, item, label), strict=True):
                held.append(column[good])
            meter.step(len(rows))
    row, user, item, label = (np.concatenate([np.zeros(0, np.int64), *held]) for held in pieces)
    if not len(row):
        reasons = ", ".join(name for name, _ in rejected.lines()) or "it has no rows"
        raise DataError(
            f"no row of {table.label} in {table.source} can be used ({reasons}): give it as published"
        )
    return _Log(row, user, item, label.astype(bool))


def _refuse(name: str, number: np.ndarray, reasons: dict, rejected: Rejected) -> np.ndarray:
    """Count each bad row under its first reason; which rows are good."""
    good = np.ones(len(number), bool)
    for reason, (is_bad, ids, detail) in reasons.items():
        bad = good & is_bad
        if bad.any():
            rejected.add(name, reason, number[bad], [str(one) for one in ids[bad][:1000].tolist()], detail)
        good &= ~is_bad
    return good


def _users(table: ParquetTable, log_: _Log, only_named: bool, history: int, rejected: Rejected) -> None:
    """Add the shoppers' fields and histories to a side, in the order of the file."""
    wanted, num = np.unique(log_.user), 0
    pieces: list[list[np.ndarray]] = [[], [], [], [], [], []]
    with track(table.num_rows, table.name) as meter:
        for first, rows in table.batches([USER, *USER_FIELDS, ITEMS, CATEGORIES], size=LONG_ROWS):
            meter.step(len(rows))
            user, number = integers(rows, USER), first + np.arange(len(rows))
            length, other = (lists(rows, name)[1] for name in (ITEMS, CATEGORIES))
            refused = {
                "missing_shopper": (user == 0, user, f"{USER} is 0 or null"),
                "bad_history": (length != other, user, f"{ITEMS} and {CATEGORIES} differ in length"),
            }
            good = _refuse(table.label, number, refused, rejected)
            if only_named:
                good &= np.isin(user, wanted)
            if good.any():
                fields = np.stack([integers(rows, name)[good] for name in USER_FIELDS], axis=1)
                kept = _history(rows.filter(pa.array(good)), history)
                for held, column in zip(pieces, (number[good], user[good], fields, *kept), strict=True):
                    held.append(column)
            num += int(good.sum())
            if only_named and num >= len(wanted):
                break
    if not num:
        return
    number, user, fields, past, kinds, length = map(np.concatenate, pieces)
    again = ~np.isin(np.arange(num), np.unique(user, return_index=True)[1])
    detail = "the shopper has a row already; the first one counts"
    good = _refuse(table.label, number, {"second_row": (again, user, detail)}, rejected)
    if not good.all():
        kept = np.repeat(good, length)
        user, fields, length, past, kinds = user[good], fields[good], length[good], past[kept], kinds[kept]
    log_.users, log_.fields, log_.length, log_.past, log_.kinds = user, fields, length, past, kinds


def _history(rows: pa.Table, history: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The latest behaviors that name an item: items, categories, and how many each row has."""
    (item, length), (category, _) = (lists(rows, name) for name in (ITEMS, CATEGORIES))
    owner = np.repeat(np.arange(len(rows)), length)
    end = np.repeat(np.cumsum(length), length).astype(np.int64)
    from_right = end - 1 - np.arange(len(item))
    kept = (from_right < history) & (item != 0)
    return item[kept], category[kept], np.bincount(owner[kept], minlength=len(rows))


def _products(
    tables: dict[str, ParquetTable], logs: list[_Log], only_named: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all products in ascending order, and the category that histories give each, 0 for none."""
    ids = [np.unique(np.concatenate([one.item, one.past])) for one in logs]
    if not only_named:
        for name in ("item_features", "scl_embedding_int8_p90"):
            ids += [np.unique(integers(rows, ITEM)) for _, rows in tables[name].batches([ITEM])]
    products = np.unique(np.concatenate(ids))
    products = products[products != 0]
    category = np.zeros(len(products), np.int64)
    for one in logs:
        category[np.searchsorted(products, one.past)] = one.kinds
    return products, category


def _item_fields(
    table: ParquetTable, products: np.ndarray, category: np.ndarray, rejected: Rejected
) -> dict[str, pa.Array]:
    fields = np.zeros((len(products), len(ITEM_FIELDS)), np.int64)
    fields[:, 0] = category  # the item's own row is better, and most of a history has none
    with track(table.num_rows, table.name) as meter:
        for first, rows in table.batches([ITEM, *ITEM_FIELDS]):
            item = integers(rows, ITEM)
            refused = {"missing_item": (item == 0, item, f"{ITEM} is 0 or null")}
            good = _refuse(table.label, first + np.arange(len(rows)), refused, rejected)
            code, found = _found(products, item)
            found &= good
            fields[code[found]] = np.stack([integers(rows, name)[found] for name in ITEM_FIELDS], axis=1)
            meter.step(len(rows))
    columns = {"product": texts(products, None), "leaf": texts(fields[:, 0])}
    named = zip(ITEM_FIELDS[1:], fields.T[1:], strict=True)
    return columns | {ATTRIBUTE + name: texts(column) for name, column in named}


def _shoppers(logs: list[_Log], products: np.ndarray) -> tuple[dict[str, pa.Array], np.ndarray, Past]:
    """Fields of the shopper rows of both sides, the row of each impression, and the behaviors."""
    users, fields, lengths, rows = [], [], [], []
    offset = 0
    for one in logs:
        without = np.setdiff1d(one.user, one.users)
        names = np.concatenate([one.users, without])
        order = np.argsort(names)
        rows.append(offset + order[np.searchsorted(names, one.user, sorter=order)])
        users.append(names)
        fields.append(np.vstack([one.fields, np.zeros((len(without), len(USER_FIELDS)), np.int64)]))
        lengths.append(np.concatenate([one.length, np.zeros(len(without), np.int64)]))
        offset += len(names)
    start = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    item = np.concatenate([np.searchsorted(products, one.past).astype(np.int32) for one in logs])
    columns = {"shopper": texts(np.concatenate(users), None)}
    named = zip(USER_FIELDS, np.vstack(fields).T, strict=True)
    columns |= {SHOPPER_FACT + name: texts(column) for name, column in named}
    past = Past(item, np.zeros(len(item), np.int64), np.full(len(item), CLICK, np.uint8), start)
    return columns, np.concatenate(rows), past


def _parts(
    user: np.ndarray, label: np.ndarray, side: np.ndarray, split: Split, test: float, validation: float
) -> np.ndarray:
    if split == "shoppers":
        part = by_shopper(user, label, (1 - test - validation, validation, test))
    else:
        part, own = side.copy(), side == TRAIN
        dealt = by_shopper(user[own], label[own], (1 - validation, validation, 0.0))
        part[own] = np.where(dealt == VALIDATION, VALIDATION, TRAIN)
    if not label[part == TRAIN].any():
        log.warning(
            "the training part has %d impressions and no click, so no model can be trained on it: import "
            "more rows, or give --split shoppers, which deals whole shoppers anew",
            (part == TRAIN).sum(),
        )
    return part


def _vectors(table: ParquetTable, products: np.ndarray, scratch: Path, rejected: Rejected) -> ContentTable:
    sink = VectorSink(scratch / "vectors.npy", len(products), DIM, np.int8)
    widths: set[int] = set()
    with track(table.num_rows, table.name) as meter:
        for first, rows in table.batches([ITEM, "205_c"]):
            item, length = integers(rows, ITEM), lists(rows, "205_c")[1]
            widths |= set(np.unique(length).tolist())
            detail = f"205_c must have {DIM} numbers"
            refused = {
                "missing_item": (item == 0, item, f"{ITEM} is 0 or null"),
                "bad_vector": (length != DIM, item, detail),
            }
            good = _refuse(table.label, first + np.arange(len(rows)), refused, rejected)
            vector, place = matrix(rows, "205_c", DIM)
            code, found = _found(products, item[place])
            found &= good[place]
            sink.put(code[found], vector[found])
            meter.step(len(rows))
    if widths and DIM not in widths:
        raise DataError(
            f"column 205_c of {table.label} in {table.source} has vectors of {sorted(widths)[0]} numbers, "
            f"{DIM} expected: give the table as published"
        )
    return sink.table("taobao-mm scl int8")


def _found(products: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Code of each item, and which items are among the products."""
    code = np.minimum(np.searchsorted(products, item), max(len(products) - 1, 0))
    return code, products[code] == item


def _event_ids(logs: list[_Log]) -> pa.Array:
    pieces = []
    for side, one in zip(SIDES, logs, strict=True):
        text = pa.array(one.row).cast(pa.string()).to_numpy(zero_copy_only=False)
        pieces.append(pa.array([f"{side}-{number}" for number in text], pa.string()))
    return pa.concat_arrays(pieces)


def _warn_if_none(known: np.ndarray, text: str) -> None:
    if not known.any():
        log.warning("%s", text)


def _lines(samples, logs: list[_Log], label: np.ndarray) -> list[tuple[str, int]]:
    both = len(np.intersect1d(logs[0].user, logs[1].user))
    with_past = sum(int(np.isin(one.user, one.users).sum()) for one in logs)
    return [
        ("impressions", len(label)),
        ("clicks", int(label.sum())),
        ("shopper rows", len(samples.entities.shoppers)),
        ("shoppers of both tables", both),
        ("impressions with a history", with_past),
        ("behaviors", len(samples.behavior_product)),
        ("products", len(samples.entities.products)),
    ]
