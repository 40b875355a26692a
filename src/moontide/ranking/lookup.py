"""Rows of tables of distinct items, and attention over them, made for training on a processor.

A batch's behaviors are places in a table of distinct items. Looking all keys up at once makes a tensor of
B x S x D numbers, and its gradient makes three more; at 1,024 requests each is larger than a processor's
cache, and most of a step went into moving them. Here requests pass in pieces that fit, forward and backward;
keys are looked up a second time instead of being kept.

Letters: B requests, N candidates, S behavior steps, U distinct items, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PIECE_NUMBERS = 1 << 17  # of one piece's keys: half a megabyte


def pick(table_UD: Tensor, index: Tensor) -> Tensor:
    """Rows (..., D) of a table; the same numbers as an embedding, but a gradient at a third of its cost."""
    if not table_UD.requires_grad:
        return F.embedding(index, table_UD)
    return table_UD.index_select(0, index.flatten()).unflatten(0, index.shape)


def masked_softmax(score: Tensor, is_real: Tensor) -> Tensor:
    """Softmax over the last axis among real entries; masked ones get exactly 0, all masked gives all 0."""
    score = score.masked_fill(~is_real, -torch.inf)
    top = score.amax(-1, keepdim=True).detach()
    weight = torch.exp(score - top.masked_fill(top.isinf(), 0.0))
    return weight / weight.sum(-1, keepdim=True).clamp_min(1e-12)


def attend(
    query_BND: Tensor, key_UD: Tensor, item_BS: Tensor, bias_BNS: Tensor, is_real_BS: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """What `attend_at_once` gives for the keys `key_UD[item_BS]`, up to rounding, in less memory and time.

    Args:
        query_BND: of the candidates. key_UD: of the distinct items. item_BS: which of them each behavior is.
        bias_BNS: added to the scores. is_real_BS: False for padding. scale: of query times key.
    """
    if not key_UD.requires_grad:
        return attend_at_once(query_BND, key_UD[item_BS], bias_BNS, is_real_BS, scale)
    found_BND, weight_BNS = _Attention.apply(query_BND, key_UD, item_BS, bias_BNS, is_real_BS, scale)
    return found_BND, weight_BNS


def attend_at_once(
    query_BND: Tensor, key_BSD: Tensor, bias_BNS: Tensor, is_real_BS: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Weighted means (B, N, D) of keys and the weights (B, N, S).

    Formula: w = masked softmax(scale * q k + bias);  found = sum_s w_s k_s.
    """
    score_BNS = query_BND @ key_BSD.transpose(1, 2) * scale + bias_BNS
    weight_BNS = masked_softmax(score_BNS, is_real_BS[:, None])
    return weight_BNS @ key_BSD, weight_BNS


class _Attention(torch.autograd.Function):
    """`attend` with its gradient written out; both results may be used further."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BND: Tensor,
        key_UD: Tensor,
        item_BS: Tensor,
        bias_BNS: Tensor,
        is_real_BS: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        pieces = []
        for at in _pieces(item_BS, key_UD):
            key_BSD = F.embedding(item_BS[at], key_UD)
            pieces.append(attend_at_once(query_BND[at], key_BSD, bias_BNS[at], is_real_BS[at], scale))
        found_BND, weight_BNS = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        ctx.save_for_backward(query_BND, key_UD, item_BS, weight_BNS)
        ctx.scale = scale
        return found_BND, weight_BNS

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found_BND, given_BNS = gradients
        query_BND, key_UD, item_BS, weight_BNS = ctx.saved_tensors
        key_gradient_UD, queries, scores = torch.zeros_like(key_UD), [], []
        for at in _pieces(item_BS, key_UD):
            key_BSD, weight = F.embedding(item_BS[at], key_UD), weight_BNS[at]
            toward_BNS = torch.baddbmm(given_BNS[at], found_BND[at], key_BSD.transpose(1, 2))
            score = weight * (toward_BNS - (weight * toward_BNS).sum(-1, keepdim=True))
            scores.append(score)
            queries.append(score @ key_BSD * ctx.scale)
            # As a value a key gets weight x gradient, as a key score x query: both in one product.
            parts, sides = (
                torch.cat([weight, score * ctx.scale], 1),
                torch.cat([found_BND[at], query_BND[at]], 1),
            )
            key_gradient_UD.index_add_(
                0, item_BS[at].flatten(), (parts.transpose(1, 2) @ sides).flatten(0, 1)
            )
        return torch.cat(queries), key_gradient_UD, None, torch.cat(scores), None, None


def _pieces(item_BS: Tensor, key_UD: Tensor) -> list[slice]:
    """Requests that fit a processor's cache together; on another device all of them; at least one piece."""
    rows, steps = item_BS.shape
    size = rows if key_UD.device.type != "cpu" else PIECE_NUMBERS // max(steps * key_UD.shape[1], 1)
    return [slice(start, start + max(size, 1)) for start in range(0, max(rows, 1), max(size, 1))]
