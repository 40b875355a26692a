"""The figures an encoder is judged by before any click model sees it, with the outcome of every query.

    measure(encoder, dataset, questions)     metrics, and arrays: outcome, product group and category a query

All are figures of held-out products, higher is better. Kept as one number a query, so that two encoders are
compared query by query, and that any part of the catalog has a figure of its own.

Paper: MOON Embedding 3.6 (image search: paper; its definition analog SCL), 3.7 (the other candidates: ours).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.encoder.asked import Questions
from moontide.encoder.evaluate import EvaluateSettings, headline, shape
from moontide.encoder.metrics import KS, positive_ranks
from moontide.encoder.model.inputs import ProductView, query_item
from moontide.encoder.pool import Pool, Shown, members_of
from moontide.encoder.retrieval import require_unseen, retrieve, search_by_image
from moontide.encoder.scorecard import Scorecard
from moontide.encoder.zeroshot import classify, predict_attributes

METRICS = (
    *(f"image recall@{k}" for k in KS),
    *(f"text recall@{k}" for k in KS),
    *(f"photo recall@{k}" for k in KS),
    "category accuracy",
    "attribute accuracy",
    "−alignment",
    "−uniformity",
)
"""Candidates, higher is better: shoppers' pictures and words among held-out products (image search among its
positives), another photo of a held-out product, accuracies, and the two figures of the cloud, negated."""


class Judged(Protocol):
    """What is measured of an encoder; a MoonEncoder or a plain two-tower."""

    def encode_items(self, items: Any, /) -> np.ndarray: ...
    def view(self, dataset: Dataset, /) -> ProductView: ...


def measure(
    encoder: Judged, dataset: Dataset, questions: EvaluateSettings
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metrics of one encoder on the held-out products of a dataset.

    Args:
        questions: of its tasks retrieval, image search, classification, attributes and shape are asked; a
            metric the dataset has no questions for is left out.

    Returns:
        `metrics`, `queries` (how many), `categories`, `notes`; and by metric the outcome of every query,
        whose mean is the metric, with NAME:group and NAME:top (number in `categories`) beside it, and
        NAME:within where the outcome within the own category is another.

    Raises:
        DataError: no product is held out.
    """
    limit = questions.max_queries
    pool = Pool(
        dataset, encoder.encode_items, encoder.view(dataset), questions.max_gallery, questions.seed,
        questions.before,
    )  # fmt: skip
    require_unseen(pool)
    card = Scorecard(questions.replicates, questions.level, questions.seed)
    asked = Questions(pool, questions.chosen, limit)
    parts = {
        "retrieval": lambda: retrieve(card, pool, asked),
        "image search": lambda: search_by_image(card, pool, asked),
        "classification": lambda: classify(card, pool, limit),
        "attributes": lambda: predict_attributes(card, pool, limit),
        "shape": lambda: shape(card, pool, limit),
    }
    for task in questions.tasks:
        if task in parts:
            parts[task]()
    found = _answers(card)
    found |= _photos(pool, limit) if "image search" in questions.tasks else {}
    found |= _evenness(pool) if "shape" in questions.tasks else {}
    top_of = {int(group): pool.top_category(code) for code, group in reversed([*enumerate(pool.group)])}
    names = sorted(set(top_of.values()))
    arrays: dict[str, np.ndarray] = {}
    for name, (values, group) in found.items():
        arrays[name] = np.asarray(values, np.float32)
        arrays[f"{name}:group"] = np.asarray(group, np.int32)
        arrays[f"{name}:top"] = np.array([names.index(top_of[one]) for one in group.tolist()], np.int16)
    metrics = {name: float(arrays[name].mean()) for name in found if ":" not in name}
    sizes = {name: len(arrays[name]) for name in metrics}
    return {"metrics": metrics, "queries": sizes, "categories": names, "notes": card.notes}, arrays


Found = dict[str, tuple[np.ndarray, np.ndarray]]


def _answers(card: Scorecard) -> Found:
    """Outcomes and groups that the benchmark has, by metric; a metric the dataset cannot ask is left out."""
    class_row = headline(card)["class"]
    level = class_row["direction"] if class_row else ""
    sources: dict[str, tuple[tuple[str, str, str], str, int]] = {}
    for k in KS:
        sources[f"image recall@{k}"] = (("image search", "i->i", "positives"), f"recall@{k}", 1)
        sources[f"text recall@{k}"] = (("retrieval", "t->mm", "held-out"), f"recall@{k}", 1)
    sources["category accuracy"] = (("classification", level, "names"), "accuracy", 1)
    sources["attribute accuracy"] = (("attributes", "all keys", "values"), "accuracy", 1)
    sources["−alignment"] = (("shape", "t-i", "held-out"), "alignment", -1)
    return {
        name: (sign * card.answers[key].values[metric], card.answers[key].group)
        for name, (key, metric, sign) in sources.items()
        if key in card.answers
    }


def _photos(pool: Pool, limit: int) -> Found:
    """Another photo of a held-out product against held-out products: asked where the log has few pictures."""
    codes = np.array(
        [code for code in np.flatnonzero(pool.is_held) if pool.other_photo(code) is not None], dtype=np.int64
    )
    codes = pool.some(codes, limit, "photo")
    if not len(codes):
        return {}
    images = pool.dataset.images
    photos = [query_item(image=images[str(pool.other_photo(code))]) for code in codes]
    vectors = pool.encode_queries(photos)
    gallery = pool.gallery(Shown("rich_image")).among(pool.is_held)
    members = members_of(gallery.codes, pool.group)
    found = positive_ranks(vectors, gallery.vectors, [members[one] for one in pool.group[codes].tolist()])
    best = np.array([own.min() for own in found])
    return {f"photo recall@{k}": ((best <= k).astype(float), pool.group[codes]) for k in KS}


def _evenness(pool: Pool) -> Found:
    """−uniformity of the held-out products, all together and within their top category, one by one."""
    gallery = pool.gallery(Shown("rich_image")).among(pool.is_held)
    group = pool.group[gallery.codes]
    if len(group) < 2:
        return {}
    top = np.array([pool.top_category(code) for code in gallery.codes])
    within = np.full(len(top), np.nan)
    for name in set(top.tolist()):
        own = top == name
        if own.sum() > 1:
            within[own] = uniformity_by_item(gallery.vectors[own])
    is_known = np.isfinite(within)
    found = {"−uniformity": (-uniformity_by_item(gallery.vectors), group)}
    return found | {"−uniformity:within": (-within[is_known], group[is_known])}


def uniformity_by_item(vectors: np.ndarray, t: float = 2.0) -> np.ndarray:
    """Uniformity as one pseudo-value a vector: their mean is it, their spread its error to first order.

        U = log mean_ij exp(-t |x_i - x_j|^2) = log mean_i h_i,   value_i = U + 2 (h_i / mean h - 1)

    Args:
        vectors: (n, D) unit vectors, two at least.
    """
    kernel = np.exp(-t * np.clip(2 - 2 * vectors @ vectors.T, 0, None).astype(np.float64))
    near = (kernel.sum(1) - np.diag(kernel)) / (len(vectors) - 1)
    return np.log(near.mean()) + 2 * (near / near.mean() - 1)
