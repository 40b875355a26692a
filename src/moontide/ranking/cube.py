"""CUBE: what a shopper's past looks like, and what it was, weighted by how alike it is to the candidate.

    cos(r_t, r_b) ──► weights ──┬──► sum of W r_b   content-interest
                                └──► sum of W e_b   fusion-interest
                  ──► the cosines themselves

Content similarity is the attention: nothing is learned between vectors but a temperature. The block stands
once for behaviors on items and once for past queries.

Letters: B requests, N candidates, S behavior steps, U distinct items (or queries) of a batch, D width.

Paper: MOON Embedding 2511.11305, figure 5 (paper; where the figure is silent, ours).
"""

from __future__ import annotations

import math
from typing import Literal

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moontide.foundation.settings import Settings
from moontide.ranking.layers import Comparison, masked_softmax

Part = Literal["fusion", "scores", "content", "target", "match", "query"]
PARTS: tuple[Part, ...] = ("fusion", "scores", "content", "target", "match", "query")


class CubeSettings(Settings):
    """Which of CUBE's inputs the click model sees.

    Paper: MOON Embedding 3.8. Two of its eight inputs, the embeddings of shopper and query and the
    ID-interest, belong to every click model here; `ClickSettings.use_interest` leaves the latter out.
    """

    parts: tuple[Part, ...] = pydantic.Field(
        PARTS, description="fusion e', scores {s_b}, content r', target r_t, match cos(r_t, r_q), query r_q"
    )
    has_queries: bool = pydantic.Field(True, description="a second block over the shopper's past queries")
    weights: Literal["softmax", "raw", "topk"] = pydantic.Field(
        "softmax", description="how similarities weigh behaviors; topk: softmax over the best few"
    )
    top: int = pydantic.Field(5, ge=1, description="behaviors that topk keeps")
    width: int = pydantic.Field(32, ge=1, description="width of projected vectors")


class Interest(nn.Module):
    """One block of CUBE over one kind of behaviors.

    Formula: w = softmax(s / tau) over real behaviors (or masked s itself, or over the best few);
    r' = sum_b w_b W_r r_b;  e' = sum_b w_b W_e e_b. No behavior with a vector gives zero vectors.

    Paper: MOON Embedding 3.8 (content-interest, fusion-interest; tau from 0.1 analog MUSE).

    Args:
        dim: of the frozen vectors. width: of the id representations of behaviors. steps: of the history.
        settings: see `CubeSettings`.
    """

    def __init__(self, dim: int, width: int, steps: int, settings: CubeSettings):
        super().__init__()
        self.settings, self.steps = settings, steps
        has = settings.parts.__contains__
        self.content = nn.Linear(dim, settings.width, bias=False) if has("content") else None
        self.fusion = nn.Linear(width, settings.width, bias=False) if has("fusion") else None
        self.log_tau = nn.Parameter(torch.tensor(math.log(0.1)))

    @property
    def out_width(self) -> int:
        """Numbers that come out for each candidate."""
        num = sum(part is not None for part in (self.content, self.fusion)) * self.settings.width
        return num + (2 * self.steps if "scores" in self.settings.parts else 0)

    def weights(self, near: Comparison) -> Tensor:
        """(B, N, S) weight of each behavior; exactly 0 where it is masked."""
        similarity_BNS, is_real_BNS = near.similarity_BNS, near.is_real_BNS
        if self.settings.weights == "raw":
            return similarity_BNS * is_real_BNS
        if self.settings.weights == "topk" and similarity_BNS.shape[-1] >= self.settings.top:
            kept_BNS = similarity_BNS.masked_fill(~is_real_BNS, -torch.inf)
            least_BN1 = kept_BNS.topk(self.settings.top, -1).values[..., -1:]
            is_real_BNS = is_real_BNS & (kept_BNS >= least_BN1)
        return masked_softmax(similarity_BNS / self.log_tau.exp(), is_real_BNS)

    def forward(
        self, near: Comparison, asked: Comparison, vector_UD: Tensor, id_UD: Tensor, past_BS: Tensor
    ) -> list[Tensor]:
        """Features, each (B, N, some width).

        Args:
            near: the candidate against the behaviors. asked: the query of the request against them, N = 1.
            vector_UD, id_UD: frozen vectors and id representations of the distinct behaviors.
            past_BS: which of them each behavior is.
        """
        parts = []
        weight_BNS = self.weights(near)
        if self.content is not None:
            parts.append(weight_BNS @ self.content(vector_UD)[past_BS])
        if self.fusion is not None:
            parts.append(weight_BNS @ self.fusion(id_UD)[past_BS])
        if "scores" in self.settings.parts:
            missing = self.steps - near.similarity_BNS.shape[-1]
            for one in (near, asked):
                score_BNS = F.pad(one.similarity_BNS * one.is_real_BNS, (0, missing))
                parts.append(score_BNS.expand(*weight_BNS.shape[:2], -1))
        return parts
