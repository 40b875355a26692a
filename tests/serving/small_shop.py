"""A small real shop on disk, and a run over it: one-colored pictures, honest titles, campaigns, clicks."""

import io
from datetime import UTC, datetime, timedelta

import numpy as np
from PIL import Image, ImageDraw

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.center.shard import HotShard
from moontide.foundation.images import decode
from moontide.foundation.runs import Run
from moontide.serving.parts import Parts
from moontide.serving.pipeline import Pipeline
from moontide.serving.stock import Stock

COLORS = {"red": (200, 40, 40), "green": (40, 150, 70), "blue": (40, 80, 200), "yellow": (240, 200, 50)}
KINDS = ("mug", "lamp", "boot", "cushion", "vase", "clock")
START = datetime(2026, 3, 2, tzinfo=UTC)


def picture(color, kind=0, side=48, form="JPEG"):
    """A colored square with a mark that differs by kind, as bytes."""
    image = Image.new("RGB", (side, side), color)
    edge = 4 + 3 * kind
    if side > 2 * edge:
        ImageDraw.Draw(image).rectangle((edge, edge, side // 2 + edge // 2, side // 2), fill="white")
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def write_shop(path):
    """24 products (4 colors x 6 kinds); every second one is advertised; three shoppers with a past."""
    names = [(color, kind) for kind in KINDS for color in COLORS]
    with DatasetWriter(path, name="small shop") as writer:
        products, campaigns, creatives = [], [], []
        for number, (color, kind) in enumerate(names):
            key, images = f"p{number:02d}", [f"i{number:02d}", f"i{number:02d}-ad"]
            writer.add_image(images[0], picture(COLORS[color], KINDS.index(kind)))
            writer.add_image(images[1], picture((250, 250, 250), KINDS.index(kind)))
            products.append({
                "product_id": key, "title": f"{color.title()} {kind} <No. {number}>", "brand": "Ebb & Flow",
                "category": ["Home", kind], "price_cents": 1999 + 100 * number, "image_ids": images[:1],
            })  # fmt: skip
            status = "paused" if number % 8 == 0 else "active"
            if number % 2 == 0:
                campaigns.append({
                    "campaign_id": f"a-{key}", "merchant_id": "m", "product_id": key,
                    "bid_cents": 20 + number, "daily_budget_cents": 5000, "status": status,
                })  # fmt: skip
            for part, template in ((0, "plain"), (1, "banner")):
                creatives.append({
                    "creative_id": f"k-{key}-{part}", "product_id": key, "image_id": images[part],
                    "template": template,
                })  # fmt: skip
        writer.put("products", products)
        writer.put("campaigns", campaigns)
        writer.put("creatives", creatives)
        writer.put("queries", [{"query_id": "q1", "text": "red mug"}, {"query_id": "q2", "image_id": "i05"}])
        writer.put("shoppers", [{"shopper_id": shopper} for shopper in ("ann", "bob", "cy")])
        writer.append("events", [*_events(), *_crowd()])
    return Dataset.open(path)


def _events():
    liked = {"ann": [0, 4, 8, 12, 16, 20], "bob": [2, 6, 10, 2], "cy": []}
    rows = []
    for shopper, numbers in liked.items():
        for step, number in enumerate([*numbers, 23]):
            kind = "impression" if number == 23 else "click"
            rows.append({
                "event_id": f"{shopper}{step}", "at": START + timedelta(minutes=step), "shopper_id": shopper,
                "kind": kind, "product_id": f"p{number:02d}",
            })  # fmt: skip
    return rows


def _crowd():
    """Six more shoppers who see 600 products between them and click on blue ones, mostly."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(600):
        product, shopper = int(rng.integers(24)), f"d{rng.integers(6)}"
        fact = {"shopper_id": shopper, "product_id": f"p{product:02d}", "query_id": "q1"}
        fact["request_id"] = f"r{number}"
        at = START + timedelta(hours=1, minutes=number)
        rows.append(
            {**fact, "event_id": f"x{number}", "at": at, "kind": "impression", "position": number % 4}
        )
        if rng.random() < (0.5 if product % 4 == 2 else 0.1):
            rows.append({**fact, "event_id": f"y{number}", "at": at + timedelta(seconds=9), "kind": "click"})
    return rows


def write_run(path, dataset):
    """A run folder as the chain leaves it: a small encoder with random weights, vectors, a click model."""
    from moontide.center.embed import embed_catalog
    from moontide.center.store import VectorStore
    from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder
    from moontide.ranking.content import ContentTable
    from moontide.ranking.samples import build_samples
    from moontide.ranking.train import TrainSettings, train_click_model

    Run.start(path, "small", {"dataset": str(dataset.path)}, seed=0)
    settings = EncoderSettings(depth=1, dim=16, widths=(8, 16), image_side=28, vocab_size=300)
    encoder = MoonEncoder.tiny([product.title for product in dataset.products()], settings, device="cpu")
    encoder.save(path / "encoder")
    store = VectorStore.open(path / "center")
    embed_catalog(dataset, encoder, store, "v1")
    store.activate("v1")
    samples = build_samples(dataset)
    vectors = ContentTable.read(store, samples.entities, "v1")
    training = TrainSettings(batch_size=64)
    train_click_model(samples, vectors, training=training).save(path / "ranking" / "content")
    return path


class ColorAndWords:
    """Words hashed into 24 numbers, the mean color in 3 more: a small encoder that really looks and reads."""

    def encode_query(self, text, image):
        vector = np.zeros(64, np.float32)
        for word in (text or "").lower().split():
            seed = int.from_bytes(word.encode()[:8].ljust(8), "big")
            vector[:56] += np.random.default_rng(seed).normal(size=56) / 7
        if image:
            mean = np.asarray(decode(image, 8), dtype=np.float32).mean(axis=(0, 1)) / 255
            vector[56:59] = 3 * (mean - mean.mean())
            vector[59] = 0.02
        return vector / np.linalg.norm(vector)


class LikesBlue:
    """A click model of one rule: blue things are clicked, and what the shopper liked before a little more."""

    version = "blue-1"

    def __init__(self, stock):
        self.stock = stock

    def p_click(self, request, past, query, rows):
        is_blue = np.array(["blue" in self.stock.products[row].title.lower() for row in rows])
        return 0.01 + 0.1 * is_blue + 0.02 * np.isin(rows, past.rows)


def full_parts(dataset, stock, clicks=True):
    """Encoder, vectors of all products and creatives, and the click model."""
    encoder = ColorAndWords()
    vectors = [
        encoder.encode_query(product.title, dataset.images[product.image_ids[0]])
        for product in stock.products
    ]
    creatives = [creative for found in stock.creatives.values() for creative in found]
    looks = [encoder.encode_query(None, dataset.images[creative.image_id]) for creative in creatives]
    return Parts(
        encoder=encoder,
        shard=HotShard([product.product_id for product in stock.products], np.stack(vectors)),
        creatives=HotShard([creative.creative_id for creative in creatives], np.stack(looks)),
        clicks=LikesBlue(stock) if clicks else None,
        versions={"encoder": "color-1", "vectors": "color-1", "click model": "blue-1" if clicks else None},
        missing={} if clicks else {"rank": "no click model in this run"},
    )


def open_pipeline(dataset, clicks=True, parts=None):
    stock = Stock.load(dataset)
    return Pipeline(dataset, stock, parts or full_parts(dataset, stock, clicks))
