"""Score live requests: a trained click model with the state of its shop.

    scorer = ClickScorer.load("RUN/ranking/content", dataset, vectors)
    p_click = scorer.score(shopper, query, product, at)      # (B, N)
    scorer.observe(shopper, query, shown, clicked, at)       # what happened then counts for the next request

The shopper's history, its embeddings and the request's part of the tower are computed once per request,
whatever the number of candidates. An engine (`engine.py`) computes the logits: the exported graph where
there is one, else PyTorch. It looks up what training looked up, and the state counts what samples count, so
a stored impression gets the same probability here and there, up to the rounding of vectors that were
trained on as float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import DataError
from moontide.ranking.calibration import SlicedCalibrator, product_slices
from moontide.ranking.content import ContentTable, Store
from moontide.ranking.engine import Asked, Engine, TorchEngine, open_engine
from moontide.ranking.entities import Entities, find_codes
from moontide.ranking.samples import Samples, build_samples
from moontide.ranking.state import OnlineState
from moontide.ranking.train import Trained

CELLS = 2_000_000  # similarities held at once: requests x candidates x steps
NO_VECTORS = "this click model reads vectors: give a ContentTable or a representation center"


class ClickScorer:
    """p(click) of candidates, and the memory it rests on.

    Args:
        trained: the model.
        entities: of the dataset whose codes requests use.
        vectors: aligned with those codes; None for a model of ids alone.
        state: what happened so far.
        engine: that computes logits; default PyTorch.
    """

    def __init__(
        self,
        trained: Trained,
        entities: Entities,
        vectors: ContentTable | None,
        state: OnlineState,
        engine: Engine | None = None,
    ):
        if trained.model.settings.reads_vectors and vectors is None:
            raise DataError(NO_VECTORS)
        self.trained, self.entities, self.state = trained, entities, state
        self._engine = engine or TorchEngine(trained.model, trained.feed(entities, vectors))
        self._slice_of = None
        if isinstance(trained.calibrator, SlicedCalibrator):
            self._slice_of = product_slices(trained.calibrator.by, entities, trained.vocabulary)
        self._shoppers = {name: code for code, name in enumerate(entities.shopper_ids.to_pylist())}
        self._num_trained_shoppers = len(self._shoppers)
        trained.model.eval()

    @classmethod
    def load(
        cls,
        folder: Path | str,
        dataset: Dataset | None,
        vectors: ContentTable | Store | None = None,
        version: str | None = None,
        samples: Samples | None = None,
        until_ms: int | None = None,
        engine: str | None = None,
        threads: int = 1,
    ) -> ClickScorer:
        """Load a click model with the state after a dataset's log.

        Args:
            folder: of the model, see `Trained.save`.
            dataset: whose entities and events are meant; not read if `samples` are given.
            vectors: frozen vectors, or a representation center to look them up in.
            version: of the vectors in the center; default the one the model was trained with.
            samples: of the dataset, if they are there already.
            until_ms: leave out events from this moment on.
            engine: "onnx", "torch", or None: the exported graph if the folder has one of this model, else
                PyTorch and a line in the log.
            threads: that onnxruntime uses for one request.

        Raises:
            CheckpointError: no model in `folder`, or "onnx" without a graph of this model.
            SettingsError: another engine.
            DataError: the model needs vectors and there are none; the dataset has no impressions.
        """
        trained = Trained.load(folder)
        if samples is None:
            assert dataset is not None
            samples = build_samples(dataset)
        if vectors is not None and not isinstance(vectors, ContentTable):
            wanted = version or trained.version or None
            needed = trained.model.settings.reads_vectors
            vectors = ContentTable.read(vectors, samples.entities, wanted) if needed else None
        if trained.model.settings.reads_vectors and vectors is None:
            raise DataError(NO_VECTORS)
        state = OnlineState.of_samples(samples, trained.model.settings.all_steps, until_ms)
        chosen = open_engine(Path(folder), trained, samples.entities, vectors, engine, threads)
        return cls(trained, samples.entities, vectors, state, chosen)

    @property
    def version(self) -> str:
        """Kind of model and version of its vectors, for logs."""
        kind = "content" if self.trained.model.settings.reads_vectors else "id"
        return f"{kind} {self.trained.version}".strip()

    @property
    def engine(self) -> str:
        """What computes the logits: "onnx" or "torch"."""
        return self._engine.name

    def product_codes(self, ids: Sequence[str | None]) -> np.ndarray:
        """Codes of product ids, -1 for one the dataset lacks."""
        return find_codes(list(ids), self.entities.product_ids)

    def query_codes(self, ids: Sequence[str | None]) -> np.ndarray:
        """Codes of query ids, -1 for one the dataset lacks."""
        return find_codes(list(ids), self.entities.query_ids)

    def shopper_codes(self, ids: Sequence[str | None], remember: bool = False) -> np.ndarray:
        """Codes of shopper ids, -1 for unknown ones; `remember` gives unknown ones a code and a history."""
        if remember:
            for name in ids:
                if name is not None:
                    self._shoppers.setdefault(name, len(self._shoppers))
            self.state.grow(len(self._shoppers))
        return np.array([self._shoppers.get(name, -1) if name else -1 for name in ids], dtype=np.int64)

    def score(
        self,
        shopper: np.ndarray,
        query: np.ndarray,
        product: np.ndarray,
        at: np.ndarray,
        query_vectors: np.ndarray | None = None,
        creative: np.ndarray | None = None,
    ) -> np.ndarray:
        """p(click) of candidates at an average position, calibrated.

        Args:
            shopper: (B,) codes, -1 for a stranger.
            query: (B,) codes, -1 for a query the dataset lacks.
            product: (B, N) codes, -1 for no candidate.
            at: (B,) or one moment, ms.
            query_vectors: (B, D) for queries that are not in the vector table.
            creative: (B, N) codes, for a model with `content.creative`.

        Returns:
            (B, N) float64; 0 where there is no candidate.
        """
        shopper, query, product = (np.asarray(column, np.int64) for column in (shopper, query, product))
        at = np.broadcast_to(np.asarray(at, np.int64), shopper.shape)
        step = max(1, CELLS // max(product.shape[1] * self.trained.model.settings.all_steps, 1))
        parts = [np.zeros((0, product.shape[1]))]
        for start in range(0, len(shopper), step):
            piece = slice(start, start + step)
            parts.append(
                self._score(
                    shopper[piece],
                    query[piece],
                    product[piece],
                    at[piece],
                    None if query_vectors is None else query_vectors[piece],
                    None if creative is None else creative[piece],
                )
            )
        return np.concatenate(parts)

    def observe(
        self,
        shopper: np.ndarray,
        query: np.ndarray,
        product: np.ndarray,
        clicked: np.ndarray,
        at: np.ndarray,
    ) -> None:
        """Remember what was shown and clicked: shopper, query (B,), product and clicked (B, N), at (B,) ms.

        Products of -1 are empty slots. For clicks that come later than their impression, give them to
        `state.click` when they come, and nothing clicked here.
        """
        shopper, query, product = (np.asarray(column, np.int64) for column in (shopper, query, product))
        at = np.broadcast_to(np.asarray(at, np.int64), shopper.shape)
        rows, slots = np.nonzero(product >= 0)
        self.state.show(shopper[rows], query[rows], product[rows, slots])
        rows, slots = np.nonzero(np.asarray(clicked, bool) & (product >= 0))
        self.state.click(shopper[rows], query[rows], product[rows, slots], at[rows])

    def observe_orders(self, shopper: np.ndarray, product: np.ndarray, at: np.ndarray) -> None:
        """Remember orders when they happen: three columns of one length."""
        self.state.order(*(np.asarray(column, np.int64) for column in (shopper, product, at)))

    def _score(
        self,
        shopper: np.ndarray,
        query: np.ndarray,
        product: np.ndarray,
        at: np.ndarray,
        query_vectors: np.ndarray | None,
        creative: np.ndarray | None,
    ) -> np.ndarray:
        counters = self.state.counters(shopper, query, product)
        history = self.state.history(shopper, self.trained.model.settings.all_steps)
        known = np.where(shopper < self._num_trained_shoppers, shopper, -1)
        asked = Asked(known, query, product, at, counters, history, query_vectors, creative)
        return np.where(product >= 0, self._calibrated(self._engine.logits(asked), product), 0.0)

    def _calibrated(self, logit: np.ndarray, product: np.ndarray) -> np.ndarray:
        calibrator = self.trained.calibrator
        if isinstance(calibrator, SlicedCalibrator):
            return calibrator(logit, None if self._slice_of is None else self._slice_of[product])
        return calibrator(logit)
