"""Triplet loss on one hard negative for each query. B queries, D width."""

from __future__ import annotations

import torch


def triplet(
    query_BD: torch.Tensor,
    positive_BD: torch.Tensor,
    negative_BD: torch.Tensor,
    margin: float = 0.1,
    is_real_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """How far the negative is from being `margin` less similar than the positive.

        L = mean_i max(0, margin - s(q_i, p_i) + s(q_i, n_i))

    Added to InfoNCE with weight 1.0 (ours); the negative was clicked in the same result and not bought.

    Paper: MIM 3.4 (analog SCL, arXiv 2407.19467); weight and margin are not given there (ours).

    Args:
        query_BD, positive_BD, negative_BD: unit vectors, row by row.
        is_real_B: False where a query has no such negative: the row does not count, any finite vector stands
            for it. No real row: 0.
    """
    loss_B = (margin + (query_BD * (negative_BD - positive_BD)).sum(1)).relu()
    if is_real_B is None:
        return loss_B.mean()
    return (loss_B * is_real_B).sum() / is_real_B.sum().clamp(min=1)
