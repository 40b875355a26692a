"""Pretraining: the backbone answers questions about the catalog, token by token.

One page: questions from `questions.py`, causal attention whatever the encoder's own switch says,
cross-entropy on the answer tokens. Pooling and projection take no part.

Paper: MOON Embedding 3.2, L_ntp = -(1/|A|) sum_{j in A} log P(y_j | y_<j, image, prompt), A the answer
tokens (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.backbone import Backbone
from moontide.encoder.model.encoder import TRAINING_TOKENS, MoonEncoder, token_batches
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, LoopSettings, loop_of, train
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.questions import Asked, Catalog, ask
from moontide.foundation.runs import Run

STAGE = "pretrain"


class PretrainSettings(LoopSettings):
    """Questions and batches of pretraining; the rest is the loop's."""

    batch_size: int = pydantic.Field(64, ge=1, description="questions of a step")
    mini_batch_tokens: int = pydantic.Field(
        TRAINING_TOKENS, ge=1, description="tokens of one pass, padding included. The gradient is the same"
    )
    augment: float = pydantic.Field(0.5, ge=0, le=1, description="strength of random picture variation")
    before: datetime | None = pydantic.Field(None, description="products from this moment on are not seen")
    seed: int = pydantic.Field(0, description="of questions and variations")


def pretrain(
    encoder: MoonEncoder, dataset: Dataset, settings: PretrainSettings, run: Run | None = None
) -> dict[str, Any]:
    """Train the backbone of `encoder` in place; on the same run again, it goes on where it was cut off.

    Returns:
        figures of `loop.train`.

    Raises:
        DataError: nothing to ask about. CheckpointError: the run was made with other settings.
    """
    backbone = encoder.backbone
    pictures = Pictures(dataset.images, backbone.pixels)
    catalog = Catalog(dataset, pictures, settings.augment, settings.seed, settings.before)

    def backward(step: int) -> dict[str, float]:
        asked = [ask(backbone, question) for question in catalog.questions(step, settings.batch_size)]
        return answer_gradients(backbone, asked, settings.mini_batch_tokens)

    asked = [settings.model_dump(mode="json"), dataset.fingerprint()]
    loop = loop_of(settings)
    modules = nn.ModuleDict({"backbone": backbone})
    with backbone.remembering(TRAINING_LAYOUTS):
        results = train(STAGE, modules, backward, loop, run, asked)
    return results | {"refused": len(pictures.refused)}


def answer_gradients(
    backbone: Backbone, asked: Sequence[Asked], mini_batch_tokens: int = TRAINING_TOKENS
) -> dict[str, float]:
    """Add the gradients of the mean loss over all answer tokens, in passes of questions of like length.

    Returns:
        loss, and the share of answer tokens that were the likeliest.
    """
    total = sum(int(one.is_answer.sum()) for one in asked)
    loss, right = 0.0, 0
    for rows in token_batches([len(one) for one in asked], mini_batch_tokens):
        logits_NV, target_N = answer_logits(backbone, [asked[row] for row in rows])
        part = F.cross_entropy(logits_NV.float(), target_N, reduction="sum") / total
        part.backward()
        loss += part.item()
        right += int((logits_NV.argmax(1) == target_N).sum())
    return {"loss": loss, "token_accuracy": right / total}


def answer_logits(backbone: Backbone, asked: Sequence[Asked]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions (tokens, vocabulary) for every answer token, and those tokens."""
    device = next(backbone.parameters()).device
    features = backbone.collate([one.prepared for one in asked])
    features = {name: x.to(device) for name, x in features.items()}
    states_BLD = backbone.states(features, "causal")
    rows = np.concatenate([np.full(int(one.is_answer.sum()), row) for row, one in enumerate(asked)])
    places = np.concatenate([np.flatnonzero(one.is_answer) for one in asked])
    target_N = features["input_ids"][rows, places]
    return backbone.model.lm_head(states_BLD[rows, places - 1]), target_N
