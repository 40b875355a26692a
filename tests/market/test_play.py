"""Shoppers at work: the log, propensities, budgets, memory, marginals, experiments without a difference."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from moontide.catalog.check import check
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.splits import cutoff
from moontide.foundation.errors import DataError, SettingsError, StorageError
from moontide.market.build import build_market, open_market
from moontide.market.choice import ChoiceSettings, attraction, cart_chance, examination, find_bar
from moontide.market.policy import (
    DAY_MS,
    OraclePolicy,
    PopularityPolicy,
    RandomPolicy,
    Requests,
    auction_slates,
)
from moontide.market.report import market_report
from moontide.market.settings import MarketSettings
from moontide.market.traffic import plan_visits, run
from moontide.market.verbs import app
from moontide.market.world import World

SETTINGS = MarketSettings(
    num_products=160, num_merchants=12, num_shoppers=60, num_impressions=9_000, days=8, image_side=64,
    images_per_product=2, creatives_per_product=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return build_market(tmp_path_factory.mktemp("market") / "small", SETTINGS, seed=3, workers=1)


@pytest.fixture(scope="module")
def events(market):
    return market.table("events")


@pytest.fixture
def world(market):
    return World.open(market)


def of_kind(events: pa.Table, kind: str) -> pa.Table:
    return events.filter(pc.equal(events.column("kind"), kind))


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as floats: NaN where it is empty, milliseconds for times."""
    column = table.column(name)
    column = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


# ---- the log


def test_the_market_is_a_dataset_without_an_error(market):
    assert check(market).errors == []
    rows = market.info["rows"]
    assert rows["products"] == 160
    assert rows["shoppers"] == 60
    assert market.info["market"]["choice"] == ChoiceSettings().version


def test_the_same_seed_writes_the_same_files_whatever_the_number_of_processes(tmp_path):
    small = SETTINGS.but(num_products=40, num_impressions=1_000)
    one, two = (build_market(tmp_path / f"{num}", small, 3, workers=num) for num in (1, 2))
    assert one.info["sha256"] == two.info["sha256"]


def test_another_seed_writes_another_log(market, tmp_path):
    small = SETTINGS.but(num_products=40, num_impressions=1_000)
    one, other = (build_market(tmp_path / f"{seed}", small, seed, workers=1) for seed in (1, 2))
    assert one.info["sha256"]["events-00000.parquet"] != other.info["sha256"]["events-00000.parquet"]


def test_every_click_cart_and_order_repeats_the_request_of_its_impression(events):
    shown = set(zip(*(of_kind(events, "impression").column(c).to_pylist() for c in KEY), strict=True))
    for kind in ("click", "cart", "order"):
        happened = of_kind(events, kind)
        assert len(happened) > 0, kind
        assert set(zip(*(happened.column(c).to_pylist() for c in KEY), strict=True)) <= shown


KEY = ("request_id", "shopper_id", "product_id", "query_id", "position", "campaign_id", "creative_id")


def test_events_are_in_order_of_time_and_inside_the_log(events):
    at = events.column("at").cast(pa.int64()).to_numpy()
    assert (np.diff(at) >= 0).all()
    assert at[0] >= SETTINGS.start.timestamp() * 1000
    assert at[-1] < SETTINGS.end.timestamp() * 1000


def test_orders_come_after_carts_and_carts_after_clicks(events):
    at = {}
    for kind in ("click", "cart", "order"):
        rows = of_kind(events, kind)
        keys = zip(rows.column("request_id").to_pylist(), rows.column("product_id").to_pylist(), strict=True)
        at[kind] = dict(zip(keys, numbers(rows, "at").tolist(), strict=True))
    assert all(at["click"][key] < moment for key, moment in at["cart"].items())
    assert all(at["cart"][key] < moment for key, moment in at["order"].items())
    wait = [moment - at["cart"][key] for key, moment in at["order"].items()]
    assert max(wait) > 3_600_000  # delayed, not at once


def test_no_product_is_shown_before_it_is_sold_and_new_ones_are_shown(market, events):
    products = market.table("products")
    created = dict(
        zip(products.column("product_id").to_pylist(), numbers(products, "created_at").tolist(), strict=True)
    )
    shown = of_kind(events, "impression")
    born = np.array([created[name] for name in shown.column("product_id").to_pylist()])
    assert (born <= numbers(shown, "at")).all()
    late = born > SETTINGS.start.timestamp() * 1000
    assert 0.02 < late.mean() < 0.4


