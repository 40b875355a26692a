"""A dataset folder: opened for reading, or written as a whole.

`Dataset` reads; `DatasetWriter` builds the folder under another name and renames it when it is complete, so
that a crash leaves nothing half-written. Closed files never change: a dataset opened over another one
shares its image files by hard link.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moontide.catalog.records import Product, Query, products_of, queries_of
from moontide.catalog.schema import SCHEMA_VERSION, SCHEMAS, SHARDED, conform
from moontide.foundation.errors import DataError, StorageError
from moontide.foundation.images import ImageFacts, image_facts
from moontide.foundation.settings import fingerprint
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_json

IMAGE_ROWS = 256  # rows in a row group: what one random access reads
GROUP_BYTES = 32 << 20  # and at most about so many bytes, for large pictures
SHARD_ROWS = {"images": 8_192, "events": 1_000_000, "vectors": 262_144}
_OPEN = "let simulated shoppers in: `moontide market open --dataset {path} --to MARKET`"
REMEDY = {
    "events": f"import a click log, or {_OPEN}",
    "queries": f"import search queries, or {_OPEN}",
    "splits": "run `moontide data split {path}`",
    "images": "import the catalog again with --images",
}


class Dataset:
    """A dataset folder opened for reading; tables are read when asked for, images one row group at a time.

    Example:
        >>> Dataset.open("no/such/folder")
        Traceback (most recent call last):
        moontide.foundation.errors.DataError: no dataset at no/such/folder: it has no dataset.json
    """

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path, self.info = path, info

    @classmethod
    def open(cls, path: Path | str) -> Dataset:
        """Open the dataset at `path`.

        Raises:
            DataError: there is none, or it was written by a newer version.
        """
        path = Path(path)
        if not (path / "dataset.json").is_file():
            raise DataError(f"no dataset at {path}: it has no dataset.json")
        info = read_json(path / "dataset.json")
        if not isinstance(info, dict):
            raise DataError(f"{path / 'dataset.json'} is not of a dataset: import again")
        if info.get("schema_version") != SCHEMA_VERSION:
            found = info.get("schema_version")
            raise DataError(
                f"{path} has schema version {found!r}, this moontide reads {SCHEMA_VERSION}: import again"
            )
        return cls(path, info)

    def files(self, name: str) -> list[Path]:
        """The Parquet files of table `name`, in order; empty when the dataset lacks it."""
        if name in SHARDED:
            return sorted(self.path.glob(f"{name}-*.parquet"))
        file = self.path / f"{name}.parquet"
        return [file] if file.exists() else []

    def has(self, name: str) -> bool:
        """Whether the dataset has table `name`."""
        return bool(self.files(name))

    def require(self, verb: str, *names: str) -> None:
        """Check that the tables a verb needs are there.

        Raises:
            DataError: one is missing; the text says what the verb lacks and how to get it.
        """
        for name in names:
            if not self.has(name):
                remedy = REMEDY.get(name, "import it first").format(path=self.path)
                raise DataError(f"{verb} needs {name}, which {self.path} lacks: {remedy}")

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Table `name` with all shards joined; an absent optional table gives no rows."""
        files = self.files(name)
        schema = SCHEMAS[name] if columns is None else pa.schema([SCHEMAS[name].field(c) for c in columns])
        if not files:
            return schema.empty_table()
        try:
            return pa.concat_tables(pq.read_table(file, columns=schema.names) for file in files).cast(schema)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"{name} of {self.path} cannot be read ({error}): import the dataset again"
            ) from None

    def products(self) -> list[Product]:
        """All products, as records."""
        return list(products_of(self.table("products")))

    def queries(self) -> list[Query]:
        """All queries, as records."""
        return list(queries_of(self.table("queries")))

    @cached_property
    def images(self) -> ImageStore:
        """The stored pictures, by image id."""
        return ImageStore(self.files("images"))

    def truth(self, name: str) -> pa.Table:
        """A table of `truth/`: for market, studies and tests only.

        Raises:
            DataError: the dataset has no such table (it is not a simulated market).
        """
        file = self.path / "truth" / f"{name}.parquet"
        if not file.exists():
            raise DataError(f"{self.path} has no truth/{name}: only a simulated market has one")
        return pq.read_table(file)

    def fingerprint(self) -> str:
        """Twelve hex digits that change with any closed file, and with files laid beside them by hand.

        What an encoder wrote about the products (`reasoning.parquet`) is a cache and changes nothing: a stage
        that was cut off goes on though its dataset was embedded meanwhile.
        """
        sums = dict(self.info.get("sha256", {}))
        for file in sorted(self.path.glob("*.parquet")):
            if file.name not in sums:
                sums[file.name] = _sha256(file)
        sums.pop("reasoning.parquet", None)
        return fingerprint(sums)


