"""A frozen pair set: labeled pairs, their pictures and how these were made, with the hash of every file.

    SET/
      pairs.parquet          one row a pair, in the order of letters it was frozen in
      images.parquet         the pictures of the pairs, with the columns of a dataset folder
      creatives.parquet      template and parameters of each creative, where the dataset has them
      card.md                what it holds, how it was made, what it is not for
      pairs.json             settings, sizes, what was left out, sha256 of every other file and of all

It stands alone, and the same dataset, counts and settings give the same hash. The log, shoppers and the
hidden truth stay behind. The judge's prompt never takes label, counts or ids from it (`prompt.py`).

Paper: Creative4U 2 and 3.1 (CreativePair; fields reported, folder ours).
"""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.catalog.dataset import IMAGE_ROWS, Dataset, ImageStore
from moontide.catalog.freeze import file_sums, hash_of
from moontide.catalog.schema import SCHEMAS, conform
from moontide.creative.pair_card import pair_card
from moontide.creative.pairs import PairReport, PairSettings
from moontide.creative.records import CreativePair
from moontide.foundation.errors import DataError, ImageError, StorageError
from moontide.foundation.progress import track
from moontide.foundation.settings import fingerprint
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_bytes, write_json

FORMAT = 1
MANIFEST = "pairs.json"
_TEXTS = pa.list_(pa.string())
_QUERIES = pa.list_(pa.struct([("text", pa.string()), ("clicks", pa.int64())]))
_TYPES: dict[str, pa.DataType] = {
    "category": _TEXTS, "queries": _QUERIES, "label_confidence": pa.float64(),
    **dict.fromkeys(("impressions_a", "clicks_a", "impressions_b", "clicks_b"), pa.int64()),
}  # fmt: skip
SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in fields(CreativePair)])


