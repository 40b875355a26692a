"""What an encoder is held against: pixels and words, a dual tower, any sentence-transformers model.

Each is a `Subject`: a function from items to unit vectors, how it is shown products, and what it can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import load_file_path
from sklearn.feature_extraction.text import TfidfVectorizer

from moontide.catalog.dataset import Dataset
from moontide.encoder import reasoned
from moontide.encoder.model.backbone import edges
from moontide.encoder.model.encoder import BROKEN, MoonEncoder
from moontide.encoder.model.inputs import Cropped, Item, Picture, ProductView, render_text
from moontide.encoder.model.processor import install
from moontide.encoder.pool import Abilities, Encode
from moontide.encoder.twotower import TwoTowerSettings, train_two_tower
from moontide.foundation.errors import CheckpointError
from moontide.foundation.images import decode
from moontide.foundation.storage import read_json

SIDE = 12  # pixels a side: a thumbnail
LEVELS = 4  # of each color in the histogram
VOCABULARY = 4_096  # words kept; vectors stay below 20 KB
BATCH = 64  # items a plain sentence-transformers model gets at once


@dataclass(frozen=True)
class Subject:
    """Something to evaluate."""

    name: str
    encode: Encode
    view: ProductView = field(default_factory=ProductView)
    abilities: Abilities = field(default_factory=Abilities)
    encode_queries: Encode | None = None


def pixels_and_words(dataset: Dataset) -> Subject:
    """The trivial baseline: 12x12 pixels and a color histogram beside TF-IDF of words; nothing is learned.

    A vector has a picture block and a word block of equal weight; what an item lacks is 0. So it compares
    pictures with pictures and words with words, and cannot compare the two. Word weights come from all
    products' texts: they are an index, not a training.
    """
    words = TfidfVectorizer(
        max_features=VOCABULARY, sublinear_tf=True, dtype=np.float32, token_pattern=r"(?u)\b\w+\b"
    )
    texts = [render_text(product)[0] for product in dataset.products()]
    is_empty = not any(any(character.isalnum() for character in text) for text in texts)
    words.fit(["none"] if is_empty else texts)
    width = SIDE * SIDE * 3 + LEVELS**3

    def encode(items: Sequence[Item]) -> np.ndarray:
        vectors = np.zeros((len(items), width + len(words.vocabulary_)), np.float32)
        for row, item in enumerate(items):
            if item.images:
                vectors[row, :width] = thumbnail(item.images[0])
        if items:
            vectors[:, width:] = words.transform([item.text or "" for item in items]).toarray()
        return _unit(vectors)

    return Subject("pixels and words", encode, abilities=Abilities(crosses=False))


def thumbnail(picture: Picture) -> np.ndarray:
    """Unit vector of a picture: 12x12 pixels less their mean, and 4x4x4 colors counted, of equal weight."""
    pixels = np.asarray(opened(picture).resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    bins = (pixels / 256 * LEVELS).astype(int)
    codes = (bins[..., 0] * LEVELS + bins[..., 1]) * LEVELS + bins[..., 2]
    histogram = np.sqrt(np.bincount(codes.ravel(), minlength=LEVELS**3))
    return (
        np.concatenate([_unit((pixels - pixels.mean()).reshape(1, -1))[0], _unit(histogram[None])[0]])
        / 2**0.5
    )


def two_tower(dataset: Dataset, seconds: float | None = None, seed: int = 0) -> Subject:
    """The plain dual tower, trained on title-photo pairs of this dataset's train products.

    Args:
        seconds: time it may train; None: the steps of its settings.

    Raises:
        DataError: no train product has a title and a picture.
    """
    model, _ = train_two_tower(dataset, TwoTowerSettings(seconds=seconds, seed=seed))
    return Subject("two-tower", model.encode_items)


def named(path: str, dataset: Dataset) -> Subject:
    """An encoder by folder or Hub id: one of ours, a published Qwen-VL, or any sentence-transformers model.

    Raises:
        CheckpointError: nothing loadable there. DataError: it needs regions that the dataset lacks.
    """
    name = Path(path).name if Path(path).exists() else path
    if not _is_plain(path):
        encoder = MoonEncoder(path)
        item, query = (reasoned.encode_as(side, encoder, True) for side in ("item", "query"))
        return Subject(name, item, encoder.view(dataset), encode_queries=query)
    install()
    try:
        return plain(SentenceTransformer(path), name)
    except BROKEN as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"no encoder can be loaded from {path}: {reason}") from error


def plain(model: SentenceTransformer, name: str) -> Subject:
    """Any sentence-transformers model.

    An item of text and picture goes in as one where the model takes both together; where it takes either (as
    CLIP), its vector is the mean of both; where it takes one, the other is not seen. An item of which
    nothing is seen has the vector 0, which finds nothing. One picture of an item counts.
    """
    reads, sees = model.supports("text"), model.supports("image")
    is_joint = reads and sees and model.supports(("image", "text"))

    def encode_as(form: Callable[[Item], object], items: Sequence[Item]) -> np.ndarray:
        found = model.encode([form(item) for item in items], batch_size=BATCH, show_progress_bar=False)
        return _unit(np.asarray(found, dtype=np.float32))

    def encode(items: Sequence[Item]) -> np.ndarray:
        width = model.get_embedding_dimension() or 0
        vectors = np.zeros((len(items), width), np.float32)
        has_text = np.array([bool(item.text) and reads for item in items], dtype=bool)
        has_image = np.array([bool(item.images) and sees for item in items], dtype=bool)
        together = has_text & has_image & is_joint
        for rows, form in (
            (together, lambda item: {"text": item.text, "image": opened(item.images[0])}),
            (has_text & ~together, lambda item: item.text),
            (has_image & ~together, lambda item: opened(item.images[0])),
        ):
            for start in range(0, int(rows.sum()), 16 * BATCH):  # decoded pictures of all need not fit
                part = np.flatnonzero(rows)[start : start + 16 * BATCH]
                vectors[part] += encode_as(form, [items[row] for row in part])
        return _unit(vectors)

    forms = frozenset(("mm", *(("t",) if reads else ()), *(("i",) if sees else ())))
    return Subject(name, encode, abilities=Abilities(forms))


def opened(picture: Picture) -> Image.Image:
    """A picture as Pillow has it; a crop is cut."""
    source = picture.source if isinstance(picture, Cropped) else picture
    image = Image.fromarray(source) if isinstance(source, np.ndarray) else decode(source)
    return image.crop(edges(picture.box, *image.size)) if isinstance(picture, Cropped) else image


def _is_plain(path: str) -> bool:
    """Whether a model is left to sentence-transformers: it is neither one of ours nor a bare Qwen-VL."""
    if not Path(path).exists() and path.count("/") != 1:
        raise CheckpointError(f"no model at {path}: name a model folder or a Hub id")
    modules = load_file_path(path, "modules.json")
    if modules is not None:
        return not all(module["type"].startswith("moontide.") for module in read_json(Path(modules)))
    config = load_file_path(path, "config.json")
    return config is not None and "qwen" not in read_json(Path(config)).get("model_type", "")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
