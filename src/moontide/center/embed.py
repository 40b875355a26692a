"""Embedding a catalog: products, creatives and queries into the center, once per distinct content.

    table ──► window of entities ──► hashes ──► skip what the store has ──► one item per new content
                                                                                  │ sorted by cost, cut by
                                                                                  tokens
              one upsert a window ◄── vectors by content ◄── forward ◄── decode, tokenize (workers)

A window is written in one commit and its batches depend on nothing but its own content and what earlier
windows wrote. So a job that is killed goes on at the first unwritten window, cuts it into the same batches,
and ends with the same bytes as a job that was not. Memory is that of one window, whatever the number of
products.

An encoder that reasons about items, or queries, when it is served embeds them with what it wrote about them,
kept in the dataset (`encoder/reasoned.py`); what it has not written yet is written first.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pydantic
import torch

from moontide.catalog.dataset import Dataset
from moontide.center.batches import BatchEncoder, ItemEncoder, Result
from moontide.center.contents import TABLES, Content, Entity, contents, count_entities, entities
from moontide.center.pictures import PictureIndex
from moontide.center.report import EmbedReport, KindCounts
from moontide.center.store import VectorStore
from moontide.encoder.model.inputs import Form, Item, ProductView
from moontide.encoder.reasoned import SIDES, Reasoned, write_reasoned, writes
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.progress import Meter, track
from moontide.foundation.settings import Settings

log = logging.getLogger(__name__)

COMPACT_WINDOWS = 128  # commits between two compactions of a long job


class EmbedSettings(Settings):
    """How a catalog is embedded."""

    kinds: tuple[str, ...] = pydantic.Field(("product", "creative", "query"), description="what is embedded")
    form: Form = pydantic.Field("rich_image", description="which parts of a product are rendered")
    num_images: int | None = pydantic.Field(
        None, ge=1, description="pictures per product, the main one first; None: as the encoder was trained"
    )
    batch_tokens: int = pydantic.Field(2_048, ge=1, description="most tokens of a batch, padding included")
    workers: int = pydantic.Field(0, ge=0, description="batches in work at once; 0 is one per core")
    flush_rows: int = pydantic.Field(1_024, ge=1, description="entities of a window: one commit, one sort")

    @pydantic.field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [kind for kind in kinds if kind not in TABLES]:
            raise ValueError(f"unknown kinds {', '.join(unknown)}: choose from {', '.join(TABLES)}")
        return kinds


def embed_catalog(
    dataset: Dataset,
    encoder: ItemEncoder,
    store: VectorStore,
    version: str | None = None,
    settings: EmbedSettings | None = None,
    only: Collection[str] | None = None,
) -> EmbedReport:
    """Write a vector of every product, creative and query to the store; what is there is not made again.

    Args:
        version: name of these vectors; None takes the encoder's fingerprint. It is not activated.
        only: entity ids to embed; None means all.

    Returns:
        counts of what was encoded, copied, reused and failed, with reasons. A broken picture never stops the
        job: the entity is embedded from its words, or counted as failed where it has none.

    Raises:
        DataError: the dataset has none of the kinds.
        CheckpointError: the version belongs to another encoder or dimension.
    """
    settings = settings or EmbedSettings()
    version = version or encoder.fingerprint()
    kinds = [kind for kind in settings.kinds if dataset.has(TABLES[kind])]
    if not kinds:
        raise DataError(f"{dataset.path} has no {', '.join(settings.kinds)}: there is nothing to embed")
    view = encoder.view(dataset)
    if settings.num_images is not None:
        view = replace(view, num_images=settings.num_images)
    report, start = EmbedReport(version), time.monotonic()
    index = PictureIndex(dataset)
    with BatchEncoder(encoder, settings.batch_tokens, settings.workers) as batches:
        for kind in kinds:
            counts = report.counts[kind] = KindCounts()
            total = len(only) if only is not None else count_entities(dataset, kind)
            reasoned = _reasoned(dataset, encoder, kind, settings.form, view, only)
            stream = entities(dataset, kind, settings.form, view, only)
            with track(total, f"embed {kind}") as meter:
                for number, window in enumerate(_windows(stream, settings.flush_rows), 1):
                    _embed_window(kind, window, index, batches, store, version, counts, reasoned)
                    meter.step(len(window))
                    _say(meter, counts)
                    if number % COMPACT_WINDOWS == 0:
                        store.compact()
        report.num_batches = batches.num_batches
    store.compact()
    report.seconds = time.monotonic() - start
    for line in report.lines():
        log.info("%s", line)
    return report


def embed_items(
    kind: str,
    ids: Sequence[str],
    items: Sequence[Item],
    encoder: ItemEncoder,
    store: VectorStore,
    version: str,
    content_hashes: Sequence[str] | None = None,
) -> np.ndarray:
    """Embed a few items at once and store them: the way of a new or changed product between two jobs.

    Returns:
        the vectors, float32 (len(items), dim), ready for `HotShard.add`.

    Raises:
        ImageError: a picture is broken.
    """
    if len(ids) != len(items):
        raise SettingsError(f"{len(ids)} ids for {len(items)} items: give one id per item")
    if writes(encoder, SIDES[kind]):
        model: Any = encoder
        items = model.reasoned(items)
    with torch.inference_mode():
        vectors = encoder.forward_prepared([encoder.prepare(item) for item in items])
    rows = vectors.float().cpu().numpy()
    store.register(version, rows.shape[1], encoder.fingerprint())
    # Without a hash the next job sees a content that differs, and makes the vector again.
    store.upsert(kind, ids, version, rows, content_hashes or [""] * len(ids))
    return rows


def _reasoned(
    dataset: Dataset,
    encoder: ItemEncoder,
    kind: str,
    form: Form,
    view: ProductView,
    only: Collection[str] | None,
) -> Reasoned | None:
    """What the encoder wrote about the entities, the rest written now; None where it is served without."""
    if not writes(encoder, SIDES[kind]):
        return None
    model: Any = encoder  # one that reasons is a MoonEncoder
    known = write_reasoned(dataset, model, (kind,), form, view, only)
    if known.written:
        log.info("%s: reasoning of %d was missing and is written now", kind, known.written)
    return Reasoned.read(dataset, encoder.fingerprint())


def _embed_window(
    kind: str,
    window: list[Entity],
    index: PictureIndex,
    batches: BatchEncoder,
    store: VectorStore,
    version: str,
    counts: KindCounts,
    reasoned: Reasoned | None = None,
) -> None:
    found, empty = contents(window, index, reasoned)
    for entity_id in empty:
        counts.fail(entity_id, "empty")
    have = store.hashes(kind, [content.entity.entity_id for content in found], version)
    todo = [content for content in found if have.get(content.entity.entity_id) != content.content_hash]
    counts.reused += len(found) - len(todo)
    if not todo:
        return
    distinct = {content.content_hash: content for content in reversed(todo)}
    vectors = store.find(kind, list(distinct), version)
    new = [content for content in todo if distinct[content.content_hash] is content]
    new = [content for content in new if content.content_hash not in vectors]
    results = batches.encode(new, index)
    vectors |= {content: result.vector for content, result in results.items() if result.vector is not None}
    for content in todo:
        result = results.get(content.content_hash)
        _count(content, result, distinct[content.content_hash] is content and result is not None, counts)
    done = [content for content in todo if content.content_hash in vectors]
    if not done:
        return
    rows = np.stack([vectors[content.content_hash] for content in done])
    store.register(version, rows.shape[1], batches.fingerprint)
    ids = [content.entity.entity_id for content in done]
    store.upsert(kind, ids, version, rows, [content.content_hash for content in done])


def _count(content: Content, result: Result | None, is_first: bool, counts: KindCounts) -> None:
    """Note what became of one entity; `result` is None when the store had a vector of equal content."""
    reason = "missing_image" if content.is_short else result.reason if result else None
    if result is not None and result.vector is None:
        counts.fail(content.entity.entity_id, reason or "unknown")
        return
    counts.encoded += is_first
    counts.copied += not is_first
    if reason:
        counts.reasons[reason] += 1
        counts.text_only += 1


def _windows(stream: Iterable[Entity], size: int) -> Iterator[list[Entity]]:
    stream = iter(stream)
    while window := list(itertools.islice(stream, size)):
        yield window


def _say(meter: Meter, counts: KindCounts) -> None:
    if counts.failed or counts.text_only:
        meter.note(f"{counts.failed:,} failed, {counts.text_only:,} without their picture")