def test_only_ads_have_bids_and_a_charge_is_never_above_the_bid(events):
    shown, clicked = of_kind(events, "impression"), of_kind(events, "click")
    is_ad = shown.column("campaign_id").is_valid()
    assert is_ad.to_pylist() == shown.column("bid_cents").is_valid().to_pylist()
    charge, bid = numbers(clicked, "charge_cents"), numbers(clicked, "bid_cents")
    paid = np.isfinite(charge)
    assert paid.any()
    assert (charge[paid] <= bid[paid]).all()
    assert np.isnan(bid[~paid]).all()


def test_no_campaign_spends_much_more_than_its_budget_in_a_day(market, events):
    clicked = of_kind(events, "click")
    budget = {row["campaign_id"]: row["daily_budget_cents"] for row in market.table("campaigns").to_pylist()}
    bid = {row["campaign_id"]: row["bid_cents"] for row in market.table("campaigns").to_pylist()}
    spent: dict = {}
    for row in clicked.to_pylist():
        if row["campaign_id"]:
            key = row["campaign_id"], row["at"].date()
            spent[key] = spent.get(key, 0) + row["charge_cents"]
    assert spent
    assert all(cents <= budget[name] + 3 * bid[name] for (name, _), cents in spent.items())


def test_propensities_are_those_of_the_policy(events):
    shown = of_kind(events, "impression")
    p = numbers(shown, "p_slate")
    assert ((p > 0) & (p <= 1)).all()
    exploring = p < 0.5  # drawn at random and not where the ranking would have put it
    assert 0.04 < exploring.mean() < 0.11
    assert set(shown.column("policy").to_pylist()) == {"popularity"}
    assert set(numbers(shown, "p_creative").round(3).tolist()) <= {0.5, 1.0}


def test_the_click_rate_is_plausible_and_falls_with_the_place(events):
    shown, clicked = of_kind(events, "impression"), of_kind(events, "click")
    assert 0.01 < len(clicked) / len(shown) < 0.08
    place, at_click = (numbers(table, "position").astype(int) for table in (shown, clicked))
    ctr = np.bincount(at_click, minlength=8) / np.bincount(place)
    assert ctr[0] > 1.5 * ctr[-1]


def test_true_chances_are_stored_for_every_impression_and_predict_the_clicks(market, events):
    truth = market.truth("impressions")
    shown = of_kind(events, "impression")
    assert truth.column("event_id").to_pylist() == shown.column("event_id").to_pylist()
    p = truth.column("p_click").to_numpy()
    assert abs(p.sum() - len(of_kind(events, "click"))) < 4 * np.sqrt((p * (1 - p)).sum())
    assert (truth.column("attraction").to_numpy() >= p - 1e-6).all()


def test_shoppers_ask_by_text_by_picture_and_by_both_and_never_with_a_stored_picture(market):
    queries = market.table("queries").to_pylist()
    asked = [row["image_id"] for row in queries if row["image_id"]]
    assert asked
    assert any(row["image_id"] and row["text"] for row in queries)
    assert all(row["image_id"] or row["text"] for row in queries)
    sums = dict(zip(*(market.images.facts(("sha256",)).column(c).to_pylist() for c in (0, 1)), strict=True))
    own = {sums[name] for row in market.table("products").to_pylist() for name in row["image_ids"]}
    assert not own & {sums[name] for name in asked}


def test_shoppers_tick_facets_that_their_category_offers(market, events):
    ticked = of_kind(events, "facet")
    assert len(ticked) > 10
    offered = {
        (key, value)
        for row in market.table("products").to_pylist()
        for key, values in row["attributes"]
        for value in values
    }
    assert (
        set(zip(*(ticked.column(c).to_pylist() for c in ("facet_key", "facet_value")), strict=True))
        <= offered
    )


# ---- the blind control


