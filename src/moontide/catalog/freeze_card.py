"""The card of a benchmark: what it holds, how it was made, how it is divided, what it is not for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from moontide.catalog.dataset import Dataset
from moontide.catalog.exposures import COUNTED
from moontide.catalog.leaks import Leak
from moontide.catalog.triplets import SIDES, Division

FORMS = ("text", "image", "both")
NEGATIVES = ("other category", "same category")


def benchmark_card(
    frozen: Dataset, divisions: Sequence[Division], forms: Mapping[str, str], leaks: Sequence[Leak]
) -> str:
    """README.md of a benchmark.

    Args:
        frozen: its dataset folder.
        forms: form of each query.
    """
    info = frozen.info
    rows = [(name, f"{number:,}") for name, number in info["rows"].items()]
    found = [(f"by {leak.division}", leak.what, leak.count) for leak in leaks]
    parts = [
        _head(info),
        "## Sizes",
        _table(("table", "rows"), rows),
        *(_sizes(division, forms, frozen) for division in divisions),
        _made(info),
        _splits(divisions, info),
        "## Leak checks\n\nCounted on the files of this folder; `moontide benchmark check` counts again.\n"
        "All must be 0 but the near-duplicates, which are a notice.",
        _table(("division", "what", "found"), found),
        _use(info, len(divisions) > 1),
    ]
    return "\n\n".join(parts) + "\n"


def _head(info: dict[str, Any]) -> str:
    origin, market = info["benchmark"]["frozen_from"], info["benchmark"].get("market")
    made = ""
    if market:
        made = (
            f" ({market['kind']}, seed {market['seed']}, shoppers {market['choice']}; settings: dataset.json)"
        )
    return f"""# {info["name"]}: product search from a log

Queries of three forms (text, image, both), the products that answered them, and products that were shown and
left alone. A dataset folder of moontide with triplets; it needs no other file.

- source: {info.get("source") or "unknown"}{made}
- license of the source: {info.get("license", "unknown")}
- frozen from: {origin["name"]}, fingerprint {origin["fingerprint"]}
- hash of all files: `sha256` in manifest.json"""


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(map(str, head)), *(list(map(str, row)) for row in rows)]
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "---|" * len(lines[0]), *texts[1:]])


def _sizes(division: Division, forms: Mapping[str, str], frozen: Dataset) -> str:
    """Both sides of a division, in numbers, and what was left out."""
    columns = [_side(division, side, forms, frozen) for side in SIDES]
    rows = [(what, *(f"{column[what]:,}" for column in columns)) for what in columns[0]]
    left_out = [(what, f"{number:,}") for what, number in division.left_out.items()]
    sizes = _table((f"by {division.name}", *SIDES), rows)
    return f"{sizes}\n\n{_table((f'by {division.name}: left out', 'pairs'), left_out)}"


def _side(division: Division, side: str, forms: Mapping[str, str], frozen: Dataset) -> dict[str, int]:
    judgments, triplets = division.judgments.to_pylist(), division.triplets[side]
    asked = {row["query_id"] for row in judgments if row["source"] == side}
    of_form = Counter(forms[query_id] for query_id in asked)
    members = set(division.products(side))
    leaves = {one.category for one in frozen.products() if one.product_id in members and one.category}
    by_form, by_negative = _count(triplets, "form"), _count(triplets, "negative")
    return {
        "products (the gallery)": len(members),
        "leaf categories": len(leaves),
        "pairs (judgments)": sum(row["source"] == side for row in judgments),
        **{f"queries: {form}": of_form[form] for form in FORMS},
        "triplets": len(triplets),
        **{f"triplets: {form}": by_form[form] for form in FORMS},
        **{f"negatives: {kind}": by_negative[kind] for kind in NEGATIVES},
    }


def _count(table: pa.Table, column: str) -> Counter[str]:
    return Counter(table.column(column).to_pylist())


def _made(info: dict[str, Any]) -> str:
    kinds = " or ".join(COUNTED[info["benchmark"]["positives"]])
    views = (
        "for products of the training side alone" if info["rows"].get("augmented") else "none in the source"
    )
    return f"""## How it was made

- Query: queries of equal content (words without case and punctuation, picture byte for byte) are one. `form`
  is text, image or both, as it was asked.
- Positive: a product with the event {kinds} under the query, by any shopper. A pair counts once; `at`
  is the first time (UTC).
- Negative: a product that was shown under the same query, and that nobody clicked, put in a cart or bought
  under it, nor any product of its group of near-duplicates; on the side of the positive. Of those, one of
  another leaf category than the positive's where there is one, else of the same. Which one is decided by a
  hash of query and positive, not by place or clicks.
- A pair whose query has no such product is in `judgments.parquet` only.
- Enriched views (`augmented.parquet`): {views}.
- Left behind: the log, shoppers, merchants, campaigns, and anything hidden of a simulated market."""


def _splits(divisions: Sequence[Division], info: dict[str, Any]) -> str:
    rule = ", ".join(f"{key} {value}" for key, value in (info.get("split_rule") or {}).items())
    text = f"""## Splits

By product (`splits.parquet`, `judgments.parquet`, `triplets/`): whole groups of near-duplicates are held out.
Rule of the source: {rule or "not stated"}.
A pair is used when its product and its query are on one side. A query goes to the side of its products;
half of those with products on both, by the hash of their content, go to test. Queries with one picture are on
one side, and so are queries of the same words without a picture."""
    if len(divisions) == 1:
        return text + "\n\nThere is no division by category: the source has not two categories apart."
    return f"""{text}

By category (`by_category/`, the same files): train and test have no leaf category and no group in common.
Sets of categories that share a group go to test in the order of their hash, as far as the share allows.
Products without a category take no part. The divisions are two benchmarks: never train on one and test on the
other."""


def _use(info: dict[str, Any], has_categories: bool) -> str:
    files = [
        ("products, images-*, queries, regions .parquet", "as in every dataset folder of moontide"),
        ("splits.parquet", "product_id, group_id, split"),
        ("judgments.parquet", "query_id, product_id, grade (1), source (the side)"),
        (
            "triplets/train.parquet, test.parquet",
            "query_id, positive_id, negative_id, form, at, negative (category)",
        ),
        ("manifest.json", "sha256 of every file; of all: of the lines `sha256  path`, sorted by path"),
    ]
    mirror = [("by_category/", "splits, judgments, triplets, augmented again")] if has_categories else []
    simulated = "\n- The shoppers are simulated: figures compare encoders in this market, not in a shop."
    return f"""## Files

{_table(("file", "columns"), files + mirror)}

## Intended use

Train encoders of products and queries on `train`; report Recall@k on `test` by form of query. The gallery is
the products of the test side, a hit is a judged product, ties count against it. Name division, size of the
gallery and number of queries beside each figure.

## Limits

- A product that nobody chose is not proven irrelevant: negatives were shown and left alone, no more, and
  recall counts a good product that nobody chose as a miss.
- What was shown was chosen by the source's own ranking, and higher places are seen more.
- Train and test are of the same weeks: nothing here is divided by time.
- Words of a query that has a picture too may come back in a query of the other side.{
        simulated if "market" in info["benchmark"] else ""
    }

## License

{
        info.get("license", "unknown")
    }, as stated by the source. Whoever passes this folder on passes on its content."""
