"""The picture sheet: the right pictures in the right places."""

import numpy as np
import pytest
from PIL import Image

from catalog.shop import imported, picture, rows, shop, write_table
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.sheet import GAP, LABEL, write_sheet
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.images import decode, image_facts

SIDE = 24


def tile(sheet: Image.Image, place: int, columns: int) -> np.ndarray:
    row, column = divmod(place, columns)
    left, top = GAP + column * (SIDE + GAP), GAP + row * (SIDE + LABEL + GAP)
    return np.asarray(sheet.convert("RGB").crop((left, top, left + SIDE, top + SIDE)), dtype=int)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("sheet")
    return imported(shop(folder / "shop", 7), folder / "d")[0]


def test_every_picture_stands_in_its_place(dataset, tmp_path):
    assert write_sheet(dataset, tmp_path / "a.png", columns=3, side=SIDE) == 7
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (3 * (SIDE + GAP) + GAP, 3 * (SIDE + LABEL + GAP) + GAP)
        for place in range(7):
            np.testing.assert_array_equal(tile(sheet, place, 3), np.asarray(decode(picture(place))))


def test_fewer_pictures_are_spread_over_the_catalog(dataset, tmp_path):
    assert write_sheet(dataset, tmp_path / "a.png", num=2, side=SIDE) == 2
    with Image.open(tmp_path / "a.png") as sheet:
        np.testing.assert_array_equal(tile(sheet, 1, 2), np.asarray(decode(picture(3))))


def test_a_wide_picture_keeps_its_proportions_on_gray(tmp_path, dataset):
    wide = decode(picture(1)).resize((48, 24))
    wide.save(tmp_path / "wide.png")
    data = (tmp_path / "wide.png").read_bytes()
    with DatasetWriter(tmp_path / "d", "wide") as writer:
        writer.add_image("i", data)
        writer.put("products", [{"product_id": "a", "title": "x", "image_ids": ["i"]}])
    write_sheet(Dataset.open(tmp_path / "d"), tmp_path / "a.png", side=SIDE)
    with Image.open(tmp_path / "a.png") as sheet:
        shown = tile(sheet, 0, 1)
    assert (shown[:5] == 0xEE).all()
    assert (shown[-5:] == 0xEE).all()
    assert not (shown[12] == 0xEE).all()


def test_a_picture_that_cannot_be_read_is_a_red_cross(tmp_path):
    with DatasetWriter(tmp_path / "d", "broken") as writer:
        writer.add_image("i", b"junk", image_facts(picture(1)))
        writer.put("products", [{"product_id": "a", "title": "x", "image_ids": ["i"]}])
    write_sheet(Dataset.open(tmp_path / "d"), tmp_path / "a.png", side=SIDE)
    with Image.open(tmp_path / "a.png") as sheet:
        assert tile(sheet, 0, 1)[12, 12].tolist() == [255, 0, 0]


def test_a_jpeg_may_be_asked_for_and_other_endings_are_refused(dataset, tmp_path):
    write_sheet(dataset, tmp_path / "a.jpg", num=1)
    with Image.open(tmp_path / "a.jpg") as sheet:
        assert sheet.format == "JPEG"
    with pytest.raises(SettingsError, match=r"a sheet is a .png or .jpg file, got 'a.gif'"):
        write_sheet(dataset, tmp_path / "a.gif")
    with pytest.raises(SettingsError, match="num, columns and side must be above 0, got 0, 8 and 112"):
        write_sheet(dataset, tmp_path / "a.png", num=0)


def test_a_catalog_without_pictures_has_no_sheet(tmp_path):
    bare, _ = imported(write_table(tmp_path / "t.csv", rows(2)), tmp_path / "d")
    with pytest.raises(
        DataError, match=r"a sheet needs images, which .* lacks: import the catalog again with --"
    ):
        write_sheet(bare, tmp_path / "a.png")
    with DatasetWriter(tmp_path / "unused", "unused") as writer:
        writer.add_image("i", picture(1))
        writer.put("products", [{"product_id": "a", "title": "x"}])
    with pytest.raises(
        DataError, match=r"no product of .*unused has a picture: import the catalog again with"
    ):
        write_sheet(Dataset.open(tmp_path / "unused"), tmp_path / "a.png")
