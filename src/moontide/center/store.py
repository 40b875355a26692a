"""The table of record: every vector under its kind, id and version, in a LanceDB folder.

    CENTER/KIND.lance           entity_id, version, content_hash, vector (fixed-size float32): one table a
    kind CENTER/versions, active.json   see `versions.py`

A version is never mixed with another: every read names one, and one name belongs to one encoder and one
dimension. Search happens in `shard.py`, which is loaded from here; no index over the vectors is built in the
table.
"""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.index import BTree

from moontide.center.versions import VersionBook, checked_version
from moontide.foundation.errors import CheckpointError, DataError, StorageError
from moontide.foundation.storage import storage_errors

log = logging.getLogger(__name__)

KINDS = ("product", "creative", "query")
FEW_IDS = 4_096  # up to here a lookup names its ids in the filter; above, it scans the version once
INDEX_ROWS = 50_000  # from here on `compact` indexes the id and hash columns
MANY = 2**31 - 1  # "no limit": a query without one stops at ten rows


@dataclass(frozen=True)
class StoreStats:
    """Counts of a center: rows by kind and version, bytes on disk and small fragments by kind."""

    active: str | None
    rows: dict[str, dict[str, int]]
    size_bytes: dict[str, int]
    small_fragments: dict[str, int]


class VectorStore:
    """Vectors on disk by kind, id and version. Open with `VectorStore.open`.

    Example:
        >>> import tempfile
        >>> store = VectorStore.open(tempfile.mkdtemp())
        >>> store.upsert("product", ["p1"], "v1", np.ones((1, 4)) / 2, ["hash of p1"])
        >>> store.get("product", ["p1", "p2"], "v1")[1].tolist()
        [True, False]
    """

    def __init__(self, path: Path):
        self.path = path
        # Interval zero: another process's commits are seen by the next read, not at the next restart.
        self._database = lancedb.connect(path, read_consistency_interval=datetime.timedelta(0))
        self._tables: dict[str, Any] = {}
        self._book = VersionBook(path)

    @classmethod
    def open(cls, uri: Path | str, must_exist: bool = False) -> VectorStore:
        """Open the center in the folder `uri`, made at the first write.

        Raises:
            StorageError: `uri` is not a local folder, or cannot be made; with `must_exist`, nothing is there.
        """
        if "://" in str(uri):
            raise StorageError(f"a center is a local folder for now, got {uri}: copy it with your own tools")
        path = Path(uri)
        if must_exist and not (path / "versions").is_dir():
            raise StorageError(f"no vectors at {path}: run `moontide embed` first")
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    # ---- versions

    def versions(self) -> list[str]:
        """The versions that were written, oldest first."""
        return self._book.names()

    def register(self, version: str, dim: int, fingerprint: str | None = None) -> None:
        """Bind a version's name to a dimension and an encoder, before its first vector.

        Raises:
            CheckpointError: the name is bound to another dimension or encoder.
        """
        self._book.register(version, dim, fingerprint)

    def dim(self, version: str) -> int:
        """How many numbers a vector of `version` has."""
        return self._book.facts(version).dim

    def active(self) -> str | None:
        """The version that is served, or None before the first activation."""
        return self._book.active()

    def activate(self, version: str) -> None:
        """Serve `version` from now on, in one atomic step.

        Raises:
            CheckpointError: the center has no such version.
        """
        self._book.activate(version)

    def rollback(self) -> str:
        """Serve the version before the active one again; gives its name.

        Raises:
            CheckpointError: there is none.
        """
        return self._book.rollback()

    def drop(self, version: str) -> None:
        """Delete a version's vectors; the active one and those `rollback` leads to are refused.

        Raises:
            CheckpointError: the version is served, may be rolled back to, or is unknown.
        """
        self._book.facts(version)
        if version in (self.active(), *self._book.previous()):
            raise CheckpointError(f"version {version!r} is served or may be again: activate others first")
        for kind in self.kinds():
            self._table(kind).delete(f"version = {_quoted(version)}")
        self._book.forget(version)

    # ---- vectors

    def kinds(self) -> list[str]:
        """The kinds that have a table."""
        return [name for name in self._database.list_tables().tables if not name.startswith("_")]

    def upsert(
        self,
        kind: str,
        ids: Sequence[str],
        version: str,
        vectors: np.ndarray,
        content_hashes: Sequence[str],
    ) -> None:
        """Write vectors, replacing those of the same kind, id and version; all rows appear at once or none.

        Args:
            kind: "product", "creative", "query", or a name of your own.
            ids: entity ids; of an id that is named twice the last row counts.
            version: one name; a new one is registered with this width.
            vectors: float, (len(ids), dim).
            content_hashes: what each vector was made from; equal hashes mean equal content.

        Raises:
            DataError: lengths differ, a number is not finite, or the kind or version is no usable name.
            CheckpointError: the version, or the table of this kind, has vectors of another dimension.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or not len(ids) == len(vectors) == len(content_hashes):
            raise DataError(
                f"{len(ids)} ids, {len(content_hashes)} hashes and vectors of shape {vectors.shape}: "
                "give one row of each for every entity"
            )
        if not np.isfinite(vectors).all():
            broken = [ids[row] for row in np.flatnonzero(~np.isfinite(vectors).all(1))[:3]]
            raise DataError(
                f"vectors of {', '.join(broken)} are not finite: check the encoder before storing"
            )
        self.register(checked_version(version), vectors.shape[1])
        if not len(ids):
            return
        keep = list({entity: row for row, entity in enumerate(ids)}.values())
        rows = _rows(ids, version, vectors, content_hashes).take(keep)
        table = self._table_for(kind, vectors.shape[1])
        merge = table.merge_insert(["entity_id", "version"])
        merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def get(self, kind: str, ids: Sequence[str], version: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of `ids`, in their order, repeated ids included.

        Args:
            version: one version's name; None is the active one.

        Returns:
            vectors, float32 (len(ids), dim), zeros where there is none; present, bool (len(ids),).

        Raises:
            CheckpointError: the center has no such version, or none is active.
            DataError: several versions were asked for.
        """
        version = self._wanted(version)
        vectors = np.zeros((len(ids), self.dim(version)), dtype=np.float32)
        present = np.zeros(len(ids), dtype=bool)
        asked = pa.array(ids, pa.string())
        for batch in self._batches(kind, version, "entity_id", asked.unique(), ["entity_id", "vector"]):
            place = pc.index_in(asked, batch.column("entity_id"))
            hit = place.is_valid().to_numpy(zero_copy_only=False)
            vectors[hit] = _matrix(batch.column("vector"))[place.drop_null().to_numpy()]
            present |= hit
        return vectors, present

    def hashes(self, kind: str, ids: Sequence[str], version: str) -> dict[str, str]:
        """The content hashes of those `ids` that have a vector."""
        wanted = pa.array(ids, pa.string()).unique()
        found: dict[str, str] = {}
        for batch in self._batches(
            kind, checked_version(version), "entity_id", wanted, ["entity_id", "content_hash"]
        ):
            found.update(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return found

    def find(self, kind: str, content_hashes: Sequence[str], version: str) -> dict[str, np.ndarray]:
        """A vector for each of those `content_hashes` that some entity of the version has."""
        wanted = pa.array(content_hashes, pa.string()).unique()
        found: dict[str, np.ndarray] = {}
        columns = ["content_hash", "vector"]
        for batch in self._batches(kind, checked_version(version), "content_hash", wanted, columns):
            vectors = _matrix(batch.column("vector"))
            for row, content in enumerate(batch.column("content_hash").to_pylist()):
                found.setdefault(content, vectors[row])
        return found

    def iterate(self, kind: str, version: str | None = None, rows: int = 8_192) -> Iterator[pa.RecordBatch]:
        """All vectors of one version, as Arrow batches of entity_id, content_hash and vector.

        Raises:
            CheckpointError: the center has no such version, or none is active.
        """
        version = self._wanted(version)
        if kind not in self.kinds():
            return
        query = self._table(kind).search().where(f"version = {_quoted(version)}")
        query = query.select(["entity_id", "content_hash", "vector"]).limit(MANY)
        yield from query.to_batches(batch_size=rows)

    def load(self, kind: str, version: str | None = None) -> tuple[list[str], np.ndarray]:
        """All ids and vectors of one version, sorted by id, in one array."""
        version = self._wanted(version)
        ids: list[str] = []
        vectors = np.empty((self.count(kind, version), self.dim(version)), dtype=np.float32)
        for batch in self.iterate(kind, version):
            vectors[len(ids) : len(ids) + len(batch)] = _matrix(batch.column("vector"))
            ids += batch.column("entity_id").to_pylist()
        order = np.argsort(np.array(ids, dtype=object), kind="stable") if ids else np.zeros(0, np.int64)
        return [ids[row] for row in order], vectors[order]

    def count(self, kind: str, version: str) -> int:
        """How many entities of `kind` have a vector of `version`."""
        return self._table(kind).count_rows(f"version = {_quoted(version)}") if kind in self.kinds() else 0

    def coverage(self, kind: str, ids: Sequence[str], version: str | None = None) -> float:
        """The share of `ids` with a vector; repeat an id to weigh it, as the impressions of a log do.

        Returns:
            a number in [0, 1]; NaN when there are no ids.
        """
        have = self.hashes(kind, list(dict.fromkeys(ids)), self._wanted(version))
        return sum(entity in have for entity in ids) / len(ids) if len(ids) else float("nan")

    # ---- upkeep

    def compact(self, keep_days: float = 7.0) -> None:
        """Join small fragments, index large tables, and drop states of a table older than `keep_days`.

        LanceDB raises when a tagged state is old enough to be pruned; states since the oldest tag are kept
        instead.
        """
        for kind in self.kinds():
            table = self._table(kind)
            if table.count_rows() >= INDEX_ROWS and not table.list_indices():
                for column in ("entity_id", "content_hash"):
                    table.create_index(column, config=BTree())
            table.optimize(cleanup_older_than=_prune_age(table, datetime.timedelta(days=keep_days)))

    def stats(self) -> StoreStats:
        """Counts of rows, bytes and fragments, and the active version."""
        rows: dict[str, dict[str, int]] = {}
        size_bytes, small = {}, {}
        for kind in self.kinds():
            facts = self._table(kind).stats()
            rows[kind] = {version: self.count(kind, version) for version in self.versions()}
            size_bytes[kind] = facts["total_bytes"]
            small[kind] = facts["fragment_stats"]["num_small_fragments"]
        return StoreStats(self.active(), rows, size_bytes, small)

    # ---- inside

    def _wanted(self, version: str | None) -> str:
        if version is None and (version := self.active()) is None:
            raise CheckpointError(f"no version of {self.path} is active: activate one, or name it")
        return self._book.facts(checked_version(version)).version

    def _table(self, kind: str) -> Any:
        if kind not in self._tables:
            self._tables[kind] = self._database.open_table(kind)
        return self._tables[kind]

    def _table_for(self, kind: str, dim: int) -> Any:
        if not re.fullmatch(r"[a-z][a-z_]{0,49}", kind):
            raise DataError(f"a kind is lower-case letters and underscores, got {kind!r}: rename it")
        if kind not in self.kinds():
            with storage_errors(self.path):
                self._tables[kind] = self._database.create_table(kind, schema=_schema(dim), exist_ok=True)
        table = self._table(kind)
        width = table.schema.field("vector").type.list_size
        if width != dim:
            raise CheckpointError(
                f"the {kind} vectors of {self.path} have {width} numbers, got {dim}: "
                "embed into another center"
            )
        return table

    def _batches(
        self, kind: str, version: str, column: str, wanted: pa.Array, columns: list[str]
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a version whose `column` is one of `wanted`: by a filter for few, else by a scan."""
        if kind not in self.kinds() or not len(wanted):
            return
        where = f"version = {_quoted(version)}"
        if len(wanted) <= FEW_IDS:
            where += f" AND {column} IN ({', '.join(map(_quoted, wanted.to_pylist()))})"
        found = self._table(kind).search().where(where).select(columns).limit(MANY)
        for batch in found.to_batches(batch_size=8_192):
            if len(wanted) > FEW_IDS:
                is_wanted = pc.is_in(batch.column(column), wanted)
                batch = batch.filter(is_wanted)
            if len(batch):
                yield batch


def _schema(dim: int) -> pa.Schema:
    text = pa.string()
    return pa.schema(
        {"entity_id": text, "version": text, "content_hash": text, "vector": pa.list_(pa.float32(), dim)}
    )


def _rows(ids: Sequence[str], version: str, vectors: np.ndarray, content_hashes: Sequence[str]) -> pa.Table:
    schema = _schema(vectors.shape[1])
    columns = [pa.array(list(ids), pa.string()), pa.array([version] * len(ids), pa.string())]
    columns.append(pa.array(list(content_hashes), pa.string()))
    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]))
    return pa.Table.from_arrays(columns, schema=schema)


def _matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _prune_age(table: Any, wanted: datetime.timedelta) -> datetime.timedelta:
    """`wanted`, or a little more than the age of the oldest tagged state if that is longer."""
    tagged = {tag["version"] for tag in table.tags.list().values()}
    if not tagged:
        return wanted
    made = [state["timestamp"] for state in table.list_versions() if state["version"] in tagged]
    oldest = min(made, default=datetime.datetime.now())
    age = datetime.datetime.now(oldest.tzinfo) - oldest + datetime.timedelta(minutes=1)
    return max(wanted, age)
