"""Commands of this room: `moontide encoder`, `moontide evaluate`, `moontide heatmap`, `moontide reason`."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from moontide.encoder.augment_verbs import augment
from moontide.encoder.heatmap_verbs import heatmap  # noqa: F401
from moontide.encoder.reason_verbs import reason  # noqa: F401
from moontide.encoder.region_verbs import regions
from moontide.encoder.verbs_evaluate import evaluate_command  # noqa: F401
from moontide.foundation.errors import DataError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Vectors, regions, added views.")


@app.callback()
def _room() -> None:
    """Product and query to vector."""


@app.command()
def encode(
    model: str = typer.Argument(help="Folder or Hub id of an encoder."),
    text: str = typer.Option("", "--text", help="A text."),
    image: list[Path] = typer.Option([], "--image", help="A picture file; may be given several times."),
    width: int | None = typer.Option(None, "--width", min=1, help="Only the first components, renormalized."),
) -> None:
    """Print the vector of a text, of pictures, or of both, as one JSON list."""
    from moontide.encoder.model.encoder import MoonEncoder

    if not text.strip() and not image:
        raise DataError("nothing to encode: give --text, --image, or both")
    encoder = MoonEncoder(model)
    vector = encoder.encode_items([{"text": text, "image": list(image)}], width=width)[0]
    print(json.dumps([round(float(x), 7) for x in vector]))


app.command()(regions)
app.command()(augment)
