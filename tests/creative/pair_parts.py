"""A small shop with creatives, by hand, for the tests of pairs and pair sets."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.creative.records import CreativeStat
from moontide.foundation.images import ImageFacts

Event = tuple[str, str, str, str | None, str]


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def shop(
    path: Path,
    products: dict[str, int],
    titles: dict[str, str] | None = None,
    test: tuple[str, ...] | None = (),
    queries: dict[str, str | None] | None = None,
    events: list[Event] | None = None,
    broken: tuple[str, ...] = (),
    same: dict[str, int] | None = None,
) -> Dataset:
    """A dataset by hand.

    Args:
        products: number of creatives by product; creative "p.0" shows the picture "i.p.0".
        test: products held out; None leaves the split out.
        events: kind, request, product, creative, query.
        broken: pictures whose bytes cannot be decoded.
        same: pictures drawn by the given seed, equal seeds being equal pictures.
    """
    with DatasetWriter(path, "by hand") as writer:
        rows, made = [], []
        for n, (name, num) in enumerate(products.items()):
            title = (titles or {}).get(name, f"title of {name}")
            rows.append({"product_id": name, "title": title, "category": ["Home", "lamp"], "spu_id": name})
            for k in range(num):
                image_id = f"i.{name}.{k}"
                if image_id in broken:
                    writer.add_image(image_id, b"rubbish", ImageFacts(1, 1, "00", "00"))
                else:
                    writer.add_image(image_id, png((same or {}).get(image_id, 100 * n + k)))
                made.append(
                    {"creative_id": f"{name}.{k}", "product_id": name, "image_id": image_id}
                    | {"template": "busy", "params": [("size", f"0.{k + 1}")]}
                )
        writer.put("products", rows)
        writer.put("creatives", made)
        if test is not None:
            sides = [("test" if name in test else "train", name) for name in products]
            splits = [{"product_id": name, "group_id": name, "split": side} for side, name in sides]
            writer.put("splits", splits)
        if queries:
            writer.put("queries", [{"query_id": q, "text": text} for q, text in queries.items()])
        if events:
            names = ("kind", "request_id", "product_id", "creative_id", "query_id")
            writer.append(
                "events",
                [dict(zip(names, row, strict=True)) | {"event_id": f"e{n}"} for n, row in enumerate(events)],
            )
    return Dataset.open(path)


def stat(creative: str, clicks: int, impressions: int = 2000, image: str | None = None) -> CreativeStat:
    return CreativeStat(creative, creative.split(".")[0], image or f"i.{creative}", impressions, clicks)