def test_blind_shoppers_do_not_react_to_pictures_or_words(tmp_path):
    blind = build_market(tmp_path / "blind", SETTINGS.but(num_impressions=2_000, blind=True), 3, workers=1)
    world = World.open(blind)
    rng = np.random.default_rng(0)
    product = rng.integers(0, len(world.shelf), 400)
    shopper, query = rng.integers(0, 60, 400), rng.integers(0, len(world.queries), 400)
    at, none = np.full(400, world.start_ms + DAY_MS), np.full(400, -1)
    before, _ = world.judge(at, shopper, query, product, none)
    world.seen[:] = rng.permutation(world.seen)
    world.vocabulary.title[:] = rng.permutation(world.vocabulary.title)
    after, _ = world.judge(at, shopper, query, product, none)
    assert np.array_equal(before, after)
    assert not any(row["image_id"] for row in blind.table("queries").to_pylist())


def test_seeing_shoppers_do_react_to_them(world):
    rng = np.random.default_rng(0)
    product, shopper = rng.integers(0, len(world.shelf), 400), rng.integers(0, 60, 400)
    query, at, none = np.zeros(400, int), np.full(400, world.start_ms + DAY_MS), np.full(400, -1)
    before, _ = world.judge(at, shopper, query, product, none)
    world.main_picture[:] = rng.permutation(world.main_picture)
    after, _ = world.judge(at, shopper, query, product, none)
    assert np.corrcoef(before, after)[0, 1] < 0.95


# ---- choice


def test_more_attractive_results_are_bought_more_and_never_with_certainty():
    choice = ChoiceSettings()
    chance = cart_chance(np.array([0.01, 0.12, 0.5]), choice)
    assert (np.diff(chance) > 0).all()
    assert chance[1] == pytest.approx(choice.p_cart)
    assert (cart_chance(np.array([0.6]), choice.but(p_cart=1.0)) <= 1).all()


def test_the_bar_gives_random_slates_the_click_rate_of_the_settings():
    rng, choice = np.random.default_rng(1), ChoiceSettings()
    appeal, match, looked = rng.normal(0, 1, 5_000), rng.random(5_000), rng.random(5_000)
    bar = find_bar(appeal, match, looked, choice)
    assert (looked * attraction(appeal, match, bar, choice)).mean() == pytest.approx(
        choice.base_ctr, rel=1e-6
    )


def test_the_first_place_is_always_looked_at_and_later_ones_less():
    looked = examination(np.arange(5), 0.8)
    assert looked[0] == 1
    assert (np.diff(looked) < 0).all()


# ---- playing on


def play(world, policies, num_requests=600, days=2, seed=5, arm_of=None):
    arm_of = np.arange(len(world.shoppers)) % len(policies) if arm_of is None else arm_of
    return list(run(world, policies, arm_of, num_requests, world.end_ms, days, seed, "play"))


def test_an_opened_market_stands_where_the_log_ended(market, world, events):
    last = of_kind(events, "click").sort_by("at")
    shopper = last.column("shopper_id").to_pylist()[-1]
    product = world.product_ids.index(last.column("product_id").to_pylist()[-1])
    assert product in world.memory.recent[int(shopper[1:])]
    assert world.memory.clicks.sum() > 0


def test_exactly_the_requests_that_were_planned_are_played(world):
    batches = play(world, [RandomPolicy(8)])
    assert sum(len(batch.requests) for batch in batches) == 600
    ids = np.concatenate([batch.requests.request_ids for batch in batches])
    assert sorted(ids.tolist()) == list(range(600))


def test_each_shopper_meets_the_policy_of_their_arm_alone(world):
    arm_of = np.arange(len(world.shoppers)) % 2
    for batch in play(world, [RandomPolicy(8, 1), RandomPolicy(8, 2)], arm_of=arm_of):
        assert (batch.arm == arm_of[batch.requests.shopper]).all()


def test_a_visit_is_answered_in_order_of_time(world):
    seen: dict[int, int] = {}
    for batch in play(world, [RandomPolicy(8)]):
        for visit, at in zip(batch.visit.tolist(), batch.requests.at.tolist(), strict=True):
            assert at > seen.get(visit, 0)
            seen[visit] = at


