"""What a click model takes from frozen vectors: heads that can be switched on one by one.

    vector    the vector, projected, is one more field of every item
    score     SimScore: the similarity is side information of every behavior
    tiers     SimTier: a histogram of the behaviors' similarities
    match     cos(candidate, query)
    cube      CUBE: content-interest, fusion-interest, the cosines, projected vectors
    make      MAKE: a content model of its own, trained first
    semantic  cluster codes as id fields

`vector`, `score` and `semantic` act inside the ID part (`models.py`); here are the others. A missing vector
is masked and flagged everywhere: presence flags are inputs whatever else is on.

Letters: B requests, N candidates, S behavior steps, U distinct items, V distinct past queries, D width.
"""

# ruff: noqa: N815 - fields are named by their dimensions, as tensors are everywhere

from __future__ import annotations

from dataclasses import dataclass

import pydantic
import torch
from torch import Tensor, nn

from moontide.foundation.settings import Settings
from moontide.ranking.batches import NUM_RECENCIES, Batch
from moontide.ranking.cube import CubeSettings, Interest
from moontide.ranking.layers import Comparison, SimTier
from moontide.ranking.make import Make, MakeSettings
from moontide.ranking.search import similarities
from moontide.ranking.semantic import SemanticSettings

NUM_FLAGS = 5


class ContentSettings(Settings):
    """What a click model takes from frozen vectors; each part is a switch."""

    tiers: int = pydantic.Field(20, ge=0, le=200, description="SimTier: tiers over [-1, 1]; 0: none")
    plain_counts: bool = pydantic.Field(False, description="tier counts as they are, without log and scale")
    match: bool = pydantic.Field(True, description="cosine of candidate and query")
    score: bool = pydantic.Field(False, description="SimScore: similarity as side information of behaviors")
    vector: bool = pydantic.Field(False, description="Vector: projected vectors as a field of every item")
    asked: bool = pydantic.Field(False, description="a SimTier of the query against behaviors")
    past_queries: bool = pydantic.Field(False, description="a SimTier of the candidate against past queries")
    creative: bool = pydantic.Field(False, description="a SimTier of the creative shown against behaviors")
    cube: CubeSettings | None = pydantic.Field(None, description="CUBE; None: none")
    make: MakeSettings | None = pydantic.Field(None, description="MAKE; None: none")
    semantic: SemanticSettings | None = pydantic.Field(None, description="semantic ids; None: none")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ContentSettings:
        if not self.tiers and (self.asked or self.past_queries or self.creative or self.plain_counts):
            raise ValueError(
                "asked, past_queries, creative and plain_counts are about tiers: set tiers above 0"
            )
        return self

    @property
    def reads_past_queries(self) -> bool:
        """Whether the queries behind the behaviors are read."""
        return self.past_queries or (self.cube is not None and self.cube.has_queries)


@dataclass
class Near:
    """Cosines that several parts of the model read, computed once.

    Args:
        history: candidates against the latest behaviors. asked: the query against them, N = 1.
        match_BN: candidate against query. has_target_BN, has_query_B, has_past_BS: what has a vector.
    """

    history: Comparison
    asked: Comparison
    match_BN: Tensor
    has_target_BN: Tensor
    has_query_B: Tensor
    has_past_BS: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Near | None:
        """The cosines of a batch; None without vectors."""
        content, short = batch.content, batch.short
        if content is None:
            return None
        target_BN = batch.product_item_BN
        has_target_BN = content.has_item_U[target_BN]
        has_past_BS = content.has_item_U[short.item_BS] & short.is_real_BS
        history_BNS = similarities(content.item_UD, target_BN, short.item_BS)
        row_B1 = torch.arange(len(target_BN), device=target_BN.device)[:, None]
        asked_BNS = similarities(content.query_BD, row_B1, short.item_BS, content.item_UD)
        match_BN = (content.item_UD[target_BN] * content.query_BD[:, None]).sum(-1)
        return cls(
            history=Comparison(history_BNS, has_target_BN[..., None] & has_past_BS[:, None]),
            asked=Comparison(asked_BNS, (content.has_query_B[:, None] & has_past_BS)[:, None]),
            match_BN=match_BN,
            has_target_BN=has_target_BN,
            has_query_B=content.has_query_B,
            has_past_BS=has_past_BS,
        )


