"""What reasoning is worth in a trained encoder: evaluations that differ in what was written, and its cost.

    off        nobody writes: prompt and `<emb>` on both sides
    shuffled   each gets a text that was written about something else: must hurt
    oracle     catalog attributes and category, of a query those of what was chosen: an upper bound
    masked     every generated value is "unknown": what the vector knows beside the text
    unnamed    the category is left out of the text: a category that is named is found by its name

None costs training, and what the encoder wrote is written once for all of them.

Paper: MOON3.0 6, 7.13, 8 (ours).
"""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.encoder.chain import chain_of, chain_text, parse_chain
from moontide.encoder.evaluate import EvaluateSettings, evaluate, headline
from moontide.encoder.model.completion import Written
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Cropped, Item, Picture, ProductView, query_item
from moontide.encoder.model.writing import write
from moontide.encoder.pool import Abilities, Encode
from moontide.encoder.reasoned import Side, shown_hash, writes
from moontide.encoder.scorecard import Scorecard
from moontide.encoder.stages.rows import groups_and_split
from moontide.foundation.seeds import stream

CHUNK = 256  # items whose pictures are prepared together
COST_ITEMS = 64  # products whose cost is measured
Change = Callable[[Sequence[Item]], Sequence[Item]]
_NAMED = re.compile(
    r";\s*category\s*:[^;<]*|(?<=<think>)(?:\s*category\s*:[^;<]*;?)+\s*", re.IGNORECASE
)  # the whole key: "subcategory" stays


class Writer:
    """Lets an encoder write about items, once about each, and remembers vectors of unreasoned ones."""

    def __init__(self, encoder: MoonEncoder):
        self.encoder = encoder
        self.written: dict[str, Written] = {}
        self._vectors: dict[str, np.ndarray] = {}

    def __call__(self, items: Sequence[Item]) -> list[Item]:
        """The items with what is written about them."""
        hashes = list(map(shown_hash, items))
        new = {one: item for one, item in zip(hashes, items, strict=True) if one not in self.written}
        rest, backbone = list(new.items()), self.encoder.backbone
        for start in range(0, len(rest), CHUNK):
            part = rest[start : start + CHUNK]
            prompts = backbone.prompts([item for _, item in part])
            texts = write(self.encoder, prompts, backbone.settings.reasoning_tokens, temperature=0.0)
            self.written |= {one: text for (one, _), (text,) in zip(part, texts, strict=True)}
        return [
            replace(item, reasoning=self.written[one].text) for one, item in zip(hashes, items, strict=True)
        ]

    def plain(self, items: Sequence[Item]) -> np.ndarray:
        """Vectors of items that nobody reasons about."""
        hashes = list(map(shown_hash, items))
        new = {one: item for one, item in zip(hashes, items, strict=True) if one not in self._vectors}
        if new:
            vectors = self.encoder.encode_items(list(new.values()))
            self._vectors |= dict(zip(new, vectors, strict=True))
        return np.stack([self._vectors[one] for one in hashes])

    def encode(self, side: Side, change: Change = list) -> Encode:
        """Vectors of one side as the encoder is served, what was written being changed first."""
        if not writes(self.encoder, side):
            return self.plain
        return lambda items: self.encoder.encode_items(change(self(items)))

    def figures(self, keys: Sequence[str]) -> dict[str, Any]:
        """Texts written, their mean tokens, and shares that end in `<emb>` and that parse."""
        found = list(self.written.values())
        if not found:
            return {"texts": 0}
        return {
            "texts": len(found),
            "tokens": float(np.mean([one.num_tokens for one in found])),
            "emb_share": float(np.mean([one.has_emb for one in found])),
            "parse_rate": float(np.mean([parse_chain(one.text, keys) is not None for one in found])),
            "distinct": len({one.text for one in found}),
        }


def shuffled(writer: Writer) -> Change:
    """Each item gets a text written about something else: drawn by its own hash from all that differ."""

    def change(items: Sequence[Item]) -> list[Item]:
        texts = sorted({one.text for one in writer.written.values()})
        changed = []
        for item in items:
            at = zlib.crc32(shown_hash(item).encode()) % len(texts)
            other = texts[at] if texts[at] != item.reasoning else texts[(at + 1) % len(texts)]
            changed.append(replace(item, reasoning=other))
        return changed

    return change


def masked(items: Sequence[Item]) -> list[Item]:
    """Every value is "unknown", the keys stay.

    Example:
        >>> masked([Item("a", reasoning="<think>category: chair; color: dark red</think>")])[0].reasoning
        '<think>category: unknown; color: unknown</think>'
    """
    return [
        replace(item, reasoning=re.sub(r":\s*[^;<]*", ": unknown", item.reasoning or "")) for item in items
    ]


def unnamed(items: Sequence[Item]) -> list[Item]:
    """The category is left out.

    Example:
        >>> unnamed([Item("a", reasoning="<think>category: chair; color: red</think>")])[0].reasoning
        '<think>color: red</think>'
    """
    return [replace(item, reasoning=_NAMED.sub("", item.reasoning or "")) for item in items]


