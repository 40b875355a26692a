"""Eight ways in which a row can be broken; each costs that row alone, and is told by its reason."""

import io
from pathlib import Path

import pytest
from PIL import Image

from catalog.shop import imported, picture, reasons, refused, rows, shop, write_pictures, write_table
from moontide.catalog.check import check

NUM = 160
# row (from 1) -> reason; 8 of 160 are 5 %
BROKEN = {
    11: "missing_image", 31: "broken_pixels", 51: "too_many_pixels", 71: "empty_title",
    91: "duplicate_id", 111: "negative_price", 131: "unknown_category", 151: "wrong_encoding",
}  # fmt: skip


def bomb() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (8000, 8000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def broken_shop(tmp_path_factory) -> Path:
    """A shop of which 5 % of the rows are broken, with a list of its categories."""
    folder = tmp_path_factory.mktemp("shop")
    table = rows(NUM)
    write_pictures(folder, [row["sku"] for row in table])
    (folder / "pics" / "p10.jpg").unlink()
    (folder / "pics" / "p30.jpg").write_bytes(picture(30)[:-200])
    (folder / "pics" / "p50.jpg").write_bytes(bomb())
    table[70]["name"] = "  "
    table[90]["sku"] = "p0"
    table[110]["price"] = "-4.00"
    table[130]["category"] = "Weapons"
    table[150]["name"] = "caf@"
    file = write_table(folder / "table.csv", table)
    file.write_bytes(file.read_bytes().replace(b"caf@", "café".encode("latin-1")))
    (folder / "categories.txt").write_text("Home > Kitchen\nHome > Living\n")
    return folder


@pytest.fixture(scope="module")
def landed(broken_shop, tmp_path_factory):
    to = tmp_path_factory.mktemp("to") / "d"
    return imported(broken_shop / "table.csv", to, categories=broken_shop / "categories.txt")


def test_every_broken_row_is_refused_with_its_reason_and_its_place(landed):
    dataset, _ = landed
    found = {row: reason for table, row, _, reason in refused(dataset) if table == "products"}
    assert found == BROKEN


def test_all_other_rows_are_imported(landed):
    dataset, report = landed
    assert (report.rows, report.products, report.images) == (NUM, NUM - 8, NUM - 8)
    assert [one.product_id for one in dataset.products()] == [
        f"p{number}" for number in range(NUM) if number + 1 not in BROKEN
    ]


def test_the_table_of_counts_tells_the_same(landed):
    dataset, report = landed
    counts = dict(report.lines())
    assert counts["rows read"] == NUM == counts["products"] + sum(reasons(dataset).values())
    assert {f"rejected products: {reason}" for reason in BROKEN.values()} <= counts.keys()
    assert counts["rejected images: too_many_pixels"] == 1
    assert counts["products for train"] + counts["products for test"] == NUM - 8
    assert dataset.info["rows"]["rejected"] == sum(report.rejected.values()) == 11


def test_details_are_sentences_with_the_value(landed):
    dataset, _ = landed
    details = {row["row"]: row["detail"] for row in dataset.table("rejected").to_pylist()}
    assert details[71] == "the row has no name"
    assert details[91] == "an earlier row has this id"
    assert details[111] == "the price '-4.00' is below 0"
    assert details[131] == "'Home > Weapons' is not among the given categories"
    assert details[151] == "the row is not utf-8 text: save it so, or give --encoding"
    assert details[11].startswith("no picture is left: no picture at 'pics/p10.jpg' in ")
    assert "has 64,000,000 pixels, more than 40,000,000: shrink it" in details[51]


def test_what_was_imported_is_sound(landed):
    findings = check(landed[0])
    assert findings.found == []


def test_a_path_that_leads_out_costs_its_row(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    source = shop(tmp_path / "shop", 4)
    table = rows(4)
    table[1]["photo"] = "../secret.jpg"
    table[2]["photo"] = str(tmp_path / "secret.jpg")
    table[3]["photo"] = "https://shop.example/p3.jpg"
    dataset, _ = imported(write_table(source, table), tmp_path / "d", source.parent)
    assert [(row, reason) for table, row, _, reason in refused(dataset) if table == "products"] == [
        (2, "unsafe_path"), (3, "unsafe_path"), (4, "image_is_url"),
    ]  # fmt: skip
    assert list(dataset.images) == ["p0-0"]


def test_a_row_without_id_category_picture_or_with_a_bad_date_is_refused(tmp_path):
    source = shop(tmp_path / "shop", 5)
    table = [{**row, "created": "2024-03-25"} for row in rows(5)]
    table[0]["sku"] = ""
    table[1]["department"] = table[1]["category"] = ""
    table[2]["photo"] = ""
    table[3]["created"] = "soon"
    dataset, _ = imported(write_table(source, table), tmp_path / "d")
    assert [reason for _, _, _, reason in refused(dataset)] == [
        "missing_id", "missing_category", "missing_image", "bad_date",
    ]  # fmt: skip
    assert dataset.products()[0].created_at.isoformat() == "2024-03-25T00:00:00+00:00"
