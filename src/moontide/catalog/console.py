"""What the commands of this room print: tables of counts, and one product or row as a card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from moontide.catalog.landing import Landed, Picture
from moontide.catalog.records import Product


def pace(image_bytes: int, num_rows: int, seconds: float) -> str:
    """How much an import moved, and how fast."""
    rate = num_rows / max(seconds, 1e-3)
    return f"{image_bytes / 1e6:,.1f} MB of pictures; {seconds:,.1f} s, {rate:,.0f} rows a second"


def landed_card(landed: Landed, needs_picture: bool = True) -> Table:
    """A row as it would land: its fields, its pictures, and whether it is taken."""
    good = sum(isinstance(outcome, Picture) for outcome in landed.outcomes)
    shown = {**landed.product, "attributes": dict(landed.product.get("attributes", ()))}
    pictures = {"pictures": f"{good} of {len(landed.pictures)}"} if landed.pictures else {}
    return card(f"row {landed.number}", _fate(landed, needs_picture), [*shown.items(), *pictures.items()])


def _fate(row: Landed, needs_picture: bool) -> str:
    if row.problem:
        return f"rejected: {row.problem[0]}"
    refused = [outcome.reason for outcome in row.outcomes if not isinstance(outcome, Picture) and outcome]
    if needs_picture and refused and len(refused) == len(row.outcomes):
        return f"rejected: {refused[0]}"
    return f"taken, without {len(refused)} pictures: {refused[0]}" if refused else "taken"


def counts_table(title: str, rows: list[tuple[str, int]]) -> Table:
    """What was counted, under a title."""
    table = Table(title, "", title_justify="left")
    table.columns[1].justify = "right"
    for name, number in rows:
        table.add_row(Text(name), f"{number:,}")
    return table


def product_card(product: Product) -> Table:
    """A product and those of its fields that say something."""
    fields = [(name, value) for name, value in vars(product).items() if name not in ("product_id", "title")]
    return card(product.product_id, product.title, fields)


def card(title: str, text: str, fields: Iterable[tuple[str, Any]]) -> Table:
    """One thing and those of its fields that say something."""
    table = Table(Column(Text(title)), Column(Text(text)))
    for name, value in fields:
        if isinstance(value, dict):
            value = "; ".join(f"{key}: {', '.join(values)}" for key, values in value.items())
        elif isinstance(value, (list, tuple)):
            value = (" > " if name == "category" else ", ").join(value)
        if value not in (None, ""):
            table.add_row(name, Text(str(value)))
    return table
