"""What is wrong with a dataset folder, and what looks wrong.

Errors make numbers wrong or stages stop: broken files and references, unreadable pictures, a group on both
sides of the split. Warnings are for a person to judge: duplicates, near-duplicates across the split, rows
without a side.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.catalog.dataset import Dataset
from moontide.catalog.references import broken_references, repeated_keys, without_impression
from moontide.catalog.schema import EVENT_KINDS, REQUIRED, SCHEMAS, SHARDED
from moontide.catalog.splits import HASH_DISTANCE, near_duplicate_groups, normalized_title
from moontide.foundation.device import num_cores
from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.images import image_facts
from moontide.foundation.progress import track

NUM_EXAMPLES = 5
PICTURE_ROWS = 64


@dataclass(frozen=True)
class Finding:
    """One kind of defect: a short key, whether it is an error, how often, a sentence, and some of the ids."""

    kind: str
    is_error: bool
    count: int
    text: str
    examples: tuple[str, ...] = ()


@dataclass
class Findings:
    """All that `check` found, and the row counts of the tables."""

    path: Path
    rows: dict[str, int] = field(default_factory=dict)
    found: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """What must be mended."""
        return [finding for finding in self.found if finding.is_error]

    @property
    def warnings(self) -> list[Finding]:
        """What a person should look at."""
        return [finding for finding in self.found if not finding.is_error]

    def add(
        self, kind: str, ids: Iterable[Any], text: str, is_error: bool = True, count: int | None = None
    ) -> None:
        """Note a defect of `ids`; nothing is noted when there are none."""
        ids = [str(one) for one in ids]
        if ids:
            self.found.append(Finding(kind, is_error, count or len(ids), text, tuple(ids[:NUM_EXAMPLES])))


def check(dataset: Dataset, pictures: bool = True, hash_distance: int | None = HASH_DISTANCE) -> Findings:
    """Look a dataset over: files, columns, keys, references, pictures, duplicates, the split.

    Args:
        pictures: also decode every picture (the slow part).
        hash_distance: bits within which two pictures are alike, for leakage; None: identical ones only.
    """
    findings = Findings(dataset.path)
    tables = _Tables(dataset, findings)
    _check_files(dataset, findings)
    _check_rows(tables, findings)
    for place, ids in repeated_keys(tables.load):
        findings.add("repeated_key", ids, f"{place} repeats ids")
    for place, ids in broken_references(tables.load):
        findings.add("broken_reference", ids, f"{place} names what is not there")
    findings.add(
        "no_impression", without_impression(tables.load), "events whose request_id no impression has"
    )
    if pictures:
        _check_pictures(dataset, tables, findings)
    _check_duplicates(tables, findings, hash_distance)
    return findings


class _Tables:
    """Tables that could be read; each that could not, or whose columns are wrong, is noted once."""

    def __init__(self, dataset: Dataset, findings: Findings):
        self._dataset, self._findings = dataset, findings
        self._good: set[str] = set()
        for name in SCHEMAS:
            files = dataset.files(name)
            verdicts = [self._is_good(name, file, findings) for file in files]  # every file is looked at
            if verdicts and all(verdicts):
                self._good.add(name)
                findings.rows[name] = sum(pq.read_metadata(file).num_rows for file in files)

    def load(self, name: str, columns: list[str]) -> pa.Table | None:
        """Columns of a good table, or None; a table whose values do not fit is noted, and good no more."""
        if name not in self._good:
            return None
        try:
            return self._dataset.table(name, columns)
        except DataError as error:
            self._good.discard(name)
            self._findings.add("wrong_value", [name], str(error))
            return None

    @staticmethod
    def _is_good(name: str, file: Path, findings: Findings) -> bool:
        try:
            schema = pq.read_schema(file)
            pq.read_table(file, columns=[column for column in schema.names if column != "bytes"])
        except (pa.ArrowException, OSError) as error:
            findings.add("broken_file", [file.name], f"cannot be read ({str(error).splitlines()[0]})")
            return False
        wanted = SCHEMAS[name]
        missing = [column for column in wanted.names if column not in schema.names]
        findings.add("missing_column", missing, f"{file.name} lacks columns")
        unknown = [column for column in schema.names if column not in wanted.names]
        findings.add("unknown_column", unknown, f"{file.name} has columns nobody reads", is_error=False)
        wrong = [
            c
            for c in wanted.names
            if c in schema.names and not _casts(schema.field(c).type, wanted.field(c).type)
        ]
        findings.add("wrong_type", wrong, f"{file.name} has columns of another type")
        return not missing and not wrong


def _casts(found: pa.DataType, wanted: pa.DataType) -> bool:
    try:
        pa.array([], found).cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return not (pa.types.is_string(wanted) and not _is_text(found))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _check_files(dataset: Dataset, findings: Findings) -> None:
    noted = dataset.info.get("sha256", {})
    here = {file.relative_to(dataset.path).as_posix(): file for file in dataset.path.rglob("*.parquet")}
    changed = []
    with track(len(here), "files") as meter:
        for name in sorted(noted.keys() & here.keys()):
            with here[name].open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != noted[name]:
                    changed.append(name)
            meter.step()
    findings.add("changed_file", changed, "files differ from their sha256 in dataset.json")
    findings.add("missing_file", sorted(noted.keys() - here.keys()), "files of dataset.json are gone")
    findings.add(
        "unlisted_file", sorted(here.keys() - noted.keys()), "files dataset.json does not list", False
    )
    tables = [
        name
        for name in here
        if "/" not in name and name.removesuffix(".parquet").rsplit("-", 1)[0] not in SHARDED
    ]
    strange = sorted(name for name in tables if name.removesuffix(".parquet") not in SCHEMAS)
    findings.add("unknown_table", strange, "files that are no table of a dataset", False)
    counts = dataset.info.get("rows", {})
    wrong = [name for name, number in findings.rows.items() if number != counts.get(name)]
    findings.add("wrong_count", wrong, "tables whose number of rows is not that of dataset.json")


def _check_rows(tables: _Tables, findings: Findings) -> None:
    for name, columns in REQUIRED.items():
        rows = tables.load(name, list(columns))
        if rows is None or name == "images":  # pictures without bytes are found when they are decoded
            continue
        for column in columns:
            place = pc.indices_nonzero(rows.column(column).is_null()).to_pylist()
            findings.add("empty_value", place, f"{name}.{column} is empty in rows")
    products = tables.load("products", ["product_id", "title", "price_cents"])
    if products is not None:
        blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(products.column("title"), "x")), "")
        findings.add(
            "empty_title", products.filter(blank).column("product_id").to_pylist(), "products without a title"
        )
        below = products.filter(pc.less(products.column("price_cents"), 0))
        findings.add(
            "negative_price", below.column("product_id").to_pylist(), "products with a price below 0"
        )
    queries = tables.load("queries", ["query_id", "text", "image_id"])
    if queries is not None:
        bare = pc.and_(queries.column("text").is_null(), queries.column("image_id").is_null())
        findings.add(
            "empty_query", queries.filter(bare).column("query_id").to_pylist(), "queries that ask nothing"
        )
    events = tables.load("events", ["kind"])
    if events is not None:
        kinds = pc.unique(events.column("kind")).to_pylist()
        findings.add(
            "unknown_kind", [kind for kind in kinds if kind not in EVENT_KINDS], "events of no known kind"
        )


def _check_pictures(dataset: Dataset, tables: _Tables, findings: Findings) -> None:
    if tables.load("images", ["image_id"]) is None:
        return
    refused: dict[str, list[str]] = defaultdict(list)
    differs: list[str] = []
    with track(findings.rows["images"], "pictures") as meter, ThreadPoolExecutor(min(num_cores(), 8)) as pool:
        for batch in _picture_rows(dataset, findings):
            for image_id, reason in pool.map(_picture_problem, batch):
                if reason == "differs":
                    differs.append(image_id)
                elif reason:
                    refused[reason].append(image_id)
            meter.step(len(batch))
    for reason, ids in sorted(refused.items()):
        findings.add("unreadable_image", ids, f"pictures that cannot be used ({reason})")
    findings.add("wrong_facts", differs, "pictures that are not what width, height, sha256 or dhash say")


def _picture_rows(dataset: Dataset, findings: Findings) -> Iterator[list[dict[str, Any]]]:
    for file in dataset.files("images"):
        try:
            for batch in pq.ParquetFile(file).iter_batches(PICTURE_ROWS):
                yield batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            findings.add("broken_file", [file.name], f"cannot be read ({str(error).splitlines()[0]})")


def _picture_problem(row: dict[str, Any]) -> tuple[str, str | None]:
    try:
        facts = vars(image_facts(row["bytes"] or b""))
    except ImageError as error:
        return row["image_id"], error.reason
    return row["image_id"], None if all(row[name] == value for name, value in facts.items()) else "differs"


def _check_duplicates(tables: _Tables, findings: Findings, hash_distance: int | None) -> None:
    products = tables.load("products", ["product_id", "spu_id", "title", "image_ids"])
    if products is None:
        return
    products = products.filter(products.column("product_id").is_valid())  # the others are noted already
    images = tables.load("images", ["image_id", "sha256", "dhash"])
    ids = products.column("product_id").to_pylist()
    titles = _repeated(zip(map(normalized_title, products.column("title").to_pylist()), ids, strict=True))
    findings.add("equal_titles", titles, "groups of products with one title", False)
    if images is not None:
        sums = dict(
            zip(images.column("image_id").to_pylist(), images.column("sha256").to_pylist(), strict=True)
        )
        uses = zip(products.column("image_ids").to_pylist(), ids, strict=True)
        pairs = ((sums.get(image_id), one) for image_ids, one in uses for image_id in image_ids or ())
        findings.add(
            "equal_pictures", _repeated(pairs), "groups of products with an identical picture", False
        )
    splits = tables.load("splits", ["product_id", "group_id", "split"])
    if splits is not None:
        _check_split(products, images, splits, findings, hash_distance)


def _repeated(pairs: Iterable[tuple[str | None, str]]) -> list[str]:
    """The product ids of each key that several products have, as one text a key."""
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for key, product_id in pairs:
        if key:
            groups[key][product_id] = None
    return [
        " = ".join(list(ids)[:3]) + (" = ..." if len(ids) > 3 else "")
        for ids in groups.values()
        if len(ids) > 1
    ]


def _check_split(
    products: pa.Table,
    images: pa.Table | None,
    splits: pa.Table,
    findings: Findings,
    hash_distance: int | None,
) -> None:
    rows = splits.to_pylist()
    side = {row["product_id"]: row["split"] for row in rows}
    wrong = sorted({str(row["split"]) for row in rows} - {"train", "test"})
    findings.add("unknown_split", wrong, "splits other than train and test")
    pairs = [(row["group_id"], row["product_id"]) for row in rows]
    findings.add("divided_group", _divided(pairs, side), "groups on both sides of the split")
    ids = products.column("product_id").to_pylist()
    findings.add("no_split", [one for one in ids if one not in side], "products without a side", False)
    groups = near_duplicate_groups(products, images, hash_distance)
    leaks = _divided(zip(groups, ids, strict=True), side)
    findings.add("leakage", leaks, "near-duplicates in train and test", False)


def _divided(pairs: Iterable[tuple[str, str]], side: dict[str, str]) -> list[str]:
    """For each group with products on both sides, one product of each."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for group, product_id in pairs:
        seen[group].setdefault(side.get(product_id, ""), product_id)
    both = [one for one in seen.values() if "train" in one and "test" in one]
    return [f"{one['train']} (train) ~ {one['test']} (test)" for one in both]
