"""The commands `moontide data import mbe|fashion200k|m5product|queries`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moontide.catalog.console import card, counts_table, landed_card, pace
from moontide.catalog.dataset import Dataset
from moontide.catalog.fashion200k import read_fashion200k
from moontide.catalog.intake import Offers, import_offers, preview_offers
from moontide.catalog.landing import Picture
from moontide.catalog.m5product import read_m5product
from moontide.catalog.mbe import read_mbe
from moontide.catalog.query_pairs import (
    Asked,
    import_queries,
    parse_query_flags,
    plan_queries,
    preview_queries,
)
from moontide.catalog.splits import TEST_SHARE
from moontide.foundation.errors import SettingsError

To = Annotated[Path | None, typer.Option(help="the dataset folder to write")]
Images = Annotated[Path | None, typer.Option(help="folder or zip of pictures")]
Name = Annotated[str | None, typer.Option(help="name of the dataset; default: its folder")]
License = Annotated[str | None, typer.Option(help="license of the data; default: as published")]
TestShare = Annotated[float, typer.Option(help="share of product groups held out")]
Replace = Annotated[bool, typer.Option("--replace", help="put it in the place of the dataset there")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show the first rows, write nothing")]
NOTHING = "Nothing was written. Leave out --dry-run to import."


def mbe_command(
    source: Annotated[Path, typer.Argument(help="JSON lines of MBE")],
    to: To = None,
    images: Images = None,
    name: Name = None,
    license: License = None,
    test_share: TestShare = TEST_SHARE,
    replace: Replace = False,
    dry_run: DryRun = False,
) -> None:
    """Import MBE. Links of pictures are never fetched: such products stay, without a picture."""
    _import(read_mbe(source, images), to, name, license, test_share, replace, dry_run)


def fashion200k_command(
    source: Annotated[Path, typer.Argument(help="folder of label files, or Parquet of the Marqo card")],
    to: To = None,
    images: Images = None,
    name: Name = None,
    license: License = None,
    test_share: TestShare = TEST_SHARE,
    replace: Replace = False,
    dry_run: DryRun = False,
) -> None:
    """Import Fashion200K. Label files keep the published train and test; --test-share is for the card."""
    _import(read_fashion200k(source, images), to, name, license, test_share, replace, dry_run)


def m5product_command(
    source: Annotated[Path, typer.Argument(help="JSON lines, TSV, CSV or Parquet of M5Product")],
    to: To = None,
    images: Images = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN,...",
            help="where a column is called otherwise: product_id, title, category, properties, images",
        ),
    ] = None,
    name: Name = None,
    license: License = None,
    test_share: TestShare = TEST_SHARE,
    replace: Replace = False,
    dry_run: DryRun = False,
) -> None:
    """Import M5Product, by its published description."""
    parts = [part.partition("=") for text in mapped or [] for part in text.split(",")]
    columns = {field.strip(): column.strip() for field, _, column in parts}
    _import(read_m5product(source, images, columns), to, name, license, test_share, replace, dry_run)


def _import(
    offers: Offers,
    to: Path | None,
    name: str | None,
    license: str | None,
    test_share: float,
    replace: bool,
    dry_run: bool,
) -> None:
    console = Console()
    if dry_run:
        for landed in preview_offers(offers):
            console.print(landed_card(landed, needs_picture=False))
        console.print(NOTHING)
        return
    to, start = _named(to), time.monotonic()
    report = import_offers(offers, to, name=name, license=license, test_share=test_share, replace=replace)
    console.print(counts_table("Imported", report.lines()))
    console.print(Text(pace(report.image_bytes, report.rows, time.monotonic() - start)))
    _tell(console, to, bool(report.rejected))


def queries_command(
    source: Annotated[Path, typer.Argument(help="pairs of query and product: CSV, TSV, JSON lines, Parquet")],
    dataset: Annotated[Path, typer.Option(help="the dataset that has the products")],
    to: To = None,
    images: Images = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN,...",
            help="text=query,image=photo,product_id=sku,split=part,at=time,kind=event corrects the guess; "
            "- leaves a field out",
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="of a text file, where it is not UTF-8")] = None,
    name: Name = None,
    replace: Replace = False,
    dry_run: DryRun = False,
) -> None:
    """Add queries, as texts or pictures, and the products that answer them, to a copy of a dataset."""
    console, opened = Console(), Dataset.open(dataset)
    plan = plan_queries(source, images, parse_query_flags(mapped or []), encoding)
    table = Table("field", "column", title="Mapping, given and guessed", title_justify="left")
    for field, column in plan.mapping.lines():
        table.add_row(Text(field), Text(column))
    console.print(table)
    if dry_run:
        for asked in preview_queries(plan):
            console.print(_asked_card(asked))
        console.print(NOTHING)
        return
    to, start = _named(to), time.monotonic()
    report = import_queries(plan, opened, to, name=name, replace=replace)
    console.print(counts_table("Imported", report.lines()))
    console.print(Text(pace(report.image_bytes, report.rows, time.monotonic() - start)))
    _tell(console, to, bool(report.rejected))


def _asked_card(asked: Asked) -> Table:
    fate = f"rejected: {asked.problem[0]}" if asked.problem else "taken"
    if not asked.problem and asked.seen is not None and not isinstance(asked.seen, Picture):
        fate = f"{'taken, without its picture' if asked.text else 'rejected'}: {asked.seen.reason}"
    names = ("text", "picture", "product_id", "split", "at")
    return card(f"row {asked.number}", fate, [(name, getattr(asked, name)) for name in names])


def _named(to: Path | None) -> Path:
    if to is None:
        raise SettingsError("name the dataset folder to write with --to, or add --dry-run to write nothing")
    return to


def _tell(console: Console, to: Path, has_rejected: bool) -> None:
    if has_rejected:
        console.print(Text(f"Why: {to / 'rejected.parquet'}"), soft_wrap=True)
    console.print(Text(f"The dataset is at {to}. Next: moontide data check {to}"), soft_wrap=True)