def test_the_truth_beats_popularity_and_popularity_beats_chance(market):
    ctr = {}
    for name in ("truth", "popularity", "random"):
        world = World.open(market)
        policy = {
            "truth": OraclePolicy(world), "popularity": PopularityPolicy(world), "random": RandomPolicy(8)
        }[name]  # fmt: skip
        batches = play(world, [policy], 3_000, days=4)
        chances = np.concatenate([batch.p_click.ravel() for batch in batches])
        ctr[name] = chances.sum() / sum((batch.slates.product >= 0).sum() for batch in batches)
    assert ctr["truth"] > 1.15 * ctr["popularity"]
    assert ctr["popularity"] > 1.1 * ctr["random"]


def test_two_equal_arms_differ_by_chance_alone(world):
    """p-values of twenty A/A tests are spread, not small: clusters of shoppers are taken into account."""
    from moontide.foundation.statistics import compare_ratios

    clicks, shown = np.zeros(len(world.shoppers)), np.zeros(len(world.shoppers))
    for batch in play(world, [RandomPolicy(8)], 4_000, days=5):
        np.add.at(clicks, batch.requests.shopper, batch.clicks.sum(1))
        np.add.at(shown, batch.requests.shopper, (batch.slates.product >= 0).sum(1))
    p_values = []
    for number in range(40):
        arm = np.random.default_rng(number).random(len(clicks)) < 0.5
        a, b = arm & (shown > 0), ~arm & (shown > 0)
        p_values.append(compare_ratios(clicks[a], shown[a], clicks[b], shown[b]).p_value)
    assert np.mean(np.array(p_values) < 0.05) < 0.2
    assert 0.3 < np.mean(p_values) < 0.7


def test_visits_follow_activity_and_end_inside_the_span(world):
    visits = plan_visits(world, 5_000, world.end_ms, 3, np.random.default_rng(0))
    assert visits.requests.sum() == 5_000
    assert visits.at.min() >= world.end_ms
    assert visits.at.max() < world.end_ms + 3 * DAY_MS
    count = np.bincount(visits.shopper, minlength=len(world.shoppers))
    assert np.corrcoef(count, world.shoppers.activity)[0, 1] > 0.8


def test_an_auction_gives_places_by_bid_and_chance_and_charges_the_next():
    one = np.array([[0, 1, 2, -1]])
    requests = Requests(
        np.zeros(1, int), np.zeros(1, int), np.zeros(1, int), one, np.array([[40, 20, 0, 0]]),
        np.full((1, 4, 1), -1), np.zeros(1, int),
    )  # fmt: skip
    p = np.array([[0.1, 0.4, 0.1, 0.9]])
    slates = auction_slates(requests, p, np.ones((1, 4)), slots=3, organic_cents=30)
    assert slates.product.tolist() == [[1, 0, 2]]  # 8, 4 and the organic 3; padding is never shown
    assert slates.charge_cents.tolist() == [[11, 31, 0]]  # 4 / 0.4 + 1, 3 / 0.1 + 1, nothing
    assert slates.bid_cents.tolist() == [[20, 40, 0]]


# ---- over a real catalog


@pytest.fixture(scope="module")
def catalog(market, tmp_path_factory):
    """A catalog as an import makes it: products with one photo each, no prices, no merchants, no log."""
    path = tmp_path_factory.mktemp("catalog") / "shop"
    with DatasetWriter(path, "shop", license="CC0-1.0", source="a shop") as writer:
        rows = []
        for row in market.table("products").to_pylist()[:60]:
            image_id = row["image_ids"][0]
            writer.add_image(image_id, market.images[image_id])
            rows.append({name: row[name] for name in ("product_id", "title", "category", "attributes")})
            rows[-1]["image_ids"] = [image_id]
        writer.put("products", rows)
    return Dataset.open(path)


def test_a_market_opens_over_a_catalog_and_keeps_what_it_has(catalog, tmp_path):
    settings = SETTINGS.but(num_impressions=2_000)
    opened = open_market(catalog, tmp_path / "open", settings, seed=1, workers=1)
    assert check(opened).errors == []
    assert opened.info["license"] == "CC0-1.0"
    assert opened.table("products").column("title").equals(catalog.table("products").column("title"))
    assert opened.table("products").column("price_cents").null_count == 0
    assert opened.info["rows"]["events"] > 2_000
    assert cutoff(opened.table("events")) is not None
    assert not (opened.path / "truth" / "looks.parquet").exists()
    World.open(opened)


