"""A small stand-in for the encoder, and small datasets, for tests of the center."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.model.inputs import Item, ProductView
from moontide.foundation.images import decode


class FakeEncoder:
    """Vectors from a hash of the words and 8 x 8 gray levels; counts what goes through it.

    As in a real model, the batch changes the last bits of a vector, so that a resumed job has to cut the same
    batches to end with the same bytes.
    """

    def __init__(self, dim: int = 16, name: str = "fake-1", stop_after: int | None = None):
        self.dim, self.name, self.stop_after = dim, name, stop_after
        self.batches: list[int] = []
        self.num_prepared = self.live = self.most_live = 0

    def fingerprint(self) -> str:
        return self.name

    def num_tokens(self, item: Item) -> int:
        return 4 * len(item.images) + len((item.text or "").split())

    def view(self, dataset: Dataset) -> ProductView:
        return ProductView()

    def prepare(self, item: Item) -> np.ndarray:
        pixels = [
            np.asarray(decode(picture, 8).convert("L"), dtype=np.float32).ravel() for picture in item.images
        ]
        words = np.zeros(64, dtype=np.float32)
        for word in (item.text or "").split():
            words[zlib.crc32(word.encode()) % 64] += 64.0
        self.num_prepared += 1
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        return sum(pixels, words)

    def forward_prepared(self, prepared: list[np.ndarray]) -> torch.Tensor:
        self.live -= len(prepared)
        self.batches.append(len(prepared))
        if self.stop_after is not None and sum(self.batches) > self.stop_after:
            raise KeyboardInterrupt
        rows = torch.tensor(np.stack(prepared)) + 1e-4 * len(prepared)
        plane = torch.from_numpy(np.random.default_rng(7).standard_normal((64, self.dim)).astype(np.float32))
        return torch.nn.functional.normalize(rows @ plane, dim=1)


def picture(seed: int, side: int = 24) -> bytes:
    """A small JPEG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_dataset(path: Path, num: int = 60, distinct: int | None = None, broken: bool = False) -> Dataset:
    """Products with one picture each, of which `distinct` differ; creatives and queries beside them.

    With `broken`, a product and a creative have a picture whose pixels are cut off, one product's is missing.
    """
    distinct = distinct or num
    with DatasetWriter(path, "small") as writer:
        for number in range(num):
            writer.add_image(f"i{number}", picture(number % distinct))
        products = [
            {"product_id": f"p{number}", "title": f"thing {number % distinct}", "image_ids": [f"i{number}"]}
            for number in range(num)
        ]
        creatives = [
            {"creative_id": f"c{number}", "product_id": f"p{number}", "image_id": f"i{number}"}
            for number in range(0, num, 3)
        ]
        queries = [{"query_id": f"q{number}", "text": f"thing {number}"} for number in range(5)]
        if broken:
            whole = picture(999, side=64)
            row = {"image_id": "cut", "bytes": whole[: len(whole) // 2], "sha256": None}
            writer.append("images", [row])
            products[3]["image_ids"] = ["cut"]
            products[4]["image_ids"] = ["nowhere"]
            creatives[0]["image_id"] = "cut"
            queries.append({"query_id": "q-empty", "text": " "})
        writer.put("products", products)
        writer.put("creatives", creatives)
        writer.put("queries", queries)
    return Dataset.open(path)
