"""The commands `moontide benchmark build|check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from moontide.catalog.console import counts_table
from moontide.catalog.dataset import Dataset
from moontide.catalog.exposures import Positives
from moontide.catalog.freeze import build_benchmark, check_benchmark

benchmark_app = typer.Typer(
    name="benchmark", help="Freeze a log into a benchmark that others can use.", no_args_is_help=True
)


@benchmark_app.command("build")
def build_command(
    dataset: Annotated[Path, typer.Option(help="a dataset with a log")],
    to: Annotated[Path, typer.Option(help="the benchmark folder to write")],
    positives: Annotated[
        Positives, typer.Option(help="the weakest event that makes a pair positive")
    ] = "order",
    replace: Annotated[
        bool, typer.Option("--replace", help="put it in the place of the benchmark there")
    ] = False,
) -> None:
    """Write queries, positives, exposed negatives, splits, a card and the hash of every file."""
    benchmark = build_benchmark(Dataset.open(dataset), to, positives, replace)
    console = Console()
    console.print(counts_table("Frozen", benchmark.lines()))
    for leak in benchmark.leaks:
        if leak.count:
            console.print(Text(f"by {leak.division}: {leak.what}: {leak.count:,}"), soft_wrap=True)
    console.print(Text(f"sha256 {benchmark.sha256}"), soft_wrap=True)
    console.print(Text(f"The benchmark is at {to}; its card: {to / 'README.md'}"), soft_wrap=True)


@benchmark_app.command("check")
def check_command(
    benchmark: Annotated[Path, typer.Argument(metavar="BENCHMARK", help="a benchmark folder")],
) -> None:
    """Compare every file with its hash, and look for leaks: exit 0 when it is sound, 1 when not."""
    verdict, console = check_benchmark(benchmark), Console()
    for word, files in (
        ("changed", verdict.changed), ("missing", verdict.missing), ("not in the manifest", verdict.unlisted)
    ):  # fmt: skip
        for name in files:
            console.print(Text(f"{word}: {name}"), soft_wrap=True)
    if not verdict.is_same_hash:
        console.print("manifest.json: its hash of all is not that of its files")
    if verdict.leaks:
        rows = [(f"by {leak.division}: {leak.what}", leak.count) for leak in verdict.leaks]
        console.print(counts_table("Leaks", rows))
    else:
        console.print("Leaks were not looked for: the files are not those that were frozen.")
    console.print(Text(f"sha256 {verdict.sha256}"), soft_wrap=True)
    console.print("sound" if verdict.is_sound else "not sound: build it again, or fetch it again")
    if not verdict.is_sound:
        raise typer.Exit(1)
