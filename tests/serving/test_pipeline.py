"""Every step of a request by its values, against the same computed plainly."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_shop import COLORS, full_parts, open_pipeline, picture

from moontide.catalog.dataset import DatasetWriter
from moontide.foundation.errors import DataError
from moontide.serving.parts import Parts
from moontide.serving.pipeline import Pipeline, PipelineSettings
from moontide.serving.request import RequestError
from moontide.serving.stock import Stock

STEPS = ["check", "encode", "retrieve", "relevance", "rank", "auction", "creative", "order"]


def plainly(pipeline, text=None, image=None, shopper=None):
    """Relevance, p(click) and quality of every product, without retrieval."""
    query = pipeline.parts.encoder.encode_query(text, image)
    rows = np.arange(len(pipeline.stock.products))
    relevance = pipeline.parts.shard.vectors_of(rows) @ query
    p_click = pipeline.parts.clicks.p_click(None, pipeline.stock.past(shopper), query, rows)
    cut = relevance.max() - pipeline.settings.relevance_margin
    return relevance, p_click, np.clip((relevance - cut) / pipeline.settings.relevance_margin, 0, 1)


def steps(answer):
    return {step.name: step for step in answer.trace.steps}


def without(answer):
    """An answer without its timings."""
    facts = answer.to_dict()
    del facts["total_ms"]
    for step in facts["trace"]:
        del step["ms"]
    return facts


def test_ads_pay_what_would_just_have_kept_their_place(pipeline):
    answer = pipeline.search("blue", shopper_id="bob")
    relevance, p_click, quality = plainly(pipeline, "blue", shopper="bob")
    bid = np.array([pipeline.stock.bid_cents[row] for row in range(24)], float)
    score = bid * p_click * quality
    order = [row for row in np.argsort(-score, kind="stable") if score[row] > 0]
    assert len(order) > len(answer.ads) == 4
    for place, ad in enumerate(answer.ads):
        row, after = order[place], order[place + 1]
        just_enough = score[after] / (p_click[row] * quality[row])
        assert ad.product_id == f"p{row:02d}"
        assert ad.charge_cents == min(np.floor(max(just_enough, 1.0) + 1e-9) + 1, bid[row])
        assert (ad.bid_cents, ad.campaign_id) == (bid[row], f"a-p{row:02d}")
        assert ad.rank_score == pytest.approx(score[row], rel=1e-4)
        assert (ad.relevance, ad.p_click) == pytest.approx((relevance[row], p_click[row]), abs=1e-6)


def test_the_last_ad_pays_the_reserve_and_none_pays_more_than_its_bid(pipeline):
    def ads(**settings):
        settings = PipelineSettings(num_ads=20, **settings)
        return Pipeline(pipeline.dataset, pipeline.stock, pipeline.parts, settings).search("blue").ads

    assert ads()[-1].charge_cents == 2  # one cent above the reserve of one
    assert all(ad.charge_cents <= ad.bid_cents for ad in ads())
    shown = {ad.bid_cents: ad.charge_cents for ad in ads(reserve_cents=38)}
    assert shown == {42: 39, 38: 38}  # the last is capped at its bid; lower bids are out
    assert ads(reserve_cents=42.5) == []


def test_alpha_weighs_the_click_probability(pipeline):
    settings = PipelineSettings(alpha=0.0)
    answer = Pipeline(pipeline.dataset, pipeline.stock, pipeline.parts, settings).search("blue")
    _, _, quality = plainly(pipeline, "blue")
    for ad in answer.ads:
        row = int(ad.product_id[1:])
        assert ad.rank_score == pytest.approx(ad.bid_cents * quality[row], rel=1e-4)


def test_an_ad_below_the_relevance_floor_is_dropped_whatever_it_bids(pipeline):
    relevance, _, _ = plainly(pipeline, "red mug")
    answer = pipeline.search("red mug")
    assert answer.ads == []  # the red mug's own campaign is paused
    assert steps(answer)["relevance"].text == f"0 of 9 ads are above {relevance.max() - 0.3:.3f}"
    wide = PipelineSettings(relevance_margin=2.0)
    assert len(Pipeline(pipeline.dataset, pipeline.stock, pipeline.parts, wide).search("red mug").ads) == 4


def test_products_are_ordered_by_quality_and_click_probability_and_none_is_also_an_ad(pipeline):
    answer = pipeline.search("blue", shopper_id="bob", num=48)
    relevance, p_click, quality = plainly(pipeline, "blue", shopper="bob")
    advertised = {ad.product_id for ad in answer.ads}
    assert advertised
    order = np.lexsort((-relevance, -quality * np.sqrt(p_click)))
    expected = [f"p{row:02d}" for row in order if f"p{row:02d}" not in advertised]
    assert [product.product_id for product in answer.products] == expected
    assert len(expected) + len(advertised) == 24


def test_as_many_products_come_as_were_asked_for(pipeline):
    for num in (1, 7):
        assert len(pipeline.search("lamp", num=num).products) == num


def test_a_picture_finds_what_looks_like_it(shop):
    answer = open_pipeline(shop, clicks=False).search(image=picture(COLORS["green"], 3))
    assert (answer.text, answer.has_image) == (None, True)
    greens = {shown.title.split()[0] for shown in answer.products[:6]}
    assert greens == {"Green"}  # none is advertised
    assert steps(answer)["encode"].text == "picture to 64 numbers"


def test_words_and_a_picture_count_together(shop):
    pipeline = open_pipeline(shop, clicks=False)
    image = picture(COLORS["yellow"])
    answer = pipeline.search("lamp", image)
    assert answer.products[0].title == "Yellow lamp <No. 7>"
    assert steps(answer)["encode"].text == "text and picture to 64 numbers"
    assert pipeline.search("lamp").products[0].title != answer.products[0].title


def test_a_past_changes_click_probabilities_and_creatives(pipeline):
    known, stranger = (pipeline.search("blue lamp", shopper_id=who) for who in ("bob", None))
    p_click = [
        {shown.product_id: shown.p_click for shown in (*a.ads, *a.products)} for a in (known, stranger)
    ]
    assert p_click[0]["p06"] == pytest.approx(p_click[1]["p06"] + 0.02)
    assert p_click[0]["p05"] == p_click[1]["p05"]
    assert steps(known)["check"].text == "3 products in the shopper's past"
    assert steps(stranger)["check"].text == "no shopper named"
    assert steps(known)["creative"].text == "nearest to the shopper's past"
    for ad in stranger.ads:
        assert (ad.template, ad.image_id) == ("plain", f"i{ad.product_id[1:]}")
    taste = pipeline.parts.shard.vectors_of(np.array([2, 6, 10])).mean(axis=0)
    for ad in known.ads:
        ids = [f"k-{ad.product_id}-{part}" for part in (0, 1)]
        places = np.array([pipeline.parts.creatives.row_of(one) for one in ids])
        best = int((pipeline.parts.creatives.vectors_of(places) @ taste).argmax())
        assert ad.creative_id == ids[best]


def test_the_creative_nearest_to_the_past_wins_and_ties_go_to_the_first(shop, pipeline):
    parts = full_parts(shop, pipeline.stock)
    vectors = parts.creatives.vectors_of(np.arange(48))
    parts.creatives = type(parts.creatives)(parts.creatives.ids, np.roll(vectors, 1, axis=0))
    swapped = open_pipeline(shop, parts=parts)
    chosen = {ad.creative_id[-1] for ad in swapped.search("blue", shopper_id="bob").ads}
    assert chosen == {"1"}  # each banner now has the vector of its product's plain picture


@pytest.mark.parametrize("who", ["nobody", "cy"])
def test_an_unknown_shopper_and_one_without_a_past_are_strangers(pipeline, who):
    answer = pipeline.search("lamp", shopper_id=who)
    assert steps(answer)["check"].text == "a shopper without a past"
    expected, found = without(pipeline.search("lamp")), without(answer)
    assert found["products"] == expected["products"]
    assert found["ads"] == expected["ads"]


def test_a_past_holds_what_was_liked_newest_first_and_once(pipeline):
    assert pipeline.stock.past("bob").rows.tolist() == [2, 10, 6]
    assert pipeline.stock.past("ann").rows.tolist() == [20, 16, 12, 8, 4, 0]
    assert pipeline.stock.past("cy").rows.tolist() == []


def test_only_active_campaigns_with_a_budget_advertise_and_the_highest_bid_counts(shop, tmp_path):
    facts = {"merchant_id": "m", "product_id": "p01", "status": "active", "daily_budget_cents": None}
    with DatasetWriter(tmp_path / "shop", "campaigns", base=shop) as writer:
        rows = [
            {"campaign_id": "low", "bid_cents": 5},
            {"campaign_id": "high", "bid_cents": 9},
            {"campaign_id": "paused", "bid_cents": 99, "status": "paused"},
            {"campaign_id": "broke", "bid_cents": 99, "daily_budget_cents": 0},
            {"campaign_id": "free", "bid_cents": 0},
            {"campaign_id": "gone", "bid_cents": 7, "product_id": "p99"},
        ]
        writer.put("campaigns", [{**facts, **row} for row in rows])
    stock = Stock.load(type(shop).open(tmp_path / "shop"))
    assert {row: campaign.campaign_id for row, campaign in stock.campaigns.items()} == {1: "high"}
    assert np.flatnonzero(stock.is_advertised).tolist() == [1]


def test_the_trace_names_every_step_in_order_with_its_time(pipeline):
    trace = pipeline.search("lamp").trace
    assert [step.name for step in trace.steps] == STEPS
    assert all(step.ms >= 0 and step.text for step in trace.steps if step.name != "creative")
    assert trace.total_ms == pytest.approx(sum(step.ms for step in trace.steps))
    assert trace.degraded == []


# ---- with less


def test_without_an_encoder_titles_are_matched_by_words(shop, pipeline):
    parts = full_parts(shop, pipeline.stock)
    parts.encoder, parts.missing = None, {"encode": "no encoder at demo/encoder"}
    answer = open_pipeline(shop, parts=parts).search("blue mug")
    found = steps(answer)
    assert found["encode"].text == "no encoder at demo/encoder"
    assert found["retrieve"].text == "the query has no vector: titles were matched by words"
    assert [step.name for step in answer.trace.degraded] == ["encode", "retrieve"]
    assert [ad.product_id for ad in answer.ads] == ["p02"]
    assert answer.ads[0].relevance == 1.0


def test_an_encoder_that_refuses_a_query_degrades_to_words(shop, pipeline):
    class Refusing:
        def encode_query(self, text, image):
            raise DataError("this text has no tokens")

    parts = full_parts(shop, pipeline.stock)
    parts.encoder = Refusing()
    answer = open_pipeline(shop, parts=parts).search("blue mug")
    assert steps(answer)["encode"].text == "this text has no tokens"
    assert answer.ads[0].product_id == "p02"


def test_without_vectors_a_picture_alone_finds_nothing_and_says_so(shop, pipeline):
    parts = full_parts(shop, pipeline.stock)
    parts.shard = parts.creatives = None
    parts.missing = {"retrieve": "no vectors at demo/center"}
    bare = open_pipeline(shop, parts=parts)
    answer = bare.search(image=picture(COLORS["blue"]))
    assert answer.ads == answer.products == []
    assert steps(answer)["retrieve"].text == "no vectors at demo/center: a picture alone finds nothing"
    assert steps(answer)["encode"].text == "skipped: there are no vectors to compare with"
    assert steps(answer)["rank"].text == "no candidates"
    assert bare.search("blue mug").ads[0].product_id == "p02"


def test_without_a_click_model_relevance_alone_orders(shop):
    answer = open_pipeline(shop, clicks=False).search("blue", num=24)
    assert [step.text for step in answer.trace.degraded] == [
        "no click model in this run: ordered by relevance alone"
    ]
    assert {shown.p_click for shown in (*answer.ads, *answer.products)} == {None}
    relevance = [product.relevance for product in answer.products]
    assert relevance == sorted(relevance, reverse=True)
    assert steps(answer)["order"].text == f"{len(relevance)} products, relevance alone"


def test_a_click_model_that_fails_on_a_request_degrades_the_ranking(shop, pipeline):
    class Failing:
        version = "failing"

        def p_click(self, request, past, query, rows):
            raise DataError("no vector of this version")

    parts = full_parts(shop, pipeline.stock)
    parts.clicks = Failing()
    answer = open_pipeline(shop, parts=parts).search("blue")
    assert steps(answer)["rank"].text == "no vector of this version: ordered by relevance alone"
    assert len(answer.ads) == 4


def test_without_vectors_of_creatives_the_plain_picture_is_shown(shop, pipeline):
    parts = full_parts(shop, pipeline.stock)
    parts.creatives, parts.missing = None, {"creative": "no creative has a vector"}
    answer = open_pipeline(shop, parts=parts).search("blue", shopper_id="bob")
    assert {ad.template for ad in answer.ads} == {"plain"}
    assert [step.name for step in answer.trace.degraded] == ["creative"]
    assert steps(answer)["creative"].text == "the plain picture of each; no creative has a vector"


def test_without_creatives_an_ad_shows_the_products_own_picture(shop, pipeline):
    stock = Stock(pipeline.stock.products, pipeline.stock.campaigns, {}, pipeline.stock.pasts)
    answer = Pipeline(shop, stock, pipeline.parts).search("blue", shopper_id="bob")
    assert [(ad.creative_id, ad.template) for ad in answer.ads] == [(None, None)] * 4
    assert [ad.image_id for ad in answer.ads] == [f"i{ad.product_id[1:]}" for ad in answer.ads]


def test_products_without_a_vector_are_counted_and_stale_vectors_are_not_sold(shop, pipeline):
    parts = full_parts(shop, pipeline.stock)
    vectors = parts.shard.vectors_of(np.arange(24))
    ids = [*parts.shard.ids[1:], "sold out"]
    parts.shard = type(parts.shard)(ids, np.concatenate([vectors[1:], vectors[:1]]))
    answer = open_pipeline(shop, parts=parts).search("red mug", num=48)
    assert "24 products; 1 of them have no vector and cannot be found" in steps(answer)["retrieve"].text
    found = {shown.product_id for shown in (*answer.ads, *answer.products)}
    assert found == {f"p{row:02d}" for row in range(1, 24)}


def test_a_shop_with_nothing_but_products_answers(shop, tmp_path):
    with DatasetWriter(tmp_path / "bare", "bare") as writer:
        writer.put("products", [{"product_id": "a", "title": "A blue mug"}, {"product_id": "b", "title": ""}])
    dataset = type(shop).open(tmp_path / "bare")
    answer = Pipeline(dataset, Stock.load(dataset), Parts()).search("mug")
    assert [product.product_id for product in answer.products] == ["a"]
    assert (answer.products[0].image_id, answer.products[0].price_cents) == (None, None)


# ---- many at once, and bounds


def test_requests_at_once_give_the_same_answers_as_one_after_another(pipeline):
    asked = [("blue lamp", None, who) for who in ("ann", "bob", None)] * 6
    asked += [(None, picture(color), "ann") for color in COLORS.values()] * 3
    alone = [without(pipeline.search(*one)) for one in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: without(pipeline.search(*one)), asked))
    assert together == alone


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({}, 400, "type what you are looking for, or give a picture"),
        ({"text": " \t "}, 400, "type what you are looking for, or give a picture"),
        ({"text": "x" * 301}, 400, "the search text has 301 characters, more than 300: shorten it"),
        ({"text": "x", "num": 0}, 400, "k must be from 1 to 48, got 0"),
        ({"text": "x", "num": 49}, 400, "k must be from 1 to 48, got 49"),
        ({"text": "x", "shopper_id": "s" * 201}, 400, "the shopper's id has 201 characters, more than 200"),
        ({"image": b"GIF89a"}, 415, "the file is not a readable JPEG, PNG or WebP picture"),
        ({"image": picture((1, 2, 3), side=2)}, 400, "the picture is 2x2 pixels, under 4 on a side"),
    ],
)
def test_a_request_out_of_bounds_is_refused_in_one_sentence(pipeline, asked, status, sentence):
    with pytest.raises(RequestError) as refused:
        pipeline.search(**asked)
    assert (refused.value.status, str(refused.value)) == (status, sentence)