class ContentHeads(nn.Module):
    """The heads that are on, as features for the tower and for the linear part.

    Args:
        dim: of the frozen vectors. item_width: of a behavior's id representation. query_width: of a query's.
        steps: of the latest behaviors.
        settings: which heads.
    """

    match_mean: Tensor
    match_scale: Tensor

    def __init__(self, dim: int, item_width: int, query_width: int, steps: int, settings: ContentSettings):
        super().__init__()
        self.settings = settings
        kinds = 1 + settings.asked + settings.past_queries + settings.creative if settings.tiers else 0
        self.tiers = nn.ModuleList(SimTier(settings.tiers, settings.plain_counts) for _ in range(kinds))
        self.deep_width = 0
        self.wide_width = kinds * settings.tiers + NUM_FLAGS + settings.match
        self.item_interest = self.query_interest = self.look = self.ask = self.make = None
        cube = settings.cube
        if cube is not None:
            self.item_interest = Interest(dim, item_width, steps, cube)
            self.deep_width += self.item_interest.out_width
            if cube.has_queries:
                self.query_interest = Interest(dim, query_width, steps, cube)
                self.deep_width += self.query_interest.out_width
            self.look = nn.Linear(dim, cube.width, bias=False) if "target" in cube.parts else None
            self.ask = nn.Linear(dim, cube.width, bias=False) if "query" in cube.parts else None
            self.deep_width += cube.width * ((self.look is not None) + (self.ask is not None))
            self.wide_width += self.has_cube_match
        if settings.make is not None:
            self.make = Make(dim, NUM_RECENCIES, settings.make)
            self.deep_width += self.make.out_width
        self.register_buffer("match_mean", torch.zeros(1))
        self.register_buffer("match_scale", torch.ones(1))

    @property
    def has_cube_match(self) -> bool:
        """Whether CUBE alone asks for the cosine of candidate and query."""
        cube = self.settings.cube
        return cube is not None and "match" in cube.parts and not self.settings.match

    def fit_scales(self, batch: Batch) -> None:
        """Measure the mean and spread of cos(candidate, query)."""
        near = Near.of(batch)
        assert near is not None
        known = near.match_BN[near.has_target_BN & near.has_query_B[:, None]].double()
        if len(known) > 1:
            self.match_mean.fill_(known.mean())
            self.match_scale.fill_(max(float(known.std()), 1e-6))

    def make_logit(self, batch: Batch) -> Tensor:
        """The content model's own click logits (B, N): what MAKE's first phase trains."""
        return self._make(batch)[1]

    def forward(
        self, batch: Batch, near: Near, past_UD: Tensor, query_VK: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features (B, N, some width) for the tower alone, and those the linear part sees, too.

        Args:
            near: cosines of the batch. past_UD: id representations of the distinct items as behaviors.
            query_VK: embeddings of the distinct past queries.
        """
        content = batch.content
        assert content is not None
        shape_BN = batch.product_item_BN.shape
        deep: list[Tensor] = []
        wide = [self._tiers(batch, near), self._flags(batch, near)]
        if self.settings.match or self.has_cube_match:
            both_BN = near.has_target_BN & near.has_query_B[:, None]
            wide.append(((near.match_BN - self.match_mean) / self.match_scale * both_BN)[..., None])
        if self.item_interest is not None:
            item_BS = batch.short.item_BS
            deep += self.item_interest(near.history, near.asked, content.item_UD, past_UD, item_BS)
        if self.query_interest is not None:
            assert batch.queries is not None
            assert batch.short.query_BS is not None
            assert query_VK is not None
            near_queries, asked_queries = past_query_nears(batch)
            vector_VD, place_BS = batch.queries.vector_VD, batch.short.query_BS
            deep += self.query_interest(near_queries, asked_queries, vector_VD, query_VK, place_BS)
        if self.look is not None:
            deep.append(self.look(content.item_UD)[batch.product_item_BN])
        if self.ask is not None:
            deep.append(self.ask(content.query_BD)[:, None].expand(*shape_BN, -1))
        if self.make is not None:
            deep.append(self._make(batch)[0])
        return deep, wide

    def _tiers(self, batch: Batch, near: Near) -> Tensor:
        settings, shape_BN = self.settings, batch.product_item_BN.shape
        compared = [near.history] if settings.tiers else []
        if settings.asked:
            compared.append(near.asked)
        if settings.past_queries:
            compared.append(past_query_nears(batch)[0])
        if settings.creative:
            compared.append(_creative_near(batch, near))
        parts = [
            tiers(one.similarity_BNS, one.is_real_BNS).expand(*shape_BN, -1)
            for tiers, one in zip(self.tiers, compared, strict=True)
        ]
        return torch.cat(parts, -1) if parts else near.match_BN.new_zeros(*shape_BN, 0)

    def _flags(self, batch: Batch, near: Near) -> Tensor:
        """Which vectors are there: candidate, query, both; share of behaviors that have one; no history."""
        short, shape_BN = batch.short, batch.product_item_BN.shape
        num_B1 = short.is_real_BS.sum(1, keepdim=True)
        share_B1 = near.has_past_BS.sum(1, keepdim=True) / num_B1.clamp_min(1)
        has_query_BN = near.has_query_B[:, None].expand(shape_BN)
        flags = [near.has_target_BN, has_query_BN, near.has_target_BN & has_query_BN]
        flags += [share_B1.expand(shape_BN), (num_B1 == 0).expand(shape_BN)]
        return torch.stack([flag.to(near.match_BN.dtype) for flag in flags], -1)

    def _make(self, batch: Batch) -> tuple[Tensor, Tensor]:
        content, short = batch.content, batch.short
        assert self.make is not None
        assert content is not None
        has_past_BS = content.has_item_U[short.item_BS] & short.is_real_BS
        rows = (batch.product_item_BN, short.item_BS, short.recency_BS)
        return self.make(content.item_UD, *rows, has_past_BS, content.query_BD)


def past_query_nears(batch: Batch) -> tuple[Comparison, Comparison]:
    """Cosines of candidates, and of the query asked (N = 1), with the queries behind the behaviors."""
    content, queries, short = batch.content, batch.queries, batch.short
    assert content is not None
    assert queries is not None
    assert short.query_BS is not None
    has_BS = queries.has_vector_V[short.query_BS] & short.is_real_BS
    target_BN = batch.product_item_BN
    near_BNS = similarities(content.item_UD, target_BN, short.query_BS, queries.vector_VD)
    row_B1 = torch.arange(len(target_BN), device=target_BN.device)[:, None]
    asked_BNS = similarities(content.query_BD, row_B1, short.query_BS, queries.vector_VD)
    has_target_BN = content.has_item_U[target_BN]
    return (
        Comparison(near_BNS, has_target_BN[..., None] & has_BS[:, None]),
        Comparison(asked_BNS, (content.has_query_B[:, None] & has_BS)[:, None]),
    )


def _creative_near(batch: Batch, near: Near) -> Comparison:
    content, short = batch.content, batch.short
    assert content is not None
    assert content.creative_BND is not None
    assert content.has_creative_BN is not None
    past_BSD = content.item_UD[short.item_BS]
    similarity_BNS = content.creative_BND @ past_BSD.transpose(1, 2)
    return Comparison(similarity_BNS, content.has_creative_BN[..., None] & near.has_past_BS[:, None])
