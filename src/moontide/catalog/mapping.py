"""Which column of a shop's table becomes what: given on the command line, in a TOML file, or guessed by name.

    title=name, category=gender>type, price=cost, attributes.color=base_colour, images=photos/{id}.jpg

The same in TOML:

    title = "name"
    category = ["gender", "type"]
    price = "cost"
    images = ["photos/{id}.jpg"]
    [attributes]
    color = "base_colour"

Flags correct the guess, and `FIELD=-` leaves a field out. A file is the whole mapping: only the id and the
title are guessed where it does not name them.
"""

from __future__ import annotations

import difflib
import glob
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import pydantic

from moontide.catalog.values import text_of
from moontide.foundation.errors import DataError, SettingsError, StorageError
from moontide.foundation.settings import Settings

Column = str | None


class Mapping(Settings):
    """Which column of the source fills which field of a product."""

    product_id: str = pydantic.Field(description="column of the id, unique")
    title: str = pydantic.Field(description="column of the title")
    description: Column = pydantic.Field(None, description="column of the long text")
    brand: Column = pydantic.Field(None, description="column of the brand")
    price: Column = pydantic.Field(None, description="column of the price, in currency units")
    price_cents: Column = pydantic.Field(
        None, description="column of the price, in cents; instead of `price`"
    )
    created_at: Column = pydantic.Field(None, description="column of the date of the first offer")
    spu_id: Column = pydantic.Field(None, description="column that is equal for variants of one product")
    merchant_id: Column = pydantic.Field(None, description="column of the seller")
    category: tuple[str, ...] = pydantic.Field(
        (), description="columns from coarse to fine, or one of a path"
    )
    images: tuple[str, ...] = pydantic.Field((), description="columns of paths, or patterns like {id}.jpg")
    attributes: dict[str, str] = pydantic.Field({}, description="attribute name -> column")

    @pydantic.model_validator(mode="after")
    def _one_price(self) -> Self:
        if self.price and self.price_cents:
            raise ValueError("price and price_cents contradict each other: map one of them")
        return self

    @property
    def columns(self) -> list[str]:
        """Every column that is read, without repetitions; `{id}` of a pattern is no column."""
        single = [self.product_id, self.title, self.description, self.brand, self.price, self.price_cents]
        single += [self.created_at, self.spu_id, self.merchant_id, *self.category, *self.attributes.values()]
        for image in self.images:
            single += pattern_columns(image) if "{" in image else [image]
        return list(dict.fromkeys(column for column in single if column))

    def lines(self) -> list[tuple[str, str]]:
        """Field and column, for people."""
        rows = [(name, getattr(self, name)) for name in type(self).model_fields if name != "attributes"]
        shown = [
            (name, value if isinstance(value, str) else " > ".join(value)) for name, value in rows if value
        ]
        return shown + [(f"attributes.{name}", column) for name, column in self.attributes.items()]


ALIASES = {
    "id": "product_id", "name": "title", "image": "images", "group": "spu_id", "merchant": "merchant_id",
    "seller": "merchant_id", "created": "created_at", "date": "created_at", "categories": "category",
}  # fmt: skip
GUESSES = {
    "product_id": "productid id sku itemid articleid asin productcode handle code uid",
    "title": "title productname producttitle productdisplayname displayname itemname name",
    "description": "description productdescription longdescription body bodyhtml",
    "brand": "brand brandname vendor manufacturer",
    "price": "price regularprice listprice variantprice unitprice saleprice",
    "price_cents": "pricecents",
    "created_at": "createdat created dateadded addedat publishedat launchdate listedat",
    "spu_id": "spuid spu itemgroupid groupid group parentid parentasin parentsku styleid modelid",
    "merchant_id": "merchantid merchant sellerid seller shopid storeid",
}
LEVELS = (
    "department", "gender", "mastercategory", "maincategory", "coarsename", "category", "subcategory",
    "subsubcategory", "articletype", "producttype",
)  # fmt: skip
PATHS = ("categorypath", "categories", "breadcrumbs", "taxonomy", "googleproductcategory")
ATTRIBUTES = {
    "color": "color colour basecolor basecolour maincolor", "size": "size", "material": "material fabric",
    "gender": "gender", "season": "season", "usage": "usage occasion", "style": "style", "pattern": "pattern",
    "fit": "fit", "year": "year modelyear",
}  # fmt: skip
_IMAGE = re.compile(
    r"(\w*image|\w*images|\w*imagepaths?|\w*imagefile|imagefilename|filename|picture|photo)s?\d*"
)
_BRACES = re.compile(r"\{([^{}]+)\}")
LEFT_OUT = "-"
ID_NAMES = ("id", "product_id")
_NUMBERED = re.compile(r"(?:category|categorylevel|cat|level)(\d)")


def parse_flags(texts: Iterable[str]) -> dict[str, Any]:
    """The fields named by `--map` texts like "title=name,category=a>b,attributes.color=hue"; None for "-".

    Raises:
        SettingsError: a part that is not FIELD=COLUMN, or a field that a product does not have.
    """
    fields: dict[str, Any] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        if not part:
            continue
        name, _, column = (piece.strip() for piece in part.partition("="))
        if not name or not column:
            raise SettingsError(f"--map takes FIELD=COLUMN, got {part!r}: for example title=name,price=cost")
        if name.startswith("attributes."):
            attribute = name.removeprefix("attributes.")
            fields.setdefault("attributes", {})[attribute] = None if column == LEFT_OUT else column
            continue
        field = _field(name)
        if column == LEFT_OUT:
            fields[field] = None
            continue
        several = [piece.strip() for piece in re.split(r"[>|]", column) if piece.strip()]
        fields[field] = several if field in ("category", "images") else column
    return fields


