"""Do our rows stand in the order that a paper reports? Only the order: its values come from other data.

Paper: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from moontide.studies.paired import Difference


def compare_order(
    column: str,
    published: Mapping[str, float],
    difference: Callable[[str, str, str], Difference | None],
) -> dict[str, Any]:
    """Every two rows that the paper puts in an order, looked up in ours.

    Ties: rows that the paper reports as equal are no pair; a pair that is equal here counts as neither.
    `tau` is Kendall's over those pairs: (as published - reversed) / pairs.

    Args:
        published: row -> value of the paper; higher is better.
        difference: (row, other row, column) -> other - row, None where it is not known.

    Returns:
        published: the rows, best first; pairs, as_published, resolved (of these), tau;
        reversed: {"higher", "lower" (as published), "value" (ours: lower - higher, above 0), "is_resolved"}.
    """
    best_first = sorted(published, key=lambda row: -published[row])
    num_pairs = num_kept = num_resolved = 0
    turned = []
    for higher, lower in combinations(best_first, 2):
        ours = difference(higher, lower, column)
        if published[higher] == published[lower] or ours is None:
            continue
        num_pairs += 1
        gain = ours.interval.value
        if gain < 0:
            num_kept += 1
            num_resolved += ours.is_resolved
        elif gain > 0:
            is_resolved = ours.is_resolved
            turned.append({"higher": higher, "lower": lower, "value": gain, "is_resolved": is_resolved})
    return {
        "column": column,
        "published": best_first,
        "pairs": num_pairs,
        "as_published": num_kept,
        "resolved": num_resolved,
        "tau": (num_kept - len(turned)) / num_pairs if num_pairs else None,
        "reversed": turned,
    }
