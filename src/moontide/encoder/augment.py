"""The job that enriches titles and adds pictures to the products of the train split.

It writes a new dataset folder that shares the old one's files: one more shard of pictures, and the table
`augmented`, refused entries with their reasons included. Products stay as they are.

Paper: MOON2.0 3.3 (paper reported; substitutes ours).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from moontide.catalog.augment import (
    LOWEST_SHARE,
    ConsistencyFilter,
    ImageExpander,
    TextEnricher,
    accepts,
    lowest,
)
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.entities import Gazetteer, words_of
from moontide.catalog.records import Product
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Item
from moontide.encoder.stages.rows import groups_and_split
from moontide.foundation.errors import DataError, ImageError, SettingsError
from moontide.foundation.images import decode
from moontide.foundation.progress import track

if TYPE_CHECKING:
    from moontide.catalog.regions import Box, Regions

LONGEST_SIDE = 448  # pixels of an added picture; encoders see no more
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_CHUNK = 64  # products whose pictures are scored together


class CosineFilter:
    """Cosine of picture and title in the vectors of an encoder: the previous checkpoint's.

    Paper: MOON2.0 3.3 (3), (4): CLIP consistency (paper reported), of our own vectors (ours).
    """

    def __init__(self, encoder: MoonEncoder):
        self._encoder = encoder

    def scores(self, pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
        """(n,) cosines; a picture or title that comes again is encoded once."""
        texts = list(dict.fromkeys(titles))
        shown = list({id(picture): picture for picture in pictures}.values())
        items = [*(Item(text) for text in texts), *(Item(images=(picture,)) for picture in shown)]
        vectors = self._encoder.encode_items(items)
        place = {text: row for row, text in enumerate(texts)}
        place_of = {id(picture): len(texts) + row for row, picture in enumerate(shown)}
        left = vectors[[place_of[id(picture)] for picture in pictures]]
        return (left * vectors[[place[title] for title in titles]]).sum(1)


def augment_catalog(
    dataset: Dataset,
    to: Path | str,
    enricher: TextEnricher | None,
    expander: ImageExpander | None,
    consistency: ConsistencyFilter | None,
    num_contexts: int = 2,
    share: float = LOWEST_SHARE,
    limit: int | None = None,
    replace: bool = False,
) -> Dataset:
    """Write a new dataset whose train products have enriched titles and added pictures.

    Only a product's first picture is built upon. A picture that cannot be used is noted with its reason; a
    product without a title gets none.

    Args:
        dataset: products; splits, images and regions where it has them. Without a region the whole picture
            is searched for the product.
        enricher, expander: None leaves titles or pictures out.
        consistency: None keeps what is accepted otherwise.
        num_contexts: n_c, pictures added to a product, the cut-out I_m among them; 0 adds none.
        share: of a category's titles, and of its pictures, how much is dropped for low consistency.
        limit: only so many of the train products, the first.

    Raises:
        DataError: no train products, or nothing could be added.
        SettingsError: a number out of range, or the dataset is an augmented one.
        StorageError: `to` is in use or cannot be written. Nothing is left behind.
    """
    dataset.require("augmentation", "products")
    if num_contexts < 0 or not 0 <= share < 1:
        raise SettingsError(
            f"num_contexts must be 0 or more and share in [0, 1), got {num_contexts} and {share}"
        )
    if Path(to).resolve() == dataset.path.resolve() or dataset.has("augmented"):
        raise SettingsError(
            f"{dataset.path} is augmented already, or {to} is the dataset itself: "
            "start from the dataset as it was imported, and name a new folder"
        )
    products = dataset.products()
    _, is_train = groups_and_split(dataset, [product.product_id for product in products])
    train = [product for product, wanted in zip(products, is_train, strict=True) if wanted]
    if not train:
        raise DataError(f"{dataset.path} has no train products: run `moontide data split {dataset.path}`")
    chosen = train[:limit]
    writer = DatasetWriter(to, Path(to).absolute().name, base=dataset, replace=replace)
    with writer, track(len(chosen), "augmenting") as meter:
        job = _Job(dataset, writer, Gazetteer.of(train), enricher, expander, consistency, num_contexts)
        for piece in _pieces(chosen, _CHUNK):
            job.take(piece)
            meter.step(len(piece))
        rows = job.close(share)
        if not any(row["accepted"] for row in rows):
            reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r["reason"] for r in rows).items())
            raise DataError(
                f"nothing could be added to the {len(chosen)} train products ({reasons or 'no ideas'})"
            )
        writer.put("augmented", rows)
    return Dataset.open(to)


def _pieces(products: Sequence[Product], size: int) -> Iterator[list[Product]]:
    remaining = iter(products)
    while piece := list(islice(remaining, size)):
        yield piece


class _Job:
    """Makes rows and pictures, some products at a time; what is low in its category is known at the end."""

    def __init__(
        self,
        dataset: Dataset,
        writer: DatasetWriter,
        gazetteer: Gazetteer,
        enricher: TextEnricher | None,
        expander: ImageExpander | None,
        consistency: ConsistencyFilter | None,
        num_contexts: int,
    ):
        self._dataset, self._writer, self._gazetteer = dataset, writer, gazetteer
        self._enricher, self._consistency = enricher, consistency
        self._expander = expander if num_contexts else None
        self._num_contexts = num_contexts
        self._regions = _regions(dataset) if self._expander else None
        self._rows: list[dict[str, Any]] = []
        self._category: dict[str, tuple[str, ...]] = {}
        self._expanded: dict[str, str] = {}  # main picture -> the product it was expanded for
        self._sharing: list[tuple[str, str]] = []
        self._pending: list[tuple[dict[str, Any], np.ndarray, str]] = []

    def take(self, products: Sequence[Product]) -> None:
        for product in products:
            self._category[product.product_id] = product.category
            image_id = product.image_ids[0] if product.image_ids else None
            picture = None
            if image_id is not None:
                try:
                    picture = _opened(self._dataset, image_id)
                except ImageError as error:
                    if self._expander is not None:
                        self._note(product, "main", error.reason)
            self._add_title(product, picture)
            if image_id is not None and picture is not None and self._expander is not None:
                self._add_pictures(product, image_id, picture)
        self._score()

    def _note(self, product: Product, kind: str, reason: str | None, **more: Any) -> dict[str, Any]:
        maker = self._enricher if kind == "title" else self._expander
        assert maker is not None
        row: dict[str, Any] = {
            "product_id": product.product_id,
            "title": None,
            "image_id": None,
            "kind": kind,
        }
        row |= {"source": maker.source, "version": maker.version, "score": None}
        row |= {"accepted": reason is None, "reason": reason, **more}
        self._rows.append(row)
        return row

    def _add_title(self, product: Product, picture: np.ndarray | None) -> None:
        if self._enricher is None or not product.title.strip():
            return
        try:
            title = self._enricher.enrich(product, picture)
        except ImageError as error:
            self._note(product, "title", error.reason)
            return
        if title is None or words_of(title) == words_of(product.title):
            return
        reason = accepts(
            product.title, title, self._gazetteer.find, self._gazetteer.identities, product.description or ""
        )
        row = self._note(product, "title", reason, title=title)
        if picture is not None and reason is None:
            self._pending.append((row, picture, title))

    def _add_pictures(self, product: Product, image_id: str, picture: np.ndarray) -> None:
        if image_id in self._expanded:  # products that share a picture share what is made of it
            self._sharing.append((product.product_id, self._expanded[image_id]))
            return
        self._expanded[image_id] = product.product_id
        expander, title = self._expander, product.title
        assert expander is not None
        box = (self._regions.box(image_id, title) if self._regions else None) or WHOLE
        main = self._add(product, "main", f"{image_id}+m", partial(expander.main, picture, box, title))
        if main is None:  # contexts are anchored on it
            return
        for number in range(1, self._num_contexts):
            draw = partial(expander.context, main, box, number, title)
            self._add(product, "context", f"{image_id}+c{number}", draw)

    def _add(
        self, product: Product, kind: str, image_id: str, draw: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        try:
            picture = draw()
            self._writer.add_image(image_id, _encoded(picture))
        except ImageError as error:
            self._note(product, kind, error.reason)
            return None
        row = self._note(product, kind, None, image_id=image_id)
        if product.title.strip():
            self._pending.append((row, picture, product.title))
        return picture

    def _score(self) -> None:
        pending, self._pending = self._pending, []
        if self._consistency is None or not pending:
            return
        scores = self._consistency.scores([one for _, one, _ in pending], [text for _, _, text in pending])
        for (row, _, _), score in zip(pending, scores.tolist(), strict=True):
            row["score"] = score

    def close(self, share: float) -> list[dict[str, Any]]:
        """All rows, the lowest of each category refused."""
        for kinds in (("title",), ("main", "context")):
            rows = [row for row in self._rows if row["kind"] in kinds and row["score"] is not None]
            ids = [row["product_id"] for row in rows]
            scores = np.array([row["score"] for row in rows], dtype=float)
            is_low = lowest(scores, ids, [self._category[one] for one in ids], share)
            for row, low in zip(rows, is_low, strict=True):
                if low:
                    row |= {"accepted": False, "reason": "low_consistency"}
        drawn: dict[str, list[dict[str, Any]]] = {}
        for row in self._rows:
            if row["kind"] != "title":
                drawn.setdefault(row["product_id"], []).append(row)
        shared = [row | {"product_id": one} for one, first in self._sharing for row in drawn.get(first, ())]
        return [*self._rows, *shared]


def _regions(dataset: Dataset) -> Regions | None:
    from moontide.catalog.regions import Regions

    return Regions.read(dataset) if dataset.has("regions") else None


def _opened(dataset: Dataset, image_id: str) -> np.ndarray:
    if image_id not in dataset.images:
        raise ImageError("missing", f"the dataset has no picture {image_id!r}")
    image = decode(dataset.images[image_id])
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(image)


def _encoded(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=92)
    return stream.getvalue()
