"""Items, the canonical rendering of a product, and the tokens it becomes."""

import io

import numpy as np
import pytest
from PIL import Image

from moontide.catalog.records import Product
from moontide.encoder.model.inputs import KINDS, Item, canonical, product_item, query_item, render_text
from moontide.foundation.errors import DataError, ImageError

SHOE = Product(
    "1",
    "Red running shoe",
    ("Wear", "Shoes"),
    "Acme",
    {"size": ("42",), "color": ("red", "white")},
    "Light and soft.",
    ("a", "b"),
)


def jpeg(size=(60, 40), seed=0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def test_the_rendering_keeps_the_characters_of_every_part():
    text, parts = render_text(SHOE)
    said = [(part.kind, part.key, text[part.start : part.end]) for part in parts]
    assert said == [
        ("title", None, "Red running shoe"),
        ("brand", None, "Acme"),
        ("category", None, "Wear > Shoes"),
        ("attribute", "color", "color: red, white"),
        ("attribute", "size", "size: 42"),
        ("description", None, "Light and soft."),
    ]
    assert {part.kind for part in parts} <= set(KINDS)


@pytest.mark.parametrize("without", [("color",), ("attributes",), ("category", "brand")])
def test_what_is_left_out_of_the_rich_text_cannot_be_read_there(without):
    text, _ = render_text(SHOE, without=without)
    gone = {"color": "red, white", "attributes": "42", "category": "Shoes", "brand": "Acme"}
    assert not any(gone[name] in text for name in without)
    assert "Light and soft." in text


def test_forms_show_what_their_names_say():
    images = {"a": jpeg(), "b": jpeg(seed=1)}
    shown = {
        form: product_item(SHOE, images, form)
        for form in ("title", "image", "title_image", "rich", "rich_image")
    }
    assert [bool(item.images) for item in shown.values()] == [False, True, True, False, True]
    assert shown["title"].text == "Red running shoe"
    assert shown["image"].text is None
    assert shown["rich"].text == shown["rich_image"].text == render_text(SHOE)[0]
    assert product_item(SHOE, images, num_images=5).images == (images["a"], images["b"])
    with pytest.raises(DataError, match="no form is called 'both'"):
        product_item(SHOE, images, "both")
    with pytest.raises(DataError, match="product '1' has nothing to show as 'image'"):
        product_item(SHOE, {}, "image")


@pytest.mark.parametrize("nothing", [None, "", "  ", {}, {"text": None, "image": None}, {"image": []}])
def test_nothing_to_embed_is_refused(nothing):
    with pytest.raises(DataError, match="needs a text or a picture"):
        canonical(nothing)


def test_empty_entries_and_the_order_of_keys_play_no_role():
    data = jpeg()
    assert canonical({"text": "shoe", "image": data}) == canonical({"image": [None, data], "text": " shoe "})
    assert canonical({"text": None, "image": data}) == query_item(image=data) == canonical(data)
    assert canonical({"text": "shoe", "image": None}) == query_item("shoe") == canonical("shoe")


def test_values_of_another_kind_are_refused():
    with pytest.raises(DataError, match="not price"):
        canonical({"text": "a", "price": 3})
    with pytest.raises(DataError, match="must be a string, got int"):
        canonical({"text": 3})
    with pytest.raises(ImageError, match="bytes, a file, pixels, got float"):
        canonical({"image": 0.5})
    with pytest.raises(ImageError, match="no picture can be read at"):
        canonical({"image": "no/such/file.jpg"})
    with pytest.raises(ImageError, match="uint8"):
        Item(images=(np.zeros((4, 4, 3)),))


def test_spans_point_at_the_tokens_of_their_characters(make_encoder):
    encoder = make_encoder()
    item = product_item(SHOE, {"a": jpeg()}, "rich_image")
    prepared = encoder.prepare(item)
    decode = encoder.tokenizer.decode
    said = {
        (span.kind, span.key): decode(prepared.ids[span.start : span.end]).strip() for span in prepared.spans
    }
    assert said["title", None] == "red running shoe"  # letters are lowered
    assert said["attribute", "color"] == "color: red, white"
    assert said["category", None] == "wear > shoes"
    image = next(span for span in prepared.spans if span.kind == "image")
    assert set(prepared.ids[image.start : image.end]) == {encoder.backbone.model.config.image_token_id}
    for span in prepared.spans:
        assert set(prepared.kinds[span.start : span.end]) == {KINDS.index(span.kind)}


def test_a_long_text_is_cut_between_words_and_no_image_token_is_lost(make_encoder):
    encoder = make_encoder(max_text_tokens=9)
    words = "square number green yellow cross number seven square"
    whole = encoder.prepare(Item(words, (jpeg(), jpeg(seed=1))))
    image_tokens = int((whole.ids == encoder.backbone.model.config.image_token_id).sum())
    assert image_tokens == 2 * (56 // 28) ** 2
    span = whole.spans[-1]
    kept = encoder.tokenizer.decode(whole.ids[span.start : span.end]).split()
    assert 0 < span.end - span.start <= 9
    assert kept == words.split()[: len(kept)]  # whole words from the start, none broken
    one_word = encoder.prepare("x" * 100)
    assert len(one_word) == 9


def test_spans_that_are_cut_away_are_gone(make_encoder):
    prepared = make_encoder(max_text_tokens=6).prepare(product_item(SHOE, None, "rich"))
    assert {span.kind for span in prepared.spans} <= {"title", "brand"}
    assert all(span.end <= len(prepared) for span in prepared.spans)


def test_special_tokens_written_in_a_text_stay_words(make_encoder):
    encoder = make_encoder()
    prepared = encoder.prepare("a <|image_pad|> shoe")
    assert encoder.backbone.model.config.image_token_id not in prepared.ids
    assert np.isfinite(encoder.encode_items(["a <|image_pad|> shoe"])).all()


def test_a_broken_picture_and_too_many_are_refused(make_encoder):
    encoder = make_encoder(max_images=2)
    with pytest.raises(ImageError) as refused:
        encoder.encode_items([{"image": jpeg()[:200]}])
    assert refused.value.reason in ("broken_pixels", "not_an_image")
    with pytest.raises(DataError, match="3 pictures, more than 2"):
        encoder.prepare({"image": [jpeg()] * 3})


def test_what_is_remembered_of_items_is_bounded_and_changes_nothing(make_encoder):
    backbone = make_encoder().backbone
    texts = [f"red square number {n}" for n in range(60)]
    fresh = [make_encoder().prepare(text) for text in texts[:3]]
    with backbone.remembering(20):
        for text in texts:
            backbone.prepare(text)
            assert len(backbone._layouts) <= 20
        again = [backbone.prepare(text) for text in texts[:3]]
    assert not backbone._layouts
    for one, other in zip(fresh, again, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.positions, other.positions)
        assert one.spans == other.spans
    with pytest.raises(ValueError, match="read-only"):
        again[0].ids[0] = 0  # shared: no caller may write into it


def test_the_cost_of_an_item_is_known_before_it_is_decoded(make_encoder):
    encoder = make_encoder()
    for item in ("red cross", {"image": jpeg()}, {"image": [jpeg(), jpeg()], "text": "green bar"}):
        assert encoder.num_tokens(item) == len(encoder.prepare(item))
