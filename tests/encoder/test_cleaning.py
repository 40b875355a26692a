"""Cleaning of order pairs: what each step drops, and that running a step again drops nothing more."""

import logging

import numpy as np
import pytest
from small_log import pictures_of, write

from moontide.encoder.model.inputs import Item, query_item
from moontide.encoder.stages.cleaning import (
    CleaningSettings,
    balanced,
    clean,
    hardest,
    keep_shares,
    merged,
)
from moontide.encoder.stages.pairings import MOON
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.foundation.errors import DataError, SettingsError

PRODUCTS = dict.fromkeys(("red lamp", "blue lamp", "tall lamp", "green lamp"), "home/lamp")
PRODUCTS |= {"red sofa": "home/sofa", "wide sofa": "home/sofa", "thing": "home/sofa", "red vase": ""}
QUERIES = {"q1": ("red lamp", False), "q2": ("lamp", False), "q3": (None, True), "q4": ("red sofa", True)}
QUERIES |= {"q5": ("blue lamp", False)}
WORDS = {"red", "blue", "green", "tall", "wide", "lamp", "sofa", "vase"}
ORDERS = [
    ("q1", "red lamp"),
    ("q1", "blue lamp"),  # of one SPU with the red lamp
    ("q2", "tall lamp"),
    ("q3", "tall lamp"),
    ("q5", "tall lamp"),
    ("q3", "thing"),
    ("q4", "red sofa"),
    ("q3", "red sofa"),
    ("q5", "blue lamp"),
    ("q5", "red lamp"),
    ("q4", "red vase"),
]


def num_entities(text: str) -> int:
    return sum(word in WORDS for word in text.lower().split())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    events = [("order", None, query, product) for query, product in ORDERS]
    spus = {"red lamp": "s", "blue lamp": "s"}
    dataset = write(tmp_path_factory.mktemp("data") / "shop", PRODUCTS, QUERIES, events, spus=spus)
    return TrainingPairs(dataset, pictures_of(dataset), table=MOON, kinds=("order",))


def shown(pairs) -> np.ndarray:
    times = {"red lamp": 6, "tall lamp": 2, "red sofa": 2, "red vase": 2}
    return np.array([times.get(product.product_id, 0) for product in pairs.products])


def encode(items):
    """Unit vectors that depend on the first picture, else on the words: no network, but a real encoder."""
    vectors = np.empty((len(items), 16))
    for row, item in enumerate(items):
        seen = int(item.images[0][:4].sum()) if item.images else sum(map(ord, item.text))
        vectors[row] = np.random.default_rng(seen).normal(size=16)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(pairs, rows) -> list[tuple[str, str]]:
    return sorted(
        (pairs.query(pairs.rows.query[row]).query_id, pairs.products[pairs.rows.product[row]].product_id)
        for row in rows
    )


def cleaned(pairs, *steps, rows=None, floor=None, **settings):
    return clean(
        pairs, shown(pairs), encode, num_entities, CleaningSettings(steps=steps, **settings), rows, floor
    )


# --- each step ------------------------------------------------------------


def test_rebalancing_keeps_the_shares_of_the_formula():
    pairs, shown = np.array([500, 300, 200]), np.array([20, 50, 30])
    assert keep_shares(pairs, shown, 1.0) == pytest.approx([0.4, 1, 1])
    exact = keep_shares(pairs, shown, None)
    assert exact == pytest.approx([0.24, 1, 0.9])
    kept = exact * pairs
    assert kept / kept.sum() == pytest.approx([0.2, 0.5, 0.3])
    category = np.repeat([0, 1, 2], pairs)
    for k, expected in ((1.0, [200, 300, 200]), (None, [120, 300, 180])):
        rows = balanced(category, shown, k, np.random.default_rng(0))
        assert np.bincount(category[rows]).tolist() == expected
        assert len(set(rows)) == len(rows)
    # at the exact setting nothing is left to thin; at k = 1 there is
    rows = balanced(category, shown, None, np.random.default_rng(0))
    assert len(balanced(category[rows], shown, None, np.random.default_rng(1))) == len(rows)
    rows = balanced(category, shown, 1.0, np.random.default_rng(0))
    assert len(balanced(category[rows], shown, 1.0, np.random.default_rng(1))) < len(rows)


