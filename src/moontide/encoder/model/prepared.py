"""An item as numbers, and the distinct pictures of many of them. L tokens, P patches of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moontide.encoder.model.inputs import KINDS, Item, Part


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `end` of a prepared item, and what they say; `key` names an attribute."""

    kind: str
    start: int
    end: int
    key: str | None = None


@dataclass(frozen=True)
class Prepared:
    """An item as numbers: ids, kinds (L,), positions (3, L), the patches of each picture, grids (I, 2)."""

    ids: np.ndarray
    kinds: np.ndarray
    positions: np.ndarray
    pictures: tuple[np.ndarray, ...]
    grids: np.ndarray
    spans: tuple[Span, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Album:
    """The distinct pictures of some prepared items: the vision tower sees each of them once.

    Two items share a picture when they hold the same array, as `prepare_all` sees to.
    """

    patches: tuple[np.ndarray, ...]
    grids: np.ndarray
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, prepared: Sequence[Prepared]) -> Album:
        """The album of `prepared`; `places` has the numbers of each item's pictures."""
        number: dict[int, int] = {}
        patches, grids, places = [], [], []
        for one in prepared:
            own = []
            for picture, grid in zip(one.pictures, one.grids, strict=True):
                if id(picture) not in number:
                    number[id(picture)] = len(patches)
                    patches.append(picture)
                    grids.append(grid)
                own.append(number[id(picture)])
            places.append(tuple(own))
        return cls(tuple(patches), np.array(grids, dtype=np.int64).reshape(-1, 2), tuple(places))

    def __len__(self) -> int:
        return len(self.patches)

    def pieces(self, num_patches: int) -> list[range]:
        """Stretches of pictures with at most `num_patches` patches each, at least one picture."""
        pieces, start, total = [], 0, 0
        for number, patches in enumerate(self.patches):
            if total and total + len(patches) > num_patches:
                pieces.append(range(start, number))
                start, total = number, 0
            total += len(patches)
        return [*pieces, range(start, len(self))] if len(self) else []


def distinct(prepared: Sequence[Prepared]) -> tuple[list[Prepared], np.ndarray]:
    """The items that differ in layout or pictures, and which of them each item is: (items,) int64."""
    number: dict[tuple[int, ...], int] = {}
    found, index = [], []
    for one in prepared:
        key = (id(one.ids), *map(id, one.pictures))
        if key not in number:
            number[key] = len(found)
            found.append(one)
        index.append(number[key])
    return found, np.array(index, dtype=np.int64)


def token_batches(lengths: Sequence[int], batch_tokens: int, padding: int | None = None) -> list[list[int]]:
    """Rows sorted by length and cut so that rows x longest stays within `batch_tokens`; none is empty.

    Args:
        padding: tokens of a batch that may be padding; None: any number.
    """
    batches: list[list[int]] = []
    padded = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        more = lengths[batches[-1][0]] - lengths[row] if batches else 0
        is_full = not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens
        if is_full or (padding is not None and padded + more > padding):
            batches.append([])
            padded = more = 0
        batches[-1].append(row)
        padded += more
    return batches


def cut(text: str, offsets: Sequence[tuple[int, int]], limit: int) -> int:
    """How many tokens to keep: at most `limit`, ending between words unless one word fills the limit."""
    if len(offsets) <= limit:
        return len(offsets)
    for num in range(limit, 0, -1):
        start = offsets[num][0]
        if start > offsets[num - 1][1] or text[start].isspace():
            return num
    return limit


def text_spans(
    item: Item, offsets: Sequence[tuple[int, int]], at: int
) -> tuple[tuple[Span, ...], np.ndarray]:
    """Token spans of the item's parts, `at` tokens from the start, and the kind code of every text token."""
    codes = np.full(len(offsets), KINDS.index("special" if item.parts else "query"), dtype=np.int64)
    parts = item.parts or (Part("query", 0, len(item.text or "")),)
    spans = []
    for part in parts:
        inside = [n for n, (start, end) in enumerate(offsets) if start < part.end and end > part.start]
        if not inside:  # cut away
            continue
        first, last = inside[0], inside[-1] + 1
        codes[first:last] = KINDS.index(part.kind)
        spans.append(Span(part.kind, at + first, at + last, part.key))
    return tuple(spans), codes


def image_spans(kinds: np.ndarray) -> list[Span]:
    """The stretches of image tokens, one a picture."""
    is_image = np.concatenate(([0], (kinds == KINDS.index("image")).astype(int), [0]))
    edges = np.flatnonzero(np.diff(is_image))
    return [Span("image", int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
