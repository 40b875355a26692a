"""The commands `moontide study NAME`: comparisons over seeds, cached cell by cell, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from moontide.foundation.errors import SettingsError
from moontide.foundation.storage import write_bytes

console = Console()
study = typer.Typer(help="Comparisons over seeds, cached cell by cell.", no_args_is_help=True)
To = Annotated[Path, typer.Option("--to", help="folder of the study; finished cells are kept")]
Log = Annotated[Path, typer.Option("--dataset", help="dataset folder with a log")]
Seeds = Annotated[int, typer.Option(min=1, help="training seeds")]
Only = Annotated[list[str] | None, typer.Option(help="row or cell; may be given several times")]
Minutes = Annotated[float | None, typer.Option(help="no cell begins later; 0: table alone")]


@study.command()
def models(
    dataset: Log,
    to: To,
    vectors: Annotated[Path | None, typer.Option(help="representation center; without it, ids alone")] = None,
    version: Annotated[str | None, typer.Option(help="of the vectors; default the active one")] = None,
    table: Annotated[str, typer.Option(help="heads, cube, make or exact")] = "heads",
    seeds: Seeds = 3,
    only: Only = None,
    max_minutes: Minutes = None,
) -> None:
    """All click models on one log: AUC, GAUC, calibration, slices, and the share of the gap closed."""
    from moontide.catalog.dataset import Dataset
    from moontide.recipes import click_models, mim
    from moontide.studies.models import prepare, run_models

    if table not in click_models.TABLES:
        raise SettingsError(f"no table is called {table!r}: the tables are {', '.join(click_models.TABLES)}")
    rows = click_models.TABLES[table]()
    if vectors is None:
        rows = [row for row in rows if row.settings is None or not row.settings.reads_vectors]
    opened = Dataset.open(dataset)
    opened.require("study models", "products", "events")
    data = prepare(to, opened, vectors, version)
    run_models(to, data, rows, range(seeds), mim.training(), only=only or (), max_minutes=max_minutes)
    console.print(Text((to / "models.md").read_text()), soft_wrap=True)


@study.command()
def ladder(
    dataset: Log,
    to: To,
    start: Annotated[
        Path | None, typer.Option(help="checkpoint the encoders begin with; default: made once, under --to")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps of an encoder")] = 250,
    start_steps: Annotated[int, typer.Option(min=1, help="steps of a checkpoint that is made")] = 1_500,
    seeds: Seeds = 3,
    only: Only = None,
    max_minutes: Minutes = None,
) -> None:
    """The ladder R0 to R5 from pairs to AUC: encoders, their vectors, click models over seeds."""
    from moontide.catalog.dataset import Dataset
    from moontide.foundation.device import threads
    from moontide.recipes import ablations, click_models, mim, moon_embedding
    from moontide.studies.encoders import EncoderPlan
    from moontide.studies.ladder import train_rungs
    from moontide.studies.models import prepare, run_models

    opened = Dataset.open(dataset)
    opened.require("study ladder", "products", "images", "events")
    data, rows = prepare(to, opened, None), click_models.ladder()
    rungs = {row.name: row.settings for row in moon_embedding.ladder(num_steps=steps).rows}
    plans = {row.vectors: rungs[row.vectors] for row in rows if row.vectors}
    with threads():
        begun = start or ablations.start_of(to, opened, start_steps)
        train_rungs(to, data, opened, {k: v for k, v in plans.items() if isinstance(v, EncoderPlan)}, begun)
    first = rows[0].name
    run_models(to, data, rows, range(seeds), mim.training(), first, only or (), max_minutes)
    console.print(Text((to / "models.md").read_text()), soft_wrap=True)


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

    if size not in RECIPES:
        raise SettingsError(f"no size is called {size!r}: the sizes are {', '.join(RECIPES)}")
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
