"""Heat-maps: what adds up, what they find on drawn shapes, the picture, and the command."""

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from test_moon_encoder import published_qwen3, published_qwen25

from conftest import SMALL, picture
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.regions import Regions
from moontide.encoder.heatmap import Heat, Word, heat, join_words, mass_inside, parts_of
from moontide.encoder.heatmap_picture import Panel, draw_sheet, overlay
from moontide.encoder.heatmap_products import panel_of
from moontide.encoder.heatmap_verbs import heatmap
from moontide.encoder.model.backbone import BackboneSettings
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Item, product_item
from moontide.encoder.stages.posttrain import PosttrainSettings, posttrain
from moontide.foundation.errors import DataError, ImageError, MoontideError, SettingsError

METHODS = ("gradient", "contribution")
PATCHED = SMALL.but(patch=7)  # 8 x 8 patches, 4 x 4 tokens
TRAINING = PosttrainSettings(num_steps=80, batch_size=24, learning_rate=4e-3, augment=0.2)


@pytest.fixture(scope="module")
def trained(catalog) -> MoonEncoder:
    torch.set_num_threads(1)
    encoder = MoonEncoder.tiny([product.title for product in catalog.products()], PATCHED, 0, device="cpu")
    posttrain(encoder, catalog, TRAINING)
    return encoder


def items(catalog) -> list[Item]:
    """Two pictures and text, a picture, a text, pictures of two kinds and a text without parts."""
    first, second = catalog.products()[:2]
    return [
        product_item(first, catalog.images, num_images=2),
        product_item(second, catalog.images, "image"),
        product_item(second, form="rich"),
        Item("red", (picture("red", "bar", 1), np.full((28, 84, 3), 90, np.uint8))),
    ]


# --- the accounts ------------------------------------------------------------


def test_contributions_sum_to_the_cosine_and_are_those_of_the_formula(make_encoder, catalog):
    encoder = make_encoder()
    projection = encoder.matryoshka.projection
    torch.nn.init.normal_(projection.bias)
    query = encoder.encode_items(["a red bar"])[0]
    for item in items(catalog):
        prepared = encoder.prepare(item)
        parts = parts_of(encoder, prepared, query, "contribution")
        assert parts.cosine == pytest.approx(float(query @ encoder.encode_items([item])[0]), abs=1e-5)
        assert parts.tokens.sum() == pytest.approx(parts.cosine, abs=1e-5)
        with torch.no_grad():
            states = encoder.backbone(encoder.backbone.collate([prepared]))["token_embeddings"][0]
            length = projection(states.mean(0)).norm()
            expected = projection(states) @ torch.from_numpy(query) / (len(states) * length)
        np.testing.assert_allclose(parts.tokens, expected.numpy(), atol=1e-5)


def test_the_gradient_map_is_the_slope_from_a_plain_picture_to_the_picture(make_encoder, catalog):
    encoder = make_encoder(patch=7)
    query = encoder.encode_items(["a red bar"])[0]
    prepared = encoder.prepare(items(catalog)[0])
    features = encoder.backbone.collate([prepared])
    patches = features["patches"].float().view(2, -1, 3, 49)  # pictures, patches, colors, pixels
    away = patches - patches.mean((1, 3), keepdim=True)

    @torch.no_grad()
    def cosine(step: float) -> float:
        mixed = (patches + step * away).flatten(0, 1).flatten(1)
        pooled = encoder[1](encoder.backbone({**features, "patches": mixed}))["sentence_embedding"]
        vector = encoder.matryoshka.projection(pooled)[0].double().numpy()
        return float(vector @ query / np.linalg.norm(vector))

    slope = (cosine(0.01) - cosine(-0.01)) / 0.02
    parts = parts_of(encoder, prepared, query, "gradient")
    assert [grid.shape for grid in parts.grids] == [(8, 8), (8, 8)]
    assert sum(grid.sum() for grid in parts.grids) == pytest.approx(slope, rel=0.02)


def test_the_cell_of_a_map_lies_where_its_patch_lies(make_encoder):
    encoder = make_encoder(patch=7)
    pixels = np.full((56, 56, 3), 200, np.uint8)
    pixels[14:21, 35:42] = 0
    query = encoder.encode_items(["red"])[0]
    (grid,) = parts_of(encoder, encoder.prepare(pixels), query, "gradient").grids
    assert np.unravel_index(np.abs(grid).argmax(), grid.shape) == (2, 5)


