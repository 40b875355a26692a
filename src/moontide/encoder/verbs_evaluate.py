"""The command `moontide evaluate`: one table of encoders and baselines on a dataset's held-out products."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

from moontide.foundation.errors import SettingsError

console = Console()


class Baseline(StrEnum):
    """What an encoder can be held against."""

    PIXELS = "pixels"
    TWO_TOWER = "two-tower"


Chosen = Literal["click", "cart", "order"]
MAIN = {
    "retrieval": "recall@10",
    "image search": "recall@10",
    "judged": "recall@10",
    "classification": "accuracy",
    "attributes": "accuracy",
}


def evaluate_command(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="dataset folder")],
    encoder: Annotated[
        list[str] | None, typer.Option(help="folder or Hub id of an encoder; may be given several times")
    ] = None,
    baseline: Annotated[
        list[Baseline] | None,
        typer.Option(
            help="pixels: thumbnails and TF-IDF; two-tower: trained here. May be given several times"
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help=f"only this part: {', '.join(MAIN)}, documents, shape. May be given several times"),
    ] = None,
    chosen: Annotated[
        Chosen, typer.Option(help="weakest event that makes a product right for a query")
    ] = "click",
    truth: Annotated[
        list[Path] | None,
        typer.Option(help="ground truth as JSON, {query: {item_ID: 1}}, in place of titles and categories"),
    ] = None,
    queries: Annotated[int, typer.Option(help="queries of a row at most", min=1)] = 1_000,
    gallery: Annotated[int | None, typer.Option(help="products at most; held-out ones stay", min=1)] = None,
    tower_seconds: Annotated[
        float | None, typer.Option(help="training time of the two-tower; default: its usual steps")
    ] = None,
    seed: Annotated[int, typer.Option(help="of queries, galleries, intervals, two-tower")] = 0,
    titles: Annotated[
        bool, typer.Option("--titles", help="show no more of products' texts: fair to encoders that reason")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="folder for evaluation.json and evaluation.md")] = None,
) -> None:
    """Retrieval, classification and attributes on held-out products, with intervals, for several encoders."""
    from moontide.catalog.dataset import Dataset
    from moontide.encoder.baselines import Subject, named, pixels_and_words, two_tower
    from moontide.encoder.conventions import GroundTruth
    from moontide.encoder.evaluate import TASKS, EvaluateSettings, as_tables, evaluate
    from moontide.foundation.device import threads
    from moontide.foundation.storage import write_bytes, write_json

    opened = Dataset.open(dataset)
    opened.require("evaluate", "products")
    settings = EvaluateSettings(
        tasks=cast(Any, tuple(task or TASKS)),
        chosen=chosen,
        max_queries=queries,
        max_gallery=gallery,
        seed=seed,
        text="title" if titles else "rich",
    )
    truths = [GroundTruth.read(path) for path in truth or ()]
    makers: list[Callable[[], Subject]] = [lambda path=path: named(path, opened) for path in encoder or ()]
    known = {
        "pixels": lambda: pixels_and_words(opened),
        "two-tower": lambda: two_tower(opened, tower_seconds, seed),
    }
    makers += [known[name] for name in baseline or ()]
    if not makers:
        raise SettingsError("nothing to evaluate: give --encoder, --baseline, or both")
    cards, seconds = {}, {}
    with threads():
        for make in makers:
            subject = make()
            name = subject.name if subject.name not in cards else f"{subject.name} ({len(cards) + 1})"
            began = time.monotonic()
            cards[name] = evaluate(
                opened,
                subject.encode,
                subject.view,
                settings,
                subject.abilities,
                truths,
                subject.encode_queries,
            )
            seconds[name] = round(time.monotonic() - began, 1)
    _print(cards, seconds)
    if to is not None:
        facts = {"dataset": opened.info.get("name"), "fingerprint": opened.fingerprint()}
        facts |= {"settings": settings.model_dump(mode="json"), "seconds": seconds}
        found = {name: {"rows": card.rows, "notes": card.notes} for name, card in cards.items()}
        write_json(to / "evaluation.json", facts | {"encoders": found})
        write_bytes(to / "evaluation.md", as_tables(cards).encode())
        console.print(f"all rows: {to / 'evaluation.json'}, {to / 'evaluation.md'}", highlight=False)


def _is_main(row: dict[str, Any]) -> bool:
    main = MAIN.get(row["task"], row["metric"])
    if row["task"] == "documents":
        main = "P@1" if row["direction"].endswith("image+text") else "nDCG@10"
    return row["metric"] == main and not row["slice"]


def _print(cards: dict[str, Any], seconds: dict[str, float]) -> None:
    """The seven columns, then the main metric of every task and direction; the rest is in the files."""
    from moontide.encoder.evaluate import headline

    seven = {name: headline(card) for name, card in cards.items()}
    table = Table("encoder", *next(iter(seven.values())), title="recall@10 among held-out products; accuracy")
    for name, found in seven.items():
        table.add_row(name, *map(_cell, found.values()))
    console.print(table)
    labels = ("task", "direction", "gallery", "n", "of", "metric", *cards, "chance")
    table = Table(*labels, caption="± half of the 95 % interval, product groups drawn again")
    labels = ("task", "source", "direction", "gallery", "n", "size", "metric")
    lines: dict[tuple, dict[str, Any]] = {}
    for name, card in cards.items():
        for row in filter(_is_main, card.rows):
            lines.setdefault(tuple(row[label] for label in labels), {})[name] = row
    for (task, source, direction, gallery, num, size, metric), found in lines.items():
        chance = next((row["chance"] for row in found.values() if row["chance"] is not None), None)
        cells = [
            f"{task} ({source})" if source else task,
            direction,
            gallery,
            f"{num:,}",
            f"{size:,}",
            metric,
        ]
        cells += [_cell(found.get(name)) for name in cards]
        table.add_row(*cells, "" if chance is None else f"{chance:.3f}")
    console.print(table)
    shared = [
        note for note in next(iter(cards.values())).notes if all(note in c.notes for c in cards.values())
    ]
    for note in shared:
        console.print(note, highlight=False)
    for name, card in cards.items():
        console.print(f"{name}: {seconds[name]:.1f} s", highlight=False)
        for note in (note for note in card.notes if note not in shared):
            console.print(f"  {note}", highlight=False)


def _cell(row: dict[str, Any] | None) -> str:
    """A value and half the width of its interval."""
    if row is None or row["value"] is None:
        return "–"
    half = "" if row["low"] is None else f" ±{(row['high'] - row['low']) / 2:.3f}"
    return f"{row['value']:.3f}{half}"
