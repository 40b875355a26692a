"""What a pair says in words of its product: a bounded title, and the queries that bring it traffic.

Texts of shoppers and merchants are data. Control and invisible characters go, length is bounded; markup stays
as it was written, and whoever puts a text into a prompt, a page or a log escapes it there (`prompt.as_data`).

Paper: Creative4U 2 (that interests are considered as queries is reported of the prompt; ranks are ours).
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.catalog.values import text_of

MAX_TITLE_CHARS = 500
MAX_QUERY_CHARS = 200
Counted = tuple[tuple[str, int], ...]


def clean_text(text: str | None, most: int) -> str:
    """A text on one line without control or invisible characters, cut at a word; blank for none.

    Example:
        >>> clean_text("red\\x1b[31m  shoe\\u202e <b>new</b>", 60), clean_text("wide wooden table", 12)
        ('red[31m shoe <b>new</b>', 'wide wooden')
    """
    raw = (text or "")[: 8 * most]  # bounds the work on a huge text; what is cut would not be kept
    clean = text_of("".join(c if unicodedata.category(c)[0] != "C" or c.isspace() else "" for c in raw)) or ""
    if len(clean) <= most:
        return clean
    head = clean[: most + 1]
    return head.rsplit(" ", 1)[0] if " " in head else clean[:most]


def top_queries(dataset: Dataset, product_ids: set[str], num: int) -> dict[str, Counted]:
    """The text queries of each product as (text, clicks): by clicks, then impressions, then text.

    Queries that differ in case, spaces or control characters alone count as one, as the one of them that was
    written first in the `queries` table. A dataset without a log or queries gives none.
    """
    if not (num and dataset.has("events") and dataset.has("queries")):
        return {}
    texts = _texts(dataset)
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for row in _rows(dataset, product_ids):
        said = texts.get(row["query_id"])
        if said:
            counts[row["product_id"]][said][0 if row["kind"] == "click" else 1] += row["count_all"]
    return {
        product_id: tuple(
            (said, clicks)
            for said, (clicks, _) in sorted(rows.items(), key=lambda row: (-row[1][0], -row[1][1], row[0]))[
                :num
            ]
        )
        for product_id, rows in counts.items()
    }


def _texts(dataset: Dataset) -> dict[str, str]:
    """The clean text of each query id that has one; the same for texts that count as one."""
    first: dict[str, str] = {}
    found = {}
    for query in dataset.queries():
        said = clean_text(query.text, MAX_QUERY_CHARS)
        if said:
            found[query.query_id] = first.setdefault(said.casefold(), said)
    return found


def _rows(dataset: Dataset, product_ids: set[str]) -> list[dict[str, Any]]:
    """How often each product was shown and clicked under each query."""
    events = dataset.table("events", ["kind", "query_id", "product_id"])
    kinds = pc.is_in(events.column("kind"), value_set=pa.array(["impression", "click"]))
    wanted = pc.is_in(events.column("product_id"), value_set=pa.array(sorted(product_ids), pa.string()))
    events = events.filter(pc.and_(pc.and_(kinds, wanted), pc.is_valid(events.column("query_id"))))
    return events.group_by(events.column_names).aggregate([([], "count_all")]).to_pylist()
