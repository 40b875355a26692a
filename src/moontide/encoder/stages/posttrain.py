"""Post-training, first stage: vectors of a query and of what was chosen for it move together.

One page: batches from `pairs.py`, vectors from the encoder, InfoNCE with false negatives masked, over every
Matryoshka width, one learned temperature. With `mini_batch_tokens` the gradient of the whole batch takes the
memory of a piece: vectors first without a graph, then the loss, then each piece again with the gradient of
its vectors.

Paper: MOON Embedding 3.4 (first post-training stage; paper unless tagged ours in the parts).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.backbone import Prepared
from moontide.encoder.model.encoder import MoonEncoder, token_batches
from moontide.encoder.model.inputs import Item
from moontide.encoder.objectives.infonce import Temperature, matryoshka_info_nce
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, LoopSettings, loop_of, train
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.pictures import Pictures
from moontide.foundation.runs import Run

STAGE = "posttrain"
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PosttrainSettings(LoopSettings):
    """Pairs and loss of post-training; the rest is the loop's."""

    batch_size: int = pydantic.Field(128, ge=2, description="pairs of a step; all are each other's negatives")
    mini_batch_tokens: int | None = pydantic.Field(
        None, ge=1, description="tokens with a graph at a time; None: all. The gradient is the same"
    )
    before: datetime | None = pydantic.Field(None, description="events from this moment on are not seen")
    catalog_share: float = pydantic.Field(0.4, ge=0, le=1, description="steps that pair views of one product")
    augment: float = pydantic.Field(0.5, ge=0, le=1, description="strength of random picture variation")
    temperature: float = pydantic.Field(0.05, ge=0.01, le=0.2, description="where the learned one starts")
    is_symmetric: bool = pydantic.Field(True, description="items find their queries, too")
    seed: int = pydantic.Field(0, description="of batches and variations")


def posttrain(
    encoder: MoonEncoder, dataset: Dataset, settings: PosttrainSettings, run: Run | None = None
) -> dict[str, Any]:
    """Train `encoder` in place; started again on the same run, it goes on where it was cut off.

    Returns:
        figures of `loop.train`, and pairs seen.

    Raises:
        DataError: the dataset has nothing to pair. CheckpointError: the run was made with other settings.
    """
    pictures = Pictures(dataset.images, encoder.backbone.pixels)
    pairs = TrainingPairs(
        dataset, pictures, settings.before, settings.catalog_share, settings.augment, settings.seed
    )
    temperature = Temperature(settings.temperature).to(encoder.device)
    modules = nn.ModuleDict({"encoder": encoder, "temperature": temperature})
    backward = step_of(encoder, temperature, pairs, settings)
    asked = [settings.model_dump(mode="json"), dataset.fingerprint(), pairs.group.tolist()]
    encoder.center([encoder.prepare(item) for item in _some_items(pairs)])
    with encoder.backbone.remembering(TRAINING_LAYOUTS):
        results = train(STAGE, modules, backward, loop_of(settings), run, asked, temperature.clamp)
    return results | {"pairs": settings.num_steps * settings.batch_size, "refused": len(pictures.refused)}


def step_of(
    encoder: MoonEncoder, temperature: Temperature, pairs: TrainingPairs, settings: PosttrainSettings
) -> Callable[[int], dict[str, float]]:
    """The function that computes the gradients of one step."""
    plan = pairs.plan(settings.num_steps)
    turns = np.array([np.sum(plan[:step] == plan[step]) for step in range(len(plan))])
    positives = pairs.rows.keys(len(pairs.products))
    widths = encoder.widths

    def backward(step: int) -> dict[str, float]:
        batch = pairs.batch(plan[step], turns[step], step, settings.batch_size)
        queries = [encoder.prepare(item) for item in batch.queries]
        items = [encoder.prepare(item) for item in batch.items]
        mask = not_negative(batch.product, batch.product, pairs.group, batch.content, batch.query, positives)
        excluded_BN = torch.from_numpy(mask).to(encoder.device)

        def loss_of(query_BD: torch.Tensor, item_ND: torch.Tensor) -> torch.Tensor:
            return matryoshka_info_nce(
                query_BD, item_ND, temperature(), widths, excluded_BN, settings.is_symmetric
            )

        if settings.mini_batch_tokens is None:
            vectors = encoder.forward_by_length([*queries, *items])
            query_BD, item_ND = vectors.split([len(queries), len(items)])
            loss = loss_of(query_BD, item_ND)
            loss.backward()
        else:
            query_BD, item_ND, loss = in_pieces(encoder, queries, items, settings.mini_batch_tokens, loss_of)
        with torch.no_grad():
            hit = (query_BD @ item_ND.T).argmax(1) == torch.arange(len(item_ND), device=encoder.device)
        tau = temperature()
        return {"loss": loss.item(), "accuracy": hit.float().mean().item(), "temperature": tau.item()}

    return backward


def _some_items(pairs: TrainingPairs, num: int = 32) -> list[Item]:
    """Queries and items of every pairing, as the first steps see them."""
    batches = [pairs.batch(number, 0, 0, num) for number in range(len(pairs.pairings))]
    return [item for batch in batches for item in (*batch.queries, *batch.items)]


def in_pieces(
    encoder: MoonEncoder, queries: list[Prepared], items: list[Prepared], tokens: int, loss_of: Loss
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of a large batch with the memory of a small one; exact, for one more forward pass.

    Also called: GradCache.

    Returns:
        query vectors, item vectors, loss; gradients are added to the parameters.
    """
    both = [*queries, *items]
    pieces = token_batches([len(one) for one in both], tokens)
    with torch.no_grad():
        parts = [encoder.forward_prepared([both[row] for row in rows]) for rows in pieces]
    vectors = parts[0].new_zeros(len(both), parts[0].shape[1])
    for rows, part in zip(pieces, parts, strict=True):
        vectors[rows] = part
    vectors.requires_grad_()
    loss = loss_of(vectors[: len(queries)], vectors[len(queries) :])
    loss.backward()
    assert vectors.grad is not None
    for rows in pieces:
        encoder.forward_prepared([both[row] for row in rows]).backward(vectors.grad[rows])
    vectors = vectors.detach()
    return vectors[: len(queries)], vectors[len(queries) :], loss.detach()
