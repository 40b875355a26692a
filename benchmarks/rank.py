"""One request, end to end: 500 candidates for a shopper with more than 1,000 behaviors.

    python benchmarks/rank.py [--rounds 200] [--models id,simtier,cube,muse] [--clock wall]

From codes to calibrated probabilities, on one thread, five ways in turn on the same requests of one run:

    onnx      the exported graph in onnxruntime, `ClickScorer`'s default
    program   the same graph as torch.export has it
    eager     the model in PyTorch, the shopper's side once
    tiled     the model on 500 requests of one candidate each; a batch lists each distinct product once
    plain     the same, and every request brings its behaviors' rows and vectors, as CTR libraries do

Beside them parts of `onnx`: `graph` looks nothing up; `one` is the graph with a single candidate; `bare` the
same with as few behaviors as it takes. What lies between the last two is all that a graph of its own for the
shopper could save. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moontide.ranking.batches import Batch, Behaviors, Content, PastQueries
from moontide.ranking.calibration import Calibrator
from moontide.ranking.compositions import COMPOSITIONS
from moontide.ranking.content import ContentTable
from moontide.ranking.engine import Asked, OnnxEngine, RequestFeed, TorchEngine
from moontide.ranking.export import GRAPH, PROGRAM, export_model, run_graph, run_program
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.samples import History, Samples, build_samples
from moontide.ranking.score import ClickScorer
from moontide.ranking.state import OnlineState
from moontide.ranking.train import Trained, TrainSettings, feed_of
from ranking import DIM, write_log

CANDIDATES, BEHAVIORS, PRODUCTS, SHOPPERS, IMPRESSIONS = 500, 1000, 4000, 6, 200_000
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SLOW_EVERY = 10  # rounds in which the tiled ways, slower by far, are asked as well


class Program:
    """An engine: the graph of torch.export."""

    name = "program"

    def __init__(self, folder: Path, feed: RequestFeed):
        self._run, self._feed = run_program(folder / PROGRAM), feed

    def logits(self, asked: Asked) -> np.ndarray:
        """Logits (1, N)."""
        return self._run(self._feed.inputs(asked, 0, np.arange(asked.product.shape[1])))[None].astype(float)


class Tiled:
    """An engine: each candidate is a request of its own, with the shopper's side again."""

    name = "tiled"

    def __init__(self, trained: Trained, samples: Samples, vectors: ContentTable | None):
        self._model, self._feed = trained.model, trained.feed(samples.entities, vectors)

    def logits(self, asked: Asked) -> np.ndarray:
        """Logits (1, N)."""
        num = asked.product.shape[1]
        history = (asked.history.product, asked.history.at, asked.history.kind, asked.history.query)
        batch = self._feed.make(
            np.repeat(asked.shopper, num),
            np.repeat(asked.query, num),
            asked.product.T,
            np.repeat(asked.at, num),
            asked.counters.transpose(1, 0, 2),
            History(*(np.repeat(column, num, 0) for column in history)),
        )
        with torch.no_grad():
            return self._model(batch).T.double().numpy()


class Plain:
    """An engine: as `Tiled`, and no row or vector is shared between requests."""

    name = "plain"

    def __init__(self, trained: Trained, feed: RequestFeed):
        self._model, self._feed = trained.model, feed

    def logits(self, asked: Asked) -> np.ndarray:
        """Logits (1, N)."""
        given = self._feed.inputs(asked, 0, np.arange(asked.product.shape[1]))
        with torch.no_grad():
            return self._model(_repeated(given, self._model)).T.double().numpy()


def _repeated(given: dict[str, np.ndarray], model: ClickModel) -> Batch:
    """One request's tensors as a batch of N requests with one candidate each, everything in it N times."""
    num, steps = len(given["candidate_code"]), len(given["behavior_code"])

    def again(name: str) -> torch.Tensor:
        return torch.from_numpy(np.repeat(given[name][None], num, 0))

    def items(name: str) -> torch.Tensor:
        return torch.cat(
            [torch.from_numpy(given[f"candidate_{name}"]), again(f"behavior_{name}").flatten(0, 1)]
        )

    item_BS = num + np.arange(num * steps).reshape(num, steps)
    is_same = given["behavior_code"] == given["candidate_code"][:, None]
    item_BS = torch.from_numpy(np.where(is_same, np.arange(num)[:, None], item_BS))
    past = Behaviors(item_BS, again("behavior_is_real"), again("behavior_recency"))
    short, search = _first(past, model.settings.history), model.settings.search
    content = queries = None
    if "query_vector" in given:
        has_query_B = again("query_has_vector").flatten()
        content = Content(items("vector"), items("has_vector"), again("query_vector"), has_query_B)
    if "past_query_rows" in given:
        parts = (again(f"past_query_{name}").flatten(0, 1) for name in ("rows", "vector", "has_vector"))
        queries = PastQueries(*parts)
        short.query_BS = torch.arange(len(queries.row_V)).unflatten(0, (num, -1))
    return Batch(
        request_rows_BF=again("request_rows"),
        item_rows_UF=items("rows"),
        product_item_BN=torch.arange(num)[:, None],
        short=short,
        dense_BNF=torch.from_numpy(given["candidate_numbers"])[:, None],
        long=None if search is None else _first(past, search.steps),
        content=content,
        queries=queries,
    )


