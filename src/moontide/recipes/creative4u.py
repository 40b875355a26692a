"""Creative4U (arXiv 2508.12628): pairs of creatives, a judge that reasons, its two stages, by size.

Tags: `paper` with the section where it is stated, `paper reported`, `analog NAME`, `ours`, `guess`. The
embedded sizes judge with a tiny model trained on one market's pairs; what carries over is the shape: the pair
rule, the protocol, CoT-SFT and then GRPO, both orders of every pair, products held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from moontide.creative.bandit import BanditSettings
from moontide.creative.image_ranker import RankerSettings
from moontide.creative.judge import JudgeSettings
from moontide.creative.pairs import PairSettings
from moontide.creative.prompt import PromptSettings
from moontide.creative.rewards import JudgeRewardSettings
from moontide.creative.schooling import Schooling
from moontide.market.settings import MarketSettings
from moontide.studies.creative_study import CreativePlan
from moontide.studies.creatives import Contestant
from moontide.studies.selection import SelectionSettings

RANKER, SFT, GRPO, BOTH = "image-only ranker", "SFT only", "GRPO only", "SFT then GRPO"


def pairs() -> PairSettings:
    """Two creatives of one product, both shown often, their rates far apart (paper reported)."""
    return PairSettings(
        min_impressions=1_000,  # paper reported
        min_gap=0.60,  # paper reported
        gap_base="lower",  # ours: of which rate is not known
        max_pairs=10,  # ours, unswept
        num_queries=5,  # ours, unswept
        test_share=0.2,  # ours: about the paper's 1,729 of 8,817
    )


def strict_pairs() -> PairSettings:
    """The same rule, labels alone that are almost sure."""
    return pairs().but(min_confidence=0.95)  # ours, unswept


def rewards() -> JudgeRewardSettings:
    """Form, the label's letter, questions answered; the paper states the two stages alone."""
    return JudgeRewardSettings(
        fmt=0.5,  # ours, unswept
        accuracy=1.0,  # ours, unswept
        questions=0.1,  # ours, unswept
        consistency=0.0,
        order=0.0,
    )


def ranker() -> RankerSettings:
    """The picture-only ranker: VAM's losses on a network of our size."""
    return RankerSettings(
        image_side=112,  # ours: the market's pictures
        dim=10,  # analog VAM-HBM
        list_length=4,  # ours; analog VAM-HBM has 3
        target_scale=300.0,  # ours; analog VAM-HBM has 1,000
        rate_weight=0.5,  # analog VAM-HBM
        min_impressions=60,  # analog VAM-HBM
        epochs=6,  # ours, unswept
    )


def judge() -> JudgeSettings:
    """A published judge: the whole protocol in words, room to reason."""
    return JudgeSettings(
        prompt=PromptSettings(
            num_queries=5,  # ours, unswept
            longest_side=512,  # ours, unswept
        ),
        max_tokens=1_024,  # analog ms-swift
    )


def training(sft_steps: int, grpo_steps: int, num_prompts: int = 8, num_generations: int = 4) -> Schooling:
    """Both stages of a tiny judge; its prompt and its 32 tokens go with its tokenizer."""
    return Schooling(
        stage="both",
        sft_steps=sft_steps,  # ours: what the budget holds
        sft_rate=2e-3,  # ours: measured on the market's pairs
        grpo_steps=grpo_steps,  # ours: what the budget holds
        grpo_rate=1e-4,  # ours: measured on the market's pairs
        num_prompts=num_prompts,  # ours: what the budget holds
        num_generations=num_generations,  # ours: what the budget holds
        beta=0.04,  # analog VLM-R1
        rewards=rewards(),
    )


def published_training(lora_rank: int) -> Schooling:
    """Both stages of a published model, by adapters or whole (rank 0)."""
    return Schooling(
        stage="both",
        sft_steps=None,  # two passes: ours
        sft_rate=1e-4 if lora_rank else 1e-5,  # ours, unswept
        grpo_steps=1_000,  # guess
        grpo_rate=1e-5 if lora_rank else 1e-6,  # analog EasyR1, ms-swift, TRL; adapters ours
        num_prompts=8,  # guess
        num_generations=8,  # analog VLM-R1
        beta=0.04,  # analog VLM-R1
        rewards=rewards(),
        judge=judge(),
        lora_rank=lora_rank,
    )


def rows(plan: Schooling, ranked: RankerSettings) -> tuple[Contestant, ...]:
    """The table: chance, pictures alone, each stage alone, both, and a judge that only answers.

    The second stage of "SFT then GRPO" goes on from the judge of "SFT only" of the same seed.
    """
    return (
        Contestant("random", "random", note="a letter by chance"),
        Contestant(RANKER, "ranker", ranker=ranked, note="no title, no queries, no words"),
        Contestant(SFT, "judge", plan.but(stage="sft"), note="rationales imitated"),
        Contestant(GRPO, "judge", plan.but(stage="grpo"), note="from the start, by reward alone"),
        Contestant(BOTH, "judge", plan.but(stage="grpo"), after=SFT, note="the paper's system"),
        Contestant("answer-only SFT", "judge", plan.but(stage="sft"), prompt={"mode": "answer"},
                   note="no protocol: the label's letter imitated"),
    )  # fmt: skip


