"""What a shop writes about a product: title, description and attribute table, each incomplete in its own way.

A title leans on what a picture cannot show (material, features, use) and often leaves out what it can (color,
pattern, shape); a few words are misspelled and a few are wrong. Neither title nor picture alone tells
everything, which is why a model that reads both can gain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moontide.market.render.looks import CATEGORIES, COLORS, Look
from moontide.market.words import (
    FILLERS_BACK,
    FILLERS_FRONT,
    HIDDEN,
    NOUN_NEEDS,
    PLURAL,
    TAIL_FEATURES,
    VISIBLE,
    choices,
    say,
)

# how often a title names an attribute, in a shop of middling wordiness
TITLE_RATES = {
    "color": 0.56, "pattern": 0.65, "material": 0.75, "shape": 0.38, "detail": 0.3, "feature": 0.8,
    "use": 0.45, "style": 0.35, "audience": 0.35,
}  # fmt: skip
PLAIN_RATE = 0.25  # "solid" is said less often than "striped"
TABLE_MISSING = {"use": 0.4, "style": 0.45, "audience": 0.3}  # others 0.12; small merchants twice that
WRONG_SHARE = 0.03  # of the attribute words in titles, and of the values in attribute tables
TYPO_SHARE = 0.04
NOISY_SHARE = 0.1  # titles whose words stand in no particular order
_SMALL = frozenset(("for", "with", "and", "by", "in", "of"))


@dataclass(frozen=True)
class House:
    """How a merchant writes.

    Args:
        manner: "terse", "plain" or "stuffed" with keywords.
        is_title_case: Every Word Starts Like This.
        carelessness: factor on missing table values.
    """

    manner: str = "plain"
    is_title_case: bool = True
    carelessness: float = 1.0


@dataclass(frozen=True)
class Facts:
    """What is true of a product: its look, its brand, and what a picture cannot show (`words.HIDDEN`)."""

    look: Look
    brand: str
    hidden: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def value(self, attribute: str) -> str:
        """The (first) true value of an attribute."""
        return getattr(self.look, attribute) if attribute in VISIBLE else self.hidden[attribute][0]


@dataclass(frozen=True)
class Listing:
    """The printed words; `said` holds the value, right or wrong, of every attribute the title names."""

    title: str
    description: str | None
    attributes: dict[str, list[str]]
    said: dict[str, str]


def write_listing(facts: Facts, house: House, rng: np.random.Generator) -> Listing:
    """Title, description and attribute table of one product, in the manner of its merchant."""
    said = _said(facts, house, rng)
    noun = _noun(facts, rng)
    words = {key: _word(facts, key, value, rng) for key, value in said.items()}
    title = _typo(_cased(_title(facts, house, noun, words, rng), house), facts.brand, rng)
    return Listing(title, _description(facts, noun, rng), _table(facts, house, rng), said)


def _said(facts: Facts, house: House, rng: np.random.Generator) -> dict[str, str]:
    """attribute -> the value the title will name."""
    wordiness = {"terse": 0.8, "plain": 1.0, "stuffed": 1.15}[house.manner]
    said = {}
    for key, rate in TITLE_RATES.items():
        value = facts.value(key)
        if key == "pattern" and value == "plain":
            rate = PLAIN_RATE
        draw, is_wrong, other = rng.random(), rng.random() < WRONG_SHARE, rng.random()
        if draw < rate * wordiness and not (key == "detail" and value in ("none", "empty")):
            said[key] = _another(facts, key, other) if is_wrong else value
    return said


def _another(facts: Facts, key: str, chance: float) -> str:
    """A value of the attribute that is not true of the product (the true one if there is no other)."""
    kind, true = CATEGORIES[facts.look.category], facts.value(key)
    if key in HIDDEN:
        values = [word for word in choices(key, kind.name) if word not in facts.hidden[key]]
    else:
        values = COLORS if key == "color" else getattr(kind, key + "s")
        values = [value for value in values if value not in (true, "none", "empty")]
    return values[int(chance * len(values))] if values else true


def _word(facts: Facts, key: str, value: str, rng: np.random.Generator) -> str:
    return value if key in HIDDEN else say(key, value, facts.look.category, rng)


def _nouns(facts: Facts) -> list[str]:
    """The words for the category that do not contradict the product."""
    kind, look = CATEGORIES[facts.look.category], facts.look
    true = {look.shape, look.material, *facts.hidden["feature"]}
    return [noun for noun in kind.nouns if noun not in NOUN_NEEDS or true & set(NOUN_NEEDS[noun].split())]


def _noun(facts: Facts, rng: np.random.Generator) -> str:
    """One of them, the usual one most often; shoes and socks in the plural."""
    nouns, chance = _nouns(facts), rng.random()
    noun = nouns[0] if chance < 0.55 else nouns[int((chance - 0.55) / 0.45 * len(nouns))]
    if facts.look.category in PLURAL and not noun.endswith("s") and " of " not in noun:
        noun += "s"
    return noun


def _title(
    facts: Facts, house: House, noun: str, words: dict[str, str], rng: np.random.Generator
) -> list[str]:
    """The phrases of a title in order; a comma at a phrase's end or a dash is its own business."""
    has = rng.random(6).tolist()
    features = [words["feature"]] if "feature" in words else []
    in_front = [word for word in features if word not in TAIL_FEATURES and has[0] < 0.6]
    shown = [words[key] for key in ("color", "pattern", "material", "shape") if key in words]
    front = [words[key] for key in ("style",) if key in words] + in_front
    front += [word for word in shown if not set(word.lower().split()) <= set(noun.lower().split())]
    audience, use = words.get("audience"), words.get("use")
    if audience in ("women", "men") and has[1] < 0.6:
        front, audience = [audience + "'s", *front], None
    head = [facts.brand, *front] if has[2] < 0.85 else front
    tail = [f"with {words['detail']}"] if "detail" in words else []
    tail += [f"for {audience}"] if audience else []
    tail += [f", {use}" if audience else f"for {use}"] if use else []  # "for teens, office"
    tail += [f", {word}" for word in features if word not in in_front]
    if house.manner == "terse":
        parts = [*head, noun, *tail[:2]]
    elif house.manner == "plain":
        parts = [*head, noun, *tail] + ([f", {_pick(FILLERS_BACK, rng)}"] if has[3] < 0.15 else [])
    else:
        second = [word for word in _nouns(facts)[:2] if word.rstrip("s") not in noun][:1]
        keywords = [part.removeprefix("for ") if has[1] < 0.5 else part for part in tail]
        parts = [_pick(FILLERS_FRONT, rng)] * (has[3] < 0.45) + head + [noun] + second * (has[4] < 0.4)
        parts += keywords + [_pick((", {}", "- {}", "| {}"), rng).format(_pick(FILLERS_BACK, rng))] * (
            has[5] < 0.6
        )
    if rng.random() < NOISY_SHARE:
        parts = [parts[place] for place in rng.permutation(len(parts))]
    return parts