def test_a_picture_that_an_item_has_twice_has_two_maps(make_encoder):
    encoder, pixels = make_encoder(), np.random.default_rng(0).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    query = encoder.encode_items(["red"])[0]
    shared = parts_of(encoder, encoder.prepare({"image": [pixels, pixels]}), query, "gradient").grids
    apart = parts_of(encoder, encoder.prepare({"image": [pixels, pixels.copy()]}), query, "gradient").grids
    np.testing.assert_allclose(shared, apart, rtol=1e-5)
    assert not np.allclose(shared[0], shared[1])


@pytest.mark.parametrize("method", METHODS)
def test_words_and_cells_of_every_form_weigh_one_together(make_encoder, catalog, method):
    encoder = make_encoder()
    for item in items(catalog):
        found = heat(encoder, item, Item("blue cross"), method)
        assert len(found.grids) == len(item.images)
        assert bool(found.words) == (item.text is not None)
        weights = [word.weight for word in found.words]
        assert min([*weights, *(float(grid.min()) for grid in found.grids)]) >= 0
        assert sum(weights) + found.picture_share == pytest.approx(1)
        assert all((item.text or "")[word.start : word.end] == word.text for word in found.words)


def test_a_vector_of_any_length_serves_as_well_as_its_item(make_encoder, catalog):
    encoder, item = make_encoder(), items(catalog)[0]
    by_item = heat(encoder, item, Item("red bar"))
    by_vector = heat(encoder, item, 3 * encoder.encode_items(["red bar"])[0])
    assert by_vector.cosine == pytest.approx(by_item.cosine, abs=1e-5)
    np.testing.assert_allclose(by_vector.grids, by_item.grids, atol=1e-5)
    assert encoder.training is make_encoder().training
    with pytest.raises(DataError, match=r"must have 32 components and a length, got \(8,\)"):
        heat(encoder, item, np.ones(8))
    with pytest.raises(DataError, match="must have 32 components and a length"):
        heat(encoder, item, np.zeros(32))


def test_where_nothing_stands_out_the_map_is_even(make_encoder):
    encoder, plain = make_encoder(), np.full((56, 56, 3), 120, np.uint8)
    found = heat(encoder, Item(images=(plain,)), Item("red"))
    np.testing.assert_allclose(found.grids[0], 1 / found.grids[0].size)
    (word,) = heat(encoder, Item("red"), Item("red square")).words
    assert word == Word("red", 1.0, 0, 3)


def test_wrong_methods_are_refused(make_encoder, catalog):
    with pytest.raises(SettingsError, match="the methods are gradient, contribution"):
        heat(make_encoder(), items(catalog)[0], Item("red"), "attention")
    last = make_encoder(pooling="last")
    assert heat(last, items(catalog)[0], Item("red")).picture_share > 0
    with pytest.raises(SettingsError, match="pools by its last token: use gradient"):
        heat(last, items(catalog)[0], Item("red"), "contribution")


@pytest.mark.parametrize("publish", [published_qwen3, published_qwen25])
def test_published_layouts_have_maps_in_the_shape_of_their_pictures(make_encoder, tmp_path, publish):
    publish(make_encoder, tmp_path / "m")
    settings = BackboneSettings(max_pixels=112 * 112, before="<|im_start|>user\n", after="<|im_end|>")
    encoder = MoonEncoder(tmp_path / "m", backbone=settings, device="cpu")
    rng = np.random.default_rng(0)
    sides = ((84, 56), (56, 112))
    pictures = tuple(rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sides)
    item, query = Item("green bar number", pictures), Item("blue cross")
    fine, coarse = (heat(encoder, item, query, method) for method in METHODS)
    assert [grid.shape for grid in fine.grids] == [(6, 4), (4, 8)]
    assert [grid.shape for grid in coarse.grids] == [(3, 2), (2, 4)]
    assert [word.text for word in fine.words] == item.text.split()
    parts = parts_of(encoder, encoder.prepare(item), encoder.encode_items([query])[0], "contribution")
    assert parts.tokens.sum() == pytest.approx(fine.cosine, abs=1e-5)


# --- what they find ------------------------------------------------------------


def test_a_trained_encoder_looks_at_what_is_drawn(trained, catalog):
    regions, inside, area, drawn_inside, drawn_area = Regions.read(catalog), [], [], [], []
    for product in catalog.products():
        image_id = product.image_ids[0]
        (grid,) = heat(trained, Item(images=(catalog.images[image_id],)), Item(product.title)).grids
        box = regions.box(image_id, product.title)
        inside.append(mass_inside(grid, box))
        area.append(mass_inside(np.ones((1, 1)), box))
        is_drawn = (trained.backbone.pixels(catalog.images[image_id]) != 235).any(2)
        rows, columns = np.flatnonzero(is_drawn.any(1)), np.flatnonzero(is_drawn.any(0))
        box = (columns[0] / 56, rows[0] / 56, (columns[-1] + 1) / 56, (rows[-1] + 1) / 56)
        drawn_inside.append(mass_inside(grid, box))
        drawn_area.append(mass_inside(np.ones((1, 1)), box))
    assert np.mean(inside) > 1.3 * np.mean(area)
    assert np.mean(drawn_inside) > 2 * np.mean(drawn_area)


