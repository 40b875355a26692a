"""Layers of the click model: tiers of similarity, attention over behaviors, a tower split by request.

Letters: B requests, N candidates of a request, S behavior steps (of all, or of those a search found), T
tiers, D width. Training has N = 1. A mask `is_real_BS` is True for a behavior, False for padding; padding has
weight exactly 0 everywhere.
"""

# ruff: noqa: N815 - fields are named by their dimensions, as tensors are everywhere

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moontide.ranking.lookup import attend, attend_at_once, masked_softmax, pick


@dataclass
class Comparison:
    """Cosines of targets (candidates, the query, creatives) with behaviors, and which of them count."""

    similarity_BNS: Tensor
    is_real_BNS: Tensor


def tier_of(similarity: Tensor, num_tiers: int) -> Tensor:
    """Tier 0 to num_tiers - 1 of each cosine; tier k covers (-1 + 2k/T, -1 + 2(k+1)/T], and -1 is in tier 0.

    Formula: clamp(ceil(round((s + 1) / 2 * T, 6)) - 1, 0, T - 1), in double precision.

    The published pseudo-code counts ceil(...) in 1..T with slots 0..T-1, and so drops the most similar
    tier. The rounding keeps an edge such as -0.7 in its tier although 0.1 has no exact binary form.

    Paper: SimTier of 2407.19467 (analog SimTier, index corrected).
    """
    scaled = (similarity.double() + 1) / 2 * num_tiers
    return (torch.ceil(torch.round(scaled, decimals=6)).long() - 1).clamp(0, num_tiers - 1)


def tier_counts(similarity_BNS: Tensor, is_real_BNS: Tensor, num_tiers: int) -> Tensor:
    """How many real behaviors fall in each tier: (B, N, T), summing to the number of real behaviors."""
    counts_BNT = similarity_BNS.new_zeros(*similarity_BNS.shape[:-1], num_tiers)
    return counts_BNT.scatter_add_(-1, tier_of(similarity_BNS, num_tiers), is_real_BNS.to(counts_BNT.dtype))


class SimTier(nn.Module):
    """A histogram of similarities between a target and the shopper's behaviors.

    Formula: f_k = log(1 + count_k) * scale_k, scale learnable from 1; `plain_counts` gives count_k itself.

    Also called: similarity tiers. Paper: 2407.19467 (analog SimTier; log and scale: analog MUSE).

    Args:
        num_tiers: T, tiers over [-1, 1].
        plain_counts: counts as they are, nothing learned.
    """

    def __init__(self, num_tiers: int = 20, plain_counts: bool = False):
        super().__init__()
        self.num_tiers = num_tiers
        self.scale = None if plain_counts else nn.Parameter(torch.ones(num_tiers))

    def forward(self, similarity_BNS: Tensor, is_real_BNS: Tensor) -> Tensor:
        """Features (B, N, T) of cosines (B, N, S); masked behaviors count in no tier."""
        counts_BNT = tier_counts(similarity_BNS, is_real_BNS, self.num_tiers)
        return counts_BNT if self.scale is None else torch.log1p(counts_BNT) * self.scale


