"""The plain baseline: a picture tower and a text tower that meet only in the loss.

A small convolutional network over pixels, a bag of token embeddings over text, InfoNCE both ways on
title-photo pairs of train products. It is about as large as the demo's encoder and is given the encoder's
training time; it has no language model, no question answering, no clicks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerBase

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.encoder import Outputs
from moontide.encoder.model.inputs import Item, Picture, ProductView, canonical, opened
from moontide.encoder.model.tiny import new_tokenizer
from moontide.encoder.stages.loop import LoopSettings, loop_of, train
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.posttrain import TITLES, Posttraining, PosttrainSettings
from moontide.encoder.stages.rows import groups_and_split
from moontide.foundation.device import threads
from moontide.foundation.runs import Run

STAGE = "twotower"


class TwoTowerSettings(LoopSettings):
    """Size and training of the baseline."""

    batch_size: int = pydantic.Field(128, ge=2, description="pairs of a step")
    width: int = pydantic.Field(32, ge=8, description="channels of the first stage; each stage doubles them")
    dim: int = pydantic.Field(128, ge=1, description="width of the vectors")
    vocab_size: int = pydantic.Field(4_096, ge=300, description="tokens of its tokenizer")
    image_side: int = pydantic.Field(112, ge=16, description="side of the pictures it sees, pixels")
    augment: float = pydantic.Field(0.5, ge=0, le=1, description="strength of random picture variation")
    seed: int = pydantic.Field(0, description="of weights, batches and variations")
    seconds: float | None = pydantic.Field(
        None,
        gt=0,
        description="instead of num_steps: as many steps as fit, measured first; not deterministic",
    )


class TwoTower(nn.Module):
    """Two towers to one space; an item with text and picture is the mean of both, back at unit norm.

    Also called: dual encoder, CLIP-like.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: TwoTowerSettings):
        super().__init__()
        self.tokenizer, self.settings = tokenizer, settings
        widths = [settings.width * 2**stage for stage in range(4)]
        stages: list[nn.Module] = []
        for before, after in zip([3, *widths[:-1]], widths, strict=True):
            stages += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.GELU()]
        self.look = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.see = nn.Linear(4 * widths[-1], settings.dim)
        self.embed = nn.EmbeddingBag(len(tokenizer), settings.dim, mode="mean")
        self.read = nn.Sequential(
            nn.Linear(settings.dim, 2 * settings.dim), nn.GELU(), nn.Linear(2 * settings.dim, settings.dim)
        )

    # --- what the stages ask of whatever they train ---

    @property
    def widths(self) -> list[int]:
        """One width: its prefixes are no vectors of their own."""
        return [self.settings.dim]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.see.weight.device

    def view(self, dataset: Dataset) -> ProductView:
        """One picture of a product."""
        return ProductView()

    def center(self, prepared: Sequence[Item]) -> None:
        """Nothing to center: its vectors do not start in one direction."""

    def remembering(self, num: int) -> nullcontext:
        """Nothing to remember."""
        return nullcontext()

    def prepare_all(self, values: Sequence[Any]) -> list[Item]:
        """Items as they are."""
        return [canonical(value) for value in values]

    def encode_all(self, prepared: Sequence[Item]) -> Outputs:
        """Vectors with gradients."""
        return Outputs(self.vectors(prepared))

    def images(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """Unit vectors of pictures."""
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        return F.normalize(self.see(self.look(batch)), dim=-1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors of texts."""
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] or [0] for text in texts]
        starts = torch.tensor(np.cumsum([0, *map(len, ids[:-1])]))
        bag = self.embed(torch.tensor([token for row in ids for token in row]), starts)
        return F.normalize(bag + self.read(bag), dim=-1)

    def vectors(self, items: Sequence[Item]) -> torch.Tensor:
        """Unit vectors of items in any form; the first picture counts."""
        total = torch.zeros(len(items), self.settings.dim)
        seen = [row for row, item in enumerate(items) if item.images]
        read = [row for row, item in enumerate(items) if item.text]
        if seen:
            pixels = [self.pixels(items[row].images[0]) for row in seen]
            total = total.index_add(0, torch.tensor(seen), self.images(pixels))
        if read:
            total = total.index_add(
                0, torch.tensor(read), self.texts([items[row].text or "" for row in read])
            )
        return F.normalize(total, dim=-1)

    def pixels(self, picture: Picture) -> np.ndarray:
        """Decode to a square of (side, side, 3) uint8."""
        side = self.settings.image_side
        if isinstance(picture, np.ndarray) and picture.shape[:2] == (side, side):
            return picture
        return np.asarray(opened(picture, side).resize((side, side)))

    @torch.inference_mode()
    def encode_items(self, items: Sequence[Any], batch_size: int = 256) -> np.ndarray:
        """Unit vectors (n, dim) float32, as `MoonEncoder.encode_items`."""
        found = [canonical(item) for item in items]
        parts = [
            self.vectors(found[start : start + batch_size]).numpy()
            for start in range(0, len(found), batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.settings.dim), np.float32)


def train_two_tower(
    dataset: Dataset, settings: TwoTowerSettings, run: Run | None = None, before: datetime | None = None
) -> tuple[TwoTower, dict[str, Any]]:
    """Train the baseline on the title-photo pairs of train products.

    Args:
        before: products from this moment on are not seen; None: all are.

    Returns:
        the model, and the figures of `loop.train` with `parameters` and `num_steps`.

    Raises:
        DataError: no train product has a title and a picture.
    """
    model = new_two_tower(dataset, settings)
    pictures = Pictures(dataset.images, model.pixels)
    pairs = TrainingPairs(dataset, pictures, before, 1.0, settings.augment, settings.seed, TITLES)
    asked = PosttrainSettings(batch_size=settings.batch_size, pairings="titles", seed=settings.seed)
    backward = Posttraining(model, pairs, asked)
    loop = loop_of(settings)
    if settings.seconds is not None:
        loop = loop.but(num_steps=max(1, int(settings.seconds / _seconds_a_step(backward))))
    identity = [settings.model_dump(mode="json"), dataset.fingerprint()]
    results = train(STAGE, backward.modules, backward, loop, run, identity, backward.after)
    return model, results | {"parameters": sum(p.numel() for p in model.parameters())}


def new_two_tower(dataset: Dataset, settings: TwoTowerSettings) -> TwoTower:
    """Random weights, and a tokenizer trained on the titles of the train split.

    Raises:
        DataError: no train product has a title.
    """
    products = dataset.products()
    _, is_train = groups_and_split(dataset, [product.product_id for product in products])
    titles = [product.title for product, wanted in zip(products, is_train, strict=True) if wanted]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return TwoTower(new_tokenizer(titles, settings.vocab_size), settings)


def _seconds_a_step(backward: Posttraining, num: int = 5) -> float:
    with threads():
        backward(0)  # the first step decodes and warms up
        began = time.perf_counter()
        for step in range(1, num + 1):
            backward(step)
    backward.modules.zero_grad(set_to_none=True)
    return (time.perf_counter() - began) / num
