"""The text a reasoning encoder writes before its vector: category and attributes of what it sees.

    <think>category: skirt; color: teal; material: denim</think>

One line, one form: keys from a short list, category first, `;` and `:` for nothing else. `chain_text` writes
it, `parse_chain` reads it and refuses everything else. Catalog attributes become chains as targets and as
what rewards compare with; they are never an input of an encoder.

Paper: MOON3.0 2 (list of attributes before `<emb>` paper reported; tags and layout analog LREM).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from moontide.catalog.records import Product
from moontide.foundation.errors import DataError, SettingsError

ChainKeys: TypeAlias = tuple[str, ...]

THINK, DONE = "<think>", "</think>"
CATEGORY = "category"
AND = " and "  # between several values of a key
_RESERVED = re.compile("[;:<]")
_CHAIN = re.compile(f"{THINK}([^<]*){DONE}")
_TAG = re.compile("</?think>")
_WORDS = re.compile(r"\w+")


def tidy(text: str) -> str:
    """A key or value as a chain can hold it: Unicode form NFKC, no `;`, `:`, `<`, single blanks.

    NFKC comes first, because it turns full-width signs into plain ones. Doing it twice changes nothing.

    Example:
        >>> tidy("  size： EU 38;39 ")
        'size EU 38 39'
    """
    return " ".join(_RESERVED.sub(" ", unicodedata.normalize("NFKC", text)).split())


def folded(text: str) -> str:
    """`tidy` without case: what two keys or values are compared by, for tokenizers may lowercase."""
    return tidy(tidy(text).casefold())


def chain_keys(products: Iterable[Product], most: int = 6) -> ChainKeys:
    """The keys a catalog's chains may have: "category" and its most frequent attribute keys.

    A key is counted once for each product that has a value for it; equal counts go by name.

    Paper: MOON3.0 2: at most 6 keys in total (ours).

    Args:
        most: keys in total, at least 1.

    Returns:
        keys without case, "category" first, then falling frequency

    Raises:
        SettingsError: `most` below 1.
    """
    if most < 1:
        raise SettingsError(f"most must be at least 1, for the category, got {most}")
    counts: Counter[str] = Counter()
    for product in products:
        counts.update({folded(key) for key, values in product.attributes.items() if any(map(tidy, values))})
    frequent = sorted(counts.keys() - {"", CATEGORY}, key=lambda key: (-counts[key], key))
    return (CATEGORY, *frequent[: most - 1])


def chain_of(product: Product, keys: Sequence[str]) -> dict[str, str]:
    """What the catalog says about a product, in the order of `keys`; keys without a value are left out.

    The category is its finest level. Several values of a key are joined by " and ", repeats dropped.

    Example:
        >>> product = Product("p", "", ("Wear", "Skirt"), attributes={"Use": ("travel", "party", "Travel")})
        >>> chain_of(product, ("category", "color", "use"))
        {'category': 'Skirt', 'use': 'travel and party'}
    """
    known: dict[str, dict[str, str]] = {}  # key -> folded value -> value
    for key, values in product.attributes.items():
        kept = known.setdefault(folded(key), {})
        for value in values:
            kept.setdefault(folded(value), tidy(value))
    levels = [level for level in map(tidy, product.category) if level]
    known[CATEGORY] = {level: level for level in levels[-1:]}
    chain = {key: AND.join(filter(None, known.get(folded(key), {}).values())) for key in keys}
    return {key: value for key, value in chain.items() if value}


def chain_text(values: Mapping[str, str]) -> str:
    """A chain as text, in the order of the mapping.

    Keys without a value are left out. Of an empty chain only the tags remain, which `parse_chain` refuses:
    nothing has been said.

    Example:
        >>> chain_text({"category": "Skirt", "color": "", "size": "EU: 38"})
        '<think>category: Skirt; size: EU 38</think>'
    """
    pairs = [(tidy(key), tidy(value)) for key, value in values.items()]
    return f"{THINK}{'; '.join(f'{key}: {value}' for key, value in pairs if value)}{DONE}"


def parse_chain(text: str, keys: Sequence[str]) -> dict[str, str] | None:
    """The keys and values of a chain; None where its form is broken anywhere.

        ^<think>(key: value(; key: value)*)</think>$

    Keys must be from the list, in any order and case, none twice; values are not empty, hold no `;`, `:`,
    `<`, and no blanks but single ones between words. Blanks beside the tags are forgiven: tokenizers put
    them there.

    Paper: MOON3.0 3.4, r_format (ours).

    Returns:
        values as written by key as spelled in `keys`, in the order written
    """
    match = _CHAIN.fullmatch(text)
    if match is None:
        return None
    allowed = {folded(key): key for key in keys}
    values: dict[str, str] = {}
    for pair in match[1].strip(" ").split("; "):
        name, _, value = pair.partition(": ")
        key = allowed.get(folded(name)) if _is_plain(name) and _is_plain(value) else None
        if key is None or key in values:
            return None
        values[key] = value
    return values


def _is_plain(text: str) -> bool:
    return bool(text) and text == " ".join(text.split()) and not _RESERVED.search(text)


class Bm25:
    """How well the attribute text of a product answers a query, by the words they share.

        score(q, d) = sum_{w in q} log(1 + (n - n_w + 0.5) / (n_w + 0.5)) * f (k1 + 1) / (f + k1 B)
        B = 1 - b + b |d| / mean |d|

    f is how often w is in d, n_w how many of the n texts have it. Words that every text has, a chain's keys
    among them, weigh next to nothing. Each word of the query counts once.

    Paper: BM25 as in Robertson and Zaragoza 2009, with the logarithm kept above 0; used as in AFMRL,
        arXiv 2604.20135 (analog AFMRL).

    Args:
        texts: attribute texts of all products, which the statistics are taken from.
        k1: how fast repeated words stop counting.
        b: how much long texts are marked down, 0 to 1.

    Raises:
        DataError: no text.

    Example:
        >>> texts = ["skirt teal denim", "skirt gray felt", "hat gray felt"]
        >>> bm25 = Bm25(texts)
        >>> [round(bm25.score("teal skirt", text), 2) for text in texts]
        [1.45, 0.47, 0.0]
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75):
        if not texts:
            raise DataError("BM25 needs attribute texts to count words in: got none")
        self.k1, self.b, self.num = k1, b, len(texts)
        words = [_words(text) for text in texts]
        self.holders = Counter(word for one in words for word in set(one))
        self.mean_length = max(sum(map(len, words)) / self.num, 1.0)

    def score(self, query: str, text: str) -> float:
        """BM25 of one query against one text, 0 where they share no word; it has no upper bound."""
        words = _words(text)
        counts = Counter(words)
        damping = self.k1 * (1 - self.b + self.b * len(words) / self.mean_length)
        shared = [word for word in dict.fromkeys(_words(query)) if counts[word]]
        parts = [self._rarity(word) * counts[word] / (counts[word] + damping) for word in shared]
        return float((self.k1 + 1) * sum(parts))

    def _rarity(self, word: str) -> float:
        having = self.holders[word]
        return math.log(1 + (self.num - having + 0.5) / (having + 0.5))


def _words(text: str) -> list[str]:
    return _WORDS.findall(folded(_TAG.sub(" ", text)))
