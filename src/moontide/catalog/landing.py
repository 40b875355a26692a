"""How one row of a shop's table lands: as a product with the names of its pictures, or as a reason why not.

`plan_import` settles what holds for the whole file (mapping, decimal mark, where pictures are), `land`
applies it to a row, `with_pictures` reads and checks the pictures of any entries in threads and gives the
entries back in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from moontide.catalog.mapping import Mapping, filled, guess, has_wildcard, resolve
from moontide.catalog.pictures import Pictures, guess_pattern, matching, open_pictures
from moontide.catalog.rowfiles import Row, RowFile
from moontide.catalog.values import (
    is_day_first,
    levels_of,
    money_mark,
    price_cents,
    text_of,
    texts_of,
    time_of,
    whole_cents,
)
from moontide.foundation.device import num_cores
from moontide.foundation.errors import CellError, DataError, ImageError, SettingsError, StorageError
from moontide.foundation.images import ImageFacts, image_facts

WINDOW_ROWS = 64  # rows, and pictures, that are in memory at once
WINDOW_PICTURES = 256
MAX_PICTURES = 50  # of one product
LIST_MARKS = ("|", ";", ",")


@dataclass(frozen=True)
class Plan:
    """What holds for the whole import; `notes` are sentences for the user."""

    file: RowFile
    mapping: Mapping
    pictures: Pictures | None
    categories: frozenset[str] | None
    decimal_mark: str | None
    day_first: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture that was decoded, and what is stored beside them."""

    data: bytes
    facts: ImageFacts


Outcome = Picture | ImageError | None


@dataclass
class Landed:
    """A row as a `products` row without its pictures, or with the reason why it is refused.

    `pictures` are the names under which its pictures are read, or why one cannot be; after `with_pictures`,
    `outcomes` has what became of each.
    """

    number: int
    product_id: str | None = None
    product: dict[str, Any] = field(default_factory=dict)
    pictures: list[str | ImageError] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    problem: tuple[str, str] | None = None


def plan_import(
    source: Path | str,
    images: Path | str | None = None,
    given: dict[str, Any] | None = None,
    guesses: bool = True,
    categories: Path | None = None,
    encoding: str | None = None,
) -> Plan:
    """Settle mapping and formats from the first rows of `source`.

    Args:
        images: folder or zip of pictures; None: beside `source`, if the mapping names files that are there.
        given, guesses: fields of the mapping, and whether what is not given is guessed (`mapping.resolve`).
        categories: text file with one allowed category per line ("Shoes > Boots"; below it all is allowed).

    Raises:
        DataError: no rows, a missing column, or no column for the id or the title.
        StorageError: a path is wrong.
        SettingsError: mapped fields contradict each other.
    """
    file = RowFile(source, encoding)
    rows = [row.cells for row in file.peek if not row.problem]
    if not rows and not file.peek:
        raise DataError(f"{file.path} has no rows: there is nothing to import")
    given = given or {}
    mapping, notes = resolve(file.columns, given, guesses), []
    pictures = open_pictures(images) if images is not None else None
    ids = [text for row in rows if (text := text_of(row.get(mapping.product_id)))]
    if not mapping.images and given.get("images", ()) is not None:
        mapping, note = _with_guessed_pictures(mapping, file.columns, pictures, ids)
        notes += note
    if mapping.images and pictures is None:
        mapping, pictures, note = _beside_source(mapping, file, rows, bool(given.get("images")))
        notes += note
    unused = [column for column in file.columns if column not in mapping.columns]
    if unused:
        notes.append(f"columns that are not imported: {', '.join(unused)} (--map attributes.NAME=COLUMN)")
    prices = [row.get(mapping.price) for row in rows] if mapping.price else []
    dates = [row.get(mapping.created_at) for row in rows] if mapping.created_at else []
    allowed = _read_categories(categories) if categories else None
    return Plan(file, mapping, pictures, allowed, money_mark(prices), is_day_first(dates), tuple(notes))


def _with_guessed_pictures(
    mapping: Mapping, columns: list[str], pictures: Pictures | None, ids: list[str]
) -> tuple[Mapping, list[str]]:
    if pictures is None:
        return mapping, []
    found = guess(columns).get("images")
    if not found:
        pattern = guess_pattern(pictures, ids)
        found = [pattern] if pattern else None
    if not found:
        raise DataError(
            f"no column looks like picture paths, and no file in {pictures.where} is named after a product: "
            "give --map images=COLUMN or images={id}.jpg"
        )
    return mapping.but(images=tuple(found)), []


def _beside_source(
    mapping: Mapping, file: RowFile, rows: list[dict[str, Any]], is_given: bool
) -> tuple[Mapping, Pictures | None, list[str]]:
    """Pictures beside the source; a column that was only guessed counts if one of its files is there."""
    beside = open_pictures(file.path.absolute().parent)
    landing = Plan(file, mapping, beside, None, None, False)
    names = (
        name
        for row in rows
        for name in _picture_names(landing, row, text_of(row.get(mapping.product_id)) or "")
    )
    if is_given or any(isinstance(name, str) for name in names):
        return mapping, beside, []
    note = f"no pictures are imported: give --images for the paths in {', '.join(mapping.images)}"
    return mapping.but(images=()), None, [note]


