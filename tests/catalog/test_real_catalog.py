"""A real catalog of 4,925 products, in the folder named by MOONTIDE_DATA; skipped where it is unset."""

import os
from pathlib import Path

import pytest

from catalog.shop import imported
from moontide.catalog.check import check

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def fashion() -> Path:
    if "MOONTIDE_DATA" not in os.environ:
        pytest.skip("MOONTIDE_DATA is unset: name the folder of real data")
    folder = Path(os.environ["MOONTIDE_DATA"]) / "fashion_dev"
    if not (folder / "items.parquet").exists():
        pytest.skip(f"{folder} has no items.parquet")
    return folder


def test_a_real_catalog_is_imported_by_guessing_alone(fashion, tmp_path):
    dataset, report = imported(fashion / "items.parquet", tmp_path / "d", fashion / "images.zip")
    assert (report.rows, report.products, report.images) == (4925, 4925, 4925)
    assert not report.rejected
    first = dataset.products()[0]
    assert (first.product_id, first.title) == ("18653", "Fila Men Cush Flex Black Slippers")
    assert first.category == ("Men", "Footwear", "Flip Flops", "Flip Flops")
    assert first.attributes == {
        "color": ("Black",), "season": ("Fall",), "usage": ("Casual",), "year": ("2011",),
    }  # fmt: skip
    assert report.splits["test"] / report.products == pytest.approx(0.2, abs=0.03)
    findings = check(dataset, pictures=False)
    assert findings.errors == []
    assert {one.kind for one in findings.warnings} == {"equal_titles", "equal_pictures"}  # no leakage
