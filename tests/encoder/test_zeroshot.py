"""Classification and attributes by text: values by hand, and that no text gives the answer away."""

import numpy as np
import pytest

from encoder.conftest import START, picture
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.records import Product
from moontide.encoder import zeroshot
from moontide.encoder.evaluate import EvaluateSettings, evaluate
from moontide.encoder.zeroshot import Guard, guarded, naming_keys, words_of

CHOICES = EvaluateSettings(tasks=("classification", "attributes"), replicates=30)
CATEGORIES = (("Footwear", "Shoes"), ("Footwear", "Flip Flops"), ("Women's Wear", "Dresses"), ("鞋", "凉鞋"))
COLORS = ("red", "Navy Blue", "xl", "红色")


@pytest.fixture(scope="module")
def leaky(tmp_path_factory) -> Dataset:
    """Sixteen held-out products whose texts say category and color in every way they can."""
    path = tmp_path_factory.mktemp("data") / "leaky"
    with DatasetWriter(path, "leaky") as writer:
        products = []
        for n in range(16):
            category, color = CATEGORIES[n % 4], COLORS[n // 4]
            writer.add_image(f"i{n}", picture("red", "square", n))
            products.append(
                {
                    "product_id": f"p{n}",
                    "title": f"{color.upper()} {category[1].lower()}, {color}ish shoe; {color}凉鞋 xl-cut",
                    "description": f"A {category[1]} in {color}. Hundred flip-flops for {category[0]}",
                    "brand": f"{category[1]} & Co",
                    "category": list(category),
                    "attributes": {
                        "color": [color, "red"] if n == 5 else [color],
                        "type": [f"Running {category[1]}"],
                        "shoe size": ["42"],
                        "hint": [f"as {color} as can be", "plain"],
                        "color code": ["7"],
                    },
                    "image_ids": [f"i{n}"] if n % 3 else [],
                    "created_at": START,
                }
            )
        writer.put("products", products)
        rows = [{"product_id": f"p{n}", "group_id": f"g{n}", "split": "test"} for n in range(16)]
        writer.put("splits", rows)
    return Dataset.open(path)


def spy(monkeypatch):
    """Every guarded item with what it must not say."""
    made, real = [], zeroshot.guarded_item

    def watched(pool, code, images, guard, without, targets=()):
        item = real(pool, code, images, guard, without, targets)
        made.append((pool.products[code], set(without), item))
        return item

    monkeypatch.setattr(zeroshot, "guarded_item", watched)
    return made


def flat(items):
    return np.ones((len(items), 1), np.float32)


def test_no_text_of_a_classified_product_holds_a_word_of_any_category(leaky, monkeypatch):
    made = spy(monkeypatch)
    evaluate(leaky, flat, settings=CHOICES.but(tasks=("classification",)))
    banned = {word for path in CATEGORIES for name in path for word in words_of(name)}
    assert len(made) == 16
    for product, without, item in made:
        assert without == {"type"}
        assert banned.isdisjoint(words_of(item.text)), item.text
        assert not any(name in item.text for name in ("鞋", "size", "Running"))
        assert any(color in item.text.lower() for color in ("red", "navy", "xl", "红色")), item.text
        assert [part.kind for part in item.parts if part.kind == "category"] == []
        assert bool(item.images) == bool(product.image_ids)


def test_no_text_of_an_attribute_question_holds_the_value_that_is_asked_for(leaky, monkeypatch):
    made = spy(monkeypatch)
    evaluate(leaky, flat, settings=CHOICES.but(tasks=("attributes",)))
    asked = {next(iter(without)) for _, without, _ in made}
    assert asked == {"color", "hint", "type"}  # "shoe size" and "color code" have one value each
    for product, without, item in made:
        (key,) = without
        for value in product.attributes[key]:
            assert f"{key}:" not in item.text
            if len(value) > 2 or not value.isascii():
                assert value.casefold() not in item.text.casefold(), (value, item.text)
            assert not set(words_of(value)) <= set(words_of(item.text)), (value, item.text)


def test_the_real_texts_of_a_rendered_catalog_give_nothing_away(catalog, monkeypatch):
    made = spy(monkeypatch)
    evaluate(catalog, flat, settings=CHOICES)
    assert len(made) == 3 * 12
    for product, without, item in made:
        values = [product.attributes[key][0] for key in without if key in ("color", "form")]
        assert not any(value in item.text for value in values or product.category), item.text


def test_what_is_asked_for_is_kept_out_and_all_else_stays():
    product = Product("1", "Red runner, reddish", ("Shoes",), "Acme", {"color": ("red",), "fit": ("wide",)})
    found = guarded(product, Guard(["red", "blue"]), {"color"}, ("red",))
    assert (found.title, found.category, found.attributes) == ("runner,", ("Shoes",), {"fit": ("wide",)})
    assert guarded(product, Guard(["red", "blue"]), {"color"}).title == "runner, reddish"


def test_names_in_scripts_without_spaces_go_wherever_they_stand():
    assert Guard(["连衣裙", "裙"]).clean("红色连衣裙夏") == "红色 夏"
    assert not Guard(["连衣裙"]).hits("红色连衣裙夏")


def test_an_attribute_that_names_the_category_is_found_by_its_values():
    products = [
        Product("1", "", ("Wear", "Shoes"), attributes={"type": ("running shoe",), "use": ("sport",)}),
        Product("2", "", ("Wear", "Hats"), attributes={"use": ("sport", "day")}),
    ]
    assert naming_keys(products) == {"type"}


def test_accuracy_and_f1_have_the_values_counted_by_hand(leaky):
    """Says "Shoes" of every product, and the first color of a list: right for a quarter each."""

    def encode(items):
        vectors = np.zeros((len(items), 4), np.float32)
        for row, item in enumerate(items):
            is_product = bool(item.parts)
            names = ("Shoes", "Footwear", "color: red")
            vectors[row, 0] = 1 if is_product or item.text in names else 0
        return vectors

    card = evaluate(leaky, encode, settings=CHOICES)

    def value(task, direction, metric):
        row = card.find(task, direction, "names" if task == "classification" else "values", metric)
        assert row is not None
        return row["value"]

    assert value("classification", "level 1", "accuracy") == 0.5
    assert value("classification", "level 2", "accuracy") == 0.25
    assert value("classification", "level 2", "macro recall") == 0.25
    assert value("classification", "level 2", "macro f1") == pytest.approx(0.4 / 4)
    assert value("classification", "level 2", "weighted precision") == pytest.approx(0.25 * 0.25)
    assert value("attributes", "color", "accuracy") == pytest.approx(5 / 16)  # p5 is navy blue and red
    row = card.find("attributes", "color", "values", "accuracy")
    assert row["chance"] == pytest.approx((15 / 4 + 2 / 4) / 16)
    assert value("attributes", "hint", "accuracy") == 0  # a tie of all is no answer
    assert value("attributes", "all keys", "accuracy") == pytest.approx(5 / 48)
    assert {note.split(":")[0] for note in card.notes} == {"attribute color code", "attribute shoe size"}


def test_free_text_is_no_attribute(leaky, monkeypatch):
    monkeypatch.setattr(zeroshot, "MAX_VALUES", 3)
    card = evaluate(leaky, flat, settings=CHOICES.but(tasks=("attributes",)))
    assert card.find("attributes", "color", "values", "accuracy") is None
    assert any(note.startswith("attribute color: left out, 4 values") for note in card.notes)
