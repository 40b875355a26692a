"""A small catalog with drawn pictures, a log over it, and a tiny encoder."""

import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from PIL import Image

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SHAPES = ("square", "bar", "cross")
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("MOONTIDE_THREADS", "1")
    torch.set_num_threads(1)


def picture(color: str, shape: str, seed: int = 0, side: int = 56) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 235, np.uint8)
    top, left = rng.integers(4, side // 3, 2)
    size = side // 2
    boxes = {"square": [(0, 0, size, size)], "bar": [(size // 3, 0, size // 2, size)]}
    boxes["cross"] = [(size // 3, 0, size // 2, size), (0, size // 3, size, size // 2)]
    for y0, x0, y1, x1 in boxes[shape]:
        pixels[top + y0 : top + y1, left + x0 : left + x1] = COLORS[color]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_catalog(path, num: int = 48) -> Dataset:
    """Products of 12 looks, two pictures each, every fourth held out; a log with clicks and orders."""
    looks = [(color, shape) for color in COLORS for shape in SHAPES]
    with DatasetWriter(path, "drawn") as writer:
        products, splits, regions, queries, events = [], [], [], [], []
        for n in range(num):
            color, shape = looks[n % len(looks)]
            ids = [f"i{n}a", f"i{n}b"]
            for view, image_id in enumerate(ids):
                writer.add_image(image_id, picture(color, shape, 2 * n + view))
            products.append(
                {
                    "product_id": f"p{n}",
                    "title": f"{color} {shape} number {n}",
                    "brand": "Acme",
                    "category": ["Shapes", shape],
                    "attributes": {"color": [color], "form": [shape]},
                    "image_ids": ids,
                    "created_at": START,
                }
            )
            side = "test" if n % 4 == 3 else "train"
            splits.append({"product_id": f"p{n}", "group_id": f"g{n}", "split": side})
            regions.append(
                {"image_id": f"i{n}a", "x0": 14, "y0": 7, "x1": 42, "y1": 35, "source": "annotation"}
            )
            writer.add_image(f"q{n}", picture(color, shape, 1000 + n))
            queries.append({"query_id": f"t{n}", "text": f"{color} {shape}"})
            queries.append({"query_id": f"v{n}", "image_id": f"q{n}"})
            for turn, query in enumerate((f"t{n}", f"v{n}")):
                for kind in ("impression", "click", "order"):
                    at = START + timedelta(hours=n + turn * num)
                    event = {"at": at, "kind": kind, "query_id": query, "product_id": f"p{n}"}
                    events.append({"event_id": f"{kind}-{query}", "shopper_id": "s", **event})
        for name, rows in (("products", products), ("splits", splits), ("regions", regions)):
            writer.put(name, rows)
        writer.put("queries", queries)
        writer.append("events", sorted(events, key=lambda event: event["at"]))
    return Dataset.open(path)


@pytest.fixture(scope="session")
def catalog(tmp_path_factory) -> Dataset:
    return write_catalog(tmp_path_factory.mktemp("data") / "drawn")


SMALL = EncoderSettings(depth=2, image_side=56, vocab_size=320, dim=32, widths=(8, 16, 32))


@pytest.fixture(scope="session")
def make_encoder(catalog):
    titles = [product.title for product in catalog.products()]

    def make(settings: EncoderSettings = SMALL, seed: int = 0, **changes) -> MoonEncoder:
        return MoonEncoder.tiny(titles, settings.but(**changes), seed, device="cpu")

    return make
