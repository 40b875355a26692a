"""The protocol of a comparison: ten questions, their answers, how a completion is written and read.

    <think>Q1: NO Q2: NO Q3: A>B because clearer match ... Q9: A=B</think><answer>A</answer>

Q1 and Q2 are gates, Q3 to Q9 compare, Q10 is the decision. A completion is read twice: strictly, as the form
above and nothing else, and leniently, for whatever letter it names last. Pairs are not known here.

Paper: Creative4U 3.2 and 3.3 (questions and form as reported, wording ours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from moontide.creative.records import Letter

COMPARISONS = ("A>B", "A=B", "A<B")
VALUE = {"A>B": 1, "A=B": 0, "A<B": -1}
GATES = ("Q1", "Q2")
SCORED = ("Q3", "Q4", "Q5", "Q6", "Q7", "Q8", "Q9")


@dataclass(frozen=True)
class Question:
    """One question of the protocol: its key, what it asks, and the answers it allows."""

    key: str
    asks: str
    allowed: tuple[str, ...]


QUESTIONS: tuple[Question, ...] = (
    Question("Q1", "are the two images identical", ("YES", "NO")),
    Question("Q2", "are they too similar to judge", ("YES", "NO")),
    Question("Q3", "which fits the queries better: text in the image, elements, style", COMPARISONS),
    Question("Q4", "which fits the title better: text in the image, elements, style", COMPARISONS),
    Question(
        "Q5",
        "whose text is better: product information, pain points, selling points, calls to action, scenes",
        COMPARISONS,
    ),
    Question("Q6", "whose models and props are better: presence, functional relevance", COMPARISONS),
    Question("Q7", "whose layout is better: borders, picture in picture", COMPARISONS),
    Question(
        "Q8",
        "who shows the product better: position, size, angle, completeness, quantity, state of use",
        COMPARISONS,
    ),
    Question("Q9", "whose background is better: color harmony, scene consistency, aesthetics", COMPARISONS),
    Question("Q10", "which image is the user more likely to click", ("A", "B")),
)
_ALLOWED = {question.key: question.allowed for question in QUESTIONS}

_STRICT = re.compile(r"<think>.+?</think>\s*<answer>\s*([AB])\s*</answer>\s*", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LONE = re.compile(r"(?:^|[^\w<>=])([AB])[\s.!*)\"']*$")
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|<answer>|$)", re.DOTALL)
_MARK = re.compile(r"\bQ(10|[1-9])\s*:")
_SAID = re.compile(r"\s*(A\s*[>=<]\s*B|YES|NO|A|B)(?![\w>=<])")
_BECAUSE = re.compile(r"^[\s,;.:-]*(?:because\b)?[\s,:]*")
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What stands in a completion.

    `letter_strict` is None unless the whole text has the strict form; `letter_lenient` is then the same.
    `answers` holds all ten questions, None where the value is missing or none of those allowed; `reasons`
    holds what follows an answer, where something does.
    """

    letter_strict: Letter | None
    letter_lenient: Letter | None
    answers: dict[str, str | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Reading:
    """Read a completion.

        strict : ^<think>.+?</think>\\s*<answer>\\s*[AB]\\s*</answer>\\s*$     with each tag once
        lenient: the last <answer>...</answer>, else a lone final letter; otherwise none

    Lenient also takes a small letter or a full stop inside the tags. A letter at the end of a reasoning that
    was cut off is no decision: it may be the start of "A>B". Question answers are read inside `<think>`,
    closed or cut off; one answered twice counts as it was answered last. Where the reasoning does not name
    Q10, the lenient letter is its answer.

    Example:
        >>> reading = parse("<think>Q1: NO Q3: A>B because larger</think><answer>A</answer>")
        >>> reading.letter_strict, reading.answers["Q3"], reading.reasons["Q3"], reading.answers["Q4"]
        ('A', 'A>B', 'larger', None)
        >>> parse("I would say B.").letter_lenient
        'B'
    """
    strict, lenient = _strict(text), _lenient(text)
    answers, reasons = _answers(text)
    if answers["Q10"] is None:
        answers["Q10"] = lenient
    return Reading(strict, lenient, answers, reasons)


def _strict(text: str) -> Letter | None:
    found = _STRICT.fullmatch(text)
    if found is None or len(_TAG.findall(text)) != 4:
        return None
    return cast("Letter", found[1])


def _lenient(text: str) -> Letter | None:
    tagged = _ANSWER.findall(text)
    if tagged:
        said = tagged[-1].strip(" \n\t.*").upper()
        return cast("Letter", said) if said in ("A", "B") else None
    _, closed, rest = text.rpartition("</think>")
    if "<think>" in text and not closed:
        return None
    found = _LONE.search(rest.rstrip())
    return cast("Letter", found[1]) if found else None


def _answers(text: str) -> tuple[dict[str, str | None], dict[str, str]]:
    answers: dict[str, str | None] = dict.fromkeys(_ALLOWED)
    reasons: dict[str, str] = {}
    thought = _THOUGHT.search(text)
    if thought is None:
        return answers, reasons
    pieces = _MARK.split(thought[1])[1:]  # number, what follows it, number, ...
    for number, said in zip(pieces[::2], pieces[1::2], strict=True):
        key, found = f"Q{number}", _SAID.match(said)
        value = "".join(found[1].split()) if found else None
        answers[key] = value if value in _ALLOWED[key] else None
        reasons.pop(key, None)
        rest = _BECAUSE.sub("", said[found.end() :]).strip() if found and answers[key] else ""
        if rest:
            reasons[key] = rest
    return answers, reasons


def balance(answers: Mapping[str, str | None]) -> int:
    """Sum over Q3 ... Q9 of +1 for A>B, 0 for A=B or no answer, -1 for A<B: positive speaks for A."""
    return sum(VALUE.get(answers.get(key) or "", 0) for key in SCORED)


def is_consistent(answers: Mapping[str, str | None], letter: Letter) -> float:
    """Whether a letter follows from the answers: 1 yes, 0.5 where they balance, 0 where they do not."""
    total = balance(answers)
    return 0.5 if total == 0 else float((total > 0) == (letter == "A"))


def canonical_text(answers: Mapping[str, str | None], reasons: Mapping[str, str], letter: Letter) -> str:
    """A completion in the strict form; questions without an answer are left out.

    Tags and question marks in a reason are taken out, so that what is written is read back the same.

    Example:
        >>> canonical_text({"Q1": "NO", "Q3": "A>B"}, {"Q3": "larger"}, "A")
        '<think>Q1: NO Q3: A>B because larger</think><answer>A</answer>'
    """
    said = []
    for question in QUESTIONS:
        answer, reason = answers.get(question.key), _plain(reasons.get(question.key, ""))
        if answer is not None:
            said.append(f"{question.key}: {answer}" + (f" because {reason}" if reason else ""))
    return f"<think>{' '.join(said)}</think><answer>{letter}</answer>"


def _plain(reason: str) -> str:
    return _BECAUSE.sub("", " ".join(_MARK.sub(" ", reason.replace("<", " ").replace(">", " ")).split()))
