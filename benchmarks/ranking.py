"""Speed of the click model on a made-up log: samples, training with the loader in the loop, scoring.

    python benchmarks/ranking.py [--impressions 400000]

Everything runs on one thread. The loader's cost is a ratio measured side by side: the same steps on batches
that were made beforehand and kept in memory, a few at a time, in turn with batches made on the fly.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.ranking.batches import Batch
from moontide.ranking.content import ContentTable
from moontide.ranking.heads import ContentSettings
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.samples import Samples, build_samples
from moontide.ranking.score import ClickScorer
from moontide.ranking.state import OnlineState
from moontide.ranking.train import TrainSettings, feed_of, train_click_model

START_MS, DAYS, DIM = 1_772_409_600_000, 28, 128
ROUNDS, ROUND_STEPS, BATCH = 6, 15, 1024


def write_log(path: Path, impressions: int, products: int = 4000, shoppers: int = 800) -> Dataset:
    """A log of the demo's size without meaning: Zipf products, 4 % clicks, eight results a request."""
    rng = np.random.default_rng(0)
    requests = impressions // 8
    share = 1 / np.arange(1, products + 1) ** 0.8
    at = np.sort(rng.integers(START_MS, START_MS + DAYS * 86_400_000, requests))
    request, shopper = np.arange(requests), rng.integers(0, shoppers, requests)
    query = rng.integers(0, 3000, requests)
    shown = {
        "request": np.repeat(request, 8),
        "at": np.repeat(at, 8),
        "shopper": np.repeat(shopper, 8),
        "query": np.repeat(query, 8),
        "product": rng.choice(products, requests * 8, p=share / share.sum()),
        "position": np.tile(np.arange(8), requests),
    }
    clicked = np.flatnonzero(rng.random(requests * 8) < 0.04)
    clicks = {name: column[clicked] for name, column in shown.items()}
    clicks["at"] = clicks["at"] + 15_000
    with DatasetWriter(path, "made up") as writer:
        writer.put("products", [_product(code) for code in range(products)])
        writer.put("queries", [{"query_id": f"q{code}", "text": f"query {code}"} for code in range(3000)])
        writer.append("events", _events("impression", "i", shown))
        writer.append("events", _events("click", "k", clicks))
    return Dataset.open(path)


def _product(code: int) -> dict:
    category = ["all", f"department {code % 8}", f"category {code % 40}"]
    facts = {"brand": f"b{code % 300}", "merchant_id": f"m{code % 200}", "price_cents": 100 + 7 * code}
    return {"product_id": f"p{code}", "title": "x", "category": category, **facts}


def _events(kind: str, letter: str, columns: dict[str, np.ndarray]) -> pa.Table:
    num = len(columns["at"])
    ids = {f"{name}_id": _ids(name[0], columns[name]) for name in ("request", "shopper", "query", "product")}
    facts = {"event_id": _ids(letter, np.arange(num)), "kind": [kind] * num, "position": columns["position"]}
    return pa.table({**ids, **facts, "at": pa.array(columns["at"], pa.timestamp("ms", tz="UTC"))})


def _ids(letter: str, codes: np.ndarray) -> pa.Array:
    return pa.array([f"{letter}{code}" for code in codes.tolist()])


def step_rates(
    samples: Samples, settings: ClickSettings, vectors: ContentTable | None
) -> tuple[float, float]:
    """Samples a second with batches made on the fly, and with the same batches ready in memory; medians."""
    model = ClickModel(samples.vocabulary.sizes, settings, 8)
    model.initialize(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    feed = feed_of(model, samples.vocabulary, samples.entities, vectors)
    rows = np.random.default_rng(0).permutation(samples.train_rows)
    live, ready = [], []
    for number in range(ROUNDS):
        first = number * ROUND_STEPS * BATCH
        pieces = [rows[first + step * BATCH :][:BATCH] for step in range(ROUND_STEPS)]
        kept = [feed.of_samples(samples, piece) for piece in pieces]
        for rates, batches in ((ready, kept), (live, (feed.of_samples(samples, piece) for piece in pieces))):
            start = time.perf_counter()
            for batch in batches:
                _step(model, optimizer, batch)
            rates.append(ROUND_STEPS * BATCH / (time.perf_counter() - start))
    return statistics.median(live[1:]), statistics.median(ready[1:])


def _step(model: ClickModel, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    logit_BN = model(batch) + model.position_logit(batch.position_BN)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit_BN, batch.label_BN)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def score_times(samples: Samples, settings: ClickSettings, vectors: ContentTable | None) -> list[str]:
    """Milliseconds for requests with 24 and 200 candidates, alone and 256 together; medians."""
    trained = train_click_model(_head(samples, 40_000), vectors, settings, training=TrainSettings())
    scorer = ClickScorer(trained, samples.entities, vectors, OnlineState.of_samples(samples))
    rng, at, lines = np.random.default_rng(0), int(samples.at[-1]) + 1, []
    for requests, candidates in ((1, 24), (1, 200), (256, 24)):
        times = []
        for _ in range(30):
            shopper, query = rng.integers(0, 800, requests), rng.integers(0, 3000, requests)
            product = rng.integers(0, 4000, (requests, candidates))
            start = time.perf_counter()
            scorer.score(shopper, query, product, at)
            times.append(1000 * (time.perf_counter() - start))
        lines.append(f"{requests} x {candidates}: {statistics.median(times):.2f} ms")
    return lines


def _head(samples: Samples, num: int) -> Samples:
    part = samples.part(np.arange(len(samples) - num, len(samples)))
    return replace(part, is_test=np.arange(num) >= num * 4 // 5)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=400_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_log(Path(folder) / "log", asked.impressions)
        start = time.perf_counter()
        samples = build_samples(dataset)
        seconds = time.perf_counter() - start
    print(f"samples: {len(samples):,} in {seconds:.1f} s, {len(samples) / seconds:,.0f} rows/s")
    length = np.minimum(samples.history_length[samples.train_rows], 50).mean()
    rng = np.random.default_rng(0)
    vectors = ContentTable.of(rng.normal(size=(4000, DIM)), rng.normal(size=(3000, DIM)))
    for name, settings, table in (
        ("ids", ClickSettings(), None),
        ("ids and content", ClickSettings(content=ContentSettings()), vectors),
    ):
        live, ready = step_rates(samples, settings, table)
        print(
            f"{name}: train {live:,.0f} samples/s, {live / ready:.2f} of ready batches; history {length:.0f}"
        )
        print(f"{name}: score", "; ".join(score_times(samples, settings, table)))


if __name__ == "__main__":
    main()
