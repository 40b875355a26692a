"""Embedding a catalog: moontide's job against `SentenceTransformer.encode`, same model folder, same items.

    python benchmarks/encode.py            under five minutes
    python benchmarks/encode.py --quick    about one minute

Ours is the whole job: pictures out of the dataset, content hashes, batches, vectors written to a center.
Theirs is `encode` alone over a list of texts and picture files, in its default batches of 32. Runs are
interleaved, and the figure is the median of the paired ratios. Vectors must agree to 1e-5. In the repeated
case every product stands twice in the catalog, as when two merchants list it.

Two kinds of folder, because they answer two questions:

    ours        a saved encoder. Plain sentence-transformers loads our modules from it, so that `encode`
                decodes and sees pictures with our code: the ratio is that of the job around the model alone.
    published   a bare Qwen3-VL, as one downloads it. `encode` runs sentence-transformers' own modules: the
                ratio is what moving to moontide gains.

A second table has the peak memory of a process that embeds a small and a four times larger catalog.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.center.embed import EmbedSettings, embed_catalog
from moontide.center.store import VectorStore
from moontide.encoder.model.backbone import BackboneSettings
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder
from moontide.encoder.model.inputs import product_item, render_text
from moontide.encoder.model.processor import install, save_processor
from moontide.foundation.images import image_facts
from moontide.market.products import sample_catalog
from moontide.market.render import raster, shots
from moontide.market.settings import MarketSettings

DRAWN = 48  # distinct drawings; further pictures have the same pixels and other bytes behind them
KINDS = ("product",)
# Threads that wait must sleep: spinning ones make two threads on a busy machine twenty times slower than one.
CALM = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
SIDE = 112
HEADER, FOOTER = "<|im_start|>user\n", "<|im_end|>\n"  # what their chat template puts around an item


class Catalog:
    """A dataset of products with one picture each, and the same as files for sentence-transformers.

    Args:
        num: products.
        side: of the pictures, pixels.
        times: how often each product stands in the catalog.
    """

    def __init__(self, folder: Path, num: int, side: int, times: int = 1):
        distinct = num // times
        asked = MarketSettings(num_products=max(20, distinct), num_merchants=5, creatives_per_product=0)
        products = list(sample_catalog(asked, 0))[:distinct]
        rng = np.random.default_rng(0)
        drawn = [raster.render(shots.studio_shot(one.look, rng).svg, side=side) for one in products[:DRAWN]]
        rows, facts = [], [image_facts(data) for data in drawn]
        with DatasetWriter(folder / "data", "bench") as writer:
            for number in range(num):
                code = number % distinct
                data = drawn[code % len(drawn)] + code.to_bytes(4, "big")  # decoders stop before these bytes
                sha256 = hashlib.sha256(data).hexdigest()
                writer.add_image(f"i{number}", data, replace(facts[code % len(drawn)], sha256=sha256))
                (folder / f"i{number}.jpg").write_bytes(data)
                listing = products[code].listing
                row = {"product_id": f"p{number}", "title": listing.title, "image_ids": [f"i{number}"]}
                rows.append(row | {"description": listing.description, "brand": products[code].facts.brand})
            writer.put("products", rows)
        self.folder, self.dataset = folder, Dataset.open(folder / "data")

    def texts(self) -> list[str]:
        """What a tokenizer learns from."""
        return [render_text(product)[0] for product in self.dataset.products()]

    def items(self) -> list[dict[str, str]]:
        """Items as sentence-transformers takes them: a text and the path of a picture."""
        return [
            {
                "image": str(self.folder / f"{one.image_ids[0]}.jpg"),  # first: their order is the model's
                "text": product_item(one, None, "rich").text or "",
            }
            for one in self.dataset.products()
        ]


@contextmanager
def on_threads(num: int) -> Iterator[None]:
    """Let both sides use `num` threads."""
    os.environ["MOONTIDE_THREADS"] = str(num)
    torch.set_num_threads(num)
    yield


def ours(catalog: Catalog, encoder: MoonEncoder) -> tuple[float, np.ndarray]:
    """Seconds of the job, and the vectors in the order of the products."""
    with tempfile.TemporaryDirectory() as folder:
        store = VectorStore.open(Path(folder) / "center")
        start = time.perf_counter()
        report = embed_catalog(catalog.dataset, encoder, store, settings=EmbedSettings(kinds=KINDS))
        seconds = time.perf_counter() - start
        ids = [product.product_id for product in catalog.dataset.products()]
        vectors, present = store.get("product", ids, report.version)
        assert present.all()
    return seconds, vectors


def theirs(catalog: Catalog, model: SentenceTransformer) -> tuple[float, np.ndarray]:
    """Seconds of `encode`, and its vectors."""
    items = catalog.items()
    start = time.perf_counter()
    vectors = model.encode(items, show_progress_bar=False)
    return time.perf_counter() - start, np.asarray(vectors)


def opened(kind: str, root: Path) -> tuple[MoonEncoder, SentenceTransformer]:
    """The two sides over one folder, "ours" or "published"."""
    folder = str(root / kind)
    if kind == "ours":
        plain = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
        return MoonEncoder(folder, device="cpu"), plain
    settings = BackboneSettings(attention="causal", max_pixels=SIDE * SIDE, before=HEADER, after=FOOTER)
    install()  # their processor needs torchvision or our stand-in, too
    seen = Transformer(folder)
    modules = [seen, Pooling(seen.get_embedding_dimension(), "mean"), Normalize()]
    return MoonEncoder(folder, backbone=settings, device="cpu"), SentenceTransformer(
        modules=modules, device="cpu"
    )


def ratios(
    catalog: Catalog, sides: tuple[MoonEncoder, SentenceTransformer], num_threads: int, runs: int
) -> tuple[float, float, float, float]:
    """Median items/s of both, median of the paired ratios, largest difference of a vector."""
    encoder, model = sides
    num, pairs, error = len(catalog.items()), [], 0.0
    with on_threads(num_threads):
        for run in range(runs + 1):
            if run % 2:
                (a, found), (b, wanted) = ours(catalog, encoder), theirs(catalog, model)
            else:
                (b, wanted), (a, found) = theirs(catalog, model), ours(catalog, encoder)
            error = max(error, float(np.abs(found - wanted).max()))
            pairs.append((a, b))
    assert error <= 1e-5, f"vectors differ by {error}"
    pairs = pairs[1:]  # the first warms up
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return num / mine, num / other, statistics.median(b / a for a, b in pairs), error


def peak_mib(who: str, catalog: Catalog, folder: Path) -> float:
    """Peak resident memory of a fresh process that embeds the catalog, MiB."""
    command = [sys.executable, __file__, "--peak", who, str(catalog.folder), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_peak(who: str, catalog_folder: Path, folder: Path) -> None:
    """What the process of `peak_mib` does."""
    catalog = Catalog.__new__(Catalog)
    catalog.folder, catalog.dataset = catalog_folder, Dataset.open(catalog_folder / "data")
    with on_threads(1):
        if who == "ours":
            store = VectorStore.open(catalog_folder / "center")
            embed_catalog(
                catalog.dataset, MoonEncoder(folder, device="cpu"), store, settings=EmbedSettings(kinds=KINDS)
            )
        else:
            theirs(catalog, SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"))
    # Not getrusage: its maximum outlives exec, and so is the parent's wherever that is larger.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def new_model(catalog: Catalog, folder: Path, depth: int) -> None:
    """A saved encoder with random weights, and its bare backbone in a folder of its own."""
    encoder = MoonEncoder.tiny(catalog.texts(), EncoderSettings(depth=depth, image_side=SIDE), device="cpu")
    encoder.save(folder / "ours")
    encoder.backbone.model.save_pretrained(folder / "published")
    save_processor(encoder.backbone.processor, folder / "published")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer items and runs: under a minute")
    parser.add_argument("--depth", type=int, default=3, help="of the encoder")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        who, *folders = arguments.peak
        return print_peak(who, *map(Path, folders))
    num, runs, small = (256, 2, 250) if arguments.quick else (1_024, 3, 2_000)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        catalogs = {}
        cases = {"112 px": (112, 1), "640 px JPEG": (640, 1), "112 px, each twice": (112, 2)}
        for name, (side, times) in cases.items():
            (root / name).mkdir()
            catalogs[name] = Catalog(root / name, num, side, times)
        new_model(catalogs["112 px"], root, arguments.depth)
        cores = len(os.sched_getaffinity(0))
        print(
            "| folder | pictures | threads | ours, items/s | encode, items/s | ratio | largest difference |"
        )
        print("|---|---|---|---|---|---|---|")
        for kind in ("ours", "published"):
            sides = opened(kind, root)
            for name, catalog in catalogs.items():
                for num_threads in (1, cores):
                    mine, other, ratio, error = ratios(catalog, sides, num_threads, runs)
                    speeds = f"{mine:,.0f} | {other:,.0f} | {ratio:.2f} | {error:.0e}"
                    print(f"| {kind} | {name} | {num_threads} | {speeds} |", flush=True)
        print(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f} on {cores} cores")
        print(
            "\n| peak memory, MiB, 640 px | " + " | ".join(f"{n:,} products" for n in (small, 4 * small)), "|"
        )
        print("|---|---|---|")
        large = []
        for n in (small, 4 * small):
            (root / f"memory {n}").mkdir()
            large.append(Catalog(root / f"memory {n}", n, 640))
        for who in ("ours", "encode"):
            print(
                f"| {who} | " + " | ".join(f"{peak_mib(who, one, root / 'ours'):,.0f}" for one in large), "|"
            )


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in CALM.items()):  # read when torch is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | CALM)
    main()