class ImageStore:
    """Random access to image bytes from any thread; row groups are cached, memory stays bounded.

    Raises:
        DataError: a file cannot be read.
    """

    CACHED_BYTES = 256 << 20

    def __init__(self, files: list[Path]):
        self._lock = threading.Lock()
        with _readable(files):
            self._files = [pq.ParquetFile(file) for file in files]
        self._place: dict[str, tuple[int, int, int]] = {}
        self._cache: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._cached_bytes = 0
        for number, file in enumerate(self._files):
            for group in range(file.num_row_groups):
                with _readable(files[number : number + 1]):
                    ids = file.read_row_group(group, columns=["image_id"]).column(0).to_pylist()
                self._place.update((image_id, (number, group, row)) for row, image_id in enumerate(ids))

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __getitem__(self, image_id: str) -> bytes:
        try:
            number, group, row = self._place[image_id]
        except KeyError:
            raise DataError(f"no image has the id {image_id!r}: run `moontide data check`") from None
        with self._lock:
            return self._row_group(number, group)[row].as_py()

    def _row_group(self, number: int, group: int) -> pa.ChunkedArray:
        key = (number, group)
        if key not in self._cache:
            with _readable([]):
                self._cache[key] = self._files[number].read_row_group(group, columns=["bytes"]).column(0)
            self._cached_bytes += self._cache[key].nbytes
            while self._cached_bytes > self.CACHED_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        self._cache.move_to_end(key)
        return self._cache[key]

    def facts(self, columns: Iterable[str] = ("width", "height", "sha256", "dhash")) -> pa.Table:
        """image_id and the named columns of all pictures, without their bytes, in storage order."""
        wanted = ["image_id", *columns]
        if not self._files:
            return SCHEMAS["images"].empty_table().select(wanted)
        with self._lock, _readable([]):
            return pa.concat_tables(file.read(columns=wanted) for file in self._files)


