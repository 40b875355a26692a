"""The hot shard: vectors in memory, searched under any filter without ever coming back short.

A graph search under a filter loses most of its recall once few rows are allowed, so a planner chooses:

    a small shard           exact scan over all of it; no graph is built
    few rows allowed        exact scan over those rows
    many rows allowed       graph with a wide beam; a query that came back short is scanned exactly
    no filter               graph

Rows are numbered in the order they came. `add` and `remove` never renumber: added rows are scanned exactly
beside the graph, removed ones are skipped; `rebuilt` gives a new shard with both folded in. Scores are
computed again in double precision for the winners, so that they depend on neither plan nor batch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import pydantic

from moontide.center.store import VectorStore
from moontide.foundation.errors import DataError
from moontide.foundation.settings import Settings

SLACK = 4e-6  # float32 scores of unit vectors differ from the true ones by less
GATHER_ROWS = 1_024  # half a megabyte of 128 dimensions
SCAN_BYTES = 64 * 1024 * 1024  # scores of one block of queries in an exact scan


class ShardSettings(Settings):
    """How a shard is searched."""

    graph_rows: int = pydantic.Field(20_000, ge=1, description="shards with fewer rows get no graph")
    exact_values: int = pydantic.Field(
        2_560_000, ge=1, description="scan exactly up to this many allowed rows x dimensions"
    )
    neighbors: int = pydantic.Field(16, ge=2, description="links of a graph node")
    build_beam: int = pydantic.Field(80, ge=8, description="beam width while the graph is built")
    beam: int = pydantic.Field(64, ge=1, description="beam width of a search without filter")
    filtered_beam: int = pydantic.Field(512, ge=1, description="beam width of a search with filter")


@dataclass(frozen=True)
class _State:
    """What one search sees; replaced whole by `add` and `remove`, so that a search needs no lock."""

    fresh: np.ndarray  # vectors added since the graph was built, (added, dim)
    alive: np.ndarray  # bool over all rows
    num_dead: int


class Filter:
    """Allowed rows of a shard, prepared once for many searches: build it with `HotShard.filter`."""

    def __init__(self, shard: HotShard, state: _State, allowed: np.ndarray, is_prepared: bool = False):
        if allowed.dtype != bool or allowed.shape != (len(state.alive),):
            raise DataError(
                f"a filter is one bool for each of the {len(state.alive)} rows, got {allowed.dtype} "
                f"{allowed.shape}"
            )
        self._shard, self.state, self.is_prepared = shard, state, is_prepared
        self.mask = allowed & state.alive if state.num_dead else allowed
        self.rows = np.flatnonzero(self.mask)

    @cached_property
    def vectors(self) -> np.ndarray:
        """The allowed rows' vectors side by side: what an exact scan reads."""
        return self._shard.vectors_of(self.rows, self.state)

    @cached_property
    def bitmap(self) -> np.ndarray:
        """The allowed rows of the graph, one bit each, as the graph's selector wants them."""
        return np.packbits(self.mask[: self._shard.num_indexed], bitorder="little")


