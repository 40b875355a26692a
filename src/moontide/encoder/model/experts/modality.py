"""Experts that learn which objective they serve. Z experts, O objectives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

import pydantic
import torch
from torch import nn

from moontide.encoder.model.backbone import Backbone
from moontide.encoder.model.experts.expert import ExpertShape
from moontide.encoder.model.experts.mixture import ExpertLayer, Mixture
from moontide.foundation.settings import Settings

OBJECTIVES = ("t2mm", "i2mm", "mm2mm", "i2t", "t2i")  # t text, i image, mm both


class ModalitySettings(Settings):
    """How many experts, where, and which objectives they may prefer."""

    num_experts: int = pydantic.Field(4, ge=2, description="the dense block and its copies")
    top: int = pydantic.Field(2, ge=1, description="experts of a token")
    layers: Literal["every_second", "last_third", "all"] = pydantic.Field(
        "every_second", description="layers with experts; the last always has"
    )
    objectives: tuple[str, ...] = pydantic.Field(
        OBJECTIVES, min_length=1, description="names of the objectives, in the order of the preferences"
    )

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ModalitySettings:
        if self.top > self.num_experts:
            raise ValueError(f"top must not exceed num_experts {self.num_experts}, got {self.top}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives must differ, got {', '.join(self.objectives)}")
        return self


class ModalityExperts(Mixture):
    """Experts behind a router, and how much each prefers each objective.

        p_zm = softmax over m of preference_zm

    `preference` (Z, O) is shared by all layers and starts at zero. It takes no part in the forward pass: it
    weights losses, together with the figures of routing, and learns from them.

    Paper: MOON2.0 3.1 (paper reported); one preference for all layers, and where experts stand, are ours.
    """

    settings_type = ModalitySettings
    settings: ModalitySettings

    def __init__(self, settings: ModalitySettings, shape: ExpertShape, num_layers: int):
        super().__init__(settings, shape, num_layers)
        self.preference = nn.Parameter(torch.zeros(settings.num_experts, len(settings.objectives)))

    @classmethod
    def of(cls, backbone: Backbone, settings: Any, seed: int) -> Self:
        mixture = super().of(backbone, settings, seed)
        device = next(mixture.layers.parameters()).device
        mixture.preference = nn.Parameter(torch.zeros_like(mixture.preference, device=device))
        return mixture

    def layer_numbers(self) -> Iterable[int]:
        num = self.num_layers
        if self.settings.layers == "every_second":
            return range((num - 1) % 2, num, 2)
        return range(num - -(-num // 3) if self.settings.layers == "last_third" else 0, num)

    def new_layer(self) -> ExpertLayer:
        return ExpertLayer(self.shape, self.settings.num_experts - 1, {"router": self.settings.num_experts})