class DatasetWriter(AbstractContextManager):
    """Builds a dataset folder; it appears at `path` when the block ends well, else nothing is left.

    Args:
        path: where the dataset will stand; must be empty or absent unless `replace`.
        name, license, source: go to dataset.json; license and source that are not given are those of `base`.
        base: a dataset whose files are shared (hard-linked); tables written here replace its tables,
            sharded ones are continued. Other entries of its dataset.json stay (split rule, mapping).
        facts: more entries of dataset.json (split rule, market settings).
    """

    def __init__(
        self,
        path: Path | str,
        name: str,
        license: str | None = None,
        source: str | None = None,
        base: Dataset | None = None,
        replace: bool = False,
        facts: dict[str, Any] | None = None,
    ):
        self.path = Path(path)
        self._folder_context = new_folder(self.path, replace)
        self._base = base
        self._buffers: dict[str, list[dict]] = {name: [] for name in ("images", "rejected")}
        self._buffered_bytes = 0
        self.counts: dict[str, int] = {}
        self._writers: dict[str, tuple[pq.ParquetWriter, int]] = {}
        known = {"name": name, "license": "unknown", "source": "", **(base.info if base else {})}
        given = {"license": license, "source": source, **(facts or {})}
        self.info: dict[str, Any] = {**known, **{key: one for key, one in given.items() if one is not None}}
        self.info |= {"name": name, "schema_version": SCHEMA_VERSION}

    def __enter__(self) -> DatasetWriter:
        self._check_replaced()
        self.folder = self._folder_context.__enter__()
        try:
            self._link_base()
        except BaseException as error:
            self._folder_context.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            try:
                self._close()
            except BaseException as closing:
                self._folder_context.__exit__(type(closing), closing, closing.__traceback__)
                raise
        else:
            for writer, _ in self._writers.values():
                with _ignore_broken():
                    writer.close()
        return self._folder_context.__exit__(*error)

    def put(self, name: str, rows: pa.Table | list[dict]) -> None:
        """Write table `name` whole (again: replaces it)."""
        assert name not in (*SHARDED, "rejected")
        table = conform(name, rows)
        with storage_errors(self.path):
            (self.folder / f"{name}.parquet").unlink(missing_ok=True)  # it may be a link to the base's file
            pq.write_table(table, self.folder / f"{name}.parquet", compression="zstd")
        self.counts[name] = len(table)

    def append(self, name: str, rows: pa.Table | list[dict]) -> None:
        """Add rows to a sharded table (images, events, vectors)."""
        assert name in SHARDED
        table = conform(name, rows)
        limit = SHARD_ROWS[name]
        with storage_errors(self.path):
            while len(table):
                writer, used = self._writers.get(name) or (self._new_shard(name), 0)
                piece = table.slice(0, limit - used)
                writer.write_table(piece, row_group_size=IMAGE_ROWS if name == "images" else 131_072)
                table, used = table.slice(len(piece)), used + len(piece)
                self.counts[name] = self.counts.get(name, 0) + len(piece)
                self._writers[name] = (writer, used)
                if used >= limit:
                    self._writers.pop(name)[0].close()

    def add_image(self, image_id: str, data: bytes, facts: ImageFacts | None = None) -> None:
        """Check a picture, and add it; with `facts` it was checked before (by another thread).

        Raises:
            ImageError: it is refused (see `foundation.images`); nothing is added.
        """
        facts = facts or image_facts(data)
        self._buffers["images"].append({"image_id": image_id, "bytes": data, **vars(facts)})
        self._buffered_bytes += len(data)
        if len(self._buffers["images"]) >= IMAGE_ROWS or self._buffered_bytes >= GROUP_BYTES:
            self._flush_images()

    def reject(self, table: str, row: int, entity_id: str | None, reason: str, detail: str = "") -> None:
        """Note a row that is left out: `reason` is a short key, `detail` a sentence."""
        entry = {"table": table, "row": row, "entity_id": entity_id, "reason": reason, "detail": detail}
        self._buffers["rejected"].append(entry)

    def put_truth(self, name: str, table: pa.Table) -> None:
        """Write a table of `truth/` (a simulated market only)."""
        with storage_errors(self.path):
            (self.folder / "truth").mkdir(exist_ok=True)
            (self.folder / "truth" / f"{name}.parquet").unlink(missing_ok=True)
            pq.write_table(table, self.folder / "truth" / f"{name}.parquet", compression="zstd")

    def _check_replaced(self) -> None:
        """`replace` is for datasets: a folder of anything else is never deleted."""
        with storage_errors(self.path):
            is_other = self.path.is_dir() and any(self.path.iterdir())
        if is_other and not (self.path / "dataset.json").exists():
            raise StorageError(f"{self.path} holds something that is no dataset: name another folder")

    def _flush_images(self) -> None:
        rows, self._buffers["images"], self._buffered_bytes = self._buffers["images"], [], 0
        if rows:
            self.append("images", rows)

    def _new_shard(self, name: str) -> pq.ParquetWriter:
        number = len(list(self.folder.glob(f"{name}-*.parquet")))
        compression = "none" if name == "images" else "zstd"  # pictures are compressed already
        return pq.ParquetWriter(
            self.folder / f"{name}-{number:05d}.parquet", SCHEMAS[name], compression=compression
        )

    def _link_base(self) -> None:
        if self._base is None:
            return
        for file in sorted(self._base.path.rglob("*.parquet")):
            target = self.folder / file.relative_to(self._base.path)
            with storage_errors(self.path):
                target.parent.mkdir(exist_ok=True)
                try:
                    os.link(file, target)
                except OSError:  # another disk: links do not reach there
                    shutil.copyfile(file, target)
        self.counts |= self._base.info.get("rows", {})

    def _close(self) -> None:
        self._flush_images()
        for writer, _ in self._writers.values():
            with storage_errors(self.path):
                writer.close()
        if self._buffers["rejected"]:
            rows = conform("rejected", self._buffers["rejected"])
            file = self.folder / "rejected.parquet"
            with storage_errors(self.path):
                file.unlink(missing_ok=True)  # it may be a link to the base's file
                pq.write_table(rows, file)
            self.counts["rejected"] = len(rows)
        files = sorted(self.folder.rglob("*.parquet"))
        self.info["rows"] = dict(sorted(self.counts.items()))
        self.info["sha256"] = {file.relative_to(self.folder).as_posix(): _sha256(file) for file in files}
        write_json(self.folder / "dataset.json", self.info)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _readable(files: list[Path]) -> Generator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        names = ", ".join(map(str, files)) or "a file of pictures"
        raise DataError(f"{names} cannot be read ({error}): import the dataset again") from None


@contextmanager
def _ignore_broken() -> Generator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, StorageError):
        pass
