"""Questions about the catalog whose answers teach a backbone what products look like and are called.

Four kinds: the title of a picture, one attribute, the category path, and the box of what is sold. Only
products of the train split are asked about; boxes come from annotated pictures alone.

Paper: MOON Embedding 3.2 (kinds paper reported; wording and mixture ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.encoder.model.backbone import Backbone
from moontide.encoder.model.inputs import Picture, PictureSource
from moontide.encoder.model.prepared import Prepared
from moontide.encoder.stages.pictures import vary
from moontide.encoder.stages.rows import groups_and_split, is_known
from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream

KINDS = ("title", "attribute", "category", "box")
SHARES = {"title": 0.5, "attribute": 0.25, "category": 0.15, "box": 0.1}  # guess
GRID = 100  # boxes are told in hundredths of the picture's sides


@dataclass(frozen=True)
class Question:
    """A picture, a text that may be empty, what is asked, and the right answer."""

    kind: str
    image: Picture
    text: str
    asked: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """A question as numbers; `is_answer` marks the tokens to predict."""

    prepared: Prepared
    is_answer: np.ndarray

    def __len__(self) -> int:
        return len(self.prepared)


class Catalog:
    """The questions a dataset can answer.

    Args:
        dataset: products and images; splits and regions where it has them.
        pictures: pixels by image id.
        augment: strength of random picture variation; pictures with a box to tell stay as they are.
        before: products from this moment on are not asked about.

    Raises:
        DataError: no train product has a picture.
    """

    def __init__(
        self,
        dataset: Dataset,
        pictures: PictureSource,
        augment: float = 0.0,
        seed: int = 0,
        before: datetime | None = None,
    ):
        self.pictures, self.augment, self.seed = pictures, augment, seed
        everything = dataset.products()
        _, is_train = groups_and_split(dataset, [product.product_id for product in everything])
        is_train &= is_known(everything, before)
        self.products = [
            product
            for product, wanted in zip(everything, is_train, strict=True)
            if wanted and any(image_id in pictures for image_id in product.image_ids)
        ]
        if not self.products:
            raise DataError(f"{dataset.path} has no train product with a picture: nothing to ask about")
        self.boxes = annotated_boxes(dataset)

    def questions(self, step: int, size: int) -> list[Question]:
        """The questions of one step, a function of seed and step alone."""
        size = min(size, len(self.products))
        per_epoch = len(self.products) // size
        order = stream(self.seed, "questions", step // per_epoch).permutation(len(self.products))
        at = (step % per_epoch) * size
        rng = stream(self.seed, "asked", step)
        return [self._ask(self.products[code], rng) for code in order[at : at + size]]

    def _ask(self, product: Product, rng: np.random.Generator) -> Question:
        ids = [image_id for image_id in product.image_ids if image_id in self.pictures]
        boxed = [image_id for image_id in ids if image_id in self.boxes]
        values = [(key, one) for key in sorted(product.attributes) for one in product.attributes[key] if one]
        shares = {
            "title": bool(product.title),
            "attribute": bool(values),
            "category": bool(product.category),
            "box": bool(boxed),
        }
        weights = np.array([SHARES[kind] * shares[kind] for kind in KINDS])
        if not weights.any():
            weights[0] = 1.0
        kind = KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]
        if kind == "box":
            image_id = boxed[rng.integers(len(boxed))]
            answer = " ".join(str(round(edge * GRID)) for edge in self.boxes[image_id])
            return Question("box", self.pictures[image_id], product.title, "box", answer)
        pixels = self.pictures[ids[rng.integers(len(ids))]]
        if isinstance(pixels, np.ndarray):
            pixels = vary(pixels, rng, self.augment)
        if kind == "title":
            return Question(kind, pixels, "", "title", product.title)
        if kind == "category":
            return Question(kind, pixels, "", "category", " > ".join(product.category))
        key, value = values[rng.integers(len(values))]
        return Question(kind, pixels, "", key, value)


def annotated_boxes(dataset: Dataset) -> dict[str, tuple[float, float, float, float]]:
    """x0, y0, x1, y1 of annotated pictures, as shares of their sides."""
    regions = dataset.table("regions", ["image_id", "x0", "y0", "x1", "y1", "source"])
    if not len(regions):
        return {}
    sizes = {row["image_id"]: row for row in dataset.images.facts(("width", "height")).to_pylist()}
    boxes: dict[str, tuple[float, float, float, float]] = {}
    for row in regions.to_pylist():
        size = sizes.get(row["image_id"])
        if row["source"] == "annotation" and size is not None and None not in row.values():
            width, height = size["width"], size["height"]
            boxes[row["image_id"]] = (
                _share(row["x0"], width),
                _share(row["y0"], height),
                _share(row["x1"], width),
                _share(row["y1"], height),
            )
    return boxes


def _share(edge: float, side: int) -> float:
    return min(max(edge / side, 0.0), 1.0)


def ask(backbone: Backbone, question: Question) -> Asked:
    """A question in the chat format of the Qwen models, its answer last.

    <|im_start|>user / picture, text, what is asked<|im_end|> / <|im_start|>assistant / answer<|im_end|>
    """
    limit = backbone.settings.max_text_tokens
    text = backbone.tokens(f"{question.text} \n " if question.text else "")[:limit]
    answer = backbone.tokens(question.answer)[:limit]
    ends = np.array([backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")])
    picture = backbone.pixels(question.image)
    pieces = [
        ("special", backbone.tokens("<|im_start|>user\n")),
        *backbone.picture_pieces([(picture.shape[0], picture.shape[1])]),
        ("title", text),
        ("query", backbone.tokens(f"{question.asked}?")),
        ("special", backbone.tokens("<|im_end|>\n<|im_start|>assistant\n")),
        ("query", answer),
        ("special", ends),
    ]
    prepared = backbone.assemble(pieces, [picture])
    is_answer = np.zeros(len(prepared), dtype=bool)
    is_answer[-(len(answer) + 1) :] = True
    return Asked(prepared, is_answer)
