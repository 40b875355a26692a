"""The annotator of the embedded default: answers to the protocol from how two creatives were made.

A rendered creative comes with its template and parameters (size and place of the product, props, words,
border, background). From these alone a fixed rubric answers Q1 to Q9; it sees neither the label, nor clicks,
nor anything hidden. The label decides the letter, and whether the answers may stand: a rationale whose
balance contradicts it is refused. Reasons are drawn from several phrasings each, so that a model reads rather
than recites.

Paper: Creative4U 3.4; the annotator is not in the text available to us, this one is ours. The rubric is what
a designer would say without looking at clicks: show the product large and whole, calm behind it, nothing
beside it, no heavy frame, an offer rather than a shout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from moontide.creative.pairset import PairSet
from moontide.creative.protocol import SCORED, balance, canonical_text
from moontide.creative.rationale import ORDERS, Rationale, balanced, in_order, labels_only
from moontide.creative.records import CreativePair, Order
from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings

CALM = {"plain": 1.0, "gradient": 1.0, "blocks": 0.0}  # a scene lies between: 0.5
FRAMES = {"none": 0.0, "thin": 1.0, "double": 2.0, "thick": 3.0}
SHOUTS = ("HOT", "TOP", "ONLY TODAY")  # words that inform of nothing
GOOD_SIZE = 0.75  # side of the product's box, as a share of the picture's: large, and whole
PHRASES: dict[str, tuple[str, ...]] = {
    "Q3": ("clearer match", "easier to recognize", "nothing unrelated"),
    "Q4": ("product fully visible", "shows whole product", "true to title"),
    "Q5": ("offer is stated", "words inform", "clear offer"),
    "Q6": ("fewer props", "no distracting props", "less clutter"),
    "Q7": ("lighter frame", "open layout", "less border"),
    "Q8": ("better product size", "product well placed", "larger whole product"),
    "Q9": ("calmer background", "quiet background", "simple background"),
}
BANDS = {"Q3": 0.12, "Q4": 0.1, "Q5": 0.5, "Q6": 1.5, "Q7": 0.5, "Q8": 0.08, "Q9": 0.25}
"""Differences up to these are no preference, in each question's own unit (see `Make`)."""


def reason_words() -> list[str]:
    """Every word a reason can be made of."""
    return sorted(
        {word for phrases in PHRASES.values() for phrase in phrases for word in phrase.split()} | {"because"}
    )


class AnnotatorSettings(Settings):
    """How reasons are written."""

    num_reasons: int = pydantic.Field(
        2, ge=0, le=7, description="reasons of a rationale, decisive questions first"
    )
    without: tuple[str, ...] = pydantic.Field((), description="questions left out (ablation), such as Q5")
    seed: int = pydantic.Field(0, description="of phrasings")


@dataclass(frozen=True)
class Make:
    """How a creative was made, as far as the rubric looks.

    Args:
        size: side of the product's box, share of the picture's.
        off_center: distance of its middle from the picture's, share of the side; across only in a scene,
            where it stands on the floor.
        num_props: things beside the product.
        text: words on it, blank for none.
        frame: 0 none to 3 thick.
        calm: 1 plain, 0.5 a scene, 0 blocks of color.
    """

    size: float
    off_center: float
    num_props: int
    text: str
    frame: float
    calm: float

    @classmethod
    def of(cls, template: str, params: dict[str, str]) -> Make:
        """From a row of `creatives`; the plain main picture carries no parameters.

        Raises:
            DataError: a parameter is missing or no number.
        """
        if template == "plain" and not params:
            return cls(0.79, 0.0, 0, "", 0.0, 1.0)
        try:
            background = params["background"]
            x, y = float(params["x"]) - 0.5, float(params["y"]) - 0.5
            is_scene = background not in CALM
            return cls(
                size=float(params["size"]),
                off_center=abs(x) if is_scene else (x * x + y * y) ** 0.5,
                num_props=int(params["props"]),
                text=params["text"],
                frame=FRAMES[params["border"]],
                calm=CALM.get(background, 0.5),
            )
        except (KeyError, ValueError) as error:
            raise DataError(
                f"creative parameters of template {template!r} cannot be read ({error!r}): the annotator of "
                "the embedded market needs those it was drawn with"
            ) from None

    def points(self) -> dict[str, float]:
        """How good it is by each question, in the question's own unit; more is better."""
        cut = max(0.0, self.size - 0.95)
        words = 0.0 if not self.text else 0.4 if self.text in SHOUTS else 1.0
        return {
            "Q3": min(self.size, GOOD_SIZE) - 0.06 * self.num_props,
            "Q4": -2 * cut - 0.05 * self.num_props - self.off_center,
            "Q5": words,
            "Q6": -float(self.num_props),
            "Q7": -self.frame,
            "Q8": -abs(self.size - GOOD_SIZE) - 0.5 * self.off_center,
            "Q9": self.calm,
        }


