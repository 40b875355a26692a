"""Heat-maps against true boxes: a planted dataset in which the right numbers are known."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.heatmap import heat, mass_inside
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder
from moontide.encoder.model.inputs import Item
from moontide.foundation.errors import DataError
from moontide.studies.maps import PLAIN, held_out_shots, map_table, true_boxes

TINY = EncoderSettings(depth=1, image_side=56, vocab_size=300, dim=16, widths=(16,))
SIZES = (21, 42)  # sides of the noise in a plain picture of 56 pixels, from the corner on
NUM = 6


def noise(size: int, seed: int) -> bytes:
    pixels = np.full((56, 56, 3), 128, np.uint8)
    pixels[:size, :size] = np.random.default_rng(seed).integers(0, 255, (size, size, 3))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("maps") / "planted"
    boxes, products, splits = [], [], []
    with DatasetWriter(path, "planted") as writer:
        for n in range(NUM):
            ids = [f"i{n}-{size}" for size in SIZES]
            for size, image_id in zip(SIZES, ids, strict=True):
                writer.add_image(image_id, noise(size, n))
                boxes.append((image_id, f"p{n}", 0.0, 0.0, float(size), float(size)))
            writer.add_image(f"i{n}-boxless", noise(30, n))
            products.append(
                {"product_id": f"p{n}", "title": f"title {n}", "image_ids": [*ids, f"i{n}-boxless"]}
            )
            split = "train" if n == 0 else "test"
            splits.append({"product_id": f"p{n}", "group_id": f"g{n}", "split": split})
        writer.put("products", products)
        writer.put("splits", splits)
        names = ("image_id", "product_id", "x0", "y0", "x1", "y1")
        writer.put_truth(
            "boxes", pa.table(dict(zip(names, map(list, zip(*boxes, strict=True)), strict=True)))
        )
    return Dataset.open(path)


@pytest.fixture(scope="module")
def encoder() -> MoonEncoder:
    return MoonEncoder.tiny([f"title {n}" for n in range(NUM)], TINY, device="cpu")


def test_boxes_are_shares_and_shots_are_of_held_out_products_with_another_title(planted):
    assert true_boxes(planted)["i2-42"] == (0, 0, 0.75, 0.75)
    shots = held_out_shots(planted, 100)
    assert {one.product_id for one in shots} == {f"p{n}" for n in range(1, NUM)}
    assert len(shots) == 2 * (NUM - 1)
    assert all(one.title == f"title {one.product_id[1:]}" != one.other_title for one in shots)
    assert len(held_out_shots(planted, 3)) == 6
    assert held_out_shots(planted, 3, seed=1) != held_out_shots(planted, 3, seed=2)


def test_maps_without_a_model_lie_where_the_pixels_differ(planted):
    rows = map_table(planted, {})
    area = np.mean([(size / 56) ** 2 for size in SIZES])
    assert [row["encoder"] for row in rows] == [name for name in PLAIN for _ in range(2)]
    for every, small in (rows[:2], rows[2:]):
        assert every["area"] == pytest.approx(area)
        assert (every["pictures"], small["pictures"]) == (10, 5)
        assert small["area"] == pytest.approx((21 / 56) ** 2)
        assert every["inside"] > 0.95  # the ground has the mean color, nearly
        assert every["gain"].value == pytest.approx(every["inside"] / area)


def test_every_encoder_and_method_has_its_rows(planted, encoder):
    rows = map_table(planted, {"tiny": encoder}, max_products=3)
    assert [(row.get("method"), row.get("title"), row["boxes"]) for row in rows[4:]] == [
        (method, title, boxes)
        for method in ("gradient", "contribution")
        for title in ("own", "another's")
        for boxes in ("all", "small")
    ]
    assert all(0 < row["inside"] <= 1 and row["gain"].low <= row["gain"].value for row in rows)
    assert len({row["area"] for row in rows}) == 2
    shots = held_out_shots(planted, 3)
    for row, title in ((rows[4], "title"), (rows[10], "other_title")):
        maps = [
            heat(encoder, Item(images=(one.picture,)), Item(getattr(one, title)), row["method"]).grids[0]
            for one in shots
        ]
        inside = [mass_inside(grid, one.box) for grid, one in zip(maps, shots, strict=True)]
        assert row["inside"] == pytest.approx(np.mean(inside), rel=1e-3)


def test_a_dataset_without_true_boxes_or_held_out_products_is_refused(planted, tmp_path):
    with DatasetWriter(tmp_path / "plain", "plain") as writer:
        writer.put("products", [{"product_id": "p", "title": "t"}])
    with pytest.raises(DataError, match="only a simulated market has one"):
        map_table(Dataset.open(tmp_path / "plain"), {})
    with DatasetWriter(tmp_path / "none", "none", base=planted) as writer:
        writer.put("products", [{"product_id": "p3", "title": " ", "image_ids": ["i3-21"]}])
    with pytest.raises(DataError, match="no held-out product with a picture and its true box"):
        map_table(Dataset.open(tmp_path / "none"), {})
