"""MAKE: a small click model on frozen vectors alone, trained for several passes before the ids begin.

A model of ids is worse after its second pass over the log; a model of content goes on getting better. So
the content model is trained first, alone and for long, and then its insides are features of the one pass
over ids, frozen unless a switch says otherwise.

Letters: B requests, N candidates, S behavior steps, U distinct items of a batch, D width.

Paper: 2407.19467 (analog MAKE).
"""

from __future__ import annotations

from itertools import pairwise

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moontide.foundation.settings import Settings
from moontide.ranking.layers import TargetAttention


class MakeSettings(Settings):
    """The content model and its pretraining."""

    epochs: int = pydantic.Field(6, ge=0, description="passes over content alone; 0: trained with the ids")
    width: int = pydantic.Field(32, ge=1, description="width of its attention")
    hidden: tuple[int, ...] = pydantic.Field(
        (64, 32, 16), min_length=1, description="widths of its layers before the logit"
    )
    is_frozen: bool = pydantic.Field(True, description="no gradient of the click model reaches it")
    has_logit: bool = pydantic.Field(True, description="its logit is a feature, too")
    has_query: bool = pydantic.Field(True, description="it sees the query's vector (ours: search ads)")


class Make(nn.Module):
    """DIN over frozen vectors, four layers to a logit, and what the click model takes from it.

    Formula: v = DIN({r_b}, r_t);  h_1, ..., h_k = hidden layers of MLP([v, v * q(r_t), r_t, r_q]);
    features = [v, h_1, ..., h_k, logit]

    Paper: 2407.19467 (analog MAKE; r_t and r_q beside v are ours).

    Args:
        dim: of the vectors. num_recencies: rows of the attention's bias table.
        settings: see `MakeSettings`.
    """

    def __init__(self, dim: int, num_recencies: int, settings: MakeSettings):
        super().__init__()
        self.settings = settings
        self.interest = TargetAttention(dim, settings.width, num_recencies)
        joined = 2 * settings.width + (dim if settings.has_query else 0) + dim
        widths = (joined, *settings.hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(settings.hidden[-1], 1)

    @property
    def out_width(self) -> int:
        """Numbers that come out for each candidate."""
        return self.settings.width + sum(self.settings.hidden) + self.settings.has_logit

    def forward(
        self,
        vector_UD: Tensor,
        target_BN: Tensor,
        past_BS: Tensor,
        recency_BS: Tensor,
        has_past_BS: Tensor,
        query_BD: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Features (B, N, out_width) and the content model's own click logit (B, N).

        Args:
            vector_UD: of the distinct items, zero where there is none.
            target_BN, past_BS: which item each candidate and behavior is.
            has_past_BS: behaviors that are real and have a vector. query_BD: zero where there is none.
        """
        interest = self.interest
        query_BNA = interest.queries(vector_UD)[target_BN]
        found_BNA, _ = interest.over(query_BNA, interest.keys(vector_UD), past_BS, recency_BS, has_past_BS)
        parts = [found_BNA, found_BNA * query_BNA, vector_UD[target_BN]]
        if self.settings.has_query:
            parts.append(query_BD[:, None].expand(-1, target_BN.shape[1], -1))
        x_BNA, hidden = torch.cat(parts, -1), []
        for layer in self.layers:
            x_BNA = F.silu(layer(x_BNA))
            hidden.append(x_BNA)
        logit_BN1 = self.out(x_BNA)
        features = [found_BNA, *hidden] + ([logit_BN1] if self.settings.has_logit else [])
        features_BND = torch.cat(features, -1)
        return (features_BND.detach() if self.settings.is_frozen else features_BND), logit_BN1.squeeze(-1)
