"""InfoNCE over a batch, its temperature, and the Matryoshka sum of any loss. B queries, N items, D width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
    weight_B: torch.Tensor | None = None,
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
        weight_B: of query i and its item; the sum is divided by B, not by the sum of the weights.

    Returns:
        scalar
    """
    num = len(query_BD)
    logits_BN = query_BD @ item_ND.T / temperature
    if not_negative_BN is not None:
        own_BN = torch.eye(num, len(item_ND), dtype=torch.bool, device=logits_BN.device)
        logits_BN = logits_BN.masked_fill(not_negative_BN & ~own_BN, -torch.inf)
    target_B = torch.arange(num, device=logits_BN.device)
    loss_B = F.cross_entropy(logits_BN, target_B, reduction="none")
    if is_symmetric:
        back_B = F.cross_entropy(logits_BN[:, :num].T, target_B, reduction="none")
        loss_B = (loss_B + back_B) / 2
    return batch_mean(loss_B, weight_B)


def batch_mean(loss_B: torch.Tensor, weight_B: torch.Tensor | None) -> torch.Tensor:
    """Mean of weighted losses over their number: a light row makes the step smaller, not others heavier.

    Without weights and with weights of 1 the result is the same to the last bit.
    Paper: MOON2.0 3.4 (ours).
    """
    return loss_B.mean() if weight_B is None else (loss_B * weight_B).mean()


def log_one_plus(logit_BN: torch.Tensor) -> torch.Tensor:
    """log(1 + sum_j exp(logit_j)) of each row: 0, with gradient 0, where every logit is -inf."""
    return torch.logsumexp(F.pad(logit_BN, (1, 0)), dim=1)


def matryoshka(
    loss: Callable[..., torch.Tensor], *vectors: torch.Tensor, widths: Sequence[int], **rest: object
) -> torch.Tensor:
    """Mean of a loss over prefixes of its vectors: every prefix becomes a vector of its own.

    Paper: MOON Embedding 3.3, L_MRL = sum_d c_d L(norm(r[:d])) (paper reported); equal weights (ours).

    Args:
        loss: called as loss(*vectors, **rest).
        vectors: unit vectors, cut to each width and brought back to unit norm.
    """
    return torch.stack([loss(*(prefix(one, width) for one in vectors), **rest) for width in widths]).mean()
