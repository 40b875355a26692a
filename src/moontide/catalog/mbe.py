"""MBE, the product benchmark published with MOON: JSON lines, one product a line.

    {"id": "a3f0", "doc_title": "...", "doc_image": "https://...", "doc_industry_name": "...",
     "doc_cate1_name": "...", ..., "doc_cate4_name": "...", "doc_attributes": "key:value,,key:value!!!value"}

The category has five levels: industry, then cate1 to cate4. `doc_image` is a link or a path below the folder
of pictures; a link is never fetched, its product stays and is counted as without a picture.

Paper: MOON 2.1 (paper for existence and license, Apache-2.0; names of the fields paper reported; the five
levels ours). The fields of its queries are not known, so queries are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from moontide.catalog.intake import Offers, found, product_of
from moontide.catalog.landing import Landed
from moontide.catalog.pictures import Pictures, open_pictures
from moontide.catalog.properties import parse_properties
from moontide.catalog.rowfiles import RowFile
from moontide.catalog.values import levels_of, text_of
from moontide.foundation.errors import CellError, DataError

LEVELS = ("doc_industry_name", "doc_cate1_name", "doc_cate2_name", "doc_cate3_name", "doc_cate4_name")


def read_mbe(source: Path | str, images: Path | str | None = None) -> Offers:
    """The products of an MBE file.

    Args:
        images: folder or zip that holds the paths of `doc_image`; None: the folder of `source`.

    Raises:
        DataError: the file has no products of this layout.
        StorageError: a path is wrong.
    """
    file = RowFile(source)
    missing = [name for name in ("id", "doc_title") if name not in file.columns]
    if missing:
        raise DataError(f"{file.path} has no {' and no '.join(missing)}: MBE has one JSON object per line")
    pictures = open_pictures(images if images is not None else file.path.absolute().parent)
    noted: Counter[str] = Counter()
    landed = _landed(file, pictures, noted)
    return Offers(file.path, "Apache-2.0", landed, pictures, noted, file.num_rows)


def _landed(file: RowFile, pictures: Pictures, noted: Counter[str]) -> Iterator[Landed]:
    for row in file:
        landed = Landed(row.number, problem=row.problem)
        if not row.problem:
            cells = row.cells
            landed.product_id = text_of(cells.get("id"))
            properties = parse_properties(text_of(cells.get("doc_attributes")), noted)
            try:
                landed.product = product_of(
                    landed.product_id,
                    cells.get("doc_title"),
                    category=list(levels_of([cells.get(level) for level in LEVELS])),
                    attributes=list(properties.items()),
                )
                landed.pictures = found(pictures, cells.get("doc_image"))
            except CellError as error:
                landed.problem = (error.reason, str(error))
        yield landed
