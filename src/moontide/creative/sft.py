"""First stage of a judge: next-token loss on written rationales, prompt and pictures masked.

Paper: Creative4U 3.5, CoT-SFT (paper); the mask, both orders of a pair and the schedule are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from trl import SFTConfig, SFTTrainer

from moontide.creative.annotate import reason_words
from moontide.creative.compact_head import compact_head
from moontide.creative.judge import JudgeSettings
from moontide.creative.pairset import PairSet
from moontide.creative.prompt import Asked
from moontide.creative.rationale import Rationale, accepted_of
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

STAGE = "sft"


class JudgeSftSettings(JudgeLoopSettings):
    """The cold start of a judge."""

    num_epochs: float = pydantic.Field(2.0, gt=0, description="passes over the rationales")
    num_steps: int | None = pydantic.Field(None, ge=1, description="steps instead of passes")
    batch_size: int = pydantic.Field(16, ge=1, description="rationales of a step")

    def steps(self, num_rationales: int) -> int:
        """Optimizer steps over so many rationales."""
        return self.num_steps or max(1, math.ceil(self.num_epochs * num_rationales / self.batch_size))


class _Trainer(Silent, SFTTrainer):
    pass


def train_sft(
    start: Path | str,
    pairs: PairSet,
    rationales: Sequence[Rationale],
    settings: JudgeSftSettings,
    to: Path | str,
    run: Run | None = None,
    judge: JudgeSettings | None = None,
) -> dict[str, Any]:
    """Train a judge on rationales and write it to a folder; goes on where an interrupted call stopped.

    Args:
        start: a judge, a moontide encoder or any Qwen-VL folder.
        pairs: the set the rationales are about.
        rationales: refused ones are left out.
        to: folder of the trained judge.
        run: where to log and keep checkpoints; None keeps nothing.
        judge: prompt and length; None takes those beside `start`, else the defaults for its tokenizer.

    Returns:
        steps, rationales, pairs and the last logged figures.

    Raises:
        DataError: no accepted rationale, or one about a pair that the set lacks.
        CheckpointError: no model at `start`, or the run was made with other settings or data.
    """
    used = accepted_of(rationales)
    if not used:
        raise DataError("no rationale is accepted: annotate the pairs first, or loosen the filter")
    model, processor, judge = opened(start, reason_words(), judge, settings.seed)
    num_steps = settings.steps(len(used))
    rows = _rows(pairs, used, settings, num_steps)
    identity = identity_of(settings, judge, start, pairs, [one.text for one in used])
    with stage_folder(STAGE, run, identity) as (folder, newest), torch.random.fork_rng():
        config = SFTConfig(
            max_length=None,  # a cut would fall into a picture's tokens
            completion_only_loss=True,
            train_sampling_strategy="sequential",  # our order
            **arguments(settings, folder, num_steps, settings.batch_size),
        )
        trainer = _Trainer(
            model=model,
            args=config,
            train_dataset=Rows(rows, judge.prompt).dataset(),
            processing_class=processor,
            peft_config=adapters(settings),
        )
        compact_head(trainer.model)
        last = run_trainer(trainer, STAGE, num_steps, run, newest, dict)
        saved(trainer, processor, judge, Path(to))
    results = {
        "steps": num_steps,
        "rationales": len(used),
        "pairs": len({one.pair_id for one in used}),
        **last,
    }
    return run.finish(STAGE, results) if run else results


def _rows(
    pairs: PairSet, used: Sequence[Rationale], settings: JudgeSftSettings, num_steps: int
) -> list[dict[str, Any]]:
    """All rows of the training in order: every pass shuffles anew."""
    by_id = {pair.pair_id: pair for pair in pairs.pairs()}
    asked: dict[str, Asked] = {}
    for one in used:
        if one.pair_id not in by_id:
            raise DataError(f"rationale of pair {one.pair_id!r}: the pair set {pairs.path} has no such pair")
        if one.pair_id not in asked:
            asked[one.pair_id] = Asked.of(by_id[one.pair_id], pairs.picture)
    turned = {pair_id: question.swapped() for pair_id, question in asked.items()}
    rows: list[dict[str, Any]] = []
    epoch = 0
    while len(rows) < num_steps * settings.batch_size:
        for number in stream(settings.seed, STAGE, "order", epoch).permutation(len(used)):
            one = used[number]
            question = (asked if one.order == "ab" else turned)[one.pair_id]
            completion = [{"role": "assistant", "content": one.text}]
            rows.append({"asked": question, "completion": completion})
        epoch += 1
    return rows[: num_steps * settings.batch_size]
