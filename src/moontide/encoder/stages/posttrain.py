"""Post-training: vectors of a query and of what was chosen for it move together.

One page: batches from `pairs.py`, vectors from the encoder, a loss over every Matryoshka width with false
negatives masked, one learned temperature. The first stage has the batch for negatives; the second, and MOON,
add products of the positive's own category, which are embedded with gradient, and a queue of past vectors.

Paper: MOON Embedding 3.4 (first stage) and 3.5 (second stage), MOON 3.4; paper unless tagged ours in the
parts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, cast

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.encoder import Outputs
from moontide.encoder.model.inputs import Item
from moontide.encoder.objectives.circle import circle
from moontide.encoder.objectives.infonce import Temperature, info_nce, matryoshka
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.objectives.queue import Queued, VectorQueue
from moontide.encoder.objectives.routing import load_balance
from moontide.encoder.stages.gradient import Trainable, gradients
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, LoopSettings, loop_of, train
from moontide.encoder.stages.pairings import BEHAVIOR, CATALOG, MOON, NINE, Pairing
from moontide.encoder.stages.pairs import Batch, TrainingPairs, turns_of
from moontide.encoder.stages.pictures import Pictures
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings

log = logging.getLogger(__name__)
STAGE = "posttrain"
TITLES = (Pairing("title", "image", 1.0, "catalog"),)
PHOTOS = (Pairing("image", "image", 1.0, "log"),)
TABLES = {"spine": (*BEHAVIOR, *CATALOG), "nine": NINE, "moon": MOON, "titles": TITLES, "photos": PHOTOS}
FRESH = 0.9  # of the cosine between fresh vectors: below it the queue is shortened


class NegativeSettings(Settings):
    """Negatives beyond the batch.

    Paper: MOON Embedding 3.5, MOON 3.4 (kinds paper, sizes ours).
    """

    num_hard: int = pydantic.Field(0, ge=0, description="products of the positive's category, a pair")
    hard_kind: Literal["category", "clicked"] = pydantic.Field(
        "category", description="where they come from; clicked: the same request, not ordered"
    )
    queue: int = pydantic.Field(0, ge=0, description="past vectors kept (temporal negatives)")
    queue_from: float = pydantic.Field(0.05, ge=0, le=1, description="share of the steps before it is used")
    blocks: int = pydantic.Field(
        1, ge=1, description="parts of a batch that do not see each other; 1: all do (spatial negatives)"
    )
    masks_category: bool = pydantic.Field(False, description="no queued negative of the positive's category")
    check_every: int = pydantic.Field(500, ge=1, description="steps between looks at how stale the queue is")


class PosttrainSettings(LoopSettings):
    """Pairs and loss of post-training; the rest is the loop's."""

    batch_size: int = pydantic.Field(128, ge=1, description="pairs of a step; all are each other's negatives")
    mini_batch_tokens: int | None = pydantic.Field(
        None, ge=1, description="tokens with a graph at a time; None: all. The gradient is the same"
    )
    before: datetime | None = pydantic.Field(None, description="events from this moment on are not seen")
    pairings: Literal["spine", "nine", "moon", "titles", "photos"] = pydantic.Field(
        "spine",
        description="which forms are paired, see `pairings.py`; titles: with pictures, no log; photos: "
        "picture queries with pictures",
    )
    is_mixed: bool = pydantic.Field(
        False, description="every pair its own pairing, not every step (ablation)"
    )
    kinds: tuple[str, ...] = pydantic.Field(
        ("click", "cart", "order"), description="what of the log is a pair"
    )
    catalog_share: float = pydantic.Field(0.4, ge=0, le=1, description="steps that pair views of one product")
    augment: float = pydantic.Field(0.5, ge=0, le=1, description="strength of random picture variation")
    loss: Literal["infonce", "circle"] = pydantic.Field("infonce", description="what is optimized")
    margin: float = pydantic.Field(0.25, gt=0, lt=1, description="of the circle loss")
    scale: float = pydantic.Field(64.0, gt=0, description="of the circle loss")
    temperature: float = pydantic.Field(0.05, ge=0.01, le=0.2, description="where the learned one starts")
    is_symmetric: bool = pydantic.Field(True, description="items find their queries, too; InfoNCE")
    negatives: NegativeSettings = pydantic.Field(NegativeSettings(), description="beyond the batch")
    balance: float = pydantic.Field(1e-2, ge=0, description="weight of the experts' load balance")
    seed: int = pydantic.Field(0, description="of batches and variations")


