"""The parts of a run a request passes through, each loaded on its own; a missing one is noted, not fatal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.center.shard import HotShard
from moontide.center.store import VectorStore
from moontide.center.versions import VersionBook
from moontide.foundation.errors import CheckpointError, DataError, MoontideError
from moontide.foundation.runs import Run
from moontide.serving.clicks import LoggedClicks
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

    @property
    def version(self) -> str | None:
        """Its name for the trace."""
        ...

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
    """A trained `MoonEncoder` as a query encoder, cut to the width of the stored vectors.

    One query is encoded at a time: the encoder's threads have the cores already.
    """

    def __init__(self, encoder: Any, width: int | None = None):
        self._encoder, self._width = encoder.eval(), width
        self._encoding = threading.Lock()

    @classmethod
    def load(cls, path: Path, width: int | None = None) -> MoonQueryEncoder:
        """Load the encoder in a model folder.

        Raises:
            CheckpointError: there is none, or it is broken.
        """
        if not path.is_dir():
            raise CheckpointError(f"no encoder at {path}")
        from moontide.encoder.model.encoder import MoonEncoder  # seconds to import: only when it is there

        try:
            return cls(MoonEncoder(str(path)), width)
        except Exception as error:  # of a broken folder, each library below has errors of its own
            raise CheckpointError(f"the encoder at {path} cannot be loaded ({error}): train again") from error

    @cached_property
    def version(self) -> str:
        """The encoder's fingerprint."""
        return self._encoder.fingerprint()

    def encode_query(self, text: str | None, image: bytes | None) -> np.ndarray:
        """See `QueryEncoder`."""
        from moontide.encoder.model.inputs import query_item
        from moontide.encoder.reasoned import writes

        items = [query_item(text=text, image=image)]
        with self._encoding:
            if writes(self._encoder, "query"):
                items = self._encoder.reasoned(items)
            return self._encoder.encode_items(items, width=self._width)[0]


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
    attempt = partial(_try, parts, run)
    center = run.path / "center"
    store = attempt("retrieve", lambda: VectorStore.open(center, must_exist=True))
    version = attempt("retrieve", lambda: _active(store)) if store else None
    if store and version:
        parts.shard = attempt("retrieve", lambda: _shard(store, "product", version))
        parts.creatives = attempt("creative", lambda: _shard(store, "creative", version))
    facts = attempt("retrieve", lambda: VersionBook(center).facts(version)) if version else None
    made_by = facts.fingerprint if facts else None
    parts.encoder = encoder = attempt("encode", lambda: _encoder(run.path / "encoder", parts.shard, made_by))
    folder = run.path / "ranking" / "content"
    parts.clicks = clicks = attempt("rank", lambda: LoggedClicks.load(folder, dataset, store, version))
    parts.versions = {
        "encoder": encoder.version if encoder else None,
        "vectors": version,
        "click model": clicks.version if clicks else None,
    }
    return parts


def _active(store: VectorStore) -> str:
    version = store.active()
    if version is None:
        raise CheckpointError(f"no version of {store.path} is active: run `moontide center activate`")
    return version


def _shard(store: VectorStore, kind: str, version: str) -> HotShard:
    shard = HotShard.load(store, kind, version)
    if not len(shard):
        raise CheckpointError(f"no {kind} has a vector of version {version}: run `moontide embed`")
    return shard


def _encoder(path: Path, shard: HotShard | None, made_by: str | None) -> MoonQueryEncoder:
    encoder = MoonQueryEncoder.load(path, shard.dim if shard else None)
    if made_by and made_by != encoder.version:
        raise CheckpointError(
            f"the encoder at {path} is {encoder.version}, the vectors were made by {made_by}: embed again"
        )
    return encoder


def _try(parts: Parts, run: Run, step: str, load: Callable[[], T]) -> T | None:
    """A part, or None and the reason; visitors read the reason, so it names no folder above the run's."""
    try:
        return load()
    except (MoontideError, OSError, ValueError, RuntimeError, LookupError) as error:  # a broken file's, too
        log.warning("%s: %s", step, error)
        text = str(error) if isinstance(error, MoontideError) else f"the part cannot be loaded ({error})"
        parts.missing[step] = text.replace(str(run.path), run.path.name or "the run")
        return None