class HotShard:
    """Ids and unit vectors in memory, searched by inner product.

    Args:
        ids: one string per row, all different.
        vectors: float, (rows, dim), each of length one.
        version: the version the vectors are of; a search that names another is refused.

    Raises:
        DataError: lengths differ, an id comes twice, or a vector is not of length one.

    Example:
        >>> shard = HotShard(["a", "b", "c"], np.eye(3))
        >>> allowed = np.array([True, False, True])
        >>> scores, rows = shard.search(np.array([[0.6, 0.8, 0.0]]), k=2, allowed=allowed)
        >>> [shard.ids[row] for row in rows[0]], scores.round(3).tolist()
        (['a', 'c'], [[0.6..., 0.0]])
    """

    def __init__(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        settings: ShardSettings | None = None,
        version: str | None = None,
    ):
        self.settings, self.version = settings or ShardSettings(), version
        self.ids = list(ids)
        self._base = _unit(vectors, len(self.ids))
        self._row = {entity: row for row, entity in enumerate(self.ids)}
        if len(self._row) != len(self.ids):
            raise DataError(f"{len(self.ids) - len(self._row)} ids come twice: give each entity one vector")
        self.dim = self._base.shape[1]
        self._graph = self._build() if len(self._base) >= self.settings.graph_rows else None
        self._state = _State(np.zeros((0, self.dim), np.float32), np.ones(len(self.ids), bool), 0)
        self._write = threading.Lock()

    @classmethod
    def load(
        cls,
        store: VectorStore,
        kind: str = "product",
        version: str | None = None,
        settings: ShardSettings | None = None,
    ) -> HotShard:
        """A shard of all vectors of one kind and version (None: the active one)."""
        version = version or store.active()
        ids, vectors = store.load(kind, version)
        return cls(ids, vectors, settings, version)

    def __len__(self) -> int:
        """Rows, removed ones included: the length a filter must have."""
        return len(self._state.alive)

    @property
    def num_alive(self) -> int:
        """Rows that can be found."""
        return len(self._state.alive) - self._state.num_dead

    @property
    def num_indexed(self) -> int:
        """Rows inside the graph (or, in a small shard, present from the start)."""
        return len(self._base)

    @property
    def num_waiting(self) -> int:
        """Rows added since: scanned at each search until the shard is rebuilt."""
        return len(self._state.fresh)

    def row_of(self, entity_id: str) -> int | None:
        """The row of an id, or None when it is not here or was removed."""
        return self._row.get(entity_id)

    def filter(self, allowed: np.ndarray) -> Filter:
        """Prepare a filter that many searches share, for example one category's active campaigns.

        It holds for the rows of this moment: after `add` or `remove` build it again.
        """
        return Filter(self, self._state, np.asarray(allowed), is_prepared=True)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        allowed: np.ndarray | Filter | None = None,
        version: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest allowed rows of each query, best first; equal scores by row.

        Args:
            queries: float, (queries, dim), unit vectors.
            allowed: bool over the rows, or a prepared `Filter`; None allows all.
            version: if given, must be the shard's: vectors of two versions cannot be compared.

        Returns:
            scores float32 and rows int64, both (queries, min(k, number of allowed rows)): never short.

        Raises:
            DataError: another dimension or version, a filter of another length or moment, or k under 1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        state = self._state
        self._check(queries, k, version)
        if isinstance(allowed, Filter):
            if allowed._shard is not self or allowed.state is not state:
                raise DataError("the filter was built before the shard changed: build it again")
            chosen: Filter | None = allowed
        elif allowed is not None:
            chosen = Filter(self, state, np.asarray(allowed))
        else:
            chosen = Filter(self, state, state.alive) if state.num_dead else None
        num_allowed = len(state.alive) if chosen is None else len(chosen.rows)
        k = min(k, num_allowed)
        if not len(queries) or not k:
            return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
        if self._graph is None or num_allowed * self.dim <= self.settings.exact_values:
            return self._exact(queries, k, chosen, state)
        return self._approximate(queries, k, chosen, state)

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Make vectors findable at once; an id that is here already gets the new vector, under a new row.

        Raises:
            DataError: as for a new shard.
        """
        vectors = _unit(vectors, len(ids), self.dim)
        if len(set(ids)) != len(ids):
            raise DataError("an id comes twice in one call of add: give each entity one vector")
        with self._write:
            old = self._state
            alive = np.concatenate([old.alive, np.ones(len(ids), bool)])
            gone = [row for row in map(self._row.get, ids) if row is not None]
            alive[gone] = False
            first = len(old.alive)
            self.ids.extend(ids)
            self._row.update({entity: first + place for place, entity in enumerate(ids)})
            self._state = _State(np.concatenate([old.fresh, vectors]), alive, old.num_dead + len(gone))

    def remove(self, ids: Sequence[str]) -> int:
        """Stop finding these ids; gives how many were here."""
        with self._write:
            gone = [row for entity in set(ids) if (row := self._row.pop(entity, None)) is not None]
            alive = self._state.alive.copy()
            alive[gone] = False
            self._state = _State(self._state.fresh, alive, self._state.num_dead + len(gone))
        return len(gone)

    def rebuilt(self) -> HotShard:
        """A new shard of the rows that can be found, with a fresh graph; this one answers meanwhile."""
        with self._write:
            state, ids = self._state, list(self.ids)
        rows = np.flatnonzero(state.alive)
        return HotShard([ids[row] for row in rows], self.vectors_of(rows, state), self.settings, self.version)

    def vectors_of(self, rows: np.ndarray, state: _State | None = None) -> np.ndarray:
        """The vectors of `rows`, float32 (len(rows), dim)."""
        state = state or self._state
        if not len(state.fresh):
            return self._base[rows]
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        late = rows >= len(self._base)
        vectors[~late] = self._base[rows[~late]]
        vectors[late] = state.fresh[rows[late] - len(self._base)]
        return vectors

    # ---- the two plans

    def _exact(
        self, queries: np.ndarray, k: int, chosen: Filter | None, state: _State
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every allowed row is scored; blocks of queries bound the memory."""
        num = len(state.alive) if chosen is None else len(chosen.rows)
        block = max(1, SCAN_BYTES // (4 * num))
        found_scores, found_rows = [], []
        for start in range(0, len(queries), block):
            part = queries[start : start + block]
            for query, rough in zip(part, self._rough(part, chosen, state), strict=True):
                places = _near_top(rough, k)
                rows = places if chosen is None else chosen.rows[places]
                scores, best = _ranked(query, self.vectors_of(rows, state), rows, k)
                found_scores.append(scores)
                found_rows.append(best)
        return np.stack(found_scores), np.stack(found_rows)

    def _rough(self, queries: np.ndarray, chosen: Filter | None, state: _State) -> np.ndarray:
        """Single-precision scores of all allowed rows, (queries, allowed)."""
        if chosen is None:
            scores = queries @ self._base.T
            return np.concatenate([scores, queries @ state.fresh.T], axis=1) if len(state.fresh) else scores
        if chosen.is_prepared:
            return queries @ chosen.vectors.T
        scores = np.empty((len(queries), len(chosen.rows)), dtype=np.float32)
        num_early = int(np.searchsorted(chosen.rows, len(self._base)))
        room = np.empty((min(GATHER_ROWS, num_early), self.dim), dtype=np.float32)
        for start in range(0, num_early, GATHER_ROWS):  # gathered and scored while still in the cache
            rows = chosen.rows[start : min(start + GATHER_ROWS, num_early)]
            near = np.take(self._base, rows, axis=0, out=room[: len(rows)], mode="clip")
            scores[:, start : start + len(rows)] = queries @ near.T
        if num_early < len(chosen.rows):
            late = state.fresh[chosen.rows[num_early:] - len(self._base)]
            scores[:, num_early:] = queries @ late.T
        return scores

    def _approximate(
        self, queries: np.ndarray, k: int, chosen: Filter | None, state: _State
    ) -> tuple[np.ndarray, np.ndarray]:
        """The graph's answer joined with the rows that came after it; short answers are scanned exactly."""
        assert self._graph is not None
        parameters: Any = faiss.SearchParametersHNSW  # ty: ignore[missing-attribute]
        options: dict[str, Any] = {"efSearch": max(self.settings.beam, 2 * k)}
        if chosen is not None:
            selector: Any = faiss.IDSelectorBitmap
            options = {"efSearch": max(self.settings.filtered_beam, 2 * k), "sel": selector(chosen.bitmap)}
        _, found = self._graph.search(queries, k, params=parameters(**options))
        late = np.arange(len(self._base), len(state.alive))
        if chosen is not None:
            late = late[chosen.mask[len(self._base) :]]
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for number, query in enumerate(queries):
            candidates = np.concatenate([found[number][found[number] >= 0], late])
            if len(candidates) < k:
                exact = self._exact(query[None], k, chosen, state)
                scores[number], rows[number] = exact[0][0], exact[1][0]
                continue
            vectors = self.vectors_of(candidates, state)
            scores[number], rows[number] = _ranked(query, vectors, candidates, k)
        return scores, rows

    def _build(self) -> faiss.IndexHNSWFlat:
        graph = faiss.IndexHNSWFlat(self.dim, self.settings.neighbors, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = self.settings.build_beam
        graph.add(self._base)
        # The graph keeps its own copy of the vectors; ours becomes a view of it.
        storage: Any = faiss.downcast_index(graph.storage)
        self._base = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * self.dim).reshape(-1, self.dim)
        return graph

    def _check(self, queries: np.ndarray, k: int, version: str | None) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DataError(f"queries must be (rows, {self.dim}), got {queries.shape}")
        if k < 1:
            raise DataError(f"k must be at least 1, got {k}")
        if version is not None and self.version is not None and version != self.version:
            raise DataError(
                f"the query is of version {version!r}, the shard of {self.version!r}: vectors of two "
                "versions cannot be compared, encode the query with the shard's encoder"
            )


def _near_top(rough: np.ndarray, k: int) -> np.ndarray:
    """Places whose rough score may belong to the best k once computed exactly, ties at the edge included."""
    if k >= len(rough):
        return np.arange(len(rough))
    edge = np.partition(rough, len(rough) - k)[len(rough) - k]
    return np.flatnonzero(rough >= edge - SLACK)


def _ranked(
    query: np.ndarray, vectors: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of some candidates by exact score, equal scores by row."""
    scores = np.einsum("nd,d->n", vectors, query.astype(np.float64), dtype=np.float64).astype(np.float32)
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def _unit(vectors: np.ndarray, num: int, dim: int | None = None) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != num or (dim is not None and vectors.shape[1] != dim):
        raise DataError(
            f"{num} ids and vectors of shape {vectors.shape}: give one row of {dim or 'dim'} each"
        )
    length = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(length - 1) < 1e-3))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {num} vectors are not of length one (row {wrong[0]}: {length[wrong[0]]:.4f}): "
            "normalize them before they are searched"
        )
    return vectors
