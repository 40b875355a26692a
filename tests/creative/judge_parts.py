"""Parts for the judge's tests: pictures, a pair, a dataset of drawn creatives and a pair set over it."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.creative.annotate import Make, reason_words
from moontide.creative.judge import JudgeSettings, save_judge
from moontide.creative.pairs import PairReport, PairSettings
from moontide.creative.pairset import PairSet, write_pair_set
from moontide.creative.records import CreativePair
from moontide.creative.tiny_judge import new_judge
from moontide.market.render.creatives import creative_photo, sample_creative

TITLES = ("Red running shoe", "Blue leather bag", "Green garden chair", "White desk lamp")


def photo(seed: int = 0, size: tuple[int, int] = (60, 40), kind: str = "PNG") -> bytes:
    """A small picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def product_photo(seed: int) -> bytes:
    """A colored block on white: a product that can be cut out."""
    pixels = np.full((80, 80, 3), 255, dtype=np.uint8)
    pixels[15:65, 20:60] = np.random.default_rng(seed).integers(0, 200, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def a_pair(**changes) -> CreativePair:
    """A pair whose ids and counts no prompt may show."""
    values = {
        "pair_id": "pair-7391", "product_id": "product-5523", "category": ("Wear", "Shoes"),
        "title": "Red shoe",
        "queries": (("red shoe", 12),), "creative_a": "creative-8810", "creative_b": "creative-8811",
        "image_a": "image-6601", "image_b": "image-6602", "impressions_a": 20417, "clicks_a": 613,
        "impressions_b": 20533, "clicks_b": 299, "label": "A", "label_confidence": 0.9, "split": "train",
    }  # fmt: skip
    return CreativePair(**(values | changes))


def small_pairs(folder: Path, num: int = 8) -> PairSet:
    """Drawn creatives of `num` products, one pair each; the larger, calmer one is labeled."""
    rng = np.random.default_rng(3)
    pairs = []
    with DatasetWriter(folder / "dataset", "by hand") as writer:
        products, creatives = [], []
        for n in range(num):
            name, made = f"p{n}", []
            writer.add_image(f"{name}.main", product_photo(n))
            for k in "ab":
                template, params = sample_creative(rng)
                image_id = f"{name}.{k}"
                writer.add_image(image_id, creative_photo(product_photo(n), template, params)[0])
                creatives.append(
                    {"creative_id": f"k-{image_id}", "product_id": name, "image_id": image_id,
                     "template": template, "params": list(params.items())}
                )  # fmt: skip
                made.append(Make.of(template, params))
            products.append(
                {"product_id": name, "title": TITLES[n % 4], "image_ids": [f"{name}.main"],
                 "category": ["Things"], "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
            )  # fmt: skip
            looks = [min(one.size, 0.75) - 0.1 * one.num_props - 0.05 * one.frame for one in made]
            pairs.append(
                a_pair(
                    pair_id=f"{name}-0", product_id=name, title=TITLES[n % 4], category=("Things",),
                    queries=((TITLES[n % 4].lower(), 9), ("gift", 3)),
                    creative_a=f"k-{name}.a", creative_b=f"k-{name}.b",
                    image_a=f"{name}.a", image_b=f"{name}.b",
                    label="A" if looks[0] > looks[1] else "B", split="train" if n % 4 else "test",
                )
            )  # fmt: skip
        writer.put("products", products)
        writer.put("creatives", creatives)
    dataset = Dataset.open(folder / "dataset")
    return write_pair_set(folder / "pairs", dataset, PairReport(pairs), PairSettings())


def small_judge(folder: Path, depth: int = 1, **changes) -> Path:
    """A tiny judge with random weights, in a folder."""
    model, processor = new_judge([*TITLES, "gift"] * 4, depth=depth, vocab_size=400, words=reason_words())
    settings = JudgeSettings.for_tokenizer(processor.tokenizer)
    save_judge(folder, model, processor, settings.but(**changes) if changes else settings)
    return folder
