"""Pictures of the simulated shop: what is drawn, where it stands, and that chance is the seed's alone."""

import io
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from PIL import Image

from moontide.market.render import creatives, raster, shots
from moontide.market.render.cutout import cut_out
from moontide.market.render.looks import CATEGORIES, COLORS, Look, sample_look
from moontide.market.render.objects import OBJECTS, draw
from moontide.market.render.placement import document, place
from moontide.market.render.raster import rasterize
from moontide.market.render.scenery import SCENES

SIDE = 112
SHOTS = (shots.studio_shot, shots.scene_shot, shots.other_shot, shots.query_shot)


def first_look(name: str, **changes: str) -> Look:
    """The category's first materials, pattern, shape and detail, in red and navy."""
    kind = CATEGORIES[name]
    plain = Look(name, "red", "navy", "plain", kind.materials[0], kind.shapes[0], kind.details[0])
    return replace(plain, **changes)


def pixels(svg: str, side: int = SIDE) -> np.ndarray:
    """Rendered RGB as integers, (side, side, 3)."""
    return np.asarray(raster.rasterize(svg, side).convert("RGB")).astype(int)


def drawn_box(svg: str, side: int) -> np.ndarray:
    """The box of the pixels that vanish with the product, as fractions."""
    without = svg.replace('<g id="product">', '<g id="product" display="none">')
    assert without != svg
    changed = np.abs(pixels(svg, side) - pixels(without, side)).max(axis=2) > 24
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / side


def a_photo(ground: str = "white") -> bytes:
    """A gray ellipse on an even ground as JPEG."""
    body = (
        f'<path fill="{ground}" d="M0 0h100v100H0Z"/><ellipse cx="50" cy="50" rx="40" ry="20" fill="#345"/>'
    )
    return raster.render(document(body), 160)


def test_the_catalog_is_wide_and_every_category_has_a_drawing():
    assert set(OBJECTS) == set(CATEGORIES)
    assert len(CATEGORIES) >= 28
    assert len({kind.department for kind in CATEGORIES.values()}) >= 6
    assert len(COLORS) >= 14
    for name, kind in CATEGORIES.items():
        assert kind.name == name
        assert kind.patterns[0] == "plain"
        assert 2 <= len(kind.shapes) <= 4
        assert 2 <= len(kind.details) <= 4
        assert 0 < kind.price_cents[0] < kind.price_cents[1]


def ink(look: Look) -> np.ndarray:
    """The product alone on gray, RGB."""
    gray = '<path d="M0 0h100v100H0Z" fill="#e6e6e6"/>'
    return pixels(document(gray + place(look, 0.8, (0.5, 0.5)).svg), 80)


@pytest.mark.parametrize("name", CATEGORIES)
def test_every_shape_detail_material_and_pattern_can_be_seen(name):
    """Two values of one attribute differ on at least 0.4 % of the pixels, by 16 of 255 or more."""
    kind, look = CATEGORIES[name], first_look(name)
    attributes = {"material": kind.materials, "pattern": kind.patterns}
    attributes |= {"shape": kind.shapes, "detail": kind.details}
    for colors in ({}, {"color": "black", "second_color": "yellow"}):
        for attribute, values in attributes.items():
            drawn = {value: ink(replace(look, **colors, **{attribute: value})) for value in values}
            for first, second in combinations(values, 2):
                changed = np.abs(drawn[first] - drawn[second]).max(axis=2) > 16
                assert changed.mean() > 0.004, (attribute, first, second)


@pytest.mark.parametrize("name", CATEGORIES)
def test_every_combination_is_drawn_and_none_twice(name):
    kind = CATEGORIES[name]
    builds = [first_look(name, shape=s, detail=d) for s, d in product(kind.shapes, kind.details)]
    finishes = [first_look(name, material=m, pattern=p) for m, p in product(kind.materials, kind.patterns)]
    for looks in (builds, finishes):
        assert len({draw(look) for look in looks}) == len(looks)
        for look in looks:
            alpha = np.asarray(raster.rasterize(document(draw(look)), 40))[:, :, 3]
            assert (alpha > 128).mean() > 0.04


@pytest.mark.parametrize("name", CATEGORIES)
def test_color_changes_the_pixels(name):
    ours, theirs = (
        pixels(shots.studio_shot(first_look(name, color=color), np.random.default_rng(0)).svg)
        for color in ("red", "blue")
    )
    assert (np.abs(ours - theirs).max(axis=2) > 40).mean() > 0.01


