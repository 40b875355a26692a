"""Rationales a judge writes itself, kept where they lead to the label without contradicting themselves.

Paper: Creative4U 3.4 (ours; analog UnifiedReward-Think): K = 8 samples, at most 2 kept of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from moontide.creative.judge import Judge
from moontide.creative.pairset import PairSet
from moontide.creative.prompt import Asked
from moontide.creative.protocol import balance, is_consistent, parse
from moontide.creative.rationale import ORDERS, Rationale, balanced, in_order
from moontide.creative.records import CreativePair, Letter, Order
from moontide.foundation.progress import track
from moontide.foundation.seeds import seed_of
from moontide.foundation.settings import Settings


class RejectionSettings(Settings):
    """How rationales are sampled and kept."""

    num_samples: int = pydantic.Field(8, ge=1, description="completions of each order of a pair, K")
    most: int = pydantic.Field(2, ge=1, description="kept of a pair, both orders together")
    temperature: float = pydantic.Field(1.0, gt=0, description="of sampling")
    batch_size: int = pydantic.Field(8, ge=1, description="pairs at once")
    seed: int = pydantic.Field(0, description="of sampling")


def refusal(text: str, letter: Letter, questions: Sequence[str] = ()) -> str:
    """Why a sampled completion may not be learned from; blank if it may.

    Args:
        letter: the label in the order that was asked.
        questions: all of them must be answered.
    """
    reading = parse(text)
    if reading.letter_strict is None:
        return "not in the strict form"
    if reading.letter_strict != letter:
        return "names the other creative"
    if any(reading.answers.get(key) is None for key in questions):
        return "leaves a question open"
    if is_consistent(reading.answers, letter) == 0.0:
        return "balance contradicts the letter"
    return ""


def sample_rationales(
    judge: Judge, pairs: Sequence[CreativePair], pictures: PairSet, settings: RejectionSettings
) -> list[Rationale]:
    """Sampled rationales of both orders of each pair, refused ones included; letters of the rest balanced.

    Of a pair's acceptable texts the different ones with the clearest balance are kept, one of each order
    before a second of either.

    Raises:
        ImageError: a picture is missing or cannot be read.
    """
    kept: list[Rationale] = []
    refused: list[Rationale] = []
    with track(len(pairs), "sampling rationales") as meter:
        for first in range(0, len(pairs), settings.batch_size):
            window = pairs[first : first + settings.batch_size]
            asked = [Asked.of(pair, pictures.picture) for pair in window]
            for order in ORDERS:
                turned = asked if order == "ab" else [one.swapped() for one in asked]
                seed = seed_of(settings.seed, "rejection", first, order)
                texts = judge.sample(turned, settings.num_samples, settings.temperature, seed)
                for pair, written in zip(window, texts, strict=True):
                    for text in dict.fromkeys(written):
                        one = _judged(pair, order, text, judge.settings.prompt.questions)
                        (kept if one.accepted else refused).append(one)
            meter.step(len(window))
    chosen = _best(kept, settings.most)
    return [*balanced(chosen, settings.seed), *refused]


def _judged(pair: CreativePair, order: Order, text: str, questions: Sequence[str]) -> Rationale:
    letter = in_order(pair.label, order)
    why = refusal(text, letter, questions)
    return Rationale(pair.pair_id, order, letter, dict(parse(text).answers), text, "rejection", not why, why)


def _best(kept: Sequence[Rationale], most: int) -> list[Rationale]:
    by_pair: dict[str, dict[Order, list[Rationale]]] = {}
    for one in kept:
        by_pair.setdefault(one.pair_id, {}).setdefault(one.order, []).append(one)
    found = []
    for orders in by_pair.values():
        queues = [sorted(ones, key=lambda one: -abs(balance(one.answers))) for ones in orders.values()]
        turns = [one for turn in range(most) for queue in queues for one in queue[turn : turn + 1]]
        found += turns[:most]
    return found