def test_the_words_of_the_query_carry_the_match(trained, catalog):
    shares = []
    for product in catalog.products():
        color, shape = product.title.split()[:2]
        found = heat(trained, product_item(product, form="title"), Item(f"{color} {shape}"))
        assert [word.text for word in found.words][:3] == [color, shape, "number"]
        shares.append(sum(word.weight for word in found.words if word.text in (color, shape)))
    assert np.mean(shares) > 0.7  # two words of four


def test_a_product_against_itself_has_a_map_too(trained, catalog):
    item = product_item(catalog.products()[0], catalog.images, "image")
    found = heat(trained, item, item)
    assert found.cosine == pytest.approx(1, abs=1e-5)
    assert found.grids[0].max() > 2 * found.grids[0].mean()


# --- words and boxes ------------------------------------------------------------


def test_tokens_become_words():
    offsets = [(0, 2), (2, 3), (3, 7), (7, 8), (8, 9), (9, 10), (10, 12), (12, 12), (12, 14), (14, 15)]
    text = "Ab-long, 红色x y z"
    words = join_words(text, [*offsets, (15, 17)], np.arange(1.0, 11.0))
    assert [(word.text, word.weight) for word in words] == [
        ("Ab", 1), ("long", 3), ("红", 6), ("色x", 7), ("y", 9),
    ]  # fmt: skip
    bytes_of_one = join_words("é", [(0, 1), (0, 1)], np.array([1.0, 2.0]))
    assert bytes_of_one == [Word("é", 3.0, 0, 1)]


def test_words_beyond_the_limit_have_no_weight(make_encoder):
    encoder = make_encoder(max_text_tokens=4)
    text = "red square number green blue cross"
    found = heat(encoder, Item(text), Item("red"))
    assert 0 < len(found.words) < 6
    assert [word.text for word in found.words] == text.split()[: len(found.words)]


def test_the_mass_of_cut_cells_counts_by_area():
    grid = np.array([[1.0, 0.0], [0.0, 3.0]])
    assert mass_inside(grid, (0, 0, 1, 1)) == pytest.approx(1)
    assert mass_inside(grid, (0.5, 0.5, 1, 1)) == pytest.approx(0.75)
    assert mass_inside(grid, (0.25, 0.25, 0.75, 0.75)) == pytest.approx(0.25)
    assert mass_inside(grid, (-1, -1, 0.5, 0.5)) == pytest.approx(0.25)
    assert mass_inside(grid, (0.6, 0.2, 0.4, 0.8)) == 0
    assert mass_inside(np.zeros((3, 5)), (0, 0, 0.5, 0.5)) == pytest.approx(0.25)


# --- the picture ------------------------------------------------------------


def test_an_overlay_is_warm_where_the_weight_is_and_gray_elsewhere():
    pixels = np.full((40, 80, 3), (30, 60, 200), np.uint8)
    shown = overlay(pixels, np.array([[0.0, 0.0, 0.0, 1.0]])).astype(int)
    assert shown.shape == (40, 80, 3)
    assert shown[20, 75, 0] > shown[20, 75, 2] + 100
    assert shown[20, 5].max() == shown[20, 5].min()
    assert np.array_equal(overlay(pixels, np.zeros((2, 2)))[0, 0], shown[20, 5])


def test_a_panel_says_what_it_shows(make_encoder, catalog):
    item = items(catalog)[0]
    found = heat(make_encoder(), item, Item("red"))
    pictures = (np.full((30, 60, 3), 50, np.uint8),) * 2
    both = Panel("p", found, item.text, pictures, ((0.0, 0.0, 0.5, 0.5), None))
    first, second, third = both.facts()
    assert f"cosine {found.cosine:.3f}" in first
    assert first.endswith(f"by the pictures {found.picture_share:.0%}")
    assert "in the box (25% of the area)" in second
    assert "box" not in third
    text_only = Panel("p", Heat((Word("a", 1.0, 0, 1),), (), 0.5), "a $b$ " + "w" * 200)
    assert text_only.facts() == ["cosine 0.500", "words in gray are more than the encoder reads"]
    sheets = [draw_sheet(panels) for panels in ([both], [text_only], [both, text_only])]
    assert sheets[2].height == sheets[0].height + sheets[1].height
    assert sheets[2].width == max(sheets[0].width, sheets[1].width)


