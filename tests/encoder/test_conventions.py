"""The tables of others: definitions by hand, product documents, ground-truth files."""

import json

import numpy as np
import pytest

from moontide.encoder.conventions import METRICS, GroundTruth, conventions, own_truths
from moontide.encoder.pool import Abilities, Pool
from moontide.encoder.scorecard import Scorecard
from moontide.foundation.errors import DataError


def on_a_line(catalog):
    """Photo n at angle n / 100; text at the angle it names, else at 0."""
    place = {catalog.images[p.image_ids[0]]: n for n, p in enumerate(catalog.products())}

    def encode(items):
        angle = np.array(
            [
                place[item.images[0]] / 100
                if item.images
                else float(item.text.split()[-1]) / 100
                if item.text.split()[-1].replace(".", "").isdigit()
                else 0.0
                for item in items
            ]
        )
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    return encode


def measured(catalog, truths, encode=None, limit=100):
    card = Scorecard(replicates=20)
    conventions(card, Pool(catalog, encode or on_a_line(catalog)), truths, limit)
    return card


def values(card, direction, gallery="all"):
    return {metric: card.find("documents", direction, gallery, metric)["value"] for metric in METRICS}


def test_metrics_are_those_of_the_definitions(catalog):
    """Text "at 0" finds p0, p1, p2, ...; text "at 20" finds p20 first, then its neighbors by turns."""
    relevant = {"at 0": {"p0": 1.0, "p2": 1.0, "p40": 1.0}, "at 20.1": {"p21": 1.0}}
    found = values(measured(catalog, [GroundTruth("mine", "image", relevant)]), "mine -> image")
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert found["nDCG@10"] == pytest.approx(((1 + 1 / np.log2(4)) / ideal + 1 / np.log2(3)) / 2)
    assert found["R@1"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["R@10"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["MRR@10"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["P@1"] == 0.5


def test_held_out_documents_are_a_gallery_of_their_own(catalog):
    relevant = {"at 0": {"p3": 1.0, "p4": 1.0}, "at 4": {"p4": 1.0}}
    card = measured(catalog, [GroundTruth("mine", "image", relevant)])
    held = card.find("documents", "mine -> image", "held-out", "P@1")
    assert (held["n"], held["size"], held["value"]) == (1, 12, 1)
    assert card.find("documents", "mine -> image", "all", "P@1")["n"] == 2


def test_a_product_document_is_nine_parts_picture_and_one_part_title(catalog):
    """Product n: picture at n / 100; titles end in n, so at n / 100 too, but those of p0 to p9 swapped."""
    base = on_a_line(catalog)

    def encode(items):
        vectors = base(items)
        for row, item in enumerate(items):
            if not item.images and "number" in (item.text or ""):
                vectors[row] = (0.0, 1.0)
        return vectors

    card = measured(catalog, [GroundTruth("mine", "image+text", {"at 10": {"p0": 1.0}})], encode)
    angle = np.arange(48) / 100
    documents = 0.9 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * np.array([0, 1])
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    scores = documents @ (np.cos(0.1), np.sin(0.1))
    rank = 1 + (np.delete(scores, 0) >= scores[0]).sum()
    assert values(card, "mine -> image+text")["MRR@10"] == pytest.approx(1 / rank)


def test_a_catalog_brings_titles_and_category_names(catalog):
    truths = {truth.name: truth for truth in own_truths(Pool(catalog, on_a_line(catalog)))}
    assert list(truths) == ["title", "category 1", "category 2"]
    assert len(truths["title"].relevant) == 12
    assert {len(found) for found in truths["category 2"].relevant.values()} == {16}
    card = measured(catalog, list(truths.values()))
    assert values(card, "title -> image", "held-out")["P@1"] == 1


def test_a_ground_truth_file_is_read_with_its_documents(tmp_path):
    file = tmp_path / "ground_truth_category2-image+text.json"
    file.write_text(json.dumps({"shoes": {"7": 1, "8": 0}, "nothing": {"9": 0}, " ": {"7": 1}}))
    truth = GroundTruth.read(file)
    assert (truth.name, truth.documents) == ("category2", "image+text")
    assert truth.relevant == {"shoes": {"7": 1.0}}
    (tmp_path / "ground_truth_text-image.json").write_text('{"a": {"1": 1}}')
    assert GroundTruth.read(tmp_path / "ground_truth_text-image.json").documents == "image"


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": ["1"]}', '{"a": {"1": "yes"}}'])
def test_a_file_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(DataError, match="is no ground truth"):
        GroundTruth.read(tmp_path / "truth.json")


def test_queries_whose_products_are_elsewhere_are_counted(catalog):
    card = measured(catalog, [GroundTruth("mine", "image", {"at 1": {"p1": 1.0}, "at 2": {"other": 1.0}})])
    assert card.find("documents", "mine -> image", "all", "P@1")["n"] == 1
    assert card.notes == ["mine -> image: 1 of 2 queries left out, no right product is among the documents"]


def test_an_encoder_without_pictures_has_no_such_table(catalog):
    card = Scorecard(replicates=20)
    pool = Pool(catalog, on_a_line(catalog), abilities=Abilities(frozenset(("t", "mm"))))
    conventions(card, pool, own_truths(pool), 10)
    assert card.rows == []
    assert "left out" in card.notes[0]
