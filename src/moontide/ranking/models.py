"""The click model: ids with attention over behaviors, and a content branch that reads frozen vectors.

    shopper, query, hour ──► embeddings ─────────────────────────────────────────┐
    candidate ──► product, category, brand, merchant, price embeddings ──┬───────┤
                                             sums of both ──► cross ─────│───────┤
    behaviors ──► the same embeddings ──► target attention ──────────────┘───────┼──► tower ──► click logit
    behaviors equal to the candidate, field by field ──► log counts ─────────────┤  + linear
    counters, age, price ──► scaled numbers ─────────────────────────────────────┤
    vectors ──► cosines ──► SimTier, query cosine, presence flags (content) ─────┘

The slot an impression was shown in is a separate, additive logit (a bias tower): it explains away in
training what the slot did, and when scoring it is replaced by its mean over the training log. So a score
means "p(click) at an average position", candidates of one request are compared at equal position, and no
feature knows the position.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pydantic
import torch
from torch import Tensor, nn

from moontide.foundation.seeds import seed_of
from moontide.foundation.settings import Settings
from moontide.ranking.batches import NUM_HOURS, NUM_RECENCIES, REQUEST_FIELDS, Batch, Content
from moontide.ranking.counters import FEATURES
from moontide.ranking.entities import ATTRIBUTE, PRODUCT_FIELDS
from moontide.ranking.layers import SimTier, TargetAttention, Tower

BEHAVIOR_FIELDS = ("product", "leaf", "brand", "price_band")  # of a behavior's product; and attributes
CONTENT_FLAGS = 4
POSITION_PRIOR = 100.0  # impressions at the mean CTR that a slot's first bias starts from


class ClickSettings(Settings):
    """What a click model sees and how wide it is."""

    use_content: bool = pydantic.Field(
        False, description="content branch: SimTier and query cosine of vectors"
    )
    use_attributes: bool = pydantic.Field(False, description="attribute values as id fields of products")
    use_counters: bool = pydantic.Field(True, description="counts known before the impression")
    use_query_history: bool = pydantic.Field(False, description="second SimTier: the query against behaviors")
    use_creative: bool = pydantic.Field(
        False, description="third SimTier: the creative shown against behaviors"
    )
    tiers: int = pydantic.Field(20, ge=2, le=200, description="similarity tiers over [-1, 1]")
    plain_counts: bool = pydantic.Field(False, description="tier counts as they are, without log and scale")
    history: int = pydantic.Field(50, ge=1, le=1000, description="latest behaviors read, steps")
    width: int = pydantic.Field(16, ge=1, description="numbers of one id embedding")
    attention: int = pydantic.Field(32, ge=1, description="width of queries and keys")
    hidden: tuple[int, ...] = pydantic.Field(
        (128, 64), min_length=1, description="widths of the tower's layers"
    )

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ClickSettings:
        if (self.use_query_history or self.use_creative) and not self.use_content:
            raise ValueError("use_query_history and use_creative need use_content")
        return self


class ClickModel(nn.Module):
    """p(click) of candidates from ids, behaviors, counters and, with `use_content`, frozen vectors.

    Paper: MIM (2502.00321) as its documented relatives: DIN (analog MUSE) and SimTier (analog SimTier). The
    crossing of field sums, the linear part and the additive position are ours.

    Args:
        sizes: field -> rows of its embedding table (`Vocabulary.sizes`).
        settings: what it sees.
        num_positions: slots of the log; later ones share the last bias.
    """

    dense_mean: Tensor
    dense_scale: Tensor
    cosine_mean: Tensor
    cosine_scale: Tensor
    base_logit: Tensor
    position_share: Tensor

    def __init__(self, sizes: dict[str, int], settings: ClickSettings, num_positions: int = 1):
        super().__init__()
        self.sizes, self.settings, self.num_positions = dict(sizes), settings, num_positions
        self.attributes = tuple(
            name for name in sizes if name.startswith(ATTRIBUTE) and settings.use_attributes
        )
        self.item_fields = PRODUCT_FIELDS + self.attributes
        behavior = BEHAVIOR_FIELDS + self.attributes
        self.behavior_places = [self.item_fields.index(name) for name in behavior]
        width = settings.width
        rows = {**sizes, "hour": NUM_HOURS}
        self.tables = nn.ModuleDict(
            {_key(name): nn.Embedding(rows[name], width) for name in REQUEST_FIELDS + self.item_fields}
        )
        self.interest = TargetAttention(len(behavior) * width, settings.attention, NUM_RECENCIES)
        kinds = 1 + settings.use_query_history + settings.use_creative if settings.use_content else 0
        self.tiers = nn.ModuleList(SimTier(settings.tiers, settings.plain_counts) for _ in range(kinds))
        num_dense = len(behavior) + (len(FEATURES) if settings.use_counters else 0)
        num_content = kinds * settings.tiers + 1 + CONTENT_FLAGS if settings.use_content else 0
        wide = num_dense + num_content
        candidate = len(self.item_fields) * width + width + 2 * settings.attention + wide
        self.tower = Tower(len(REQUEST_FIELDS) * width + 2, candidate, settings.hidden)
        self.wide = nn.Linear(wide, 1)
        self.position = nn.Embedding(num_positions, 1)
        for name, size in (("dense", len(FEATURES)), ("cosine", 1)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.register_buffer("base_logit", torch.zeros(1))
        self.register_buffer("position_share", torch.full((num_positions,), 1 / num_positions))

    def initialize(self, seed: int) -> None:
        """Draw all weights; each has its own stream, so that models that share a part start it alike."""
        for name, weight in self.named_parameters():
            rng = torch.Generator().manual_seed(seed_of(seed, "click model", name) % 2**62)
            with torch.no_grad():
                if name.startswith("tables."):
                    weight.normal_(0, 0.05, generator=rng)
                elif name.startswith("tiers."):
                    weight.fill_(1.0)
                elif weight.ndim < 2 or name.startswith(("wide.", "position.", "interest.recency")):
                    weight.zero_()
                else:
                    weight.uniform_(-1, 1, generator=rng).mul_(math.sqrt(3 / weight.shape[1]))

    def fit_scales(self, batch: Batch, shows_P: np.ndarray, clicks_P: np.ndarray) -> None:
        """Set what is measured, not learned: scales of the numbers, the base rate, the slots' shares."""
        _fit(self.dense_mean, self.dense_scale, batch.dense_BNF.reshape(-1, len(FEATURES)))
        if batch.content is not None:
            there = batch.content.flags_BNF[..., 2] > 0
            _fit(self.cosine_mean, self.cosine_scale, batch.content.query_cosine_BN[there][:, None])
        ctr = min(max(clicks_P.sum() / shows_P.sum(), 1e-6), 1 - 1e-6)
        self.base_logit.fill_(math.log(ctr / (1 - ctr)))
        self.position_share.copy_(torch.from_numpy(shows_P / shows_P.sum()))
        # Slots start at what their own CTR says; training takes out of it what was shown there, not the slot.
        ctr_P = (clicks_P + POSITION_PRIOR * ctr) / (shows_P + POSITION_PRIOR)
        bias_P = np.log(ctr_P / (1 - ctr_P)) - math.log(ctr / (1 - ctr))
        with torch.no_grad():
            self.position.weight.copy_(torch.from_numpy(bias_P[:, None]))

    def forward(self, batch: Batch) -> Tensor:
        """Click logits (B, N) without the position's part."""
        request_BFK = self._embed(REQUEST_FIELDS, batch.request_rows_BF)
        item_UFK = self._embed(self.item_fields, batch.item_rows_UF)
        interest_BNA, match_BNA = self._interest(item_UFK, batch)
        shape_BN = batch.product_item_BN.shape
        product_BNFK = _pick(item_UFK.flatten(1), batch.product_item_BN).unflatten(-1, item_UFK.shape[1:])
        cross_BNK = request_BFK.sum(1)[:, None] * product_BNFK.sum(2)
        length_B1 = batch.is_real_BS.sum(1, keepdim=True).float()
        request_BD = torch.cat([request_BFK.flatten(1), torch.log1p(length_B1), (length_B1 == 0).float()], -1)
        wide = [self._matches(batch)]
        if self.settings.use_counters:
            wide.append((batch.dense_BNF - self.dense_mean) / self.dense_scale)
        if self.settings.use_content:
            assert batch.content is not None
            wide.append(self._content(batch.content, shape_BN))
        parts = [product_BNFK.flatten(2), cross_BNK, interest_BNA, match_BNA, *wide]
        logit_BN = self.base_logit + self.tower(request_BD, torch.cat(parts, -1))
        return logit_BN + self.wide(torch.cat(wide, -1)).squeeze(-1)

    def position_logit(self, position_BN: Tensor | None) -> Tensor:
        """What the slot adds to a logit: 0 on average over the training log, and when it is not known."""
        bias_P = self.position.weight.squeeze(-1)
        bias_P = bias_P - (self.position_share * bias_P).sum()
        if position_BN is None:
            return bias_P.new_zeros(())
        known = position_BN >= 0
        return bias_P[position_BN.clamp(0, self.num_positions - 1)] * known

    def _embed(self, fields: tuple[str, ...], rows: Tensor) -> Tensor:
        columns = [self.tables[_key(name)](rows[:, place]) for place, name in enumerate(fields)]
        return torch.stack(columns, dim=1)

    def _interest(self, item_UFK: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        item_UD = item_UFK[:, self.behavior_places].flatten(1)
        query_BNA = _pick(self.interest.queries(item_UD), batch.product_item_BN)
        key_BSA = _pick(self.interest.keys(item_UD), batch.behavior_item_BS)
        interest_BNA, _ = self.interest(query_BNA, key_BSA, batch.recency_BS, batch.is_real_BS)
        return interest_BNA, interest_BNA * query_BNA

    def _matches(self, batch: Batch) -> Tensor:
        """log(1 + behaviors that equal the candidate) in each behavior field: SimTier's counterpart for ids.

        Without it, vectors would be credited for telling that a product is the one clicked before.
        """
        counts = [_same(batch.product_item_BN, batch.behavior_item_BS, batch.is_real_BS)]
        for place in self.behavior_places[1:]:
            row_U = batch.item_rows_UF[:, place]
            past_BS = row_U[batch.behavior_item_BS]
            counts.append(_same(row_U[batch.product_item_BN], past_BS, batch.is_real_BS & (past_BS > 0)))
        return torch.log1p(torch.stack(counts, -1))

    def _content(self, content: Content, shape_BN: torch.Size) -> Tensor:
        comparisons = [content.history]
        if self.settings.use_query_history:
            assert content.query_history is not None
            comparisons.append(content.query_history)
        if self.settings.use_creative:
            assert content.creative_history is not None
            comparisons.append(content.creative_history)
        parts = [
            tiers(comparison.similarity_BNS, comparison.is_real_BNS).expand(*shape_BN, -1)
            for tiers, comparison in zip(self.tiers, comparisons, strict=True)
        ]
        cosine_BN = (
            (content.query_cosine_BN - self.cosine_mean) / self.cosine_scale * content.flags_BNF[..., 2]
        )
        return torch.cat([*parts, cosine_BN[..., None], content.flags_BNF], -1)


def _key(field: str) -> str:
    """A field's name as a module's: no dots or spaces, and never one of a module's own methods."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in field)
    mark = "" if plain == field else hashlib.sha256(field.encode()).hexdigest()[:6]
    return f"{plain}_{mark}"


def _same(target_BN: Tensor, past_BS: Tensor, counts_BS: Tensor) -> Tensor:
    return ((target_BN[:, :, None] == past_BS[:, None]) & counts_BS[:, None]).sum(-1).float()


def _pick(table_UD: Tensor, index: Tensor) -> Tensor:
    return nn.functional.embedding(index, table_UD)


def _fit(mean: Tensor, scale: Tensor, rows: Tensor) -> None:
    if len(rows) > 1:
        mean.copy_(rows.double().mean(0))
        scale.copy_(rows.double().std(0))
        scale[scale < 1e-6] = 1.0  # a constant column: leave its zeros zero
