"""Enriched titles are gated, the least consistent are found, pictures are composed within their bounds."""

import numpy as np
import pytest

from moontide.catalog.augment import Augmented, accepts, lowest
from moontide.catalog.compose import Composer, cut_out
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.entities import Gazetteer

NAMES = Gazetteer(
    [
        ("Acme", "brand", None),
        ("Zenit", "brand", None),
        ("red", "attribute", "color"),
        ("256GB", "attribute", "storage"),
        ("X100", "attribute", "model"),
        ("chair", "category", None),
    ]
)


def verdict(title: str, title_plus: str, description: str = "") -> str | None:
    return accepts(title, title_plus, NAMES.find, NAMES.identities, description)


def test_a_title_that_keeps_its_entities_and_adds_a_value_is_accepted():
    assert verdict("Acme chair", "Acme chair, red, 256GB, 500 ml, 40cm") is None
    assert verdict("Acme chair", "red CHAIR by acme") is None


def test_a_lost_entity_is_refused():
    assert verdict("red Acme chair", "Acme chair") == "lost_entity"
    assert verdict("red Acme chair", "bored Acme chair") == "lost_entity"


def test_a_new_brand_or_model_is_refused_unless_the_description_has_it():
    assert verdict("chair", "Zenit chair") == "new_brand"
    assert verdict("chair", "Zenit chair", "made by ZENIT") is None
    assert verdict("chair", "chair X100") == "new_brand"
    assert verdict("chair", "chair X200") == "new_model"
    assert verdict("chair", "chair 15") == "new_model"
    assert verdict("chair X200", "red chair X200") is None


def test_more_than_sixty_words_are_refused_and_characters_of_chinese_are_words():
    assert verdict("chair", " ".join(["chair"] * 60)) is None
    assert verdict("chair", " ".join(["chair"] * 61)) == "too_long"
    assert verdict("\u6905", "\u6905" * 61) == "too_long"


def brute_force(scores, products, paths, share):
    """`lowest`, from the leaves up, by plain loops."""
    path = dict(enumerate(paths))
    is_low = set()
    for depth in (2, 1, 0):
        for group in sorted({own for own in path.values() if len(own) == depth}):
            rows = [row for row in sorted(path) if path[row] == group]
            if depth and len({products[row] for row in rows}) < 7:
                path.update(dict.fromkeys(rows, group[:-1]))
            else:
                is_low.update(sorted(rows, key=lambda row: scores[row])[: int(share * len(rows) + 1e-9)])
    return [row in is_low for row in range(len(scores))]


def test_the_lowest_are_found_per_leaf_and_per_parent_where_a_leaf_is_small():
    rng = np.random.default_rng(0)
    leaves = [("a", "x")] * 20 + [("a", "y")] * 5 + [("a", "z")] * 4 + [("b", "x")] * 3
    scores = rng.random(32)
    products = [f"p{n}" for n in range(32)]
    marked = lowest(scores, products, leaves, 0.15)
    assert [marked[:20].sum(), marked[20:29].sum(), marked[29:].sum()] == [3, 1, 0]
    assert marked.tolist() == brute_force(scores, products, leaves, 0.15)


def test_no_score_is_never_low_and_no_rows_are_no_error():
    scores = np.array([np.nan] * 3 + [0.5] * 7)
    marked = lowest(scores, [f"p{n}" for n in range(10)], [("a",)] * 10, 0.15)
    assert marked.tolist() == [False] * 3 + [True] + [False] * 6
    assert lowest(np.zeros(0), [], []).tolist() == []


def test_only_accepted_rows_are_mapped_main_picture_first(tmp_path):
    def row(kind, value, accepted=True, reason=None, product="p"):
        column = "title" if kind == "title" else "image_id"
        return {"product_id": product, "kind": kind, column: value, "accepted": accepted, "reason": reason}

    rows = [
        row("context", "i+c1"),
        row("main", "i+m"),
        row("context", "i+c2", False, "low_consistency"),
        row("title", "red chair"),
        row("title", "Zenit chair", False, "new_brand", "q"),
        row("main", "j+m", product="r"),
    ]
    with DatasetWriter(tmp_path / "d", "d") as writer:
        writer.put("augmented", rows)
    augmented = Augmented.read(Dataset.open(tmp_path / "d"))
    assert augmented.as_mapping() == {"p": ("red chair", ("i+m", "i+c1")), "r": (None, ("j+m",))}
    assert augmented.counts()["title", "new_brand"] == 1


def test_a_dataset_without_augmentation_gives_an_empty_mapping(tmp_path):
    with DatasetWriter(tmp_path / "d", "d"):
        pass
    assert Augmented.read(Dataset.open(tmp_path / "d")).as_mapping() == {}


def scene(side: int = 64) -> np.ndarray:
    """A red square with a white hole on white ground, and a blue blot in a corner."""
    pixels = np.full((side, side, 3), 250, np.uint8)
    pixels[20:44, 20:44] = (200, 20, 20)
    pixels[28:36, 28:36] = 250
    pixels[2:10, 50:60] = (20, 20, 200)
    return pixels


BOX = (18 / 64, 18 / 64, 46 / 64, 46 / 64)


def test_the_cut_out_keeps_the_subject_with_its_holes_and_drops_what_is_outside():
    pixels = scene()
    cut = Composer().main(pixels, BOX)
    assert (cut[2:10, 50:60] == 250).all()
    assert (cut[23:41, 23:41] == pixels[23:41, 23:41]).all()
    assert cut_out(pixels, BOX).alpha[32, 32] == 1


def test_before_a_busy_ground_or_without_a_subject_the_box_is_the_subject():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for pixels in (noise, np.full((64, 64, 3), 90, np.uint8)):
        alpha = cut_out(pixels, BOX).alpha
        assert alpha[22:42, 22:42].mean() > 0.8
        assert not alpha[:18].any()


def test_contexts_show_the_subject_before_something_else_and_are_a_function_of_seed_and_number():
    pixels = scene()
    composer = Composer(3, [np.full((8, 8, 3), (0, 90, 0), np.uint8)])
    first = [composer.context(pixels, BOX, number) for number in (1, 2, 3)]
    again = [Composer(3, composer._backdrops).context(pixels, BOX, number) for number in (3, 2, 1)][::-1]
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert not (first[0] == first[1]).all()
    assert not (first[1] == first[2]).all()
    assert not (Composer(4).context(pixels, BOX, 1) == Composer(3).context(pixels, BOX, 1)).all()
    for one in first:
        assert one.shape == pixels.shape
        assert one.dtype == np.uint8
        is_red = (one[..., 0] > 140) & (one[..., 1] < 80)
        assert 0.1 < is_red.mean() < 0.9
        assert not (one.min(2) > 245).all(-1).any()


@pytest.mark.parametrize("shape", [(4, 4), (5, 90), (90, 5)])
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.99, 0.99, 1.0, 1.0), (0.4, 0.4, 0.41, 0.9)])
def test_odd_pictures_and_boxes_are_no_error(shape, box):
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    composer = Composer()
    main = composer.main(pixels, box)
    assert main.shape == composer.context(main, box, 1).shape == pixels.shape
