"""The supply side of a market: its words, its pictures, its tables, and the same over real photos."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.foundation.errors import DataError
from moontide.foundation.images import decode
from moontide.foundation.seeds import stream
from moontide.market.campaigns import sample_campaigns
from moontide.market.listing import WRONG_SHARE, Facts, House, write_listing
from moontide.market.products import round_price, sample_catalog, sample_merchants
from moontide.market.query_pictures import LOOK_FIELDS, QueryPictures, looks_of, query_picture
from moontide.market.render.looks import CATEGORIES, COLORS, Look
from moontide.market.settings import MarketSettings
from moontide.market.supply import write_open_supply, write_supply
from moontide.market.words import (
    HIDDEN,
    NOUN_NEEDS,
    VISIBLE,
    brand_names,
    choices,
    sample_hidden,
    say,
    synonyms,
)

LARGE = MarketSettings(num_products=3_000, num_merchants=150)
SMALL = MarketSettings(num_products=60, num_merchants=8)


@pytest.fixture(scope="module")
def catalog():
    return list(sample_catalog(LARGE, seed=3))


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    path = tmp_path_factory.mktemp("supply") / "market"
    with DatasetWriter(path, "supply") as writer:
        write_supply(writer, SMALL, seed=5)
    return Dataset.open(path)


def has_phrase(phrase: str, title: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", title.lower()) is not None


def names_truly(product, attribute: str) -> bool:
    """Whether the title really contains a word for the true value of a visible attribute."""
    value, category = getattr(product.look, attribute), product.look.category
    words = [word for word in synonyms(attribute, value, category) if word]
    return any(has_phrase(word, product.listing.title) for word in words)


# ---- words


def test_every_value_of_every_look_has_a_word_and_every_category_its_hidden_qualities():
    for kind in CATEGORIES.values():
        for attribute in ("pattern", "material", "shape", "detail"):
            for value in getattr(kind, attribute + "s"):
                is_absent = attribute == "detail" and value in ("none", "empty")
                assert (say(attribute, value, kind.name) == "") == is_absent
        for attribute in HIDDEN:
            words = choices(attribute, kind.name)
            assert len(words) >= 3
            assert len(set(words)) == len(words)


def test_two_values_of_one_attribute_never_share_a_word():
    for kind in CATEGORIES.values():
        for attribute in VISIBLE:
            values = COLORS if attribute == "color" else getattr(kind, attribute + "s")
            words = [word for value in values for word in synonyms(attribute, value, kind.name) if word]
            assert len(set(words)) == len(words), (kind.name, attribute, words)


def test_every_restricted_noun_is_a_noun_of_some_category_and_never_its_only_one():
    nouns = [noun for kind in CATEGORIES.values() for noun in kind.nouns]
    assert set(NOUN_NEEDS) <= set(nouns)
    for kind in CATEGORIES.values():
        assert kind.nouns[0] not in NOUN_NEEDS


def test_no_feature_contradicts_the_look_or_the_other_feature():
    metal_mug = Look("mug", "red", "white", "plain", "metal", "tall", "none")
    candle = Look("candle", "red", "white", "plain", "wax", "jar", "band")
    draws = [sample_hidden(metal_mug, stream(1, "hidden", number))["feature"] for number in range(60)]
    assert {len(features) for features in draws} == {1, 2}
    assert "microwave safe" not in {feature for features in draws for feature in features}
    draws = [sample_hidden(candle, stream(1, "hidden", number))["feature"] for number in range(200)]
    assert not any({"scented", "unscented"} <= set(features) for features in draws)


def test_brand_names_are_all_different_also_when_there_are_many():
    names = brand_names(900, np.random.default_rng(0))
    assert len(set(names)) == 900


# ---- catalog


def test_the_same_seed_gives_the_same_catalog_and_another_seed_another():
    some = MarketSettings(num_products=50, num_merchants=5)
    assert list(sample_catalog(some, 1)) == list(sample_catalog(some, 1))
    assert list(sample_catalog(some, 1)) != list(sample_catalog(some, 2))


def test_titles_tell_most_hidden_attributes_and_leave_out_many_visible_ones(catalog):
    shown = {key: np.mean([names_truly(product, key) for product in catalog]) for key in VISIBLE}
    assert 0.5 < shown["color"] < 0.62
    assert 0.3 < shown["pattern"] < 0.47
    assert shown["shape"] < 0.5
    assert 0.65 < shown["material"] < 0.9
    hidden = np.mean(
        [any(has_phrase(word, p.listing.title) for word in p.facts.hidden["feature"]) for p in catalog]
    )
    assert 0.65 < hidden < 0.88
    told = [sum(names_truly(product, key) for key in ("color", "pattern", "shape")) for product in catalog]
    assert np.mean(np.array(told) == 3) < 0.2, "too many titles tell all that a picture shows"
    assert np.mean(np.array(told) == 0) > 0.1, "too few titles need their picture"


def test_a_few_titles_and_table_values_are_wrong_and_hardly_more(catalog):
    said = [(p.facts, key, value) for p in catalog for key, value in p.listing.said.items()]
    wrong = np.mean(
        [value not in (facts.value(key), *facts.hidden.get(key, ())) for facts, key, value in said]
    )
    assert 0.015 < wrong < 0.045
    tables = [
        values[0] in synonyms("color", p.look.color, p.look.category)
        for p in catalog
        if (values := p.listing.attributes.get("color"))
    ]
    assert 1 - 2 * WRONG_SHARE < np.mean(tables) < 1
    assert 0.75 < len(tables) / len(catalog) < 0.92, "the table should lack some colors"


def test_titles_keep_their_noun_and_most_of_them_are_unlike_each_other(catalog):
    typos = 0
    for product in catalog:
        nouns = CATEGORIES[product.look.category].nouns
        typos += not any(noun.lower() in product.listing.title.lower() for noun in nouns)
    assert typos < 0.03 * len(catalog)
    assert len({product.listing.title for product in catalog}) > 0.85 * len(catalog)
    assert max(len(product.listing.title) for product in catalog) < 200


def test_titles_never_say_a_noun_that_contradicts_the_look():
    for seed in range(300):
        look = Look("trousers", "blue", "white", "plain", "velvet", "straight", "none")
        hidden = {key: choices(key, "trousers")[:1] for key in HIDDEN}
        house = House(("terse", "plain", "stuffed")[seed % 3])
        listing = write_listing(Facts(look, "Velmora", hidden), house, np.random.default_rng(seed))
        assert "jeans" not in listing.title.lower()


def test_a_detail_that_is_absent_is_never_named(catalog):
    for product in catalog:
        if product.look.detail in ("none", "empty"):
            assert "detail" not in product.listing.said
            assert not product.listing.title.endswith("with")


def test_a_steady_share_of_products_is_created_inside_the_log_and_spread_over_it(catalog):
    new = [product for product in catalog if product.created_at >= LARGE.start]
    assert abs(len(new) / len(catalog) - LARGE.new_share) < 0.04
    assert all(product.created_at < LARGE.end for product in catalog)
    assert all(product.is_new == (product.created_at >= LARGE.start) for product in catalog)
    half = LARGE.start + timedelta(days=LARGE.days / 2)
    assert 0.4 < np.mean([product.created_at < half for product in new]) < 0.6


def test_prices_stay_in_the_range_of_their_category_and_premium_brands_ask_more(catalog):
    relative = defaultdict(list)
    for product in catalog:
        low, high = CATEGORIES[product.look.category].price_cents
        assert low <= product.price_cents <= high
        relative[product.facts.brand].append(np.log(product.price_cents / np.sqrt(low * high)))
    means = [np.mean(values) for values in relative.values() if len(values) >= 20]
    assert max(means) - min(means) > 0.3, "all brands ask the same"


def test_a_rounded_price_never_leaves_its_range():
    rng = np.random.default_rng(0)
    for cents in np.exp(rng.uniform(np.log(100), np.log(200_000), 500)):
        assert 400 <= round_price(float(cents), 400, 119_900, rng) <= 119_900


def test_colorways_share_everything_but_colors_and_words(catalog):
    groups = defaultdict(list)
    for product in catalog:
        groups[product.spu_id].append(product)
    several = [group for group in groups.values() if len(group) > 1]
    share = sum(map(len, several)) / len(catalog)
    assert 0.25 < share < 0.6
    for group in several:
        assert len({product.look.color for product in group}) == len(group)
        keys = [(p.merchant_id, p.facts.brand, p.look.shape, p.look.pattern, p.is_new) for p in group]
        assert len(set(keys)) == 1


def test_brands_and_merchants_lean_to_departments_and_merchants_sizes_are_skewed(catalog):
    by_brand = defaultdict(Counter)
    for product in catalog:
        by_brand[product.facts.brand][CATEGORIES[product.look.category].department] += 1
    top = [
        counts.most_common(1)[0][1] / counts.total() for counts in by_brand.values() if counts.total() > 20
    ]
    assert np.mean(top) > 0.6
    sizes = Counter(product.merchant_id for product in catalog)
    largest = sum(count for _, count in sizes.most_common(15))
    assert largest > 0.3 * len(catalog)
    tiers = Counter(merchant.tier for merchant in sample_merchants(150, 3))
    assert tiers["large"] < tiers["medium"] < tiers["small"]


def test_campaigns_advertise_the_wanted_share_with_positive_bids_and_larger_budgets():
    merchants = sample_merchants(50, 0)
    sold = [(f"p{n}", merchants[n % 50].merchant_id, 2_000 + n) for n in range(3_000)]
    rows = sample_campaigns(sold, merchants, 0.6, seed=0)
    assert 0.56 < len(rows) / 3_000 < 0.64
    assert all(0 < row["bid_cents"] < row["daily_budget_cents"] for row in rows)
    assert {row["status"] for row in rows} == {"active", "paused", "ended"}
    assert sample_campaigns(sold, merchants, 0.0, seed=0) == []
    assert len(sample_campaigns(sold, merchants, 1.0, seed=0)) == 3_000


# ---- on disk


def test_the_files_do_not_depend_on_the_number_of_workers(tmp_path):
    fewer = {"num_products": 26, "images_per_product": 1, "creatives_per_product": 1}  # two chunks of work
    for workers in (1, 2):
        with DatasetWriter(tmp_path / str(workers), "supply") as writer:
            write_supply(writer, SMALL.model_copy(update=fewer), seed=5, workers=workers)
    first, second = (Dataset.open(tmp_path / str(workers)) for workers in (1, 2))
    assert first.info["sha256"] == second.info["sha256"]


def test_every_reference_leads_to_a_row_and_every_picture_can_be_decoded(market):
    tables = {
        name: market.table(name).to_pylist() for name in ("products", "campaigns", "creatives", "regions")
    }
    products = {row["product_id"]: row for row in tables["products"]}
    merchants = set(market.table("merchants").column("merchant_id").to_pylist())
    assert len(products) == SMALL.num_products
    assert len(market.images) == 60 * (SMALL.images_per_product + SMALL.creatives_per_product)
    for row in products.values():
        assert row["merchant_id"] in merchants
        assert row["price_cents"] > 0
        assert len(row["image_ids"]) == SMALL.images_per_product
        assert all(image_id in market.images for image_id in row["image_ids"])
    for row in tables["campaigns"]:
        assert products[row["product_id"]]["merchant_id"] == row["merchant_id"]
    for row in tables["creatives"]:
        assert row["product_id"] in products
        assert row["image_id"] in market.images
    for image_id in list(market.images)[::17]:
        assert decode(market.images[image_id]).size == (SMALL.image_side, SMALL.image_side)
    assert len({row["creative_id"] for row in tables["creatives"]}) == len(tables["creatives"])


def test_the_first_creative_of_a_product_is_its_plain_main_picture(market):
    main = {row.product_id: row.image_ids[0] for row in market.products()}
    creatives = market.table("creatives").to_pylist()
    plain = {row["product_id"]: row["image_id"] for row in creatives if row["template"] == "plain"}
    assert plain == main
    made = [row for row in creatives if row["template"] != "plain"]
    assert len(made) == 60 * SMALL.creatives_per_product
    assert all(dict(row["params"])["seed"] for row in made)


def test_colorways_stand_on_one_side_of_the_split(market):
    spus = {row.product_id: row.spu_id for row in market.products()}
    sides, groups = defaultdict(set), defaultdict(set)
    for row in market.table("splits").to_pylist():
        sides[spus[row["product_id"]]].add(row["split"])
        groups[spus[row["product_id"]]].add(row["group_id"])
    assert len(sides) < len(spus), "the market has no colorways"
    assert all(len(one) == 1 for one in (*sides.values(), *groups.values()))
    assert {"train", "test"} == set(market.table("splits").column("split").to_pylist())


def test_every_picture_has_a_true_box_inside_it_and_one_in_ten_gives_it_away(market):
    boxes = {row["image_id"]: row for row in market.truth("boxes").to_pylist()}
    assert set(boxes) == set(market.images)
    for row in boxes.values():
        assert 0 <= row["x0"] < row["x1"] <= SMALL.image_side
        assert 0 <= row["y0"] < row["y1"] <= SMALL.image_side
    edges = ("x0", "y0", "x1", "y1")
    titles = {product.product_id: product.title for product in market.products()}
    regions = market.table("regions").to_pylist()
    assert 0.04 < len(regions) / len(boxes) < 0.17
    for row in regions:
        box = boxes[row["image_id"]]
        assert [row[edge] for edge in edges] == [box[edge] for edge in edges]
        assert row["source"] == "annotation"
        assert row["title_sha256"] == hashlib.sha256(titles[box["product_id"]].encode()).hexdigest()


def test_the_true_looks_come_back_from_disk(market):
    expected = {product.product_id: product.look for product in sample_catalog(SMALL, 5)}
    assert looks_of(market) == expected
    assert set(market.truth("looks").column_names) == {"product_id", *LOOK_FIELDS, *HIDDEN}


# ---- image queries


def test_an_image_query_is_a_new_view_and_the_same_for_the_same_number(market):
    queries = QueryPictures(market, seed=1)
    product = market.products()[7]
    first, label = queries.picture(product.product_id, 4)
    assert label == "rendered view"
    assert QueryPictures(looks_of(market), seed=1).picture(product.product_id, 4) == (first, label)
    assert queries.picture(product.product_id, 5)[0] != first
    assert first not in [market.images[image_id] for image_id in product.image_ids]
    assert decode(first).size == (112, 112)
    rng = stream(1, "query picture", product.product_id, 4)
    assert query_picture(looks_of(market), product.product_id, rng) == first


def test_an_image_query_of_an_unknown_product_is_refused_with_its_id(market):
    with pytest.raises(DataError, match="no product has the id 'ghost'"):
        QueryPictures(market, seed=1).picture("ghost", 0)


# ---- over real photos


def photo(color: tuple[int, int, int]) -> bytes:
    picture = Image.new("RGB", (96, 80), (250, 250, 250))
    picture.paste(color, (28, 20, 70, 66))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def base(tmp_path):
    when = datetime(2024, 5, 1, tzinfo=UTC)
    rows = [
        {"product_id": "r1", "title": "Red cube", "image_ids": ["r1a", "r1b"], "spu_id": "s", "brand": "B"},
        {"product_id": "r2", "title": "Blue block", "image_ids": ["r2a"], "spu_id": "s", "category": ["T"]},
        {"product_id": "r3", "title": "Green box", "image_ids": ["gone", "r3a"], "price_cents": 777},
        {"product_id": "r4", "title": "Words only", "merchant_id": "their-shop", "created_at": when},
    ]  # fmt: skip
    with DatasetWriter(tmp_path / "base", "hand made") as writer:
        writer.put("products", rows)
        for image_id, color in {
            "r1a": (200, 0, 0),
            "r1b": (160, 0, 0),
            "r2a": (0, 0, 200),
            "r3a": (0, 160, 0),
        }.items():
            writer.add_image(image_id, photo(color))
    return Dataset.open(tmp_path / "base")


def opened(base: Dataset, path) -> Dataset:
    with DatasetWriter(path, "opened", base=base) as writer:
        write_open_supply(writer, base, SMALL, seed=2)
    return Dataset.open(path)


def test_an_open_market_keeps_every_row_of_the_catalog_and_fills_what_is_empty(base, tmp_path):
    market = opened(base, tmp_path / "open")
    before, after = base.table("products").to_pylist(), market.table("products").to_pylist()
    for old, new in zip(before, after, strict=True):
        assert {key: new[key] for key, value in old.items() if value is not None} == {
            key: value for key, value in old.items() if value is not None
        }
        assert new["price_cents"] > 0
        assert new["created_at"] < SMALL.end
        assert new["merchant_id"] == "their-shop"
    assert market.table("merchants").column("merchant_id").to_pylist() == ["their-shop"]
    for image_id in base.images:
        assert market.images[image_id] == base.images[image_id]
    shard = "images-00000.parquet"
    assert (market.path / shard).samefile(base.path / shard), "the pictures should not be copied"


def test_an_open_market_makes_advertisements_of_the_first_photo_that_exists(base, tmp_path):
    market = opened(base, tmp_path / "open")
    creatives = market.table("creatives").to_pylist()
    plain = {row["product_id"]: row["image_id"] for row in creatives if row["template"] == "plain"}
    assert plain == {"r1": "r1a", "r2": "r2a", "r3": "r3a"}
    assert len(creatives) == 3 * (1 + SMALL.creatives_per_product)
    assert all(row["image_id"] in market.images for row in creatives)
    again = opened(base, tmp_path / "again")
    assert again.info["sha256"] == market.info["sha256"]
    splits = {row["product_id"]: row["group_id"] for row in market.table("splits").to_pylist()}
    assert splits["r1"] == splits["r2"] != splits["r3"]


def test_an_open_market_keeps_the_tables_a_catalog_already_has(base, tmp_path):
    with DatasetWriter(tmp_path / "more", "more", base=base) as writer:
        writer.put("splits", [{"product_id": "r1", "group_id": "g", "split": "test"}])
        writer.put("merchants", [{"merchant_id": "their-shop", "tier": "large"}])
        writer.put("campaigns", [{"campaign_id": "c", "product_id": "r1", "bid_cents": 9}])
    more = Dataset.open(tmp_path / "more")
    market = opened(more, tmp_path / "open")
    for name in ("splits", "merchants", "campaigns"):
        assert market.table(name).equals(more.table(name))


def test_an_open_market_over_a_catalog_without_merchants_invents_some(base, tmp_path):
    rows = [
        {key: value for key, value in row.items() if key != "merchant_id"}
        for row in base.table("products").to_pylist()
    ]
    with DatasetWriter(tmp_path / "lone", "lone", base=base) as writer:
        writer.put("products", rows)
    market = opened(Dataset.open(tmp_path / "lone"), tmp_path / "open")
    merchants = set(market.table("merchants").column("merchant_id").to_pylist())
    assert len(merchants) == 4
    assert {product.merchant_id for product in market.products()} <= merchants


def test_an_image_query_over_real_photos_is_an_altered_copy(base):
    queries = QueryPictures(base, seed=0, side=64)
    assert queries.product_ids == ("r1", "r2", "r3")
    data, label = queries.picture("r1", 0)
    assert label == "altered copy"
    assert decode(data).size == (64, 64)
    assert queries.picture("r1", 0) == (data, label)
    with pytest.raises(DataError, match="'r4' has no stored picture"):
        queries.picture("r4", 0)


def test_a_catalog_without_products_cannot_be_opened_as_a_market(tmp_path):
    with DatasetWriter(tmp_path / "empty", "empty") as writer:
        writer.put("products", [])
    empty = Dataset.open(tmp_path / "empty")
    with pytest.raises(DataError, match="has no products"):
        opened(empty, tmp_path / "open")