def _read_categories(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise StorageError(
            f"no readable list of categories at {path}: give a text file, one category per line"
        ) from None
    names = frozenset(_category_key(levels_of([line])) for line in lines if text_of(line))
    if not names:
        raise SettingsError(f"{path} has no categories: write one per line")
    return names


def _category_key(levels: Iterable[str]) -> str:
    return " > ".join(level.casefold() for level in levels)


def land(plan: Plan, row: Row) -> Landed:
    """One row as a product, its pictures named but not read."""
    if row.problem:
        return Landed(row.number, problem=row.problem)
    mapping, cells = plan.mapping, row.cells
    landed = Landed(row.number, text_of(cells.get(mapping.product_id)))
    try:
        landed.product = _product(plan, landed.product_id, cells)
    except CellError as error:
        landed.problem = (error.reason, str(error))
        return landed
    landed.pictures = _picture_names(plan, cells, landed.product_id or "")
    if mapping.images and not landed.pictures:
        landed.problem = ("missing_image", "the row names no picture")
    return landed


def _product(plan: Plan, product_id: str | None, cells: dict[str, Any]) -> dict[str, Any]:
    mapping = plan.mapping
    if product_id is None:
        raise CellError("missing_id", f"the row has no {mapping.product_id}")
    title = text_of(cells.get(mapping.title))
    if title is None:
        raise CellError("empty_title", f"the row has no {mapping.title}")
    product = {"product_id": product_id, "title": title}
    for name in ("description", "brand", "spu_id", "merchant_id"):
        column = getattr(mapping, name)
        product[name] = text_of(cells.get(column)) if column else None
    product["price_cents"] = _price(plan, cells)
    product["created_at"] = (
        time_of(cells.get(mapping.created_at), plan.day_first) if mapping.created_at else None
    )
    product["category"] = _category(plan, cells)
    pairs = [(name, list(texts_of(cells.get(column)))) for name, column in mapping.attributes.items()]
    product["attributes"] = [pair for pair in pairs if pair[1]]
    return product


def _price(plan: Plan, cells: dict[str, Any]) -> int | None:
    if plan.mapping.price_cents:
        return whole_cents(cells.get(plan.mapping.price_cents))
    return price_cents(cells.get(plan.mapping.price), plan.decimal_mark) if plan.mapping.price else None


def _category(plan: Plan, cells: dict[str, Any]) -> list[str]:
    if not plan.mapping.category:
        return []
    levels = levels_of([cells.get(column) for column in plan.mapping.category])
    if not levels:
        raise CellError("missing_category", f"the row has no {', '.join(plan.mapping.category)}")
    above = (_category_key(levels[: depth + 1]) for depth in range(len(levels)))
    if plan.categories is not None and not any(name in plan.categories for name in above):
        raise CellError("unknown_category", f"{' > '.join(levels)!r} is not among the given categories")
    return list(levels)


def _picture_names(plan: Plan, cells: dict[str, Any], product_id: str) -> list[str | ImageError]:
    if plan.pictures is None:
        return []
    names: list[str | ImageError] = []
    for image in plan.mapping.images:
        try:
            if "{" in image:
                path = filled(image, product_id, cells)
                paths = matching(plan.pictures, path) if has_wildcard(image) else [path]
            else:
                paths = [path for cell in texts_of(cells.get(image)) for path in _paths(plan.pictures, cell)]
        except ImageError as error:
            names.append(error)
            continue
        names += [_found(plan.pictures, path) for path in paths]
    errors = [name for name in names if not isinstance(name, str)]
    good = dict.fromkeys(name for name in names if isinstance(name, str))
    return [*good, *errors][:MAX_PICTURES]


def _paths(pictures: Pictures, cell: str) -> list[str]:
    """A cell as one path if there is such a file, else divided at the first of `|`, `;`, `,` that it has."""
    mark = next((mark for mark in LIST_MARKS if mark in cell), None)
    if mark is None or isinstance(_found(pictures, cell), str):
        return [cell]
    return [part.strip() for part in cell.split(mark) if part.strip()]


def _found(pictures: Pictures, path: str) -> str | ImageError:
    try:
        return pictures.find(path)
    except ImageError as error:
        return error


class Pictured(Protocol):
    """An entry whose pictures are to be read; `outcomes` has then what became of each."""

    problem: tuple[str, str] | None
    pictures: list[str | ImageError]
    outcomes: list[Outcome]


Entry = TypeVar("Entry", bound=Pictured)


def with_pictures(
    entries: Iterable[Entry], pictures: Pictures | None, known: Container[str] = ()
) -> Iterator[Entry]:
    """Entries in order, their pictures read and decoded ahead by threads, a bounded number at a time.

    Args:
        known: names of pictures not to read again; it may grow meanwhile. Their outcome is None.
    """
    waiting: deque[Entry] = deque()
    ahead: dict[str, Future[Outcome]] = {}
    with ThreadPoolExecutor(max_workers=min(num_cores(), 8)) as pool:
        try:
            for entry in entries:
                if not entry.problem and pictures:
                    for name in entry.pictures:
                        if isinstance(name, str) and name not in known and name not in ahead:
                            ahead[name] = pool.submit(_picture, pictures, name)
                waiting.append(entry)
                while len(waiting) >= WINDOW_ROWS or len(ahead) >= WINDOW_PICTURES:
                    yield _settled(waiting.popleft(), ahead, waiting)
            while waiting:
                yield _settled(waiting.popleft(), ahead, waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _settled(entry: Entry, ahead: dict[str, Future[Outcome]], waiting: deque[Entry]) -> Entry:
    for name in entry.pictures if not entry.problem else ():
        if not isinstance(name, str):
            entry.outcomes.append(name)
        else:
            entry.outcomes.append(ahead[name].result() if name in ahead else None)
    for name in entry.pictures:
        if isinstance(name, str) and not any(name in later.pictures for later in waiting):
            ahead.pop(name, None)
    return entry


def _picture(pictures: Pictures, name: str) -> Outcome:
    try:
        data = pictures.read(name)
        return Picture(data, image_facts(data))
    except ImageError as error:
        return error