class PairSet:
    """A pair set opened for reading; pictures are read when asked for. Use `PairSet.open`."""

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path, self.info = path, info

    @classmethod
    def open(cls, path: Path | str) -> PairSet:
        """Open the pair set at `path`, and compare every file with its hash.

        Raises:
            DataError: there is none, a newer version wrote it, or a file is not the one that was frozen.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"no pair set at {path}: it has no {MANIFEST}; make one with `moontide creative pairs`"
            )
        info = read_json(path / MANIFEST)
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise DataError(f"{path / MANIFEST} is not of a pair set of format {FORMAT}: make the set again")
        noted, here = info.get("files", {}), _sums(path)
        broken = sorted(name for name in noted.keys() | here.keys() if noted.get(name) != here.get(name))
        if broken:
            raise DataError(
                f"{', '.join(broken)} of {path} changed since the set was frozen: make or fetch the set again"
            )
        if info.get("sha256") != _total(info):
            raise DataError(
                f"the hash in {path / MANIFEST} is not that of its content: make or fetch the set again"
            )
        return cls(path, info)

    @property
    def sha256(self) -> str:
        """The hash of all: of every file, and of settings and sizes."""
        return self.info["sha256"]

    @property
    def settings(self) -> PairSettings:
        """What the pairs were made with."""
        return PairSettings(**self.info["settings"])

    def __len__(self) -> int:
        return len(self._pairs)

    def pairs(self, split: str | None = None) -> list[CreativePair]:
        """The pairs of a split, by id; None: all.

        Raises:
            DataError: there are none of that split.
        """
        found = [pair for pair in self._pairs if split is None or pair.split == split]
        if not found:
            known = ", ".join(sorted({pair.split for pair in self._pairs}))
            raise DataError(f"{self.path} has no pairs for {split}: it has some for {known}")
        return found

    def picture(self, image_id: str) -> bytes:
        """The encoded picture of an image id.

        Raises:
            ImageError: the set has no such picture.
        """
        if image_id not in self._images:
            raise ImageError("missing", f"no picture of {self.path} has the id {image_id!r}: see its pairs")
        return self._images[image_id]

    def params(self, creative_id: str) -> tuple[str, dict[str, str]]:
        """Template and parameters that a creative was made with; ("", {}) where the source told none.

        Raises:
            DataError: no pair of the set has such a creative.
        """
        try:
            return self._params[creative_id]
        except KeyError:
            raise DataError(f"no creative of {self.path} has the id {creative_id!r}: see its pairs") from None

    @cached_property
    def _pairs(self) -> list[CreativePair]:
        return [_pair(row) for row in pq.read_table(self.path / "pairs.parquet").to_pylist()]

    @cached_property
    def _images(self) -> ImageStore:
        return ImageStore([self.path / "images.parquet"])

    @cached_property
    def _params(self) -> dict[str, tuple[str, dict[str, str]]]:
        rows = pq.read_table(self.path / "creatives.parquet").to_pylist()
        return {row["creative_id"]: (row["template"] or "", dict(row["params"] or ())) for row in rows}


def _pair(row: dict[str, Any]) -> CreativePair:
    row["queries"] = tuple((one["text"], one["clicks"]) for one in row["queries"])
    row["category"] = tuple(row["category"])
    return CreativePair(**row)


def write_pair_set(
    to: Path | str, dataset: Dataset, report: PairReport, settings: PairSettings, replace: bool = False
) -> PairSet:
    """Freeze pairs into a folder; it appears whole or not at all.

    Args:
        dataset: where the pairs are from: its pictures and creatives are copied.
        replace: put it in the place of the pair set at `to`.

    Raises:
        DataError: there is no pair; the text says what was left out, and why.
        StorageError: `to` is in use, holds something else, or cannot be written.
    """
    to = Path(to)
    if not report.pairs:
        why = (
            "; ".join(f"{reason}: {num:,}" for reason, num in report.dropped.most_common()) or "no creatives"
        )
        raise DataError(
            f"no pair is left to freeze (left out: {why}): lower --min-impressions or --min-gap, "
            "or give more counts"
        )
    if replace and to.is_dir() and any(to.iterdir()) and not (to / MANIFEST).exists():
        raise StorageError(f"{to} holds something that is no pair set: name another folder")
    with new_folder(to, replace) as folder, storage_errors(to):
        _write_pairs(folder / "pairs.parquet", report.pairs)
        _write_creatives(folder / "creatives.parquet", dataset, report.pairs)
        images = {image for pair in report.pairs for image in (pair.image_a, pair.image_b)}
        _write_pictures(folder / "images.parquet", dataset, images)
        facts = _facts(dataset, report, settings)
        write_bytes(folder / "card.md", pair_card(report, settings, facts["frozen_from"]).encode())
        info = {"format": FORMAT, **facts, "files": _sums(folder)}
        write_json(folder / MANIFEST, {**info, "sha256": _total(info)})
    return PairSet.open(to)


def _facts(dataset: Dataset, report: PairReport, settings: PairSettings) -> dict[str, Any]:
    info = dataset.info
    origin = {name: info.get(name, "unknown") for name in ("name", "source", "license")}
    return {
        "settings": settings.model_dump(mode="json"),
        "rows": {"pairs": len(report.pairs)},
        "dropped": dict(sorted(report.dropped.items())),
        "frozen_from": origin | {"fingerprint": dataset.fingerprint()},
    }


def _write_pairs(path: Path, pairs: list[CreativePair]) -> None:
    rows = [
        asdict(pair) | {"queries": [{"text": text, "clicks": clicks} for text, clicks in pair.queries]}
        for pair in pairs
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


def _write_creatives(path: Path, dataset: Dataset, pairs: list[CreativePair]) -> None:
    """The creatives of the pairs; those that the dataset does not list come without template."""
    mine = {
        creative: {"creative_id": creative, "product_id": pair.product_id, "image_id": image}
        for pair in pairs
        for creative, image in ((pair.creative_a, pair.image_a), (pair.creative_b, pair.image_b))
    }
    known = dataset.table("creatives")
    known = known.filter(pc.is_in(known.column("creative_id"), value_set=pa.array(sorted(mine), pa.string())))
    for row in known.to_pylist():
        mine[row["creative_id"]] |= {"template": row["template"], "params": row["params"]}
    rows = conform("creatives", [mine[name] for name in sorted(mine)])
    pq.write_table(rows, path, compression="zstd")


def _write_pictures(path: Path, dataset: Dataset, wanted: set[str]) -> None:
    """Copy the pictures in storage order, a row group in memory."""
    value_set = pa.array(sorted(wanted), pa.string())
    schema = SCHEMAS["images"]
    with (
        pq.ParquetWriter(path, schema, compression="none") as writer,
        track(len(wanted), "pictures") as meter,
    ):
        for file in dataset.files("images"):
            for batch in pq.ParquetFile(file).iter_batches(IMAGE_ROWS):
                rows = pa.Table.from_batches([batch]).cast(schema)
                rows = rows.filter(pc.is_in(rows.column("image_id"), value_set=value_set))
                if len(rows):
                    writer.write_table(rows, row_group_size=IMAGE_ROWS)
                    meter.step(len(rows))


def _sums(folder: Path) -> dict[str, str]:
    sums = file_sums(folder)
    sums.pop(MANIFEST, None)
    return sums


def _total(info: dict[str, Any]) -> str:
    """The hash of all files, and of what else the manifest says."""
    said = {name: value for name, value in info.items() if name not in ("files", "sha256")}
    return hash_of({**info.get("files", {}), "settings": fingerprint(said)})