def _cased(parts: list[str], house: House) -> str:
    """The phrases as one line, cased the merchant's way."""
    text = " ".join(parts).replace(" ,", ",").strip(" ,-|")
    if not house.is_title_case:
        return text[0].upper() + text[1:]
    words = [word if word in _SMALL else word[:1].upper() + word[1:] for word in text.split()]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


def _typo(title: str, brand: str, rng: np.random.Generator) -> str:
    """The title, in a few cases with two letters swapped, one dropped or one doubled."""
    chance, choice, kind = rng.random(3)
    words = title.split()
    places = [at for at, word in enumerate(words) if len(word) > 4 and word.isalpha() and word not in brand]
    if chance >= TYPO_SHARE or not places:
        return title
    at = places[int(choice * len(places))]
    word, cut = words[at], 1 + int(kind * 97) % (len(words[at]) - 3)
    swapped = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    words[at] = (swapped, word[:cut] + word[cut + 1 :], word[:cut] + word[cut] + word[cut:])[int(kind * 3)]
    return " ".join(words)


def _description(facts: Facts, noun: str, rng: np.random.Generator) -> str | None:
    """One to three sentences, or None in one shop page of ten."""
    if rng.random() < 0.1:
        return None
    look, hidden = facts.look, facts.hidden
    word = {key: _word(facts, key, facts.value(key), rng) for key in (*VISIBLE, *HIDDEN)}
    made_of = _AS_NOUN.get(word["material"], word["material"]).replace("knit", "knit fabric")
    service = _SERVICE + _CARE[CATEGORIES[look.category].department]
    intro = (
        f"{word['style'].capitalize()} {noun} from {facts.brand}.",
        f"{facts.brand} {noun} made for {word['audience']}.",
        f"Our {noun} by {facts.brand}: a good choice for {word['use']}.",
        f"{facts.brand} {noun}, material: {made_of}.",
    )
    shown = [word["color"], word["shape"]] + ([word["pattern"]] if look.pattern != "plain" else [])
    shown += [f"with {word['detail']}"] if word["detail"] else []
    kept = [phrase for phrase in shown if rng.random() < 0.6] or shown[:1]
    more = (
        f"Highlights: {', '.join(hidden['feature'])}.",
        f"Ideal for {word['use']} and a favorite of {word['audience']}.",
        f"Comes {', '.join(kept)}." if kept[0].startswith("with") else f"In detail: {', '.join(kept)}.",
        f"Made of {made_of}.",
        _pick(service, rng),
        _pick(service, rng),
    )
    count = int(rng.integers(0, 3))
    picked = sorted(rng.choice(len(more), count, replace=False))
    return " ".join(dict.fromkeys([_pick(intro, rng), *(more[at] for at in picked)]))


_SERVICE = (
    "Free returns within 30 days.",
    "Ships within 24 hours.",
    "Packed in a gift box.",
    "Colors may differ slightly from the picture.",
    "Designed in our own studio.",
)
_CARE = {
    "Footwear": ("Please check the size chart before you order.", "Half sizes on request."),
    "Clothing": ("Please check the size chart before you order.", "Iron on low heat."),
    "Accessories": ("Two years of warranty.", "One size."),
    "Kitchen": ("Safe for food.", "Easy to clean with a damp cloth."),
    "Home": ("Easy to clean with a damp cloth.", "Wrapped with care."),
    "Electronics": ("Two years of warranty.", "User manual included."),
    "Leisure": ("Two years of warranty.", "Tested for safety."),
}
_AS_NOUN = {"wooden": "wood", "knitted": "knit", "silky": "silk", "enameled": "enamel"}  # of materials


def _table(facts: Facts, house: House, rng: np.random.Generator) -> dict[str, list[str]]:
    """The attribute table: some values missing, a few wrong."""
    table = {}
    for key in (*VISIBLE, *HIDDEN):
        missing, is_wrong, other = rng.random(), rng.random() < WRONG_SHARE, rng.random()
        values = facts.hidden[key] if key in HIDDEN else (facts.value(key),)
        if is_wrong:
            values = (_another(facts, key, other),)
        words = [_word(facts, key, value, rng) for value in values]
        words = [_AS_NOUN.get(word, word) if key == "material" else word for word in words if word]
        if words and missing >= TABLE_MISSING.get(key, 0.12) * house.carelessness:
            table[key] = words
    return table


def _pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    return words[rng.integers(len(words))]
