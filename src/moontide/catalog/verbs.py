"""The commands `moontide data ...`: import a catalog, look it over, split it, show it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moontide.catalog.check import check
from moontide.catalog.console import counts_table, landed_card, pace, product_card
from moontide.catalog.dataset import Dataset
from moontide.catalog.freeze_verbs import benchmark_app as benchmark_app  # found here by the command line
from moontide.catalog.import_verbs import (
    fashion200k_command,
    m5product_command,
    mbe_command,
    queries_command,
)
from moontide.catalog.landing import Plan, plan_import
from moontide.catalog.mapping import parse_flags, read_file
from moontide.catalog.resplit import write_splits
from moontide.catalog.sheet import write_sheet
from moontide.catalog.splits import HASH_DISTANCE, TEST_SHARE
from moontide.catalog.tables import import_table, preview
from moontide.foundation.errors import DataError, SettingsError

app = typer.Typer(name="data", help="Import a catalog, check it, split it, show it.", no_args_is_help=True)
imports = typer.Typer(name="import", help="Make a dataset of what you have.", no_args_is_help=True)
app.add_typer(imports)

DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET", help="a dataset folder")]


@imports.command("table")
def table_command(
    source: Annotated[Path, typer.Argument(help="CSV, TSV, JSON lines or Parquet")],
    to: Annotated[Path | None, typer.Option(help="the dataset folder to write")] = None,
    images: Annotated[Path | None, typer.Option(help="folder or zip of pictures")] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN,...",
            help="title=name,category=gender>type,price=cost,attributes.color=hue,images={id}.jpg,brand=- "
            "corrects the guess; - leaves a field out",
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="TOML file of the same, instead of guessing; --map wins")
    ] = None,
    categories: Annotated[Path | None, typer.Option(help="file of allowed categories, one per line")] = None,
    encoding: Annotated[str | None, typer.Option(help="of a text file, where it is not UTF-8")] = None,
    name: Annotated[str | None, typer.Option(help="name of the dataset; default: its folder")] = None,
    license: Annotated[str, typer.Option(help="license of the data")] = "unknown",
    test_share: Annotated[float, typer.Option(help="share of product groups held out")] = TEST_SHARE,
    replace: Annotated[
        bool, typer.Option("--replace", help="put it in the place of the dataset there")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the first rows, write nothing")] = False,
) -> None:
    """Import a table and its pictures. Rows that cannot be used go to rejected.parquet with the reason."""
    given = read_file(mapping) if mapping else {}
    flags = parse_flags(mapped or [])
    attributes = {**given.get("attributes", {}), **flags.get("attributes", {})}
    given = {**given, **flags, **({"attributes": attributes} if attributes else {})}
    console = Console()
    plan = plan_import(source, images, given, mapping is None, categories, encoding)
    _print_mapping(console, plan, "given and guessed" if given else "guessed from the names of the columns")
    if dry_run:
        for landed in preview(plan):
            console.print(landed_card(landed))
        console.print("Nothing was written. Leave out --dry-run to import.")
        return
    if to is None:
        raise SettingsError("name the dataset folder to write with --to, or add --dry-run to write nothing")
    start = time.monotonic()
    report = import_table(plan, to, name=name, license=license, test_share=test_share, replace=replace)
    console.print(counts_table("Imported", report.lines()))
    console.print(Text(pace(report.image_bytes, report.rows, time.monotonic() - start)))
    if report.rejected:
        console.print(Text(f"Why: {to / 'rejected.parquet'}"), soft_wrap=True)
    console.print(Text(f"The dataset is at {to}. Next: moontide data check {to}"), soft_wrap=True)


imports.command("queries")(queries_command)
imports.command("mbe")(mbe_command)
imports.command("fashion200k")(fashion200k_command)
imports.command("m5product")(m5product_command)


@app.command("check")
def check_command(
    dataset: DatasetPath,
    sheet: Annotated[Path | None, typer.Option(help="write a picture sheet to this .png or .jpg")] = None,
    sheet_size: Annotated[int, typer.Option(min=1, help="pictures on the sheet")] = 48,
    pictures: Annotated[bool, typer.Option(help="decode every picture, the slow part")] = True,
    hash_distance: Annotated[
        int, typer.Option(min=-1, max=64, help="bits two pictures may differ; -1: none")
    ] = (HASH_DISTANCE),
) -> None:
    """Look a dataset over: exit 0 when it has no errors (warnings are printed), 1 when it has."""
    opened = Dataset.open(dataset)
    findings = check(opened, pictures, None if hash_distance < 0 else hash_distance)
    console = Console()
    console.print(counts_table("Rows", list(findings.rows.items())))
    for finding in sorted(findings.found, key=lambda finding: not finding.is_error):
        word, style = ("error", "red") if finding.is_error else ("warning", "yellow")
        more = ", ..." if finding.count > len(finding.examples) else ""
        text = f"{finding.kind}: {finding.text}: {finding.count:,} ({', '.join(finding.examples)}{more})"
        console.print(Text(word, style=style), Text(text), soft_wrap=True)
    console.print(f"{len(findings.errors)} kinds of errors, {len(findings.warnings)} kinds of warnings")
    if sheet is not None:
        num_shown = write_sheet(opened, sheet, sheet_size)
        console.print(Text(f"{num_shown} pictures on {sheet}"), soft_wrap=True)
    if findings.errors:
        raise typer.Exit(1)


@app.command("split")
def split_command(
    dataset: DatasetPath,
    test_share: Annotated[float, typer.Option(help="share of product groups held out")] = TEST_SHARE,
    salt: Annotated[str, typer.Option(help="another salt, another split")] = "split",
    hash_distance: Annotated[
        int, typer.Option(min=-1, max=64, help="bits two pictures may differ; -1: none")
    ] = (HASH_DISTANCE),
) -> None:
    """Hold out groups of near-duplicate products again; models of the old split have seen other products."""
    counts = write_splits(
        Dataset.open(dataset), test_share, salt, None if hash_distance < 0 else hash_distance
    )
    Console().print(
        counts_table("Split", [(f"products for {side}", counts[side]) for side in ("train", "test")])
    )


@app.command("show")
def show_command(
    dataset: DatasetPath,
    product: Annotated[str | None, typer.Option(help="one product id")] = None,
    num: Annotated[int, typer.Option("--num", "-n", min=0, help="products to list")] = 5,
) -> None:
    """What a dataset holds, and some of its products."""
    opened, console = Dataset.open(dataset), Console()
    if product is None:
        facts = [(name, str(opened.info.get(name, ""))) for name in ("name", "license", "source")]
        console.print(Text("\n".join(f"{name}: {value}" for name, value in facts)))
        console.print(counts_table("Rows", list(opened.info.get("rows", {}).items())))
    products = opened.products()
    if product is not None:
        products = [one for one in products if one.product_id == product]
        if not products:
            raise DataError(f"no product of {dataset} has the id {product!r}")
    for one in products[: 1 if product is not None else num]:
        console.print(product_card(one))


def _print_mapping(console: Console, plan: Plan, how: str) -> None:
    table = Table("field", "column", title=f"Mapping, {how}", title_justify="left")
    for name, column in plan.mapping.lines():
        table.add_row(Text(name), Text(column))
    console.print(table)
    for note in plan.notes:
        console.print(Text(note), soft_wrap=True)
