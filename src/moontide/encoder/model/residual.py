"""Fine-grained residual enhancement (FIRE): details of the picture, brought back at several depths.

T image tokens of a batch, B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from moontide.encoder.model.inputs import KINDS
from moontide.encoder.model.slots import SlotModule

IMAGE = KINDS.index("image")


class _Depth(nn.Module):
    """One layer's enhancement."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.norm_state, self.norm_seen = nn.LayerNorm(width), nn.LayerNorm(width)
        self.weigh = nn.Sequential(nn.Linear(width, bottleneck), nn.GELU(), nn.Linear(bottleneck, 1))
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, state_TD: torch.Tensor, seen_TD: torch.Tensor) -> torch.Tensor:
        weight_T1 = torch.sigmoid(self.weigh(self.norm_state(state_TD)))
        return self.scale * weight_T1 * self.up(F.gelu(self.down(self.norm_seen(seen_TD))))


class FineResidual(SlotModule):
    """Adds to the states at image positions what the vision tower saw there.

        h_v <- h_v + lambda_l a_l F_l(LN(v0)),  a_l = sigmoid(w^T GELU(W LN(h_v))),  F_l: D -> D_b -> D

    lambda starts at 0: at first nothing changes. Inactive for texts and for tokens that are being written.

    Args:
        layers: numbers of the decoder layers behind which it stands.
        bottleneck: D_b.
        source: v0 is what the vision tower gave, or a middle layer of it where the model has such features.

    Paper: MOON3.0 3.3 (name paper reported; formula analog PailitaoGR, several depths ours).
    """

    config_keys = ["layers", "width", "bottleneck", "source"]

    def __init__(
        self,
        layers: Sequence[int],
        width: int,
        bottleneck: int,
        source: Literal["projector", "middle"] = "projector",
    ):
        super().__init__()
        self.layers, self.width, self.bottleneck, self.source = list(layers), width, bottleneck, source
        self.depths = nn.ModuleDict({str(layer): _Depth(width, bottleneck) for layer in self.layers})

    def forward(  # ty: ignore[incompatible-method-override]  a slot's module is given three things
        self, layer: int, states_BLD: torch.Tensor, features: dict[str, Any]
    ) -> torch.Tensor:
        name = "visual_states" if self.source == "projector" else "middle_states"
        if layer not in self.layers or name not in features:
            return states_BLD
        is_image_BL1 = (features["token_kinds"] == IMAGE).unsqueeze(-1)
        state_TD = states_BLD[is_image_BL1[..., 0]].float()
        added_TD = self.depths[str(layer)](state_TD, features[name].float()).to(states_BLD.dtype)
        return states_BLD + torch.zeros_like(states_BLD).masked_scatter(is_image_BL1, added_TD)
