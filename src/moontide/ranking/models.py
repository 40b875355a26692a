"""The click model: ids with attention over behaviors, and a content branch that reads frozen vectors.

    shopper, query, hour ──► embeddings ─────────────────────────────────────────┐
    candidate ──► product, category, brand, merchant, price embeddings ──┬───────┤
                                             sums of both ──► cross ─────│───────┤
    latest behaviors ──► the same embeddings ──► target attention ───────┤───────┼──► tower ──► click logit
    all behaviors ──► search ──► the best K ──► exact unit ──────────────┘───────┤  + linear
    behaviors equal to the candidate, field by field ──► log counts ─────────────┤
    counters, age, price ──► scaled numbers ─────────────────────────────────────┤
    vectors ──► SimTier, cosines, CUBE, MAKE, presence flags (`heads.py`) ───────┘

Every published model is one composition of these parts, chosen by `ClickSettings`: DIN has no content, SIM
adds a search, MUSE searches by content, CUBE weighs by it, MAKE brings a model of its own.

The slot an impression was shown in is a separate, additive logit (a bias tower): it explains away in
training what the slot did, and when scoring it is replaced by its mean over the training log. So a score
means "p(click) at an average position", candidates of one request are compared at equal position, and no
feature knows the position.

Letters: B requests, N candidates, S behavior steps, U distinct items, F fields, K width of an id, D width.
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
from moontide.ranking.batches import NUM_HOURS, NUM_RECENCIES, Batch, Behaviors, request_fields
from moontide.ranking.counters import FEATURES
from moontide.ranking.entities import ATTRIBUTE, PRODUCT_FIELDS
from moontide.ranking.heads import ContentHeads, ContentSettings, Near
from moontide.ranking.layers import Comparison, SimilarityAttention, SimTier, TargetAttention, Tower
from moontide.ranking.lookup import pick
from moontide.ranking.search import SearchSettings, find, found_of, similarities
from moontide.ranking.semantic import codes_of

BEHAVIOR_FIELDS = ("product", "leaf", "brand", "price_band")  # of a behavior's product; and attributes
LEAF = PRODUCT_FIELDS.index("leaf")
SEMANTIC = "semantic:"  # prefix of a field made of one level of semantic ids
POSITION_PRIOR = 100.0  # impressions at the mean CTR that a slot's first bias starts from


class ClickSettings(Settings):
    """What a click model sees and how wide it is."""

    content: ContentSettings | None = pydantic.Field(
        None, description="what it takes from frozen vectors; None: ids alone"
    )
    search: SearchSettings | None = pydantic.Field(
        None, description="a long history beside the latest behaviors; None: none"
    )
    use_interest: bool = pydantic.Field(True, description="target attention over the latest behaviors")
    use_attributes: bool = pydantic.Field(False, description="attribute values as id fields of products")
    use_counters: bool = pydantic.Field(True, description="counts known before the impression")
    history: int = pydantic.Field(50, ge=1, le=1000, description="latest behaviors read, steps")
    width: int = pydantic.Field(16, ge=1, description="numbers of one id embedding")
    attention: int = pydantic.Field(32, ge=1, description="width of queries and keys")
    hidden: tuple[int, ...] = pydantic.Field(
        (128, 64), min_length=1, description="widths of the tower's layers"
    )

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ClickSettings:
        if self.search is not None and self.search.needs_vectors and self.content is None:
            raise ValueError(
                "a search by content, or with similarities in its exact unit, needs content: set it, or "
                "search by category or id with unit='attention' and tiers=0"
            )
        return self

    @property
    def all_steps(self) -> int:
        """Behaviors of a request that are read at all."""
        return max(self.history, self.search.steps if self.search is not None else 0)

    @property
    def reads_vectors(self) -> bool:
        """Whether the model needs frozen vectors."""
        return self.content is not None


class ClickModel(nn.Module):
    """p(click) of candidates from ids, behaviors, counters and, with `content`, frozen vectors.

    Paper: MIM (2502.00321) as its documented relatives: DIN (analog MUSE), SimTier and MAKE (2407.19467),
    MUSE (2512.07216), and CUBE of MOON Embedding (2511.11305). The crossing of field sums, the linear part
    and the additive position are ours.

    Args:
        sizes: field -> rows of its embedding table (`Vocabulary.sizes`).
        settings: what it sees.
        num_positions: slots of the log; later ones share the last bias.
        dim: of the frozen vectors, 0 without content.
    """

    dense_mean: Tensor
    dense_scale: Tensor
    base_logit: Tensor
    position_share: Tensor
    semantic_centers: Tensor

    def __init__(self, sizes: dict[str, int], settings: ClickSettings, num_positions: int = 1, dim: int = 0):
        super().__init__()
        self.sizes, self.settings, self.num_positions, self.dim = dict(sizes), settings, num_positions, dim
        content, search, width = settings.content, settings.search, settings.width
        self.attributes = tuple(
            name for name in sizes if name.startswith(ATTRIBUTE) and settings.use_attributes
        )
        self.request_fields = request_fields(sizes)
        rows = {**sizes, "hour": NUM_HOURS}
        semantic: tuple[str, ...] = ()
        if content is not None and content.semantic is not None:
            levels, codes = content.semantic.levels, content.semantic.codes
            semantic = tuple(f"{SEMANTIC}{level}" for level in range(levels))
            rows |= dict.fromkeys(semantic, codes + 1)
            self.register_buffer("semantic_centers", torch.zeros(levels, codes, dim))
        self.item_fields = PRODUCT_FIELDS + self.attributes + semantic
        behavior = BEHAVIOR_FIELDS + self.attributes + semantic
        self.behavior_places = [self.item_fields.index(name) for name in behavior]
        self.tables = nn.ModuleDict(
            {_key(name): nn.Embedding(rows[name], width) for name in self.request_fields + self.item_fields}
        )
        self.look = nn.Linear(dim, width, bias=False) if content is not None and content.vector else None
        item = (len(behavior) + (self.look is not None)) * width
        parts = (len(self.item_fields) + (self.look is not None)) * width + width
        self.interest = None
        if settings.use_interest:
            has_scores = content is not None and content.score
            self.interest = TargetAttention(item, settings.attention, NUM_RECENCIES, has_scores)
            parts += self.interest.out_width + settings.attention
        self.exact, self.found_tiers = None, None
        if search is not None:
            self.exact = SimilarityAttention(item, settings.attention, search.unit == "similarity")
            parts += 2 * settings.attention
            self.found_tiers = SimTier(search.tiers) if search.tiers else None
        num_wide = len(behavior) + (len(FEATURES) if settings.use_counters else 0)
        num_wide += search.tiers if search is not None else 0
        self.heads = None
        if content is not None:
            self.heads = ContentHeads(dim, item, width, settings.history, content)
            parts, num_wide = parts + self.heads.deep_width, num_wide + self.heads.wide_width
        self.tower = Tower(len(self.request_fields) * width + 2, parts + num_wide, settings.hidden)
        self.wide = nn.Linear(num_wide, 1)
        self.position = nn.Embedding(num_positions, 1)
        self.register_buffer("dense_mean", torch.zeros(len(FEATURES)))
        self.register_buffer("dense_scale", torch.ones(len(FEATURES)))
        self.register_buffer("base_logit", torch.zeros(1))
        self.register_buffer("position_share", torch.full((num_positions,), 1 / num_positions))

    def initialize(self, seed: int) -> None:
        """Draw all weights; each has its own stream, so that models that share a part start it alike."""
        for name, weight in self.named_parameters():
            rng = torch.Generator().manual_seed(seed_of(seed, "click model", name) % 2**62)
            with torch.no_grad():
                if name.startswith("tables."):
                    weight.normal_(0, 0.05, generator=rng)
                elif ".tiers." in name or name.startswith("found_tiers.") or name.endswith(".gates"):
                    weight.fill_(1.0)
                elif name.endswith("log_tau"):
                    weight.fill_(math.log(0.1))
                elif weight.ndim < 2 or name.startswith(("wide.", "position.")) or ".recency." in name:
                    weight.zero_()
                else:
                    weight.uniform_(-1, 1, generator=rng).mul_(math.sqrt(3 / weight.shape[1]))

    def fit_scales(self, batch: Batch, shows_P: np.ndarray, clicks_P: np.ndarray) -> None:
        """Set what is measured, not learned: scales of the numbers, the base rate, the slots' shares."""
        fit_scale(self.dense_mean, self.dense_scale, batch.dense_BNF.reshape(-1, len(FEATURES)))
        if self.heads is not None:
            self.heads.fit_scales(batch)
        ctr = min(max(clicks_P.sum() / shows_P.sum(), 1e-6), 1 - 1e-6)
        self.base_logit.fill_(math.log(ctr / (1 - ctr)))
        self.position_share.copy_(torch.from_numpy(shows_P / shows_P.sum()))
        # Slots start at what their own CTR says; training takes out of it what was shown there, not the slot.
        ctr_P = (clicks_P + POSITION_PRIOR * ctr) / (shows_P + POSITION_PRIOR)
        bias_P = np.log(ctr_P / (1 - ctr_P)) - math.log(ctr / (1 - ctr))
        with torch.no_grad():
            self.position.weight.copy_(torch.from_numpy(bias_P[:, None]))

    def quick_parameters(self) -> set[str]:
        """Names of the weights that see few or single inputs at a time and learn at the tables' rate."""
        quick = ("tables.", "wide.", "position.", "heads.tiers.", "found_tiers.", "interest.recency")
        quick += ("interest.score", "exact.gates", "exact.log_tau")
        return {name for name, _ in self.named_parameters() if name.startswith(quick)}

    def forward(self, batch: Batch) -> Tensor:
        """Click logits (B, N) without the position's part."""
        request_BFK = self._embed(self.request_fields, batch.request_rows_BF)
        past_UD = self._as_behaviors(batch)
        target_BND = pick(past_UD, batch.product_item_BN)
        product_BNFK = self._products(batch, target_BND)
        cross_BNK = request_BFK.sum(1)[:, None] * product_BNFK.sum(2)
        length_B1 = batch.short.is_real_BS.sum(1, keepdim=True).float()
        request_BD = torch.cat([request_BFK.flatten(1), torch.log1p(length_B1), (length_B1 == 0).float()], -1)
        near = Near.of(batch)
        deep, wide = [product_BNFK.flatten(2), cross_BNK], [self._matches(batch)]
        if self.interest is not None:
            deep += self._interest(past_UD, target_BND, batch, near)
        if self.exact is not None:
            found, tiers = self._search(past_UD, target_BND, batch)
            deep, wide = deep + found, wide + tiers
        if self.settings.use_counters:
            wide.append((batch.dense_BNF - self.dense_mean) / self.dense_scale)
        if self.heads is not None:
            assert near is not None
            query_VK = None
            if batch.queries is not None:
                query_VK = self.tables[_key("query")](batch.queries.row_V)
            more_deep, more_wide = self.heads(batch, near, past_UD, query_VK)
            deep, wide = deep + more_deep, wide + more_wide
        logit_BN = self.base_logit + self.tower(request_BD, torch.cat([*deep, *wide], -1))
        return logit_BN + self.wide(torch.cat(wide, -1)).squeeze(-1)

    def position_logit(self, position_BN: Tensor | None) -> Tensor:
        """What the slot adds to a logit: 0 on average over the training log, and when it is not known."""
        bias_P = self.position.weight.squeeze(-1)
        bias_P = bias_P - (self.position_share * bias_P).sum()
        if position_BN is None:
            return bias_P.new_zeros(())
        return torch.where(position_BN >= 0, bias_P[position_BN.clamp(0, self.num_positions - 1)], 0.0)

    def semantic_codes(self, vectors: np.ndarray, present: np.ndarray) -> np.ndarray | None:
        """(rows, levels) semantic ids of vectors by the model's own centers; None without any."""
        if not any(name.startswith(SEMANTIC) for name in self.item_fields):
            return None
        return codes_of(vectors, present, self.semantic_centers.numpy())

    def _embed(self, fields: tuple[str, ...], rows: Tensor) -> Tensor:
        """Embeddings (rows, fields, width) of table rows (rows, fields)."""
        columns = [self._column(name, rows[:, place]) for place, name in enumerate(fields)]
        return torch.stack(columns, dim=1)

    def _column(self, field: str, rows: Tensor) -> Tensor:
        """Embeddings (..., width) of one field's table rows."""
        table = self.tables[_key(field)]
        assert isinstance(table, nn.Embedding)
        return table(rows) if table.sparse else pick(table.weight, rows)

    def _as_behaviors(self, batch: Batch) -> Tensor:
        """(U, D) of the distinct items: fields that stand for a behavior, and a projected vector, joined."""
        columns = [
            self._column(self.item_fields[place], batch.item_rows_UF[:, place])
            for place in self.behavior_places
        ]
        if self.look is not None:
            assert batch.content is not None
            columns.append(self.look(batch.content.item_UD))
        return torch.cat(columns, 1)

    def _products(self, batch: Batch, target_BND: Tensor) -> Tensor:
        """(B, N, fields, width) of the candidates; a projected vector is one field more.

        What stands for a behavior, too, comes in `target_BND`; other fields are looked up here.
        """
        known = list(target_BND.unflatten(-1, (-1, self.settings.width)).unbind(2))
        place_of = {place: number for number, place in enumerate(self.behavior_places)}
        rows_BNF = batch.item_rows_UF[batch.product_item_BN]
        fields = [
            known[place_of[place]] if place in place_of else self._column(name, rows_BNF[..., place])
            for place, name in enumerate(self.item_fields)
        ]
        return torch.stack(fields + known[len(place_of) :], 2)

    def _interest(self, past_UD: Tensor, target_BND: Tensor, batch: Batch, near: Near | None) -> list[Tensor]:
        """What the latest behaviors say, and its product with the candidate."""
        interest, short = self.interest, batch.short
        assert interest is not None
        query_BNA, key_UA = interest.queries(target_BND), interest.keys(past_UD)
        side = near.history if near is not None else None
        found_BNA, _ = interest.over(
            query_BNA, key_UA, short.item_BS, short.recency_BS, short.is_real_BS, side
        )
        return [found_BNA, found_BNA[..., : self.settings.attention] * query_BNA]

    def _search(self, past_UD: Tensor, target_BND: Tensor, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """What the found part of the long history says, and its tiers of similarity."""
        search, long = self.settings.search, batch.long
        assert search is not None
        assert long is not None
        assert self.exact is not None
        with torch.no_grad():
            near = long_near(batch) if search.needs_vectors else None
            score_BNS, is_real_BNS = self._search_scores(past_UD, batch, long, near)
            step_BNK, is_found_BNK = find(score_BNS, is_real_BNS, search.top)
            if near is None or (search.unit == "attention" and not search.tiers):
                found = Comparison(torch.zeros_like(step_BNK, dtype=past_UD.dtype), is_found_BNK)
            else:
                found = found_of(near.similarity_BNS, near.is_real_BNS, step_BNK, is_found_BNK)
        item_BNK = long.item_BS[:, None].expand(-1, step_BNK.shape[1], -1).gather(2, step_BNK)
        query_BNA, key_UA, value_UA = self.exact.project(target_BND, past_UD)
        weighed = Comparison(found.similarity_BNS, is_found_BNK)
        interest_BNA, _ = self.exact(query_BNA, pick(key_UA, item_BNK), pick(value_UA, item_BNK), weighed)
        tiers = []
        if self.found_tiers is not None:
            tiers = [self.found_tiers(found.similarity_BNS, found.is_real_BNS)]
        return [interest_BNA, interest_BNA * query_BNA], tiers

    def _search_scores(
        self, past_UD: Tensor, batch: Batch, long: Behaviors, near: Comparison | None
    ) -> tuple[Tensor, Tensor]:
        """A number for each step of the long history, and which steps may be found."""
        search = self.settings.search
        assert search is not None
        is_real_BNS = long.is_real_BS[:, None].expand(-1, batch.product_item_BN.shape[1], -1)
        if search.by == "content":
            assert near is not None
            return near.similarity_BNS, near.is_real_BNS
        if search.by == "id":
            id_UD = past_UD[:, : len(self.behavior_places) * self.settings.width]
            return similarities(id_UD, batch.product_item_BN, long.item_BS), is_real_BNS
        leaf_U = batch.item_rows_UF[:, LEAF]
        leaf_BN1, past_BS = leaf_U[batch.product_item_BN][..., None], leaf_U[long.item_BS]
        same_BNS = (leaf_BN1 == past_BS[:, None]) & (leaf_BN1 > 0)
        newest_S = -torch.arange(long.item_BS.shape[1], dtype=past_UD.dtype, device=past_UD.device)
        return newest_S.expand_as(same_BNS), is_real_BNS & same_BNS

    def _matches(self, batch: Batch) -> Tensor:
        """log(1 + behaviors that equal the candidate) in each behavior field: SimTier's counterpart for ids.

        Without it, vectors would be credited for telling that a product is the one clicked before.
        """
        target_BN, short = batch.product_item_BN, batch.short
        counts = [_same(target_BN, short.item_BS, short.is_real_BS)]
        for place in self.behavior_places[1:]:
            row_U = batch.item_rows_UF[:, place]
            past_BS = row_U.index_select(0, short.item_BS.flatten()).view_as(short.item_BS)
            counts.append(_same(row_U[target_BN], past_BS, short.is_real_BS & (past_BS > 0)))
        return torch.log1p(torch.stack(counts, -1))


def long_near(batch: Batch) -> Comparison:
    """Cosines of candidates with the long history, and where both have a vector."""
    content, long = batch.content, batch.long
    assert content is not None
    assert long is not None
    similarity_BNS = similarities(content.item_UD, batch.product_item_BN, long.item_BS)
    has_past_BS = content.has_item_U[long.item_BS] & long.is_real_BS
    has_target_BN = content.has_item_U[batch.product_item_BN]
    return Comparison(similarity_BNS, has_target_BN[..., None] & has_past_BS[:, None])


def fit_scale(mean: Tensor, scale: Tensor, rows: Tensor) -> None:
    """Set the mean and spread of columns; a constant column keeps its zeros zero."""
    if len(rows) > 1:
        mean.copy_(rows.double().mean(0))
        scale.copy_(rows.double().std(0))
        scale[scale < 1e-6] = 1.0


def _key(field: str) -> str:
    """A field's name as a module's: no dots or spaces, and never one of a module's own methods."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in field)
    mark = "" if plain == field else hashlib.sha256(field.encode()).hexdigest()[:6]
    return f"{plain}_{mark}"


def _same(target_BN: Tensor, past_BS: Tensor, counts_BS: Tensor) -> Tensor:
    return ((target_BN[:, :, None] == past_BS[:, None]) & counts_BS[:, None]).sum(-1).float()
