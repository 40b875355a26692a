"""MBE as its rows are described: links, paths, five levels, attributes in one text."""

import json
from collections import Counter

import pytest

from catalog.shop import picture, reasons
from catalog.test_commands import run
from moontide.catalog.dataset import Dataset
from moontide.catalog.intake import WITHOUT_PICTURE, import_offers, preview_offers
from moontide.catalog.mbe import read_mbe
from moontide.catalog.properties import WITHOUT_KEY, WITHOUT_VALUE, parse_properties
from moontide.foundation.errors import DataError, StorageError

ROWS = [
    {
        "id": "a1f0", "doc_title": "棉质 T恤 cotton tee", "doc_image": "pics/a1f0.jpg",
        "doc_industry_name": "Apparel", "doc_cate1_name": "Men", "doc_cate2_name": "Tops/Tees",
        "doc_cate3_name": "", "doc_cate4_name": "Short sleeve",
        "doc_attributes": "color:red!!!blue,,size:M,,ratio:1:2,,new",
    },
    {
        "id": "b2e1", "doc_title": "steel mug", "doc_image": "https://img.example/x,y.jpg",
        "doc_industry_name": "Home", "doc_cate1_name": "Kitchen", "doc_cate2_name": None,
        "doc_attributes": "",
    },
    {"id": "c3d2", "doc_title": "  ", "doc_image": "pics/a1f0.jpg"},
    {"id": "a1f0", "doc_title": "again", "doc_image": "pics/a1f0.jpg"},
]  # fmt: skip


@pytest.fixture
def source(tmp_path):
    (tmp_path / "shots" / "pics").mkdir(parents=True)
    (tmp_path / "shots" / "pics" / "a1f0.jpg").write_bytes(picture(1))
    file = tmp_path / "test.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    file.write_text("\n".join([*lines, "{broken"]) + "\n", "utf-8")
    return file


def test_rows_become_products_with_five_levels_and_their_attributes(source, tmp_path):
    report = import_offers(read_mbe(source, tmp_path / "shots"), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    tee, mug = dataset.products()
    assert (tee.product_id, tee.title) == ("a1f0", "棉质 T恤 cotton tee")
    assert tee.category == ("Apparel", "Men", "Tops/Tees", "Short sleeve")
    assert tee.attributes == {"color": ("red", "blue"), "size": ("M",), "ratio": ("1:2",), "new": ()}
    assert dataset.images[tee.image_ids[0]] == picture(1)
    assert (mug.category, mug.attributes) == (("Home", "Kitchen"), {})
    assert (report.rows, report.products, report.images) == (5, 2, 1)
    assert dataset.info["license"] == "Apache-2.0"
    assert sum(report.splits.values()) == 2


def test_a_link_is_not_fetched_and_its_product_stays_and_is_counted(source, tmp_path):
    report = import_offers(read_mbe(source, tmp_path / "shots"), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.products()[1].image_ids == ()
    assert report.noted[WITHOUT_PICTURE] == 1
    assert reasons(dataset, "images") == {"image_is_url": 1}
    assert ("products without a picture", 1) in report.lines()
    assert ("attributes without a value", 1) in report.lines()


def test_bad_rows_are_refused_with_their_reason(source, tmp_path):
    import_offers(read_mbe(source, tmp_path / "shots"), tmp_path / "d")
    assert reasons(Dataset.open(tmp_path / "d")) == {"empty_title": 1, "duplicate_id": 1, "broken_row": 1}


def test_the_parser_of_attributes_takes_the_marks_as_published():
    noted: Counter[str] = Counter()
    assert parse_properties("a:b,,c:d!!!e,,f:g:h", noted) == {"a": ["b"], "c": ["d", "e"], "f": ["g:h"]}
    assert parse_properties("", noted) == parse_properties(None, noted) == {}
    assert not +noted
    assert parse_properties("a,,a:b,,:lost,,a:c!!!b", noted) == {"a": ["b", "c"]}
    assert noted == {WITHOUT_VALUE: 1, WITHOUT_KEY: 1}


def test_a_dry_run_writes_nothing_and_shows_what_would_become_of_a_row(source, tmp_path):
    code, output = run("import", "mbe", source, "--images", tmp_path / "shots", "--dry-run")
    assert code == 0
    assert "row 1 ┃ taken" in output
    assert "row 2 ┃ taken, without 1 pictures: image_is_url" in output
    assert "row 3 ┃ rejected: empty_title" in output
    assert sorted(one.name for one in tmp_path.iterdir()) == ["shots", "test.jsonl"]
    assert len(preview_offers(read_mbe(source))) == 5


def test_all_of_a_test_file_can_be_held_out(source, tmp_path):
    _, output = run(
        "import", "mbe", source, "--images", tmp_path / "shots", "--to", tmp_path / "d", "--test-share", 1
    )
    assert "products for test │ 2" in output
    assert f"Why: {tmp_path / 'd' / 'rejected.parquet'}" in output


def test_another_file_and_a_missing_one_are_one_sentence(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"sku": 1, "doc_title": "x"}\n')
    with pytest.raises(DataError, match=r"other.jsonl has no id: MBE has one JSON object per line"):
        read_mbe(tmp_path / "other.jsonl")
    with pytest.raises(StorageError, match=r"no file at .*none\.jsonl: check the path"):
        read_mbe(tmp_path / "none.jsonl")


def test_a_file_without_a_usable_row_leaves_nothing(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "", "doc_title": "x"}\n{"id": "1", "doc_title": ""}\n')
    with pytest.raises(DataError, match=r"none of the 2 rows .* can be used \(1 missing_id, 1 empty_title\)"):
        import_offers(read_mbe(tmp_path / "bad.jsonl"), tmp_path / "d")
    assert [one.name for one in tmp_path.iterdir()] == ["bad.jsonl"]