def test_a_category_that_sells_unseen_goes_and_one_that_sells_nothing_changes_nothing():
    assert keep_shares(np.array([4, 4, 0]), np.array([1, 0, 1]), 1.0).tolist() == [1.0, 0.0, 1.0]
    assert keep_shares(np.array([4, 4, 0]), np.array([1, 0, 1]), None).tolist() == [1.0, 0.0, 1.0]
    rng = np.random.default_rng(0)
    sizes = [len(balanced(np.repeat([0, 1], 5), np.array([1, 2]), 1.0, rng)) for _ in range(400)]
    assert set(sizes) == {8, 9}  # 10 / 3 of five are kept: three, or now and then four
    assert np.mean(sizes) == pytest.approx(5 + 10 / 3, abs=0.08)


def test_texts_with_fewer_than_two_entities_are_dropped_and_pictures_are_not_asked(pairs):
    report = cleaned(pairs, "entities")
    kept = rows_of(pairs, report.rows)
    assert kept == sorted(pair for pair in ORDERS if pair[0] != "q2" and pair[1] != "thing")
    assert [(s.name, s.rows_in, s.rows_out) for s in report.steps] == [("entities", 11, 9)]
    assert rows_of(pairs, cleaned(pairs, "entities", min_entities=1).rows) == sorted(
        pair for pair in ORDERS if pair[1] != "thing"
    )


def test_the_pairs_of_one_query_and_spu_become_one(pairs):
    kept = rows_of(pairs, cleaned(pairs, "spu").rows)
    assert len(kept) == len(ORDERS) - 2
    assert sum(pair[0] in ("q1", "q5") and pair[1] in ("red lamp", "blue lamp") for pair in kept) == 2
    weight = np.array([1, 3, 3, 2, 1])
    assert merged(np.array([0, 0, 0, 1, 1]), np.array([7, 7, 7, 7, 8]), weight).tolist() == [1, 3, 4]


def test_the_hardest_pair_of_each_item_is_kept(pairs):
    report = cleaned(pairs, "hardest", guard=0)
    products = [pair[1] for pair in rows_of(pairs, report.rows)]
    assert len(products) == 5
    assert np.array_equal(cleaned(pairs, "hardest").rows, report.rows)  # 1 % of eleven is none
    assert {"tall lamp", "thing", "red sofa", "red vase"} < set(products)  # and one of the two of an SPU
    view, picture = pairs.stock.view, pairs.pictures
    tall = next(product for product in pairs.products if product.product_id == "tall lamp")
    asked = {"q2": encode([asked_item(pairs, "q2")]), "q3": encode([asked_item(pairs, "q3")])}
    asked["q5"] = encode([asked_item(pairs, "q5")])
    own = encode([view.item(tall, picture)])[0]
    expected = min(asked, key=lambda query: (asked[query] @ own).item())
    assert (expected, "tall lamp") in rows_of(pairs, report.rows)


def asked_item(pairs, query_id: str) -> Item:
    code = next(code for code in pairs.rows.query if pairs.query(code).query_id == query_id)
    query = pairs.query(code)
    return query_item(query.text, pairs.pictures[query.image_id] if query.image_id else None)


def test_pairs_under_the_guard_are_taken_for_mistakes():
    similarity = np.linspace(-1, 1, 201)
    item = np.arange(201) % 67
    floor = float(np.quantile(similarity, 0.01, method="lower"))
    kept = hardest(similarity, item, floor)
    assert similarity[kept].min() == pytest.approx(-0.98)
    assert len(kept) == len(set(item[kept])) == 67
    assert hardest(similarity - 1e-7, item, floor).tolist() == kept.tolist()  # in other batches, another bit
    assert hardest(similarity, item, -2.0).tolist() == list(range(67))
    few = np.array([0.3, 0.1])
    assert hardest(few, np.arange(2), float(np.quantile(few, 0.01, method="lower"))).tolist() == [0, 1]


