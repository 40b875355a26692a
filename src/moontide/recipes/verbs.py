"""The commands `moontide demo`, `moontide run`, `moontide study` and `moontide papers`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moontide.foundation.errors import SettingsError
from moontide.foundation.storage import write_bytes
from moontide.recipes.papers import PAPERS, find

console = Console()
study = typer.Typer(help="Comparisons over seeds, cached cell by cell.", no_args_is_help=True)
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
    size: Annotated[str, typer.Argument(metavar="RECIPE", help="nano, tiny or study")] = "tiny",
    dataset: Annotated[Path | None, typer.Option("--dataset", help="dataset folder with pictures")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="run folder; default runs/NAME")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="folder or Hub id of a Qwen-VL model instead of a new one")
    ] = None,
    lora_rank: Annotated[int, typer.Option(min=0, help="adapters on that backbone; 0 trains it all")] = 0,
    baseline: Annotated[bool, typer.Option(help="train a plain two-tower as long as the encoder")] = True,
    seed: Seed = 0,
) -> None:
    """Run the whole chain on your own dataset folder; what it lacks leaves out the stages that need it."""
    from moontide.recipes.demo import RECIPES, own
    from moontide.recipes.moon_embedding import published

    _check_size(size)
    if dataset is None:
        raise SettingsError("name your dataset folder with --dataset; without one, run `moontide demo`")
    settings = own(RECIPES[size]())
    if backbone is not None:
        settings = settings.but(
            backbone=backbone, lora_rank=lora_rank, posttrain=published(settings.posttrain, lora_rank)
        )
    elif lora_rank:
        raise SettingsError("--lora-rank needs --backbone: a new encoder is trained whole")
    if not baseline:
        settings = settings.but(two_tower=None)
    _run(to or Path("runs") / dataset.resolve().name, f"{size} on {dataset.name}", settings, seed, dataset)


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


@study.command()
def content(
    to: Annotated[Path, typer.Option("--to", help="folder of the study; finished cells are kept")],
    size: Annotated[str, typer.Option(help="recipe of every cell: content (minutes a cell), nano, tiny")] = (
        "content"
    ),
    markets: Annotated[int, typer.Option(min=1, help="market seeds")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="training seeds of each market")] = 3,
    kinds: Annotated[str, typer.Option(help="kinds of market, comma-separated")] = "default,blind",
) -> None:
    """What content adds to a click model on ids: markets x training seeds, and the blind control."""
    from moontide.recipes.demo import RECIPES
    from moontide.studies.content import content_cells, content_markdown, content_tables, run_content_study

    _check_size(size, (*SIZES, "content"))
    settings = RECIPES[size]()
    cells = content_cells(settings, markets, seeds, [kind.strip() for kind in kinds.split(",")])
    rows = run_content_study(to, settings, cells)
    text = content_markdown(content_tables(rows)) if rows else "no cell is finished\n"
    write_bytes(to / "tables.md", text.encode())
    console.print(Text(text), soft_wrap=True)
    console.print(Text(f"{len(rows)} of {len(cells)} cells; tables at {to / 'tables.md'}"))


@study.command()
def ablation(
    name: Annotated[str, typer.Argument(help="moon_embedding (the ladder), mim, moon or moon2")],
    dataset: Annotated[Path, typer.Option("--dataset", help="dataset folder with pictures and a log")],
    to: Annotated[Path, typer.Option("--to", help="folder of the table; finished cells are kept")],
    start: Annotated[
        Path | None, typer.Option(help="checkpoint all cells begin with; default: made once, under --to")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="training seeds")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="steps of a cell; default: the recipe's")] = None,
    start_steps: Annotated[int, typer.Option(min=1, help="steps of a checkpoint that is made")] = 1_500,
    only: Annotated[list[str] | None, typer.Option(help="row or cell; may be given several times")] = None,
    queries: Annotated[int, typer.Option(min=1, help="queries of a column at most")] = 1_000,
    max_minutes: Annotated[float | None, typer.Option(help="no cell begins later; 0: table alone")] = None,
) -> None:
    """A paper's ablation table over seeds, with intervals; may run in several processes at once."""
    from moontide.catalog.dataset import Dataset
    from moontide.recipes import ablations

    opened = Dataset.open(dataset)
    opened.require("study ablation", "products", "images", "events")
    table = ablations.run(
        name, opened, to, start, range(seeds), steps, start_steps, only or (), queries, max_minutes
    )
    console.print(Text((to / "table.md").read_text()), soft_wrap=True)
    console.print(
        Text(f"{sum(len(row['seeds']) for row in table['rows'])} cells; table at {to / 'table.md'}")
    )


@study.callback()
def _studies() -> None:
    """What was gained, and how sure it is."""


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
