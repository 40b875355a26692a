"""The words a shopper reads in printed titles, and the color names people type.

Words come from the titles themselves, whatever shop printed them; which of them are names of things is
told by the category tree. The attribute table is not read.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from moontide.market.perception import to_lab
from moontide.market.render.looks import CATEGORIES, COLORS

MAX_WORDS = 1_500  # most frequent ones that are known; rarer ones say nothing
TITLE_WORDS = 16  # words of one title that are read
STOPWORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "at",
        "by",
        "for",
        "from",
        "in",
        "is",
        "of",
        "on",
        "or",
        "our",
        "the",
        "this",
        "to",
        "with",
        "your",
    )
)

COLOR_NAMES = tuple(COLORS)
COLOR_LAB = to_lab(np.array(list(COLORS.values()), np.uint8))  # (colors, 3): what people call by these names


def words_of(text: str) -> list[str]:
    """Lower-case words of two letters or more; numbers are dropped.

    Example:
        >>> words_of("Orvelle Women's V-neck Tee, 100% cotton")
        ['orvelle', 'women', 'neck', 'tee', 'cotton']
    """
    return re.findall(r"[^\W\d_]{2,}", text.lower().replace("'s", ""))


def nouns_of(path: tuple[str, ...]) -> tuple[str, ...]:
    """What people call products of a category, most usual first: known nouns, else the category's own name.

    Example:
        >>> nouns_of(("Kitchen", "Tableware", "mug"))
        ('mug', 'cup', 'coffee cup')
        >>> nouns_of(("Apparel", "Tshirts"))
        ('tshirts',)
    """
    leaf = path[-1]
    return CATEGORIES[leaf].nouns if leaf in CATEGORIES else (leaf.lower(),)


@dataclass(frozen=True)
class Vocabulary:
    """Words of a catalog's titles and which of them may please.

    Args:
        words: known words, most frequent first.
        is_taste: (words,) False for names of things, colors and fillers.
        title: (products, TITLE_WORDS) codes of each title's words, -1 padded.
        color: (products, colors) True where the title says the color's name.
    """

    words: tuple[str, ...]
    is_taste: np.ndarray
    title: np.ndarray
    color: np.ndarray

    @classmethod
    def of(cls, titles: list[str], paths: list[tuple[str, ...]]) -> Vocabulary:
        """The vocabulary of a catalog.

        Args:
            titles: of all products.
            paths: category paths that exist; their words are names of things.
        """
        split = [list(dict.fromkeys(words_of(title))) for title in titles]
        counts = Counter(word for words in split for word in words if word not in STOPWORDS)
        kept = [word for word, count in counts.most_common(MAX_WORDS) if count > 1]
        code = {word: number for number, word in enumerate(kept)}
        names = {word for path in paths for phrase in (*path, *nouns_of(path)) for word in words_of(phrase)}
        names |= {word + "s" for word in names} | {word for name in COLOR_NAMES for word in words_of(name)}
        padded = np.full((len(titles), TITLE_WORDS), -1, np.int32)
        for row, words in enumerate(split):
            codes = [code[word] for word in words if word in code][:TITLE_WORDS]
            padded[row, : len(codes)] = codes
        color = np.zeros((len(titles), len(COLOR_NAMES)), bool)
        for row, title in enumerate(titles):
            spaced = f" {' '.join(words_of(title))} "
            color[row] = [f" {name} " in spaced for name in COLOR_NAMES]
        return cls(tuple(kept), np.array([word not in names for word in kept], bool), padded, color)
