"""Do heat-maps point at the product? The share of their mass in the true boxes of a market, by encoder.

A map that knows nothing has the box's share of the area inside. Other controls say what else puts mass
there: the pixels alone, without a model (how far a cell is from the picture's mean color, as in the gradient
map, and how much it varies); an encoder that was not trained, for the caller to pass; and the title of
another product, whose map is that of a match that is none.

Paper: MOON, heat-maps (ours: the paper shows examples, it measures nothing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.catalog.regions import Box
from moontide.encoder.heatmap import Method, heat, mass_inside
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Item
from moontide.encoder.stages.rows import groups_and_split
from moontide.foundation.errors import DataError
from moontide.foundation.images import decode
from moontide.foundation.progress import track
from moontide.foundation.seeds import stream
from moontide.foundation.statistics import ratio_delta

SMALL = 0.3  # of the picture: the product stands among other things
CELLS = 8  # of the maps without a model, down and across: as many as the demo's encoder has patches
PLAIN = ("none: distance from the mean color", "none: variance of the pixels")
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Shot:
    """A picture of a held-out product with its true box (shares of the sides) and two titles."""

    product_id: str
    picture: bytes
    box: Box
    title: str
    other_title: str


def map_table(
    dataset: Dataset,
    encoders: Mapping[str, MoonEncoder],
    methods: Sequence[Method] = METHODS,
    max_products: int = 100,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Mass of heat-maps in true boxes: pictures of held-out products, alone, against a title.

    Args:
        dataset: a simulated market.
        encoders: by the name to print.
        max_products: drawn by `seed` where more are held out; all their pictures are looked at.

    Returns:
        rows: encoder, method, title (own, another's), boxes (all; small: under `SMALL` of the picture),
        pictures, inside and area (means), and gain = inside / area with its interval, products independent.
        The first rows are those of the pixels alone.

    Raises:
        DataError: the dataset has no true boxes, or no held-out product with a picture.
    """
    shots = held_out_shots(dataset, max_products, seed)
    plain = zip(*(_plain_maps(one.picture) for one in shots), strict=True)
    rows = []
    for name, grids in zip(PLAIN, plain, strict=True):
        rows += _rows({"encoder": name}, shots, grids)
    with track(len(encoders) * len(methods) * 2 * len(shots), "heat-maps") as meter:
        for name, encoder in encoders.items():
            titles = sorted({title for one in shots for title in (one.title, one.other_title)})
            vectors = dict(zip(titles, encoder.encode_items([Item(title) for title in titles]), strict=True))
            for method in methods:
                for whose in ("own", "another's"):
                    grids = []
                    for one in shots:
                        title = one.title if whose == "own" else one.other_title
                        grids += heat(encoder, Item(images=(one.picture,)), vectors[title], method).grids
                        meter.step()
                    rows += _rows({"encoder": name, "method": method, "title": whose}, shots, grids)
    return rows


def held_out_shots(dataset: Dataset, max_products: int, seed: int = 0) -> list[Shot]:
    """The pictures of held-out products whose true box is known.

    Raises:
        DataError: there is none.
    """
    boxes = true_boxes(dataset)
    products = dataset.products()
    _, is_train = groups_and_split(dataset, [product.product_id for product in products])
    tested = [one for one, train in zip(products, is_train, strict=True) if not train and one.title.strip()]
    order = stream(seed, "maps").permutation(len(tested))[:max_products]
    chosen = [tested[code] for code in order]
    shots = [
        Shot(one.product_id, dataset.images[image_id], boxes[image_id], one.title, other.title)
        for one, other in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True)
        for image_id in one.image_ids
        if image_id in boxes
    ]
    if not shots:
        raise DataError(f"{dataset.path} has no held-out product with a picture and its true box")
    return shots


def true_boxes(dataset: Dataset) -> dict[str, Box]:
    """x0, y0, x1, y1 of the product in every picture, as shares of the sides.

    Raises:
        DataError: the dataset is no simulated market.
    """
    sizes = {row["image_id"]: row for row in dataset.images.facts(("width", "height")).to_pylist()}
    boxes = {}
    for row in dataset.truth("boxes").to_pylist():
        if row["image_id"] in sizes:
            width, height = (sizes[row["image_id"]][side] for side in ("width", "height"))
            boxes[row["image_id"]] = (
                row["x0"] / width,
                row["y0"] / height,
                row["x1"] / width,
                row["y1"] / height,
            )
    return boxes


def _plain_maps(picture: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The two maps of `PLAIN`, each of `CELLS` x `CELLS` cells."""
    pixels = np.asarray(decode(picture, CELLS * 14), dtype=np.float32)
    away = np.abs(pixels - pixels.mean((0, 1))).mean(2).reshape(CELLS, 14, CELLS, 14).mean((1, 3))
    return away, pixels.reshape(CELLS, 14, CELLS, 14, 3).var((1, 3)).mean(2)


def _rows(facts: dict[str, str], shots: Sequence[Shot], grids: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    inside = np.array([mass_inside(grid, one.box) for grid, one in zip(grids, shots, strict=True)])
    area = np.array([mass_inside(np.ones((1, 1)), one.box) for one in shots])
    products = np.array([one.product_id for one in shots])
    rows = []
    for name, chosen in (("all", area > 0), ("small", (area > 0) & (area < SMALL))):
        if chosen.any():
            gain = ratio_delta(inside[chosen], area[chosen], products[chosen])
            means = {"inside": float(inside[chosen].mean()), "area": float(area[chosen].mean())}
            rows.append({**facts, "boxes": name, "pictures": int(chosen.sum()), **means, "gain": gain})
    return rows
