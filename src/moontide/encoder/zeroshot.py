"""Zero-shot classification and attribute prediction: a product's vector against the vectors of short texts.

What is asked for must not be read from the product's own text. So the text is rendered without the category
path and without attributes that say it, and every word of any answer is taken out of what remains, for all
products alike; then a product whose title lacked the word looks no different from one that had it.

Paper: MOON 3.5 (protocol and metrics), 7.10 (leak guards: ours).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from moontide.catalog.records import Product
from moontide.catalog.splits import normalized_title
from moontide.encoder.metrics import predictions
from moontide.encoder.model.inputs import Item, Picture, query_item, render_text
from moontide.encoder.pool import Pool, Shown
from moontide.encoder.scorecard import Answers, Scorecard

MAX_VALUES = 200  # a key with more is free text, not a choice
MIN_PRODUCTS = 10  # with the key, among those held out
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
PHOTO = Shown("image")


class Guard:
    """Takes the words of some names out of texts.

    A word goes when it is a word of any name, whatever its case, plural or punctuation. In scripts without
    spaces a name goes wherever it stands.

    Example:
        >>> guard = Guard(["Flip Flops", "Shoes", "Watches"])
        >>> guard.clean("Red flip-flop, a WATCH; no shoestring")
        'Red a no shoestring'
    """

    def __init__(self, names: Iterable[str]):
        names = sorted(
            {" ".join(name.split()).casefold() for name in names}, key=lambda one: (-len(one), one)
        )
        self.words = {word for name in names for word in words_of(name)}
        inside = [re.escape(name) for name in names if UNSPACED.search(name)]
        self._inside = re.compile("|".join(inside), re.IGNORECASE) if inside else None

    def hits(self, text: str) -> bool:
        """Whether a word of the text would go."""
        return not self.words.isdisjoint(words_of(text))

    def clean(self, text: str | None, targets: Collection[str] = ()) -> str:
        """The text without those words.

        Args:
            targets: names of which not even letters inside another word may remain: the word goes too.
        """
        text = self._inside.sub(" ", text) if self._inside and text else text or ""
        inside = [one for one in map(str.casefold, targets) if len(one) > 2 and not UNSPACED.search(one)]
        kept = [
            piece
            for piece in text.split()
            if not self.hits(piece) and not any(one in piece.casefold() for one in inside)
        ]
        return " ".join(kept)


def words_of(text: str) -> list[str]:
    """The words of a text, singular and plural being one.

    Example:
        >>> words_of("Men's Dresses") == words_of("men s dress"), words_of("Accessories & shoes")
        (True, ['accessori', 'sho'])
    """
    return [_stem(word) for word in normalized_title(text).split()]


def _stem(word: str) -> str:
    if len(word) > 2 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if len(word) > 2 and word.endswith("e"):
        word = word[:-1]
    return f"{word[:-1]}i" if len(word) > 2 and word.endswith("y") else word


def classify(card: Scorecard, pool: Pool, limit: int) -> None:
    """Rows of every category level: held-out products against the names of the level.

    The text shows neither category path, nor attributes that name a category, nor a word of any category.
    """
    if not pool.abilities.chooses:
        card.note("classification: left out, this encoder cannot compare a name with a product")
        return
    everything = pool.products
    guard = Guard(name for product in everything for name in product.category)
    without = naming_keys(everything)
    codes = np.flatnonzero(pool.is_held & np.array([bool(p.category) for p in everything], dtype=bool))
    codes = pool.some(codes, limit, "classified")
    asked = [(code, guarded_item(pool, code, photos(pool, code), guard, without)) for code in codes.tolist()]
    asked = [(code, item) for code, item in asked if item is not None]
    if not asked:
        card.note("classification: left out, no held-out product has a category and anything else to show")
        return
    vectors = pool.encode_queries([item for _, item in asked])
    for level in range(max(len(product.category) for product in everything)):
        names = sorted({p.category[level] for p in everything if len(p.category) > level})
        rows = np.array(
            [row for row, (code, _) in enumerate(asked) if len(everything[code].category) > level]
        )
        if len(names) < 2 or not len(rows):
            card.note(
                f"classification, level {level + 1}: left out, it has {len(names)} names to choose from"
            )
            continue
        own = [(everything[asked[row][0]].category[level],) for row in rows]
        group = pool.group[[asked[row][0] for row in rows]]
        answers = _choices(
            vectors[rows], pool.encode([query_item(name) for name in names]), names, own, group
        )
        card.add(("classification", f"level {level + 1}", "names"), len(names), answers)


def predict_attributes(card: Scorecard, pool: Pool, limit: int) -> None:
    """Rows of every attribute key, and of all together: held-out products against "key: value" of all values.

    The text shows neither the attribute, nor a word of any of its values, nor other attributes whose names
    hold one. A product with several values is right with any. Keys with more than 200 values are free text.
    """
    if not pool.abilities.chooses:
        card.note("attributes: left out, this encoder cannot compare a value with a product")
        return
    values_of: dict[str, set[str]] = {}
    for product in pool.products:
        for key, values in product.attributes.items():
            values_of.setdefault(key, set()).update(value for value in values if value)
    codes = np.flatnonzero(pool.is_held)
    rows: dict[str, list[int]] = {}
    for key in sorted(values_of):
        having = [code for code in codes.tolist() if any(pool.products[code].attributes.get(key, ()))]
        if 2 <= len(values_of[key]) <= MAX_VALUES and len(having) >= MIN_PRODUCTS:
            rows[key] = pool.some(np.array(having), limit, "attribute", key).tolist()
        else:
            num = len(values_of[key])
            card.note(f"attribute {key}: left out, {num} values and {len(having)} held-out products")
    if not rows:
        card.note("attributes: left out, no key has a choice of values among held-out products")
        return
    guards = {key: Guard(values_of[key]) for key in rows}
    having = {key: set(own) for key, own in rows.items()}
    asked: list[tuple[str, int, Item]] = []
    for code in sorted(set().union(*having.values())):
        images = photos(pool, code)  # the same objects for all keys: they are decoded once
        for key in (key for key in rows if code in having[key]):
            targets = pool.products[code].attributes[key]
            item = guarded_item(pool, code, images, guards[key], {key}, targets)
            asked += [] if item is None else [(key, code, item)]
    vectors = pool.encode_queries([item for _, _, item in asked])
    parts = []
    for key in rows:
        at = np.array([row for row, (name, _, _) in enumerate(asked) if name == key], dtype=np.int64)
        if not len(at):
            continue
        names = sorted(values_of[key])
        prompts = pool.encode([query_item(f"{key}: {name}") for name in names])
        own = [pool.products[asked[row][1]].attributes[key] for row in at]
        group = pool.group[[asked[row][1] for row in at]]
        parts.append(_choices(vectors[at], prompts, names, own, group))
        card.add(("attributes", key, "values"), len(names), parts[-1])
    if parts:
        card.add(("attributes", "all keys", "values"), sum(map(len, values_of.values())), _joined(parts))


def naming_keys(products: Sequence[Product]) -> set[str]:
    """Attribute keys that say the category of a product: a value holds all words of one of its names."""
    found = set()
    for product in products:
        names = [set(words) for words in map(words_of, product.category) if words]
        for key, values in product.attributes.items():
            if key not in found and any(name <= set(words_of(value)) for value in values for name in names):
                found.add(key)
    return found


def guarded(
    product: Product, guard: Guard, without: Collection[str], targets: Collection[str] = ()
) -> Product:
    """A product whose texts hold none of a guard's words, and none of some attributes.

    Args:
        without: attribute keys to leave out; others whose own name the guard would change go as well.
        targets: as for `Guard.clean`.
    """

    def clean(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(filter(None, (guard.clean(text, targets) for text in texts)))

    attributes = {
        key: clean(values)
        for key, values in product.attributes.items()
        if key not in without and guard.clean(key, targets) == " ".join(key.split())
    }
    return replace(
        product,
        title=guard.clean(product.title, targets),
        brand=guard.clean(product.brand, targets),
        description=guard.clean(product.description, targets),
        category=clean(product.category),
        attributes=attributes,
    )


def photos(pool: Pool, code: int) -> tuple[Picture, ...]:
    """The pictures of a product as its encoder is shown them; its regions are known by its true title."""
    return pool.items(np.array([code]), PHOTO)[0].images if pool.is_pictured[code] else ()


def guarded_item(
    pool: Pool,
    code: int,
    images: tuple[Picture, ...],
    guard: Guard,
    without: Collection[str],
    targets: Collection[str] = (),
) -> Item | None:
    """A product with its text guarded; None where nothing is left to show."""
    product = guarded(pool.products[code], guard, without, targets)
    text, parts = render_text(product, pool.text == "rich")
    return Item(text or None, images, parts) if text or images else None


def _choices(
    products: np.ndarray,
    prompts: np.ndarray,
    names: Sequence[str],
    own: Sequence[Collection[str]],
    group: np.ndarray,
) -> Answers:
    place = {name: at for at, name in enumerate(names)}
    is_true = np.zeros((len(products), len(names)), bool)
    for row, values in enumerate(own):
        is_true[row, [place[value] for value in values if value]] = True
    truth, predicted = predictions(products @ prompts.T, is_true)
    chance = is_true.sum(1) / len(names)
    values = {"accuracy": (truth == predicted).astype(float)}
    return Answers(values, group, {"accuracy": chance}, classes=(truth, predicted))


def _joined(parts: Sequence[Answers]) -> Answers:
    """Several choices as one, their classes apart."""
    offset, truth, predicted = 0, [], []
    for one in parts:
        assert one.classes is not None
        truth.append(one.classes[0] + offset)
        predicted.append(one.classes[1] + offset)
        offset += 1 + max(int(one.classes[0].max()), int(one.classes[1].max()))
    return Answers(
        {"accuracy": np.concatenate([one.values["accuracy"] for one in parts])},
        np.concatenate([one.group for one in parts]),
        {"accuracy": np.concatenate([one.chance["accuracy"] for one in parts])},
        classes=(np.concatenate(truth), np.concatenate(predicted)),
    )