def answers(
    a: Make, b: Make, has_queries: bool = True, has_title: bool = True, is_same: bool = False
) -> dict[str, str | None]:
    """The rubric's answers to Q1 ... Q9; exchanging the creatives turns every comparison round.

    Args:
        has_queries, has_title: without them Q3 or Q4 is "A=B".
        is_same: the pictures are identical.
    """
    found: dict[str, str | None] = {
        "Q1": "YES" if is_same else "NO",
        "Q2": "YES" if is_same or a == b else "NO",
    }
    mine, other = a.points(), b.points()
    for key in SCORED:
        apart = mine[key] - other[key]
        is_tie = (
            abs(apart) <= BANDS[key] or (key == "Q3" and not has_queries) or (key == "Q4" and not has_title)
        )
        found[key] = "A=B" if is_tie else "A>B" if apart > 0 else "A<B"
    return found


def annotate(
    pairs: Sequence[CreativePair],
    made: Callable[[str], Make],
    settings: AnnotatorSettings,
    fits: Callable[[str], bool] = lambda text: True,
) -> list[Rationale]:
    """Rationales for both orders of every pair, refused ones included.

    Args:
        made: the `Make` of a creative id.
        fits: whether a completion is short enough; reasons are dropped until it is.

    Raises:
        DataError: even without reasons a completion is too long.
    """
    found = []
    for pair in pairs:
        a, b = made(pair.creative_a), made(pair.creative_b)
        for order in ORDERS:
            first, second = (a, b) if order == "ab" else (b, a)
            is_same = pair.image_a == pair.image_b
            told = answers(first, second, bool(pair.queries), bool(pair.title.strip()), is_same)
            told = {key: value for key, value in told.items() if key not in settings.without}
            found.append(_rationale(pair, order, told, _apart(first, second), settings, fits))
    return found


def _apart(a: Make, b: Make) -> dict[str, float]:
    """How far apart two creatives are, in bands."""
    mine, other = a.points(), b.points()
    return {key: abs(mine[key] - other[key]) / BANDS[key] for key in SCORED}


def _rationale(
    pair: CreativePair,
    order: Order,
    told: dict[str, str | None],
    apart: dict[str, float],
    settings: AnnotatorSettings,
    fits: Callable[[str], bool],
) -> Rationale:
    letter = in_order(pair.label, order)
    rng = stream(settings.seed, "reasons", pair.pair_id, order)
    decisive = [key for key in told if key in SCORED and told[key] != "A=B"]
    decisive.sort(key=lambda key: -apart[key] * rng.uniform(0.7, 1.3))  # not always the same question
    reasons = {key: str(rng.choice(PHRASES[key])) for key in decisive[: settings.num_reasons]}
    text = canonical_text(told, reasons, letter)
    while not fits(text):
        if not reasons:
            raise DataError(f"nine answers alone are too long for this judge: {text!r}; raise max_tokens")
        reasons.popitem()
        text = canonical_text(told, reasons, letter)
    total = balance(told)
    refused = ""
    if told.get("Q1") == "YES" or told.get("Q2") == "YES":
        refused = "the creatives are the same"
    elif total and (total > 0) != (letter == "A"):
        refused = "balance contradicts the label"
    return Rationale(pair.pair_id, order, letter, told, text, "annotator", not refused, refused)


def annotate_set(
    pairs: PairSet,
    settings: AnnotatorSettings,
    fits: Callable[[str], bool] = lambda text: True,
    split: str = "train",
    mode: Literal["protocol", "answer"] = "protocol",
) -> list[Rationale]:
    """`annotate` for a split of a pair set, accepted ones balanced to as many A as B.

    Args:
        mode: "answer" writes the label's letter and no reasoning (ablation); it needs no parameters.
    """
    if mode == "answer":
        return labels_only(pairs.pairs(split))

    def made(creative_id: str) -> Make:
        template, params = pairs.params(creative_id)
        return Make.of(template, dict(params))

    found = annotate(pairs.pairs(split), made, settings, fits)
    kept = balanced([one for one in found if one.accepted], settings.seed)
    return [*kept, *[one for one in found if not one.accepted]]


def fits_of(tokenizer: Any, max_tokens: int) -> Callable[[str], bool]:
    """Whether a completion and its end token are at most `max_tokens` tokens."""

    def fits(text: str) -> bool:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 <= max_tokens

    return fits
