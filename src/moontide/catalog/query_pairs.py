"""The pairs a shop has: what was asked, as text or picture or both, and the product that answers it.

A table of them becomes queries, pictures and judgments of a new dataset folder that shares every file with
the catalog it was imported into. A judgment has grade 1, and the split as its source: the table's own, else
the side of the product. With a column of times or of kinds the pairs are a log as well, and become events.

    query, photo, sku, split           text and image of a query, its product, and "train", "val" or "test"
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pydantic

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.landing import Outcome, Picture, with_pictures
from moontide.catalog.pictures import Pictures, open_pictures
from moontide.catalog.rowfiles import PEEK_ROWS, Row, RowFile
from moontide.catalog.tables import PREVIEW_ROWS
from moontide.catalog.values import is_day_first, text_of, time_of
from moontide.foundation.errors import CellError, DataError, ImageError, SettingsError
from moontide.foundation.progress import track
from moontide.foundation.settings import Settings

Column = str | None
GUESSES = {
    "text": "query querytext text searchterm searchquery keyword keywords term q",
    "image": "queryimage queryphoto image photo picture imagepath imagefile filename path",
    "product_id": "productid itemid sku articleid asin product item",
    "split": "split subset fold partition",
    "at": "at timestamp time datetime date orderedat purchasedat",
    "kind": "kind event eventtype action",
}
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
KINDS = {"click": "click", "cart": "cart", "order": "order", "purchase": "order", "buy": "order"}
IN_SEVERAL = "queries in more than one split"


class QueryMapping(Settings):
    """Which column of a table of pairs is what."""

    product_id: str = pydantic.Field(description="column of the product that answers the query")
    text: Column = pydantic.Field(None, description="column of the words that were asked")
    image: Column = pydantic.Field(None, description="column of the path of the picture that was asked with")
    split: Column = pydantic.Field(None, description="column of train, val or test")
    at: Column = pydantic.Field(None, description="column of the time; the pairs become events")
    kind: Column = pydantic.Field(None, description="column of click, cart or order; the pairs become events")

    @pydantic.model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.text and not self.image:
            raise ValueError("no column looks like a query: give --map text=COLUMN or image=COLUMN")
        return self

    def lines(self) -> list[tuple[str, str]]:
        """Field and column, for people."""
        return [(name, getattr(self, name)) for name in type(self).model_fields if getattr(self, name)]


@dataclass(frozen=True)
class QueryPlan:
    """What holds for the whole import."""

    file: RowFile
    mapping: QueryMapping
    pictures: Pictures | None
    day_first: bool


@dataclass
class Asked:
    """One row: a query and its product, or why it is refused; `pictures` has one name, or none."""

    number: int
    text: str | None = None
    pictures: list[str | ImageError] = field(default_factory=list)
    product_id: str | None = None
    split: str | None = None
    at: datetime | None = None
    kind: str = "order"
    problem: tuple[str, str] | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def picture(self) -> str | ImageError | None:
        """The name under which its picture is read, or why it cannot be; None: it asks without one."""
        return self.pictures[0] if self.pictures else None

    @property
    def seen(self) -> Outcome:
        """What became of its picture; None where it was read before, or there is none."""
        return self.outcomes[0] if self.outcomes else None


@dataclass
class QueryReport:
    """What an import of pairs did; `rejected` counts by (table, reason)."""

    path: Path
    rows: int = 0
    queries: int = 0
    images: int = 0
    image_bytes: int = 0
    events: int = 0
    splits: Counter[str | None] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[tuple[str, int]]:
        """The counts for people, most frequent reasons first; the number of refused rows is always there."""
        counts = [("rows read", self.rows), ("queries", self.queries), ("pictures", self.images)]
        names = sorted(self.splits, key=lambda split: list(SPLITS).index(split) if split else 99)
        counts += [(f"pairs for {split or 'no split'}", self.splits[split]) for split in names]
        counts += [("events", self.events)] if self.events else []
        counts += [(what, number) for what, number in self.noted.items() if number]
        counts.append(
            ("rows refused", sum(n for (table, _), n in self.rejected.items() if table != "images"))
        )
        reasons = sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))
        return counts + [(f"rejected {table}: {reason}", number) for (table, reason), number in reasons]


def parse_query_flags(texts: Iterable[str]) -> dict[str, str | None]:
    """The fields named by `--map` texts like "text=query,split=-"; None for "-".

    Raises:
        SettingsError: a part that is not FIELD=COLUMN, or a field that a pair does not have.
    """
    fields: dict[str, str | None] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, _, column = (piece.strip() for piece in part.partition("="))
        if name not in QueryMapping.model_fields or not column:
            known = ", ".join(QueryMapping.model_fields)
            raise SettingsError(f"--map takes FIELD=COLUMN with a field of {known}, got {part!r}")
        fields[name] = None if column == "-" else column
    return fields


def plan_queries(
    source: Path | str,
    images: Path | str | None = None,
    given: dict[str, str | None] | None = None,
    encoding: str | None = None,
) -> QueryPlan:
    """Settle which column is what.

    Args:
        images: folder or zip of the pictures that were asked with; None: beside `source`.
        given: columns by field; None leaves a field out. The rest is guessed by the names of the columns.

    Raises:
        DataError: no rows, a missing column, or none for the product.
        SettingsError: no column for a text or a picture.
        StorageError: a path is wrong.
    """
    file = RowFile(source, encoding)
    if not file.peek:
        raise DataError(f"{file.path} has no rows: there is nothing to import")
    mapping = _mapping(file.columns, given or {})
    where = images if images is not None else file.path.absolute().parent
    pictures = open_pictures(where) if mapping.image else None
    cells = [row.cells.get(mapping.at) for row in file.peek[:PEEK_ROWS]] if mapping.at else []
    return QueryPlan(file, mapping, pictures, is_day_first(cells))


def _mapping(columns: Sequence[str], given: dict[str, str | None]) -> QueryMapping:
    plain = {re.sub(r"[\W_]+", "", column.casefold()): column for column in reversed(columns)}
    fields: dict[str, Any] = {}
    for name, usual in GUESSES.items():
        taken = {*given.values(), *fields.values()}
        near = (plain[one] for one in usual.split() if one in plain and plain[one] not in taken)
        column = given[name] if name in given else next(near, None)
        if column is not None:
            fields[name] = column
    if "product_id" not in fields:
        have = ", ".join(columns)
        raise DataError(f"no column looks like a product: give --map product_id=COLUMN (columns: {have})")
    for column in fields.values():
        if column not in columns:
            close = difflib.get_close_matches(column, columns, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"the columns are {', '.join(columns)}"
            raise DataError(f"the source has no column {column!r}: {hint}")
    return QueryMapping(**fields)


def preview_queries(plan: QueryPlan) -> list[Asked]:
    """The first rows as they would land, pictures read and checked, nothing written."""
    return list(with_pictures(_rows(plan, itertools.islice(plan.file, PREVIEW_ROWS)), plan.pictures))


def import_queries(
    plan: QueryPlan, dataset: Dataset, to: Path | str, *, name: str | None = None, replace: bool = False
) -> QueryReport:
    """Write a new dataset folder: the catalog's files, shared, with the pairs added.

    Raises:
        DataError: no pair can be used, or the dataset lacks products.
        SettingsError: `to` is the catalog itself, or it has a log and the pairs would be one too.
        StorageError: `to` is in use or cannot be written. Nothing is left behind.
    """
    dataset.require("import queries", "products")
    if Path(to).resolve() == dataset.path.resolve():
        raise SettingsError(f"{to} is the catalog itself: name another folder with --to")
    if dataset.has("events") and (plan.mapping.at or plan.mapping.kind):
        raise SettingsError(f"{dataset.path} has a log already: leave out --map at=-,kind=-")
    facts = {"query_mapping": plan.mapping.model_dump(mode="json")}
    source = f"{dataset.info.get('source', '')}, queries of {plan.file.path.name}"
    title = name or Path(to).absolute().name
    writer = DatasetWriter(to, title, source=source, base=dataset, replace=replace, facts=facts)
    with writer, track(plan.file.num_rows, "importing") as meter:
        intake = _Intake(plan, dataset, writer, QueryReport(Path(to)))
        for asked in with_pictures(_rows(plan, plan.file), plan.pictures, intake.pictures):
            intake.take(asked)
            meter.step()
        return intake.close()


def _rows(plan: QueryPlan, rows: Iterable[Row]) -> Iterator[Asked]:
    return (_asked(plan, row) for row in rows)


def _asked(plan: QueryPlan, row: Row) -> Asked:
    asked = Asked(row.number, problem=row.problem)
    if row.problem:
        return asked
    cells = {name: row.cells.get(column) for name, column in plan.mapping.lines()}
    asked.text, asked.product_id = text_of(cells.get("text")), text_of(cells.get("product_id"))
    path = text_of(cells.get("image"))
    if path and plan.pictures:
        try:
            asked.pictures = [plan.pictures.find(path)]
        except ImageError as error:
            asked.pictures = [error]
    try:
        if asked.product_id is None:
            raise CellError("missing_id", f"the row has no {plan.mapping.product_id}")
        if asked.text is None and path is None:
            raise CellError("empty_query", "the row asks nothing: it has neither text nor picture")
        asked.split = _one_of(SPLITS, cells.get("split"), "unknown_split")
        asked.at = time_of(cells.get("at"), plan.day_first)
        asked.kind = _one_of(KINDS, cells.get("kind"), "unknown_kind") or "order"
    except CellError as error:
        asked.problem = (error.reason, str(error))
    return asked


def _one_of(names: dict[str, str], cell: Any, reason: str) -> str | None:
    text = text_of(cell)
    if text is None:
        return None
    if text.casefold() not in names:
        raise CellError(reason, f"{text!r} is none of {', '.join(dict.fromkeys(names.values()))}")
    return names[text.casefold()]


class _Intake:
    """Takes rows in order: finds or adds the query, and writes the pair down."""

    def __init__(self, plan: QueryPlan, dataset: Dataset, writer: DatasetWriter, report: QueryReport):
        self._plan, self._writer, self._report = plan, writer, report
        self.pictures: dict[str, str | ImageError] = {}  # file -> image id, or why it is refused
        self._ids = set(dataset.table("products", ["product_id"]).column(0).to_pylist())
        splits = dataset.table("splits", ["product_id", "split"]).to_pylist()
        self._side = {row["product_id"]: row["split"] for row in splits}
        self._queries = dataset.table("queries").to_pylist()
        self._known = {(row["text"], row["image_id"]): row["query_id"] for row in self._queries}
        facts = dataset.images.facts(("sha256",)).to_pylist()
        self._stored = {row["sha256"]: row["image_id"] for row in facts}
        self._num_images = len(facts)
        self._judgments = dataset.table("judgments").to_pylist()
        self._pairs = {(row["query_id"], row["product_id"]) for row in self._judgments}
        self._events: list[dict[str, Any]] = []
        self._splits_of: dict[str, set[str | None]] = {}
        for row in dataset.table("rejected").to_pylist():
            writer.reject(**row)  # what the catalog's import refused stays on record

    def take(self, asked: Asked) -> None:
        self._report.rows += 1
        if asked.problem is None and asked.product_id not in self._ids:
            asked.problem = ("unknown_product", f"the catalog has no product {asked.product_id!r}")
        if asked.problem:
            return self._reject("queries", asked, *asked.problem)
        image = self._image(asked)
        if isinstance(image, ImageError):
            self._reject("images", asked, image.reason, str(image))
            if asked.text is None:
                return self._reject("queries", asked, image.reason, f"no picture is left: {image}")
            image = None
        assert asked.product_id is not None
        self._note(asked, asked.product_id, self._query_id(asked.text, image))

    def _image(self, asked: Asked) -> str | ImageError | None:
        """The id of the row's picture, stored if it was not, or why there is none."""
        name, seen = asked.picture, asked.seen
        if not isinstance(name, str):
            return name
        if name not in self.pictures:
            assert seen is not None
            self.pictures[name] = seen if isinstance(seen, ImageError) else self._store(seen)
        return self.pictures[name]

    def _store(self, picture: Picture) -> str:
        if picture.facts.sha256 not in self._stored:
            image_id = f"asked-photo-{self._num_images:07d}"
            self._writer.add_image(image_id, picture.data, picture.facts)
            self._stored[picture.facts.sha256] = image_id
            self._num_images += 1
            self._report.images += 1
            self._report.image_bytes += len(picture.data)
        return self._stored[picture.facts.sha256]

    def _query_id(self, text: str | None, image_id: str | None) -> str:
        if (text, image_id) not in self._known:
            query_id = f"asked-{len(self._queries):07d}"
            self._queries.append({"query_id": query_id, "text": text, "image_id": image_id})
            self._known[text, image_id] = query_id
            self._report.queries += 1
        return self._known[text, image_id]

    def _note(self, asked: Asked, product_id: str, query_id: str) -> None:
        is_log = bool(self._plan.mapping.at or self._plan.mapping.kind)
        if is_log:
            event = {"event_id": f"e{self._report.events:09d}", "at": asked.at, "kind": asked.kind}
            self._events.append({**event, "query_id": query_id, "product_id": product_id})
            self._report.events += 1
        if (query_id, product_id) in self._pairs:
            if not is_log:  # in a log a pair may come again
                self._reject("queries", asked, "duplicate_pair", "an earlier row is the same pair")
            return
        split = asked.split or self._side.get(product_id)
        self._pairs.add((query_id, product_id))
        self._judgments.append(
            {"query_id": query_id, "product_id": product_id, "grade": 1.0, "source": split}
        )
        self._report.splits[split] += 1
        self._splits_of.setdefault(query_id, set()).add(split)

    def _reject(self, table: str, asked: Asked, reason: str, detail: str) -> None:
        self._writer.reject(table, asked.number, asked.product_id, reason, detail)
        self._report.rejected[table, reason] += 1

    def close(self) -> QueryReport:
        if not self._splits_of:
            counts = ", ".join(f"{n} {reason}" for (_, reason), n in self._report.rejected.most_common())
            raise DataError(
                f"none of the {self._report.rows} rows of {self._plan.file.path} can be used ({counts}): "
                "look at --dry-run, and check --map and --images"
            )
        self._report.noted[IN_SEVERAL] = sum(len(splits) > 1 for splits in self._splits_of.values())
        self._writer.put("queries", self._queries)
        self._writer.put("judgments", self._judgments)
        if self._events:
            self._writer.append("events", self._events)
        return self._report
