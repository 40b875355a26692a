"""InfoNCE over a batch, its temperature, and its Matryoshka sum. B queries, N items, D width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from moontide.encoder.model.matryoshka import prefix
from moontide.foundation.errors import SettingsError

LOWEST, HIGHEST = 0.01, 0.2  # bounds of a learned temperature


class Temperature(nn.Module):
    """A learned softmax temperature, kept within 0.01 and 0.2; learned as its logarithm.

    Paper: MOON Embedding 4: learnable from 0.05 (ours).
    """

    def __init__(self, start: float = 0.05):
        super().__init__()
        if not LOWEST <= start <= HIGHEST:
            raise SettingsError(f"temperature must lie in {LOWEST}..{HIGHEST}, got {start}")
        self.log = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> torch.Tensor:
        return self.log.exp().clamp(LOWEST, HIGHEST)

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the parameter itself back within bounds; called after every step, else it could drift off."""
        self.log.clamp_(math.log(LOWEST), math.log(HIGHEST))


def info_nce(
    query_BD: torch.Tensor,
    item_ND: torch.Tensor,
    temperature: torch.Tensor | float,
    not_negative_BN: torch.Tensor | None = None,
    is_symmetric: bool = False,
) -> torch.Tensor:
    """Cross-entropy of telling each query's item, row i for query i, from all other items.

        L = -(1/B) sum_i log( exp(s_ii / tau) / (exp(s_ii / tau) + sum_{j in N_i} exp(s_ij / tau)) )

    Also called: multiple negatives ranking loss, in-batch softmax, NT-Xent without the query side.
    Paper: MOON Embedding 3.4 (paper). The direction is query to item; item to query is a switch (ours).

    Args:
        query_BD, item_ND: unit vectors, N >= B; items beyond B are negatives for all.
        temperature: above 0.
        not_negative_BN: True where an item must not count as a negative; the diagonal is ignored.
        is_symmetric: average with the loss of finding each item's query.

    Returns:
        scalar
    """
    num = len(query_BD)
    logits_BN = query_BD @ item_ND.T / temperature
    if not_negative_BN is not None:
        own_BN = torch.eye(num, len(item_ND), dtype=torch.bool, device=logits_BN.device)
        logits_BN = logits_BN.masked_fill(not_negative_BN & ~own_BN, -torch.inf)
    target_B = torch.arange(num, device=logits_BN.device)
    loss = F.cross_entropy(logits_BN, target_B)
    if not is_symmetric:
        return loss
    return (loss + F.cross_entropy(logits_BN[:, :num].T, target_B)) / 2


def matryoshka_info_nce(
    query_BD: torch.Tensor,
    item_ND: torch.Tensor,
    temperature: torch.Tensor | float,
    widths: Sequence[int],
    not_negative_BN: torch.Tensor | None = None,
    is_symmetric: bool = False,
) -> torch.Tensor:
    """Mean of `info_nce` over prefixes: every prefix becomes a vector of its own.

    Paper: MOON Embedding 3.3, L_MRL = sum_d c_d L(norm(r[:d])) (paper reported); equal weights (ours).
    """
    losses = [
        info_nce(prefix(query_BD, width), prefix(item_ND, width), temperature, not_negative_BN, is_symmetric)
        for width in widths
    ]
    return torch.stack(losses).mean()
