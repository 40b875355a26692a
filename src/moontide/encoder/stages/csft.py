"""MIM's stage: content-interest-aware supervised fine-tuning, contrastive and driven by what was bought.

One page: the searched picture (or words) and the product finally ordered, with a product clicked in the same
result as hard negative; negatives from the batch and all ranks (space) and from a queue (time), whose keys
may come from a slowly moving copy of the encoder; InfoNCE on several levels, in one of two readings.

Paper: MIM 3.1 (2) and 3.2 to 3.4: pairs and space-time negatives paper reported, both readings of the levels
ours, momentum and triplet term analog SCL (arXiv 2407.19467).
"""

from __future__ import annotations

import copy
from datetime import datetime
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.encoder import Outputs
from moontide.encoder.objectives.infonce import Temperature, info_nce, matryoshka
from moontide.encoder.objectives.levels import Level, levels, tiers
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.objectives.queue import Queued, VectorQueue
from moontide.encoder.objectives.routing import load_balance
from moontide.encoder.objectives.triplet import triplet
from moontide.encoder.stages.exposures import Triplets
from moontide.encoder.stages.gradient import Trainable, gradients
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, LoopSettings, loop_of, train
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.triplets import BOTH, FORMS, Places, triplets_of
from moontide.foundation.runs import Run

STAGE = "csft"


class CsftSettings(LoopSettings):
    """Pairs, negatives and loss of the stage; the rest is the loop's."""

    batch_size: int = pydantic.Field(64, ge=1, description="pairs of a step")
    mini_batch_tokens: int | None = pydantic.Field(
        None, ge=1, description="tokens with a graph at a time; None: all. The gradient is the same"
    )
    before: datetime | None = pydantic.Field(None, description="events from this moment on are not seen")
    kinds: tuple[str, ...] = pydantic.Field(("order",), description="what of the log is a pair")
    augment: float = pydantic.Field(0.3, ge=0, le=1, description="strength of random picture variation")
    reading: Literal["levels", "tiers", "pooled"] = pydantic.Field(
        "levels", description="a loss for each of picture, words, both; for each source; or one"
    )
    temperature: float = pydantic.Field(0.05, ge=0.01, le=0.2, description="where the learned one starts")
    queue: int = pydantic.Field(0, ge=0, description="keys kept of each level (time); 0: none")
    queue_from: float = pydantic.Field(0.05, ge=0, le=1, description="share of the steps before it is used")
    momentum: float | None = pydantic.Field(
        None, ge=0, le=1, description="queued keys come from a copy that keeps this share a step; None: none"
    )
    hard: float = pydantic.Field(1.0, ge=0, description="weight of the triplet term on clicked products")
    margin: float = pydantic.Field(0.1, gt=0, description="of the triplet term")
    balance: float = pydantic.Field(1e-2, ge=0, description="weight of the experts' load balance")
    seed: int = pydantic.Field(0, description="of batches and variations")


def train_csft(
    encoder: Trainable, dataset: Dataset, settings: CsftSettings, run: Run | None = None
) -> dict[str, Any]:
    """Train `encoder` in place; started again on the same run, it goes on where it was cut off.

    Returns:
        figures of `loop.train`, and pairs seen.

    Raises:
        DataError: the dataset has no pairs. CheckpointError: the run was made with other settings.
    """
    pictures = Pictures(dataset.images, encoder.pixels)
    pairs = triplets_of(encoder, dataset, pictures, settings, negatives="clicked")
    encoder.center(encoder.prepare_all(Places(pairs.batch(0, settings.batch_size)).items))
    step = Csft(encoder, pairs, settings)  # its slow copy begins centered, too
    asked = [settings.model_dump(mode="json"), dataset.fingerprint()]
    with encoder.remembering(TRAINING_LAYOUTS):
        results = train(
            STAGE, step.modules, step, loop_of(settings), run, asked, step.after, step.state, step.ids
        )
    return results | {"pairs": settings.num_steps * settings.batch_size, "refused": len(pictures.refused)}


