"""What computes click logits when a shop is live: the exported graph in onnxruntime, or PyTorch.

    Asked ──► `RequestFeed` ──► click.onnx, one request at a time      `OnnxEngine`, the default
    Asked ──► `Feed` ──► Batch ──► `ClickModel`, many at once          `TorchEngine`

Both look the same rows and vectors up and give the same numbers up to rounding. A request's feed touches
what the request names and nothing of the catalog's size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.ranking.batches import NUM_AGES, NUM_HOURS, Feed
from moontide.ranking.content import ContentTable, VectorTable
from moontide.ranking.counters import dense_features
from moontide.ranking.entities import PRODUCT_FIELDS, Entities
from moontide.ranking.export import FACTS, GRAPH, check_agreement, exported_facts, run_graph
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.models import ClickModel
from moontide.ranking.request_model import Inputs, RequestModel, inputs_of, steps_of
from moontide.ranking.samples import HOUR_MS, History
from moontide.ranking.train import Trained

log = logging.getLogger(__name__)
ENGINES = ("onnx", "torch")
PIECE_CELLS = 2_000_000  # candidates x steps that one run of the graph holds at most


@dataclass(frozen=True)
class Asked:
    """Requests as codes, with what was known of them at their moment.

    Args:
        shopper, query: (B,), -1 unknown. product: (B, N), -1 for no candidate. at: (B,) ms.
        counters: (B, N, len(COUNTERS)). history: (B, S), newest first, padding last.
        query_vectors: (B, D) instead of looking the queries up; a zero row is "no vector".
        creative: (B, N), -1 none.
    """

    shopper: np.ndarray
    query: np.ndarray
    product: np.ndarray
    at: np.ndarray
    counters: np.ndarray
    history: History
    query_vectors: np.ndarray | None = None
    creative: np.ndarray | None = None


class Engine(Protocol):
    """Gives click logits; may be asked by many threads at once."""

    @property
    def name(self) -> str:
        """One of ENGINES, for logs and traces."""
        ...

    def logits(self, asked: Asked) -> np.ndarray:
        """Click logits at an average position, not calibrated: (B, N) float64, anything at no candidate."""
        ...


class TorchEngine:
    """The model itself, eager; all requests of a call in one batch.

    Args:
        model: in evaluation mode. feed: made for it.
    """

    name = "torch"

    def __init__(self, model: ClickModel, feed: Feed):
        self._model, self._feed = model, feed

    def logits(self, asked: Asked) -> np.ndarray:
        """See `Engine`."""
        batch = self._feed.make(**vars(asked))
        with torch.no_grad():
            return self._model(batch).double().numpy()


class RequestFeed:
    """The inputs of the exported graph for one request, looked up in a dataset's tables.

    Args:
        trained: the model, with its vocabulary.
        entities: of the dataset whose codes requests use.
        vectors: aligned with those codes; None for a model of ids alone.

    Raises:
        CheckpointError: vectors of another width than the model's.
    """

    def __init__(self, trained: Trained, entities: Entities, vectors: ContentTable | None):
        model, vocabulary = trained.model, trained.vocabulary
        self._names = {one.name for one in inputs_of(model)}
        self._history, self._steps = model.settings.history, steps_of(model)
        self._vectors = vectors if model.settings.reads_vectors else None
        self._items = vocabulary.table(entities.products, PRODUCT_FIELDS + model.attributes)
        if self._vectors is not None:
            product = self._vectors.product
            if product.dim != model.dim:
                raise CheckpointError(
                    f"the click model reads vectors of {model.dim} numbers, these have {product.dim}: give "
                    f"those of version {trained.version!r} it was trained with, or train again"
                )
            semantic = model.semantic_codes(product.vectors, product.present)
            if semantic is not None:
                self._items = np.concatenate([self._items, semantic], axis=1)
        self._shoppers = vocabulary.table(entities.shoppers, model.request_fields[:-2])
        self._queries = vocabulary.rows("query", entities.query_ids)
        self._created_at = np.append(entities.created_at, -1)
        self._log_price = np.append(entities.log_price, np.nan)

    def inputs(self, asked: Asked, row: int, slots: np.ndarray) -> Inputs:
        """What the graph reads for one of the requests and some of its candidates, which must be there."""
        product, at, query = asked.product[row, slots], asked.at[row], asked.query[row]
        past = self._past(asked.history, row)
        behavior = past.product
        request = [*self._shoppers[asked.shopper[row]], self._queries[query], at // HOUR_MS % NUM_HOURS]
        age, price = self._created_at[product], self._log_price[product]
        given = {
            "request_rows": np.array(request, np.int64),
            "candidate_rows": self._items[product],
            "candidate_code": product,
            "candidate_numbers": dense_features(asked.counters[row, slots], at, age, price),
            "behavior_rows": self._items[behavior],
            "behavior_code": behavior,
            "behavior_recency": _recency_rows(past, at),
            "behavior_is_real": behavior >= 0,
        }
        if self._vectors is not None:
            given |= _looked_up("candidate", self._vectors.product, product)
            given |= _looked_up("behavior", self._vectors.product, behavior)
            given |= self._query_vector(query, asked.query_vectors, row)
        if "creative_vector" in self._names:
            shown = np.full(len(product), -1) if asked.creative is None else asked.creative[row, slots]
            given |= self._kind("creative", shown)
        if "past_query_rows" in self._names:
            given |= self._past_queries(past)
        return given

    def _past(self, history: History, row: int) -> History:
        """The behaviors of one request, (S,), without padding but with as many steps as the graph needs."""
        low, high = self._steps
        held = np.flatnonzero(history.product[row, :high] >= 0)
        steps = max(int(held[-1]) + 1 if len(held) else 0, low)

        def column(values: np.ndarray, filler: int) -> np.ndarray:
            kept = values[row, :steps].astype(np.int64)
            return np.concatenate([kept, np.full(steps - len(kept), filler)])

        at, kind = column(history.at, 0), column(history.kind, CLICK)
        return History(column(history.product, -1), at, kind, column(history.query, -1))

    def _query_vector(self, query: int, given: np.ndarray | None, row: int) -> Inputs:
        if given is not None:
            table = VectorTable.of(given[row : row + 1])
            return {"query_vector": table.vectors[0], "query_has_vector": table.present[:1]}
        found = self._kind("query", np.array([query]))
        return {**found, "query_vector": found["query_vector"][0]}

    def _past_queries(self, past: History) -> Inputs:
        """Of clicks alone: an order repeats the query of its click."""
        is_click = (past.product >= 0) & (past.kind == CLICK)
        query = np.where(is_click, past.query, -1)[: self._history]
        found = self._kind("query", query)
        return {
            "past_query_rows": self._queries[query],
            **{f"past_{name}": one for name, one in found.items()},
        }

    def _kind(self, kind: str, code: np.ndarray) -> Inputs:
        """Vectors of queries or creatives; none where the version has none of that kind."""
        assert self._vectors is not None
        table, dim = getattr(self._vectors, kind), self._vectors.product.dim
        if table is None:
            table, code = VectorTable(np.zeros((1, dim), np.float32), np.zeros(1, bool)), np.zeros_like(code)
        return _looked_up(kind, table, code)


class OnnxEngine:
    """The exported graph in onnxruntime, request by request.

    Args:
        folder: of a model that `export_model` was run on.
        trained: the model in that folder.
        entities, vectors: see `RequestFeed`.
        threads: that one request uses; a server rather has many requests at once.

    Raises:
        CheckpointError: no whole export there, one of another model, or one that gives other numbers here.
    """

    name = "onnx"

    def __init__(
        self,
        folder: Path,
        trained: Trained,
        entities: Entities,
        vectors: ContentTable | None,
        threads: int = 1,
    ):
        exported_facts(folder)
        self._run = run_graph(folder / GRAPH, threads)
        check_agreement(RequestModel(trained.model), self._run, "ONNX")
        self._feed = RequestFeed(trained, entities, vectors)
        self._most = max(PIECE_CELLS // steps_of(trained.model)[1], 1)

    def logits(self, asked: Asked) -> np.ndarray:
        """See `Engine`."""
        logit = np.zeros(asked.product.shape)
        for row, product in enumerate(asked.product):
            real = np.flatnonzero(product >= 0)
            for start in range(0, len(real), self._most):
                slots = real[start : start + self._most]
                logit[row, slots] = self._run(self._feed.inputs(asked, row, slots))
        return logit


def open_engine(
    folder: Path,
    trained: Trained,
    entities: Entities,
    vectors: ContentTable | None,
    engine: str | None = None,
    threads: int = 1,
) -> Engine:
    """The engine asked for; by default the exported graph, or PyTorch and a line in the log that says why.

    Raises:
        SettingsError: another engine than ENGINES.
        CheckpointError: "onnx" was asked for and the folder's graph is missing, broken or of another model.
    """
    if engine not in (None, *ENGINES):
        raise SettingsError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "onnx" or (engine is None and (folder / FACTS).is_file()):
        try:
            return OnnxEngine(folder, trained, entities, vectors, threads)
        except CheckpointError as error:
            if engine is not None:
                raise
            log.warning("the click model is run by PyTorch: %s", error)
    elif engine is None:
        log.info("the click model is run by PyTorch: faster after `moontide ranking export %s`", folder)
    return TorchEngine(trained.model, trained.feed(entities, vectors))


def _looked_up(name: str, table: VectorTable, code: np.ndarray) -> Inputs:
    return {f"{name}_vector": table.take(code).numpy(), f"{name}_has_vector": table.present[code]}


def _recency_rows(past: History, at: int) -> np.ndarray:
    """Row by kind and age of each behavior, as `batches.py` has it."""
    hours = np.maximum(at - past.at, 0) / HOUR_MS
    age = np.minimum(np.log2(1 + hours).astype(np.int64), NUM_AGES - 1)
    return np.where(past.product >= 0, age + NUM_AGES * (past.kind == ORDER), 0)
