"""The command `moontide encoder augment`: enriched titles and added pictures for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()


def augment(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="dataset folder")],
    encoder: Annotated[str, typer.Option(help="a checkpoint that was pretrained on questions")],
    to: Annotated[Path, typer.Option(help="the dataset folder to write; files are shared")],
    judge: Annotated[
        str | None, typer.Option(help="encoder whose cosine drops what does not fit; default: --encoder")
    ] = None,
    contexts: Annotated[
        int, typer.Option(help="pictures added to a product, the cut-out among them", min=0)
    ] = 2,
    drop: Annotated[float, typer.Option(help="share of each category dropped", min=0, max=0.99)] = 0.15,
    limit: Annotated[int | None, typer.Option(help="only the first so many train products", min=1)] = None,
    seed: Annotated[int, typer.Option(help="of the added pictures")] = 0,
) -> None:
    """Enrich titles by what a checkpoint sees, and add cut-outs and new backgrounds, for training alone."""
    from moontide.catalog.augment import Augmented
    from moontide.catalog.compose import Composer
    from moontide.catalog.dataset import Dataset
    from moontide.encoder.augment import CosineFilter, augment_catalog
    from moontide.encoder.enrich import AnswerEnricher
    from moontide.encoder.model.encoder import MoonEncoder
    from moontide.foundation.device import threads

    opened = Dataset.open(dataset)
    loaded = MoonEncoder(encoder)
    judging = loaded if judge is None else MoonEncoder(judge)
    with threads():
        enricher = AnswerEnricher(loaded, opened)
        written = augment_catalog(
            opened,
            to,
            enricher,
            Composer.of(opened, seed),
            CosineFilter(judging),
            contexts,
            drop,
            limit,
        )
    augmented = Augmented.read(written)
    for (kind, outcome), number in sorted(augmented.counts().items()):
        console.print(f"{kind} {outcome}: {number:,}", highlight=False)
    console.print(f"written to {to}: train with it, evaluate on any", highlight=False)
