"""Pairings, schedules, hard negatives: which rows are drawn, in which forms, and what is set against them."""

import logging
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from small_log import START, pictures_of, write

from moontide.encoder.model.inputs import Cropped, ProductView
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.stages.pairings import CATALOG, MOON, NINE, Pairing
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.rows import log_rows, num_exposures
from moontide.foundation.errors import DataError, SettingsError

CSFT = tuple(
    Pairing(query, item, 1 / 3, "log", 1)
    for query, item in (("image", "image"), ("text", "title"), ("text_image", "title_image"))
)
PRODUCTS = {
    **{f"lamp{n}": "home/lamp" for n in range(5)},
    **{f"sofa{n}": "home/sofa" for n in range(4)},
    "vase": "home/vase",
    "jug": "home/vase",
    **{f"rug{n}": "home/rug" for n in range(3)},
    "odd": "odd/one",
    "bare": "",
}
QUERIES = {"t": ("warm lamp", False), "T": ("Warm  LAMP", False), "i": (None, True), "b": ("sofa", True)}
QUERIES |= {"u": ("seat", False), "j": (None, True)}


def chosen(kind: str, request: str | None, query: str, *products: str) -> list[tuple]:
    return [(kind, request, query, product) for product in products]


EVENTS = [
    *chosen("impression", "r1", "t", "lamp0", "lamp1", "sofa0", "sofa1"),
    *chosen("click", "r1", "t", "lamp0", "lamp1", "sofa0"),
    *chosen("order", "r1", "t", "lamp0"),
    *chosen("cart", "r2", "T", "lamp2"),
    *chosen("order", "r3", "i", "lamp1"),
    *chosen("order", "r3", "i", "lamp2"),
    *chosen("order", "r4", "b", "sofa1"),
    *chosen("click", "r4", "b", "sofa2"),
    *chosen("order", "r5", "u", "sofa3", "vase", "sofa0", "sofa1"),
    *chosen("order", "r6", "j", "lamp3", "odd"),
    *chosen("order", "r7", "b", "sofa0"),
    *chosen("click", "r8", "t", "lamp0", "sofa1"),  # lamp0 was ordered in another request
]
SPUS = {"lamp3": "s", "lamp4": "s", "rug0": "r", "rug1": "r"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shop"
    return write(path, PRODUCTS, QUERIES, EVENTS, spus=SPUS, test=["lamp1"])


def pairs_of(dataset, **changes) -> TrainingPairs:
    return TrainingPairs(dataset, pictures_of(dataset), **changes)


def names(pairs, codes) -> list[str]:
    return [pairs.products[code].product_id for code in codes]


def number_of(pairs, query_form, item_form) -> int:
    forms = [(pairing.query_form, pairing.item_form) for pairing in pairs.pairings]
    return forms.index((query_form, item_form))


# --- schedules ------------------------------------------------------------


def test_every_cycle_of_the_nine_pairings_holds_exactly_the_counts_of_the_table(shop):
    pairs = pairs_of(shop, table=NINE)
    assert [pairing.count for pairing in pairs.pairings] == [2, 2, 2, 5, 2, 5, 2, 5, 1]
    plan = pairs.plan(26 * 7 + 3)
    cycles = [plan[start : start + 26] for start in range(0, 26 * 7, 26)]
    for cycle in cycles:
        assert np.bincount(cycle).tolist() == [2, 2, 2, 5, 2, 5, 2, 5, 1]
    assert len({cycle.tobytes() for cycle in cycles}) == 7  # each shuffled anew
    assert np.array_equal(pairs.plan(30), plan[:30])  # a longer run begins alike
    assert not np.array_equal(pairs_of(shop, table=NINE, seed=1).plan(26), plan[:26])
    shares = [0.0769, 0.0769, 0.0769, 0.1923, 0.0769, 0.1923, 0.0769, 0.1923, 0.0385]
    assert [pairing.share for pairing in pairs.pairings] == pytest.approx(shares, abs=1e-4)


def test_queries_are_image_text_and_both_at_12_to_3_to_2_over_every_17_draws(shop):
    pairs = pairs_of(shop, table=MOON)
    forms = [pairs.pairings[number].query_form for number in pairs.plan(17 * 6)]
    for start in range(0, len(forms), 17):
        assert Counter(forms[start : start + 17]) == {"image": 12, "text": 3, "text_image": 2}
    assert {pairing.item_form for pairing in pairs.pairings} == {"rich_image"}


def test_a_pairing_without_rows_leaves_its_steps_to_the_others_and_a_line_in_the_log(tmp_path, caplog):
    only_text = [event for event in EVENTS if event[2] in "tTu"]
    dataset = write(tmp_path / "text", PRODUCTS, QUERIES, only_text)
    with caplog.at_level(logging.WARNING):
        pairs = pairs_of(dataset, table=NINE)
    [record] = caplog.records
    assert "image -> image, image -> title_image, image -> rich_image" in record.getMessage()
    counts = [2, 2, 2, 5, 5, 1]  # 17 steps a cycle
    assert np.bincount(pairs.plan(34)).tolist() == [2 * count for count in counts]
    assert [pairing.share for pairing in pairs.pairings] == pytest.approx([n / 17 for n in counts])


def test_the_forms_of_every_table_are_those_of_its_pairings(shop):
    for table in (NINE, MOON, CSFT):
        pairs = pairs_of(shop, table=table, num_hard=2)
        assert len(pairs.pairings) == len(table)
        for number, pairing in enumerate(pairs.pairings):
            batch = pairs.batch(number, 0, 0, 4)
            sides = ((pairing.query_form, batch.queries), (pairing.item_form, [*batch.items, *batch.hard]))
            for form, items in sides:
                assert all(bool(item.images) == form.endswith("image") for item in items)
                assert all(bool(item.text) == (form != "image") for item in items)


def test_a_mixed_batch_draws_a_pairing_for_each_row(shop):
    pairs = pairs_of(shop, table=NINE, is_mixed=True, num_hard=1)
    plan = pairs.plan(3)
    batch = pairs.batch(plan[2], 2, 2, 200)
    assert batch.pairing is None
    assert len(batch.items) == len(batch.hard) == 200
    shares = [p.share for p in pairs.pairings]
    text_only = sum(share for share, p in zip(shares, pairs.pairings, strict=True) if p.query_form == "text")
    assert np.mean([not item.images for item in batch.queries]) == pytest.approx(text_only, abs=0.12)
    for item, hard in zip(batch.items, batch.hard, strict=True):
        assert (bool(item.text), bool(item.images)) == (bool(hard.text), bool(hard.images))
    again = pairs.batch(plan[2], 2, 2, 200)
    assert np.array_equal(again.product, batch.product)
    assert not np.array_equal(pairs.batch(plan[1], 1, 1, 200).product, batch.product)


# --- rows ------------------------------------------------------------


def test_product_queries_come_from_the_log_or_else_from_the_products_other_photo(shop, tmp_path):
    pairs = pairs_of(shop, table=NINE)
    number = number_of(pairs, "text_image", "rich_image")
    batch = pairs.batch(number, 0, 0, 9)
    assert pairs.pairings[number].source == "log"
    assert {item.text for item in batch.queries} == {"sofa"}
    assert all(np.array_equal(item.images[0], pairs.pictures["asked.b"]) for item in batch.queries)

    dataset = write(tmp_path / "rest", PRODUCTS, QUERIES, [e for e in EVENTS if e[2] != "b"])
    pairs = pairs_of(dataset, table=NINE)
    for item_form in ("title_image", "rich_image"):
        number = number_of(pairs, "title_image", item_form)
        assert pairs.pairings[number].source == "catalog"
        batch = pairs.batch(number, 0, 0, 12)
        for query, item, code in zip(batch.queries, batch.items, batch.product, strict=True):
            views = [pairs.pictures[image_id] for image_id in pairs.products[code].image_ids]
            assert query.text == pairs.products[code].title
            at = [
                [np.array_equal(side.images[0], view) for view in views].index(True) for side in (query, item)
            ]
            assert sorted(at) == [0, 1]
        assert set(batch.query) == {-1}


def test_only_the_kinds_asked_for_make_positives(shop):
    ids = [product.product_id for product in shop.products()]
    wanted = np.ones(len(ids), bool)
    for kinds, expected in (
        (("order",), {"lamp0", "lamp1", "lamp2", "sofa0", "sofa1", "sofa3", "vase", "lamp3", "odd"}),
        (("cart",), {"lamp2"}),
        (("click",), {"lamp0", "lamp1", "sofa0", "sofa1", "sofa2"}),
    ):
        rows = log_rows(shop, ids, wanted, kinds=kinds)
        assert {ids[code] for code in rows.product} == expected
    pairs = pairs_of(shop, table=MOON, kinds=("order",))
    assert "lamp1" not in names(pairs, pairs.rows.product)  # held out
    assert pairs.rows.weight.tolist() == [3] * 10
    number = number_of(pairs, "text", "rich_image")
    once = ["lamp0", "sofa0", "sofa1", "sofa3", "vase"]
    assert sorted(names(pairs, pairs.batch(number, 0, 0, 99).product)) == once
    with pytest.raises(SettingsError, match="some of click, cart, order, got impression"):
        log_rows(shop, ids, wanted, kinds=("impression",))
    with pytest.raises(SettingsError, match="got none"):
        log_rows(shop, ids, wanted, kinds=())


def test_judgments_for_training_stand_in_for_a_log(tmp_path):
    def judged(query, product, source, grade=1.0):
        return {"query_id": query, "product_id": product, "source": source, "grade": grade}

    judgments = [judged("i", "lamp0", "train"), judged("j", "sofa0", "train", None)]
    judgments += [judged("i", "lamp2", "test"), judged("j", "lamp3", "train", 0.0)]
    judgments += [judged("i", "nothing", "train"), judged("no query", "lamp3", "train")]
    dataset = write(tmp_path / "judged", PRODUCTS, QUERIES, [], judgments=judgments)
    pairs = pairs_of(dataset, table=MOON[:1], kinds=("order",), num_hard=1)
    asked = [pairs.query(code).query_id for code in pairs.rows.query]
    assert set(zip(asked, names(pairs, pairs.rows.product), strict=True)) == {("i", "lamp0"), ("j", "sofa0")}
    assert len(pairs.batch(0, 0, 0, 8).items) == 2
    with pytest.raises(DataError, match="no click of a train product"):
        pairs_of(dataset, kinds=("click",))


def test_without_an_order_orders_alone_are_refused_with_a_remedy(tmp_path):
    clicks = [event for event in EVENTS if event[0] == "click"]
    dataset = write(tmp_path / "clicks", PRODUCTS, QUERIES, clicks)
    with pytest.raises(DataError, match=r"nothing to pair: no order .* let all of click, cart, order count"):
        pairs_of(dataset, table=NINE, kinds=("order",))
    assert pairs_of(dataset, table=NINE).pairings


def test_rows_that_are_left_out_are_not_drawn_but_stay_positives(shop):
    whole = pairs_of(shop, table=MOON)
    dropped = names(whole, whole.rows.product).index("lamp2")
    rows = np.delete(np.arange(len(whole.rows.product)), dropped)
    pairs = pairs_of(shop, table=MOON, rows=rows, num_hard=2)
    drawn = {number: pairs.batch(number, 0, 0, 99) for number in range(3)}
    asked = (int(whole.rows.query[dropped]), int(whole.rows.product[dropped]))
    seen = {pair for batch in drawn.values() for pair in zip(batch.query, batch.product, strict=True)}
    assert asked not in seen
    assert len(seen) == len(rows)
    assert np.array_equal(pairs.positives, whole.positives)
    text = drawn[number_of(pairs, "text", "rich_image")]
    own = np.repeat(text.query, 2) == asked[0]
    assert own.any()
    assert asked[1] not in text.hard_product[own]


def test_queries_of_the_same_words_are_one_query(shop):
    pairs = pairs_of(shop)
    of_lamp = [code for code in pairs.rows.query if pairs.query(code).text == "warm lamp"]
    assert len(set(of_lamp)) == 1
    assert len(of_lamp) == 4  # lamp0, sofa0, sofa1 and, asked in capitals, lamp2


def test_exposures_are_counted_until_the_cutoff(shop):
    ids = [product.product_id for product in shop.products()]
    assert dict(zip(ids, num_exposures(shop, ids), strict=True))["sofa1"] == 1
    assert num_exposures(shop, ids).sum() == 4
    assert num_exposures(shop, ids, START + timedelta(hours=2)).sum() == 2


def test_text_alone_needs_no_picture_of_the_product(tmp_path):
    dataset = write(tmp_path / "words", PRODUCTS, QUERIES, EVENTS, num_images=0)
    pairs = pairs_of(dataset, table=NINE)
    assert [(p.query_form, p.item_form) for p in pairs.pairings] == [("text", "rich")]
    assert "home > lamp" in pairs.batch(0, 0, 0, 9).items[0].text + pairs.batch(0, 0, 0, 9).items[1].text


# --- hard negatives ------------------------------------------------------------


def test_hard_negatives_are_of_the_finest_category_with_two_other_products(shop):
    pairs = pairs_of(shop, table=CATALOG, catalog_share=1.0, num_hard=2)
    batch = pairs.batch(number_of(pairs, "title", "image"), 0, 0, 99)
    hard = dict(zip(names(pairs, batch.product), batch.hard_product.reshape(-1, 2), strict=True))
    assert set(names(pairs, hard["lamp0"])) <= {"lamp2", "lamp3", "lamp4"}  # not lamp1: held out
    assert set(names(pairs, hard["sofa0"])) <= {"sofa1", "sofa2", "sofa3"}
    assert set(names(pairs, hard["lamp3"])) == {"lamp0", "lamp2"}  # not lamp4: the same SPU
    # with one other in its leaf, or one of another SPU, a product looks one level up
    steps = [pairs.batch(0, 0, step, 99) for step in range(20)]
    for name, leaf in (("vase", ("home", "vase")), ("rug0", ("home", "rug")), ("rug2", None)):
        at = names(pairs, batch.product).index(name)
        found = {
            pairs.products[code].category for step in steps for code in step.hard_product[2 * at : 2 * at + 2]
        }
        assert {path[0] for path in found} == {"home"}
        assert (found == {("home", "rug")}) == (leaf is None)
    assert all(len(set(codes)) == 2 and pairs.is_train[codes].all() for codes in hard.values())
    assert batch.hard_sources == {"category": 2 * (len(hard) - 2), "random": 4}  # "odd" and "bare" have none
    for item, code in zip(batch.hard, batch.hard_product, strict=True):
        views = [pairs.pictures[image_id] for image_id in pairs.products[code].image_ids]
        assert any(np.array_equal(item.images[0], view) for view in views)
    assert len({pairs.category[code] for code in hard["sofa0"]}) == 1
    assert pairs.category[names(pairs, range(len(PRODUCTS))).index("bare")] == -1


def test_what_was_chosen_for_the_query_is_no_hard_negative(shop):
    pairs = pairs_of(shop, table=MOON, kinds=("order",), num_hard=2)
    positives = set(pairs.positives.tolist())
    for number in range(3):
        for step in range(20):
            batch = pairs.batch(number, 0, step, 99)
            alone = 2 * names(pairs, batch.product).count("odd")
            assert batch.hard_sources == Counter(category=2 * len(batch.items) - alone) + Counter(
                random=alone
            )
            for query, code in zip(np.repeat(batch.query, 2), batch.hard_product, strict=True):
                assert query * len(pairs.products) + code not in positives
            mask = not_negative(
                batch.product, batch.hard_product, pairs.group, None, batch.query, pairs.positives
            )
            assert not mask[np.repeat(range(len(mask)), 2), range(2 * len(mask))].any()


def test_held_out_products_are_no_hard_negatives_in_any_form(shop):
    pairs = pairs_of(shop, table=NINE, num_hard=2)
    for number in range(len(pairs.pairings)):
        for step in range(8):
            assert pairs.is_train[pairs.batch(number, 0, step, 99).hard_product].all()


def test_clicked_but_not_ordered_products_of_the_request_come_first(shop):
    pairs = pairs_of(shop, table=CSFT, kinds=("order",), num_hard=2, hard_kind="clicked")
    text = pairs.batch(number_of(pairs, "text", "title"), 0, 0, 9)
    at = names(pairs, text.product).index("lamp0")
    own = names(pairs, text.hard_product.reshape(-1, 2)[at])
    assert own[0] == "sofa0"  # clicked in r1; lamp1 was, too, but is held out
    assert own[1].startswith("lamp")
    both = pairs.batch(number_of(pairs, "text_image", "title_image"), 0, 0, 9)
    hard = dict(zip(names(pairs, both.product), both.hard_product.reshape(-1, 2).tolist(), strict=True))
    assert names(pairs, hard["sofa1"])[0] == "sofa2"
    assert both.hard_sources["clicked"] == 1  # sofa0 was ordered in a request without other clicks
    assert sum(both.hard_sources.values()) == 4


def test_hard_negatives_depend_on_seed_and_step_alone(shop):
    first, again, other = (
        pairs_of(shop, table=MOON, num_hard=2, seed=seed, augment=0.5) for seed in (0, 0, 1)
    )
    again.batch(1, 0, 0, 4)
    batch, same = first.batch(0, 3, 7, 4), again.batch(0, 3, 7, 4)
    assert np.array_equal(batch.hard_product, same.hard_product)
    for a, b in zip(batch.hard, same.hard, strict=True):
        assert a.text == b.text
        assert all(np.array_equal(x, y) for x, y in zip(a.images, b.images, strict=True))
    steps = [first.batch(2, 0, step, 4).hard_product.tolist() for step in range(6)]
    assert len(set(map(tuple, steps))) > 1
    assert [other.batch(2, 0, step, 4).hard_product.tolist() for step in range(6)] != steps


def test_a_batch_of_one_and_a_catalog_of_one_group(shop, tmp_path):
    pairs = pairs_of(shop, table=MOON, num_hard=3)
    batch = pairs.batch(0, 5, 5, 1)
    assert len(batch.items) == 1
    assert len(batch.hard) == 3
    few = {"a": "x/y", "b": "x/y", "c": "x/y"}
    dataset = write(tmp_path / "few", few, QUERIES, [], num_images=1, spus={"b": "s", "c": "s"})
    pairs = pairs_of(dataset, table=CATALOG, num_hard=4)  # twelve slots, at most two others to fill them
    batch = pairs.batch(0, 0, 0, 3)
    assert len(batch.hard) == 12
    for code, hard in zip(batch.product, batch.hard_product.reshape(3, 4), strict=True):
        assert not (pairs.group[hard] == pairs.group[code]).any()
    dataset = write(tmp_path / "one", few, QUERIES, [], spus=dict.fromkeys(few, "s"))
    pairs = pairs_of(dataset, table=CATALOG, num_hard=1)
    with pytest.raises(DataError, match="all 3 that can be shown as 'image' are of one group"):
        pairs.batch(0, 0, 0, 3)


def test_a_product_without_a_title_is_in_no_form_that_is_named_for_one(tmp_path):
    dataset = write(tmp_path / "shop", PRODUCTS, QUERIES, EVENTS, untitled=["lamp0", "lamp2"])
    pairs = pairs_of(dataset, table=NINE, num_hard=3)
    seen = {form: set() for form in ("image", "title_image", "rich", "rich_image")}
    for number, pairing in enumerate(pairs.pairings):
        batch = pairs.batch(number, 0, 0, 99)
        seen[pairing.item_form] |= {*names(pairs, batch.product), *names(pairs, batch.hard_product)}
    for form, found in seen.items():
        assert bool(found & {"lamp0", "lamp2"}) == (form in ("image", "rich_image"))


# --- views ------------------------------------------------------------


class Middle:
    """A region in every picture but the second of each product."""

    def box(self, image_id: str, title: str):
        return (0.25, 0.25, 0.75, 0.75) if image_id.endswith(".0") else None


def test_products_are_shown_as_the_view_says_and_queries_are_not(shop):
    pairs = pairs_of(shop, table=CATALOG, catalog_share=1.0, augment=1.0, view=ProductView(regions=Middle()))
    batch = pairs.batch(number_of(pairs, "image", "rich_image"), 0, 0, 12)
    found = set()
    for query, item, code in zip(batch.queries, batch.items, batch.product, strict=True):
        assert len(query.images) == 1
        picture, crop = item.images
        main = pairs.pictures[pairs.products[code].image_ids[0]]
        if isinstance(crop, Cropped):
            assert crop.source is main  # as it was: the box would not fit the variation
            assert not np.array_equal(picture, main)
        else:
            assert crop is picture
        found.add(type(crop))
    assert len(found) == 2

    pairs = pairs_of(shop, table=NINE, view=ProductView(num_images=2))
    batch = pairs.batch(number_of(pairs, "text", "rich_image"), 0, 0, 4)
    assert {len(item.images) for item in batch.items} == {2}
    pairs = pairs_of(shop, table=CATALOG, view=ProductView(num_images=2))
    batch = pairs.batch(number_of(pairs, "image", "image"), 0, 0, 9)
    for query, item in zip(batch.queries, batch.items, strict=True):
        assert [np.array_equal(query.images[0], picture) for picture in item.images] == [False]


def test_equal_contents_share_a_code_whatever_the_step(shop):
    pairs = pairs_of(shop, table=NINE, num_hard=1, augment=0.5)
    number = number_of(pairs, "text", "rich")
    first, second = (pairs.batch(number, turn, turn, 99) for turn in (0, 1))
    codes = dict(zip(first.product.tolist(), first.content.tolist(), strict=True))
    assert dict(zip(second.product.tolist(), second.content.tolist(), strict=True)) == codes
    hard = zip(first.hard_product.tolist(), first.hard_content.tolist(), strict=True)
    assert all(codes.get(product, content) == content for product, content in hard)
    assert len(set(codes.values())) == len(codes)
    photo = number_of(pairs, "text", "image")
    contents = {int(c) for turn in range(8) for c in pairs.batch(photo, turn, turn, 99).content}
    num_products = len(set(pairs.batch(photo, 0, 0, 99).product.tolist()))
    assert len(contents) == 2 * num_products  # either of two pictures
    pairs = pairs_of(shop, table=NINE, view=ProductView(num_images=2))
    contents = {int(c) for turn in range(8) for c in pairs.batch(photo, turn, turn, 99).content}
    assert len(contents) == num_products  # both pictures


def test_a_table_of_shares_alone_is_taken_as_before(shop):
    table = (Pairing("text", "image", 0.75, "log"), Pairing("image", "image", 0.25, "log"), *CATALOG[:1])
    pairs = pairs_of(shop, table=table, catalog_share=0.5)
    assert np.bincount(pairs.plan(80)).tolist() == [30, 10, 40]
    assert pairs.pairings[0] == replace(table[0], share=0.375)
