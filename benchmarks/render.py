"""Images per second of the simulated shop's pictures, one kind after another, on one core.

    python benchmarks/render.py --looks 150

Each picture is timed from its look to its JPEG bytes at 112 pixels: SVG building, rasterizing, encoding. The
last line is what a market draws of one product: three views and two advertisements with their hashes.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np

from moontide.market.pictures import LookTask, draw_look
from moontide.market.render import companions, creatives, raster, shots
from moontide.market.render.lettering import width_of
from moontide.market.render.looks import CATEGORIES, Look, sample_look

Kind = Callable[[Look, np.random.Generator], bytes]


def _creative(look: Look, rng: np.random.Generator) -> bytes:
    """One drawn advertisement."""
    template, params = creatives.sample_creative(rng)
    return raster.render(creatives.creative_shot(look, template, params, rng).svg)


def _on_photo(look: Look, rng: np.random.Generator, photo: bytes) -> bytes:
    """One advertisement over a photo."""
    template, params = creatives.sample_creative(rng)
    return creatives.creative_photo(photo, template, params)[0]


def kinds(photo: bytes) -> dict[str, Kind]:
    """Every kind of picture as a function of look and generator."""
    return {
        "studio": lambda look, rng: raster.render(shots.studio_shot(look, rng).svg),
        "scene": lambda look, rng: raster.render(shots.scene_shot(look, rng).svg),
        "other": lambda look, rng: raster.render(shots.other_shot(look, rng).svg),
        "query": lambda look, rng: raster.render_query(shots.query_shot(look, rng).svg, rng),
        "creative": _creative,
        "creative_photo": lambda look, rng: _on_photo(look, rng, photo),
        "altered_copy": lambda look, rng: creatives.altered_copy(photo, rng),
    }


def main() -> None:
    """Print one line a kind: images per second and bytes per image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=150, help="pictures of each kind")
    count = parser.parse_args().looks
    rng = np.random.default_rng(0)
    looks = [sample_look(rng) for _ in range(count)]
    photo = raster.render(shots.studio_shot(looks[0], rng).svg, side=224)
    for name in CATEGORIES:  # fills the caches of silhouettes and letters, which a catalog pays once
        for shape, detail in product(CATEGORIES[name].shapes, CATEGORIES[name].details):
            shots.studio_shot(replace(sample_look(rng, name), shape=shape, detail=detail), rng)
    for word in creatives.WORDS:
        width_of(word, 10)
    while companions.sprite.cache_info().currsize < 6 * len(CATEGORIES) - 12:
        shots.scene_shot(looks[0], rng)
    for name, make in kinds(photo).items():
        start = time.process_time()
        sizes = [len(make(look, rng)) for look in looks]
        seconds = time.process_time() - start
        print(f"{name:15s} {count / seconds:7.1f} images/s {sum(sizes) / count:7.0f} bytes/image")
    start = time.process_time()
    tasks = [LookTask(f"p-{number}", look, 3, 2, 112, 0) for number, look in enumerate(looks)]
    drawn = sum(len(draw_look(task)) for task in tasks)
    print(f"{'product':15s} {drawn / (time.process_time() - start):7.1f} images/s")


if __name__ == "__main__":
    main()
