"""Fashion200K from label files and from tables with pictures inside."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.shop import picture, reasons
from catalog.test_commands import run
from moontide.catalog.check import check
from moontide.catalog.dataset import Dataset
from moontide.catalog.fashion200k import read_fashion200k
from moontide.catalog.intake import WITHOUT_PICTURE, import_offers
from moontide.foundation.errors import DataError, StorageError

TRAIN = """\
women/dresses/casual_and_day_dresses/51/51_1.jpeg\t0.91\tblack fitted dress
women/dresses/casual_and_day_dresses/52/52_0.jpeg\t0.80\tred dress
women/dresses/casual_and_day_dresses/51/51_0.jpeg\t0.95\tblack fitted dress
women/dresses/casual_and_day_dresses/51/51_10.jpeg\t0.55\tblack dress
no tabs here
51_0.jpeg\t0.95\tblack dress
women/dresses/gowns/53/53_0.jpeg\t0.4\t
"""
TEST = """\
men/jackets/blazers_and_suit_jackets/61/61_0.jpeg\t0.93\tgray wool blazer
men/jackets/blazers_and_suit_jackets/52/52_3.jpeg\t0.93\tred dress
men/jackets/blazers_and_suit_jackets/62/62_0.jpeg\t0.93\tnavy blazer
"""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "f200k"
    (root / "labels").mkdir(parents=True)
    (root / "labels" / "dress_train_detect_all.txt").write_text(TRAIN)
    (root / "labels" / "jacket_test_detect_all.txt").write_bytes(TEST.encode() + b"caf\xe9\t0\tx\n")
    for seed, line in enumerate((TRAIN + TEST).splitlines()):
        path = root / line.split("\t")[0]
        if line.count("/") > 2 and "62" not in path.name:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(seed))
    return root


def test_lines_become_products_with_pictures_in_order_and_the_published_sides(folder, tmp_path):
    report = import_offers(read_fashion200k(folder), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    products = {one.product_id: one for one in dataset.products()}
    assert list(products) == ["51", "52", "61", "62"]
    dress = products["51"]
    assert (dress.title, dress.category) == (
        "black fitted dress", ("women", "dresses", "casual and day dresses"),
    )  # fmt: skip
    assert [dataset.images[one] for one in dress.image_ids] == [picture(2), picture(0), picture(3)]
    assert products["61"].category == ("men", "jackets", "blazers and suit jackets")
    sides = {row["product_id"]: row["split"] for row in dataset.table("splits").to_pylist()}
    assert sides == {"51": "train", "52": "train", "61": "test", "62": "test"}
    assert dataset.info["split_rule"] == {"by": "as published"}
    assert report.noted["lines of the label files"] == 11
    assert report.noted["captions that differ from their product's first"] == 1


def test_bad_lines_are_refused_and_a_missing_picture_is_counted(folder, tmp_path):
    report = import_offers(read_fashion200k(folder), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    assert reasons(dataset) == {
        "wrong_field_count": 1, "bad_path": 1, "empty_title": 1, "other_side": 1, "wrong_encoding": 1,
    }  # fmt: skip
    assert reasons(dataset, "images") == {"missing_image": 1}
    assert report.noted[WITHOUT_PICTURE] == 1
    assert check(dataset).errors == []


def test_one_label_file_and_a_folder_of_pictures_can_be_named(folder, tmp_path):
    file = folder / "labels" / "jacket_test_detect_all.txt"
    code, output = run("import", "fashion200k", file, "--images", folder, "--to", tmp_path / "d")
    assert code == 0
    assert "products for test │ 3" in output


def write_card(file, rows):
    names = ["image", "item_ID", "text", "category1", "category2", "category3"]
    kinds = [pa.struct([("bytes", pa.binary()), ("path", pa.string())]), *[pa.string()] * 5]
    columns = [
        pa.array(list(column), kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)
    ]
    pq.write_table(pa.table(columns, names=names), file)


def test_tables_with_pictures_inside_are_imported(tmp_path):
    card = tmp_path / "data"
    card.mkdir()
    levels = ("women", "dresses", None)
    rows = [({"bytes": picture(n), "path": f"{n}.jpg"}, f"i{n}", f"dress {n}", *levels) for n in range(3)]
    write_card(card / "data-00000-of-00002.parquet", rows)
    broken = [
        ({"bytes": b"junk", "path": None}, "i3", "dress 3", *levels),
        ({"bytes": None, "path": None}, "i4", "dress 4", *levels),
        ({"bytes": picture(9), "path": None}, "i0", "twice", *levels),
    ]
    write_card(card / "data-00001-of-00002.parquet", broken)
    report = import_offers(read_fashion200k(card), tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    products = dataset.products()
    assert [one.product_id for one in products] == ["i0", "i1", "i2", "i3", "i4"]
    assert (products[1].title, products[1].category) == ("dress 1", ("women", "dresses"))
    assert dataset.images[products[1].image_ids[0]] == picture(1)
    assert reasons(dataset) == {"duplicate_id": 1}
    assert reasons(dataset, "images") == {"not_an_image": 1, "missing_image": 1}
    assert (report.rows, report.noted[WITHOUT_PICTURE]) == (6, 2)


def test_what_is_neither_layout_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"has no label files .* and no Parquet of the Marqo card"):
        read_fashion200k(tmp_path)
    pq.write_table(pa.table({"item_ID": ["1"], "text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has no image.bytes: it is no table of the Marqo card"):
        read_fashion200k(tmp_path)
    with pytest.raises(StorageError, match="no file or folder at"):
        read_fashion200k(tmp_path / "none")
