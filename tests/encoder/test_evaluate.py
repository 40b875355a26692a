"""The benchmark of an encoder: directions, galleries, image search, judged queries, the command."""

import hashlib
import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from encoder.conftest import COLORS, SHAPES, START, picture, write_catalog
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.evaluate import EvaluateSettings, as_tables, differences, evaluate, headline, show
from moontide.encoder.model.inputs import ProductView, canonical
from moontide.encoder.pool import Abilities, Pool
from moontide.encoder.verbs_evaluate import evaluate_command
from moontide.foundation.errors import DataError, SettingsError

RETRIEVAL = EvaluateSettings(tasks=("retrieval",), replicates=50)
LOOKS = [(color, shape) for color in COLORS for shape in SHAPES]


def hashed(items):
    """A vector that depends on all that an item shows, and on nothing else."""
    rows = []
    for item in items:
        shown = hashlib.sha256((item.text or "").encode() + b"".join(item.images)).digest()
        rows.append(np.random.default_rng(int.from_bytes(shown[:8], "big")).normal(size=6))
    vectors = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Recorder:
    """`hashed`, and every item it was given."""

    def __init__(self):
        self.items = []

    def __call__(self, items):
        self.items += items
        return hashed(items)


def sees_looks(dataset):
    """An encoder that knows color and shape of everything, and nothing else."""
    look_of = {}
    for product in dataset.products():
        for image_id in product.image_ids:
            look_of[dataset.images[image_id]] = tuple(product.title.split()[:2])
    for query in dataset.queries():
        if query.image_id and query.query_id.startswith("v"):
            look_of[dataset.images[query.image_id]] = LOOKS[int(query.query_id[1:]) % 12]

    def encode(items):
        looks = [
            LOOKS.index(look_of[item.images[0]] if item.images else tuple(item.text.split()[:2]))
            for item in items
        ]
        return np.eye(12, dtype=np.float32)[looks]

    return encode


def without(dataset, *tables):
    class Lacking(Dataset):
        def files(self, name):
            return [] if name in tables else super().files(name)

    return Lacking(dataset.path, dataset.info)