def posttrain(
    encoder: Trainable,
    dataset: Dataset,
    settings: PosttrainSettings,
    run: Run | None = None,
    rows: np.ndarray | None = None,
    stage: str = STAGE,
) -> dict[str, Any]:
    """Train `encoder` in place; started again on the same run, it goes on where it was cut off.

    Args:
        rows: of the log's rows those to train on, see `cleaning.clean`; None: all.
        stage: names the log lines and checkpoints of a second call on one run.

    Returns:
        figures of `loop.train`, and pairs seen.

    Raises:
        DataError: the dataset has nothing to pair. CheckpointError: the run was made with other settings.
    """
    pictures = Pictures(dataset.images, encoder.pixels)
    pairs = pairs_of(encoder, dataset, pictures, settings, rows)
    step = Posttraining(encoder, pairs, settings)
    asked = [settings.model_dump(mode="json"), dataset.fingerprint(), pairs.group.tolist()]
    asked += [rows.tolist()] if rows is not None else []
    encoder.center(encoder.prepare_all(_some_items(pairs)))
    with encoder.remembering(TRAINING_LAYOUTS):
        results = train(
            stage, step.modules, step, loop_of(settings), run, asked, step.after, step.queues, step.ids
        )
    return results | {"pairs": settings.num_steps * settings.batch_size, "refused": len(pictures.refused)}


def pairs_of(
    encoder: Trainable,
    dataset: Dataset,
    pictures: Pictures,
    settings: PosttrainSettings,
    rows: np.ndarray | None = None,
) -> TrainingPairs:
    """The pairs that the settings ask for."""
    return TrainingPairs(
        dataset,
        pictures,
        settings.before,
        1.0 if settings.pairings == "titles" else settings.catalog_share,
        settings.augment,
        settings.seed,
        TABLES[settings.pairings],
        encoder.view(dataset),
        settings.kinds,
        rows,
        settings.negatives.num_hard,
        settings.negatives.hard_kind,
        settings.is_mixed,
    )


