"""Commands of the ranking room: import click logs, train click models, compare two, export one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.ranking.importers.verbs import import_app

if TYPE_CHECKING:
    from moontide.ranking.content import ContentTable
    from moontide.ranking.models import ClickSettings
    from moontide.ranking.samples import Samples

app = typer.Typer(help="Import click logs, train and evaluate click models.", no_args_is_help=True)
app.add_typer(import_app, name="import")
console = Console()
DatasetPath = Annotated[Path | None, typer.Option("--dataset", help="dataset folder with an event log")]
SamplesPath = Annotated[Path | None, typer.Option("--samples", help="folder of ranking samples, instead")]
Backend = Annotated[str, typer.Option("--backend", help="what makes samples of a log: duckdb or spark")]
ScoredPart = Annotated[str, typer.Option("--part", help="of imported samples: test, validation or random")]


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="folder the model is written to")],
    dataset: DatasetPath = None,
    samples: SamplesPath = None,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="representation center, or vectors/ of an import")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="version of the center's vectors; default the active one")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="which published model; default simtier, id without vectors")
    ] = None,
    attributes: Annotated[
        bool, typer.Option("--attributes", help="attribute values as further id fields")
    ] = False,
    history: Annotated[
        int | None, typer.Option(min=1, help="latest behaviors read, or searched by a model that searches")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the training period; ids want one")] = 1,
    seed: Annotated[int, typer.Option(help="seed of weights and order")] = 0,
    backend: Backend = "duckdb",
    part: ScoredPart = "test",
) -> None:
    """Train a click model on the log before the cutoff and score the rest."""
    from moontide.ranking.train import TrainSettings, train_click_model

    log = _samples(dataset, samples, backend, part)
    settings = _settings(model, vectors is not None, attributes, history)
    if samples is not None:
        settings = _suited(settings, samples)
    table = _vectors(vectors, version, log) if vectors is not None and settings.reads_vectors else None
    trained = train_click_model(log, table, settings, seed, TrainSettings(epochs=epochs))
    trained.save(out)
    shown = Table("metric", "value", title=f"{part} period, {int(log.is_test.sum()):,} impressions")
    for name, value in trained.metrics.items():
        shown.add_row(name, f"{value:,.5g}")
    console.print(shown)
    console.print(f"click model at {out}", soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option("--model", help="folder of a trained click model")],
    dataset: DatasetPath = None,
    samples: SamplesPath = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="model to compare with; default popularity")
    ] = None,
    replicates: Annotated[int, typer.Option(help="bootstrap replicates over shoppers")] = 200,
    backend: Backend = "duckdb",
    part: ScoredPart = "test",
) -> None:
    """Compare a click model's test predictions with another's, slice by slice, with intervals."""
    from moontide.ranking.baselines import popularity_scores
    from moontide.ranking.slices import compare_scores
    from moontide.ranking.train import Trained

    log, source = _samples(dataset, samples, backend, part), dataset or samples
    after = Trained.load(model)
    if after.rows.tolist() != log.test_rows.tolist():
        raise CheckpointError(f"{model} was scored on another log than {source}: train it on this one")
    before = Trained.load(against).scores if against else popularity_scores(log, log.test_rows)
    if len(before) != len(after.scores):
        raise CheckpointError(f"{against} was scored on another log than {source}: train it on this one")
    name = str(against) if against else "popularity"
    shown = Table("slice", "impressions", "clicks", "AUC before", "AUC after", "gain", "resolvable")
    for line in compare_scores(log, after.rows, before, after.scores, replicates):
        row = [line["slice"], f"{line['impressions']:,}", f"{line['clicks']:,}"]
        row += [f"{line['auc_before']:.4f}", f"{line['auc_after']:.4f}", f"{line['difference']}"]
        shown.add_row(*row, f"{line['resolvable']:.4f}")
    shown.title = f"{model} against {name}"
    console.print(shown)
    console.print(_metrics_table(log, {name: before, str(model): after.scores}))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="folder of a trained click model")],
) -> None:
    """Export a click model to ONNX for one request: what is the shopper's is computed once."""
    from moontide.ranking.export import export_model

    console.print(f"exported to {export_model(model)}", soft_wrap=True)


def _samples(dataset: Path | None, samples: Path | None, backend: str, part: str) -> Samples:
    from moontide.ranking.facts import connect
    from moontide.ranking.importers.parts import load_part
    from moontide.ranking.samples import build_samples

    if (dataset is None) == (samples is None):
        raise SettingsError("give --dataset, a folder with an event log, or --samples, made of one, not both")
    if samples is not None:
        return load_part(samples, part)
    assert dataset is not None
    return build_samples(Dataset.open(dataset), connection=connect(backend))


def _settings(model: str | None, has_vectors: bool, attributes: bool, history: int | None) -> ClickSettings:
    from moontide.ranking.compositions import COMPOSITIONS

    name = model or ("simtier" if has_vectors else "id")
    if name not in COMPOSITIONS:
        raise SettingsError(f"no model is called {name!r}: give one of {', '.join(COMPOSITIONS)}")
    settings = COMPOSITIONS[name]
    if settings.reads_vectors and not has_vectors:
        raise SettingsError(f"the model {name!r} reads vectors: give --vectors")
    changed: dict[str, Any] = {"use_attributes": True} if attributes else {}
    if history is not None and settings.search is not None:
        changed["search"] = settings.search.model_copy(update={"steps": history})
    elif history is not None:
        changed["history"] = history
    return type(settings)(**{**dict(settings), **changed})


def _suited(settings: ClickSettings, samples: Path) -> ClickSettings:
    """Without counters, where a log has no times to count by: all would be zero and say nothing."""
    from moontide.ranking.importers.parts import import_facts

    if import_facts(samples).get("has_counters", True):
        return settings
    console.print("the log has no times: counters are off (use_counters=False)")
    return settings.model_copy(update={"use_counters": False})


def _vectors(path: Path, version: str | None, samples: Samples) -> ContentTable:
    from moontide.center.store import VectorStore
    from moontide.foundation.errors import DataError
    from moontide.ranking.content import ContentTable

    if not (path / "content.json").is_file():
        store = VectorStore.open(path, must_exist=True)
        return ContentTable.read(store, samples.entities, version or store.active())
    table = ContentTable.load(path)
    if version is not None and version != table.version:
        raise SettingsError(f"{path} has vectors of version {table.version!r}, not {version!r}: leave it out")
    rows, products = len(table.product.present) - 1, len(samples.entities.products)
    if rows != products:
        raise DataError(
            f"{path} has vectors of {rows:,} products, the samples have {products:,}: give the folder that "
            "was imported with them"
        )
    return table


def _metrics_table(samples: Samples, scores: dict[str, Any]) -> Table:
    from moontide.ranking.metrics import click_metrics

    rows = samples.test_rows
    found = {
        name: click_metrics(one, samples.label[rows], samples.shopper[rows]) for name, one in scores.items()
    }
    shown = Table("metric", *found, title="whole part")
    for name in next(iter(found.values())):
        shown.add_row(name, *(f"{one[name]:,.5g}" for one in found.values()))
    return shown
