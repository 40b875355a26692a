"""Frozen vectors beside the click model: looked up by code, compared by cosine, never trained.

A table's row is an entity's code in the dataset; the last row, which code -1 finds, is "no vector".
Vectors of one version only may stand in one table: cosines between versions mean nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from moontide.center.int8 import decode_int8, encode_int8
from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.foundation.seeds import stream
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_json
from moontide.ranking.entities import Entities, find_codes
from moontide.ranking.samples import Samples

log = logging.getLogger(__name__)
KINDS = ("product", "query", "creative")
FORMS = ("float16", "float32", "int8")  # of a saved table
Named = tuple[Sequence[str] | pa.Array, np.ndarray]  # ids and their vectors
PIECE_ROWS = 65_536  # ids looked up, and vectors written, at once


class Store(Protocol):
    """Where vectors come from: `center.store.VectorStore`."""

    def get(self, kind: str, ids: list[str], version: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (len(ids), dim) and which of them are there, (len(ids),) bool."""
        ...


@dataclass(frozen=True)
class VectorTable:
    """Unit vectors by code, (entities + 1, dim) with a last row of zeros, and which are there.

    Args:
        stored: float, or int8 codes at the scale 1/127 of Taobao-MM; may be mapped into memory from a file.
        present: (entities + 1,) bool, False for the last.
        version: name of the vectors' version, "" where it is not known.
    """

    stored: np.ndarray
    present: np.ndarray
    version: str = ""

    @classmethod
    def of(cls, vectors: np.ndarray, present: np.ndarray | None = None, version: str = "") -> VectorTable:
        """Bring vectors to unit norm; a zero vector counts as missing. int8 codes stay as they are.

        Raises:
            DataError: vectors that are not finite or not a matrix.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2:
            raise DataError(f"vectors must be (entities, dim), got {vectors.shape}")
        if vectors.dtype == np.int8:
            is_there = vectors.any(axis=1) if present is None else vectors.any(axis=1) & present
            padded = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.int8)])
            padded[:-1][~is_there] = 0
            return cls(padded, np.append(is_there, False), version)
        vectors = vectors.astype(np.float32, copy=False)
        if not np.isfinite(vectors).all():
            raise DataError("some vectors are not finite: embed these entities again")
        norm = np.linalg.norm(vectors, axis=1)
        present = (norm > 0) if present is None else np.asarray(present, dtype=bool) & (norm > 0)
        scaled = np.where(present[:, None], vectors / np.maximum(norm, 1e-12)[:, None], 0)
        padded = np.vstack([scaled, np.zeros((1, vectors.shape[1]), np.float32)])
        return cls(padded.astype(np.float32), np.append(present, False), version)

    @property
    def vectors(self) -> np.ndarray:
        """All of them as floating point; int8 codes are decoded each time, so `take` what you need."""
        return decode_int8(self.stored) if self.stored.dtype == np.int8 else self.stored

    @property
    def dim(self) -> int:
        """Numbers of one vector."""
        return self.stored.shape[1]

    @property
    def coverage(self) -> float:
        """Share of entities that have a vector."""
        return float(self.present[:-1].mean()) if len(self.present) > 1 else 0.0

    def take(self, codes: np.ndarray) -> torch.Tensor:
        """Unit vectors of codes, float32 of shape codes + (dim,), decoded if they are stored as int8.

        A float16 table is given as it is stored, which moves a length by less than 0.001.
        """
        taken = self.stored[codes]
        if taken.dtype == np.int8:
            return torch.from_numpy(decode_int8(taken))
        return torch.from_numpy(np.asarray(taken, dtype=np.float32))

    def save(self, folder: Path, kind: str, form: str | None = None) -> None:
        """Write the table into an existing folder, piece by piece, as KIND.npy and KIND_present.npy."""
        form = form or ("int8" if self.stored.dtype == np.int8 else "float16")
        if form not in FORMS:
            raise SettingsError(f"vectors are saved as {', '.join(FORMS)}, got {form!r}")
        file = folder / f"{kind}.npy"
        written = np.lib.format.open_memmap(file, "w+", np.dtype(form), self.stored.shape)
        for start in range(0, len(self.stored), PIECE_ROWS):
            piece = self.stored[start : start + PIECE_ROWS]
            if form == "int8":
                piece = piece if piece.dtype == np.int8 else encode_int8(piece)
            elif piece.dtype == np.int8:
                piece = decode_int8(piece)
            written[start : start + PIECE_ROWS] = piece
        written.flush()
        np.save(folder / f"{kind}_present.npy", self.present)


@dataclass(frozen=True)
class ContentTable:
    """Frozen vectors of one version, aligned with a dataset's codes.

    Args:
        product: always there. query, creative: None when the version has none of them.
        version: name of the version, for logs and model folders.
        logged: the version as events name it; default `version`. A table derived from one, such as the
            permuted control, keeps it.

    Raises:
        DataError: tables of different widths or versions, for no cosine between them means anything.
    """

    product: VectorTable
    query: VectorTable | None = None
    creative: VectorTable | None = None
    version: str = ""
    logged: str | None = None

    def __post_init__(self) -> None:
        """Check that any two vectors of the table may be compared."""
        if self.logged is None:
            object.__setattr__(self, "logged", self.version)
        tables = {kind: table for kind in KINDS if (table := getattr(self, kind)) is not None}
        for kind, table in tables.items():
            if table.dim != self.product.dim:
                raise DataError(
                    f"{kind} vectors have {table.dim} numbers and product vectors {self.product.dim}: embed "
                    "both with one encoder"
                )
        named = {f"{kind} vectors": table.version for kind, table in tables.items() if table.version}
        named |= {"the table": self.logged} if self.logged else {}
        if len(set(named.values())) > 1:
            found = ", ".join(f"{what} of version {version!r}" for what, version in named.items())
            raise DataError(f"vectors of several versions cannot be compared ({found}): take all from one")

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
    def from_ids(
        cls,
        entities: Entities,
        product: Named,
        query: Named | None = None,
        creative: Named | None = None,
        version: str = "",
    ) -> ContentTable:
        """From vectors that come with ids and without a representation center, as published data does.

        Args:
            entities: whose codes are meant.
            product, query, creative: ids and their (ids, dim) vectors, float, or int8 codes at the scale
                1/127, which stay int8. Ids that the entities lack are passed over.
            version: a name for these vectors.

        Raises:
            DataError: no product is among the ids, an id stands twice, or lengths differ.
        """
        table = _aligned("product", entities.product_ids, product, version)
        if not table.present.any():
            raise DataError("not one product of the dataset is among the ids of the vectors: check the ids")
        others = (("query", entities.query_ids, query), ("creative", entities.creative_ids, creative))
        rest = [None if pair is None else _aligned(kind, ids, pair, version) for kind, ids, pair in others]
        return cls(table, *rest, version=version)

    @classmethod
    def read(cls, store: Store, entities: Entities, version: str | None = None) -> ContentTable:
        """Look the entities' vectors up in a representation center.

        Raises:
            DataError: not one product has a vector of that version.
        """
        if version is None and (active := getattr(store, "active", None)) is not None:
            version = active()  # named once, so that another activation meanwhile mixes nothing
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
            drawn = stream(seed, "random", kind).normal(size=(len(table.stored) - 1, table.dim))
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
        return ContentTable(**tables, version=version, logged=self.logged)

    def save(self, path: Path | str, kind: str | None = None) -> None:
        """Write the table as matrices that are mapped into memory when loaded.

        Args:
            path: folder.
            kind: "float16", "float32" or "int8": a component in steps of 1/127, half of float16's bytes; a
                cosine of two vectors of 128 numbers moves by about 0.002. Default float16; int8 if it is.

        Raises:
            SettingsError: another kind.
        """
        path = Path(path)
        with new_folder(path, replace=True) as folder, storage_errors(path):
            kinds = [name for name in KINDS if getattr(self, name) is not None]
            for name in kinds:
                getattr(self, name).save(folder, name, kind)
            facts = {"version": self.version, "logged": self.logged, "kinds": kinds}
            write_json(folder / "content.json", facts)

    @classmethod
    def load(cls, path: Path | str) -> ContentTable:
        """What `save` wrote, mapped into memory: processes that load the same folder share one copy.

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
        return cls(**tables, version=facts["version"], logged=facts.get("logged"))


