"""What an advertiser is told of a duel: a verdict in words, and only the reasons that support it.

A reason that contradicts the choice is worse than none: dimensions are shown only where the reasoning of both
orders leads to its letter, and of those only what both orders say alike. A tie is a possible answer.

Paper: Creative4U 2 (Explanation) and 8 (ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moontide.creative.judge import IDENTICAL, Duel
from moontide.creative.protocol import SCORED, is_consistent
from moontide.creative.records import Verdict

NAMES = {
    "Q3": "fit to the queries",
    "Q4": "fit to the title",
    "Q5": "text in the picture",
    "Q6": "models and props",
    "Q7": "layout",
    "Q8": "product subject",
    "Q9": "background",
}
_TURNED = {"A>B": "A<B", "A<B": "A>B", "A=B": "A=B"}


@dataclass(frozen=True)
class Explanation:
    """A duel for people.

    Args:
        pair_id: of the pair.
        verdict: "A", "B" or "tie".
        confidence: chance of the preferred creative, 0.5 to 1; of neither where it is a tie.
        dimensions: question -> "A>B", "A=B", "A<B", or None where the orders disagree; empty where the
            reasoning does not lead to the verdict.
        paragraph: all of it in words.
        model_version: of the judge.
    """

    pair_id: str
    verdict: Literal["A", "B", "tie"]
    confidence: float
    dimensions: dict[str, str | None]
    paragraph: str
    model_version: str


def explain(duel: Duel) -> Explanation:
    """Put a duel into words."""
    forward = duel.forward
    verdict: Literal["A", "B", "tie"] = "tie" if duel.is_tie else "A" if duel.s_a > 0.5 else "B"
    dimensions = _dimensions(duel) if verdict != "tie" else {}
    confidence = max(duel.s_a, 1 - duel.s_a)
    paragraph = _paragraph(duel, verdict, confidence, dimensions)
    return Explanation(forward.pair_id, verdict, confidence, dimensions, paragraph, forward.model_version)


def _dimensions(duel: Duel) -> dict[str, str | None]:
    if not (_leads(duel.forward) and _leads(duel.backward)):
        return {}
    found: dict[str, str | None] = {}
    for key in SCORED:
        first, second = duel.forward.answers.get(key), duel.backward.answers.get(key)
        if first is not None:
            found[key] = first if second is not None and _TURNED.get(second) == first else None
    return found


def _leads(verdict: Verdict) -> bool:
    """Whether a verdict's own answers lead to its letter."""
    return verdict.letter is not None and is_consistent(verdict.answers, verdict.letter) == 1.0


def _paragraph(duel: Duel, verdict: str, confidence: float, dimensions: dict[str, str | None]) -> str:
    if duel.forward.note == IDENTICAL:
        return "The two pictures are identical: there is nothing to choose."
    if verdict == "tie":
        if duel.forward.letter is None or duel.backward.letter is None:
            return "No clear preference: the judge named no creative in at least one order."
        if duel.forward.letter == duel.backward.letter:
            place = "first" if duel.forward.letter == "A" else "second"
            return f"No clear preference: the judge chose the {place} picture in both orders."
        return (
            f"No clear preference: creative A is ahead with a chance of {duel.s_a:.0%}, within the tie band."
        )
    other = "B" if verdict == "A" else "A"
    text = f"Creative {verdict} is more likely to be clicked (confidence {confidence:.0%})."
    if not dimensions:
        return f"{text} The reasons given do not lead to this choice in both orders and are left out."
    mine, theirs = ("A>B", "A<B") if verdict == "A" else ("A<B", "A>B")
    for who, sign in ((verdict, mine), (other, theirs)):
        names = [NAMES[key] for key, value in dimensions.items() if value == sign]
        if names:
            text += f" In favor of {who}: {', '.join(names)}."
    even = [NAMES[key] for key, value in dimensions.items() if value == "A=B"]
    return text + (f" Even: {', '.join(even)}." if even else "")
