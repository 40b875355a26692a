"""The tables of others: text against image-only documents, as in Marqo's Fashion-7 and MTEB's image tasks.

    R@k      mean of |first k and P| / |P|, P all documents right for the query       as BEIR, pytrec_eval
    nDCG@10  gain = grade, discount log2(1 + rank)                                    as BEIR, pytrec_eval
    MRR@10   1 / rank of the first right document, 0 beyond 10                        as Marqo's "MRR"
    P@1      share of queries whose first document is right                           as BEIR, pytrec_eval

Documents `image` show pictures alone. Documents `image+text` are the unit vector of 0.9 picture + 0.1 title,
each a unit vector before (Marqo's product document, for categories; the title may name the category, as it
may there). What differs: ties count against the right document; a query is the text alone, without a prefix;
beside all products there is a gallery of those held out; every number has an interval. A published number
belongs to its own documents and queries.

Paper: Marqo-FashionCLIP evaluation, MTEB (definitions as published; galleries, ties and intervals ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moontide.encoder.metrics import first_of, found_at, ndcg_at, positive_ranks, reciprocal_rank_at
from moontide.encoder.model.inputs import query_item
from moontide.encoder.pool import Gallery, Pool, Shown
from moontide.encoder.scorecard import Answers, Scorecard
from moontide.foundation.errors import DataError
from moontide.foundation.storage import read_json

IMAGE_SHARE = 0.9  # Marqo-FashionCLIP configurations
METRICS = ("nDCG@10", "R@1", "R@10", "MRR@10", "P@1")


@dataclass(frozen=True)
class GroundTruth:
    """Texts and the products each is right for.

    Args:
        name: for the table. documents: "image" or "image+text".
        relevant: grade of each right product id, by query text.
    """

    name: str
    documents: str
    relevant: dict[str, dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> GroundTruth:
        """A ground-truth file {query: {item_ID: grade}}; `...-image+text.json` asks for those documents.

        Raises:
            StorageError: it cannot be read. DataError: it is something else.
        """
        found = read_json(path)
        good = isinstance(found, dict) and all(
            isinstance(answers, dict) and all(isinstance(grade, int | float) for grade in answers.values())
            for answers in found.values()
        )
        if not good or not found:
            raise DataError(
                f"{path} is no ground truth: it must be JSON of the shape {{query: {{item_ID: 1}}}}"
            )
        documents = "image+text" if path.stem.endswith("image+text") else "image"
        name = path.stem.removeprefix("ground_truth_").removesuffix(f"-{documents}")
        right = {
            query: {str(item): float(grade) for item, grade in answers.items() if grade > 0}
            for query, answers in found.items()
        }
        return cls(
            name, documents, {query: right[query] for query in right if right[query] and query.strip()}
        )


def own_truths(pool: Pool) -> list[GroundTruth]:
    """Ground truths that a catalog brings itself: titles of held-out products, and names of each level."""
    titles: dict[str, dict[str, float]] = {}
    for product in pool.products:
        if product.title:
            titles.setdefault(product.title, {})[product.product_id] = 1.0
    held = {product.title for product, is_held in zip(pool.products, pool.is_held, strict=True) if is_held}
    truths = [GroundTruth("title", "image", {t: right for t, right in titles.items() if t in held})]
    for level in range(max((len(product.category) for product in pool.products), default=0)):
        names: dict[str, dict[str, float]] = {}
        for product in pool.products:
            if len(product.category) > level:
                names.setdefault(product.category[level], {})[product.product_id] = 1.0
        truths.append(GroundTruth(f"category {level + 1}", "image+text", names))
    return [truth for truth in truths if truth.relevant]


def conventions(card: Scorecard, pool: Pool, truths: Sequence[GroundTruth], limit: int) -> None:
    """Rows of every ground truth, over held-out products and over all.

    Args:
        limit: queries of a ground truth at most.
    """
    if not pool.abilities.can("t", "i"):
        card.note("text -> image documents: left out, this encoder cannot compare the two")
        return
    if not pool.is_pictured.any():
        card.note("text -> image documents: left out, no product has a picture")
        return
    for truth in truths:
        documents = _documents(pool, truth.documents)
        for where, gallery in {"held-out": documents.among(pool.is_held), "all": documents}.items():
            _measure(card, pool, truth, where, gallery, limit)


def _documents(pool: Pool, kind: str) -> Gallery:
    images = pool.gallery(Shown("image"))
    if kind == "image":
        return images
    vectors = IMAGE_SHARE * images.vectors
    titles = pool.gallery(Shown("title"))
    at = np.searchsorted(images.codes, titles.codes)
    has = np.isin(titles.codes, images.codes)
    vectors[at[has]] += (1 - IMAGE_SHARE) * titles.vectors[has]
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Gallery(images.codes, vectors / np.maximum(length, 1e-12))


def _measure(
    card: Scorecard, pool: Pool, truth: GroundTruth, where: str, gallery: Gallery, limit: int
) -> None:
    row_of = {pool.ids[code]: row for row, code in enumerate(gallery.codes.tolist())}
    right = {
        query: {row_of[item]: grade for item, grade in answers.items() if item in row_of}
        for query, answers in truth.relevant.items()
    }
    queries = sorted(query for query, answers in right.items() if answers)
    direction = f"{truth.name} -> {truth.documents}"
    if where == "all" and len(queries) < len(right):
        missing = f"{len(right) - len(queries):,} of {len(right):,} queries"
        card.note(f"{direction}: {missing} left out, no right product is among the documents")
    if not queries:
        return
    queries = [queries[row] for row in pool.some(np.arange(len(queries)), limit, "conventions", truth.name)]
    positives = [np.array(list(right[query])) for query in queries]
    gains = [np.array(list(right[query].values())) for query in queries]
    vectors = pool.encode_queries([query_item(query) for query in queries])
    found = positive_ranks(vectors, gallery.vectors, positives)
    first = first_of(found)
    columns = (
        ndcg_at(found, 10, gains),
        found_at(found, 1),
        found_at(found, 10),
        reciprocal_rank_at(found, 10),
        (first <= 1).astype(float),
    )
    num, size = np.array([len(own) for own in positives]), len(gallery.codes)
    chance = {"R@1": np.full(len(num), 1 / size), "R@10": np.full(len(num), min(10 / size, 1.0))}
    group = np.array([pool.group[gallery.codes[own[0]]] for own in positives])
    answers = Answers(dict(zip(METRICS, columns, strict=True)), group, chance | {"P@1": num / size}, first)
    card.add(("documents", direction, where), size, answers, "ground truth")
