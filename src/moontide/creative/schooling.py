"""A judge's training from a pair set to a folder: start, rationales, first stage, second stage.

    TO/start           a tiny judge with random weights, where none was given
    TO/rationales.jsonl
    TO/sft             the judge after the first stage
    TO/judge           the trained judge
    TO/run.json, metrics.jsonl, rollouts.jsonl, rollouts.png

Each part that is finished is kept: the same call again goes on with the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from moontide.creative.annotate import AnnotatorSettings, annotate_set, fits_of, reason_words
from moontide.creative.grpo import JudgeGrpoSettings, train_grpo
from moontide.creative.judge import FILE, JudgeSettings, save_judge
from moontide.creative.pairset import PairSet
from moontide.creative.rationale import Rationale, read_rationales, write_rationales
from moontide.creative.rewards import JudgeRewardSettings
from moontide.creative.rollout_log import plot_rollouts
from moontide.creative.sft import JudgeSftSettings, train_sft
from moontide.creative.tiny_judge import has_protocol_tokens, new_judge, start_judge
from moontide.foundation.runs import Run
from moontide.foundation.settings import Settings, fingerprint

RATIONALES = "rationales.jsonl"


class Schooling(Settings):
    """Stages and sizes; rates that depend on the model's size are chosen for it where they are None."""

    stage: Literal["sft", "grpo", "both"] = pydantic.Field("both", description="which stages run")
    depth: int = pydantic.Field(4, ge=1, description="of a judge from random weights")
    sft_steps: int | None = pydantic.Field(None, ge=1, description="of the first stage; None: two passes")
    sft_rate: float | None = pydantic.Field(None, gt=0, description="highest learning rate, first stage")
    grpo_steps: int = pydantic.Field(100, ge=1, description="of the second stage")
    grpo_rate: float | None = pydantic.Field(None, gt=0, description="highest learning rate, second stage")
    num_prompts: int = pydantic.Field(8, ge=2, description="prompts of a step of the second stage")
    num_generations: int | None = pydantic.Field(None, ge=2, description="completions of a prompt")
    beta: float = pydantic.Field(0.04, ge=0, description="weight of the KL to the first stage")
    rewards: JudgeRewardSettings = pydantic.Field(JudgeRewardSettings(), description="weights")
    judge: JudgeSettings | None = pydantic.Field(
        None, description="prompt and length; None: by the tokenizer"
    )
    lora_rank: int = pydantic.Field(0, ge=0, le=512, description="rank of the adapters; 0 trains all weights")
    seed: int = pydantic.Field(0, description="of weights, data order and sampling")

    def sft(self, is_tiny: bool) -> JudgeSftSettings:
        """Settings of the first stage."""
        default = (
            2e-3 if is_tiny else 1e-4 if self.lora_rank else 1e-5
        )  # tiny: measured; others ours, a guess
        return JudgeSftSettings(
            num_steps=self.sft_steps,
            learning_rate=self.sft_rate or default,
            lora_rank=self.lora_rank,
            seed=self.seed,
            micro_batch=None if is_tiny else 1,
        )

    def grpo(self, is_tiny: bool) -> JudgeGrpoSettings:
        """Settings of the second stage."""
        default = 1e-4 if is_tiny else 1e-5 if self.lora_rank else 1e-6  # analog EasyR1, ms-swift, TRL
        return JudgeGrpoSettings(
            num_steps=self.grpo_steps,
            learning_rate=self.grpo_rate or default,
            num_prompts=self.num_prompts,
            num_generations=self.num_generations or (4 if is_tiny else 8),
            beta=self.beta,
            rewards=self.rewards,
            lora_rank=self.lora_rank,
            seed=self.seed,
            micro_batch=None if is_tiny else 1,
        )


def school(
    pairs: PairSet,
    to: Path,
    plan: Schooling,
    start: Path | str | None = None,
    rationales: Sequence[Rationale] | None = None,
) -> dict[str, dict[str, Any]]:
    """Train a judge, or go on with its training; results by stage.

    Args:
        pairs: its split "train" is trained on.
        to: the run's folder.
        start: a judge, an encoder or a Qwen-VL folder; None makes a tiny judge with random weights.
        rationales: None asks the annotator, which needs the parameters creatives were drawn with.

    Raises:
        DataError: no pairs, or nothing to learn from.
        CheckpointError: `to` holds another run, or `start` no model.
    """
    facts = {
        "plan": plan.model_dump(mode="json"),
        "pairs": pairs.sha256,
        "start": str(start) if start else None,
        "rationales": fingerprint([one.text for one in rationales]) if rationales else None,
    }
    run = Run.start(to, "judge", facts, plan.seed)
    source = start or _tiny(pairs, to / "start", plan)
    model, processor = start_judge(source, reason_words(), plan.seed)
    is_tiny = has_protocol_tokens(processor.tokenizer)
    settings = plan.judge or JudgeSettings.for_tokenizer(processor.tokenizer)
    del model
    results: dict[str, dict[str, Any]] = {}
    if plan.stage != "grpo":
        told = _told(pairs, to / RATIONALES, settings, processor.tokenizer, plan, rationales)
        target = to / ("sft" if plan.stage == "both" else "judge")
        done = run.results("sft") if (target / FILE).exists() else None
        results["sft"] = done or train_sft(source, pairs, told, plan.sft(is_tiny), target, run, settings)
        source = target
    if plan.stage != "sft":
        done = run.results("grpo") if (to / "judge" / FILE).exists() else None
        results["grpo"] = done or train_grpo(source, pairs, plan.grpo(is_tiny), to / "judge", run, settings)
        plot_rollouts(run, to / "rollouts.png")
    return results


def _tiny(pairs: PairSet, folder: Path, plan: Schooling) -> Path:
    """A tiny judge whose tokenizer learned from the pairs' titles and queries."""
    if not (folder / FILE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        found = pairs.pairs("train")
        texts = [pair.title for pair in found] + [text for pair in found for text, _ in pair.queries]
        model, processor = new_judge(texts, plan.depth, plan.seed, words=reason_words())
        settings = plan.judge or JudgeSettings.for_tokenizer(processor.tokenizer)
        save_judge(folder, model, processor, settings)
    return folder


def _told(
    pairs: PairSet,
    file: Path,
    settings: JudgeSettings,
    tokenizer: Any,
    plan: Schooling,
    given: Sequence[Rationale] | None,
) -> list[Rationale]:
    """The rationales of the first stage, kept in the run's folder."""
    if file.exists():
        return read_rationales(file)
    if given is not None:
        found = list(given)
    else:
        asked = AnnotatorSettings(without=settings.prompt.without, seed=plan.seed)
        found = annotate_set(pairs, asked, fits_of(tokenizer, settings.max_tokens), mode=settings.prompt.mode)
    write_rationales(file, found)
    return found
