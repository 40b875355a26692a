"""The card of a pair set: what it holds, by which rule, how sure its labels are, what it is not for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from moontide.creative.metrics import ceiling
from moontide.creative.pairs import PairReport, PairSettings
from moontide.creative.records import CreativePair


def pair_card(report: PairReport, settings: PairSettings, origin: Mapping[str, str]) -> str:
    """card.md of a pair set.

    Args:
        origin: name, source, license and fingerprint of the dataset.
    """
    parts = [
        f"# Pairs of creatives of {origin['name']}\n\n"
        "Two pictures that advertise one product, what its shoppers search for, and which picture they "
        "clicked more often.\n\n"
        f"- source: {origin['source'] or 'unknown'} (fingerprint {origin['fingerprint']})\n"
        f"- license of the source: {origin['license']}",
        "## Sizes",
        _table(("what", "number"), [(name, f"{num:,}") for name, num in report.lines()]),
        _rule(settings),
        "## Labels",
        _table(
            ("split", "pairs", "products", "share of A", "median impressions", "median gap", "ceiling"),
            _labels(report.pairs),
        ),
        "The ceiling is the mean confidence of the labels: the accuracy of one who knows which creative is "
        "truly better, as far as the counts tell. It is somewhat high, as pairs were chosen for a large "
        "observed gap.",
        _use(),
    ]
    return "\n\n".join(parts) + "\n"


def _rule(settings: PairSettings) -> str:
    strict = "no test of significance"
    if settings.max_p_value is not None:
        strict = f"two-proportion z-test, p-value at most {settings.max_p_value:g}"
    return f"""## Rule

- each creative: more than {settings.min_impressions:,} impressions, a picture that can be decoded
- rates: a gap above {settings.min_gap:.0%} of the {settings.gap_base} rate, compared as whole numbers
- label: the higher click-through rate; confidence at least {settings.min_confidence:g}; {strict}
- label_confidence: P(labeled one has the higher rate), independent Beta(1 + clicks, 1 + impressions - clicks)
- pictures whose difference hashes differ in at most {settings.near_bits} of 64 bits are one: no pair
- at most {settings.max_pairs} pairs of a product, drawn by seed {settings.seed}
- test: whole groups of near-duplicate products; no picture of a test pair is in a training pair
- order: random, as many labels A as B in each split, up to one; `judge` asks test pairs in both orders"""


def _labels(pairs: Sequence[CreativePair]) -> list[tuple[str, ...]]:
    rows = []
    for split, num in sorted(Counter(pair.split for pair in pairs).items()):
        mine = [pair for pair in pairs if pair.split == split]
        shown = [min(pair.impressions_a, pair.impressions_b) for pair in mine]
        rows.append(
            (
                split, f"{num:,}", f"{len({pair.product_id for pair in mine}):,}",
                f"{np.mean([pair.label == 'A' for pair in mine]):.3f}", f"{np.median(shown):,.0f}",
                f"{np.median([pair.gap for pair in mine]):.0%}", f"{ceiling(mine):.3f}",
            )
        )  # fmt: skip
    return rows


def _use() -> str:
    return """## Intended use

Train a judge on `train`; report strict and order-invariant accuracy on `test` with intervals over products.
`label_confidence` may weigh a pair in training.

## Limits

- A higher rate in a log is confounded by place, time and audience unless creatives were shown at random.
- Pairs of one product depend on each other: never split or resample by pair.
- Titles and queries are texts of shoppers and merchants: escape them wherever they are shown or prompted."""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