def _first(past: Behaviors, steps: int) -> Behaviors:
    return Behaviors(past.item_BS[:, :steps], past.is_real_BS[:, :steps], past.recency_BS[:, :steps])


def untrained(samples: Samples, settings: ClickSettings, vectors: ContentTable | None) -> Trained:
    """A model with its first weights: training does not change what it costs."""
    model = ClickModel(samples.vocabulary.sizes, settings, 8, DIM if vectors is not None else 0)
    model.initialize(0)
    feed = feed_of(model, samples.vocabulary, samples.entities, vectors)
    model.fit_scales(feed.of_samples(samples, np.arange(2000)), np.ones(8), np.full(8, 0.04))
    none, version = np.zeros(0), "v1" if vectors is not None else ""
    facts = (Calibrator(), none.astype(int), none, none, {}, TrainSettings(), version)
    return Trained(model.eval(), samples.vocabulary, *facts)


def scorers(
    folder: Path, samples: Samples, settings: ClickSettings, vectors: ContentTable | None
) -> tuple[dict[str, ClickScorer], RequestFeed]:
    """The five ways, all with one state, and the feed of the graph."""
    trained = untrained(samples, settings, vectors)
    trained.save(folder)
    export_model(folder)
    feed = RequestFeed(trained, samples.entities, vectors)
    engines = {
        "onnx": OnnxEngine(folder, trained, samples.entities, vectors),
        "program": Program(folder, feed),
        "eager": TorchEngine(trained.model, trained.feed(samples.entities, vectors)),
        "tiled": Tiled(trained, samples, vectors),
        "plain": Plain(trained, feed),
    }
    state = OnlineState.of_samples(samples, max(settings.all_steps, BEHAVIORS))
    return {
        name: ClickScorer(trained, samples.entities, vectors, state, engine)
        for name, engine in engines.items()
    }, feed


def compare(
    folder: Path,
    samples: Samples,
    settings: ClickSettings,
    vectors: ContentTable | None,
    rounds: int,
    clock: Callable[[], float],
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each way in each round, and the largest difference of a probability."""
    ways, feed = scorers(folder, samples, settings, vectors)
    graph, rng, at = run_graph(folder / GRAPH), np.random.default_rng(1), int(samples.at[-1]) + 1
    times: dict[str, list[float]] = {name: [] for name in (*ways, "graph", "one", "bare")}
    worst, state = 0.0, ways["onnx"].state
    assert (state.history(np.arange(SHOPPERS)).product >= 0).sum(1).min() >= BEHAVIORS

    def timed(name: str, run: Callable[..., np.ndarray], *given: Any) -> np.ndarray:
        start = clock()
        found = run(*given)
        times[name].append(1000 * (clock() - start))
        return found

    for number in range(rounds + 3):
        shopper, query = rng.integers(0, SHOPPERS, 1), rng.integers(0, 3000, 1)
        product = rng.choice(PRODUCTS, (1, CANDIDATES), replace=False)
        found = {}
        for name, scorer in ways.items():
            if name not in ("tiled", "plain") or number % SLOW_EVERY == 0:
                found[name] = timed(name, scorer.score, shopper, query, product, at)
        worst = max(worst, *(np.abs(one - found["eager"]).max() for one in found.values()))
        counters = state.counters(shopper, query, product)
        history = state.history(shopper, settings.all_steps)
        asked = Asked(shopper, query, product, np.array([at]), counters, history)
        stranger = replace(asked, history=state.history(np.array([-1]), settings.all_steps))
        everyone, first = np.arange(CANDIDATES), np.arange(1)
        timed("graph", graph, feed.inputs(asked, 0, everyone))
        timed("one", graph, feed.inputs(asked, 0, first))
        timed("bare", graph, feed.inputs(stranger, 0, first))
    for name, column in times.items():
        times[name] = column[3:] if len(column) > rounds else column[1:]  # the first are warming up
    return times, worst


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--models", default="id,simtier,cube,muse")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    vectors = ContentTable.of(rng.normal(size=(PRODUCTS, DIM)), rng.normal(size=(3000, DIM)), version="v1")
    with tempfile.TemporaryDirectory() as folder:
        samples = build_samples(write_log(Path(folder) / "log", IMPRESSIONS, PRODUCTS, SHOPPERS))
        behaviors = int(np.diff(samples.behavior_start).mean())
        print(f"{CANDIDATES} candidates, {behaviors:,} behaviors of a shopper, {asked.clock} time")
        for name in asked.models.split(","):
            settings = COMPOSITIONS[name]
            table = vectors if settings.reads_vectors else None
            clock = CLOCKS[asked.clock]
            times, worst = compare(Path(folder) / name, samples, settings, table, asked.rounds, clock)
            median = {way: statistics.median(column) for way, column in times.items()}
            print(f"{name}: largest difference of a probability {worst:.1e}")
            for way, column in times.items():
                p99 = float(np.quantile(column, 0.99))
                ratio = f"{median[way] / median['onnx']:6.2f} x onnx"
                print(f"  {way:8} p50 {median[way]:8.2f} ms  p99 {p99:8.2f} ms  {ratio}  of {len(column)}")


if __name__ == "__main__":
    main()
