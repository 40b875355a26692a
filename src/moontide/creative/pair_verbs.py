"""The command `moontide creative pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text


def pairs(
    dataset: Annotated[Path, typer.Option(help="dataset folder with products and pictures")],
    to: Annotated[Path, typer.Option(help="pair set folder to write")],
    stats: Annotated[
        Path | None,
        typer.Option(
            help="counts by creative (Parquet, CSV or JSON lines: creative_id, product_id, image_id, "
            "impressions, clicks); default: from the dataset's log"
        ),
    ] = None,
    min_impressions: Annotated[int, typer.Option(help="each creative has more impressions than this")] = 1000,
    min_gap: Annotated[float, typer.Option(help="relative gap of the two rates is above this")] = 0.6,
    gap_base: Annotated[
        Literal["lower", "higher", "mean"], typer.Option(help="rate that the gap is relative to")
    ] = "lower",
    min_confidence: Annotated[
        float, typer.Option(help="least chance that the label is true; strict mode: 0.95")
    ] = 0.0,
    max_p_value: Annotated[
        float | None, typer.Option(help="largest p-value of a two-proportion z-test; default: no test")
    ] = None,
    max_pairs: Annotated[int, typer.Option(help="pairs of one product")] = 10,
    test_share: Annotated[
        float, typer.Option(help="share of product groups held out, where the dataset has no split")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="of the cap, the split and the order of letters")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="put it in the place of the set there")] = False,
) -> None:
    """Freeze labeled pairs of creatives of one product, with pictures, card and hashes."""
    from moontide.catalog.console import counts_table
    from moontide.catalog.dataset import Dataset
    from moontide.creative.metrics import ceiling
    from moontide.creative.pairs import PairSettings, build_pairs
    from moontide.creative.pairset import write_pair_set
    from moontide.creative.stats import read_stats, stats_from_events

    settings = PairSettings(
        min_impressions=min_impressions, min_gap=min_gap, gap_base=gap_base,
        min_confidence=min_confidence, max_p_value=max_p_value, max_pairs=max_pairs,
        test_share=test_share, seed=seed,
    )  # fmt: skip
    opened, console = Dataset.open(dataset), Console()
    opened.require("creative pairs", "products", "images")
    counts = read_stats(stats) if stats else stats_from_events(opened)
    report = build_pairs(opened, counts, settings)
    frozen = write_pair_set(to, opened, report, settings, replace)
    console.print(counts_table("Pairs of creatives", [("creatives counted", len(counts)), *report.lines()]))
    say = [f"An all-knowing judge would reach about {ceiling(frozen.pairs()):.1%}: labels are noisy."]
    say += [f"sha256 {frozen.sha256}", f"The pair set is at {to}; its card: {to / 'card.md'}"]
    for line in say:
        console.print(Text(line), soft_wrap=True)
