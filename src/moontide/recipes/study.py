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
def exchange(
    dataset: Log,
    to: To,
    encoders: Annotated[
        list[Path] | None, typer.Option("--encoder", help="encoder folders, worst first; default: made here")
    ] = None,
    clicks: Annotated[str, typer.Option(help="click model: simtier, muse or cube")] = "simtier",
    steps: Annotated[
        int, typer.Option(min=10, help="steps of the training that versions are taken from")
    ] = 2_600,
    seeds: Seeds = 3,
    only: Only = None,
    max_minutes: Minutes = None,
) -> None:
    """How many AUC points a point of an encoder's own metric buys, and which metric to trust."""
    from moontide.catalog.dataset import Dataset
    from moontide.recipes import studies
    from moontide.studies.exchange import run_exchange

    settings = studies.exchange(clicks, steps)
    run_exchange(Dataset.open(dataset), to, settings, range(seeds), encoders or (), only or (), max_minutes)
    console.print(Text((to / "exchange.md").read_text()), soft_wrap=True)


@study.command()
def scaling(
    dataset: Log,
    to: To,
    axes: Annotated[str, typer.Option(help="which of pairs, negatives, history; comma-separated")] = (
        "pairs,negatives,history"
    ),
    encoder: Annotated[
        Path | None, typer.Option(help="frozen encoder of the history axis; default: made once, under --to")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps of the smallest training")] = 120,
    seeds: Seeds = 3,
    only: Only = None,
    max_minutes: Minutes = None,
) -> None:
    """How recall grows with pairs and negatives, and AUC with the length of the history; three fits."""
    from moontide.catalog.dataset import Dataset
    from moontide.recipes import studies
    from moontide.studies.scaling import run_scaling

    wanted = [axis.strip() for axis in axes.split(",")]
    settings = studies.scaling(steps)
    run_scaling(Dataset.open(dataset), to, settings, range(seeds), wanted, encoder, only or (), max_minutes)
    console.print(Text((to / "scaling.md").read_text()), soft_wrap=True)


RunPath = Annotated[Path, typer.Option("--run", help="finished run over a market, with its click models")]


@study.command()
def ab(
    run: RunPath,
    to: To,
    before: Annotated[str, typer.Option(help="arm of the run that is compared with")] = "id",
    after: Annotated[str, typer.Option(help="arm of the run that is tried")] = "content",
    requests: Annotated[int, typer.Option(min=10, help="requests of both arms")] = 80_000,
    days: Annotated[int, typer.Option(min=1, help="days after the log")] = 14,
    seed: Annotated[int, typer.Option(help="of the shoppers' chance")] = 0,
) -> None:
    """Two click models of a run against each other in its market: CTR, RPM, slices, planned looks."""
    from moontide.foundation.runs import Run
    from moontide.serving.parts import dataset_of
    from moontide.studies.experiment import ExperimentSettings
    from moontide.studies.trials import ab_trial

    settings = ExperimentSettings(num_requests=requests, days=days)
    ab_trial(run, dataset_of(Run.open(run)), to, before, after, settings, seed)
    console.print(Text((to / "ab.md").read_text()), soft_wrap=True)


@study.command()
def aa(
    dataset: Log,
    to: To,
    tests: Annotated[int, typer.Option(min=10, help="tests of two equal arms")] = 200,
    requests: Annotated[int, typer.Option(min=10, help="requests of one test")] = 3_000,
    days: Annotated[int, typer.Option(min=1, help="days of one test")] = 4,
    max_minutes: Minutes = None,
) -> None:
    """Equal arms against each other again and again: p-values must be uniform."""
    from moontide.catalog.dataset import Dataset
    from moontide.studies.experiment import ExperimentSettings
    from moontide.studies.trials import aa_trial

    settings = ExperimentSettings(num_requests=requests, days=days)
    aa_trial(Dataset.open(dataset), to, tests, settings, max_minutes)
    console.print(Text((to / "aa.md").read_text()), soft_wrap=True)


@study.command("off-policy")
def off_policy(
    run: RunPath,
    to: To,
    logs: Annotated[int, typer.Option(min=2, help="logs of the market, each with its own chance")] = 8,
    requests: Annotated[int, typer.Option(min=10, help="requests of one log")] = 8_000,
    days: Annotated[int, typer.Option(min=1, help="days of one log")] = 5,
    open_bandit: Annotated[
        Path | None, typer.Option(help="folder of the Open Bandit Dataset, estimated as well")
    ] = None,
    max_minutes: Minutes = None,
) -> None:
    """What a policy would earn, from the log of another one: estimators against the market's truth."""
    from moontide.foundation.runs import Run
    from moontide.serving.parts import dataset_of
    from moontide.studies.experiment import ExperimentSettings
    from moontide.studies.trials import off_policy_trial

    settings = ExperimentSettings(num_requests=requests, days=days)
    off_policy_trial(
        run, dataset_of(Run.open(run)), to, num_seeds=logs, settings=settings, open_bandit=open_bandit,
        max_minutes=max_minutes,
    )  # fmt: skip
    console.print(Text((to / "off-policy.md").read_text()), soft_wrap=True)


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


@study.command()
def creative(
    dataset: Annotated[
        Path, typer.Option("--dataset", help="dataset folder with creatives, such as a market")
    ],
    to: To,
    size: Annotated[str, typer.Option(help="nano, tiny, small or paper")] = "tiny",
    stats: Annotated[
        Path | None, typer.Option(help="counts by creative; default: a randomized test in the market")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="pair set; default: made from the counts")] = None,
    start: Annotated[
        str | None, typer.Option(help="judge, encoder or Qwen-VL folder all judges begin with")
    ] = None,
    more: Annotated[bool, typer.Option("--more", help="with the ablations' rows")] = False,
    seeds: Seeds = 3,
    only: Only = None,
    max_minutes: Minutes = None,
) -> None:
    """Judges of creatives: accuracy in both orders, pictures changed one by one, what choosing is worth."""
    from moontide.catalog.dataset import Dataset
    from moontide.foundation.device import threads
    from moontide.recipes import creative4u
    from moontide.studies.creative_study import CreativeStudy

    if size not in creative4u.SIZES:
        raise SettingsError(f"no size is called {size!r}: the sizes are {', '.join(creative4u.SIZES)}")
    plan = creative4u.SIZES[size]()
    plan = creative4u.with_ablations(plan) if more else plan
    with threads():
        made = CreativeStudy(Dataset.open(dataset), to, plan, stats, pairs, start)
        made.run(range(seeds), only or (), max_minutes)
    console.print(Text((to / "creative.md").read_text()), soft_wrap=True)


@study.callback()
def _studies() -> None:
    """What was gained, and how sure it is."""
