"""From token states to one vector: masked mean, or the last real token. B batch, L tokens, D width."""

from __future__ import annotations

import os
from typing import Any, Literal, Protocol, Self

import torch
from sentence_transformers.base.modules import Module

from moontide.encoder.model.slots import hub_arguments, load_slot, save_slot

Mode = Literal["mean", "last"]


def pool(states_BLD: torch.Tensor, is_real_BL: torch.Tensor, mode: Mode) -> torch.Tensor:
    """One vector per row from its real tokens, image and text together.

    mean: r = sum_j m_j h_j / sum_j m_j. last: the state of the last real token.

    Paper: MOON Embedding 3.3: mean of last-layer states of image and text tokens (paper), padding masked
    (ours).
    """
    if mode == "last":
        last_B = is_real_BL.long().sum(1) - 1  # padded on the right
        return states_BLD[torch.arange(len(last_B), device=last_B.device), last_B]
    weight_BL1 = is_real_BL.to(states_BLD.dtype).unsqueeze(-1)
    return (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)


class Fusion(Protocol):
    """What the `fusion` slot holds."""

    def __call__(self, pooled_BD: torch.Tensor, features: dict[str, Any], /) -> torch.Tensor: ...
    def get_embedding_dimension(self) -> int: ...


class Pooling(Module):
    """The pooling step of a MoonEncoder, with the `fusion` slot behind it.

    A fusion module takes (pooled_BD, features) and returns (batch, width'); its `get_embedding_dimension`
    says width'.
    """

    config_keys = ["dim", "mode"]

    def __init__(self, dim: int, mode: Mode = "mean"):
        super().__init__()
        self.dim, self.mode = dim, mode
        self.fusion: Fusion | None = None

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        pooled_BD = pool(features["token_embeddings"].float(), features["attention_mask"], self.mode)
        if self.fusion is not None:
            pooled_BD = self.fusion(pooled_BD, features)
        features["sentence_embedding"] = pooled_BD
        return features

    def get_embedding_dimension(self) -> int:
        return self.fusion.get_embedding_dimension() if self.fusion is not None else self.dim

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        self.save_config(output_path)
        save_slot(self.fusion, os.path.join(output_path, "fusion"))

    @classmethod
    def load(  # ty: ignore[incompatible-method-override]  upstream's other parameters are in kwargs
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> Self:
        hub = hub_arguments(kwargs)
        pooling = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        pooling.fusion = load_slot(os.path.join(model_name_or_path, subfolder, "fusion"))
        return pooling
