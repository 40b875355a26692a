"""M5Product, which its authors give on application: by its published description; unverified.

The description lists, for each product, a `meta_info` with `item_id`, `caption`, `image`, `tabular` (pairs of
property and value) and `label` (the category); code that its authors published reads `title` and `pv`, one
text of `key#:#value` pairs joined by `#;#`. Both are read, from JSON lines, TSV, CSV or Parquet; `meta_info`
may be a nested object. What is called otherwise is named with `columns`.

A product has several pictures, the first is the main one: a list of paths, or a pattern like `{id}_*.jpg`.
Without a column of pictures they are those named `{id}.jpg` below the folder. Video and audio are not read.

The license is that of the application: non-commercial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moontide.catalog.intake import Offers, found, product_of
from moontide.catalog.landing import Landed
from moontide.catalog.mapping import filled, has_wildcard
from moontide.catalog.pictures import Pictures, matching, open_pictures
from moontide.catalog.properties import WITHOUT_VALUE, parse_properties
from moontide.catalog.rowfiles import RowFile
from moontide.catalog.values import levels_of, text_of, texts_of
from moontide.foundation.errors import CellError, DataError, ImageError, SettingsError

COLUMNS: dict[str, tuple[str, ...]] = {
    "product_id": ("item_id", "id"),
    "title": ("caption", "title"),
    "category": ("label", "category"),
    "properties": ("tabular", "pv", "properties"),
    "images": ("image", "images"),
}
PREFIX = "meta_info."
BY_ID = "{id}.jpg"


def read_m5product(
    source: Path | str, images: Path | str | None = None, columns: Mapping[str, str] | None = None
) -> Offers:
    """The products of an M5Product file.

    Args:
        images: folder or zip of pictures; None: the folder of `source`.
        columns: field -> column, where the file calls a field other than `COLUMNS` says; for `images` also a
            pattern of `{id}`.

    Raises:
        DataError: there is no column for the id or the title, or one that was named is not there.
        SettingsError: `columns` names a field that there is not.
        StorageError: a path is wrong.
    """
    file = RowFile(source)
    pictures = open_pictures(images if images is not None else file.path.absolute().parent)
    named = _columns(file, columns or {})
    noted: Counter[str] = Counter()
    landed = _landed(file, named, pictures, noted)
    return Offers(file.path, "non-commercial, by application", landed, pictures, noted, file.num_rows)


def _columns(file: RowFile, given: Mapping[str, str]) -> dict[str, str]:
    """The column of each field that the file has; properties may be a prefix of columns."""
    unknown = [name for name in given if name not in COLUMNS]
    if unknown:
        raise SettingsError(f"M5Product has no field {unknown[0]!r} to map: it has {', '.join(COLUMNS)}")
    tops = {column[: place or None] for column in file.columns for place in _stops(column)}
    named: dict[str, str] = {}
    for field, usual in COLUMNS.items():
        choices = [given[field]] if field in given else [*usual, *(PREFIX + one for one in usual)]
        column = next((one for one in choices if one in tops or "{" in one), None)
        if column is None and (field in given or field in ("product_id", "title")):
            have = ", ".join(file.columns) or "none"
            raise DataError(f"{file.path} has no {' or '.join(choices)} for {field} (columns: {have})")
        if column is not None:
            named[field] = column
    return {"images": BY_ID, **named}


def _stops(column: str) -> list[int]:
    """Where a dotted name may end: at each point, and at its end (0)."""
    return [0, *(place for place, sign in enumerate(column) if sign == ".")]


def _landed(
    file: RowFile, named: dict[str, str], pictures: Pictures, noted: Counter[str]
) -> Iterator[Landed]:
    for row in file:
        landed = Landed(row.number, problem=row.problem)
        if not row.problem:
            cells = row.cells
            landed.product_id = text_of(cells.get(named["product_id"]))
            try:
                landed.product = product_of(
                    landed.product_id,
                    cells.get(named["title"]),
                    category=list(levels_of([cells.get(named.get("category", ""))])),
                    attributes=list(_properties(cells, named.get("properties"), noted).items()),
                )
                landed.pictures = _pictures(pictures, named["images"], landed.product_id or "", cells)
            except CellError as error:
                landed.problem = (error.reason, str(error))
        yield landed


def _properties(cells: dict[str, Any], column: str | None, noted: Counter[str]) -> dict[str, list[str]]:
    """Pairs from nested columns ("tabular.color"), or from one text of pairs."""
    if column is None:
        return {}
    if column in cells and not isinstance(cells[column], dict):
        return parse_properties(text_of(cells[column]), noted, "#;#", "#:#", None)
    nested = {key.removeprefix(f"{column}."): value for key, value in cells.items()}
    nested = {key: list(texts_of(value)) for key, value in nested.items() if f"{column}.{key}" in cells}
    noted[WITHOUT_VALUE] += sum(not values for values in nested.values())
    return nested


def _pictures(
    pictures: Pictures, images: str, product_id: str, cells: dict[str, Any]
) -> list[str | ImageError]:
    if "{" not in images:
        return found(pictures, cells.get(images))
    path = filled(images, product_id, cells)
    try:
        return found(pictures, matching(pictures, path) if has_wildcard(images) else path)
    except ImageError as error:
        return [error]
