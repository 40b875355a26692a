"""Second stage of a judge: GRPO on the pairs' labels.

    A_g = (R_g - mean) / (std + eps) over the G completions of a prompt; clipped objective as in MOON3.0

Both orders of a pair stand in one generation batch, so that a reward may compare them. From random weights
every reward is 0 and nothing is learned: train the first stage before.

Paper: Creative4U 3.5, GRPO (paper); rewards, group size and the choice of pairs are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig, GRPOTrainer

from moontide.creative.annotate import reason_words
from moontide.creative.compact_head import compact_head
from moontide.creative.judge import Judge, JudgeSettings
from moontide.creative.letters import suppressed
from moontide.creative.pairset import PairSet
from moontide.creative.prompt import Asked
from moontide.creative.rationale import ORDERS, in_order
from moontide.creative.records import CreativePair
from moontide.creative.rewards import JudgeRewardSettings, reward_functions
from moontide.creative.rollout_log import RolloutLog
from moontide.creative.training import (
    JudgeLoopSettings,
    Rows,
    Silent,
    adapters,
    arguments,
    identity_of,
    opened,
    run_trainer,
    saved,
    stage_folder,
)
from moontide.foundation.errors import DataError
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream

STAGE = "grpo"


class JudgeGrpoSettings(JudgeLoopSettings):
    """Reinforcement of a judge that already writes the protocol."""

    learning_rate: float = pydantic.Field(1e-6, gt=0, description="highest rate, after the warm-up")
    num_steps: int = pydantic.Field(100, ge=1, description="optimizer steps")
    num_prompts: int = pydantic.Field(8, ge=2, description="prompts of a step, two orders of each pair")
    num_generations: int = pydantic.Field(8, ge=2, description="completions of a prompt, G")
    temperature: float = pydantic.Field(1.0, gt=0, description="of sampling")
    beta: float = pydantic.Field(
        0.04, ge=0, description="weight of the KL to the start; 0 needs no reference"
    )
    epsilon: float = pydantic.Field(0.2, gt=0, description="clip of the probability ratio")
    only_wrong: bool = pydantic.Field(
        False, description="train on pairs the start answers wrongly in an order: solved ones teach nothing"
    )
    rewards: JudgeRewardSettings = pydantic.Field(JudgeRewardSettings(), description="weights")

    @pydantic.model_validator(mode="after")
    def _whole(self) -> JudgeGrpoSettings:
        mistakes = []
        if self.num_prompts % 2:
            mistakes.append(f"num_prompts must be even, both orders of a pair, got {self.num_prompts}")
        batch = self.num_prompts * self.num_generations
        if self.micro_batch and batch % self.micro_batch:
            mistakes.append(
                f"micro_batch must divide num_prompts x num_generations = {batch}, got {self.micro_batch}"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class _Trainer(Silent, GRPOTrainer):
    pass


def train_grpo(
    start: Path | str,
    pairs: PairSet,
    settings: JudgeGrpoSettings,
    to: Path | str,
    run: Run | None = None,
    judge: JudgeSettings | None = None,
    split: str = "train",
) -> dict[str, Any]:
    """Reinforce a judge on the labels of a split and write it to a folder; an interrupted call goes on.

    Args:
        start: a judge of the first stage, or any Qwen-VL folder.
        to: folder of the trained judge.
        run: where to log figures and sample texts and keep checkpoints; None keeps nothing.
        judge: prompt and length; None takes those beside `start`.

    Returns:
        steps, pairs trained on and the last logged figures.

    Raises:
        DataError: the split has no pairs, or none is answered wrongly where only those are wanted.
        CheckpointError: no model at `start`, or the run was made with other settings or data.
    """
    model, processor, judge = opened(start, reason_words(), judge, settings.seed)
    chosen = _chosen(pairs, split, settings, Judge(model, processor, judge))
    rows = _rows(pairs, chosen, settings)
    identity = identity_of(settings, judge, start, pairs, [p.pair_id for p in chosen])
    log = RolloutLog(run, STAGE, settings.num_generations, settings.rewards, settings.log_every)
    with stage_folder(STAGE, run, identity) as (folder, newest), torch.random.fork_rng():
        if settings.beta and not settings.lora_rank:
            model = _with_path(model, processor, folder / "reference")
        trainer = _Trainer(
            model=model.train(),
            reward_funcs=log.watching(reward_functions(settings.rewards, judge.prompt.questions)),
            args=_config(settings, judge, processor.tokenizer, folder),
            train_dataset=Rows(rows, judge.prompt).dataset(),
            processing_class=processor,
            peft_config=adapters(settings),
        )
        compact_head(trainer.model, settings.temperature)
        if trainer.ref_model is not None:
            compact_head(trainer.ref_model, settings.temperature)
        log.rewind(int(newest.rsplit("-", 1)[1]) if newest else 0)
        last = run_trainer(trainer, STAGE, settings.num_steps, run, newest, log.figures)
        saved(trainer, processor, judge, Path(to))
    results = {"steps": settings.num_steps, "pairs": len(chosen), **last}
    return run.finish(STAGE, results) if run else results


def _config(settings: JudgeGrpoSettings, judge: JudgeSettings, tokenizer: Any, folder: Path) -> GRPOConfig:
    return GRPOConfig(
        num_generations=settings.num_generations,
        max_completion_length=judge.max_tokens,
        temperature=settings.temperature,
        beta=settings.beta,
        epsilon=settings.epsilon,
        reward_weights=settings.rewards.weights,
        shuffle_dataset=False,  # our order: both orders of a pair side by side
        # a vision token survives sampling and fails at the next forward pass
        generation_kwargs={"suppress_tokens": suppressed(tokenizer)},
        **arguments(settings, folder, settings.num_steps, settings.num_prompts * settings.num_generations),
    )


def _with_path(model: Any, processor: Any, folder: Path) -> Any:
    """The model as loaded from `folder`: TRL loads the reference of the KL from the policy's own path."""
    if not (folder / "config.json").exists():
        model.save_pretrained(folder)
        processor.tokenizer.save_pretrained(folder)
    return AutoModelForImageTextToText.from_pretrained(str(folder), dtype=torch.float32)


