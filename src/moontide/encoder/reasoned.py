"""What an encoder wrote about products, creatives and queries, kept in the dataset: `reasoning.parquet`.

    write_reasoned(dataset, encoder)      let it write about everything it has not written about yet
    Reasoned.read(dataset, version)       the texts of one encoder; several lie side by side
    reasoned.attach(items)                the same items with what was written about them
    encode_as("query", encoder)           items to vectors as this encoder is served on that side

A text belongs to what was shown, not to a name: it is found by the hash of the item, so that a product whose
title or picture has changed is written about anew, and products that look the same share a text. Ids of
products, creatives and queries may be equal, hence the column `entity_kind`.

Paper: MOON3.0 3.1 (5): items offline, greedy decoding, cached text (ours).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.additions import replace_table
from moontide.catalog.dataset import Dataset
from moontide.catalog.records import Product
from moontide.catalog.schema import conform
from moontide.encoder.model.inputs import Cropped, Form, Item, Picture, PictureSource, ProductView, query_item
from moontide.foundation.errors import DataError, ImageError, SettingsError
from moontide.foundation.progress import track

if TYPE_CHECKING:  # the model takes seconds to import, and the center asks for hashes alone
    from moontide.encoder.model.completion import Written
    from moontide.encoder.model.encoder import MoonEncoder
    from moontide.encoder.pool import Encode

log = logging.getLogger(__name__)

Side = Literal["query", "item"]
SIDES: dict[str, Side] = {"product": "item", "creative": "item", "query": "query"}
TABLES = {"product": "products", "creative": "creatives", "query": "queries"}
BATCH = 64  # items whose pictures are opened together
SAVE_SECONDS = 30.0


def writes(encoder: Any, side: Side) -> bool:
    """Whether an encoder reasons about that side when it is served; any object may be asked."""
    if not getattr(encoder, "is_reasoner", False):
        return False
    return encoder.backbone.settings.reasons in (side, "both")


def encode_as(side: Side, encoder: Any, progress: bool = False) -> Encode:
    """Items to vectors as the encoder is served on that side: reasoned about first, or not."""
    encode = partial(encoder.encode_items, progress=True) if progress else encoder.encode_items
    if not writes(encoder, side):
        return encode
    return lambda items: encode(encoder.reasoned(items, progress=progress))


def content_hash(item: Item) -> str:
    """32 hex digits of everything an item holds, pictures by the bytes that stand for them."""
    held = {part.name: getattr(item, part.name) for part in fields(item)}
    if held.get("reasoning") is None:  # the hash of an item that nobody reasoned about
        held.pop("reasoning", None)
    return hashlib.blake2b(
        repr(list(held.items())).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def shown_hash(item: Item) -> str:
    """`content_hash` of an item without its reasoning, its pictures standing for themselves."""
    return content_hash(replace(item, images=tuple(map(_digest, item.images)), reasoning=None))


def _digest(picture: Picture) -> Picture:
    if isinstance(picture, Cropped):
        source = _digest(picture.source)
        assert isinstance(source, bytes)
        return Cropped(source, picture.box)
    if isinstance(picture, np.ndarray):
        return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
    return hashlib.sha256(picture).digest()


@dataclass(frozen=True)
class Reasoned:
    """What one version of an encoder wrote, by the hash of what it was shown (see `shown_hash`).

    Example:
        >>> known = Reasoned("v1", {shown_hash(Item("red chair")): "<think>color: red</think>"})
        >>> [item.reasoning for item in known.attach([Item("red chair"), Item("blue chair")])]
        ['<think>color: red</think>', None]
    """

    version: str
    texts: Mapping[str, str]

    @classmethod
    def read(cls, dataset: Dataset, version: str) -> Reasoned:
        """The texts of a version, `MoonEncoder.fingerprint`; none gives an empty one."""
        table = dataset.table("reasoning", ["model_version", "content_hash", "text"])
        rows = table.filter(pc.equal(table.column("model_version"), version))
        texts = dict(
            zip(rows.column("content_hash").to_pylist(), rows.column("text").to_pylist(), strict=True)
        )
        return cls(version, texts)

    def attach(self, items: Sequence[Item]) -> list[Item]:
        """The items with their cached text; one that has a text, or about which none was written, stays."""
        return [
            item if item.reasoning is not None else replace(item, reasoning=self.texts.get(shown_hash(item)))
            for item in items
        ]


@dataclass
class ReasonCounts:
    """What a writing job did.

    Args:
        written: texts made; copied: taken from a thing that looks the same; known: had one before.
        empty: neither words nor a picture; failed: why pictures were left out, or nothing remained.
        tokens: written, `<emb>` apart; with_emb: texts that the model ended itself; seconds: of writing.
    """

    written: int = 0
    copied: int = 0
    known: int = 0
    empty: int = 0
    tokens: int = 0
    with_emb: int = 0
    seconds: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def mean_tokens(self) -> float:
        """Tokens of a text that was written now; 0 without one."""
        return self.tokens / max(self.written, 1)

    @property
    def emb_share(self) -> float:
        """Share of the texts written now that the model ended with `<emb>` within the budget."""
        return self.with_emb / max(self.written, 1)

    @property
    def tokens_a_second(self) -> float:
        """Tokens written a second, pictures and prompts included."""
        return self.tokens / max(self.seconds, 1e-9) if self.tokens else 0.0

    def lines(self) -> list[tuple[str, int]]:
        """The counts as rows of a table."""
        named = [("written", self.written), ("copied from an equal one", self.copied)]
        named += [("known before", self.known)] + [("nothing to show", self.empty)] * bool(self.empty)
        return named + [(f"failed: {reason}", number) for reason, number in sorted(self.failed.items())]


def served_kinds(dataset: Dataset, encoder: MoonEncoder) -> tuple[str, ...]:
    """The kinds of a dataset that this encoder reasons about when it is served."""
    return tuple(kind for kind in TABLES if writes(encoder, SIDES[kind]) and dataset.has(TABLES[kind]))


def write_reasoned(
    dataset: Dataset,
    encoder: MoonEncoder,
    kinds: Sequence[str] = ("product",),
    form: Form = "title_image",
    view: ProductView | None = None,
    only: Collection[str] | None = None,
) -> ReasonCounts:
    """Let an encoder write about every entity that has no text of its version for what it shows today.

    Greedy, in batches, within the encoder's budget. Interrupted, it keeps what was written; called again, it
    goes on. Only reasoning.parquet and dataset.json change, each replaced whole; other versions' texts stay.
    A picture that is refused is counted and left out; an entity of which nothing remains gets no text.

    Args:
        form: which parts of a product are shown; catalog attributes are no input of a reasoner.
        view: how products are shown; None: as the encoder was trained.
        only: entity ids; None means all.

    Raises:
        SettingsError: the encoder does not reason, or an unknown kind. DataError: the dataset lacks one.
        StorageError: the folder cannot be written.
    """
    if not encoder.is_reasoner:
        raise SettingsError("this encoder does not reason: make a reasoner of it and train that first")
    if unknown := [kind for kind in kinds if kind not in TABLES]:
        raise SettingsError(f"unknown kinds {', '.join(unknown)}: choose from {', '.join(TABLES)}")
    for kind in kinds:
        dataset.require("reasoning", TABLES[kind])
    job = _Job(dataset, encoder, view or encoder.view(dataset), form)
    try:
        for kind in kinds:
            tasks = job.tasks(kind, only)
            with track(len(tasks), f"reason {kind}") as meter:
                for start in range(0, len(tasks), BATCH):
                    batch = tasks[start : start + BATCH]
                    job.take(kind, batch)
                    meter.note(f"{job.counts.tokens_a_second:,.0f} tokens/s")
                    meter.step(len(batch))
                    if time.monotonic() - job.saved_at > SAVE_SECONDS:
                        job.save()
    finally:
        job.save()
    return job.counts


@dataclass(frozen=True)
class _Task:
    """Something to write about: the ids that show the same, and how it becomes an item."""

    content_hash: str
    ids: list[str]
    item: Callable[[PictureSource], Item]


class _Job:
    """One encoder on its way through a dataset."""

    def __init__(self, dataset: Dataset, encoder: MoonEncoder, view: ProductView, form: Form):
        self._dataset, self._encoder, self._view, self._form = dataset, encoder, view, form
        self.version, self.counts = encoder.fingerprint(), ReasonCounts()
        self._kept = dataset.table("reasoning")
        self._texts = dict(Reasoned.read(dataset, self.version).texts)
        names = ("entity_kind", "entity_id", "model_version", "content_hash")
        columns = [self._kept.column(name).to_pylist() for name in names]
        self._own: dict[tuple[str, str], tuple[int, str]] = {
            (kind, entity_id): (row, found)
            for row, (kind, entity_id, version, found) in enumerate(zip(*columns, strict=True))
            if version == self.version
        }
        self._rows: list[dict[str, Any]] = []
        self._saved = 0
        self.saved_at = time.monotonic()

    def tasks(self, kind: str, only: Collection[str] | None) -> list[_Task]:
        """What has no text yet; what has one under another id gets it here."""
        digests = _PictureDigests(self._dataset)
        tasks: dict[str, _Task] = {}
        for entity_id, make in _entities(self._dataset, kind, self._view, self._form):
            if only is not None and entity_id not in only:
                continue
            try:
                shown = content_hash(make(digests))
            except DataError:
                self.counts.empty += 1
                continue
            if self._own.get((kind, entity_id), (0, ""))[1] == shown:
                self.counts.known += 1
            elif shown in self._texts:
                self._add(kind, entity_id, shown, self._texts[shown])
                self.counts.copied += 1
            else:
                tasks.setdefault(shown, _Task(shown, [], make)).ids.append(entity_id)
        return list(tasks.values())

    def take(self, kind: str, batch: Sequence[_Task]) -> None:
        """Write about some of them."""
        began = time.monotonic()
        for task, written in self._written(batch):
            self.counts.written += 1
            self.counts.copied += len(task.ids) - 1
            self.counts.tokens += written.num_tokens
            self.counts.with_emb += written.has_emb
            self._texts[task.content_hash] = written.text
            for entity_id in task.ids:
                self._add(kind, entity_id, task.content_hash, written.text)
        self.counts.seconds += time.monotonic() - began

    def _written(self, batch: Sequence[_Task]) -> list[tuple[_Task, Written]]:
        from moontide.encoder.model.writing import write

        backbone = self._encoder.backbone
        items: list[Item | None] = [task.item(self._dataset.images) for task in batch]
        try:
            prompts = backbone.prompts([item for item in items if item is not None])
        except ImageError:
            items = [None if item is None else self._whole(item) for item in items]
            prompts = backbone.prompts([item for item in items if item is not None])
        texts = write(self._encoder, prompts, backbone.settings.reasoning_tokens, temperature=0.0)
        tasks = [task for task, item in zip(batch, items, strict=True) if item is not None]
        return [(task, one) for task, (one,) in zip(tasks, texts, strict=True)]

    def _whole(self, item: Item) -> Item | None:
        """The item without the pictures that are refused; None where nothing remains."""
        sound = []
        for picture in item.images:
            try:
                self._encoder.pixels(picture)
                sound.append(picture)
            except ImageError as error:
                self.counts.failed[error.reason] += 1
        if len(sound) == len(item.images):
            return item
        return replace(item, images=tuple(sound)) if item.text or sound else None

    def _add(self, kind: str, entity_id: str, shown: str, text: str) -> None:
        row = {"entity_kind": kind, "entity_id": entity_id, "model_version": self.version}
        self._rows.append(row | {"content_hash": shown, "text": text})

    def save(self) -> None:
        """Write what was written since the last time; a text about what something showed before goes."""
        if len(self._rows) > self._saved:
            stays = np.ones(len(self._kept), bool)
            old = (self._own.get((row["entity_kind"], row["entity_id"])) for row in self._rows)
            stays[[place for place, _ in filter(None, old)]] = False
            rows = [self._kept.filter(pa.array(stays)), conform("reasoning", self._rows)]
            replace_table(self._dataset, "reasoning", pa.concat_tables(rows))
        self._saved, self.saved_at = len(self._rows), time.monotonic()


class _PictureDigests(Mapping[str, bytes]):
    """By image id the SHA-256 of its bytes in their place: no picture is read to find it unchanged."""

    def __init__(self, dataset: Dataset):
        self._images = dataset.images
        facts = self._images.facts(("sha256",))
        columns = (facts.column(name).to_pylist() for name in ("image_id", "sha256"))
        self._known: dict[str, str | None] = dict(zip(*columns, strict=True))

    def __getitem__(self, image_id: str) -> bytes:
        known = self._known[image_id]
        if known is None:  # an importer left it out
            return hashlib.sha256(self._images[image_id]).digest()
        return bytes.fromhex(known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _entities(
    dataset: Dataset, kind: str, view: ProductView, form: Form
) -> Iterator[tuple[str, Callable[[PictureSource], Item]]]:
    """Ids and items of a kind, as the center embeds them (`center/contents.py`)."""
    if kind == "product":
        for product in dataset.products():
            yield product.product_id, partial(view.item, product, form=form)
    elif kind == "creative":
        for row in dataset.table("creatives", ["creative_id", "image_id"]).to_pylist():
            shown = Product(row["creative_id"], "", image_ids=(row["image_id"],))
            yield shown.product_id, partial(ProductView().item, shown, form="image")
    else:
        for query in dataset.queries():
            yield query.query_id, partial(_query, query.text, query.image_id)


def _query(text: str | None, image_id: str | None, pictures: PictureSource) -> Item:
    return query_item(text, pictures[image_id] if image_id and image_id in pictures else None)
