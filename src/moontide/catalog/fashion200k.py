"""Fashion200K in its two published layouts: the label files of its authors, and the tables of the Marqo card.

Label files `labels/*_{train,test}_detect_all.txt` have a line a picture, divided by tabs:

    women/dresses/casual_and_day_dresses/51727804/51727804_0.jpeg   0.93   black fitted dress

that is a path, the score of a garment detector, and a caption. The folder of the picture is the product, the
folders above it are the category, the caption of its first line is the title; pictures are in the order of
their numbers. The set comes divided by the names of the files, and stays so.

The card `Marqo/fashion200k` has Parquet files with `item_ID, image (bytes), text, category1..3`, one row an
item, and no division: groups of near-duplicates are held out.

The license of the set is not stated with either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from moontide.catalog.intake import Offers, found, product_of
from moontide.catalog.landing import MAX_PICTURES, Landed
from moontide.catalog.pictures import Pictures, open_pictures
from moontide.catalog.rowfiles import RowFile
from moontide.catalog.values import text_of
from moontide.foundation.errors import CellError, DataError, ImageError, StorageError

_SIDE = re.compile(r"(?:^|_)(train|test)_")
_NUMBER = re.compile(r"(\d+)\.\w+$")


def read_fashion200k(source: Path | str, images: Path | str | None = None) -> Offers:
    """The products of Fashion200K.

    Args:
        source: one file of either layout, or the folder that holds them (or their folder `labels`).
        images: folder or zip that holds the paths of the label files; None: the folder above the label
            files (they lie in `labels/`). The Marqo tables have their pictures inside.

    Raises:
        DataError: no file is of either layout.
        StorageError: a path is wrong.
    """
    source = Path(source)
    if not source.exists():
        raise StorageError(f"no file or folder at {source}: check the path")
    folder = source / "labels" if (source / "labels").is_dir() else source
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    labels = [file for file in files if file.suffix == ".txt" and _SIDE.search(file.name)]
    tables = [file for file in files if file.suffix == ".parquet"]
    if labels:
        where = images if images is not None else labels[0].absolute().parent.parent
        return _of_labels(source, labels, open_pictures(where))
    if tables:
        return _of_tables(source, tables)
    raise DataError(f"{source} has no label files (*_train_detect_all.txt) and no Parquet of the Marqo card")


def _of_labels(source: Path, files: list[Path], pictures: Pictures) -> Offers:
    """Lines are gathered by product before the first is landed: pictures of one product lie apart."""
    refused: list[Landed] = []
    products: dict[str, tuple[Landed, list[str]]] = {}
    sides: dict[str, str] = {}
    noted: Counter[str] = Counter()
    for number, (file, line) in enumerate(_lines(files), 1):
        side = _SIDE.search(file.name)
        assert side
        try:
            path, caption = _fields(line)
            *levels, product_id, _ = path.split("/")
            if sides.setdefault(product_id, side[1]) != side[1]:
                raise CellError("other_side", f"product {product_id} is in {sides[product_id]} already")
            if product_id not in products:
                category = [level.replace("_", " ") for level in levels]
                product = product_of(product_id, caption, category=category)
                products[product_id] = (Landed(number, product_id, product), [])
            landed, paths = products[product_id]
            noted["captions that differ from their product's first"] += caption != landed.product["title"]
            paths.append(path)
        except CellError as error:
            refused.append(Landed(number, None, problem=(error.reason, f"{file.name}: {error}")))
    landed = _in_order(refused, products, pictures)
    offers = Offers(source, "unknown", landed, pictures, noted, len(refused) + len(products), sides)
    offers.noted["lines of the label files"] = len(refused) + sum(len(each) for _, each in products.values())
    return offers


def _lines(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    for file in files:
        try:
            with file.open("rb") as lines:
                yield from ((file, line) for line in lines if line.strip())
        except OSError as error:
            raise StorageError(f"{file} cannot be read: {error.strerror}") from None


def _fields(line: bytes) -> tuple[str, str]:
    """Path and caption of a line."""
    try:
        cells = line.decode("utf-8").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        raise CellError("wrong_encoding", "the line is not UTF-8 text") from None
    if len(cells) != 3:
        raise CellError("wrong_field_count", f"the line has {len(cells)} fields, not path, score, caption")
    path, caption = cells[0].strip(), text_of(cells[2])
    if len(path.split("/")) < 3:
        raise CellError("bad_path", f"{path!r} has no folder of a product in a category")
    if caption is None:
        raise CellError("empty_title", f"{path} has no caption")
    return path, caption


def _in_order(
    refused: list[Landed], products: dict[str, tuple[Landed, list[str]]], pictures: Pictures
) -> Iterator[Landed]:
    for landed in refused:
        yield landed
    for landed, paths in products.values():
        ordered = sorted(dict.fromkeys(paths), key=_place)[:MAX_PICTURES]
        landed.pictures = [name for path in ordered for name in found(pictures, path)]
        yield landed


def _place(path: str) -> tuple[int, str]:
    number = _NUMBER.search(path)
    return int(number[1]) if number else 0, path


class _Inside:
    """Pictures that came with the rows being read; each is read once, then forgotten."""

    def __init__(self, where: Path):
        self.where = where
        self._data: dict[str, bytes] = {}

    def add(self, name: str, data: bytes) -> str:
        self._data[name] = data
        return name

    def find(self, path: str) -> str:
        return path

    def read(self, name: str) -> bytes:
        return self._data.pop(name)

    def names(self) -> list[str]:
        return list(self._data)


def _of_tables(source: Path, files: list[Path]) -> Offers:
    opened = [RowFile(file) for file in files]
    for file in opened:
        missing = [name for name in ("item_ID", "text", "image.bytes") if name not in file.columns]
        if missing:
            raise DataError(
                f"{file.path} has no {' and no '.join(missing)}: it is no table of the Marqo card"
            )
    pictures = _Inside(source)
    num_rows = sum(file.num_rows or 0 for file in opened)
    return Offers(source, "unknown", _of_rows(opened, pictures), pictures, num_rows=num_rows)


def _of_rows(files: list[RowFile], pictures: _Inside) -> Iterator[Landed]:
    for number, row in enumerate((row for file in files for row in file), 1):
        landed = Landed(number, text_of(row.cells.get("item_ID")))
        levels = [text_of(row.cells.get(f"category{level}")) for level in (1, 2, 3)]
        try:
            category = [level for level in levels if level is not None]
            landed.product = product_of(landed.product_id, row.cells.get("text"), category=category)
            data = row.cells.get("image.bytes")
            missing = ImageError("missing_image", "the row has no picture")
            landed.pictures = [pictures.add(f"row {number}", data) if data else missing]
        except CellError as error:
            landed.problem = (error.reason, str(error))
        yield landed
