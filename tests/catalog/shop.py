"""A small shop: distinct little pictures, its table in any format, and shorthands for what was imported."""

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from moontide.catalog.dataset import Dataset
from moontide.catalog.landing import plan_import
from moontide.catalog.tables import ImportReport, import_table

COLORS = ("red", "blue", "green")


def picture(seed: int, side: int = 24, kind: str = "JPEG") -> bytes:
    """A picture like no other: blocks of random gray."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 6))
    stream = io.BytesIO()
    image = Image.fromarray(np.kron(blocks, np.ones((side // 6, side // 6))).astype(np.uint8)).convert("RGB")
    image.save(stream, kind)
    return stream.getvalue()


WORDS = ["lamp", "mug", "chair", "table", "shelf", "sofa", "bowl", "vase", "clock", "mirror", "rug", "stool"]
KINDS = ["oak", "steel", "linen", "glass", "cotton", "walnut", "marble", "bamboo", "leather", "copper"]


def rows(num: int) -> list[dict[str, Any]]:
    """The table of the shop: titles, categories and prices that no two rows share by chance."""
    return [
        {
            "sku": f"p{number}",
            "name": f"{KINDS[number // 12 % 10]} {WORDS[number % 12]} {'abcdefgh'[number // 120]}",
            "department": "Home",
            "category": ("Kitchen", "Living")[number % 2],
            "brand": f"Brand {number % 5}",
            "price": f"{number + 1}.50",
            "colour": COLORS[number % 3],
            "photo": f"pics/p{number}.jpg",
        }
        for number in range(num)
    ]


def write_pictures(folder: Path, ids: Iterable[str]) -> Path:
    """`FOLDER/pics/ID.jpg` for each id."""
    (folder / "pics").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(ids):
        (folder / "pics" / f"{name}.jpg").write_bytes(picture(number))
    return folder


def zipped(folder: Path, file: Path, prefix: str = "") -> Path:
    """The files of a folder as a zip."""
    with zipfile.ZipFile(file, "w") as archive:
        for one in sorted(folder.rglob("*")):
            if one.is_file():
                archive.write(one, prefix + one.relative_to(folder).as_posix())
    return file


def write_table(file: Path, table: list[dict[str, Any]]) -> Path:
    """Rows as CSV, TSV, JSON lines or Parquet, by the ending of `file`."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            mark = "\t" if file.suffix == ".tsv" else ","
            writer = csv.DictWriter(stream, list(table[0]), delimiter=mark)
            writer.writeheader()
            writer.writerows(table)
    return file


def shop(folder: Path, num: int = 6, ending: str = ".csv") -> Path:
    """The table of a shop of `num` products, with its pictures beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = rows(num)
    write_pictures(folder, (row["sku"] for row in table))
    return write_table(folder / f"table{ending}", table)


def imported(
    source: Path, to: Path, images: Path | None = None, **options: Any
) -> tuple[Dataset, ImportReport]:
    """Plan and import in one step; options of `import_table` and of `plan_import`."""
    names = ("given", "guesses", "categories", "encoding")
    plan = plan_import(source, images, **{name: options.pop(name) for name in names if name in options})
    report = import_table(plan, to, **options)
    return Dataset.open(to), report


def refused(dataset: Dataset) -> list[tuple[str, int, str | None, str]]:
    """Table, row, id and reason of all that was refused."""
    table = dataset.table("rejected").to_pylist()
    return [(row["table"], row["row"], row["entity_id"], row["reason"]) for row in table]


def reasons(dataset: Dataset, table: str = "products") -> Counter[str]:
    """How often each reason was given for rows of a table."""
    return Counter(reason for name, _, _, reason in refused(dataset) if name == table)
