"""One expert: a copy of a decoder's gated feed-forward block. N tokens, D width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn
from transformers.activations import ACT2FN

from moontide.encoder.model.adapters import merged_weights
from moontide.foundation.errors import SettingsError

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ExpertShape:
    """Width of the tokens, width within, activation as transformers names it, and whether it has biases."""

    width: int
    inner: int
    activation: str
    has_bias: bool

    @classmethod
    def of(cls, mlp: nn.Module) -> Self:
        """The shape of a decoder's feed-forward block, with or without adapters.

        Raises:
            SettingsError: it is no gated block.
        """
        weights = merged_weights(mlp)
        plain = {f"{name}.weight" for name in PROJECTIONS}
        biased = plain | {f"{name}.bias" for name in PROJECTIONS}
        activation = getattr(getattr(mlp, "config", None), "hidden_act", None)
        if set(weights) not in (plain, biased) or not isinstance(activation, str):
            raise SettingsError(
                "experts copy feed-forward blocks of gate_proj, up_proj, down_proj and a config.hidden_act: "
                f"{type(mlp).__name__} is another, choose a backbone that has them"
            )
        inner, width = weights["gate_proj.weight"].shape
        return cls(width, inner, activation, set(weights) == biased)


class Expert(nn.Module):
    """A gated feed-forward block with the weights' published names.

    f(x) = down( act(gate(x)) * up(x) )
    """

    def __init__(self, shape: ExpertShape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, shape.has_bias)
        self.up_proj = nn.Linear(shape.width, shape.inner, shape.has_bias)
        self.down_proj = nn.Linear(shape.inner, shape.width, shape.has_bias)
        self.activation = ACT2FN[shape.activation]

    @classmethod
    def like(cls, mlp: nn.Module) -> Self:
        """A copy of a decoder's block, of its type and on its device, adapters folded in; all of it trains.

        Raises:
            SettingsError: it is no gated block.
        """
        with torch.device("meta"):
            expert = cls(ExpertShape.of(mlp))
        copies = {name: weight.clone() for name, weight in merged_weights(mlp).items()}
        expert.load_state_dict(copies, assign=True)
        return expert

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        x_ND = x_ND.to(self.gate_proj.weight.dtype)  # the backbone may be loaded in another type
        return self.down_proj(self.activation(self.gate_proj(x_ND)) * self.up_proj(x_ND))
