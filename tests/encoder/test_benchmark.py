"""The small table over a catalog."""

import numpy as np
import pytest

from moontide.encoder.benchmark import retrieval_table
from moontide.encoder.model.inputs import ProductView
from moontide.encoder.stages.rows import groups_and_split


def unit(rows, width, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


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


def test_a_photo_that_is_shown_with_the_product_does_not_ask_for_it(catalog):
    def encode(items):
        return np.ones((len(items), 2), np.float32)

    rows = retrieval_table(_without_log(catalog), encode, view=ProductView(num_images=2))
    assert {row["protocol"] for row in rows} == {"title -> photo"}  # every product has two pictures


def _without_log(catalog):
    class Quiet(type(catalog)):
        def has(self, name):
            return name not in ("events", "queries") and super().has(name)

    return Quiet(catalog.path, catalog.info)