@pytest.mark.parametrize("shot", SHOTS)
def test_same_seed_gives_the_same_bytes_and_another_seed_others(shot):
    look = first_look("mug")
    first, second, other = (shot(look, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert raster.render(first.svg) == raster.render(second.svg)
    assert first.box == second.box
    assert raster.render(first.svg) != raster.render(other.svg)


@pytest.mark.parametrize("name", CATEGORIES)
def test_boxes_lie_inside_the_picture_and_are_tight(name):
    rng = np.random.default_rng(5)
    for shot in (shots.studio_shot, shots.other_shot):
        look = replace(sample_look(rng, name), color="red", second_color="navy")
        taken = shot(look, rng)
        x0, y0, x1, y1 = taken.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        assert np.abs(np.array(taken.box) - drawn_box(taken.svg, 224)).max() < 0.035


def test_scene_products_are_smaller_and_off_center():
    rng = np.random.default_rng(6)
    for _ in range(20):
        look = sample_look(rng)
        x0, y0, x1, y1 = shots.scene_shot(look, rng).box
        assert max(x1 - x0, y1 - y0) < 0.62
        assert abs((x0 + x1) / 2 - 0.5) > 0.04


def test_a_tilted_product_keeps_its_asked_size():
    for angle in (0, 30, -75):
        x0, y0, x1, y1 = place(first_look("bicycle"), 0.6, (0.5, 0.5), angle).box
        assert max(x1 - x0, y1 - y0) == pytest.approx(0.6)


def test_query_photos_never_equal_stored_pictures():
    rng = np.random.default_rng(7)
    for _ in range(10):
        look = sample_look(rng)
        stored = {raster.render(shot(look, rng).svg) for shot in SHOTS[:3]}
        asked = [raster.render_query(shots.query_shot(look, rng).svg, rng) for _ in range(3)]
        assert len(stored.union(asked)) == 6


def test_queries_are_deterministic_photos_of_the_right_size():
    svg = shots.query_shot(first_look("boot"), np.random.default_rng(1)).svg
    first, second = (raster.render_query(svg, np.random.default_rng(2), 96) for _ in range(2))
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert (picture.format, picture.size, picture.mode) == ("JPEG", (96, 96), "RGB")


def test_an_unknown_value_is_named_together_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown category 'spoon': choose one of sneaker, high heel"):
        first_look("mug", category="spoon")
    with pytest.raises(ValueError, match=r"unknown color 'mauve': choose one of black, white"):
        first_look("mug", color="mauve")
    with pytest.raises(ValueError, match=r"unknown mug shape 'flat': choose one of straight, tall"):
        first_look("mug", shape="flat")
    with pytest.raises(ValueError, match=r"unknown category 'spoon'"):
        sample_look(np.random.default_rng(0), "spoon")


def test_creative_parameters_are_strings_that_make_the_same_picture_again():
    rng = np.random.default_rng(8)
    seen = set()
    for _ in range(40):
        template, params = creatives.sample_creative(rng)
        seen.add(template)
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in params.items())
        look = sample_look(rng)
        again = dict(pair.split("=") for pair in ";".join(f"{k}={v}" for k, v in params.items()).split(";"))
        first = creatives.creative_shot(look, template, params, np.random.default_rng(1))
        second = creatives.creative_shot(look, template, again, np.random.default_rng(1))
        assert first == second
        assert min(first.box) >= 0
        assert max(first.box) <= 1
    assert seen == set(creatives.TEMPLATES)


def test_in_a_scene_an_advertised_product_stands_on_the_floor_and_clear_of_bands():
    rng, seen = np.random.default_rng(12), 0
    while seen < 20:
        template, params = creatives.sample_creative(rng)
        if params["background"] not in SCENES:
            continue
        seen += 1
        box = creatives.creative_shot(first_look("mug"), template, params, rng).box
        backdrop = SCENES[params["background"]](np.random.default_rng(int(params["seed"])))
        assert backdrop.far / 100 < box[3] <= backdrop.near / 100 + 0.001
        assert not params["text"] or params["text_place"].startswith("top")


def test_a_mirrored_clock_keeps_its_numerals():
    clock = first_look("clock", detail="numbers")
    assert place(clock, 0.6, (0.5, 0.5), mirror=True) == place(clock, 0.6, (0.5, 0.5))
    mug = first_look("mug")
    assert place(mug, 0.6, (0.5, 0.5), mirror=True) != place(mug, 0.6, (0.5, 0.5))


def test_a_bad_creative_is_refused_by_name():
    template, params = creatives.sample_creative(np.random.default_rng(9))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"unknown template 'poster': choose one of clean"):
        creatives.creative_shot(first_look("mug"), "poster", params, rng)
    with pytest.raises(ValueError, match=r"unknown creative tint 'mauve'"):
        creatives.creative_shot(first_look("mug"), template, {**params, "tint": "mauve"}, rng)
    lacking = {key: value for key, value in params.items() if key != "text"}
    with pytest.raises(ValueError, match=r"creative parameters lack text"):
        creatives.creative_shot(first_look("mug"), template, lacking, rng)
    with pytest.raises(ValueError, match=r"4 bytes are no readable picture"):
        creatives.creative_photo(b"nope", template, params)


def test_a_photo_on_an_even_ground_is_cut_out_and_its_box_is_true():
    _, params = creatives.sample_creative(np.random.default_rng(10))
    params |= {"size": "0.60", "x": "0.50", "y": "0.50", "background": "plain", "tint": "yellow", "tilt": "0"}
    params |= {"text": "", "border": "none", "props": "0"}
    jpeg, box = creatives.creative_photo(a_photo(), "clean", params)
    assert box == pytest.approx((0.2, 0.35, 0.8, 0.65), abs=0.02)
    picture = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert np.abs(picture[56, 56] - (0x33, 0x44, 0x55)).max() < 30
    assert picture[40, 24, 2] < 225  # the photo's white corner is gone: the ground is yellow there


def test_a_nearly_white_subject_on_white_is_kept_and_its_hole_is_cut():
    ring = (
        '<path fill="#fff" d="M0 0h100v100H0Z"/><circle cx="50" cy="50" r="30" fill="none" stroke="#eeeae6" '
        'stroke-width="16"/>'
    )
    cutout = cut_out(rasterize(document(ring), 160).convert("RGB"), 160)
    alpha = np.asarray(cutout.picture)[:, :, 3]
    assert cutout.is_cut
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 0
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 8] == 255


def test_a_photo_of_a_crowded_ground_stays_whole():
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    cutout = cut_out(Image.fromarray(noise), 80)
    assert not cutout.is_cut
    assert (cutout.width, cutout.height) == (80, 80)


def test_an_altered_copy_is_deterministic_and_never_the_photo():
    for photo in (a_photo(), a_photo("#c96")):
        first, second, other = (
            creatives.altered_copy(photo, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        assert first == second
        assert first != other
        assert Image.open(io.BytesIO(first)).size == (SIDE, SIDE)
        assert first != photo
