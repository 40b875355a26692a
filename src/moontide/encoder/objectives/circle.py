"""Circle loss, in place of InfoNCE once negatives are many and hard. B queries, N items, D width."""

from __future__ import annotations

import torch

from moontide.encoder.objectives.infonce import batch_mean, log_one_plus


def circle(
    query_BD: torch.Tensor,
    item_ND: torch.Tensor,
    margin: float = 0.25,
    scale: float = 64.0,
    not_negative_BN: torch.Tensor | None = None,
    positive_BN: torch.Tensor | None = None,
    weight_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every similarity pulled with a force that grows with its distance from where it should be.

        L = log( 1 + sum_n exp( g a_n (s_n - m) ) * sum_p exp( -g a_p (s_p - 1 + m) ) ),  mean over queries
        a_p = relu(1 + m - s_p),  a_n = relu(s_n + m), both without gradient

    A negative at or below -m gets no gradient, yet still counts as exp(0): with thousands of negatives the
    loss is not monotone in s_n. Never stop early on it, never compare runs by it.

    Paper: MOON Embedding 3.5 (paper reported); form and parameters: analog CircleLoss, arXiv 2002.10857.

    Args:
        query_BD, item_ND: unit vectors, N >= B, row i for query i; items beyond B are negatives for all.
        margin: m, how far from 1 and 0 similarities may stay.
        scale: g.
        not_negative_BN: True where an item must not count as a negative.
        positive_BN: True where an item is one more positive; the diagonal always is one.
        weight_B: of each query; the sum is divided by B.

    Returns:
        scalar
    """
    score_BN = query_BD @ item_ND.T
    is_positive_BN = torch.eye(*score_BN.shape, dtype=torch.bool, device=score_BN.device)
    if positive_BN is not None:
        is_positive_BN = is_positive_BN | positive_BN
    is_left_out_BN = is_positive_BN if not_negative_BN is None else is_positive_BN | not_negative_BN
    fixed_BN = score_BN.detach()
    pull_BN = -scale * (1 + margin - fixed_BN).relu() * (score_BN - 1 + margin)
    push_BN = scale * (fixed_BN + margin).relu() * (score_BN - margin)
    pull_B1 = torch.logsumexp(pull_BN.masked_fill(~is_positive_BN, -torch.inf), dim=1, keepdim=True)
    loss_B = log_one_plus(push_BN.masked_fill(is_left_out_BN, -torch.inf) + pull_B1)
    return batch_mean(loss_B, weight_B)