def check_versions(samples: Samples, table: ContentTable) -> dict[str, int]:
    """How many impressions were logged with the table's version of the vectors, with others, with none named.

    Training on vectors that shoppers were not served with is sound, for every cosine is taken inside one
    table; but the log's shop chose what to show by other vectors, so it is said.

    Returns:
        {"same": , "other": , "unnamed": } impressions; a warning names the other versions.
    """
    counts = samples.version_counts()
    unnamed = counts.pop("", 0)
    same = counts.pop(table.logged or "", 0)
    if counts:
        others = ", ".join(f"{name!r} ({count:,} impressions)" for name, count in counts.items())
        log.warning("the log was made with vectors of version %s, the table has %r", others, table.version)
    return {"same": same, "other": sum(counts.values()), "unnamed": unnamed}


def _read(store: Store, kind: str, ids: pa.Array, version: str | None) -> VectorTable | None:
    names, pieces = ids.to_pylist(), []
    for start in range(0, len(names), PIECE_ROWS):
        pieces.append(store.get(kind, names[start : start + PIECE_ROWS], version))
    if not pieces:
        return None
    vectors, is_there = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    table = VectorTable.of(vectors, is_there, version or "")
    return table if table.present.any() else None


def _aligned(kind: str, known: pa.Array, given: Named, version: str) -> VectorTable:
    ids, vectors = given
    names = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
    if len(names) != len(vectors):
        raise DataError(f"{len(names):,} {kind} ids came with {len(vectors):,} vectors: one each is needed")
    code = find_codes(names, known)
    place = np.full(len(known), -1)
    place[code[code >= 0]] = np.flatnonzero(code >= 0)
    if (place >= 0).sum() < (code >= 0).sum():
        raise DataError(f"some {kind} id has two vectors: keep one of each")
    rows = np.asarray(vectors)[place] if len(vectors) else np.zeros((len(known), vectors.shape[1]), np.int8)
    return VectorTable.of(rows, place >= 0, version)
