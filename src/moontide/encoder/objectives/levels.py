"""Multi-level InfoNCE, in both readings of the term. B queries, N items, D width.

    tiers     one loss for each source of negatives (in-batch, other devices, queue, hard)
    levels    one loss for each way to see a pair (image, text, both)

The pooled reference, all negatives in one denominator, is `info_nce` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from moontide.encoder.objectives.infonce import batch_mean, log_one_plus
from moontide.encoder.objectives.masks import only_present


def tiers(
    query_BD: torch.Tensor,
    item_ND: torch.Tensor,
    temperature: torch.Tensor | float,
    is_tier: Sequence[torch.Tensor],
    not_negative_BN: torch.Tensor | None = None,
    weight_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over tiers of the InfoNCE against that tier's negatives alone.

        L_A = 1/#tiers * sum_T log(1 + z_T),   z_T = sum_{n in T} exp((s_n - s_p) / tau)
        max_T log(1 + z_T)  <=  pooled log(1 + sum_T z_T)  <=  sum_T log(1 + z_T)

    So a tier of few, hard negatives keeps its say beside a queue of thousands.

    Paper: MIM 3.2, reading "tiers" (ours; that there are levels is paper reported).

    Args:
        query_BD, item_ND, temperature, not_negative_BN, weight_B: as for `info_nce`.
        is_tier: for each tier (B, N) or (N,), True where an item belongs to it; disjoint. An empty tier is 0.
    """
    logit_BN = query_BD @ item_ND.T / temperature
    logit_BN = logit_BN - logit_BN.diagonal()[:, None]
    is_left_out_BN = torch.eye(*logit_BN.shape, dtype=torch.bool, device=logit_BN.device)
    if not_negative_BN is not None:
        is_left_out_BN = is_left_out_BN | not_negative_BN
    losses = [log_one_plus(logit_BN.masked_fill(is_left_out_BN | ~one, -torch.inf)) for one in is_tier]
    return batch_mean(torch.stack(losses).mean(0), weight_B)


class Level(NamedTuple):
    """One way to see the pairs of a batch: item i is query i's positive, items beyond B are negatives.

    Args:
        query, item: (B, D) and (N, D) unit vectors; any finite vector stands for what cannot be seen so.
        not_negative: (B, N), as for `info_nce`.
        has_query, has_item: (B,) and (N,), True where the query, the item can be seen so at all.
    """

    query: torch.Tensor
    item: torch.Tensor
    not_negative: torch.Tensor
    has_query: torch.Tensor
    has_item: torch.Tensor


def levels(
    pairs: Mapping[str, Level],
    loss: Callable[..., torch.Tensor],
    weights: Mapping[str, float] | None = None,
) -> torch.Tensor:
    """Sum over levels of lambda_l * loss(query at l, item at l), lambda summing to 1 for every pair.

    A pair that lacks a level (no picture, no words) shares that level's weight among its others, and is no
    negative there; a pair that lacks all of them does not count.

    Paper: MIM 3.2, reading "levels" (ours).

    Args:
        pairs: the levels by name, the same B pairs in all.
        loss: called as loss(query_BD, item_ND, not_negative_BN=, weight_B=): `info_nce` or its Matryoshka sum
            with the temperature filled in.
        weights: of each level; None: equal.
    """
    masks, shares = [], []
    for name, level in pairs.items():
        mask_BN, weight_B = only_present(level.not_negative, level.has_query, level.has_item)
        masks.append(mask_BN)
        shares.append((weight_B > 0) * (1.0 if weights is None else weights[name]))
    share_LB = torch.stack(shares)
    total_B = share_LB.sum(0)
    num_counted = (total_B > 0).sum().clamp(min=1)
    weight_LB = share_LB / total_B.clamp(min=1e-12) * (len(total_B) / num_counted)
    losses = [
        loss(level.query, level.item, not_negative_BN=mask_BN, weight_B=weight_B)
        for level, mask_BN, weight_B in zip(pairs.values(), masks, weight_LB, strict=True)
    ]
    return torch.stack(losses).sum()
