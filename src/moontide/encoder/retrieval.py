"""Recall of an encoder: five directions, image-based search, and queries with judged answers.

Paper: MOON 3.5, MOON2.0 6 (directions t->mm, i->mm, mm->mm, t->i, i->t: paper), MOON Embedding 3.6
(image-based search recall, analog SCL; galleries, ties, slices and chance: ours).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from moontide.encoder.asked import NONE, SHOWN, Asked, QueryForm, Questions
from moontide.encoder.metrics import KS, chance_of, first_of, found_at, ndcg_at, positive_ranks
from moontide.encoder.model.inputs import Item, query_item
from moontide.encoder.pool import Gallery, Pool, Shown, members_of
from moontide.encoder.scorecard import Answers, Scorecard
from moontide.foundation.errors import DataError

DIRECTIONS: tuple[tuple[QueryForm, QueryForm], ...] = (
    ("t", "mm"),
    ("i", "mm"),
    ("mm", "mm"),
    ("t", "i"),
    ("i", "t"),
)
JUDGED = (*DIRECTIONS, ("i", "i"))
LACKS = {
    "t": "no query of the log is a text, and no held-out product has a title",
    "i": "no query of the log is a picture, and no held-out product has another photo",
    "mm": "no query of the log has text and picture, and no held-out product has another photo",
}


def retrieve(card: Scorecard, pool: Pool, questions: Questions) -> None:
    """Rows of the five directions, with recall@1, @5, @10 over held-out products and over all.

    A query is one row for each product group that was chosen for it; any product of the group is a hit, other
    products chosen for the query count neither way. Slices: queries that training did not see; products that
    are new in the test period though of the train split (over all products; their queries come on top).
    """
    for query, candidate in DIRECTIONS:
        direction = f"{query}->{candidate}"
        if not _can(card, pool, query, candidate):
            continue
        asked = questions.ask(query, candidate)
        if asked is None:
            card.note(f"{direction}: left out, {LACKS[query]}")
        else:
            _rank(card, pool, direction, candidate, asked)
        fresh = questions.ask(query, candidate, pool.is_new)
        if fresh is not None:
            _rank(card, pool, direction, candidate, fresh, "new products")


def _rank(card: Scorecard, pool: Pool, direction: str, candidate: str, asked: Asked, name: str = "") -> None:
    vectors = pool.encode_queries(asked.items)[asked.item]
    everything = pool.gallery(Shown(SHOWN[candidate].form, asked.without))
    galleries = {"all": everything}
    if not name:
        galleries = {"held-out": everything.among(pool.is_held)} | galleries
    group = pool.group[asked.product]
    slices = {}
    if not name and asked.is_known.any():
        slices["query not in training"] = ~asked.is_known
    for where, gallery in galleries.items():
        members = members_of(gallery.codes, pool.group)
        positives = [members[one] for one in group.tolist()]
        ignored = [_rows_of(gallery, codes) for codes in asked.also]
        found = positive_ranks(vectors, gallery.vectors, positives, ignored)
        size = len(gallery.codes) - np.array([len(one) for one in ignored])
        answers = hits(found, size, group)
        card.add(("retrieval", direction, where), len(gallery.codes), answers, asked.source, slices, name)


def search_by_image(card: Scorecard, pool: Pool, questions: Questions) -> None:
    """Rows of image-based search: shoppers' pictures against pictures of what was bought.

    Galleries: the positives of all these queries, each product once; and the whole catalog. A query is one
    row with all that was chosen for it: recall@k is the share of queries with a positive within k, found@k
    the mean share of a query's positives within k. Slices: top category of the (first) positive.
    """
    if not _can(card, pool, "i", "i"):
        return
    asked = questions.ask("i", "i")
    if asked is None:
        card.note(f"image search: left out, {LACKS['i']}")
        return
    rows = [np.flatnonzero(asked.item == place) for place in range(len(asked.items))]
    first = np.array([asked.product[own[0]] for own in rows])
    top = np.array([pool.top_category(code) for code in first])
    slices = {name: top == name for name in sorted(set(top.tolist())) if name}
    everything = pool.gallery(SHOWN["i"])
    is_positive = np.zeros(len(pool.ids), bool)
    is_positive[asked.product] = True
    vectors = pool.encode_queries(asked.items)
    for where, gallery in {"positives": everything.among(is_positive), "all": everything}.items():
        members = members_of(gallery.codes, pool.group)
        positives, ignored = [], []
        for own in rows:
            groups = np.unique(pool.group[asked.product[own]]).tolist()
            positives.append(np.concatenate([members[group] for group in groups]))
            also = _rows_of(gallery, np.unique(np.concatenate([asked.also[row] for row in own])))
            ignored.append(np.setdiff1d(also, positives[-1]))
        found = positive_ranks(vectors, gallery.vectors, positives, ignored)
        size = len(gallery.codes) - np.array([len(one) for one in ignored])
        answers = hits(found, size, pool.group[first], with_shares=True)
        card.add(("image search", "i->i", where), len(gallery.codes), answers, asked.source, slices)


def judged(card: Scorecard, pool: Pool, limit: int, source: str = "test") -> None:
    """Rows of queries with judged answers: judgments of one source, "test" or "val".

    Positives are the products with a grade above 0 (or without one), exactly these: no group. Every query is
    one row, over all products. nDCG@10 takes the grades as gains.
    """
    table = pool.dataset.table("judgments").to_pylist()
    code_of = {product_id: code for code, product_id in enumerate(pool.ids)}
    grades: dict[str, dict[int, float]] = {}
    for row in table:
        grade = 1.0 if row["grade"] is None else row["grade"]
        if row["source"] == source and grade > 0 and row["product_id"] in code_of:
            grades.setdefault(row["query_id"], {})[code_of[row["product_id"]]] = grade
    if not grades:
        return
    images = pool.dataset.images
    asked: dict[str, list[tuple[Item, dict[int, float]]]] = {}
    for query in pool.dataset.queries():
        if query.query_id in grades and (query.image_id is None or query.image_id in images):
            picture = images[query.image_id] if query.image_id else None
            form = "mm" if query.text and query.image_id else "t" if query.text else "i"
            asked.setdefault(form, []).append((query_item(query.text, picture), grades[query.query_id]))
    for query_form, candidate in JUDGED:
        if query_form in asked and _can(card, pool, query_form, candidate):
            _judge(card, pool, f"{query_form}->{candidate}", SHOWN[candidate], asked[query_form], limit)


def _judge(
    card: Scorecard,
    pool: Pool,
    direction: str,
    shown: Shown,
    asked: Sequence[tuple[Item, Mapping[int, float]]],
    limit: int,
) -> None:
    gallery = pool.gallery(shown)
    right = [_rows_of(gallery, np.array(sorted(grades))) for _, grades in asked]
    usable = np.array([row for row, own in enumerate(right) if len(own)], dtype=np.int64)
    usable = pool.some(usable, limit, "judged", direction)
    if not len(usable):
        card.note(f"judged {direction}: left out, no judged product can be shown in that form")
        return
    positives = [right[row] for row in usable]
    gains = [
        np.array([asked[row][1][code] for code in gallery.codes[own].tolist()])
        for row, own in zip(usable, positives, strict=True)
    ]
    vectors = pool.encode_queries([asked[row][0] for row in usable])
    found = positive_ranks(vectors, gallery.vectors, positives)
    group = np.array([pool.group[gallery.codes[own[0]]] for own in positives])
    size = np.full(len(usable), len(gallery.codes))
    answers = hits(found, size, group, with_shares=True, more={"nDCG@10": ndcg_at(found, 10, gains)})
    card.add(("judged", direction, "all"), len(gallery.codes), answers, "judgments")


def hits(
    found: Sequence[np.ndarray],
    size: np.ndarray,
    group: np.ndarray,
    with_shares: bool = False,
    more: Mapping[str, np.ndarray] | None = None,
) -> Answers:
    """recall@k of each query, and found@k where a query may have several positives.

    Args:
        found: ranks of each query's positives. size: of what each query was ranked among.
    """
    first = first_of(found)
    num = np.array([len(own) for own in found])
    values = {f"recall@{k}": (first <= k).astype(float) for k in KS}
    chance = {f"recall@{k}": chance_of(num, size, k) for k in KS}
    if with_shares:
        values |= {f"found@{k}": found_at(found, k) for k in KS}
        chance |= {f"found@{k}": np.minimum(k / size, 1.0) for k in KS}
    return Answers(values | dict(more or {}), group, chance, first)


def _rows_of(gallery: Gallery, codes: np.ndarray) -> np.ndarray:
    """Rows of those products that are in the gallery."""
    if not len(codes) or not len(gallery.codes):
        return NONE
    place = np.minimum(np.searchsorted(gallery.codes, codes), len(gallery.codes) - 1)
    return place[gallery.codes[place] == codes]


def _can(card: Scorecard, pool: Pool, query: str, candidate: str) -> bool:
    if not pool.abilities.can(query, candidate):
        card.note(f"{query}->{candidate}: left out, this encoder cannot compare the two")
        return False
    if not pool.can_show(SHOWN[candidate]).any():
        card.note(f"{query}->{candidate}: left out, no product has what the candidates show")
        return False
    return True


def require_unseen(pool: Pool) -> None:
    """Refuse a dataset without a held-out product.

    Raises:
        DataError: there is none.
    """
    if not pool.is_held.any() and not pool.dataset.has("judgments"):
        raise DataError(
            f"{pool.dataset.path} holds no product out, so nothing is unseen: "
            f"run `moontide data split {pool.dataset.path}`"
        )
