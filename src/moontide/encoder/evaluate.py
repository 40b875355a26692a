"""The benchmark of an encoder on a dataset: what it finds, what it can tell, how sure the numbers are.

    evaluate(dataset, encode)                    a `Scorecard` of one encoder
    differences(before, after)                   paired, from two scorecards of the same dataset and settings
    headline(card)                               MOON2.0's seven columns
    as_tables(cards)                             Markdown

An encoder is a function from items to unit vectors; nothing here knows how it was made. All that is drawn
(queries, galleries, bootstrap) depends on dataset, settings and view alone, so two encoders with the same
view answer the same questions.

Paper: MOON 3.5, MOON2.0 6, MOON Embedding 3.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pydantic

from moontide.catalog.dataset import Dataset
from moontide.encoder.asked import Questions
from moontide.encoder.conventions import GroundTruth, conventions, own_truths
from moontide.encoder.metrics import mean_cosine, uniformity
from moontide.encoder.model.inputs import ProductView
from moontide.encoder.pool import Abilities, Encode, Pool, Shown
from moontide.encoder.retrieval import DIRECTIONS, judged, require_unseen, retrieve, search_by_image
from moontide.encoder.scorecard import Answers, Scorecard, differences
from moontide.encoder.zeroshot import classify, predict_attributes
from moontide.foundation.settings import Settings

Task = Literal["retrieval", "image search", "judged", "classification", "attributes", "documents", "shape"]
TASKS: tuple[Task, ...] = (
    "retrieval", "image search", "judged", "classification", "attributes", "documents", "shape",
)  # fmt: skip
COLLAPSED = 0.9  # mean cosine; guess


class EvaluateSettings(Settings):
    """What is measured, on how much."""

    tasks: tuple[Task, ...] = pydantic.Field(TASKS, description="which parts")
    chosen: Literal["click", "cart", "order"] = pydantic.Field(
        "click", description="weakest event that makes a product right for a query; papers: order"
    )
    judged: Literal["val", "test"] = pydantic.Field("test", description="whose judgments are asked")
    before: datetime | None = pydantic.Field(
        None, description="start of the test period; None: the last 20 % of impressions"
    )
    max_queries: int = pydantic.Field(
        1_000, ge=1, description="queries of a row, products of a task, at most"
    )
    max_gallery: int | None = pydantic.Field(None, ge=1, description="products at most; held-out ones stay")
    replicates: int = pydantic.Field(1_000, ge=1, description="bootstrap draws of an interval")
    level: float = pydantic.Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: int = pydantic.Field(0, description="of all draws")
    text: Literal["rich", "title"] = pydantic.Field(
        "rich",
        description="most that is shown of a product's text; title: no attributes, for those that write them",
    )


def evaluate(
    dataset: Dataset,
    encode: Encode,
    view: ProductView | None = None,
    settings: EvaluateSettings | None = None,
    abilities: Abilities = Abilities(),
    truths: Sequence[GroundTruth] = (),
    encode_queries: Encode | None = None,
) -> Scorecard:
    """Measure an encoder on the held-out products of a dataset.

    Args:
        encode: items to unit vectors: galleries, names of categories and attribute values.
        view: how it is shown products; None: one picture.
        abilities: which forms it has vectors for; the rest is left out, with a note.
        truths: ground truths of the documents table; none: the dataset's own titles and categories.
        encode_queries: items to unit vectors where they are what is asked: queries, and the products that are
            classified; None: `encode`. An encoder may reason about one side alone.

    Raises:
        DataError: no product is held out and nothing is judged.
    """
    asked = settings or EvaluateSettings()
    card = Scorecard(asked.replicates, asked.level, asked.seed)
    pool = Pool(
        dataset,
        encode,
        view,
        asked.max_gallery,
        asked.seed,
        asked.before,
        abilities,
        encode_queries,
        asked.text,
    )
    require_unseen(pool)
    questions = Questions(pool, asked.chosen, asked.max_queries)
    parts = {
        "retrieval": lambda: retrieve(card, pool, questions),
        "image search": lambda: search_by_image(card, pool, questions),
        "judged": lambda: judged(card, pool, asked.max_queries, asked.judged),
        "classification": lambda: classify(card, pool, asked.max_queries),
        "attributes": lambda: predict_attributes(card, pool, asked.max_queries),
        "documents": lambda: conventions(card, pool, truths or own_truths(pool), asked.max_queries),
        "shape": lambda: shape(card, pool, asked.max_queries),
    }
    for task in asked.tasks:
        parts[task]()
    return card


def shape(card: Scorecard, pool: Pool, limit: int) -> None:
    """Rows on the cloud of held-out vectors: alignment of title and photo, uniformity, mean cosine."""
    everything = pool.gallery(Shown("rich_image")).among(pool.is_held)
    rows = pool.some(np.arange(len(everything.codes)), limit, "shape")
    vectors = everything.vectors[rows]
    if len(vectors) < 2:
        card.note("shape: left out, fewer than two held-out products")
        return
    if pool.abilities.can("t", "i"):
        can = pool.can_show(Shown("title")) & pool.is_pictured
        codes = everything.codes[rows][can[everything.codes[rows]]]
        if len(codes):
            pairs = [pool.encode(pool.items(codes, shown)) for shown in (Shown("title"), Shown("image"))]
            distance = np.square(pairs[0] - pairs[1]).sum(1)
            card.add(
                ("shape", "t-i", "held-out"), len(codes), Answers({"alignment": distance}, pool.group[codes])
            )
    cosine = mean_cosine(vectors)
    for metric, value in (("uniformity", uniformity(vectors)), ("mean cosine", cosine)):
        card.add_value(("shape", "mm", "held-out"), len(vectors), metric, value, len(vectors))
    if cosine > COLLAPSED:
        card.note(f"vectors have a mean cosine of {cosine:.2f}: they may have collapsed to one direction")


def headline(card: Scorecard) -> dict[str, dict[str, Any] | None]:
    """The seven columns of MOON2.0: recall@10 of the directions among held-out products, two accuracies.

    `class` is the finest category level that at least half of the classified products have.
    """
    columns: dict[str, dict[str, Any] | None] = {
        f"{query}->{candidate}": card.find("retrieval", f"{query}->{candidate}", "held-out", "recall@10")
        for query, candidate in DIRECTIONS
    }
    levels = [
        row
        for row in card.rows
        if row["task"] == "classification" and row["metric"] == "accuracy" and not row["slice"]
    ]
    common = [row for row in levels if 2 * row["n"] >= max(one["n"] for one in levels)]
    columns["class"] = common[-1] if common else None
    columns["attr"] = card.find("attributes", "all keys", "values", "accuracy")
    return columns


def as_tables(cards: Mapping[str, Scorecard]) -> str:
    """Markdown of one or several encoders on one dataset: headline, all rows, gains over the first, notes."""
    names = list(cards)
    seven = {name: headline(card) for name, card in cards.items()}
    columns = list(next(iter(seven.values())))
    lines = ["## Recall@10 among held-out products; accuracy", "", *_head(["encoder", *columns])]
    lines += [_line([name, *(show(row) for row in found.values())]) for name, found in seven.items()]
    labels = ("task", "direction", "gallery", "source", "slice", "n", "size", "metric")
    lines += ["", "## All rows", "", *_head([*labels, *names, "chance"])]
    table: dict[tuple, dict[str, dict[str, Any]]] = {}
    for name, card in cards.items():
        for row in card.rows:
            table.setdefault(tuple(row[label] for label in labels), {})[name] = row
    for key, found in table.items():
        chance = next((row["chance"] for row in found.values() if row["chance"] is not None), None)
        cells = [show(found.get(name)) for name in names]
        lines.append(_line([*map(str, key), *cells, "–" if chance is None else f"{chance:.3f}"]))
    first = cards[names[0]]
    for name in names[1:]:
        lines += ["", f"## {name} minus {names[0]}, paired", ""]
        lines += _head(["task", "direction", "gallery", "metric", "n", "difference"])
        for row in differences(first, cards[name]):
            head = [str(row[label]) for label in ("task", "direction", "gallery", "metric", "n")]
            lines.append(_line([*head, show(row)]))
    for name, card in cards.items():
        if card.notes:
            lines += ["", f"## Left out or alarming: {name}", "", *(f"- {note}" for note in card.notes)]
    return "\n".join(lines) + "\n"


def show(row: Mapping[str, Any] | None) -> str:
    """A row's value with its interval; a dash where there is none.

    Example:
        >>> show({"value": 0.5, "low": 0.41, "high": 0.6}), show({"value": 0.5, "low": None}), show(None)
        ('0.500 [0.410, 0.600]', '0.500', '–')
    """
    if row is None or row["value"] is None:
        return "–"
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{interval}"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