def test_categories_are_thinned_to_what_was_shown(pairs):
    report = cleaned(pairs, "category")
    kept = [pair[1] for pair in rows_of(pairs, report.rows)]
    assert sum("lamp" in name for name in kept) == 7  # all: 8 of 12 exposures, 7 of 11 pairs
    assert sum(name in ("red sofa", "thing") for name in kept) in (1, 2)  # of 3: a sixth of 11 is 1.83
    assert sum("vase" in name for name in kept) == 1
    again = cleaned(pairs, "category")
    assert np.array_equal(again.rows, report.rows)


# --- all of them ------------------------------------------------------------


def test_all_but_the_last_step_change_nothing_when_run_again(pairs):
    steps = ("entities", "spu", "hardest")
    first = cleaned(pairs, *steps, guard=0.2)
    assert first.floor is not None
    again = cleaned(pairs, *steps, rows=first.rows, floor=first.floor)
    assert np.array_equal(again.rows, first.rows)
    assert all(step.rows_in == step.rows_out for step in again.steps)
    for step in steps:
        once = cleaned(pairs, step, guard=0.2)
        assert len(once.rows) < len(ORDERS)
        assert np.array_equal(cleaned(pairs, step, rows=once.rows, floor=once.floor).rows, once.rows)


def test_the_report_counts_rows_in_and_out_of_every_step(pairs, caplog):
    with caplog.at_level(logging.INFO):
        report = clean(pairs, shown(pairs), encode, num_entities)
    assert [step.name for step in report.steps] == ["entities", "spu", "hardest", "category"]
    assert report.steps[0].rows_in == len(ORDERS)
    assert report.steps[-1].rows_out == len(report.rows)
    for before, after in zip(report.steps, report.steps[1:], strict=False):
        assert before.rows_out == after.rows_in
    lines = [record.getMessage() for record in caplog.records]
    assert lines[1] == f"cleaning, spu: {report.steps[1].rows_in} rows in, {report.steps[1].rows_out} out"


def test_without_exposures_categories_stay_as_they_are_and_a_warning_says_so(pairs, caplog):
    report = clean(pairs, np.zeros(len(pairs.products)), encode, num_entities)
    assert [step.name for step in report.steps] == ["entities", "spu", "hardest"]
    assert "left out" in caplog.records[-1].getMessage()


def test_a_step_that_leaves_nothing_is_refused_by_name(pairs):
    with pytest.raises(DataError, match="step 'entities' left none of 11 pairs"):
        cleaned(pairs, "entities", min_entities=9)
    with pytest.raises(SettingsError, match="steps"):
        CleaningSettings(steps=("washing",))


def test_pairs_train_on_the_rows_that_are_left(pairs, tmp_path):
    report = cleaned(pairs, "entities", "spu")
    dataset = write(tmp_path / "copy", PRODUCTS, QUERIES, [("order", None, *pair) for pair in ORDERS])
    trained = TrainingPairs(dataset, pictures_of(dataset), table=MOON, kinds=("order",), rows=report.rows)
    batches = [trained.batch(number, 0, 0, 99) for number in range(len(trained.pairings))]
    drawn = {pair for batch in batches for pair in zip(batch.query, batch.product, strict=True)}
    assert drawn == {(pairs.rows.query[row], pairs.rows.product[row]) for row in report.rows}
    with pytest.raises(DataError, match="no pairing has two rows to draw, of 1 by order"):
        TrainingPairs(dataset, pictures_of(dataset), table=MOON[:2], kinds=("order",), rows=report.rows[:1])