class Oracle:
    """What a perfect writer would say: the catalog's attributes, of a query those of what was chosen most.

    An item is known by its pictures, else as a query of the log, else by its title; of one that is not known
    the encoder's own text stays. It sees the answer: for upper bounds alone.
    """

    def __init__(self, dataset: Dataset, keys: Sequence[str]):
        products = dataset.products()
        ids = [product.product_id for product in products]
        _, is_train = groups_and_split(dataset, ids)
        texts = {product.product_id: chain_text(chain_of(product, keys)) for product in products}
        digests = dict(
            zip(*(dataset.images.facts(("sha256",)).column(n).to_pylist() for n in ("image_id", "sha256")),
                strict=True)
        )  # fmt: skip
        self._by_picture = {
            digests[image_id]: texts[product.product_id]
            for product in reversed(products)
            for image_id in product.image_ids
            if image_id in digests
        }
        self._by_title = {product.title.strip(): texts[product.product_id] for product in reversed(products)}
        held = {one for one, wanted in zip(ids, is_train, strict=True) if not wanted}
        self._by_query = {
            shown: texts[product_id] for shown, product_id in _most_chosen(dataset, held).items()
        }
        self.asked = self.known = 0

    def __call__(self, items: Sequence[Item]) -> list[Item]:
        found = [self._text(item) for item in items]
        self.asked, self.known = self.asked + len(found), self.known + sum(map(bool, found))
        return [
            replace(item, reasoning=text) if text else item for item, text in zip(items, found, strict=True)
        ]

    def _text(self, item: Item) -> str | None:
        for picture in item.images:
            if (text := self._by_picture.get(_sha256(picture))) is not None:
                return text
        text = self._by_query.get(shown_hash(item))
        return text if text is not None else self._by_title.get(item.text or "")


def _sha256(picture: Picture) -> str:
    source = picture.source if isinstance(picture, Cropped) else picture
    return hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else ""


def _most_chosen(dataset: Dataset, held: set[str]) -> dict[str, str]:
    """By `shown_hash` of a query the held-out product that was chosen most often for it."""
    events = dataset.table("events", ["kind", "query_id", "product_id"])
    chosen = events.filter(pc.is_in(events.column("kind"), pa.array(["click", "cart", "order"])))
    pairs = zip(chosen.column("query_id").to_pylist(), chosen.column("product_id").to_pylist(), strict=True)
    counts = Counter(pair for pair in pairs if pair[1] in held)
    best = {query: product for (query, product), _ in reversed(counts.most_common())}
    images = dataset.images
    found = {}
    for query in dataset.queries():
        if query.query_id in best and (query.image_id is None or query.image_id in images):
            item = query_item(query.text, images[query.image_id] if query.image_id else None)
            found[shown_hash(item)] = best[query.query_id]
    return found


def measure(
    dataset: Dataset, encoder: MoonEncoder, view: ProductView, asked: EvaluateSettings, keys: Sequence[str]
) -> tuple[Scorecard, dict[str, Any]]:
    """The benchmark of a reasoner as it is served, and in `figures` its variants and what it costs.

    Args:
        keys: that its texts may have, see `chain.chain_keys`.

    Returns:
        the card of the encoder as it is; figures `written`, `cost`, `attributes`, and `variants`: mean of
        every column by variant, only where the encoder writes at all.
    """
    writer = Writer(encoder)

    def card_of(change: Change = list) -> Scorecard:
        sides = [writer.encode(side, change) for side in ("item", "query")]
        return evaluate(dataset, sides[0], view, asked, Abilities(), (), sides[1])

    card = card_of()
    figures = {"written": writer.figures(keys), "cost": cost(dataset, encoder, view, asked.seed)}
    figures["attributes"] = attribute_accuracy(card)
    if not writer.written:
        return card, figures
    oracle = Oracle(dataset, keys)
    changes: dict[str, Change] = {"shuffled": shuffled(writer), "oracle": oracle}
    changes |= {"masked": masked, "unnamed": unnamed}
    off = evaluate(dataset, writer.plain, view, asked, Abilities())
    cards = {"off": off} | {name: card_of(change) for name, change in changes.items()}
    figures["variants"] = {name: _means(one) for name, one in cards.items()}
    figures["oracle_known"] = oracle.known / max(oracle.asked, 1)
    return card, figures


def attribute_accuracy(card: Scorecard) -> dict[str, float]:
    """Accuracy of every attribute key."""
    rows = [row for row in card.rows if row["task"] == "attributes" and row["metric"] == "accuracy"]
    return {row["direction"]: row["value"] for row in rows if row["direction"] != "all keys"}


def _means(card: Scorecard) -> dict[str, Any]:
    found = {name: row["value"] for name, row in headline(card).items() if row is not None}
    return found | {"attributes": attribute_accuracy(card)}


def cost(dataset: Dataset, encoder: MoonEncoder, view: ProductView, seed: int = 0) -> dict[str, float]:
    """Tokens and milliseconds of a product's vector, with and without reasoning, whichever side is served."""
    products = dataset.products()
    rows = stream(seed, "cost").permutation(len(products))[:COST_ITEMS]
    items = []
    for row in rows:
        product = products[row]
        if product.title.strip() or any(image_id in dataset.images for image_id in product.image_ids):
            items.append(view.item(product, dataset.images, "title_image"))
    found: dict[str, float] = {}
    encoder.encode_items(items[:2])  # what is set up at the first call is no cost of a vector
    for name, reasoned in (("plain", list), ("reasoned", encoder.reasoned)):
        began = time.perf_counter()
        written = reasoned(items)
        encoder.encode_items(written)
        found[f"{name}_ms"] = 1_000 * (time.perf_counter() - began) / len(items)
        found[f"{name}_tokens"] = float(np.mean([encoder.num_tokens(item) for item in written]))
    return found
