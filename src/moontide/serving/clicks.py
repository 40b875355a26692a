"""The run's click model, asked with what a request knows.

Nothing served is remembered yet, so the present is the moment the dataset's log ends: hours and ages count
from there, and counters and histories are those of that moment.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.center.store import VectorStore
from moontide.foundation.errors import CheckpointError
from moontide.ranking.samples import Samples, build_samples
from moontide.ranking.score import ClickScorer
from moontide.serving.request import Request
from moontide.serving.stock import Past


class LoggedClicks:
    """A `ClickScorer` at the end of a dataset's log, as the pipeline's click model.

    Args:
        scorer: its product codes are the stock's rows, for both follow `products.parquet`.
        query_code: text of a logged query, in lower case -> its code.
        at_ms: the moment requests are scored at.
    """

    def __init__(self, scorer: ClickScorer, query_code: dict[str, int], at_ms: int):
        self._scorer, self._query_code, self._at_ms = scorer, query_code, at_ms
        self._reads_vectors = scorer.trained.model.settings.reads_vectors

    @classmethod
    def load(
        cls, folder: Path, dataset: Dataset, store: VectorStore | None, served: str | None
    ) -> LoggedClicks:
        """Load the click model in `folder`, with the state after the dataset's log.

        It is run by onnxruntime if it was exported, else by PyTorch.

        Args:
            store: where a model that reads vectors finds them.
            served: version of the vectors that queries are compared with.

        Raises:
            CheckpointError: no model there, or one that learned from vectors of another version.
            DataError: the log has no impressions, or the model needs vectors and there are none.
        """
        if not (folder / "settings.json").is_file():
            raise CheckpointError(f"no click model at {folder}")
        samples = _samples_of(folder.parents[1] / "samples", dataset)
        scorer = ClickScorer.load(folder, dataset, store, samples=samples)
        learned = scorer.trained.version
        if scorer.trained.model.settings.reads_vectors and learned not in ("", served):
            raise CheckpointError(
                f"the click model at {folder} learned from vectors of version {learned!r}, served are those "
                f"of {served!r}: train it again"
            )
        return cls(scorer, _query_codes(dataset), int(samples.at.max()))

    @property
    def version(self) -> str | None:
        """Kind of model, version of the vectors it reads, and what computes it."""
        return f"{self._scorer.version} ({self._scorer.engine})"

    def p_click(self, request: Request, past: Past, query: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """See `ClickModel`; the past is the model's own, longer memory of the same shopper."""
        text = request.text.lower() if request.text and request.image is None else ""
        return self._scorer.score(
            self._scorer.shopper_codes([request.shopper_id]),
            np.array([self._query_code.get(text, -1)]),
            rows[None],
            np.array([self._at_ms]),
            query_vectors=query[None] if query is not None and self._reads_vectors else None,
        )[0]


def _samples_of(kept: Path, dataset: Dataset) -> Samples:
    """The samples the run kept, if they are of this dataset's products; else made from the log again."""
    if (kept / "samples.json").is_file():
        samples, products = Samples.load(kept), dataset.table("products", ["product_id"])
        if samples.entities.product_ids.to_pylist() == products.column(0).to_pylist():
            return samples
    return build_samples(dataset)


def _query_codes(dataset: Dataset) -> dict[str, int]:
    table = dataset.table("queries", ["text", "image_id"])
    codes: dict[str, int] = {}
    for code, (text, image_id) in enumerate(zip(*(c.to_pylist() for c in table.columns), strict=True)):
        if text and image_id is None:
            codes.setdefault(" ".join(text.lower().split()), code)
    return codes
