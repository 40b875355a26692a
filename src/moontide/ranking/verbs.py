"""Commands of the ranking room: train click models on a dataset's log, and compare two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moontide.catalog.dataset import Dataset

app = typer.Typer(help="Train and evaluate click models.", no_args_is_help=True)
console = Console()
DatasetPath = Annotated[Path, typer.Option("--dataset", help="dataset folder with an event log")]


@app.command()
def train(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option("--out", help="folder the model is written to")],
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="representation center; without it, ids alone")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="version of the vectors; default the active one")
    ] = None,
    attributes: Annotated[
        bool, typer.Option("--attributes", help="attribute values as further id fields")
    ] = False,
    seed: Annotated[int, typer.Option(help="seed of weights and order")] = 0,
) -> None:
    """Train a click model on the log before the cutoff and score the rest."""
    from moontide.center.store import VectorStore
    from moontide.ranking.content import ContentTable
    from moontide.ranking.heads import ContentSettings
    from moontide.ranking.models import ClickSettings
    from moontide.ranking.samples import build_samples
    from moontide.ranking.train import train_click_model

    samples = build_samples(Dataset.open(dataset))
    table = None
    if vectors is not None:
        store = VectorStore.open(vectors, must_exist=True)
        table = ContentTable.read(store, samples.entities, version or store.active())
    content = None if table is None else ContentSettings()
    settings = ClickSettings(content=content, use_attributes=attributes)
    trained = train_click_model(samples, table, settings, seed)
    trained.save(out)
    shown = Table("metric", "value", title=f"test period, {int(samples.is_test.sum()):,} impressions")
    for name, value in trained.metrics.items():
        shown.add_row(name, f"{value:,.5g}")
    console.print(shown)
    console.print(f"click model at {out}")


@app.command()
def evaluate(
    dataset: DatasetPath,
    model: Annotated[Path, typer.Option("--model", help="folder of a trained click model")],
    against: Annotated[
        Path | None, typer.Option("--against", help="model to compare with; default popularity")
    ] = None,
    replicates: Annotated[int, typer.Option(help="bootstrap replicates over shoppers")] = 200,
) -> None:
    """Compare a click model's test predictions with another's, slice by slice, with intervals."""
    from moontide.foundation.errors import CheckpointError
    from moontide.ranking.baselines import popularity_scores
    from moontide.ranking.samples import build_samples
    from moontide.ranking.slices import compare_scores
    from moontide.ranking.train import Trained

    samples = build_samples(Dataset.open(dataset))
    after = Trained.load(model)
    if after.rows.tolist() != samples.test_rows.tolist():
        raise CheckpointError(f"{model} was scored on another log than {dataset}: train it on this one")
    before = Trained.load(against).scores if against else popularity_scores(samples, samples.test_rows)
    if len(before) != len(after.scores):
        raise CheckpointError(f"{against} was scored on another log than {dataset}: train it on this one")
    name = str(against) if against else "popularity"
    shown = Table("slice", "impressions", "clicks", "AUC before", "AUC after", "gain", "resolvable")
    for line in compare_scores(samples, after.rows, before, after.scores, replicates):
        row = [line["slice"], f"{line['impressions']:,}", f"{line['clicks']:,}"]
        row += [f"{line['auc_before']:.4f}", f"{line['auc_after']:.4f}", f"{line['difference']}"]
        shown.add_row(*row, f"{line['resolvable']:.4f}")
    shown.title = f"{model} against {name}"
    console.print(shown)
