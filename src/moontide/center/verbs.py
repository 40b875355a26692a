"""Commands of the center: embed a catalog, look at what is stored, switch versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moontide.catalog.dataset import Dataset
from moontide.center.embed import EmbedSettings, embed_catalog
from moontide.center.store import VectorStore
from moontide.encoder.model.inputs import Form
from moontide.foundation.progress import console

app = typer.Typer(help="Vectors at rest: embed a catalog, count, switch versions.", no_args_is_help=True)

Center = Annotated[Path, typer.Option("--center", "--from", help="folder of the vectors")]


@app.command()
def embed(
    dataset: Annotated[Path, typer.Option(help="dataset folder")],
    encoder: Annotated[Path, typer.Option(help="encoder folder")],
    to: Annotated[Path, typer.Option(help="folder of the vectors; made when missing")],
    version: Annotated[
        str | None, typer.Option(help="name of these vectors; default: from the encoder")
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(help="parts of a product; default: rich_image; title_image if the encoder reasons"),
    ] = None,
    num_images: Annotated[
        int | None, typer.Option(help="pictures per product; default: as the encoder was trained")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="most tokens of a batch, padding included")] = 2_048,
    workers: Annotated[int, typer.Option(help="batches in work at once; 0: one per core")] = 0,
    activate: Annotated[bool, typer.Option(help="serve this version when it is complete")] = True,
) -> None:
    """Write a vector for every product, creative and query; a second call makes only what changed."""
    from moontide.encoder.model.encoder import MoonEncoder  # slow to import: not for `--help`

    opened = Dataset.open(dataset)
    model = MoonEncoder(str(encoder))
    settings = EmbedSettings(
        form=form or ("title_image" if model.is_reasoner else "rich_image"),
        num_images=num_images,
        batch_tokens=batch_tokens,
        workers=workers,
    )
    store = VectorStore.open(to)
    report = embed_catalog(opened, model, store, version, settings)
    for line in report.lines():
        console.print(line, highlight=False)
    if activate and store.versions():
        store.activate(report.version)
        console.print(f"active: {report.version}", highlight=False)


@app.command()
def stats(center: Center) -> None:
    """Rows by kind and version, bytes on disk, and the version that is served."""
    found = VectorStore.open(center, must_exist=True).stats()
    for kind, rows in found.rows.items():
        counts = ", ".join(f"{version} {number:,}" for version, number in rows.items() if number)
        size = found.size_bytes[kind] / 2**20
        console.print(f"{kind}: {counts or 'no rows'}; {size:,.1f} MiB", highlight=False)
    console.print(f"active: {found.active or 'none'}", highlight=False)


@app.command()
def activate(center: Center, version: Annotated[str, typer.Argument(help="version to serve")]) -> None:
    """Serve another version, in one step."""
    VectorStore.open(center, must_exist=True).activate(version)
    console.print(f"active: {version}", highlight=False)


@app.command()
def rollback(center: Center) -> None:
    """Serve the version before the active one again."""
    console.print(f"active: {VectorStore.open(center, must_exist=True).rollback()}", highlight=False)


@app.command()
def compact(center: Center) -> None:
    """Join small files and drop states of the tables older than a week."""
    store = VectorStore.open(center, must_exist=True)
    store.compact()
    console.print(f"compacted {', '.join(store.kinds()) or 'nothing'}", highlight=False)
