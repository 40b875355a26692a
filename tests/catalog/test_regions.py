"""Boxes of products: what is refused, which row counts, and the job that looks at every picture."""

import io

import numpy as np
import pytest
from PIL import Image

from moontide.catalog.check import check
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.region_search import find_regions
from moontide.catalog.regions import Regions, Saliency, checked_box, overlap, title_digest
from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.images import image_facts

LAYERS = ((210, 220, 235), (240, 235, 225), (150, 110, 80))  # wall, shelf, floor


def drawn(box, width=80, height=60, grounds=((240, 240, 235),), color=(200, 30, 40)):
    """A rectangle before grounds that lie on top of each other; box in pixels."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for ground, rows in zip(grounds, np.array_split(np.arange(height), len(grounds)), strict=True):
        pixels[rows] = ground
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = color
    return pixels


def encoded(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write(path, products, pictures, regions=(), broken=()):
    """products: id -> (title, image ids); pictures: id -> pixels."""
    with DatasetWriter(path, "drawn") as writer:
        rows = [{"product_id": i, "title": title, "image_ids": ids} for i, (title, ids) in products.items()]
        writer.put("products", rows)
        if regions:
            writer.put("regions", list(regions))
        for image_id, pixels in pictures.items():
            data = encoded(pixels)
            if image_id in broken:
                facts = vars(image_facts(data))
                writer.append("images", [{"image_id": image_id, "bytes": data[: len(data) // 2], **facts}])
            else:
                writer.add_image(image_id, data)
    return Dataset.open(path)


def shop(path, num=6, **options):
    """Products p0, p1, ... with pictures p0-0, p0-1, ...; each shows one rectangle."""
    rng = np.random.default_rng(0)
    products = {f"p{n}": (f"thing {n}", [f"p{n}-0", f"p{n}-1"]) for n in range(num)}
    pictures = {}
    for _, ids in products.values():
        for image_id in ids:
            x0, y0 = (int(edge) for edge in rng.integers(8, 24, 2))
            pictures[image_id] = drawn((x0, y0, x0 + 36, y0 + 26))
    return write(path, products, pictures, **options)


def row(image_id, box, source="finder", title=None, status="ok", version="v1"):
    edges = dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
    digest = None if title is None else title_digest(title)
    named = {"source": source, "title_sha256": digest, "status": status, "version": version}
    return {"image_id": image_id, "score": 0.5, **edges, **named}


class Middle:
    """A finder that says the middle of every picture and writes down what it was asked."""

    def __init__(self, version="middle-1", stop_after=None):
        self.version, self.stop_after = version, stop_after
        self.asked = []

    def find(self, picture, title):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((picture.shape, title))
        return (0.25, 0.25, 0.75, 0.75), 0.5


# --- one box ---


@pytest.mark.parametrize(
    "values",
    [
        (0.5, 0.1, 0.2, 0.6),  # inverted
        (0.1, 0.6, 0.4, 0.2),
        (0.3, 0.3, 0.3, 0.9),  # empty
        (1.2, 0.1, 1.9, 0.6),  # outside: nothing left
        (-0.9, 0.1, -0.1, 0.6),
        (float("nan"), 0.1, 0.5, 0.6),
        (0.1, 0.1, float("inf"), 0.6),
        (0.1, None, 0.5, 0.6),
        (0.1, 0.1, 0.19, 0.19),  # a speck
        (0.0, 0.0, 1.0, 0.99),  # the picture itself
        (0.1, 0.2, 0.3),
        (),
        None,
    ],
)
def test_a_degenerate_box_is_no_box(values):
    assert checked_box(values) is None


def test_a_usable_box_is_clamped_to_the_picture():
    assert checked_box((0.1, 0.1, 0.5, 0.6)) == (0.1, 0.1, 0.5, 0.6)
    assert checked_box(np.array([-3.0, 0.2, 0.5, 7.0])) == (0.0, 0.2, 0.5, 1.0)


def test_whatever_is_given_a_box_lies_in_the_picture_and_has_one_to_98_percent_of_it():
    rng = np.random.default_rng(1)
    kept = [box for values in rng.normal(0.5, 0.6, (2_000, 4)) if (box := checked_box(values))]
    assert len(kept) > 100
    for x0, y0, x1, y1 in kept:
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert 0.01 <= (x1 - x0) * (y1 - y0) <= 0.98


def test_overlap_is_intersection_over_union():
    left, both, none = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0), (0.3, 0.3, 0.3, 0.3)
    assert overlap(left, left) == 1
    assert overlap(left, both) == 0.5
    assert overlap(left, (0.5, 0.0, 1.0, 1.0)) == 0
    assert overlap(none, none) == 0
    assert overlap(np.array([left, both]), np.array([both, both])).tolist() == [0.5, 1]


# --- which row counts ---


def test_boxes_are_shares_of_the_stored_picture(tmp_path):
    dataset = shop(tmp_path / "d", regions=[row("p0-0", (20, 15, 60, 45), title="thing 0")])
    regions = Regions.read(dataset)
    assert regions.box("p0-0", "thing 0") == (0.25, 0.25, 0.75, 0.75)
    assert regions.box("p0-0", "another title") is None
    assert regions.box("p0-1", "thing 0") is None


def test_an_annotation_wins_over_what_was_found_later_and_a_later_row_over_an_earlier_one(tmp_path):
    rows = [
        row("p0-0", (0, 0, 40, 30), "annotation", title="thing 0"),
        row("p0-0", (10, 10, 40, 30), title="thing 0"),
        row("p0-1", (0, 0, 40, 30), title="thing 0"),
        row("p0-1", (0, 0, 80, 30), title="thing 0", version="v2"),
    ]
    regions = Regions.read(shop(tmp_path / "d", regions=rows))
    assert regions.box("p0-0", "thing 0") == (0, 0, 0.5, 0.5)
    assert regions.box("p0-1", "thing 0") == (0, 0, 1, 0.5)
    found = regions.region("p0-1", "thing 0")
    assert found is not None
    assert (found.version, found.source) == ("v2", "finder")


def test_an_annotation_without_a_title_stands_for_every_title(tmp_path):
    rows = [row("p0-0", (0, 0, 40, 30), "annotation"), row("p0-0", (0, 0, 80, 30), title="thing 0")]
    regions = Regions.read(shop(tmp_path / "d", regions=rows))
    assert regions.box("p0-0", "thing 0") == regions.box("p0-0", "whatever") == (0, 0, 0.5, 0.5)


def test_a_fallback_and_a_degenerate_row_have_no_box(tmp_path):
    rows = [
        row("p0-0", (0, 0, 40, 30), title="thing 0", status="fallback"),
        row("p0-1", (40, 0, 0, 30), "annotation", title="thing 0"),
        row("p1-0", (float("nan"), 0, 40, 30), title="thing 1"),
        row("p1-1", (None, None, None, None), title="thing 1"),
        row("not there", (0, 0, 40, 30), title="thing 1"),
    ]
    regions = Regions.read(shop(tmp_path / "d", regions=rows))
    assert [regions.box(i, f"thing {i[1]}") for i in ("p0-0", "p0-1", "p1-0", "p1-1")] == [None] * 4
    assert regions.region("not there", "thing 1") is None


def test_a_dataset_without_regions_has_none(tmp_path):
    regions = Regions.read(shop(tmp_path / "d"))
    assert len(regions) == 0
    assert regions.box("p0-0", "thing 0") is None


# --- the finder without weights ---


@pytest.mark.parametrize("grounds", [((240, 240, 235),), LAYERS, ((20, 20, 30),)])
@pytest.mark.parametrize("size", [(80, 60), (60, 80), (300, 240)])
def test_saliency_finds_what_stands_before_plain_and_layered_grounds(grounds, size):
    width, height = size
    box = (int(0.3 * width), int(0.25 * height), int(0.8 * width), int(0.75 * height))
    found = Saliency().find(drawn(box, width, height, grounds))
    assert found is not None
    true = np.array(box) / (width, height, width, height)
    assert overlap(found[0], true) > 0.85
    assert 0.8 < found[1] <= 1


def test_saliency_takes_the_large_thing_and_leaves_the_small_one_beside_it():
    pixels = drawn((20, 15, 50, 45))
    pixels[4:9, 70:76] = (20, 90, 160)
    found = Saliency().find(pixels)
    assert found is not None
    assert overlap(found[0], (20 / 80, 15 / 60, 50 / 80, 45 / 60)) > 0.8


def test_saliency_finds_nothing_in_a_picture_of_one_color():
    assert Saliency().find(np.full((40, 50, 3), 255, np.uint8)) is None
    assert Saliency().find(np.zeros((4, 900, 3), np.uint8)) is None


# --- the job ---


def test_every_picture_gets_a_row_in_pixels_and_asked_again_nothing_is_done(tmp_path):
    dataset = shop(tmp_path / "d")
    counts = find_regions(dataset, Saliency())
    assert counts.lines() == [("found", 12), ("whole picture", 0), ("known before", 0)]
    table = Dataset.open(tmp_path / "d").table("regions").to_pylist()
    assert {one["image_id"] for one in table} == {f"p{n}-{view}" for n in range(6) for view in (0, 1)}
    assert all(0 <= one["x0"] < one["x1"] <= 80 and 0 <= one["y0"] < one["y1"] <= 60 for one in table)
    again = Middle(Saliency.version)
    assert find_regions(Dataset.open(tmp_path / "d"), again).known == 12
    assert again.asked == []


def test_what_is_added_agrees_with_dataset_json(tmp_path):
    dataset = shop(tmp_path / "d", regions=[row("p0-0", (8, 8, 44, 34), "annotation", title="thing 0")])
    before = dataset.fingerprint()
    find_regions(dataset, Saliency())
    opened = Dataset.open(tmp_path / "d")
    assert check(opened).errors == []
    assert opened.info["rows"]["regions"] == 12
    assert opened.fingerprint() != before


def test_annotated_pictures_are_left_alone_and_their_rows_stay(tmp_path):
    notes = [
        row("p0-0", (8, 8, 44, 34), "annotation", title="thing 0"),
        row("p3-1", (9, 9, 44, 34), "annotation"),
    ]
    dataset = shop(tmp_path / "d", regions=notes)
    finder = Middle()
    assert find_regions(dataset, finder).known == 2
    assert len(finder.asked) == 10
    assert Dataset.open(tmp_path / "d").table("regions").to_pylist()[:2] == notes


def test_another_version_looks_anew_and_loses_no_row(tmp_path):
    dataset = shop(tmp_path / "d")
    find_regions(dataset, Middle("one"))
    find_regions(Dataset.open(tmp_path / "d"), Middle("two"))
    versions = Dataset.open(tmp_path / "d").table("regions").column("version").to_pylist()
    assert versions == ["one"] * 12 + ["two"] * 12


def test_a_job_cut_off_keeps_what_it_found_and_goes_on_to_the_same_end(tmp_path):
    dataset = shop(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        find_regions(dataset, Middle(stop_after=5))
    assert len(Dataset.open(tmp_path / "cut").table("regions")) == 5
    rest = Middle()
    assert find_regions(Dataset.open(tmp_path / "cut"), rest).known == 5
    assert len(rest.asked) == 7
    find_regions(shop(tmp_path / "whole"), Middle())
    assert Dataset.open(tmp_path / "cut").table("regions") == Dataset.open(tmp_path / "whole").table(
        "regions"
    )
    assert check(Dataset.open(tmp_path / "cut")).errors == []


def test_a_broken_picture_and_a_missing_one_are_counted_and_the_others_go_on(tmp_path):
    products = {
        "bare": ("no picture", []),
        "gone": ("lost picture", ["nowhere"]),
        "half": ("half a picture", ["a", "b"]),
        "many": ("", [f"m{n}" for n in range(12)]),
    }
    pictures = {name: drawn((20, 15, 56, 45)) for name in ("a", "b", *(f"m{n}" for n in range(12)))}
    dataset = write(tmp_path / "d", products, pictures, broken=("a",))
    counts = find_regions(dataset, Middle())
    assert (counts.ok, counts.fallback, dict(counts.failed)) == (13, 0, {"not_there": 1, "broken_pixels": 1})
    assert Regions.read(Dataset.open(tmp_path / "d")).box("m11", "") == (0.25, 0.25, 0.75, 0.75)


def test_what_a_finder_cannot_say_falls_back_on_the_whole_picture(tmp_path):
    class Unsure:
        version = "unsure-1"

        def find(self, picture, title):
            if title == "thing 0":
                return None
            if title == "thing 1":
                return (0.5, 0.5, 0.1, 0.1), 0.9
            if title == "thing 2":
                raise ImageError("too_long", "refused")
            return (0.1, 0.1, 0.9, 0.9), 0.9

    counts = find_regions(shop(tmp_path / "d"), Unsure())
    assert (counts.ok, counts.fallback, dict(counts.failed)) == (6, 4, {"too_long": 2})
    opened = Dataset.open(tmp_path / "d")
    first = opened.table("regions").to_pylist()[0]
    assert (first["status"], first["x0"], first["y0"], first["x1"], first["y1"]) == ("fallback", 0, 0, 80, 60)
    assert Regions.read(opened).box("p0-0", "thing 0") is None
    assert find_regions(opened, Middle("unsure-1")).ok == 2  # what failed is tried again


def test_a_picture_of_two_titles_is_looked_at_for_each(tmp_path):
    products = {"a": ("red thing", ["i"]), "b": ("blue thing", ["i", "i"])}
    dataset = write(tmp_path / "d", products, {"i": drawn((20, 15, 56, 45))})
    finder = Middle()
    assert find_regions(dataset, finder).ok == 2
    assert sorted(title for _, title in finder.asked) == ["blue thing", "red thing"]


def test_a_large_picture_is_shrunk_for_the_finder_and_its_row_is_in_stored_pixels(tmp_path):
    dataset = write(
        tmp_path / "d", {"a": ("thing", ["i"])}, {"i": drawn((500, 200, 1500, 800), 2_048, 1_024)}
    )
    finder = Middle()
    find_regions(dataset, finder)
    assert finder.asked == [((512, 1_024, 3), "thing")]
    stored = Dataset.open(tmp_path / "d").table("regions").to_pylist()[0]
    assert [stored[edge] for edge in ("x0", "y0", "x1", "y1")] == [512, 256, 1_536, 768]


def test_a_copy_takes_the_regions_and_the_dataset_stays_as_it_was(tmp_path):
    dataset = shop(tmp_path / "d")
    before = dataset.fingerprint()
    find_regions(dataset, Middle(), tmp_path / "copy")
    assert Dataset.open(tmp_path / "d").fingerprint() == before
    assert not Dataset.open(tmp_path / "d").has("regions")
    assert len(Dataset.open(tmp_path / "copy").table("regions")) == 12
    assert find_regions(dataset, Middle(), tmp_path / "copy").known == 12
    stored, shared = ((tmp_path / name / "images-00000.parquet").stat().st_ino for name in ("d", "copy"))
    assert stored == shared


def test_a_copy_whose_original_has_regions_does_not_change_them(tmp_path):
    dataset = shop(tmp_path / "d", regions=[row("p0-0", (8, 8, 44, 34), "annotation", title="thing 0")])
    find_regions(dataset, Middle(), tmp_path / "copy")
    assert len(Dataset.open(tmp_path / "d").table("regions")) == 1
    assert check(Dataset.open(tmp_path / "d")).errors == check(Dataset.open(tmp_path / "copy")).errors == []


def test_a_folder_that_holds_another_dataset_is_refused(tmp_path):
    shop(tmp_path / "other", num=3)
    with pytest.raises(DataError, match="holds other products than"):
        find_regions(shop(tmp_path / "d"), Middle(), tmp_path / "other")


def test_a_dataset_without_pictures_is_told_what_it_lacks(tmp_path):
    with pytest.raises(DataError, match="finding regions needs images"):
        find_regions(write(tmp_path / "d", {"a": ("thing", [])}, {}), Middle())
