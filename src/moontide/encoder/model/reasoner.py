"""A reasoner: an encoder that may write about an item before it reads its vector off `<emb>`.

    user:      <picture> title
    assistant: <think>category: ...; color: ...; material: ...</think><emb>

`make_reasoner` turns the backbone of any MoonEncoder into one. Attention is causal, since it writes; the
vector is the state at `<emb>`, fused with picture and text, projected and brought to unit norm.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import pydantic
import torch

from moontide.encoder.chain import DONE, THINK
from moontide.encoder.model.backbone import Backbone
from moontide.encoder.model.completion import EMB
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.fusion import ModalityFusion
from moontide.encoder.model.matryoshka import Matryoshka
from moontide.encoder.model.pooling import Pooling
from moontide.encoder.model.residual import FineResidual
from moontide.foundation.errors import SettingsError
from moontide.foundation.settings import Settings


class ReasoningSettings(Settings):
    """What a reasoner adds to a backbone."""

    budget: int = pydantic.Field(64, ge=1, description="tokens written about an item at most")
    reasons: Literal["none", "query", "item", "both"] = pydantic.Field(
        "query", description="the side that is reasoned about when vectors are served"
    )
    dim: int = pydantic.Field(256, ge=1, description="width of the vectors")
    widths: tuple[int, ...] = pydantic.Field((64, 128, 256), description="prefixes that are vectors, too")
    has_fusion: bool = pydantic.Field(
        True, description="the state at `<emb>` with picture and text, or alone"
    )
    heads: int = pydantic.Field(8, ge=1, description="of the fusion")
    head_width: int = pydantic.Field(64, ge=1, description="of a head of the fusion")
    visual: Literal["projector", "states"] = pydantic.Field(
        "projector", description="pictures as the tower gave them, or as the last layer has them"
    )
    text: Literal["states", "embeddings"] = pydantic.Field(
        "states", description="texts as the last layer has them, or as the first is given them"
    )
    has_residual: bool = pydantic.Field(True, description="FIRE, or not")
    residual_every: int = pydantic.Field(4, ge=1, description="layers from one enhancement to the next")
    residual_source: Literal["projector", "middle"] = pydantic.Field(
        "projector", description="what is brought back: the tower's output, or a middle layer's"
    )

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ReasoningSettings:
        if any(not 0 < width <= self.dim for width in self.widths):
            raise ValueError(f"widths must lie in 1..{self.dim}, the width of the vectors, got {self.widths}")
        return self


def make_reasoner(encoder: MoonEncoder, settings: ReasoningSettings, seed: int = 0) -> MoonEncoder:
    """A new encoder on a copy of the backbone of `encoder`; its pooling and projection start anew.

    Raises:
        SettingsError: a middle layer is asked for and the model gives none; adapters are still apart.

    Paper: MOON3.0 3.1 to 3.3 (256 wide, fusion and FIRE paper reported; format analog LREM; the rest ours).
    """
    if encoder.backbone.settings.lora_rank:
        raise SettingsError(
            "adapters are in the way of new tokens: save the encoder and load it, then reason"
        )
    old = encoder.backbone
    backbone = Backbone(copy.deepcopy(old.model), copy.deepcopy(old.processor), _framed(old, settings))
    backbone.experts = copy.deepcopy(old.experts)
    _add_tokens(backbone)
    width = backbone.get_embedding_dimension()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pooling = Pooling(width, "last")
        if settings.has_fusion:
            pooling.fusion = ModalityFusion(
                width, settings.heads, settings.head_width, settings.visual, settings.text
            )
        last = Matryoshka(pooling.get_embedding_dimension(), settings.dim, settings.widths)
        if settings.has_residual:
            backbone.residual = _residual(backbone, settings)
    return MoonEncoder(modules=[backbone, pooling, last], device=str(encoder.device))


def _framed(old: Backbone, settings: ReasoningSettings) -> Any:
    """The backbone's settings with the frame of a chat, in which published models write."""
    return old.settings.but(
        attention="causal",
        before="<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        reasoning_tokens=settings.budget,
        reasons=settings.reasons,
    )


def _add_tokens(backbone: Backbone) -> None:
    """Give `<think>`, `</think>` and `<emb>` a row of the embeddings each: the mean of all others."""
    tokenizer, model = backbone.tokenizer, backbone.model
    before = model.get_input_embeddings().weight.detach().mean(0)
    new = [token for token in (THINK, DONE, EMB) if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for token in new:
            number = tokenizer.convert_tokens_to_ids(token)
            model.get_input_embeddings().weight[number] = before
            model.get_output_embeddings().weight[number] = before


def _residual(backbone: Backbone, settings: ReasoningSettings) -> FineResidual:
    width, num = backbone.get_embedding_dimension(), len(backbone.language.layers)
    if settings.residual_source == "middle" and not getattr(
        backbone.visual.config, "deepstack_visual_indexes", ()
    ):
        raise SettingsError(
            "residual_source 'middle' needs a vision tower that gives middle layers: choose 'projector'"
        )
    every = settings.residual_every
    layers = list(range(every - 1, num - 1, every)) or [0]  # behind the last nobody attends
    return FineResidual(layers, width, max(1, width // 4), settings.residual_source)
