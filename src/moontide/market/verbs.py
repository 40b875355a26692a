"""The commands `moontide market ...`: build a market, open one over a real catalog, look at its marginals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moontide.catalog.dataset import Dataset
from moontide.market.settings import MarketSettings

app = typer.Typer(help="Build a simulated market, or open one over a dataset.", no_args_is_help=True)
console = Console()

To = Annotated[Path, typer.Option("--to", help="the dataset folder to write")]
Seed = Annotated[int, typer.Option(help="the same seed gives the same market")]
Replace = Annotated[bool, typer.Option("--replace", help="put it in the place of the dataset there")]
Shoppers = Annotated[int, typer.Option(help="shoppers who visit during the log")]
Impressions = Annotated[int, typer.Option(help="results shown in the log, about")]
Days = Annotated[int, typer.Option(help="length of the log, days")]
Blind = Annotated[bool, typer.Option("--blind", help="control: looks and words play no role for shoppers")]
Creatives = Annotated[int, typer.Option(help="ad pictures of one product, beside its plain one")]
DEFAULT = MarketSettings()


@app.command()
def build(
    to: To,
    products: Annotated[int, typer.Option(help="products ever sold")] = DEFAULT.num_products,
    shoppers: Shoppers = DEFAULT.num_shoppers,
    impressions: Impressions = DEFAULT.num_impressions,
    days: Days = DEFAULT.days,
    creatives: Creatives = DEFAULT.creatives_per_product,
    blind: Blind = False,
    seed: Seed = 0,
    replace: Replace = False,
) -> None:
    """Invent a catalog, draw it, and let simulated shoppers loose on it."""
    from moontide.market.build import build_market

    settings = DEFAULT.but(
        num_products=products, num_merchants=max(1, min(DEFAULT.num_merchants, products // 20)),
        num_shoppers=shoppers, num_impressions=impressions, days=days, blind=blind,
        creatives_per_product=creatives,
    )  # fmt: skip
    _tell(build_market(to, settings, seed, replace=replace))


@app.command("open")
def open_command(
    dataset: Annotated[Path, typer.Option("--dataset", help="a catalog without a click log")],
    to: To,
    shoppers: Shoppers = DEFAULT.num_shoppers,
    impressions: Impressions = DEFAULT.num_impressions,
    days: Days = DEFAULT.days,
    creatives: Creatives = DEFAULT.creatives_per_product,
    blind: Blind = False,
    seed: Seed = 0,
    replace: Replace = False,
) -> None:
    """Let simulated shoppers loose on a real catalog, with tastes over what its photos and titles show."""
    from moontide.market.build import open_market

    settings = DEFAULT.but(
        num_shoppers=shoppers, num_impressions=impressions, days=days, blind=blind,
        creatives_per_product=creatives,
    )  # fmt: skip
    _tell(open_market(Dataset.open(dataset), to, settings, seed, replace=replace))


@app.command("test-creatives")
def try_creatives(
    dataset: Annotated[Path, typer.Option("--dataset", help="a simulated market with a log")],
    to: Annotated[Path, typer.Option("--to", help="Parquet file of counts to write")],
    impressions: Annotated[int, typer.Option(help="impressions of each creative")] = 2_000,
    contexts: Annotated[int, typer.Option(help="logged requests of a product that are used at most")] = 256,
    seed: Annotated[int, typer.Option(help="the same seed gives the same counts")] = 0,
) -> None:
    """Show every creative of a product to the same shoppers, at random, and count their clicks."""
    from moontide.market.creative_test import creative_test, write_counts

    counts = creative_test(Dataset.open(dataset), impressions, seed, most=contexts)
    write_counts(to, counts)
    clicks, shown = (sum(counts.column(name).to_pylist()) for name in ("clicks", "impressions"))
    table = Table("creative test", "", title_justify="left")
    for name, value in (
        ("products", f"{len(set(counts.column('product_id').to_pylist())):,}"),
        ("creatives", f"{len(counts):,}"), ("impressions", f"{shown:,}"), ("clicks", f"{clicks:,}"),
        ("CTR", f"{clicks / shown:.2%}"),
    ):  # fmt: skip
        table.add_row(name, value)
    console.print(table)
    command = f"moontide creative pairs --dataset {dataset} --stats {to}"
    console.print(Text(f"The counts are at {to}. Next: {command}"), soft_wrap=True)


@app.command()
def report(dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="a dataset with a log")]) -> None:
    """Print the marginals of a click log beside what public logs show."""
    from moontide.market.report import market_report

    table = Table("marginal", "here", "public data", title=str(dataset), title_justify="left")
    for line in market_report(Dataset.open(dataset)):
        table.add_row(line.name, line.value, line.public)
    console.print(table)


def _tell(dataset: Dataset) -> None:
    table = Table("Rows", "", title_justify="left")
    for name, number in dataset.info["rows"].items():
        table.add_row(name, f"{number:,}")
    console.print(table)
    console.print(Text(f"The market is at {dataset.path}. Next: moontide market report {dataset.path}"))
