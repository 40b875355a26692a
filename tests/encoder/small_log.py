"""A dataset written by hand for the tests of pairs, cleaning and triplets: every event is named."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.stages.pictures import Pictures
from moontide.foundation.images import decode

START = datetime(2026, 1, 1, tzinfo=UTC)
SIDE = 28


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    path: Path,
    products: dict[str, str],
    queries: dict[str, tuple[str | None, bool]],
    events: Sequence[tuple[str, str | None, str, str]],
    num_images: int = 2,
    spus: dict[str, str] | None = None,
    test: Sequence[str] = (),
    judgments: Sequence[dict] = (),
    more_images: Sequence[str] = (),
    untitled: Sequence[str] = (),
) -> Dataset:
    """A dataset.

    Args:
        products: category path by id, "a/b".
        queries: text, and whether it has a picture, by id.
        events: kind, request, query, product; one an hour from `START`.
        spus: SPU by product id; products of one SPU are one group.
        test: products held out.
        more_images: ids of pictures of no product.
        untitled: products without a title.
    """
    spus = spus or {}
    with DatasetWriter(path, "by hand") as writer:
        rows, splits, asked = [], [], []
        for n, (name, category) in enumerate(products.items()):
            ids = [f"{name}.{view}" for view in range(num_images)]
            for view, image_id in enumerate(ids):
                writer.add_image(image_id, png(10 * n + view))
            title = "" if name in untitled else f"title of {name}"
            row = {"product_id": name, "title": title, "image_ids": ids, "brand": "Acme"}
            row |= {"category": category.split("/") if category else [], "spu_id": spus.get(name)}
            rows.append(row | {"created_at": START})
            side = "test" if name in test else "train"
            splits.append({"product_id": name, "group_id": spus.get(name, f"alone {name}"), "split": side})
        for n, (name, (text, has_picture)) in enumerate(queries.items()):
            image_id = f"asked.{name}" if has_picture else None
            if image_id:
                writer.add_image(image_id, png(5_000 + n))
            asked.append({"query_id": name, "text": text, "image_id": image_id})
        for n, image_id in enumerate(more_images):
            writer.add_image(image_id, png(9_000 + n))
        writer.put("products", rows)
        writer.put("splits", splits)
        writer.put("queries", asked)
        if judgments:
            writer.put("judgments", list(judgments))
        if events:
            writer.append(
                "events",
                [
                    {
                        "event_id": f"e{n}",
                        "kind": kind,
                        "request_id": request,
                        "query_id": query,
                        "product_id": product,
                        "at": START + timedelta(hours=n),
                    }
                    for n, (kind, request, query, product) in enumerate(events)
                ],
            )
    return Dataset.open(path)


def pictures_of(dataset: Dataset) -> Pictures:
    return Pictures(dataset.images, lambda picture: np.asarray(decode(picture, SIDE)))
