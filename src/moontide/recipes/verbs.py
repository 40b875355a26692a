"""The commands `moontide demo`, `moontide run` and `moontide papers`; `moontide study` is in `study.py`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moontide.foundation.errors import SettingsError
from moontide.recipes.papers import PAPERS, find
from moontide.recipes.study import study as study

console = Console()
SIZES = ("nano", "tiny", "study")
Size = Annotated[str, typer.Option(help="nano (a minute), tiny (ten minutes) or study (hours)")]
Seed = Annotated[int, typer.Option(help="the same seed on the same CPU gives the same numbers")]


def demo(
    size: Size = "tiny",
    to: Annotated[
        Path | None, typer.Option("--to", help="run folder; default runs/demo, or runs/SIZE")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Run the whole chain on a rendered market: report, and the command that opens the page."""
    from moontide.recipes.demo import RECIPES

    _check_size(size)
    path = to or Path("runs") / ("demo" if size == "tiny" else size)
    _run(path, f"demo, size {size}", RECIPES[size](), seed, None)


def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="nano, tiny or study; or a system: mim, moon_embedding")
    ] = "tiny",
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset", help="dataset folder with pictures; a system without one: a rendered market"
        ),
    ] = None,
    size: Annotated[str, typer.Option(help="of a system: nano, tiny or study")] = "tiny",
    to: Annotated[Path | None, typer.Option("--to", help="run folder; default runs/NAME")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="folder or Hub id of a Qwen-VL model instead of a new one")
    ] = None,
    lora_rank: Annotated[int, typer.Option(min=0, help="adapters on that backbone; 0 trains it all")] = 0,
    baseline: Annotated[bool, typer.Option(help="train a plain two-tower as long as the encoder")] = True,
    seed: Seed = 0,
) -> None:
    """Run the whole chain on your own dataset folder; what it lacks leaves out the stages that need it."""
    from moontide.recipes.demo import RECIPES, SYSTEMS, own
    from moontide.recipes.moon_embedding import published

    is_system = recipe in SYSTEMS
    if not is_system:
        _check_size(recipe, (*SIZES, *SYSTEMS))
        size = recipe
    _check_size(size)
    if dataset is None and not is_system:
        raise SettingsError("name your dataset folder with --dataset; without one, run `moontide demo`")
    settings = RECIPES[size]()
    settings = SYSTEMS[recipe](settings) if is_system else settings
    if dataset is not None:
        settings = own(settings)
    if backbone is not None:
        settings = settings.but(
            backbone=backbone, lora_rank=lora_rank, posttrain=published(settings.posttrain, lora_rank)
        )
    elif lora_rank:
        raise SettingsError("--lora-rank needs --backbone: a new encoder is trained whole")
    if not baseline:
        settings = settings.but(two_tower=None)
    name = f"{recipe}, size {size}" if is_system else size
    name = f"{name} on {dataset.name}" if dataset is not None else name
    folder = dataset.resolve().name if dataset is not None and not is_system else recipe
    _run(to or Path("runs") / folder, name, settings, seed, dataset)


def papers(name: Annotated[str | None, typer.Argument(help="one system; default all")] = None) -> None:
    """The published systems and where each is found here."""
    if name is None:
        table = Table("system", "arXiv", "recipe", "parts built")
        for paper in PAPERS:
            table.add_row(*map(Text, (paper.name, paper.arxiv, paper.recipe, paper.parts)))
        console.print(table)
        return
    for field, value in vars(find(name)).items():
        console.print(Text(f"{field}: {value}"))


def _check_size(size: str, sizes: tuple[str, ...] = SIZES) -> None:
    if size not in sizes:
        raise SettingsError(f"no size is called {size!r}: the sizes are {', '.join(sizes)}")


def _run(path: Path, recipe: str, settings, seed: int, dataset: Path | None) -> None:
    from moontide.studies.chain import run_chain

    began = time.monotonic()
    report = run_chain(path, recipe, settings, seed, dataset)
    console.print(Text(f"done in {time.monotonic() - began:,.0f} s"))
    console.print(Text(f"report   {report}"))
    console.print(Text(f"page     moontide serve {path}"))