def test_a_market_is_not_opened_over_a_log_or_without_pictures(market, catalog, tmp_path):
    with pytest.raises(DataError, match="has a click log already"):
        open_market(market, tmp_path / "x", SETTINGS)
    with pytest.raises(SettingsError, match="is the catalog itself"):
        open_market(catalog, catalog.path, SETTINGS)
    with DatasetWriter(tmp_path / "words", "words") as writer:
        writer.put("products", [{"product_id": "1", "title": "a mug"}])
    with pytest.raises(DataError, match="market open needs images"):
        open_market(Dataset.open(tmp_path / "words"), tmp_path / "x", SETTINGS)


def test_a_taken_folder_is_refused_before_anything_is_drawn(market):
    with pytest.raises(StorageError, match="already exists"):
        build_market(market.path, SETTINGS, seed=3)


# ---- marginals and commands


def test_the_marginals_are_those_of_the_log(market, events):
    lines = {line.name: line.value for line in market_report(market)}
    shown, clicked = len(of_kind(events, "impression")), len(of_kind(events, "click"))
    assert lines["impressions"] == f"{shown:,}"
    assert lines["click-through rate"] == f"{clicked / shown:.2%}"
    assert lines["orders a click"] == f"{len(of_kind(events, 'order')) / clicked:.3f}"


def test_a_catalog_without_a_log_has_no_marginals(catalog):
    with pytest.raises(DataError, match="market report needs events"):
        market_report(catalog)


def test_the_commands_open_a_market_and_print_its_marginals(catalog, tmp_path):
    runner = CliRunner()
    words = ["open", "--dataset", str(catalog.path), "--to", str(tmp_path / "m"), "--impressions", "1000"]
    done = runner.invoke(app, [*words, "--shoppers", "20", "--days", "3"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "events" in done.output
    shown = runner.invoke(app, ["report", str(tmp_path / "m")], catch_exceptions=False)
    assert "click-through rate" in shown.output
    assert Path(tmp_path / "m" / "dataset.json").exists()


def test_a_catalog_newer_than_the_usual_log_is_still_sold(market, tmp_path):
    with DatasetWriter(tmp_path / "late", "late") as writer:
        rows = []
        for row in market.table("products").to_pylist()[:30]:
            image_id = row["image_ids"][0]
            writer.add_image(image_id, market.images[image_id])
            rows.append({name: row[name] for name in ("product_id", "title", "category")})
            rows[-1] |= {"image_ids": [image_id], "created_at": datetime(2027, 5, 4, 12, tzinfo=UTC)}
        writer.put("products", rows)
    settings = SETTINGS.but(num_impressions=1_000, days=3)
    opened = open_market(Dataset.open(tmp_path / "late"), tmp_path / "open", settings, seed=1, workers=1)
    shown = of_kind(opened.table("events"), "impression")
    assert len(shown) > 50
    assert min(shown.column("at").to_pylist()) >= datetime(2027, 5, 4, 12, tzinfo=UTC)


def test_marginals_do_without_places_queries_and_known_products(tmp_path):
    at = datetime(2026, 3, 3, tzinfo=UTC)
    with DatasetWriter(tmp_path / "log", "log") as writer:
        writer.put("products", [{"product_id": "1", "title": "a mug"}])
        kinds = ("search", "impression", "impression", "click")
        products = (None, "1", "gone", "1")
        rows = [
            {"event_id": f"{number}", "at": at, "kind": kind, "product_id": product, "shopper_id": "s"}
            for number, (kind, product) in enumerate(zip(kinds, products, strict=True))
        ]
        writer.append("events", rows)
    lines = {line.name: line.value for line in market_report(Dataset.open(tmp_path / "log"))}
    assert lines["click-through rate"] == "50.00%"
    assert "click-through rate by place" not in lines


def test_a_bid_under_the_reserve_is_organic_and_never_an_ad():
    requests = Requests(
        np.zeros(1, int), np.zeros(1, int), np.zeros(1, int), np.array([[0, 1]]), np.array([[4, 20]]),
        np.zeros((1, 2, 1), int), np.zeros(1, int),
    )  # fmt: skip
    slates = auction_slates(requests, np.full((1, 2), 0.1), np.ones((1, 2)), slots=2, reserve=5.0)
    assert slates.product.tolist() == [[0, 1]]
    assert slates.bid_cents.tolist() == [[0, 20]]
    assert slates.creative[0, 0] == -1