def read_file(path: Path) -> dict[str, Any]:
    """The fields of a TOML mapping file.

    Raises:
        StorageError: the file is missing.
        SettingsError: it is no TOML, or names a field that a product does not have.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise StorageError(f"no mapping file at {path}") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML ({error})") from None
    fields = {}
    for name, value in found.items():
        field = name if name == "attributes" else _field(name)
        fields[field] = [value] if field in ("category", "images") and isinstance(value, str) else value
    return fields


def _field(name: str) -> str:
    field = ALIASES.get(name, name)
    if field not in Mapping.model_fields or field == "attributes":
        known = [*Mapping.model_fields, "attributes.NAME"]
        known.remove("attributes")
        raise SettingsError(f"a product has no field {name!r} to map: it has {', '.join(known)}")
    return field


def guess(columns: Sequence[str]) -> dict[str, Any]:
    """The fields that usual column names suggest; those no name suggests are left out.

    Example:
        >>> guess(["SKU", "Product name", "Price", "Colour"])["attributes"]
        {'color': 'Colour'}
    """
    plain = {re.sub(r"[\W_]+", "", column.casefold()): column for column in reversed(columns)}
    fields: dict[str, Any] = {}
    for field, names in GUESSES.items():
        found = next((plain[name] for name in names.split() if name in plain), None)
        if found and found not in fields.values():
            fields[field] = found
    if "price" in fields:
        fields.pop("price_cents", None)
    fields["category"] = _guess_category(plain)
    fields["images"] = [column for name, column in plain.items() if _IMAGE.fullmatch(name)][::-1]
    used = {*fields["category"], *fields["images"], *(one for one in fields.values() if isinstance(one, str))}
    fields["attributes"] = {
        attribute: plain[name]
        for attribute, names in ATTRIBUTES.items()
        for name in names.split()
        if name in plain and plain[name] not in used
    }
    return {field: value for field, value in fields.items() if value}


def _guess_category(plain: dict[str, str]) -> list[str]:
    numbered = sorted((int(match[1]), plain[name]) for name in plain if (match := _NUMBERED.fullmatch(name)))
    if len(numbered) > 1:
        return [column for _, column in numbered]
    levels = [plain[name] for name in LEVELS if name in plain]
    path = next((plain[name] for name in PATHS if name in plain), None)
    if path:
        return [path]
    return [] if levels == [plain.get("gender")] else levels  # alone, gender is an attribute


def resolve(columns: Sequence[str], given: dict[str, Any], guesses: bool = True) -> Mapping:
    """The whole mapping: what is given, and for what is not, what the names of the columns suggest.

    Args:
        given: fields with their columns; None leaves a field out.
        guesses: False: only the id and the title are guessed, where they are not given.

    Raises:
        DataError: a column is not there, or none looks like an id or a title.
        SettingsError: two fields contradict each other.
    """
    guessed = _without_taken(guess(columns), given)
    if not guesses:
        guessed = {field: guessed[field] for field in ("product_id", "title") if field in guessed}
    attributes = {**guessed.get("attributes", {}), **(given.get("attributes") or {})}
    attributes = {name: column for name, column in attributes.items() if column is not None}
    both = {**guessed, **given, "attributes": attributes}
    fields: dict[str, Any] = {field: value for field, value in both.items() if value is not None}
    for field in ("product_id", "title"):
        if field not in fields:
            have = ", ".join(columns) or "none"
            raise DataError(f"no column looks like a {field}: give --map {field}=COLUMN (columns: {have})")
    mapping = Mapping(**fields)
    for column in mapping.columns:
        if column not in columns:
            near = difflib.get_close_matches(column, columns, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(columns)}"
            raise DataError(f"the source has no column {column!r}: {hint}")
    return mapping


def _without_taken(guessed: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The guess without columns that are given another field, and without a second price."""
    single = [value for value in given.values() if isinstance(value, str)]
    taken = {*single, *(column for value in given.values() if isinstance(value, list) for column in value)}
    priced = {"price", "price_cents"} if given.get("price") or given.get("price_cents") else set()
    rest: dict[str, Any] = {}
    for field, value in guessed.items():
        if isinstance(value, dict):
            rest[field] = {name: column for name, column in value.items() if column not in taken}
        elif isinstance(value, list):
            rest[field] = [column for column in value if column not in taken]
        elif field in ("product_id", "title") or (value not in taken and field not in priced):
            rest[field] = value
    return rest


def pattern_columns(image: str) -> list[str]:
    """The columns that a picture pattern names, without `{id}` and `{product_id}`, which every row has.

    Raises:
        SettingsError: a brace is not closed.

    Example:
        >>> pattern_columns("{brand}/{id}.jpg")
        ['brand']
    """
    if {"{", "}"} & set(_BRACES.sub("", image)):
        raise SettingsError(f"the picture pattern {image!r} has an open brace: write {{id}}.jpg")
    return [name for name in _BRACES.findall(image) if name not in ID_NAMES]


def has_wildcard(pattern: str) -> bool:
    """Whether a picture pattern stands for any number of files."""
    return bool({"*", "?"} & set(pattern))


def filled(pattern: str, product_id: str, cells: dict[str, Any]) -> str:
    """A picture pattern with the cells of one row in it; `*` in a cell stands for itself, not for all files.

    Example:
        >>> filled("{brand}/{id}.jpg", "7", {"brand": "Acme"})
        'Acme/7.jpg'
    """

    def cell(match: re.Match[str]) -> str:
        text = product_id if match[1] in ID_NAMES else text_of(cells.get(match[1])) or ""
        return glob.escape(text) if has_wildcard(pattern) else text

    return _BRACES.sub(cell, pattern)
