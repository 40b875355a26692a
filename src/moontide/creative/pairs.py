"""Counts of creatives -> labeled pairs of creatives of one product, divided into train and test.

    creatives with enough impressions and a readable picture -> all pairs of a product
        -> no near-duplicates -> a gap, a confidence -> at most so many a product -> split -> letters balanced

What is left out is counted by reason. Products of one near-duplicate group stand on one side. Nothing here
reads more of a dataset than products, pictures, queries, the log and the split.

Paper: Creative4U 3.1 (rule as reported; near-duplicates, cap, split and balance are ours). Relatives: CAIG
pairs creatives of one item above 1,000 impressions with a rate above 0 and a ratio of 1.05 to 1.20.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pydantic

from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.catalog.splits import TEST_SHARE, near_duplicate_groups, split_by_group
from moontide.creative.labels import GapBase, compare_rates, has_gap, label_confidence, p_value
from moontide.creative.records import CreativePair, CreativeStat
from moontide.creative.texts import MAX_TITLE_CHARS, clean_text, top_queries
from moontide.foundation.errors import ImageError
from moontide.foundation.images import image_facts
from moontide.foundation.progress import track
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings

log = logging.getLogger(__name__)


class PairSettings(Settings):
    """Which pairs are made of counts, and how they are divided."""

    min_impressions: int = pydantic.Field(
        1000, ge=0, description="each creative has more impressions than this"
    )
    min_gap: float = pydantic.Field(0.60, ge=0, description="relative gap of the two rates is above this")
    gap_base: GapBase = pydantic.Field("lower", description="rate that the gap is relative to")
    min_confidence: float = pydantic.Field(
        0.0, ge=0, lt=1, description="least chance that the label is true; strict mode: 0.95"
    )
    max_p_value: float | None = pydantic.Field(
        None, gt=0, le=1, description="largest p-value of a two-proportion z-test; None asks for none"
    )
    max_pairs: int = pydantic.Field(10, ge=1, description="pairs of one product, drawn by seed")
    near_bits: int = pydantic.Field(
        2,
        ge=0,
        le=64,
        description="pictures whose 64-bit difference hashes differ in at most so many are one",
    )
    num_queries: int = pydantic.Field(5, ge=0, description="most clicked queries kept of a product")
    test_share: float = pydantic.Field(
        TEST_SHARE, ge=0, le=1, description="share of product groups held out, where the dataset has no split"
    )
    seed: int = pydantic.Field(0, description="of the cap, the split and the order of letters")


@dataclass
class PairReport:
    """Pairs, and how many creatives and pairs were left out, by reason ("creative: ..." or "pair: ...")."""

    pairs: list[CreativePair]
    dropped: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[tuple[str, int]]:
        """The sizes for people."""
        splits = Counter(pair.split for pair in self.pairs)
        products = len({pair.product_id for pair in self.pairs})
        kept = [("pairs", len(self.pairs)), ("products", products)]
        kept += [(f"pairs for {split}", num) for split, num in sorted(splits.items())]
        return kept + [(f"left out, {reason}", num) for reason, num in sorted(self.dropped.items())]


@dataclass(frozen=True)
class _Candidate:
    stat: CreativeStat
    sha256: str
    dhash: int


def build_pairs(
    dataset: Dataset, stats: Sequence[CreativeStat], settings: PairSettings | None = None
) -> PairReport:
    """Make labeled pairs; the same dataset, counts and settings give the same pairs.

    A creative is left out when its product or picture is unknown, its picture cannot be decoded, or it has
    too few impressions. A pair is left out when the pictures are nearly the same, a creative of it has no
    clicks and the gap is relative to the lower rate, the gap is too small, the label too uncertain, the
    product has enough pairs, or it is for training and one of its pictures is in a test pair too. Labels A
    and B are equally many in each split, up to one.

    Args:
        stats: counts by creative; see `stats.py`.
    """
    settings = settings or PairSettings()
    dropped: Counter[str] = Counter()
    products = {product.product_id: product for product in dataset.products()}
    chosen: list[tuple[CreativeStat, CreativeStat]] = []
    sums: dict[str, str] = {}
    for candidates in _candidates(dataset, products, stats, settings, dropped):
        sums |= {one.stat.image_id: one.sha256 for one in candidates}
        found = _labeled(candidates, settings, dropped)
        if len(found) > settings.max_pairs:
            dropped["pair: product has enough pairs"] += len(found) - settings.max_pairs
            rng = stream(settings.seed, "cap", candidates[0].stat.product_id)
            kept = sorted(rng.permutation(len(found))[: settings.max_pairs].tolist())
            found = [found[number] for number in kept]
        chosen += found
    wanted = {winner.product_id for winner, _ in chosen}
    queries = top_queries(dataset, wanted, settings.num_queries)
    splits = _splits(dataset, wanted, settings)
    pairs = [
        _pair(winner, loser, products[winner.product_id], queries, splits[winner.product_id])
        for winner, loser in chosen
    ]
    return PairReport(balanced_letters(_apart(pairs, sums, dropped), settings.seed), dropped)


def _apart(
    pairs: Sequence[CreativePair], sums: Mapping[str, str], dropped: Counter[str]
) -> list[CreativePair]:
    """Without training pairs that show a picture of a test pair."""
    tested = {sums[one] for pair in pairs if pair.split == "test" for one in (pair.image_a, pair.image_b)}
    found = [
        pair
        for pair in pairs
        if pair.split == "test" or not tested & {sums[pair.image_a], sums[pair.image_b]}
    ]
    if len(found) < len(pairs):
        dropped["pair: a picture is in test too"] += len(pairs) - len(found)
    return found


def _candidates(
    dataset: Dataset,
    products: Mapping[str, Product],
    stats: Sequence[CreativeStat],
    settings: PairSettings,
    dropped: Counter[str],
) -> Iterable[list[_Candidate]]:
    """The creatives of each product that may stand in a pair, by id."""
    groups: dict[str, list[CreativeStat]] = defaultdict(list)
    for stat in sorted(stats, key=lambda stat: stat.creative_id):
        if stat.product_id not in products:
            dropped["creative: unknown product"] += 1
        elif stat.impressions <= settings.min_impressions:
            dropped[f"creative: {settings.min_impressions:,} impressions or fewer"] += 1
        elif stat.image_id not in dataset.images:
            dropped["creative: no picture"] += 1
        else:
            groups[stat.product_id].append(stat)
    with track(sum(map(len, groups.values())), "pictures of creatives") as meter:
        for _, group in sorted(groups.items()):
            meter.step(len(group))
            if len(group) < 2:
                dropped["creative: the only one of its product"] += len(group)
                continue
            yield [one for stat in group if (one := _seen(dataset, stat, dropped)) is not None]


def _seen(dataset: Dataset, stat: CreativeStat, dropped: Counter[str]) -> _Candidate | None:
    try:
        facts = image_facts(dataset.images[stat.image_id])
    except ImageError as error:
        dropped[f"creative: unreadable picture ({error.reason})"] += 1
        return None
    return _Candidate(stat, facts.sha256, int(facts.dhash, 16))


def _labeled(
    candidates: Sequence[_Candidate], settings: PairSettings, dropped: Counter[str]
) -> list[tuple[CreativeStat, CreativeStat]]:
    """(winner, loser) of every pair that the rule lets through."""
    found = []
    for one, other in combinations(candidates, 2):
        reason = _refused(one, other, settings)
        if reason:
            dropped[f"pair: {reason}"] += 1
            continue
        is_first = compare_rates(*_counts(one.stat), *_counts(other.stat)) > 0
        found.append((one.stat, other.stat) if is_first else (other.stat, one.stat))
    return found


def _refused(one: _Candidate, other: _Candidate, settings: PairSettings) -> str:
    """Why two creatives make no pair; blank where they do."""
    if is_near(one.sha256, one.dhash, other.sha256, other.dhash, settings.near_bits):
        return "pictures nearly the same"
    a, b = _counts(one.stat), _counts(other.stat)
    clicks = (one.stat.clicks, other.stat.clicks)
    if max(clicks) == 0 or (min(clicks) == 0 and settings.gap_base == "lower"):
        return "no clicks, so no relative gap"
    higher = compare_rates(*a, *b)
    if higher == 0 or not has_gap(*a, *b, settings.min_gap, settings.gap_base):
        return f"gap of {settings.min_gap:.0%} or less"
    sure = label_confidence(*a, *b) if higher > 0 else label_confidence(*b, *a)
    if sure < settings.min_confidence:
        return f"confidence below {settings.min_confidence:g}"
    if settings.max_p_value is not None and p_value(*a, *b) > settings.max_p_value:
        return f"p-value above {settings.max_p_value:g}"
    return ""


def is_near(sha_a: str, hash_a: int, sha_b: str, hash_b: int, bits: int) -> bool:
    """Whether two pictures are one: the same bytes, or hashes close by; a blank hash is like nothing."""
    if sha_a == sha_b:
        return True
    return bool(hash_a and hash_b) and (hash_a ^ hash_b).bit_count() <= bits


def _counts(stat: CreativeStat) -> tuple[int, int]:
    return stat.clicks, stat.impressions


def _splits(dataset: Dataset, wanted: set[str], settings: PairSettings) -> dict[str, str]:
    """The side of each product: as the dataset says, else by the hash of its near-duplicate group."""
    rows = dataset.table("splits").to_pylist()
    found = {row["product_id"]: row["split"] for row in rows}
    if rows:
        share = (dataset.info.get("split_rule") or {}).get("test_share", settings.test_share)
        if share != settings.test_share:
            log.warning("test_share %g is ignored: the dataset is split by %g", settings.test_share, share)
    if wanted <= found.keys():
        return found
    products = dataset.table("products", ["product_id", "spu_id", "title", "image_ids"])
    groups = near_duplicate_groups(products, dataset.images.facts())
    ids = products.column("product_id").to_pylist()
    made = split_by_group(ids, groups, settings.test_share, f"creative {settings.seed}")
    side = dict(zip(ids, made.column("split").to_pylist(), strict=True))
    group_side = {g: found[i] for i, g in zip(ids, groups, strict=True) if i in found}
    return {i: found.get(i) or group_side.get(g) or side[i] for i, g in zip(ids, groups, strict=True)}


def _pair(
    winner: CreativeStat,
    loser: CreativeStat,
    product: Product,
    queries: Mapping[str, tuple[tuple[str, int], ...]],
    split: str,
) -> CreativePair:
    """The pair with the winner first."""
    sure = label_confidence(*_counts(winner), *_counts(loser))
    return CreativePair(
        pair_id="~".join(sorted((winner.creative_id, loser.creative_id))),
        product_id=product.product_id,
        category=product.category,
        title=clean_text(product.title, MAX_TITLE_CHARS),
        queries=queries.get(product.product_id, ()),
        creative_a=winner.creative_id, creative_b=loser.creative_id,
        image_a=winner.image_id, image_b=loser.image_id,
        impressions_a=winner.impressions, clicks_a=winner.clicks,
        impressions_b=loser.impressions, clicks_b=loser.clicks,
        label="A", label_confidence=sure, split=split,
    )  # fmt: skip


def balanced_letters(pairs: Sequence[CreativePair], seed: int) -> list[CreativePair]:
    """The pairs by id, in a random order of letters with as many labels A as B in each split, up to one.

    Paper: Creative4U 3.1 and 3.4 (ours).
    """
    by_split: dict[str, list[CreativePair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: pair.pair_id):
        by_split[pair.split].append(pair if pair.label == "A" else pair.swapped())
    found = []
    for split, rows in by_split.items():
        rng = stream(seed, "letters", split)
        turned = set(rng.permutation(len(rows))[: (len(rows) + int(rng.integers(2))) // 2].tolist())
        found += [pair.swapped() if number in turned else pair for number, pair in enumerate(rows)]
    return sorted(found, key=lambda pair: pair.pair_id)