def value(card, task, direction, gallery, metric):
    row = card.find(task, direction, gallery, metric)
    assert row is not None, (task, direction, gallery, metric, card.notes)
    return row["value"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Six products, one without picture, one without text; a log, judgments; p0 and p1 are held out."""
    path = tmp_path_factory.mktemp("data") / "shop"
    with DatasetWriter(path, "shop") as writer:
        products = []
        for n in range(6):
            ids = [f"i{n}a", f"i{n}b"] if n != 4 else []
            for view, image_id in enumerate(ids):
                writer.add_image(image_id, picture(*LOOKS[n], seed=2 * n + view))
            title = "" if n == 5 else " ".join(LOOKS[n])
            products.append({"product_id": f"p{n}", "title": title, "category": ["A", "B"][n % 2 :][:1]})
            products[-1] |= {"image_ids": ids, "created_at": START}
        writer.put("products", products)
        sides = ["test", "test", *["train"] * 4]
        rows = [{"product_id": f"p{n}", "group_id": f"g{n}", "split": side} for n, side in enumerate(sides)]
        writer.put("splits", rows)
        writer.add_image("asked", picture("red", "square", seed=99))
        queries = [{"query_id": "v", "image_id": "asked"}, {"query_id": "t", "text": "red square"}]
        writer.put("queries", [*queries, {"query_id": "both", "text": "red", "image_id": "asked"}])
        events = [("v", "p0"), ("v", "p1"), ("v", "p2"), ("t", "p0"), ("t", "p3"), ("both", "p1")]
        rows = [{"event_id": f"{n}", "at": START, "kind": "click"} for n in range(len(events))]
        for row, (query, product) in zip(rows, events, strict=True):
            row |= {"query_id": query, "product_id": product}
        writer.append("events", rows)
        judged = [("v", "p0", 1.0, "test"), ("v", "p3", 0.5, "test"), ("v", "p2", 0.0, "test")]
        judged += [("t", "p2", 1.0, "train"), ("t", "p1", 1.0, "val"), ("both", "p4", None, "test")]
        names = ("query_id", "product_id", "grade", "source")
        writer.put("judgments", [dict(zip(names, row, strict=True)) for row in judged])
    return Dataset.open(path)


def test_every_direction_is_measured_by_queries_of_the_log(catalog):
    card = evaluate(catalog, sees_looks(catalog), settings=RETRIEVAL)
    found = {(row["direction"], row["gallery"]): row for row in card.rows if not row["slice"]}
    assert set(found) == {
        (direction, gallery)
        for direction in ("t->mm", "i->mm", "mm->mm", "t->i", "i->t")
        for gallery in ("held-out", "all")
    }
    assert {row["source"] for row in card.rows} == {"log", "log and photo"}
    assert found["mm->mm", "all"]["source"] == "log and photo"
    assert (found["t->mm", "held-out"]["n"], found["t->mm", "held-out"]["size"]) == (12, 12)
    assert found["t->mm", "all"]["size"] == 48
    for direction in ("t->mm", "mm->mm", "t->i"):  # all of one look were chosen for its text
        assert value(card, "retrieval", direction, "all", "recall@1") == 1
    for direction in ("i->mm", "i->t"):  # a picture was asked once: three others of its look tie
        assert value(card, "retrieval", direction, "all", "recall@1") == 0
        assert value(card, "retrieval", direction, "all", "recall@5") == 1
    assert card.notes == []


def test_recall_over_the_log_agrees_with_brute_force(catalog):
    card = evaluate(catalog, hashed, settings=RETRIEVAL)
    products = catalog.products()
    view = ProductView()
    shown = hashed([view.item(product, catalog.images) for product in products])
    picked = [n for n in range(48) if n % 4 == 3]
    for direction, asked in (("t->mm", "t"), ("i->mm", "v")):
        queries = {query.query_id: query for query in catalog.queries()}
        hits = []
        for n in picked:
            query = queries[f"{asked}{n}"]
            item = {"text": query.text} if query.text else {"image": catalog.images[query.image_id]}
            scores = shown @ hashed([canonical(item)])[0]
            also = [m for m in range(48) if m != n and asked == "t" and m % 12 == n % 12]
            others = [m for m in range(48) if m != n and m not in also]
            hits.append((scores[others] >= scores[n]).sum() < 5)
        assert value(card, "retrieval", direction, "all", "recall@5") == pytest.approx(np.mean(hits))


def test_without_a_log_products_are_asked_for_by_other_views_of_themselves(catalog):
    encode = Recorder()
    card = evaluate(without(catalog, "events", "queries"), encode, settings=RETRIEVAL)
    assert {row["source"] for row in card.rows} == {"views"}
    assert {row["direction"] for row in card.rows} == {"t->mm", "i->mm", "mm->mm", "t->i", "i->t"}
    assert {row["n"] for row in card.rows} == {12}
    titled = [item for item in encode.items if item.text and "number" in item.text and "|" in item.text]
    assert titled  # candidates of pictures show their title
    nameless = [item for item in encode.items if item.text and item.text.startswith("Acme")]
    assert len(nameless) == 48  # those of titles do not


def test_no_view_is_held_against_itself(catalog):
    dataset = without(catalog, "events", "queries")
    pool = Pool(dataset, hashed)
    photos = {catalog.images[product.image_ids[0]] for product in pool.products}
    encode = Recorder()
    evaluate(dataset, encode, settings=RETRIEVAL)
    asked = [item for item in encode.items if item.images and (item.text is None or "|" not in item.text)]
    queries = [item for item in asked if item.images[0] not in photos]
    assert len(queries) == 3 * 12  # i->mm, mm->mm, i->t ask with the photo that is not shown


def test_a_product_with_one_photo_asks_with_it_for_texts_alone(catalog):
    card = evaluate(
        without(catalog, "events", "queries"), hashed, ProductView(num_images=2), settings=RETRIEVAL
    )
    assert {row["direction"] for row in card.rows} == {"t->mm", "t->i", "i->t"}
    assert [note.split(":")[0] for note in card.notes] == ["i->mm", "mm->mm"]


def test_the_queries_training_did_not_see_are_a_slice(shop):
    card = evaluate(shop, hashed, settings=RETRIEVAL)
    whole = card.find("retrieval", "t->mm", "all", "recall@1")
    assert whole is not None
    assert whole["n"] == 1
    unseen = [row for row in card.rows if row["slice"] == "query not in training"]
    assert not [row for row in unseen if row["direction"] == "t->mm"]  # p3 is a train product
    assert not [row for row in unseen if row["direction"] == "i->mm"]  # so is p2


def test_a_query_with_text_and_picture_is_taken_from_the_log(shop):
    card = evaluate(shop, hashed, settings=RETRIEVAL)
    row = card.find("retrieval", "mm->mm", "all", "recall@1")
    assert row is not None
    assert (row["source"], row["n"]) == ("log", 1)


def test_what_else_was_chosen_for_a_query_counts_neither_way(shop):
    """v was answered by p0, p1 (both held out) and p2 (train): p2 ties in front, p1 when p0 is asked for."""
    products = shop.products()
    codes = {shop.images[i]: n for n, product in enumerate(products) for i in product.image_ids}
    order = [3, 1, 2, 9, 9, 9]  # scores of p0, p1, p2 against the asked picture; others far behind

    def encode(items):
        vectors = np.zeros((len(items), 2), np.float32)
        for row, item in enumerate(items):
            code = codes.get(item.images[0]) if item.images else 4
            vectors[row] = (1, 0) if code is None else (1 / order[code], 0)
        return vectors

    card = evaluate(shop, encode, settings=RETRIEVAL)
    assert value(card, "retrieval", "i->mm", "all", "recall@1") == 1
    assert card.answers["retrieval", "i->mm", "all"].rank.tolist() == [1, 1]


def test_the_gallery_of_a_form_holds_what_can_be_shown_in_it(shop):
    card = evaluate(shop, hashed, settings=RETRIEVAL)
    sizes = {row["direction"]: row["size"] for row in card.rows if row["gallery"] == "all"}
    assert sizes == {"t->mm": 6, "i->mm": 6, "mm->mm": 6, "t->i": 5, "i->t": 6}
    pool = Pool(without(shop, "judgments"), hashed)
    assert [product.category for product in pool.products][5] == ("B",)  # the text of a nameless product


def test_image_search_finds_each_of_several_positives(shop):
    settings = EvaluateSettings(tasks=("image search",), replicates=20)
    card = evaluate(shop, sees_pictures(shop), settings=settings)
    row = card.find("image search", "i->i", "positives", "recall@1")
    assert row is not None
    assert (row["n"], row["size"], row["value"]) == (1, 2, 1)
    assert value(card, "image search", "i->i", "positives", "found@1") == 0.5
    assert value(card, "image search", "i->i", "positives", "found@5") == 1
    assert card.find("image search", "i->i", "all", "found@5")["size"] == 5
    assert [row["slice"] for row in card.rows if row["metric"] == "recall@1" and row["slice"]] == ["A", "A"]


def sees_pictures(shop):
    """Distances on a line: the asked picture at 0, product n at n."""
    place = {shop.images[i]: n for n, p in enumerate(shop.products()) for i in p.image_ids}

    def encode(items):
        angle = np.array([place.get(item.images[0], 0) / 10 if item.images else 1.5 for item in items])
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    return encode


def test_image_search_shares_never_fall_with_k(catalog):
    card = evaluate(catalog, hashed, settings=EvaluateSettings(tasks=("image search",), replicates=20))
    for gallery in ("positives", "all"):
        for name in ("recall", "found"):
            values = [value(card, "image search", "i->i", gallery, f"{name}@{k}") for k in (1, 5, 10)]
            assert values == sorted(values)
    slices = {row["slice"]: row["n"] for row in card.rows if row["metric"] == "found@1"}
    assert slices == {"": 12, "Shapes": 12}


def test_judged_queries_are_held_against_what_was_judged_for_test(shop):
    settings = EvaluateSettings(tasks=("judged",), replicates=20)
    card = evaluate(shop, sees_pictures(shop), settings=settings)
    assert {(row["direction"], row["n"]) for row in card.rows} == {
        ("i->mm", 1),
        ("i->t", 1),
        ("i->i", 1),
        ("mm->mm", 1),
    }  # the text query was judged for training
    assert value(card, "judged", "i->i", "all", "recall@1") == 1
    assert value(card, "judged", "i->i", "all", "found@1") == 0.5
    gained = 1 + 0.5 / np.log2(1 + 4)  # p0 first; p3 fourth
    assert value(card, "judged", "i->i", "all", "nDCG@10") == pytest.approx(gained / (1 + 0.5 / np.log2(3)))


def test_judged_queries_of_val_are_asked_where_settings_say_so(shop):
    settings = EvaluateSettings(tasks=("judged",), judged="val", replicates=20)
    card = evaluate(shop, hashed, settings=settings)
    assert {(row["direction"], row["n"]) for row in card.rows} == {("t->mm", 1), ("t->i", 1)}


def test_a_capped_gallery_keeps_held_out_and_judged_products(shop, catalog):
    pool = Pool(catalog, hashed, max_gallery=20)
    assert pool.is_member.sum() == 20
    assert pool.is_member[pool.is_held].all()
    assert Pool(catalog, hashed, max_gallery=5).is_member.sum() == 12
    assert Pool(shop, hashed, max_gallery=1).is_member.tolist() == [True, True, True, True, True, False]


def test_any_product_of_the_group_is_a_positive(tmp_path):
    apart = write_catalog(tmp_path / "apart", 12)
    rows = apart.table("splits").to_pylist()
    rows = [row | {"group_id": "g3" if row["product_id"] == "p7" else row["group_id"]} for row in rows]
    with DatasetWriter(tmp_path / "joined", "joined", base=apart) as writer:
        writer.put("splits", rows)
    joined = Dataset.open(tmp_path / "joined")
    settings = RETRIEVAL.but(max_queries=100)
    for dataset, expected in ((apart, 1 / 3), (joined, 2 / 3)):
        look = sees_looks(dataset)

        def takes_three_for_seven(items, look=look):
            """Queries of look 3 lie on products of look 7."""
            vectors = look(items)
            asked = [row for row, item in enumerate(items) if item.text and "number" not in item.text]
            for row in asked:
                if vectors[row, 3]:
                    vectors[row] = np.eye(12)[7]
                elif vectors[row, 7]:
                    vectors[row] = 0
            return vectors

        card = evaluate(dataset, takes_three_for_seven, settings=settings)
        assert value(card, "retrieval", "t->mm", "all", "recall@1") == pytest.approx(expected)


def test_two_encoders_are_compared_query_by_query(catalog):
    cards = [evaluate(catalog, encode, settings=RETRIEVAL) for encode in (hashed, sees_looks(catalog))]
    rows = differences(*cards)
    gain = next(row for row in rows if (row["direction"], row["gallery"]) == ("t->mm", "all"))
    both = [value(card, "retrieval", "t->mm", "all", "recall@1") for card in cards]
    assert gain["value"] == pytest.approx(both[1] - both[0])
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert {row["value"] for row in differences(cards[0], cards[0])} == {0}


def test_the_same_seed_gives_the_same_card_and_json_can_hold_it(catalog):
    settings = EvaluateSettings(max_queries=7, replicates=30)
    first, second = (evaluate(catalog, hashed, settings=settings) for _ in range(2))
    assert json.dumps(first.rows, allow_nan=False) == json.dumps(second.rows, allow_nan=False)
    assert max(row["n"] for row in first.rows if row["task"] == "retrieval") == 7


def test_a_share_of_none_or_all_has_an_interval_of_its_own(catalog):
    card = evaluate(catalog, sees_looks(catalog), settings=RETRIEVAL)
    row = card.find("retrieval", "t->mm", "all", "recall@1")
    assert row is not None
    assert row["value"] == row["high"] == 1
    assert 0.7 < row["low"] < 0.8  # Wilson of 12 of 12


def test_constant_vectors_raise_the_alarm(catalog):
    settings = EvaluateSettings(tasks=("shape",))
    card = evaluate(catalog, lambda items: np.ones((len(items), 1), np.float32), settings=settings)
    assert value(card, "shape", "mm", "held-out", "mean cosine") == pytest.approx(1)
    assert value(card, "shape", "t-i", "held-out", "alignment") == 0
    assert "collapsed" in card.notes[0]


def test_the_seven_columns_are_rows_of_the_card(catalog):
    card = evaluate(catalog, hashed, settings=EvaluateSettings(replicates=20))
    seven = headline(card)
    assert list(seven) == ["t->mm", "i->mm", "mm->mm", "t->i", "i->t", "class", "attr"]
    assert seven["class"]["direction"] == "level 2"
    assert seven["attr"]["direction"] == "all keys"
    assert all(row in card.rows for row in seven.values())
    text = as_tables({"a": card, "b": card})
    assert "## b minus a, paired" in text
    assert f"| a | {show(seven['t->mm'])} |" in text


@pytest.mark.parametrize(
    ("abilities", "directions"),
    [
        (Abilities(crosses=False), {"t->mm", "i->mm", "mm->mm"}),
        (Abilities(frozenset(("t", "mm"))), {"t->mm", "mm->mm"}),
    ],
)
def test_what_an_encoder_cannot_do_is_left_out_and_said(catalog, abilities, directions):
    card = evaluate(catalog, hashed, settings=EvaluateSettings(replicates=20), abilities=abilities)
    assert {row["direction"] for row in card.rows if row["task"] == "retrieval"} == directions
    assert any("cannot compare" in note for note in card.notes)


def test_a_dataset_that_holds_nothing_out_is_refused_with_what_to_do(catalog):
    with pytest.raises(DataError, match="moontide data split"):
        evaluate(without(catalog, "splits"), hashed)


def test_judged_queries_need_no_held_out_product(shop):
    card = evaluate(without(shop, "splits"), hashed, settings=EvaluateSettings(replicates=20))
    assert {(row["task"], row["gallery"]) for row in card.rows} == {("judged", "all"), ("documents", "all")}
    assert any(note.startswith("classification: left out") for note in card.notes)


def test_an_unknown_task_is_refused():
    with pytest.raises(SettingsError, match="tasks"):
        EvaluateSettings(tasks=("retrieval", "poetry"))


def test_the_command_prints_a_table_and_writes_all_rows(catalog, make_encoder, tmp_path):
    make_encoder().save(tmp_path / "model")
    app = typer.Typer()
    app.command()(evaluate_command)
    arguments = [str(catalog.path), "--encoder", str(tmp_path / "model"), "--baseline", "pixels"]
    done = CliRunner().invoke(app, [*arguments, "--queries", "8", "--to", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "t->mm" in done.output
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(found["encoders"]) == ["model", "pixels and words"]
    assert found["fingerprint"] == catalog.fingerprint()
    assert "pixels and words minus model" in (tmp_path / "out" / "evaluation.md").read_text()


def test_the_command_says_what_it_lacks(catalog):
    app = typer.Typer()
    app.command()(evaluate_command)
    done = CliRunner().invoke(app, [str(catalog.path)])
    assert isinstance(done.exception, SettingsError)
    assert "--encoder" in str(done.exception)


# --- the two sides ------------------------------------------------------------


def test_queries_and_candidates_may_have_encoders_of_their_own_and_by_default_share_one(catalog):
    settings = EvaluateSettings(replicates=10, max_queries=10)
    plain = evaluate(catalog, hashed, settings=settings)
    asks, holds = Recorder(), Recorder()
    card = evaluate(catalog, holds, settings=settings, encode_queries=asks)
    assert card.rows == plain.rows
    assert card.notes == plain.notes
    only = settings.but(tasks=("retrieval", "image search", "judged"))
    asks, holds = Recorder(), Recorder()
    evaluate(catalog, holds, settings=only, encode_queries=asks)
    queries = {query.text for query in catalog.queries()} | {None}
    assert {item.text for item in asks.items} <= queries
    assert not {item.text for item in holds.items} & (queries - {None})
    shown = {catalog.images[image_id] for product in catalog.products() for image_id in product.image_ids[:1]}
    assert {picture for item in holds.items for picture in item.images} == shown


def test_zero_shot_products_are_asked_and_names_are_held(catalog):
    settings = EvaluateSettings(tasks=("classification", "attributes"), replicates=10, max_queries=10)
    asks, holds = Recorder(), Recorder()
    evaluate(catalog, holds, settings=settings, encode_queries=asks)
    names = {"Shapes", *SHAPES, *(f"color: {one}" for one in COLORS), *(f"form: {one}" for one in SHAPES)}
    assert {item.text for item in holds.items} <= names
    assert {f"color: {one}" for one in COLORS} <= {item.text for item in holds.items}
    assert all(item.images for item in asks.items)


def test_products_may_be_shown_by_title_and_picture_alone(catalog):
    settings = EvaluateSettings(replicates=10, max_queries=10, text="title")
    seen = Recorder()
    card = evaluate(catalog, seen, settings=settings)
    texts = {item.text for item in seen.items if item.text and item.parts}
    assert not any(word in text for text in texts for word in ("Acme", "Shapes", "color:", "form:"))
    titles = {product.title for product in catalog.products()}
    assert texts & titles
    assert {row["direction"] for row in card.rows if row["task"] == "retrieval"} == {
        "t->mm", "i->mm", "mm->mm", "t->i", "i->t",
    }  # fmt: skip