def ablations(plan: Schooling) -> tuple[Contestant, ...]:
    """Our own rows: zero-shot, words left out, a question left out, the optional rewards."""
    sft, grpo = plan.but(stage="sft"), plan.but(stage="grpo")

    def told(name: str, note: str, **prompt: Any) -> Contestant:
        return Contestant(name, "judge", sft, prompt=prompt, note=note)

    def rewarded(name: str, note: str, **changes: float) -> Contestant:
        return Contestant(name, "judge", grpo.but(rewards=plan.rewards.but(**changes)), after=SFT, note=note)

    questions = [told(f"SFT, - {key}", "a question left out", without=(key,)) for key in QUESTIONS]
    return (
        Contestant("zero-shot", "zero-shot", note="the start, untrained"),
        told("SFT, - queries", "no queries", num_queries=0),
        told("SFT, - title", "no title", has_title=False),
        *questions,
        rewarded("both, r_self", "letter follows from the answers", consistency=0.3),  # guess
        rewarded("both, r_ord", "same picture in the other order", order=0.5),  # guess
    )


QUESTIONS = ("Q3", "Q4", "Q5", "Q6", "Q7", "Q8", "Q9")


def with_ablations(plan: CreativePlan) -> CreativePlan:
    """A plan with our own rows behind its own."""
    trained = next(row.plan for row in plan.rows if row.name == BOTH)
    assert trained is not None
    return replace(plan, rows=plan.rows + ablations(trained))


def selection() -> SelectionSettings:
    """What choosing is worth: 300 held-out products, four weeks."""
    return SelectionSettings(
        max_products=300,  # ours: what minutes hold
        days=28,  # ours: the market's log
        impressions=200,  # ours: a product and day
        kappa=200.0,  # ours: the cap
        flat_kappas=(10.0, 50.0, 200.0),  # ours: the best one is taken, in the flat prior's favor
        counted=(50, 200, 1_000),  # ours
        seeds=5,  # ours: what minutes hold
    )


def bandit() -> BanditSettings:
    """Thompson sampling beside a uniform bucket."""
    return BanditSettings(
        rule="thompson",
        explore=0.05,  # ours, unswept
    )


def _plan(trained: Schooling, market: MarketSettings, **changes: Any) -> CreativePlan:
    ranked = ranker()
    common: dict[str, Any] = {
        "rows": rows(trained, ranked), "shown": (RANKER, SFT, BOTH), "reference": RANKER,
        "market": market, "pairs": pairs(), "selection": selection(), "bandit": bandit(),
        "impressions": 2_000, "altered": 200,  # ours: counts above the pair rule's 1,000
    }  # fmt: skip
    return CreativePlan(**(common | changes))


def nano() -> CreativePlan:
    """Everything runs, nothing is resolved: tests."""
    market = MarketSettings(
        num_products=100,  # guess
        num_merchants=8,  # guess
        num_shoppers=60,  # guess
        num_impressions=8_000,  # guess
        creatives_per_product=3,  # guess
        days=7,  # guess
    )
    few = selection().but(
        max_products=12,  # guess
        days=4,  # guess
        impressions=40,  # guess
        counted=(50,),  # guess
        seeds=1,  # guess
    )
    trained = training(sft_steps=12, grpo_steps=2, num_prompts=4, num_generations=2)  # guess
    return _plan(
        trained,
        market,
        selection=few,
        altered=6,  # guess
        depth=1,  # guess
    )


def tiny() -> CreativePlan:
    """1,500 products with five creatives beside the plain one: some minutes a cell on one core."""
    market = MarketSettings(
        num_products=1_500,  # ours: about the paper's 8,817 pairs
        num_merchants=75,  # guess
        num_shoppers=400,  # guess
        num_impressions=200_000,  # guess
        creatives_per_product=5,  # ours: fifteen pairs a product before the rule
    )
    return _plan(training(sft_steps=600, grpo_steps=100), market)  # ours: what the budget holds


def small() -> CreativePlan:
    """One GPU: a published 2B model with adapters on the tiny market's pairs."""
    return replace(
        tiny(),
        rows=rows(published_training(lora_rank=16), ranker()),  # guess
        start="Qwen/Qwen3-VL-2B-Instruct",  # ours: the paper's class is 7B
    )


def paper() -> CreativePlan:
    """As published, as far as it is known: the 7B class, all weights."""
    return replace(
        tiny(),
        rows=rows(published_training(lora_rank=0), ranker()),
        start="Qwen/Qwen2.5-VL-7B-Instruct",  # paper reported
    )


SIZES: dict[str, Callable[[], CreativePlan]] = {"nano": nano, "tiny": tiny, "small": small, "paper": paper}
