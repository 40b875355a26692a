"""The commands `moontide ranking import taobao-mm|microlens|taobaoad|kuairand`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moontide.foundation.errors import SettingsError
from moontide.foundation.storage import storage_errors
from moontide.ranking.importers.build import Imported, check_target
from moontide.ranking.importers.parts import PARTS, POLICIES

import_app = typer.Typer(help="Make ranking samples of a public click log.", no_args_is_help=True)
console = Console()
Source = Annotated[Path, typer.Argument(help="folder with the tables as published")]
To = Annotated[Path, typer.Option("--to", help="samples folder to write")]
Limit = Annotated[int | None, typer.Option(min=1, help="impressions read of each table, for trying")]
Keep = Annotated[int, typer.Option("--history", min=1, help="latest behaviors kept of a shopper")]
TestShare = Annotated[float, typer.Option(help="share of the log that is for test")]
ValidationShare = Annotated[float, typer.Option(help="share that is for choosing models, never trained on")]
Replace = Annotated[bool, typer.Option("--replace", help="put it in the place of the folder there")]


@import_app.command("taobao-mm")
def taobao_mm(
    source: Source,
    to: To,
    limit: Limit = None,
    history: Keep = 1000,
    split: Annotated[
        str, typer.Option(help="published, or shoppers: both tables in one pot, whole shoppers dealt anew")
    ] = "published",
    test_share: TestShare = 0.2,
    validation_share: ValidationShare = 0.05,
    replace: Replace = False,
) -> None:
    """Import Taobao-MM: impressions, long histories, int8 vectors. --test-share is for --split shoppers."""
    from moontide.ranking.importers.taobao_mm import read_taobao_mm

    if split not in ("published", "shoppers"):
        raise SettingsError(f"--split must be published or shoppers, got {split!r}")
    _import(
        to,
        replace,
        lambda scratch: read_taobao_mm(source, scratch, limit, history, split, test_share, validation_share),
    )


@import_app.command("microlens")
def microlens(
    source: Source,
    to: To,
    limit: Limit = None,
    validation_share: ValidationShare = 0.05,
    replace: Replace = False,
) -> None:
    """Import MicroLens MMCTR: valid.parquet is the test part, validation is ours, test has no labels."""
    from moontide.ranking.importers.microlens import read_microlens

    _import(to, replace, lambda scratch: read_microlens(source, scratch, limit, validation_share))


@import_app.command("taobaoad")
def taobaoad(
    source: Source,
    to: To,
    limit: Limit = None,
    history: Keep = 1000,
    test_share: TestShare = 0.125,
    validation_share: ValidationShare = 0.1,
    replace: Replace = False,
) -> None:
    """Import TaobaoAd (Ali_Display_Ad_Click), split by time: the last of eight days is for test."""
    from moontide.ranking.importers.taobaoad import read_taobaoad

    _import(
        to,
        replace,
        lambda scratch: read_taobaoad(source, scratch, limit, history, test_share, validation_share),
    )


@import_app.command("kuairand")
def kuairand(
    source: Source,
    to: To,
    limit: Limit = None,
    test_share: TestShare = 0.2,
    validation_share: ValidationShare = 0.1,
    replace: Replace = False,
) -> None:
    """Import KuaiRand, split by time; random exposures are marked and never trained on."""
    from moontide.ranking.importers.kuairand import read_kuairand

    _import(to, replace, lambda scratch: read_kuairand(source, scratch, limit, test_share, validation_share))


def _import(to: Path, replace: bool, read: Callable[[Path], Imported]) -> None:
    check_target(to, replace)
    start = time.monotonic()
    with storage_errors(to):
        to.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.absolute().parent) as scratch:
            imported = read(Path(scratch))
            imported.save(to, replace)
    seconds = time.monotonic() - start
    _report(imported, to)
    rate = len(imported.samples) / max(seconds, 1e-3)
    console.print(f"{seconds:,.1f} s, {rate:,.0f} impressions a second")
    vectors = f" --vectors {to / 'vectors'} --model muse" if imported.vectors is not None else ""
    console.print(f"Next: moontide ranking train --samples {to}{vectors} --out MODEL", soft_wrap=True)


def _report(imported: Imported, to: Path) -> None:
    shown = Table("imported", "", title=str(to), title_justify="left")
    shown.columns[1].justify = "right"
    marks, label = imported.marks, imported.samples.label
    lines = [(name, f"{number:,}") for name, number in imported.lines]
    for part, name in enumerate(PARTS):
        for policy, word in enumerate(POLICIES):
            held = (marks.part == part) & (marks.policy == policy)
            if held.any() or not policy:
                kind = name if not policy else f"{name}, {word} exposures"
                lines.append((f"{kind}: impressions, clicks", f"{held.sum():,}, {label[held].sum():,}"))
    for name, share in imported.facts.get("coverage", {}).items():
        lines.append((f"{name} with a vector", f"{share:.2%}"))
    lines += [(f"refused, {name}", f"{number:,}") for name, number in imported.rejected.lines()]
    for name, text in lines:
        shown.add_row(Text(name), text)
    console.print(shown)
    for note in imported.notes:
        console.print(Text(f"Note: {note}"), soft_wrap=True)
    if imported.rejected.rows:
        console.print(f"Why: {to / 'rejected.parquet'}", soft_wrap=True)
