"""Which items of a batch are no negatives for a query though not its own positive. B queries, N items."""

from __future__ import annotations

import numpy as np
import torch


def not_negative(
    query_product_B: np.ndarray,
    item_product_N: np.ndarray,
    group_of: np.ndarray,
    item_content_N: np.ndarray | None = None,
    query_B: np.ndarray | None = None,
    positives: np.ndarray | None = None,
) -> np.ndarray:
    """True where item j must not push query i away.

    That is: the same product as the query's own; the same group (SPU, near duplicates); the same content
    (hash) as the query's own item; or another product the same query was answered with anywhere in the log.

    Paper: MOON Embedding 3.5 (which pairs are masked is ours).

    Args:
        query_product_B: product code of every query's positive.
        item_product_N: product code of every item.
        group_of: group code by product code.
        item_content_N: a code per item, equal for identical content; needs item i to be query i's positive.
            Shorter than N: the items beyond have no known content.
        query_B: query code; equal texts share one. -1: the query has no log.
        positives: sorted keys query * len(group_of) + product of all known positives.

    Returns:
        (B, N) bool; the diagonal is True where item i is query i's own.
    """
    group_B, group_N = group_of[query_product_B], group_of[item_product_N]
    mask = group_B[:, None] == group_N[None]
    if item_content_N is not None:
        content_B = item_content_N[: len(query_product_B), None]
        mask[:, : len(item_content_N)] |= content_B == item_content_N[None]
    if query_B is not None and positives is not None and len(positives):
        keys = query_B[:, None] * len(group_of) + item_product_N[None]
        mask |= (query_B >= 0)[:, None] & is_member(keys, positives)
    return mask


def is_member(keys: np.ndarray, sorted_keys: np.ndarray) -> np.ndarray:
    """Whether each key occurs in a sorted array."""
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[place] == keys


def only_present(
    not_negative_BN: torch.Tensor, is_query_B: torch.Tensor, is_item_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and weights with which queries and items that lack a form neither count nor push.

    A loss that averages over B then gives its mean over the pairs that have both sides, 0 if there are none.

    Paper: MOON2.0 2, missing form in a query (ours).

    Args:
        not_negative_BN: see `not_negative`.
        is_query_B, is_item_N: True where the query, the item has the form; any finite vector stands for none.

    Returns:
        (B, N) bool, and (B,) weights: B / number of whole pairs, or 0.
    """
    num = len(is_query_B)
    is_pair_B = is_query_B & is_item_N[:num]
    mask_BN = not_negative_BN | ~is_query_B[:, None] | ~is_item_N[None]
    return mask_BN, is_pair_B * (num / is_pair_B.sum().clamp(min=1))
