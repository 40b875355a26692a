"""Experts that are guided by what a token says: category and attribute words have experts of their own.

T tokens of all rows together, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pydantic
import torch

from moontide.encoder.model.experts.mixture import ExpertLayer, Mixture
from moontide.encoder.model.inputs import KINDS
from moontide.foundation.settings import Settings

# Catalogs that list attributes list the brand as one of them; an own field only says it earlier.
OWNED = {"category": ("category",), "attribute": ("attribute", "brand")}


class GuidedSettings(Settings):
    """How many experts, where, and how designated ones join."""

    num_experts: int = pydantic.Field(6, ge=4, description="general ones, category and attribute together")
    top: int = pydantic.Field(2, ge=1, description="general experts of a token")
    every: int = pydantic.Field(
        2, ge=1, description="every how many layers have experts; the last always has"
    )
    mode: Literal["hard", "hard_gated", "additive"] = pydantic.Field(
        "hard", description="category and attribute words: their expert alone, it times a gate, or it added"
    )
    blend: float = pydantic.Field(0.5, gt=0, lt=1, description="share of the designated expert in additive")
    has_category: bool = pydantic.Field(True, description="off: category words go to the general experts")
    has_attribute: bool = pydantic.Field(True, description="off: attribute words go to the general experts")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> GuidedSettings:
        if self.top > self.num_general:
            raise ValueError(
                f"top must not exceed the general experts, num_experts - 2 = {self.num_general}, "
                f"got {self.top}"
            )
        return self

    @property
    def num_general(self) -> int:
        """Routed experts; leaving a designated one out changes nothing about them."""
        return self.num_experts - 2

    @property
    def designated(self) -> tuple[str, ...]:
        """The designated experts there are, in the order in which they follow the general ones."""
        has = {"category": self.has_category, "attribute": self.has_attribute}
        return tuple(name for name in OWNED if has[name])


class GuidedExperts(Mixture):
    """General experts behind a router, and one expert each for category and attribute words.

        y = sum_k g~_k f_k(x)                               all other words, and pictures
        y = f_own(x)                                        designated words, hard
        y = sigmoid(w_own . x) f_own(x)                     designated words, hard_gated
        y = (1 - b) sum_k g~_k f_k(x) + b f_own(x)          designated words, additive

    In hard and additive a new one leaves the encoder as it is; in hard_gated it halves the blocks' outputs of
    designated words. Queries have no designated words and never reach their experts. Figures of routing are
    over the general experts and the tokens that pass the router.

    Paper: MOON 3.3 (paper: the experts and which tokens each gets; the formulas, brand words to the attribute
    expert, and balancing of general experts only are ours).
    """

    settings_type = GuidedSettings
    settings: GuidedSettings

    def layer_numbers(self) -> Iterable[int]:
        return range((self.num_layers - 1) % self.settings.every, self.num_layers, self.settings.every)

    def new_layer(self) -> ExpertLayer:
        general, own = self.settings.num_general, len(self.settings.designated)
        routers = {"router": general}
        if own and self.settings.mode == "hard_gated":
            routers["own"] = own
        return ExpertLayer(self.shape, general - 1 + own, routers)

    def designated(
        self, layer: ExpertLayer, x_TD: torch.Tensor, kind_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        names, mode = self.settings.designated, self.settings.mode
        if not names:
            return super().designated(layer, x_TD, kind_T)
        owner_of = [next((n for n, name in enumerate(names) if kind in OWNED[name]), -1) for kind in KINDS]
        owner_T1 = torch.tensor(owner_of, device=kind_T.device)[kind_T].unsqueeze(1)
        is_owned_T1 = owner_T1 >= 0
        share_T1 = is_owned_T1 * (self.settings.blend if mode == "additive" else 1.0)
        weight_T1 = share_T1
        if mode == "hard_gated":
            weight_T1 = is_owned_T1 * layer.logits("own", x_TD).sigmoid().gather(1, owner_T1.clamp(min=0))
        ids_T1 = torch.where(is_owned_T1, owner_T1 + self.settings.num_general, 0)
        return 1 - share_T1.squeeze(1), ids_T1, weight_T1
