"""The last step: an optional projection, unit norm, and prefixes that are vectors of their own. D width."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import nn

from moontide.encoder.model.slots import hub_arguments
from moontide.foundation.errors import SettingsError


def prefix(vectors_BD: torch.Tensor, width: int) -> torch.Tensor:
    """The first `width` components, brought back to unit norm: norm(norm(r)[:d]) = norm(r[:d]).

    Paper: MOON Embedding 3.3, Matryoshka output (paper reported).
    """
    return F.normalize(vectors_BD[..., :width], dim=-1)


def prefix_of(vectors: np.ndarray, width: int) -> np.ndarray:
    """`prefix` for a numpy array (n, D); zero vectors stay zero."""
    cut = vectors[:, :width]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)


class Matryoshka(Module):
    """Projects pooled states to `dim` (None: keeps their width) and normalizes.

    Args:
        width: of the pooled states.
        dim: of the vectors.
        widths: the prefixes that training looks at; the full width is always one of them.

    Raises:
        SettingsError: a prefix wider than the vector.
    """

    config_keys = ["width", "dim", "widths"]

    def __init__(self, width: int, dim: int | None = None, widths: Sequence[int] = ()):
        super().__init__()
        self.width, self.dim = width, dim
        size = dim or width
        if any(not 0 < prefix_width <= size for prefix_width in widths):
            raise SettingsError(f"matryoshka widths must lie in 1..{size}, got {list(widths)}")
        self.widths: list[int] = sorted({*widths, size})
        self.projection = nn.Linear(width, dim) if dim else nn.Identity()
        if isinstance(self.projection, nn.Linear):
            nn.init.orthogonal_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        features["sentence_embedding"] = F.normalize(
            self.projection(features["sentence_embedding"]).float(), dim=-1
        )
        return features

    @torch.no_grad()
    def center(self, pooled_BD: torch.Tensor) -> None:
        """Set a bias that is still 0 so that these states have mean 0 behind the projection.

        Pooled states of a new or generative model share one large direction. Contrastive training from there
        first draws all vectors together and takes hundreds of steps to part them again. Without a projection,
        or with one that was trained before, nothing changes.
        """
        if isinstance(self.projection, nn.Linear) and not self.projection.bias.any():
            self.projection.bias.copy_(-self.projection.weight @ pooled_BD.float().mean(0))

    def get_embedding_dimension(self) -> int:
        return self.dim or self.width

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        os.makedirs(output_path, exist_ok=True)
        self.save_config(output_path)
        if self.dim:
            self.save_torch_weights(output_path)

    @classmethod
    def load(  # ty: ignore[incompatible-method-override]  upstream's other parameters are in kwargs
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> Self:
        hub = hub_arguments(kwargs)
        module = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        if module.dim:
            cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=module, **hub)
        return module
