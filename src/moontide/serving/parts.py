"""The parts of a run a request passes through, each loaded on its own; a missing one is noted, not fatal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.center.shard import HotShard
from moontide.center.store import VectorStore
from moontide.foundation.errors import CheckpointError, DataError, MoontideError
from moontide.foundation.runs import Run
from moontide.serving.request import Request
from moontide.serving.stock import Past, Stock

log = logging.getLogger(__name__)
T = TypeVar("T")


class QueryEncoder(Protocol):
    """Turns a query into a vector of the space the products' vectors are in."""

    def encode_query(self, text: str | None, image: bytes | None) -> np.ndarray:
        """The unit vector of a text, a picture or both, (dim,) float32."""
        ...


class ClickModel(Protocol):
    """Gives the probability that a shopper clicks each candidate."""

    version: str | None

    def p_click(self, request: Request, past: Past, query: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """p(click) of the product rows, (len(rows),) in [0, 1]; `query` is the query's vector or None."""
        ...


@dataclass
class Parts:
    """What was found of a run.

    Args:
        encoder, shard, creatives, clicks: None when missing.
        versions: of the encoder, the vectors and the click model.
        missing: step -> the sentence that says what is missing.
    """

    encoder: QueryEncoder | None = None
    shard: HotShard | None = None
    creatives: HotShard | None = None
    clicks: ClickModel | None = None
    versions: dict[str, str | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class MoonQueryEncoder:
    """A trained `MoonEncoder` as a query encoder, cut to the width of the stored vectors."""

    def __init__(self, encoder: Any, width: int | None = None):
        self._encoder, self._width = encoder, width

    @classmethod
    def load(cls, path: Path, width: int | None = None) -> MoonQueryEncoder:
        """Load the encoder in a model folder.

        Raises:
            CheckpointError: there is none.
        """
        if not path.is_dir():
            raise CheckpointError(f"no encoder at {path}")
        from moontide.encoder.model.encoder import MoonEncoder  # seconds to import: only when it is there

        return cls(MoonEncoder(str(path)), width)

    @property
    def version(self) -> str:
        """The encoder's fingerprint."""
        return self._encoder.fingerprint()

    def encode_query(self, text: str | None, image: bytes | None) -> np.ndarray:
        """See `QueryEncoder`."""
        from moontide.encoder.model.inputs import query_item

        return self._encoder.encode_items([query_item(text=text, image=image)], width=self._width)[0]


def dataset_of(run: Run) -> Dataset:
    """The dataset a run was made from: its recorded path, or RUN/dataset.

    Raises:
        DataError: neither is there.
    """
    recorded = run.facts.get("dataset") or (run.facts.get("settings") or {}).get("dataset")
    places = [Path(recorded), run.path / recorded] if isinstance(recorded, str) else []
    for place in [*places, run.path / "dataset"]:
        if (place / "dataset.json").is_file():
            return Dataset.open(place)
    named = f"{recorded} or {run.path / 'dataset'}" if recorded else str(run.path / "dataset")
    raise DataError(f"the dataset of {run.path} is not at {named}: put it back, or run the demo again")


def load_parts(run: Run, dataset: Dataset, stock: Stock) -> Parts:
    """Load every part of a run that is there; what is missing is noted under the step that needs it."""
    parts = Parts()
    store = _try(parts, "retrieve", lambda: VectorStore.open(run.path / "center", must_exist=True))
    version = store.active() if store else None
    if store and not version:
        parts.missing["retrieve"] = f"no version of {run.path / 'center'} is active"
    if store and version:
        parts.shard = _try(parts, "retrieve", lambda: HotShard.load(store, "product", version))
        parts.creatives = _try(parts, "creative", lambda: HotShard.load(store, "creative", version))
    width = parts.shard.dim if parts.shard else None
    parts.encoder = encoder = _try(
        parts, "encode", lambda: MoonQueryEncoder.load(run.path / "encoder", width)
    )
    parts.clicks = clicks = _try(parts, "rank", lambda: _load_clicks(run, dataset, stock, store, version))
    parts.versions = {
        "encoder": encoder.version if encoder else None,
        "vectors": version,
        "click model": getattr(clicks, "version", None),
    }
    return parts


def _load_clicks(
    run: Run, dataset: Dataset, stock: Stock, store: VectorStore | None, version: str | None
) -> ClickModel:
    folder = run.path / "ranking" / "content"
    if not (folder / "model.pt").is_file():
        raise CheckpointError(f"no click model at {folder}")
    raise CheckpointError(
        f"the click model at {folder} cannot be served yet"
    )  # wired when ranking/score.py is in


def _try(parts: Parts, step: str, load: Callable[[], T]) -> T | None:
    try:
        return load()
    except MoontideError as error:
        parts.missing[step] = str(error)
        log.warning("%s: %s", step, error)
        return None
