"""The pictures of one product, drawn or made from a photo: what a worker process does.

What a picture shows depends on the seed and the ids of the product and the picture alone, never on the number
of workers. This file imports no PyTorch, because every worker process imports it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moontide.foundation.errors import ImageError
from moontide.foundation.images import ImageFacts, image_facts
from moontide.foundation.seeds import stream
from moontide.market.render.creatives import creative_photo, creative_shot, sample_creative
from moontide.market.render.looks import Look
from moontide.market.render.raster import render
from moontide.market.render.shots import other_shot, scene_shot, studio_shot

VIEWS = (studio_shot, scene_shot, other_shot)  # a product's pictures in order; further ones are other views


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Args:
        box: of the product (of the photo, in an advertisement made from a photo), x0, y0, x1, y1 in pixels.
        template, params: how an advertisement was made; template is None for a product's own pictures.
    """

    image_id: str
    product_id: str
    data: bytes
    facts: ImageFacts
    box: tuple[float, ...]
    template: str | None = None
    params: dict[str, str] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The picture as a row of the `images` table."""
        return {"image_id": self.image_id, "bytes": self.data, **vars(self.facts)}


@dataclass(frozen=True)
class LookTask:
    """Draw a product: so many views, so many advertisements, square pictures of `side` pixels."""

    product_id: str
    look: Look
    num_views: int
    num_creatives: int
    side: int
    seed: int


@dataclass(frozen=True)
class PhotoTask:
    """Make advertisements of a product from its photo."""

    product_id: str
    photo: bytes
    num_creatives: int
    side: int
    seed: int


def draw_look(task: LookTask) -> list[Picture]:
    """The pictures of a drawn product: its views, then its advertisements."""
    pictures = []
    for number in range(task.num_views):
        image_id = f"{task.product_id}-{number}"
        shot = VIEWS[min(number, len(VIEWS) - 1)](task.look, stream(task.seed, "picture", image_id))
        pictures.append(_picture(image_id, task, render(shot.svg, task.side), shot.box))
    for number in range(task.num_creatives):
        image_id = f"{task.product_id}-c{number}"
        rng = stream(task.seed, "picture", image_id)
        template, params = sample_creative(rng)
        shot = creative_shot(task.look, template, params, rng)
        pictures.append(_picture(image_id, task, render(shot.svg, task.side), shot.box, template, params))
    return pictures


def draw_photo(task: PhotoTask) -> list[Picture]:
    """The advertisements of a photographed product; none when the photo cannot be decoded."""
    pictures = []
    for number in range(task.num_creatives):
        image_id = f"{task.product_id}-c{number}"
        rng = stream(task.seed, "picture", image_id)
        template, params = sample_creative(rng)
        try:
            data, box = creative_photo(task.photo, template, params, task.side)
        except (ImageError, ValueError, OSError):
            return []
        pictures.append(_picture(image_id, task, data, box, template, params))
    return pictures


def _picture(
    image_id: str, task: LookTask | PhotoTask, data: bytes, box, template=None, params=None
) -> Picture:
    pixels = tuple(round(float(edge) * task.side, 2) for edge in box)
    return Picture(image_id, task.product_id, data, image_facts(data), pixels, template, params or {})
