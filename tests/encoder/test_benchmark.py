"""Recall against brute force, ties, chance; the table over a catalog."""

import numpy as np
import pytest

from moontide.encoder import benchmark
from moontide.encoder.benchmark import (
    alignment,
    chance_at,
    mean_cosine,
    recall_at,
    retrieval_table,
    uniformity,
)
from moontide.encoder.stages.pairs import groups_and_split


def unit(rows, width, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_recall_agrees_with_brute_force(monkeypatch):
    monkeypatch.setattr(benchmark, "CHUNK", 7)
    queries, gallery = unit(20, 4), unit(50, 4, 1)
    rng = np.random.default_rng(2)
    positives = [rng.choice(50, rng.integers(1, 4), replace=False) for _ in range(20)]
    for k, found in zip((1, 5, 10), recall_at(queries, gallery, positives).values(), strict=True):
        hits = 0
        for query, own in zip(queries, positives, strict=True):
            scores = gallery @ query
            others = np.delete(scores, own)
            hits += (others >= scores[own].max()).sum() < k
        assert found == pytest.approx(hits / 20)


def test_ties_count_against_the_positive():
    constant = np.ones((6, 4), np.float32) / 2
    own = [np.array([n]) for n in range(6)]
    recall = recall_at(constant, constant, own, ks=(1, 5, 6))
    assert recall == {"recall@1": 0, "recall@5": 0, "recall@6": 1}


def test_distinct_vectors_find_themselves_and_recall_grows_to_one():
    vectors = unit(30, 8)
    own = [np.array([n]) for n in range(30)]
    assert recall_at(vectors, vectors, own, ks=(1,)) == {"recall@1": 1}
    values = list(recall_at(unit(30, 8, 3), vectors, own, ks=range(1, 31)).values())
    assert values == sorted(values)
    assert values[-1] == 1


def test_no_query_gives_no_number():
    assert np.isnan(recall_at(np.zeros((0, 4)), unit(3, 4), [])["recall@1"])


@pytest.mark.parametrize(("positives", "size", "k"), [(1, 20, 5), (3, 20, 5), (18, 20, 5), (2, 4, 4)])
def test_chance_is_the_recall_of_random_orders(positives, size, k):
    rng = np.random.default_rng(0)
    orders = np.argsort(rng.random((20_000, size)), axis=1)
    measured = (orders[:, :positives].min(1) < k).mean()
    assert chance_at(np.array([positives]), size, k) == pytest.approx(measured, abs=0.01)


def test_the_shape_of_a_cloud():
    vectors = unit(40, 8)
    assert alignment(vectors, vectors) == 0
    assert alignment(vectors, -vectors) == pytest.approx(4)
    assert mean_cosine(np.repeat(vectors[:1], 5, 0)) == pytest.approx(1)
    cosines = (vectors @ vectors.T)[np.triu_indices(40, 1)]
    assert mean_cosine(vectors) == pytest.approx(cosines.mean(), abs=1e-5)
    assert uniformity(np.repeat(vectors[:1], 5, 0)) == pytest.approx(0, abs=1e-5)
    assert uniformity(vectors) == pytest.approx(np.log(np.exp(-2 * (2 - 2 * cosines)).mean()), abs=1e-4)


def test_the_table_has_every_direction_the_catalog_allows(catalog):
    seen = []

    def oracle(items):
        """Vectors that say what is red: enough to do better than nothing, worse than all."""
        seen.append([bool(item.text) for item in items])
        return unit(len(items), 8, len(seen))

    rows = retrieval_table(catalog, oracle)
    names = {(row["protocol"], row["gallery"]): row for row in rows}
    assert set(names) == {
        ("title -> photo", "held-out"),
        ("title -> photo", "all"),
        ("other photo -> product", "held-out"),
        ("other photo -> product", "all"),
        ("image query -> held-out product", "held-out"),
        ("image query -> held-out product", "all"),
    }  # the last fifth of the drawn log asks by picture alone
    held_out = names["title -> photo", "held-out"]
    assert held_out["n"] == held_out["size"] == 12
    assert names["title -> photo", "all"]["size"] == 48
    assert held_out["chance@10"] == pytest.approx(10 / 12)
    assert {"alignment", "uniformity", "mean_cosine", "recall@1", "recall@5", "recall@10"} <= set(held_out)


def test_a_perfect_encoder_scores_one_by_group(catalog):
    products = catalog.products()
    codes = {product.title: code for code, product in enumerate(products)}
    bytes_of = {catalog.images[i]: code for code, p in enumerate(products) for i in p.image_ids}
    group, _ = groups_and_split(catalog, [product.product_id for product in products])

    def perfect(items):
        found = [bytes_of[item.images[0]] if item.images else codes[item.text] for item in items]
        return np.eye(len(products), dtype=np.float32)[group[found]]

    rows = retrieval_table(_without_log(catalog), perfect)
    assert {row["recall@1"] for row in rows} == {1.0}
    assert len(rows) == 4


def _without_log(catalog):
    class Quiet(type(catalog)):
        def has(self, name):
            return name not in ("events", "queries") and super().has(name)

    return Quiet(catalog.path, catalog.info)
