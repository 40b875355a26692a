"""Products as shops have them, in every stage: no picture, no words, too much of either, no neighbor."""

import math

import pytest
from small_log import START, pictures_of, png
from stage_parts import posttraining

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.stages.csft import CsftSettings, train_csft
from moontide.encoder.stages.exposures import Triplets
from moontide.encoder.stages.pairings import NINE
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.posttrain import NegativeSettings, PosttrainSettings, posttrain
from moontide.encoder.stages.triplets import TripletSettings, train_triplets
from moontide.foundation.errors import DataError
from moontide.foundation.runs import Run

NUM_IMAGES = {"bare": 0, "many": 12}
WORDS = " ".join(f"word{n}" for n in range(4_000))


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Dataset:
    """Each ordered once under words, once under a picture, once under both; "alone" has its category so."""
    names = ("bare", "mute", "many", "long", "alone", "plain0", "plain1", "plain2")
    path = tmp_path_factory.mktemp("data") / "odd"
    with DatasetWriter(path, "odd") as writer:
        products, queries, events = [], [], []
        for n, name in enumerate(names):
            ids = [f"{name}.{view}" for view in range(NUM_IMAGES.get(name, 2))]
            for view, image_id in enumerate((*ids, f"asked.{name}")):
                writer.add_image(image_id, png(100 * n + view))
            product = {"product_id": name, "title": f"title of {name}", "image_ids": ids, "created_at": START}
            product |= {"category": ["alone"] if name == "alone" else ["home", "lamp"]}
            product |= {"description": WORDS} if name == "long" else {}
            products.append(product | ({"title": "", "category": []} if name == "mute" else {}))
            for form, has in (("t", (True, False)), ("i", (False, True)), ("b", (True, True))):
                query = {"query_id": f"{form}.{name}", "text": f"{name} lamp" if has[0] else None}
                queries.append(query | {"image_id": f"asked.{name}" if has[1] else None})
                event = {"event_id": query["query_id"], "query_id": query["query_id"], "at": START}
                events.append(event | {"kind": "order", "product_id": name, "request_id": f"r.{form}.{name}"})
        writer.put("products", products)
        writer.put("queries", queries)
        writer.append("events", events)
    return Dataset.open(path)


ROUGH = {"num_steps": 3, "log_every": 1, "learning_rate": 1e-3}
STAGES = {
    "posttrain": (
        posttrain,
        PosttrainSettings(
            **ROUGH,
            pairings="nine",
            kinds=("order",),
            loss="circle",
            negatives=NegativeSettings(num_hard=2, queue=10_000, queue_from=0.0, check_every=1),
        ),
    ),
    "csft": (train_csft, CsftSettings(**ROUGH, queue=10_000, queue_from=0.0, momentum=0.9)),
    "triplets": (train_triplets, TripletSettings(**ROUGH)),
}


@pytest.mark.parametrize("batch_size", [1, 30])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_on_them_one_at_a_time_and_all_at_once(
    make_encoder, shop, tmp_path, name, batch_size
):
    train, settings = STAGES[name]
    run = Run.start(tmp_path / "run", "test", {}, 0)
    train(make_encoder(), shop, settings.but(batch_size=batch_size), run)
    assert len(run.metrics()) == 3
    assert all(math.isfinite(row["loss"]) for row in run.metrics())


def test_a_product_is_drawn_in_the_forms_that_it_has_something_for(make_encoder, shop):
    pairs = TrainingPairs(shop, pictures_of(shop), table=NINE, num_hard=1)
    drawn: dict[str, set[str]] = {}
    for number, pairing in enumerate(pairs.pairings):
        batch = pairs.batch(number, 0, 0, 30)
        names = {pairs.products[code].product_id for code in (*batch.product, *batch.hard_product)}
        drawn.setdefault(pairing.item_form, set()).update(names)
        for item in (*batch.items, *batch.hard):
            assert len(item.images) == pairing.item_form.endswith("image")
    assert {form: {"bare", "mute"} - found for form, found in drawn.items()} == {
        "rich": {"mute"},
        "image": {"bare"},
        "title_image": {"bare", "mute"},
        "rich_image": {"bare"},
    }
    triplets = Triplets(shop, pictures_of(shop))
    assert triplets.left_out == {"product": 6}  # three orders each of "bare" and "mute"
    encoder = make_encoder()
    long = next(product for product in shop.products() if product.product_id == "long")
    item = encoder.view(shop).item(long, shop.images, "rich_image")
    assert len(item.text) > 20_000
    limit = encoder.backbone.settings.max_text_tokens
    assert encoder.num_tokens(item) <= limit + encoder.num_tokens(
        encoder.view(shop).item(long, shop.images, "image")
    )


def test_the_age_of_a_queue_of_texts_needs_no_pictures(make_encoder, shop):
    step = posttraining(make_encoder(), shop, STAGES["posttrain"][1].but(num_steps=26, batch_size=30))
    number = next(n for n in range(1, 26) if step.batch(n).pairing.item_form == "rich")
    assert "bare" in step.ids(number)
    assert step(number)["fresh_cosine"] == pytest.approx(1)  # a text has one view


def test_a_category_of_one_looks_further_and_a_shop_of_one_is_refused_in_a_sentence(
    tmp_path, shop, make_encoder
):
    pairs = TrainingPairs(shop, pictures_of(shop), table=NINE, num_hard=1, kinds=("order",))
    batch = pairs.batch(0, 0, 0, 30)
    codes = {product.product_id: code for code, product in enumerate(pairs.products)}
    at = batch.product.tolist().index(codes["alone"])
    assert batch.hard_product[at] != codes["alone"]
    assert batch.hard_sources["random"] == 1
    with DatasetWriter(tmp_path / "one", "one") as writer:
        writer.add_image("i", png(1))
        writer.add_image("j", png(2))
        writer.put("products", [{"product_id": "only", "title": "a lamp", "image_ids": ["i"]}])
        queries = [{"query_id": "t", "text": "lamp"}, {"query_id": "u", "text": "light"}]
        writer.put("queries", queries)
        rows = [
            {"event_id": q["query_id"], "kind": "order", "product_id": "only", "at": START} for q in queries
        ]
        writer.append("events", [row | {"query_id": row["event_id"]} for row in rows])
    one = Dataset.open(tmp_path / "one")
    for name, message in (
        (
            "posttrain",
            "hard negatives need two different products, and all 1 .* set the number of hard negatives to 0",
        ),
        ("csft", "no negatives: all 1 train products .* are of one group; import more products"),
        ("triplets", "no negatives: all 1 train products .* are of one group; import more products"),
    ):
        train, settings = STAGES[name]
        with pytest.raises(DataError, match=message) as refused:
            train(make_encoder(), one, settings)
        assert len(str(refused.value).splitlines()) == 1


def test_more_added_pictures_than_the_encoder_takes_are_refused(make_encoder, shop):
    added = {name: (None, tuple(f"many.{view}" for view in range(12))) for name in ("many", "long")}
    with pytest.raises(DataError, match="an item has 13 pictures, more than 4"):
        train_triplets(make_encoder(), shop, STAGES["triplets"][1].but(drop=0.0), None, added)