class TargetAttention(nn.Module):
    """What the shopper's behaviors say about each candidate: a weighted mean of behavior keys.

    Formula: a = q(e_t) k(e_b) / sqrt(D) + bias_b [+ g s_b];  w = masked softmax(a);  out = sum_b w_b k(e_b)
    with q and k linear and swish. No real behavior gives the zero vector. With `has_scores` the similarity
    s_b is side information of each behavior: it moves the weight, and its weighted mean is a further output
    (SimScore).

    Also called: DIN, target attention. Paper: MUSE 2512.07216 short sequence (analog MUSE: the value is the
    key projection); SimScore: 2407.19467 (analog SimTier); scaling, mask and the recency bias are ours.

    Args:
        width: of the item representations. heads_width: D, of query and key.
        num_recencies: rows of the bias table, from which `forward` takes one for each behavior.
        has_scores: similarities are given, and two numbers more come out.
    """

    def __init__(self, width: int, heads_width: int, num_recencies: int = 1, has_scores: bool = False):
        super().__init__()
        self.query = nn.Linear(width, heads_width)
        self.key = nn.Linear(width, heads_width)
        self.recency = nn.Embedding(num_recencies, 1)
        self.score = nn.Parameter(torch.zeros(2)) if has_scores else None
        self.heads_width = heads_width

    @property
    def out_width(self) -> int:
        """Numbers that come out for each candidate."""
        return self.heads_width + (0 if self.score is None else 2)

    def forward(
        self,
        query_BND: Tensor,
        key_BSD: Tensor,
        recency_BS: Tensor,
        is_real_BS: Tensor,
        side: Comparison | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Interest (B, N, D) and weights (B, N, S) from projected queries and keys (`queries`, `keys`).

        With scores the interest ends in the mean similarity and the weight of behaviors that have one.
        """
        bias_BNS, extra = self._bias(recency_BS, side)
        scale = 1 / math.sqrt(self.heads_width)
        found_BND, weight_BNS = attend_at_once(query_BND, key_BSD, bias_BNS, is_real_BS, scale)
        return self._joined(found_BND, weight_BNS, extra), weight_BNS

    def over(
        self,
        query_BND: Tensor,
        key_UD: Tensor,
        item_BS: Tensor,
        recency_BS: Tensor,
        is_real_BS: Tensor,
        side: Comparison | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives for the keys `key_UD[item_BS]`, up to rounding, without making that tensor."""
        bias_BNS, extra = self._bias(recency_BS, side)
        bias_BNS = bias_BNS.expand(-1, query_BND.shape[1], -1)
        found_BND, weight_BNS = attend(
            query_BND, key_UD, item_BS, bias_BNS, is_real_BS, 1 / math.sqrt(self.heads_width)
        )
        return self._joined(found_BND, weight_BNS, extra), weight_BNS

    def _bias(self, recency_BS: Tensor, side: Comparison | None) -> tuple[Tensor, list[Tensor]]:
        """What is added to the scores, and what is averaged beside the keys."""
        bias_B1S = pick(self.recency.weight, recency_BS).squeeze(-1)[:, None]
        if self.score is None or side is None:
            return bias_B1S, []
        has_BNS = side.is_real_BNS.to(bias_B1S.dtype)
        known_BNS = side.similarity_BNS * has_BNS
        return bias_B1S + self.score[0] * known_BNS + self.score[1] * has_BNS, [known_BNS, has_BNS]

    @staticmethod
    def _joined(found_BND: Tensor, weight_BNS: Tensor, extra: list[Tensor]) -> Tensor:
        means = [(weight_BNS * part).sum(-1, keepdim=True) for part in extra]
        return torch.cat([found_BND, *means], -1) if means else found_BND

    def queries(self, item_D: Tensor) -> Tensor:
        """Project items as targets."""
        return F.silu(self.query(item_D))

    def keys(self, item_D: Tensor) -> Tensor:
        """Project items as behaviors."""
        return F.silu(self.key(item_D))


class SimilarityAttention(nn.Module):
    """Attention over found behaviors in which learned id scores and frozen similarities work together: SA-TA.

    Formula: a_id = q(e_t) k(e_b) / sqrt(D);  a = g1 a_id + g2 R / tau + g3 (a_id * R / tau);
    u = masked softmax(a)^T v(e_b), with q, k, v linear and swish, g and tau learned scalars.

    g2 = g3 = 0 is plain target attention; g1 = g3 = 0 weighs by content alone (CUBE's fusion-interest).

    Paper: MUSE 2512.07216 (analog MUSE: tau from the code, 0.1; g from 1; 1 / sqrt(D) from the equation).

    Args:
        width: of the item representations. heads_width: D, of query, key and value.
        uses_similarity: False leaves g2 and g3 out: target attention over what a search found.
    """

    def __init__(self, width: int, heads_width: int, uses_similarity: bool = True):
        super().__init__()
        self.query = nn.Linear(width, heads_width)
        self.key = nn.Linear(width, heads_width)
        self.value = nn.Linear(width, heads_width)
        self.gates = nn.Parameter(torch.ones(3)) if uses_similarity else None
        self.log_tau = nn.Parameter(torch.tensor(math.log(0.1))) if uses_similarity else None
        self.heads_width = heads_width

    def forward(
        self, query_BND: Tensor, key_BNSD: Tensor, value_BNSD: Tensor, found: Comparison
    ) -> tuple[Tensor, Tensor]:
        """Interest (B, N, D) and weights (B, N, S) from projected queries, keys and values.

        Args:
            found: similarity R of each found behavior, and which slots hold one.
        """
        id_BNS = (query_BND[:, :, None] * key_BNSD).sum(-1) / math.sqrt(self.heads_width)
        score_BNS = id_BNS
        if self.gates is not None and self.log_tau is not None:
            scaled_BNS = found.similarity_BNS / self.log_tau.exp()
            score_BNS = self.gates[0] * id_BNS + self.gates[1] * scaled_BNS
            score_BNS = score_BNS + self.gates[2] * (id_BNS * scaled_BNS)
        weight_BNS = masked_softmax(score_BNS, found.is_real_BNS)
        return (weight_BNS[..., None] * value_BNSD).sum(2), weight_BNS

    def project(self, target_BND: Tensor, item_UD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates as queries, items as keys and as values, each linear and swish."""
        return F.silu(self.query(target_BND)), F.silu(self.key(item_UD)), F.silu(self.value(item_UD))


class Tower(nn.Module):
    """Layers of linear and swish to one logit, the first split in two: the request's part is computed once.

    Formula: W [x_request; x_candidate] + b = W_r x_request + (W_c x_candidate + b), the same numbers as on
    the joined features, at the cost of one request instead of N.
    """

    def __init__(self, request_width: int, candidate_width: int, hidden: tuple[int, ...]):
        super().__init__()
        self.request = nn.Linear(request_width, hidden[0], bias=False)
        self.candidate = nn.Linear(candidate_width, hidden[0])
        self.deeper = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.out = nn.Linear(hidden[-1], 1, bias=False)

    def forward(self, request_BD: Tensor, candidate_BND: Tensor) -> Tensor:
        """Logits (B, N)."""
        x_BND = F.silu(self.request(request_BD)[:, None] + self.candidate(candidate_BND))
        for layer in self.deeper:
            x_BND = F.silu(layer(x_BND))
        return self.out(x_BND).squeeze(-1)
