"""Long histories: search for the behaviors that matter to a candidate, then look at those alone.

    all behaviors of a shopper (thousands) ──► score each against the candidate ──► the best K ──► exact unit

Scoring has nothing learned of its own and no gradient, so its cost is one product of matrices: by the
candidate's category (SIM-hard), by the id embeddings as they are (SIM-soft), by frozen vectors (MUSE).

Letters: B requests, N candidates, S steps of the long history, U distinct items of a batch, D width; K found.
"""

from __future__ import annotations

from typing import Literal

import pydantic
import torch
from torch import Tensor

from moontide.foundation.settings import Settings
from moontide.ranking.layers import Comparison

GRAM_RATIO = 8  # items a step of history up to which all pairs of targets and items are cheaper


class SearchSettings(Settings):
    """The long history: how long it is, how it is searched, how what was found is read."""

    steps: int = pydantic.Field(1000, ge=1, le=100_000, description="latest behaviors searched, steps")
    by: Literal["category", "id", "content"] = pydantic.Field(
        "content", description="what is compared: SIM-hard, SIM-soft, MUSE"
    )
    top: int = pydantic.Field(50, ge=1, description="behaviors kept, K")
    unit: Literal["attention", "similarity"] = pydantic.Field(
        "similarity", description="exact unit: plain target attention, or SA-TA with the similarities"
    )
    tiers: int = pydantic.Field(20, ge=0, le=200, description="SimTier over what was found; 0: none")

    @property
    def needs_vectors(self) -> bool:
        """Whether any part of it reads frozen vectors."""
        return self.by == "content" or self.unit == "similarity" or self.tiers > 0


def similarities(
    vector_UD: Tensor, target_BN: Tensor, past_BS: Tensor, past_vector_UD: Tensor | None = None
) -> Tensor:
    """Inner products (B, N, S) of targets and behaviors, both given as places in a table of distinct items.

    Long histories of a batch hold each item many times: then all pairs of a target and an item are computed
    once and picked from; short ones are looked up and multiplied. Both give the same numbers up to rounding.

    Args:
        past_vector_UD: table of the behaviors, where it is another one (a projection) than the targets'.
    """
    past_UD = vector_UD if past_vector_UD is None else past_vector_UD
    is_short = torch.compiler.is_exporting() or past_BS.shape[1] * GRAM_RATIO < len(past_UD)
    if is_short:  # an exported graph has one request, whose behaviors are looked up once anyway
        return vector_UD[target_BN] @ past_UD[past_BS].transpose(1, 2)
    return by_pairs(vector_UD, target_BN, past_BS, past_UD)


def by_pairs(vector_UD: Tensor, target_BN: Tensor, past_BS: Tensor, past_UD: Tensor) -> Tensor:
    """`similarities` by way of all pairs of targets and items."""
    pair_BNU = vector_UD[target_BN] @ past_UD.T
    return pair_BNU.gather(2, past_BS[:, None].expand(-1, target_BN.shape[1], -1))


def find(score_BNS: Tensor, is_real_BNS: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The steps of the K best-scored behaviors, and which of these slots hold one.

    Only real behaviors are found, those of score 0 among them; which of equal scores are is not defined.

    Args:
        score_BNS: any number a behavior. is_real_BNS: which count.

    Returns:
        (B, N, K) steps, best first, and (B, N, K) bool; K is at most the number of steps.
    """
    num = score_BNS.shape[-1]
    step_BNK = score_BNS.masked_fill(~is_real_BNS, -torch.inf).topk(min(top, num), -1).indices
    return step_BNK, is_real_BNS.expand_as(score_BNS).gather(-1, step_BNK)


def found_of(
    similarity_BNS: Tensor, is_real_BNS: Tensor, step_BNK: Tensor, is_found_BNK: Tensor
) -> Comparison:
    """Similarities of found behaviors, 0 and not counted where one has no vector."""
    similar_BNK = similarity_BNS.gather(-1, step_BNK)
    has_BNK = is_real_BNS.expand_as(similarity_BNS).gather(-1, step_BNK) & is_found_BNK
    return Comparison(similar_BNK * has_BNK, has_BNK)
