"""The command `moontide heatmap`: what of a product carries its match with a query, as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Literal

import typer

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import SettingsError
from moontide.foundation.storage import write_bytes

NUM_WORDS = 5  # printed of a product


def heatmap(
    encoder: Annotated[str, typer.Option(help="folder or Hub id of an encoder")],
    dataset: Annotated[Path, typer.Option(help="dataset folder")],
    product: Annotated[list[str], typer.Option(help="id of a product; may be given several times")],
    to: Annotated[Path, typer.Option(help="the .png to write")],
    query: Annotated[str | None, typer.Option(help="a text to hold it against; default: its title")] = None,
    query_image: Annotated[Path | None, typer.Option(help="a picture to hold it against")] = None,
    method: Annotated[
        Literal["gradient", "contribution"],
        typer.Option(help="contribution: adds up to the cosine, but is coarse and nearly even"),
    ] = "gradient",
) -> None:
    """Show which words and which parts of its pictures carry a product's match with a query."""
    if to.suffix.lower() != ".png":
        raise SettingsError(f"a heat-map is a .png file, got {to.name!r}")
    # Slow to import: not for `--help`.
    from moontide.catalog.regions import Regions
    from moontide.encoder.heatmap_picture import draw_sheet
    from moontide.encoder.heatmap_products import asked_item, find_products, panel_of
    from moontide.encoder.model.encoder import MoonEncoder

    opened = Dataset.open(dataset)
    products = find_products(opened, product)
    asked = None if query is None and query_image is None else asked_item(query, query_image)
    loaded = MoonEncoder(encoder)
    view = loaded.view(opened)
    regions = view.regions or Regions.read(opened)
    panels = [panel_of(loaded, opened, one, view, regions, asked, method) for one in products]
    stream = io.BytesIO()
    draw_sheet(panels).save(stream, "PNG")
    write_bytes(to, stream.getvalue())
    for panel in panels:
        words = sorted(panel.heat.words, key=lambda word: -word.weight)[:NUM_WORDS]
        said = ", ".join(f"{word.text} {word.weight:.0%}" for word in words if word.weight > 0)
        lines = [*panel.facts(), *([f"words: {said}"] if said else [])]
        print(panel.title, *lines, sep="\n  ")
    print(f"drawn to {to}")