class Csft:
    """The gradients of one step, as `loop.train` calls it.

    B pairs, N items: the positives, the clicked products, the queue.
    """

    def __init__(self, encoder: Trainable, pairs: Triplets, settings: CsftSettings):
        self.encoder, self.pairs, self.settings = encoder, pairs, settings
        self.temperature = Temperature(settings.temperature).to(encoder.device)
        model = cast(nn.Module, encoder)
        self.modules = nn.ModuleDict({"encoder": model, "temperature": self.temperature})
        self.state = nn.ModuleDict()
        width = encoder.widths[-1]
        for form in FORMS if settings.queue else ():
            self.state[form] = VectorQueue(settings.queue, width).to(encoder.device)
        if settings.momentum is not None:
            self.state["slow"] = copy.deepcopy(model).requires_grad_(False).eval()

    def ids(self, step: int) -> list[str]:
        """The ordered products of a step."""
        batch = self.pairs.batch(step, self.settings.batch_size)
        return [self.pairs.products[code].product_id for code in batch.positive.product]

    def __call__(self, step: int) -> dict[str, float]:
        batch = self.pairs.batch(step, self.settings.batch_size)
        places, size = Places(batch), len(batch.query_code)
        product = np.concatenate([batch.positive.product, batch.negative.product])
        clicked = torch.tensor([source == "clicked" for source in batch.sources], device=self.encoder.device)
        queued = {form: self._queued(form, step) for form in FORMS}
        figures: dict[str, float] = {"clicked": clicked.float().mean().item()}

        def loss_of(outputs: Outputs) -> torch.Tensor:
            found = {
                form: self._level(places, outputs, form, product, batch.query_code, queued[form])
                for form in FORMS
            }
            if self.settings.reading == "levels":
                loss = levels(found, self._nested(info_nce))
            else:
                loss = self._richest(found, size)
            hardest = self._hard(found, size, clicked)
            figures["hard"] = hardest.item()
            loss = loss + self.settings.hard * hardest
            if outputs.routing is not None:
                loss = loss + self.settings.balance * load_balance(outputs.routing)
            return loss

        outputs, loss = gradients(self.encoder, places.items, loss_of, self.settings.mini_batch_tokens)
        self._push(places, outputs, product, step)
        return figures | {"loss": loss.item(), "temperature": self.temperature().item()}

    def after(self) -> None:
        """Called after every optimizer step: the slow copy follows."""
        self.temperature.clamp()
        keep = self.settings.momentum
        if keep is None:
            return
        fast = self.modules["encoder"].parameters()
        with torch.no_grad():
            for slow, now in zip(self.state["slow"].parameters(), fast, strict=True):
                slow.lerp_(now, 1 - keep)

    def _nested(self, loss: Any, **rest: Any) -> Any:
        return partial(matryoshka, loss, widths=self.encoder.widths, temperature=self.temperature(), **rest)

    def _queued(self, form: str, step: int) -> Queued | None:
        """Past keys of a level, once they are used."""
        if form not in self.state or step < self.settings.queue_from * self.settings.num_steps:
            return None
        queue = self.state[form]
        assert isinstance(queue, VectorQueue)
        return queue.sample() if len(queue) else None

    def _level(
        self,
        places: Places,
        outputs: Outputs,
        form: str,
        product: np.ndarray,
        query: np.ndarray,
        queued: Queued | None,
    ) -> Level:
        """Queries and products as they look in one form."""
        pairs, device = self.pairs, self.encoder.device
        own, items = places.of["query", form], places.sides(form)
        codes = product if queued is None else np.concatenate([product, queued.product])
        mask = not_negative(product[: len(own)], codes, pairs.group, None, query, pairs.positives)
        item_ND = outputs.vectors[items.clip(0)]
        if queued is not None:
            item_ND = torch.cat((item_ND, queued.vectors))
        has_item = np.concatenate([items >= 0, np.ones(len(codes) - len(items), bool)])
        return Level(
            outputs.vectors[own.clip(0)],
            item_ND,
            torch.from_numpy(mask).to(device),
            torch.from_numpy(own >= 0).to(device),
            torch.from_numpy(has_item).to(device),
        )

    def _richest(self, found: dict[str, Level], size: int) -> torch.Tensor:
        """One pool for every query: it in its richest form, products in both; whole, or a loss a source."""
        query_BD = _richest_of(found, [level.query for level in found.values()])
        item_ND, mask_BN = found[BOTH].item, found[BOTH].not_negative
        if self.settings.reading == "pooled":
            return self._nested(info_nce)(query_BD, item_ND, not_negative_BN=mask_BN)
        number_N = torch.arange(len(item_ND), device=item_ND.device)
        sources = [number_N < size, (number_N >= size) & (number_N < 2 * size), number_N >= 2 * size]
        there = [source for source in sources if source.any()]
        return self._nested(tiers, is_tier=there)(query_BD, item_ND, not_negative_BN=mask_BN)

    def _hard(self, found: dict[str, Level], size: int, clicked: torch.Tensor) -> torch.Tensor:
        """The triplet term, in the form that each query has."""
        query_BD = _richest_of(found, [level.query for level in found.values()])
        positive_BD = _richest_of(found, [level.item[:size] for level in found.values()])
        negative_BD = _richest_of(found, [level.item[size : 2 * size] for level in found.values()])
        return triplet(query_BD, positive_BD, negative_BD, self.settings.margin, clicked)

    @torch.no_grad()
    def _push(self, places: Places, outputs: Outputs, product: np.ndarray, step: int) -> None:
        """This step's products become keys, as the encoder or its slow copy sees them."""
        if not self.settings.queue:
            return
        vectors = outputs.vectors
        if self.settings.momentum is not None:
            slow = cast(Trainable, self.state["slow"])
            vectors = slow.encode_all(slow.prepare_all(places.items)).vectors
        group, category = self.pairs.group[product], self.pairs.category[product]
        for form in FORMS:
            rows, queue = places.sides(form), self.state[form]
            assert isinstance(queue, VectorQueue)
            is_there = rows >= 0
            codes = (product[is_there], group[is_there], category[is_there])
            queue.push(vectors[rows[is_there]], *codes, step)


def _richest_of(found: dict[str, Level], vectors: list[torch.Tensor]) -> torch.Tensor:
    """Of each row the vector of the richest form that its query has: both, then picture, then words."""
    by_form = dict(zip(found, vectors, strict=True))
    chosen = by_form["text"]
    for form in ("image", BOTH):
        chosen = torch.where(found[form].has_query[:, None], by_form[form], chosen)
    return chosen
