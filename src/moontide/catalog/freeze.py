"""A benchmark frozen from a log: a dataset folder with triplets, a card, and the hash of every file.

    BENCHMARK/
      dataset.json, products, images-*, queries, regions .parquet     a dataset folder: it stands alone
      splits, judgments, augmented .parquet                           divided by product
      triplets/train.parquet, triplets/test.parquet                   query, positive, negative, form, at
      by_category/...                                                 the same four, divided by leaf category
      README.md, manifest.json                                        the card; sha256 of every other file

The log itself, shoppers, campaigns and the hidden truth stay behind. The same dataset gives the same hash.

Paper: MOON2.0 2 and 3.3 (query forms, triplets, enrichment on the training side alone; rules are ours).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.catalog.dataset import IMAGE_ROWS, Dataset, DatasetWriter
from moontide.catalog.exposures import Exposures, Positives, read_exposures
from moontide.catalog.freeze_card import benchmark_card
from moontide.catalog.leaks import Leak, find_leaks
from moontide.catalog.schema import conform
from moontide.catalog.splits import TEST_SHARE, check_share
from moontide.catalog.triplets import SIDES, Division, category_splits, divide
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.progress import track
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_bytes, write_json

FORMAT = 1
MANIFEST = "manifest.json"
BY_CATEGORY = "by_category"


@dataclass
class Benchmark:
    """What was frozen: the hash of all files, the divisions, the leaks looked for, rows by table."""

    sha256: str
    divisions: list[Division]
    leaks: list[Leak]
    rows: dict[str, int]

    def lines(self) -> list[tuple[str, int]]:
        """The sizes for people."""
        counts = list(self.rows.items())
        for division in self.divisions:
            sides = division.judgments.column("source").to_pylist()
            for side in SIDES:
                what = f"{side} by {division.name}"
                counts.append((f"pairs for {what}", sides.count(side)))
                counts.append((f"triplets for {what}", len(division.triplets[side])))
        return counts


def build_benchmark(
    dataset: Dataset, to: Path | str, positives: Positives = "order", replace: bool = False
) -> Benchmark:
    """Freeze the log of a dataset into a benchmark.

    Args:
        positives: the weakest kind of event that makes a pair positive.
        replace: put it in the place of the benchmark at `to`.

    Raises:
        DataError: there is no log, no split, or too few pairs for a side.
        SettingsError: `to` is the dataset itself.
        StorageError: `to` is in use or cannot be written. Nothing is left behind.
    """
    dataset.require("benchmark build", "products", "events", "queries", "splits")
    to = Path(to).resolve()
    if to == dataset.path.resolve():
        raise SettingsError(f"{to} is the dataset itself: name another folder for the benchmark")
    with suppress(InterruptedError), DatasetWriter(to, "check", replace=replace):
        raise InterruptedError  # a taken place is refused before the long work, not after it
    log = read_exposures(dataset, positives)
    divisions = _divisions(dataset, log)
    staged = to.with_name(f".{to.name}.frozen")
    facts = {"split_rule": dataset.info.get("split_rule"), "benchmark": _facts(dataset, positives)}
    try:
        writer = DatasetWriter(
            staged, dataset.info["name"], dataset.info.get("license"), dataset.info.get("source"),
            replace=True, facts=facts,
        )  # fmt: skip
        with writer:
            _write(writer, dataset, log, divisions)
        frozen, forms = Dataset.open(staged), {asked.query_id: asked.form for asked in log.queries}
        leaks = find_leaks(frozen)
        card = benchmark_card(frozen, divisions, forms, leaks)
        write_bytes(staged / "README.md", card.encode())
        total = _write_manifest(staged)
        with new_folder(to, replace) as folder, storage_errors(to):
            for child in sorted(staged.iterdir()):
                child.replace(folder / child.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Benchmark(total, divisions, leaks, dict(frozen.info["rows"]))


def _facts(dataset: Dataset, positives: Positives) -> dict[str, Any]:
    frozen_from = {"name": dataset.info["name"], "fingerprint": dataset.fingerprint()}
    facts = {"format": FORMAT, "positives": positives, "frozen_from": frozen_from}
    return facts | ({"market": dataset.info["market"]} if "market" in dataset.info else {})


def _divisions(dataset: Dataset, log: Exposures) -> list[Division]:
    """By product, and by category where there are two or more."""
    products = dataset.table("products", ["product_id", "category", "image_ids"]).to_pylist()
    leaves = [" > ".join(row["category"] or ()) for row in products]
    facts = dataset.images.facts(("sha256",)).to_pylist()
    digest = {row["image_id"]: row["sha256"] for row in facts}
    photos = [[digest[one] for one in row["image_ids"] or () if one in digest] for row in products]
    share = (dataset.info.get("split_rule") or {}).get("test_share", TEST_SHARE)
    check_share(share)
    splits = dataset.table("splits")
    by_product = divide(log, "product", splits, leaves, photos)
    for side in SIDES:
        if not len(by_product.triplets[side]):
            raise DataError(
                f"no triplet is left for {side}: the log is too short; "
                "try --positives click, or `moontide data split` with another share"
            )
    rows = category_splits(log.product_ids, splits, leaves, share)
    return [by_product, *([divide(log, "category", rows, leaves, photos)] if len(rows) else [])]


def _write(writer: DatasetWriter, dataset: Dataset, log: Exposures, divisions: list[Division]) -> None:
    products = dataset.table("products")
    used = {name for one in divisions for name in one.judgments.column("query_id").to_pylist()}
    queries = _rows(dataset.table("queries"), "query_id", used)
    writer.put("products", products)
    writer.put("queries", queries)
    wanted = {one for ids in products.column("image_ids").to_pylist() for one in ids or ()}
    wanted.update(queries.column("image_id").drop_null().to_pylist())
    for division in divisions:
        augmented = _rows(dataset.table("augmented"), "product_id", set(division.products("train")))
        wanted.update(augmented.column("image_id").drop_null().to_pylist())
        _write_division(writer, division, augmented)
    if dataset.has("regions"):
        writer.put("regions", _rows(dataset.table("regions"), "image_id", wanted))
    _copy_images(writer, dataset, wanted)


def _write_division(writer: DatasetWriter, division: Division, augmented: pa.Table) -> None:
    """Its tables: at the root of the dataset, or in a folder that mirrors it."""
    tables = {"splits": division.splits, "judgments": division.judgments}
    tables |= {"augmented": augmented} if len(augmented) else {}
    folder = writer.folder if division.name == "product" else writer.folder / BY_CATEGORY
    with storage_errors(writer.path):
        (folder / "triplets").mkdir(parents=True)
        for side in SIDES:
            pq.write_table(
                division.triplets[side], folder / "triplets" / f"{side}.parquet", compression="zstd"
            )
        for name, table in tables.items():
            if division.name == "product":
                writer.put(name, table)
            else:
                pq.write_table(conform(name, table), folder / f"{name}.parquet", compression="zstd")


def _rows(table: pa.Table, column: str, wanted: Iterable[str]) -> pa.Table:
    return table.filter(pc.is_in(table.column(column), value_set=pa.array(sorted(wanted), pa.string())))


def _copy_images(writer: DatasetWriter, dataset: Dataset, wanted: set[str]) -> None:
    """Copy the pictures that something here shows, in storage order, a row group in memory."""
    value_set = pa.array(sorted(wanted), pa.string())
    with track(len(wanted), "pictures") as meter:
        for file in dataset.files("images"):
            for batch in pq.ParquetFile(file).iter_batches(IMAGE_ROWS):
                rows = pa.Table.from_batches([batch])
                rows = rows.filter(pc.is_in(rows.column("image_id"), value_set=value_set))
                if len(rows):
                    writer.append("images", rows)
                    meter.step(len(rows))


def _write_manifest(folder: Path) -> str:
    """Write `manifest.json`; gives the hash of all files."""
    sums = file_sums(folder)
    total = hash_of(sums)
    write_json(folder / MANIFEST, {"format": FORMAT, "sha256": total, "files": sums})
    return total


def file_sums(folder: Path) -> dict[str, str]:
    """The sha256 of every file but the manifest, by its path in the folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    sums = {}
    for file in files:
        with file.open("rb") as stream:
            sums[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return sums


def hash_of(sums: dict[str, str]) -> str:
    """One hash of all: of the lines "sha256  path", sorted by path (what `sha256sum` prints)."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass
class Verdict:
    """What a check of a benchmark found; it is sound when nothing but notices is found."""

    sha256: str
    changed: list[str]
    missing: list[str]
    unlisted: list[str]
    is_same_hash: bool
    leaks: list[Leak]

    @property
    def is_sound(self) -> bool:
        """No file differs, and nothing is on both sides."""
        differs = self.changed or self.missing or self.unlisted or not self.is_same_hash
        return not differs and not any(leak.count for leak in self.leaks if leak.is_error)


def check_benchmark(path: Path | str) -> Verdict:
    """Compare every file with the manifest, and look for leaks.

    Raises:
        DataError: there is no benchmark at `path`.
        StorageError: the manifest cannot be read.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise DataError(f"no benchmark at {path}: it has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    noted, here = manifest.get("files", {}), file_sums(path)
    both = noted.keys() & here.keys()
    broken = [name for name in sorted(both) if noted[name] != here[name]]
    missing = sorted(noted.keys() - here.keys())
    leaks = [] if broken or missing else find_leaks(Dataset.open(path))
    return Verdict(
        hash_of(here), broken, missing, sorted(here.keys() - noted.keys()),
        hash_of(noted) == manifest.get("sha256"), leaks,
    )  # fmt: skip
