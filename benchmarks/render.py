"""Images per second of the simulated shop's pictures, one kind after another, on one core.

    python benchmarks/render.py --looks 150

Each picture is timed from its look to its JPEG bytes at 112 pixels: SVG building, rasterizing, encoding.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from moontide.market.render import creatives, raster, shots
from moontide.market.render.looks import Look, sample_look

Kind = Callable[[Look, np.random.Generator], bytes]


def _creative(look: Look, rng: np.random.Generator) -> bytes:
    """One drawn advertisement."""
    template, params = creatives.sample_creative(rng)
    return raster.render(creatives.creative_shot(look, template, params, rng).svg)


def _on_photo(look: Look, rng: np.random.Generator, photo: bytes) -> bytes:
    """One advertisement over a photo."""
    template, params = creatives.sample_creative(rng)
    return creatives.creative_photo(photo, template, params, rng)[0]


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
    for look in looks:  # fills the caches of silhouettes and letters, which a catalog pays once
        shots.studio_shot(look, rng)
    for name, make in kinds(photo).items():
        start = time.process_time()
        sizes = [len(make(look, rng)) for look in looks]
        seconds = time.process_time() - start
        print(f"{name:15s} {count / seconds:7.1f} images/s {sum(sizes) / count:7.0f} bytes/image")


if __name__ == "__main__":
    main()
