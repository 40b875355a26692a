"""Which forms are paired, how often, and from where: the tables of post-training and their schedules.

A step has one pairing, the same on all ranks. A table with counts is taken in cycles that hold exactly these
counts; one with shares keeps them in every stretch of steps.

Paper: MOON Embedding 3.4, table 2 (paper; one pairing per global step is ours); MOON 3.4; MIM 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np

from moontide.encoder.model.inputs import Form
from moontide.foundation.seeds import stream

Source = Literal["log", "catalog", "log or catalog"]
MIXED = -1  # the pairing of a step whose rows each have their own


@dataclass(frozen=True)
class Pairing:
    """One row of the schedule: the two forms, how often, and where the pairs come from.

    A query form of a log row is "text", "image" or "text_image"; of a catalog row it is a product form, and
    its picture is another one than the item's where there is another.

    Args:
        share: of the steps.
        source: "log or catalog" asks with queries of text and picture where the log has some, else with a
            product's title and another photo of it (ours).
        count: steps of a cycle, in a table that is taken in cycles.
    """

    query_form: Form | Literal["text", "text_image"]
    item_form: Form
    share: float
    source: Source
    count: int = 0

    def sources(self) -> list[Pairing]:
        """This pairing with each source its rows may come from, the preferred one first."""
        if self.source != "log or catalog":
            return [self]
        return [replace(self, source="log"), replace(self, source="catalog", query_form="title_image")]


def _cycle(*rows: tuple[str, Form, Source, int]) -> tuple[Pairing, ...]:
    total = sum(count for *_, count in rows)
    return tuple(
        Pairing(cast(Form, query), item, count / total, source, count) for query, item, source, count in rows
    )


BEHAVIOR = (
    Pairing("text", "rich_image", 0.30, "log"),
    Pairing("text", "image", 0.20, "log"),
    Pairing("text", "title_image", 0.15, "log"),
    Pairing("image", "image", 0.15, "log"),
    Pairing("image", "rich_image", 0.15, "log"),
    Pairing("text_image", "rich_image", 0.05, "log"),
)
CATALOG = (
    Pairing("title", "image", 0.60, "catalog"),
    Pairing("image", "image", 0.20, "catalog"),
    Pairing("image", "rich_image", 0.10, "catalog"),
    Pairing("title_image", "rich_image", 0.10, "catalog"),
)
NINE = _cycle(
    ("text", "rich", "log", 2),
    ("text", "image", "log", 2),
    ("text", "title_image", "log", 2),
    ("text", "rich_image", "log", 5),
    ("image", "image", "log", 2),
    ("image", "title_image", "log", 5),
    ("image", "rich_image", "log", 2),
    ("text_image", "title_image", "log or catalog", 5),
    ("text_image", "rich_image", "log or catalog", 1),
)
"""Paper: MOON Embedding, table 2 (paper)."""
MOON = _cycle(
    ("image", "rich_image", "log", 12),
    ("text", "rich_image", "log", 3),
    ("text_image", "rich_image", "log or catalog", 2),
)
"""Paper: MOON 3.4: image, text and multimodal queries 12 : 3 : 2, positives multimodal (paper reported)."""

REASONING = (
    Pairing("text", "title_image", 0.35, "log"),
    Pairing("image", "title_image", 0.30, "log"),
    Pairing("text_image", "title_image", 0.05, "log"),
    Pairing("text", "image", 0.20, "log"),
    Pairing("image", "title", 0.10, "log"),
    Pairing("image", "title_image", 0.25, "catalog"),
    Pairing("title", "title_image", 0.15, "catalog"),
    Pairing("title_image", "title_image", 0.15, "catalog"),
    Pairing("title", "image", 0.25, "catalog"),
    Pairing("image", "title", 0.20, "catalog"),
)
"""Title and pictures alone, for attributes are what a reasoner is to find out; the log, and the five
directions that are evaluated. Paper: MOON3.0 6 (directions paper reported; shares ours)."""


def schedule(pairings: Sequence[Pairing], num_steps: int) -> np.ndarray:
    """Which pairing each step takes: shares kept as evenly as whole steps allow, in every stretch.

    Example:
        >>> shares = (0.5, 0.25, 0.25)
        >>> schedule([Pairing("text", "image", share, "log") for share in shares], 8).tolist()
        [0, 1, 2, 0, 0, 1, 2, 0]
    """
    share = np.array([pairing.share for pairing in pairings], dtype=np.float64)
    share /= share.sum()
    taken, order = np.zeros(len(share)), np.empty(num_steps, dtype=np.int64)
    for step in range(num_steps):
        order[step] = np.argmax(share * (step + 1) - taken)
        taken[order[step]] += 1
    return order


def cycles(pairings: Sequence[Pairing], num_steps: int, seed: int = 0) -> np.ndarray:
    """Which pairing each step takes: every cycle has each pairing `count` times, shuffled by seed.

    Paper: MOON Embedding 3.4: a schedule of 26 steps (ours).
    """
    once = np.repeat(np.arange(len(pairings)), [pairing.count for pairing in pairings])
    num_cycles = -(-num_steps // len(once))
    whole = [stream(seed, "cycle", number).permutation(once) for number in range(num_cycles)]
    return np.concatenate([*whole, once[:0]])[:num_steps]
