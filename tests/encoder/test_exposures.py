"""Triplets: where negatives come from, the forms of every member, and that forms share their pictures."""

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from small_log import START, pictures_of, write

from moontide.encoder.model.inputs import ProductView
from moontide.encoder.stages.exposures import Triplets
from moontide.encoder.stages.pictures import Pictures
from moontide.foundation.errors import DataError

PRODUCTS = {
    **{f"lamp{n}": "home/lamp" for n in range(5)},
    **{f"sofa{n}": "home/sofa" for n in range(4)},
    **{f"vase{n}": "home/vase" for n in range(3)},
}
QUERIES = {"t": ("warm lamp", False), "T": ("Warm  Lamp", False), "i": (None, True), "b": ("sofa", True)}
QUERIES |= {"u": ("seat", False), "k": ("light", False)}


def happened(kind: str, request: str | None, query: str, *products: str) -> list[tuple]:
    return [(kind, request, query, product) for product in products]


EVENTS = [
    # same request, another category: sofa2 (sofa1 is clicked in r2, sofa0 is of its SPU, vase0 held out)
    *happened("impression", "r1", "t", "lamp0", "lamp1", "sofa0", "sofa1", "sofa2", "vase0"),
    *happened("order", "r1", "t", "lamp0"),
    *happened("impression", "r2", "T", "vase1", "sofa1"),
    *happened("click", "r2", "T", "sofa1"),
    # same query, another category: r3 shows lamps alone, r4 a vase
    *happened("impression", "r3", "i", "lamp1", "lamp2"),
    *happened("order", "r3", "i", "lamp1"),
    *happened("impression", "r4", "i", "vase1"),
    # same request, same category
    *happened("impression", "r5", "b", "sofa0", "sofa3"),
    *happened("order", "r5", "b", "sofa3"),
    # same query, same category
    *happened("order", "r6", "k", "lamp3"),
    *happened("impression", "r7", "k", "lamp2", "lamp3"),
    # nothing exposed
    *happened("order", "r8", "u", "sofa2"),
]
SPUS = {"sofa0": "s", "sofa1": "s"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shop"
    more = ("extra0", "extra1")
    return write(path, PRODUCTS, QUERIES, EVENTS, spus=SPUS, test=["vase0"], more_images=more)


def triplets_of(dataset, **changes) -> Triplets:
    return Triplets(dataset, pictures_of(dataset), **changes)


def pairs_of(triplets, batch) -> dict[str, str]:
    ids = [product.product_id for product in triplets.products]
    both = zip(batch.positive.product, batch.negative.product, strict=True)
    return {ids[positive]: ids[negative] for positive, negative in both}


def row_of(triplets, batch, product_id: str) -> int:
    return next(
        row for row, code in enumerate(batch.positive.product)
        if triplets.products[code].product_id == product_id
    )  # fmt: skip


# --- negatives ------------------------------------------------------------


def test_a_negative_was_exposed_and_left_alone_of_another_category_where_there_is_one(shop):
    triplets = triplets_of(shop)
    assert len(triplets) == 5
    for step in range(12):
        batch = triplets.batch(step, 99)
        found = pairs_of(triplets, batch)
        assert found["lamp0"] == "sofa2"  # not vase1 of another request, not what was touched or held out
        assert found["lamp1"] == "vase1"
        assert found["sofa3"] == "sofa0"
        assert found["lamp3"] == "lamp2"
        assert found["sofa2"][:4] in ("lamp", "vase")
        assert found["sofa2"] != "vase0"
        sources = ("request", "query", "request, same category", "query, same category", "random")
        assert Counter(batch.sources) == Counter(sources)


def test_negatives_by_chance_vary_from_step_to_step(shop):
    triplets = triplets_of(shop)
    found = {pairs_of(triplets, triplets.batch(step, 99))["sofa2"] for step in range(40)}
    assert len(found) > 3
    assert {name[:4] for name in found} == {"lamp", "vase"}


def test_clicks_count_as_positives_when_asked_to(shop):
    triplets = triplets_of(shop, kinds=("click", "order"))
    assert sorted(pairs_of(triplets, triplets.batch(0, 99))) == [
        "lamp0", "lamp1", "lamp3", "sofa1", "sofa2", "sofa3",
    ]  # fmt: skip
    drawn = Counter(triplets.rows.product[triplets._drawn].tolist())
    assert sorted(drawn.values()) == [1, 3, 3, 3, 3, 3]  # an order weighs three clicks


def test_only_train_products_and_events_before_the_cutoff_are_seen(tmp_path, shop):
    before = START + timedelta(hours=10)  # r1 and r2
    triplets = triplets_of(shop, before=before)
    assert pairs_of(triplets, triplets.batch(0, 99)) == {"lamp0": "sofa2"}
    triplets = triplets_of(shop, before=START + timedelta(hours=7))  # sofa1 is not touched yet
    found = {pairs_of(triplets, triplets.batch(step, 9))["lamp0"] for step in range(40)}
    assert found == {"sofa0", "sofa1", "sofa2"}
    dataset = write(tmp_path / "held", PRODUCTS, QUERIES, EVENTS, test=["lamp0", "lamp1", "sofa3", "vase1"])
    triplets = triplets_of(dataset)
    batch = triplets.batch(0, 99)
    assert set(pairs_of(triplets, batch)) == {"lamp3", "sofa2"}
    assert triplets.stock.is_train[batch.negative.product].all()


def test_without_a_log_judgments_are_positives_and_negatives_are_by_chance(tmp_path):
    judgments = [{"query_id": "i", "product_id": "lamp0", "grade": 1.0, "source": "train"}]
    dataset = write(tmp_path / "judged", PRODUCTS, QUERIES, [], judgments=judgments)
    triplets = triplets_of(dataset)
    batch = triplets.batch(3, 1)  # a batch of one
    assert batch.sources == ("random",)
    assert pairs_of(triplets, batch)["lamp0"][:4] in ("sofa", "vase")


def test_without_an_order_or_a_second_product_the_remedy_is_told(tmp_path, shop):
    clicks = [event for event in EVENTS if event[0] != "order"]
    dataset = write(tmp_path / "clicks", PRODUCTS, QUERIES, clicks)
    with pytest.raises(DataError, match=r"no triplets: of 0 pairs .* by order.* let clicks count"):
        triplets_of(dataset)
    assert len(triplets_of(dataset, kinds=("click",))) == 1
    few = {"lamp0": "home/lamp", "lamp1": "home/lamp"}
    dataset = write(tmp_path / "one", few, QUERIES, EVENTS, spus=dict.fromkeys(few, "s"))
    with pytest.raises(DataError, match=r"no negatives: all 2 train products .* are of one group"):
        triplets_of(dataset)
    dataset = write(tmp_path / "bare", few, QUERIES, EVENTS, num_images=0)
    with pytest.raises(DataError, match="none has a title and a picture"):
        triplets_of(dataset)


def test_one_category_alone_still_gives_negatives(tmp_path):
    few = dict.fromkeys(("lamp0", "lamp1", "lamp2"), "")
    dataset = write(tmp_path / "few", few, QUERIES, EVENTS, num_images=1)
    triplets = triplets_of(dataset)
    found = {pairs_of(triplets, triplets.batch(step, 9))["lamp0"] for step in range(9)}
    assert found == {"lamp1"}  # shown with it; no category is known to be another
    assert (triplets.batch(0, 9).positive.category == -1).all()


# --- forms ------------------------------------------------------------


def test_queries_have_the_forms_they_were_asked_in(shop):
    triplets = triplets_of(shop)
    batch = triplets.batch(0, 99)
    for product, text, has_picture in (
        ("lamp0", "warm lamp", False), ("lamp1", None, True), ("sofa3", "sofa", True),
    ):  # fmt: skip
        row = row_of(triplets, batch, product)
        asked, seen, both = (getattr(batch.query, form)[row] for form in ("text", "image", "text_image"))
        assert (asked.text if asked else None) == text
        assert asked is None or not asked.images
        assert (seen is None) == (not has_picture)
        assert (both is None) == (text is None or not has_picture)
        if both:
            assert both.text == text
            assert both.images[0] is seen.images[0]


@pytest.mark.parametrize("augment", [0.0, 0.8])
def test_the_forms_of_a_product_hold_the_very_same_pixels(shop, augment):
    triplets = triplets_of(shop, augment=augment)
    batch = triplets.batch(1, 99)
    for side in (batch.positive, batch.negative):
        for row, code in enumerate(side.product):
            product = triplets.products[code]
            text, image, both = side.text[row], side.image[row], side.text_image[row]
            assert (text.text, text.images) == (product.title, ())
            assert (image.text, both.text) == (None, product.title)
            assert len(image.images) == 1
            assert image.images[0] is both.images[0]
            plain = [triplets.pictures[image_id] for image_id in product.image_ids]
            assert any(image.images[0] is one for one in plain) == (augment == 0)
        codes = (side.group, side.category, side.title)
        for found, known in zip(codes, (triplets.group, triplets.category, triplets.title), strict=True):
            assert np.array_equal(found, known[side.product])


def test_the_whole_form_can_hold_all_text_and_several_pictures(shop):
    triplets = triplets_of(shop, whole="rich_image", view=ProductView(num_images=2))
    batch = triplets.batch(0, 99)
    for image, both in zip(batch.negative.image, batch.negative.text_image, strict=True):
        assert "brand" in {part.kind for part in both.parts}
        assert len(image.images) == 2
        assert all(a is b for a, b in zip(image.images, both.images, strict=True))


def test_what_augmentation_adds_is_shown_by_positives_with_text_and_picture_most_of_the_time(shop):
    added = {"lamp0": ("Bright title of\n lamp0", ("extra0", "nowhere")), "sofa0": ("never", ("extra1",))}
    added |= {"lamp1": (None, ("extra1",)), "sofa3": ("Sofa, wide", ())}
    triplets = triplets_of(shop, augmented=added)
    assert triplets.left_out == {"added picture": 1}
    counts: Counter[str] = Counter()
    for step in range(200):
        batch = triplets.batch(step, 99)
        shown = {}
        for row, code in enumerate(batch.positive.product):
            name = triplets.products[code].product_id
            text, image, both = (getattr(batch.positive, f)[row] for f in ("text", "image", "text_image"))
            assert (text.text, len(image.images)) == (f"title of {name}", 1)
            assert both.images[0] is image.images[0]
            shown[name] = both
        for both in batch.negative.text_image:
            assert len(both.images) == 1
            assert "never" not in both.text
        is_added = {name: len(both.images) > 1 or "|" in both.text for name, both in shown.items()}
        assert batch.num_augmented == sum(is_added.values())
        counts.update(name for name, added_here in is_added.items() if added_here)
        if is_added["lamp0"]:
            both = shown["lamp0"]
            assert both.text == "title of lamp0 | Bright title of lamp0"
            assert [both.text[part.start : part.end] for part in both.parts] == [
                "title of lamp0", "Bright title of lamp0",
            ]  # fmt: skip
            assert {part.kind for part in both.parts} == {"title"}
            assert np.array_equal(both.images[1], triplets.pictures["extra0"])
    assert set(counts) == {"lamp0", "lamp1", "sofa3"}
    assert all(110 < count < 170 for count in counts.values())  # 140 of 200 expected
    never = triplets_of(shop, augmented=added, drop=1.0)
    assert never.batch(0, 99).num_augmented == 0


def test_broken_pictures_are_skipped_and_counted(shop):
    class Broken(dict):
        def __contains__(self, key):
            return key in shop.images

        def __missing__(self, key):
            return shop.images[key]

    whole = pictures_of(shop)
    broken = dict.fromkeys(("asked.i", "asked.b", "lamp0.0", "sofa2.0", "sofa2.1"), b"\xff\xd8 no")
    pictures = Pictures(Broken(broken), whole._decode)
    triplets = Triplets(shop, pictures)
    assert triplets.left_out == {"query": 1, "product": 1}  # lamp1 was asked by a picture; sofa2 has none
    for step in range(8):
        batch = triplets.batch(step, 99)
        row = row_of(triplets, batch, "lamp0")
        assert np.array_equal(batch.positive.image[row].images[0], pictures["lamp0.1"])
        row = row_of(triplets, batch, "sofa3")
        assert batch.query.text[row].text == "sofa"
        assert batch.query.image[row] is batch.query.text_image[row] is None
        assert "sofa2" not in pairs_of(triplets, batch).values()
    assert set(pictures.refused) == set(broken)


def test_a_batch_is_a_function_of_seed_and_step_alone(shop):
    first, again = triplets_of(shop, augment=0.5), triplets_of(shop, augment=0.5)
    again.batch(0, 2)
    for step in (4, 5):
        one, two = first.batch(step, 2), again.batch(step, 2)
        assert pairs_of(first, one) == pairs_of(again, two)
        assert np.array_equal(one.query_code, two.query_code)
        for a, b in zip(one.negative.text_image, two.negative.text_image, strict=True):
            assert a.text == b.text
            assert np.array_equal(a.images[0], b.images[0])
    drawn = np.concatenate([first.batch(step, 1).positive.product for step in range(10)])
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == sorted(set(drawn))  # an epoch shows every row once
    other = triplets_of(shop, seed=1)
    assert [first.batch(n, 1).positive.product.tolist() for n in range(9)] != [
        other.batch(n, 1).positive.product.tolist() for n in range(9)
    ]


def test_a_clicked_negative_is_one_clicked_beside_the_ordered_product_or_of_its_category(tmp_path):
    log = [
        *happened("impression", "r1", "t", "lamp0", "lamp1", "sofa0"),
        *happened("click", "r1", "t", "lamp0", "sofa0"),
        *happened("order", "r1", "t", "lamp0"),
        *happened("order", "r2", "k", "lamp3"),
    ]
    dataset = write(tmp_path / "log", PRODUCTS, QUERIES, log)
    triplets = Triplets(dataset, pictures_of(dataset), negatives="clicked")
    batch = triplets.batch(0, 2)
    ids = [product.product_id for product in triplets.products]
    found = dict(
        zip(batch.query_code.tolist(), zip(batch.sources, batch.negative.product, strict=True), strict=True)
    )
    by_query = {
        triplets.rows.query_ids[code]: (source, ids[product]) for code, (source, product) in found.items()
    }
    assert by_query["t"] == ("clicked", "sofa0")
    assert by_query["k"][0] == "category"
    assert by_query["k"][1].startswith("lamp")
