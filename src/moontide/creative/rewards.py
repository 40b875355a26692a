"""Rewards of the judge's GRPO, as plain functions in TRL's signature.

    R = w_fmt r_fmt + w_acc r_acc + w_q r_q + w_self r_self + w_ord r_ord

Each takes `completions` and the columns of the pair set by name, and returns one number for each completion.
A completion is a text, or a chat of one message. The letter is read leniently, so that a right choice in a
broken form earns its accuracy and loses its format.

Paper: Creative4U 3.5; the paper states the two stages only, terms and weights are ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from moontide.creative.protocol import QUESTIONS, SCORED, Reading, is_consistent, parse
from moontide.foundation.settings import Settings

Reward = Callable[..., list[float | None]]
ALLOWED = {question.key: tuple(question.allowed) for question in QUESTIONS}
NAMES = ("r_fmt", "r_acc", "r_q", "r_self", "r_ord")


class JudgeRewardSettings(Settings):
    """Weights of the rewards; the last two are extensions and off by default."""

    fmt: float = pydantic.Field(0.5, ge=0, description="of the strict form, 0 or 1")
    accuracy: float = pydantic.Field(1.0, ge=0, description="of the letter being the label, 0 or 1")
    questions: float = pydantic.Field(0.1, ge=0, description="of the share of questions answered")
    consistency: float = pydantic.Field(0.0, ge=0, description="of the letter following from the answers")
    order: float = pydantic.Field(0.0, ge=0, description="of naming the same picture in the other order")
    has_confidence: bool = pydantic.Field(False, description="multiply accuracy by the label's confidence")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> JudgeRewardSettings:
        if not any(self.weights):
            raise ValueError("every weight is 0: no completion would be better than another")
        return self

    @property
    def weights(self) -> list[float]:
        """In the order of `NAMES`."""
        return [self.fmt, self.accuracy, self.questions, self.consistency, self.order]


def said(completion: Any) -> str:
    """The text of a completion: itself, or the content of its last message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    return content if isinstance(content, str) else "".join(block.get("text") or "" for block in content)


def r_fmt(completions: Sequence[Any], **_: Any) -> list[float | None]:
    """1 for the strict form: reasoning in its tags, then one letter in its tags, and nothing else."""
    return [float(parse(said(one)).letter_strict is not None) for one in completions]


def r_acc(
    completions: Sequence[Any],
    letter: Sequence[str],
    label_confidence: Sequence[float] | None = None,
    **_: Any,
) -> list[float | None]:
    """1 where the letter is the label of the order shown, times the label's confidence where it is given."""
    weights = label_confidence if label_confidence is not None else [1.0] * len(letter)
    return [
        float(parse(said(one)).letter_lenient == right) * weight
        for one, right, weight in zip(completions, letter, weights, strict=True)
    ]


def r_q(completions: Sequence[Any], questions: Sequence[str], **_: Any) -> list[float | None]:
    """Share of the questions asked that are answered with an allowed value inside the reasoning."""
    return [_answered(parse(said(one)), questions) for one in completions]


def _answered(reading: Reading, questions: Sequence[str]) -> float:
    told = reading.answers
    return sum(told.get(key) in ALLOWED[key] for key in questions) / len(questions) if questions else 0.0


def r_self(completions: Sequence[Any], **_: Any) -> list[float | None]:
    """1 where the letter follows from the answers, 0.5 where they balance, 0 where it contradicts them.

    Nothing is earned without a letter, or without any answer to be consistent with.
    """
    found: list[float | None] = []
    for one in completions:
        reading = parse(said(one))
        has_answers = any(reading.answers.get(key) for key in SCORED)
        letter = reading.letter_lenient
        found.append(is_consistent(reading.answers, letter) if letter and has_answers else 0.0)
    return found


def r_ord(
    completions: Sequence[Any], pair_id: Sequence[str], order: Sequence[str], **_: Any
) -> list[float | None]:
    """Share of the other order's completions that name the same picture; None where they are not at hand.

    Both orders must be in one call: a generation batch holds them side by side (`grpo.py`).
    """
    named: dict[tuple[str, str], list[str | None]] = defaultdict(list)
    letters = [parse(said(one)).letter_lenient for one in completions]
    for pair, way, letter in zip(pair_id, order, letters, strict=True):
        named[pair, way].append(letter)
    found: list[float | None] = []
    for pair, way, letter in zip(pair_id, order, letters, strict=True):
        others = named.get((pair, "ba" if way == "ab" else "ab"))
        if not others:
            found.append(None)
        else:  # the same picture bears the other letter there
            same = {"A": "B", "B": "A"}.get(letter or "")
            found.append(sum(other == same for other in others if other) / len(others) if same else 0.0)
    return found


def reward_functions(settings: JudgeRewardSettings, questions: Sequence[str]) -> list[Reward]:
    """The five rewards as TRL calls them, named as in `NAMES`; those of weight 0 are logged all the same."""

    def accuracy(completions: Sequence[Any], letter: Sequence[str], label_confidence: Any, **_: Any) -> Any:
        return r_acc(completions, letter, label_confidence if settings.has_confidence else None)

    def answered(completions: Sequence[Any], **_: Any) -> list[float | None]:
        return r_q(completions, questions)

    functions: list[Any] = [r_fmt, accuracy, answered, r_self, r_ord]
    for function, name in zip(functions, NAMES, strict=True):
        function.__name__ = name
    return functions


def total(parts: Mapping[str, Sequence[float | None]], settings: JudgeRewardSettings) -> list[float]:
    """The weighted sum of the rewards, absent ones left out."""
    rows = zip(*(parts[name] for name in NAMES), strict=True)
    return [sum(w * (r or 0.0) for w, r in zip(settings.weights, row, strict=True)) for row in rows]


def zero_variance_share(totals: Sequence[float], num_generations: int) -> float:
    """Share of the groups whose completions all earn the same: they teach nothing.

    Paper: Creative4U 3.5: a pair solved with probability p gives no signal with p^G + (1-p)^G.
    """
    groups = [totals[at : at + num_generations] for at in range(0, len(totals), num_generations)]
    return sum(max(group) - min(group) < 1e-9 for group in groups) / max(1, len(groups))