class Posttraining:
    """The gradients of one step, as `loop.train` calls it."""

    def __init__(self, encoder: Trainable, pairs: TrainingPairs, settings: PosttrainSettings):
        self.encoder, self.pairs, self.settings = encoder, pairs, settings
        self.temperature = Temperature(settings.temperature).to(encoder.device)
        self.modules = nn.ModuleDict({"encoder": cast(nn.Module, encoder), "temperature": self.temperature})
        forms = {pairing.item_form for pairing in pairs.pairings} if settings.negatives.queue else set()
        new = {form: VectorQueue(settings.negatives.queue, encoder.widths[-1]) for form in sorted(forms)}
        self.queues = nn.ModuleDict(new).to(encoder.device)
        self.plan = pairs.plan(settings.num_steps)
        self.turns = turns_of(self.plan)

    def batch(self, step: int) -> Batch:
        """The pairs of a step."""
        return self.pairs.batch(self.plan[step], self.turns[step], step, self.settings.batch_size)

    def ids(self, step: int) -> list[str]:
        """The products of a step."""
        return [self.pairs.products[code].product_id for code in self.batch(step).product]

    def __call__(self, step: int) -> dict[str, float]:
        batch = self.batch(step)
        size, device = len(batch.queries), self.encoder.device
        queue = self._queue(batch)
        starts = self.settings.negatives.queue_from * self.settings.num_steps
        queued = queue.sample() if queue is not None and len(queue) and step >= starts else None
        excluded_BN = torch.from_numpy(self._excluded(batch, queued)).to(device)
        figures: dict[str, float] = {}

        def loss_of(outputs: Outputs) -> torch.Tensor:
            query_BD, item_ND = outputs.vectors[:size], outputs.vectors[size:]
            pool_ND = item_ND if queued is None else torch.cat((item_ND, queued.vectors))
            loss = self._loss(query_BD, pool_ND, excluded_BN)
            if outputs.routing is None:
                return loss
            balance = load_balance(outputs.routing)
            figures["balance"] = balance.item()
            return loss + self.settings.balance * balance

        items = [*batch.queries, *batch.items, *batch.hard]
        outputs, loss = gradients(self.encoder, items, loss_of, self.settings.mini_batch_tokens)
        query_BD, item_ND = outputs.vectors[:size], outputs.vectors[size:]
        if queue is not None:
            product = np.concatenate([batch.product, batch.hard_product])
            queue.push(item_ND, product, self.pairs.group[product], self.pairs.category[product], step)
            figures |= self._staleness(queue, batch, step)
        hit = (query_BD @ item_ND[:size].T).argmax(1) == torch.arange(size, device=device)
        figures |= {"loss": loss.item(), "accuracy": hit.float().mean().item()}
        return figures | {"temperature": self.temperature().item()}

    def after(self) -> None:
        """Called after every optimizer step."""
        self.temperature.clamp()

    def _loss(self, query_BD: torch.Tensor, item_ND: torch.Tensor, excluded_BN: torch.Tensor) -> torch.Tensor:
        """The loss, summed over the widths."""
        settings = self.settings
        both = (query_BD, item_ND)
        rest = {"widths": self.encoder.widths, "not_negative_BN": excluded_BN}
        if settings.loss == "circle":
            return matryoshka(circle, *both, margin=settings.margin, scale=settings.scale, **rest)
        tau, is_symmetric = self.temperature(), settings.is_symmetric
        return matryoshka(info_nce, *both, temperature=tau, is_symmetric=is_symmetric, **rest)

    def _queue(self, batch: Batch) -> VectorQueue | None:
        """The queue of the batch's item form: a vector of another form would be told apart by its form."""
        if batch.pairing is None or batch.pairing.item_form not in self.queues:
            return None
        queue = self.queues[batch.pairing.item_form]
        assert isinstance(queue, VectorQueue)
        return queue

    def _excluded(self, batch: Batch, queued: Queued | None) -> np.ndarray:
        """(B, N) what must not count as a negative: equal products, and what the settings leave out."""
        negatives, size, pairs = self.settings.negatives, len(batch.queries), self.pairs
        product = np.concatenate([batch.product, batch.hard_product])
        num = len(product)
        if queued is not None:
            product = np.concatenate([product, queued.product])
        content = np.concatenate([batch.content, batch.hard_content])
        mask = not_negative(batch.product, product, pairs.group, content, batch.query, pairs.positives)
        if negatives.blocks > 1:
            block = np.arange(size) * negatives.blocks // size
            own = np.concatenate([block, np.repeat(block, negatives.num_hard)])
            mask[:, :num] |= block[:, None] != own[None]
        if queued is not None and negatives.masks_category:
            category_B1 = pairs.category[batch.product][:, None]
            mask[:, num:] |= (category_B1 == queued.category[None]) & (category_B1 >= 0)
        return mask

    def _staleness(self, queue: VectorQueue, batch: Batch, step: int) -> dict[str, float]:
        """Every so often: how near queued vectors are to those of today's weights; a stale queue shrinks.

        Two views of one product differ however fresh they are, so that age is measured against that.
        """
        if step == 0 or step % self.settings.negatives.check_every:
            return {}
        assert batch.pairing is not None
        form, stock = batch.pairing.item_form, self.pairs.stock
        rng = stream(self.settings.seed, "stale", step)
        alike: list[float] = []

        def view(code: int) -> Item:
            return stock.item(code, form, stock.choose(code, rng) if form.endswith("image") else (), rng)

        def encode(codes: np.ndarray) -> torch.Tensor:
            items = [view(code) for code in (*codes.tolist(), *codes.tolist())]
            vectors, others = self.encoder.encode_all(self.encoder.prepare_all(items)).vectors.chunk(2)
            alike.append((vectors * others).sum(1).mean().item())
            return vectors

        cosine = queue.staleness(encode)
        if cosine < FRESH * alike[0]:
            queue.shorten(max(1, len(queue) // 2))
            log.warning(
                "the queue is stale (mean cosine %.2f, of fresh vectors %.2f): shortened to %d",
                cosine, alike[0], len(queue),
            )  # fmt: skip
        return {"queue_cosine": cosine, "fresh_cosine": alike[0], "queue": float(len(queue))}


def _some_items(pairs: TrainingPairs, num: int = 32) -> Sequence[Item]:
    """Queries and items of every pairing, as the first steps see them."""
    batches = [pairs.batch(number, 0, 0, num) for number in range(len(pairs.pairings))]
    return [item for batch in batches for item in (*batch.queries, *batch.items)]
