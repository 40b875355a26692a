"""The commands `moontide creative judge`, `train` and `rank`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from moontide.catalog.dataset import Dataset
    from moontide.creative.explanation import Explanation
    from moontide.creative.judge import Duel
    from moontide.creative.rationale import Rationale

console = Console()
Model = Annotated[str, typer.Option("--model", help="folder or Hub id of a judge, or of any Qwen-VL model")]
FIGURES = (
    "steps", "pairs", "rationales", "loss", "mean_token_accuracy", "reward", "r_fmt", "r_acc", "r_q",
    "r_self", "r_ord", "parsed_strict", "share_a", "zero_variance_share", "mean_tokens", "kl",
)  # fmt: skip
STAGES = ("sft", "grpo", "both")


def judge(
    a: Annotated[Path, typer.Argument(metavar="A", help="picture of creative A")],
    b: Annotated[Path, typer.Argument(metavar="B", help="picture of creative B")],
    model: Model,
    title: Annotated[str, typer.Option(help="the product's title")] = "",
    query: Annotated[
        list[str] | None, typer.Option("--query", help="a frequent query, or query=count; several times")
    ] = None,
) -> None:
    """Say which of two creatives of one product shoppers are more likely to click, and why."""
    from moontide.creative.explanation import explain
    from moontide.creative.judge import Judge
    from moontide.creative.prompt import Asked

    pictures = [_read(path, letter) for path, letter in ((a, "A"), (b, "B"))]
    queries = tuple(_counted(text) for text in query or [])
    duel = Judge.load(model).duels([Asked("asked", title, queries, *pictures)])[0]
    _show(duel, explain(duel))


def _read(path: Path, letter: str) -> bytes:
    from moontide.foundation.errors import ImageError

    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            "missing", f"creative {letter}: no picture can be read at {path} ({error.strerror})"
        ) from None


def _counted(text: str) -> tuple[str, int]:
    """A query and its count; 1 where none is given.

    Example:
        >>> _counted("red shoe=12"), _counted("a=b")
        (('red shoe', 12), ('a=b', 1))
    """
    query, mark, count = text.rpartition("=")
    return (query, int(count)) if mark and count.isdecimal() else (text, 1)


def _show(duel: Duel, told: Explanation) -> None:
    from moontide.creative.protocol import QUESTIONS

    name = "a tie" if told.verdict == "tie" else f"creative {told.verdict}"
    console.print(Text(f"Verdict: {name} (confidence {told.confidence:.0%}, judge {told.model_version})"))
    table = Table("question", "A first", "B first", "both orders", title="Protocol")
    for question in QUESTIONS:
        forward, backward = duel.forward.answers.get(question.key), duel.backward.answers.get(question.key)
        both = told.dimensions.get(question.key, "") if told.dimensions else ""
        cells = (f"{question.key} {question.asks}", forward or "-", backward or "-", both or "")
        table.add_row(*(Text(cell) for cell in cells))
    table.add_row("Letter", duel.forward.letter or "-", duel.backward.letter or "-", "")
    console.print(table)
    console.print(Text(told.paragraph))
    for order, verdict in (("A first", duel.forward), ("B first", duel.backward)):
        if verdict.text:
            console.print(Text(f"{order}: {verdict.text}", style="dim"))


def train(
    pairs: Annotated[Path, typer.Option("--pairs", help="pair set folder, from `moontide creative pairs`")],
    to: Annotated[Path, typer.Option("--to", help="run folder; the judge is left in its folder `judge`")],
    start: Annotated[
        str | None,
        typer.Option(
            help="judge, moontide encoder or Qwen-VL folder to start from; default: tiny, random weights"
        ),
    ] = None,
    stage: Annotated[str, typer.Option(help="sft, grpo or both")] = "both",
    rationales: Annotated[
        Path | None, typer.Option(help="rationales to learn from; default: from the creatives' parameters")
    ] = None,
    sft_steps: Annotated[int | None, typer.Option(min=1, help="default: two passes")] = None,
    grpo_steps: Annotated[int, typer.Option(min=1, help="steps of the second stage")] = 100,
    lora_rank: Annotated[int, typer.Option(min=0, help="rank of adapters; 0 trains all weights")] = 0,
    seed: Annotated[int, typer.Option(help="of weights, data order and sampling")] = 0,
) -> None:
    """Train a judge on a pair set; go on where an interrupted call stopped."""
    from moontide.creative.pairset import PairSet
    from moontide.creative.schooling import Schooling, school
    from moontide.foundation.errors import SettingsError

    if stage not in STAGES:
        raise SettingsError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    plan = Schooling(stage=stage, sft_steps=sft_steps, grpo_steps=grpo_steps, lora_rank=lora_rank, seed=seed)
    opened = PairSet.open(pairs)
    results = school(opened, to, plan, start, _rationales(rationales))
    table = Table("stage", "figure", "value", title=f"Judge in {to / 'judge'}")
    for name, figures in results.items():
        for key in FIGURES:
            if key in figures:
                value = figures[key]
                table.add_row(name, key, f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)


def _rationales(path: Path | None) -> list[Rationale] | None:
    from moontide.creative.rationale import read_rationales

    return None if path is None else read_rationales(path)


def rank(
    dataset: Annotated[Path, typer.Option("--dataset", help="dataset folder with creatives")],
    model: Model,
    product: Annotated[
        list[str] | None,
        typer.Option("--product", help="a product id; several times; default: the first ten"),
    ] = None,
    method: Annotated[str, typer.Option(help="all, knockout, swiss or merge")] = "all",
    queries: Annotated[int, typer.Option(min=0, help="frequent queries shown to the judge")] = 5,
) -> None:
    """Order the creatives of products by a judge's comparisons."""
    from moontide.catalog.dataset import Dataset
    from moontide.creative.judge import Judge
    from moontide.creative.judge_ranking import Contest
    from moontide.creative.texts import top_queries

    opened = Dataset.open(dataset)
    opened.require("creative rank", "creatives", "products")
    made = _creatives(opened, product)
    loaded = Judge.load(model)
    titles = {one.product_id: one.title for one in opened.products()}
    asked = top_queries(opened, set(made), queries)
    table = Table("product", "place", "creative", "strength", title="Creatives, best first")
    for product_id, rows in made.items():
        images = [opened.images[image_id] for _, image_id in rows]
        contest = Contest(loaded, titles[product_id], asked.get(product_id, ()), images, product_id)
        ranking = contest.rank(method)
        tie_of = {i: group for group, members in enumerate(ranking.tie_groups) for i in members}
        for place, number in enumerate(ranking.order, 1):
            tied = " (tied)" if sum(tie_of.get(i) == tie_of.get(number) for i in tie_of) > 1 else ""
            cells = (product_id, f"{place}{tied}", rows[number][0], f"{ranking.strength[number]:+.3f}")
            table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _creatives(dataset: Dataset, wanted: list[str] | None) -> dict[str, list[tuple[str, str]]]:
    """(creative id, image id) by product, of products with at least two creatives whose pictures exist."""
    from moontide.foundation.errors import DataError

    found: dict[str, list[tuple[str, str]]] = {}
    columns = ["creative_id", "product_id", "image_id"]
    for row in dataset.table("creatives", columns).to_pylist():
        if row["image_id"] in dataset.images and (wanted is None or row["product_id"] in wanted):
            found.setdefault(row["product_id"], []).append((row["creative_id"], row["image_id"]))
    for product_id in wanted or []:
        if len(found.get(product_id, ())) < 2:
            raise DataError(
                f"product {product_id!r} has fewer than two creatives with pictures in {dataset.path}"
            )
    several = {product_id: rows for product_id, rows in found.items() if len(rows) > 1}
    if not several:
        raise DataError(f"no product in {dataset.path} has two creatives with pictures: import some first")
    return several if wanted else dict(list(several.items())[:10])
