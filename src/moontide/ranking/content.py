"""Frozen vectors beside the click model: looked up by code, compared by cosine, never trained.

A table's row is an entity's code in the dataset; the last row, which code -1 finds, is "no vector".
Vectors of one version only may stand in one table: cosines between versions mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.seeds import stream
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_json
from moontide.ranking.entities import Entities

KINDS = ("product", "query", "creative")
PIECE_ROWS = 65_536  # ids looked up at once


class Store(Protocol):
    """Where vectors come from: `center.store.VectorStore`."""

    def get(self, kind: str, ids: list[str], version: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (len(ids), dim) and which of them are there, (len(ids),) bool."""
        ...


@dataclass(frozen=True)
class VectorTable:
    """Unit vectors by code, (entities + 1, dim) with a last row of zeros, and which are there."""

    vectors: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, present: np.ndarray | None = None) -> VectorTable:
        """Bring vectors to unit norm; a zero vector counts as missing.

        Raises:
            DataError: vectors that are not finite or not a matrix.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2:
            raise DataError(f"vectors must be (entities, dim), got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise DataError("some vectors are not finite: embed these entities again")
        norm = np.linalg.norm(vectors, axis=1)
        present = (norm > 0) if present is None else np.asarray(present, dtype=bool) & (norm > 0)
        scaled = np.where(present[:, None], vectors / np.maximum(norm, 1e-12)[:, None], 0)
        padded = np.vstack([scaled, np.zeros((1, vectors.shape[1]), np.float32)])
        return cls(padded.astype(np.float32), np.append(present, False))

    @property
    def dim(self) -> int:
        """Numbers of one vector."""
        return self.vectors.shape[1]

    @property
    def coverage(self) -> float:
        """Share of entities that have a vector."""
        return float(self.present[:-1].mean()) if len(self.present) > 1 else 0.0

    def take(self, codes: np.ndarray) -> torch.Tensor:
        """Vectors of codes, float32 of shape codes + (dim,); works on a memory-mapped float16 table too."""
        return torch.from_numpy(np.asarray(self.vectors[codes], dtype=np.float32))


@dataclass(frozen=True)
class ContentTable:
    """Frozen vectors of one version, aligned with a dataset's codes.

    Args:
        product: always there. query, creative: None when the version has none of them.
        version: name of the version, for logs and model folders.
    """

    product: VectorTable
    query: VectorTable | None = None
    creative: VectorTable | None = None
    version: str = ""

    @classmethod
    def of(
        cls,
        product: np.ndarray,
        query: np.ndarray | None = None,
        creative: np.ndarray | None = None,
        version: str = "",
    ) -> ContentTable:
        """From matrices in the order of codes; zero rows are missing vectors."""
        tables = [None if matrix is None else VectorTable.of(matrix) for matrix in (product, query, creative)]
        assert tables[0] is not None
        return cls(tables[0], tables[1], tables[2], version)

    @classmethod
    def read(cls, store: Store, entities: Entities, version: str | None = None) -> ContentTable:
        """Look the entities' vectors up in a representation center.

        Raises:
            DataError: not one product has a vector of that version.
        """
        ids = {
            "product": entities.product_ids,
            "query": entities.query_ids,
            "creative": entities.creative_ids,
        }
        tables = {kind: _read(store, kind, column, version) for kind, column in ids.items()}
        product = tables["product"]
        if product is None:
            raise DataError(f"no product has a vector of version {version or 'active'}: run `moontide embed`")
        return cls(product, tables["query"], tables["creative"], version or "")

    def permuted(self, seed: int = 0) -> ContentTable:
        """Control: the same vectors dealt to other entities of the same kind; content must stop helping."""

        def deal(kind: str, table: VectorTable | None) -> VectorTable | None:
            if table is None:
                return None
            rows, vectors = np.flatnonzero(table.present), np.array(table.vectors, dtype=np.float32)
            vectors[rows] = vectors[stream(seed, "permuted", kind).permutation(rows)]
            return VectorTable(vectors, table.present)

        return self._each(deal, f"{self.version} permuted")

    def random(self, seed: int = 0) -> ContentTable:
        """Control: a random direction for each entity that has a vector."""

        def draw(kind: str, table: VectorTable | None) -> VectorTable | None:
            if table is None:
                return None
            drawn = stream(seed, "random", kind).normal(size=table.vectors[:-1].shape)
            return VectorTable.of(drawn, table.present[:-1])

        return self._each(draw, f"{self.version} random")

    def truncated(self, dim: int) -> ContentTable:
        """The first `dim` numbers of each vector, brought to unit norm again: nested widths."""

        def cut(kind: str, table: VectorTable | None) -> VectorTable | None:
            return None if table is None else VectorTable.of(table.vectors[:-1, :dim], table.present[:-1])

        return self._each(cut, f"{self.version} first {dim}")

    def centered(self) -> ContentTable:
        """The mean product vector taken from every vector: spreads cosines of a narrow cone over tiers."""
        kept = self.product.vectors[:-1][self.product.present[:-1]]
        mean = kept.mean(0) if len(kept) else 0.0

        def shift(kind: str, table: VectorTable | None) -> VectorTable | None:
            return None if table is None else VectorTable.of(table.vectors[:-1] - mean, table.present[:-1])

        return self._each(shift, f"{self.version} centered")

    def _each(self, change, version: str) -> ContentTable:
        tables = {kind: change(kind, getattr(self, kind)) for kind in KINDS}
        return ContentTable(**tables, version=version)

    def save(self, path: Path | str) -> None:
        """Write the table as float16 matrices that can be memory-mapped."""
        path = Path(path)
        with new_folder(path, replace=True) as folder, storage_errors(path):
            kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
            for kind in kinds:
                np.save(folder / f"{kind}.npy", getattr(self, kind).vectors.astype(np.float16))
                np.save(folder / f"{kind}_present.npy", getattr(self, kind).present)
            write_json(folder / "content.json", {"version": self.version, "kinds": kinds})

    @classmethod
    def load(cls, path: Path | str) -> ContentTable:
        """What `save` wrote, memory-mapped; float16 moves a cosine by at most about 0.001.

        Raises:
            CheckpointError: nothing is there.
        """
        path = Path(path)
        if not (path / "content.json").is_file():
            raise CheckpointError(f"no content table at {path}: save one first")
        facts: Mapping = read_json(path / "content.json")
        tables = {
            kind: VectorTable(
                np.load(path / f"{kind}.npy", mmap_mode="r"), np.load(path / f"{kind}_present.npy")
            )
            for kind in facts["kinds"]
        }
        return cls(**tables, version=facts["version"])


def _read(store: Store, kind: str, ids: pa.Array, version: str | None) -> VectorTable | None:
    names, pieces = ids.to_pylist(), []
    for start in range(0, len(names), PIECE_ROWS):
        pieces.append(store.get(kind, names[start : start + PIECE_ROWS], version))
    if not pieces:
        return None
    table = VectorTable.of(np.concatenate([p[0] for p in pieces]), np.concatenate([p[1] for p in pieces]))
    return table if table.present.any() else None
