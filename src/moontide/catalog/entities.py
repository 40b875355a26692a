"""Entities in texts: brands, categories and attribute values that the catalog itself names.

The gazetteer finds the longest name at every place. Names are compared in words of folded case; where a
script writes no spaces between words, as Chinese, every character counts as a word, which makes the
comparison one of substrings.

Paper: MOON2.0 3.3 (1): salient entities of title and description (paper reported; the gazetteer is ours).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from moontide.catalog.records import Product
from moontide.catalog.values import NOTHING

Kind = Literal["brand", "category", "attribute"]
Name = tuple[str, Kind, str | None]

MAX_WORDS = 8  # a longer value is a sentence, not a name
# Thai, Lao, Myanmar, Khmer, kana, Han, half-width kana: written without spaces.
_DENSE = (
    "\u0e00-\u0e4f\u0e5a-\u0eff\u1000-\u103f\u1780-\u17df"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
# Vowel signs and accents, which `\w` does not take for part of a word.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0903\u093a-\u094f\u0962\u0963\u0980-\u0dff"
_LETTER = rf"(?:[^\W_{_DENSE}]|[{_MARKS}])"
_WORD = re.compile(rf"[{_DENSE}]|\d+(?:[.,]\d+)+{_LETTER}*|{_LETTER}+(?:['\u2019]{_LETTER}+)*")
_LONE = re.compile(rf"[^{_DENSE}]")


@dataclass(frozen=True)
class Entity:
    """A name in a text: what it names, the attribute's key if it is a value, and its characters."""

    text: str
    kind: Kind
    key: str | None
    start: int
    end: int


class EntityExtractor(Protocol):
    """Finds entities in a text; a NER model is another one."""

    def find(self, text: str) -> tuple[Entity, ...]: ...


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in folded case; every character of a script without spaces is one.

    Example:
        >>> words_of("Nike\u8dd1\u978b, Women's 1.5L")
        ('nike', '\u8dd1', '\u978b', "women's", '1.5l')
    """
    return tuple(word for word, _, _ in _spans(text))


def _spans(text: str) -> list[tuple[str, int, int]]:
    if text.isascii():
        return [(match[0].lower(), *match.span()) for match in _WORD.finditer(text)]
    return [(_folded(match[0]), *match.span()) for match in _WORD.finditer(text)]


def _folded(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold().replace("\u2019", "'")


class Gazetteer:
    """The names of a catalog, found in texts: at each place the longest, from left to right.

    Args:
        names: (name, kind, key of the attribute); of equal names the first counts. Names without a letter or
            digit, of one letter, or of over eight words are left out.

    Attributes:
        identities: words of all brands and of all values of a key with "model" in it: what a text must not
            make up.

    Example:
        >>> names = Gazetteer([("Acme", "brand", None), ("red", "attribute", "color")])
        >>> [(one.text, one.kind, one.key) for one in names.find("RED Acme chair")]
        [('RED', 'attribute', 'color'), ('Acme', 'brand', None)]
    """

    def __init__(self, names: Iterable[Name]):
        self._entries: dict[tuple[str, ...], tuple[Kind, str | None]] = {}
        self._lengths: dict[str, tuple[int, ...]] = {}
        identities: set[tuple[str, ...]] = set()
        for name, kind, key in names:
            words = words_of(name)
            if not _is_name(name, words):
                continue
            self._entries.setdefault(words, (kind, key))
            lengths = {len(words), *self._lengths.get(words[0], ())}
            self._lengths[words[0]] = tuple(sorted(lengths, reverse=True))
            if kind == "brand" or (key is not None and "model" in key.casefold()):
                identities.add(words)
        self.identities = frozenset(identities)

    @classmethod
    def of(cls, products: Collection[Product]) -> Gazetteer:
        """All that products name: brands before attribute values before categories where they are equal."""
        brands: list[Name] = [(one.brand, "brand", None) for one in products if one.brand]
        values: list[Name] = [
            (value, "attribute", key)
            for one in products
            for key, values in one.attributes.items()
            for value in values
            if value
        ]
        categories: list[Name] = [
            (name, "category", None) for one in products for name in one.category if name
        ]
        return cls(dict.fromkeys([*brands, *values, *categories]))

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, text: str) -> tuple[Entity, ...]:
        """The entities of a text, from left to right, none overlapping."""
        spans = _spans(text)
        words = tuple(word for word, _, _ in spans)
        found, at = [], 0
        while at < len(words):
            taken = 1
            for length in self._lengths.get(words[at], ()):
                entry = self._entries.get(words[at : at + length])
                if entry is not None and at + length <= len(words):
                    start, end = spans[at][1], spans[at + length - 1][2]
                    found.append(Entity(text[start:end], *entry, start, end))
                    taken = length
                    break
            at += taken
        return tuple(found)


def _is_name(name: str, words: tuple[str, ...]) -> bool:
    if not words or len(words) > MAX_WORDS or name.strip().casefold() in NOTHING:
        return False
    return len(words) > 1 or len(words[0]) > 1 or not _LONE.match(words[0])