def _chosen(pairs: PairSet, split: str, settings: JudgeGrpoSettings, judge: Judge) -> list[CreativePair]:
    found = pairs.pairs(split)
    if settings.only_wrong:
        duels = judge.duels(found, pairs.picture, what="looking for wrong answers")
        wrong = [
            duel.forward.letter != pair.label or duel.backward.letter != in_order(pair.label, "ba")
            for pair, duel in zip(found, duels, strict=True)
        ]
        found = [pair for pair, is_wrong in zip(found, wrong, strict=True) if is_wrong]
        if not found:
            raise DataError("every pair is answered rightly in both orders: nothing is left to learn from")
    return found


def _rows(
    pairs: PairSet, chosen: Sequence[CreativePair], settings: JudgeGrpoSettings
) -> list[dict[str, Any]]:
    """Prompts of all steps in order: a step's pairs, both orders of each side by side."""
    asked: dict[str, Asked] = {}
    turned: dict[str, Asked] = {}
    rows: list[dict[str, Any]] = []
    epoch = 0
    while len(rows) < settings.num_steps * settings.num_prompts:
        for number in stream(settings.seed, STAGE, "order", epoch).permutation(len(chosen)):
            pair = chosen[number]
            if pair.pair_id not in asked:
                asked[pair.pair_id] = Asked.of(pair, pairs.picture)
                turned[pair.pair_id] = asked[pair.pair_id].swapped()
            for order in ORDERS:
                rows.append(
                    {
                        "asked": (asked if order == "ab" else turned)[pair.pair_id],
                        "pair_id": pair.pair_id,
                        "order": order,
                        "letter": in_order(pair.label, order),
                        "label_confidence": pair.label_confidence,
                    }
                )
        epoch += 1
    return rows[: settings.num_steps * settings.num_prompts]
