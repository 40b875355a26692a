"""From contents to vectors: pictures read, items cut into batches of like length, encoded side by side.

A broken picture costs the picture, never the batch: the item goes on without it, or is reported where
nothing is left.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from moontide.catalog.dataset import Dataset
from moontide.center.contents import Content
from moontide.center.pictures import PictureIndex
from moontide.encoder.model.inputs import Item, ProductView
from moontide.foundation.device import num_cores
from moontide.foundation.errors import ImageError


class ItemEncoder(Protocol):
    """What embedding asks of an encoder; `encoder.model.encoder.MoonEncoder` has it."""

    def num_tokens(self, item: Item, /) -> int: ...
    def prepare(self, item: Item, /) -> Any: ...
    def forward_prepared(self, prepared: list[Any], /) -> torch.Tensor: ...
    def view(self, dataset: Dataset, /) -> ProductView: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Result:
    """A vector, or None and why; a reason beside a vector is that of a picture that was left out."""

    vector: np.ndarray | None
    reason: str | None = None


@dataclass(frozen=True)
class Work:
    """An item on its way: its cost in tokens, and why a picture of it was left out, if one was."""

    content_hash: str
    item: Item
    cost: int
    reason: str | None


class BatchEncoder:
    """Turns contents into vectors, several batches at once.

    On a CPU each worker takes a batch the whole way with one thread of PyTorch: two batches side by side are
    faster than one batch on two threads. On a GPU the forward passes take turns while other workers decode.
    """

    def __init__(self, encoder: ItemEncoder, batch_tokens: int, workers: int = 0):
        self._encoder, self._batch_tokens = encoder, batch_tokens
        self.fingerprint, self.num_batches = encoder.fingerprint(), 0
        self._workers = workers or num_cores()
        self._pool: ThreadPoolExecutor | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> BatchEncoder:
        if isinstance(self._encoder, torch.nn.Module):
            self._was_training = self._encoder.training
            self._encoder.eval()
        self._threads = torch.get_num_threads()
        if self._workers > 1:
            self._pool = ThreadPoolExecutor(
                self._workers, "embed", initializer=torch.set_num_threads, initargs=(1,)
            )
        return self

    def __exit__(self, *error: Any) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._threads)
        if isinstance(self._encoder, torch.nn.Module):
            self._encoder.train(self._was_training)

    def encode(self, new: list[Content], index: PictureIndex) -> dict[str, Result]:
        """One result per content hash."""
        results: dict[str, Result] = {}
        pictures = index.read(image_id for content in new for image_id in content.image_ids)
        works = []
        for content in new:
            item, cost, reason = self._cost(content.entity.item(pictures))
            if item is None:
                results[content.content_hash] = Result(None, reason)
            else:
                works.append(Work(content.content_hash, item, cost, reason))
        for batch, done in self._map(_cut(works, self._batch_tokens)):
            for work, result in zip(batch, done, strict=True):
                results[work.content_hash] = replace(result, reason=work.reason or result.reason)
        return results

    def _map(self, batches: list[list[Work]]) -> Iterator[tuple[list[Work], list[Result]]]:
        """Each batch with its results, in order; one more than the workers is in work or waiting."""
        if self._pool is None:
            yield from ((batch, self._run(batch)) for batch in batches)
            return
        waiting: deque[tuple[list[Work], Future[list[Result]]]] = deque()
        for batch in batches:
            waiting.append((batch, self._pool.submit(self._run, batch)))
            if len(waiting) > self._workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()

    def _run(self, batch: list[Work]) -> list[Result]:
        ready, reasons = [], []
        for work in batch:
            prepared, reason = self._prepare(work.item)
            ready.append(prepared)
            reasons.append(reason)
        whole = [prepared for prepared in ready if prepared is not None]
        rows = iter(self._forward(whole) if whole else ())
        return [
            Result(None if prepared is None else next(rows), reason)
            for prepared, reason in zip(ready, reasons, strict=True)
        ]

    def _prepare(self, item: Item) -> tuple[Any, str | None]:
        try:
            return self._encoder.prepare(item), None
        except ImageError as error:
            mended = self._without_refused(item)
            return (None if mended is None else self._encoder.prepare(mended)), error.reason

    def _forward(self, prepared: list[Any]) -> np.ndarray:
        on_gpu = getattr(getattr(self._encoder, "device", None), "type", "cpu") != "cpu"
        with torch.inference_mode(), self._turn if on_gpu else nullcontext():
            self.num_batches += 1
            return self._encoder.forward_prepared(prepared).float().cpu().numpy()

    def _cost(self, item: Item) -> tuple[Item | None, int, str | None]:
        """The item, its tokens, and why a picture of it was left out; no item when nothing remains."""
        try:
            return item, self._encoder.num_tokens(item), None
        except ImageError as error:
            mended = self._without_refused(item)
            return mended, self._encoder.num_tokens(mended) if mended else 0, error.reason

    def _without_refused(self, item: Item) -> Item | None:
        """The item without those pictures that the encoder refuses, or None when nothing remains."""
        sound = []
        for picture in item.images:
            try:
                self._encoder.prepare(Item(images=(picture,)))
            except ImageError:
                continue
            sound.append(picture)
        return replace(item, images=tuple(sound)) if item.text or sound else None


def _cut(works: list[Work], batch_tokens: int) -> list[list[Work]]:
    """Batches of similar cost: longest first, each at most `batch_tokens` when padded to its longest item."""
    batches: list[list[Work]] = []
    for work in sorted(works, key=lambda work: -work.cost):
        longest = batches[-1][0].cost if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(work)
        else:
            batches.append([work])
    return batches
