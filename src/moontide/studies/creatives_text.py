"""The judges' accuracy table as numbers with intervals, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moontide.creative.metrics import GAP_EDGES, bucket
from moontide.creative.records import CreativePair
from moontide.foundation.statistics import bootstrap_interval, paired_difference, resolvable_difference
from moontide.studies.counterfactual import plain, share
from moontide.studies.creatives import PLACES, RowFigures

HEADS = (
    "row", "A first", "B first", "strict", "order-invariant", "by mean p", "flip", "always 1st", "always 2nd",
    "share of A", "parsed strictly", "leniently", "seeds", "prompts seen", "core minutes",
)  # fmt: skip


def accuracy_table(
    pairs: Sequence[CreativePair],
    rows: Sequence[RowFigures],
    ceilings: Mapping[str, np.ndarray],
    reference: str = "",
) -> dict[str, Any]:
    """All numbers of the table.

    Args:
        pairs: that were judged.
        rows: with at least one seed each.
        ceilings: expected score of each pair, by name.
        reference: row that each one is compared with, pair by pair.

    Returns:
        sizes; `rows`: figures with intervals over products, order-invariant accuracy by gap, difference to
        the reference and the smallest one it could resolve; `ceilings` likewise.
    """
    products = np.array([pair.product_id for pair in pairs])
    gaps = [bucket(pair.gap, GAP_EDGES, "{:.0%}") for pair in pairs]
    before = next((row for row in rows if row.name == reference), None)
    found = []
    for row in rows:
        values = row.by_pair["order_invariant"]
        entry: dict[str, Any] = {
            "row": row.name, "note": row.note, "seeds": row.seeds, "pairs_seen": row.pairs_seen,
            "core_minutes": row.core_minutes, "shares": row.shares, "by_seed": row.by_seed,
            "figures": {name: plain(bootstrap_interval(row.by_pair[name], products)) for name in PLACES},
            "by_gap": _by_gap(values, products, gaps),
        }  # fmt: skip
        if before is not None and before is not row:
            apart = paired_difference(before.by_pair["order_invariant"], values, products)
            entry["difference"] = plain(apart) | {"to": reference, "level": 0.95}
            smallest = resolvable_difference(apart.standard_error)
            entry["resolvable"] = smallest if math.isfinite(smallest) else None
        found.append(entry)
    tops = {
        name: {"all": plain(bootstrap_interval(values, products)), "by_gap": _by_gap(values, products, gaps)}
        for name, values in ceilings.items()
    }
    return {
        "pairs": len(pairs), "products": len(np.unique(products)),
        "buckets": [name for _, name in sorted(set(gaps))],
        "bucket_pairs": {name: sum(gap[1] == name for gap in gaps) for _, name in sorted(set(gaps))},
        "rows": found, "ceilings": tops,
    }  # fmt: skip


def _by_gap(
    values: np.ndarray, products: np.ndarray, gaps: Sequence[tuple[int, str]]
) -> dict[str, dict[str, float | None]]:
    found = {}
    for one in sorted(set(gaps)):
        rows = np.array([gap == one for gap in gaps])
        found[one[1]] = plain(bootstrap_interval(values[rows], products[rows]))
    return found


def accuracy_markdown(table: Mapping[str, Any], missing: Mapping[str, str]) -> str:
    """The table for people: figures, by gap, differences, and which cells are not there yet."""
    lines = [
        f"{table['pairs']:,} test pairs of {table['products']:,} products, none trained on. Figures "
        "are means over seeds, intervals 95 %, products drawn again. An answer that cannot be read is wrong. "
        "The ranker's prompts are lists of a product's creatives.",
        "",
        *_head(HEADS),
    ]
    for row in table["rows"]:
        figures, shares = row["figures"], row["shares"]
        cells = [row["row"], *(share(figures[name]) for name in PLACES)]
        cells += [_percent(shares[name]) for name in (
            "averaged", "flip", "always_first", "always_second", "share_a", "parsed_strict", "parsed_lenient"
        )]  # fmt: skip
        seen = " / ".join(f"{number:,}" for number in row["pairs_seen"])
        cells += [str(len(row["seeds"])), seen, f"{row['core_minutes']:.1f}"]
        lines.append(_line(cells))
    for name, top in table["ceilings"].items():
        lines.append(_line([name, "", "", "", share(top["all"]), *[""] * (len(HEADS) - 5)]))
    lines += ["", "Order-invariant accuracy by observed gap (higher over lower rate, minus 1):", ""]
    counts = table["bucket_pairs"]
    lines += _head(["row", *(f"{name} ({counts[name]:,} pairs)" for name in table["buckets"])])
    both = [(row["row"], row["by_gap"]) for row in table["rows"]]
    both += [(name, top["by_gap"]) for name, top in table["ceilings"].items()]
    lines += [_line([name, *(share(by_gap[one]) for one in table["buckets"])]) for name, by_gap in both]
    compared = [row for row in table["rows"] if "difference" in row]
    if compared:
        to = compared[0]["difference"]["to"]
        lines += ["", f"Order-invariant accuracy minus that of {to}, same pairs, in points:", ""]
        lines += _head(["row", "difference", "by seed", "smallest that could be resolved"])
        for row in compared:
            points = {key: _times(row["difference"][key], 100) for key in ("value", "low", "high")}
            smallest = "–" if row["resolvable"] is None else f"{100 * row['resolvable']:.1f}"
            by_seed = ", ".join(f"{one:.1%}" for one in row["by_seed"])
            lines.append(_line([row["row"], share(points, "{:+.1f}"), by_seed, smallest]))
    if missing:
        lines += ["", "Not there yet: " + "; ".join(f"{name}: {why}" for name, why in missing.items()) + "."]
    return "\n".join(lines) + "\n"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1%}"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