@pytest.mark.parametrize(
    ("crops", "sides", "has_box"),
    [
        ("none", [56, 56], [True, False]),  # the second picture has no known region
        ("added", [56, 28, 56, 56], [True, False, False, False]),
        ("only", [28, 56], [False, False]),
    ],
)
def test_whole_pictures_have_the_known_box_and_crops_none(make_encoder, catalog, crops, sides, has_box):
    encoder, product = make_encoder(crops=crops, num_images=2), catalog.products()[0]
    regions = Regions.read(catalog)
    panel = panel_of(encoder, catalog, product, encoder.view(catalog), regions, None, "gradient")
    assert [one.shape[:2] for one in panel.pictures] == [(side, side) for side in sides]
    box = regions.box(product.image_ids[0], product.title)
    assert list(panel.boxes) == [box if has else None for has in has_box]


# --- the command ------------------------------------------------------------


@pytest.fixture
def call(trained, catalog, tmp_path):
    """Runs `moontide heatmap` with a saved encoder; gives the lines printed."""
    trained.save(tmp_path / "encoder")

    def run(*arguments: str, dataset: Dataset = catalog) -> None:
        app = typer.Typer()
        app.command()(heatmap)
        given = ["--encoder", tmp_path / "encoder", "--dataset", dataset.path, *arguments]
        app([str(one) for one in given], standalone_mode=False)

    return run


def test_the_command_draws_products_and_prints_the_numbers(call, tmp_path, capsys):
    to = tmp_path / "maps" / "one.png"
    call("--product", "p0", "--to", str(to))
    printed = capsys.readouterr().out
    assert printed.startswith("p0 against its title\n  cosine 0.")
    assert "in the box (25% of the area)" in printed
    assert "words: " in printed
    one = Image.open(to)
    (tmp_path / "q.png").write_bytes(picture("red", "bar", 7))
    asked = ("--query", "red bar", "--query-image", str(tmp_path / "q.png"), "--method", "contribution")
    call("--product", "p1", "--product", "p0", *asked, "--to", str(to))
    assert 'p1 against "red bar" and a picture\n' in capsys.readouterr().out
    assert Image.open(to).height > 1.5 * one.height


def test_products_without_a_picture_or_text_and_broken_ones(call, tmp_path, capsys):
    rows = [
        {"product_id": "text", "title": "red bar"},
        {"product_id": "shot", "title": "", "image_ids": ["i"]},
        {"product_id": "bare", "title": " ", "image_ids": ["gone"]},
        {"product_id": "torn", "title": "red bar", "image_ids": ["torn"]},
    ]
    with DatasetWriter(tmp_path / "few", "few") as writer:
        writer.put("products", rows)
        writer.add_image("i", picture("red", "bar"))
        whole = picture("red", "square")
        facts = {"width": 56, "height": 56, "sha256": "", "dhash": ""}
        writer.append("images", [{"image_id": "torn", "bytes": whole[:90], **facts}])
    few, to = Dataset.open(tmp_path / "few"), ("--to", str(tmp_path / "few.png"))
    call("--product", "text", "--product", "shot", *to, dataset=few)
    printed = capsys.readouterr().out
    assert "text against its title" in printed
    assert "shot against itself\n  cosine 1.000\n" in printed
    for product, said in (("bare", "product 'bare' has nothing to show"), ("torn", "product 'torn': ")):
        with pytest.raises(DataError, match=said) as caught:
            call("--product", product, *to, dataset=few)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["--product", "p0", "--to", "a.jpg"], SettingsError, "is a .png file, got 'a.jpg'"),
        (["--product", "pX", "--to", "a.png"], DataError, "no product of .* has the id 'pX'"),
        (["--product", "p0", "--to", "a.png", "--query", " "], DataError, "needs a text or a picture"),
        (["--product", "p0", "--to", "a.png", "--query-image", "no.png"], ImageError, "no picture .* no.png"),
        (
            ["--product", "p0", "--to", "a.png", "--query-image", "torn.png"],
            ImageError,
            "^torn.png: the file",
        ),
        (["--product", "p0", "--to", "torn.png/a.png"], MoontideError, "torn.png"),
    ],
)
def test_bad_input_is_one_sentence(call, tmp_path, monkeypatch, arguments, kind, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG no")
    with pytest.raises(kind, match=said) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
