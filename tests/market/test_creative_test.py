"""A randomized test of creatives: rates against impressions drawn one by one, balance, seeds, the command."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.creative.stats import SCHEMA, read_stats
from moontide.foundation.errors import DataError, SettingsError
from moontide.market.build import build_market
from moontide.market.creative_test import FEW, Contexts, creative_test, true_rates
from moontide.market.settings import MarketSettings
from moontide.market.verbs import app
from moontide.market.world import World

SETTINGS = MarketSettings(
    num_products=40, num_merchants=5, num_shoppers=30, num_impressions=4_000, days=5, image_side=56,
    images_per_product=1, creatives_per_product=2, image_queries=0, mixed_queries=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return build_market(tmp_path_factory.mktemp("market") / "small", SETTINGS, seed=4, workers=1)


@pytest.fixture(scope="module")
def contexts(market):
    return Contexts.of(market, seed=4)


def test_every_creative_of_every_product_is_shown_equally_often(market, contexts):
    counts = creative_test(market, 500, seed=4, contexts=contexts)
    assert len(counts) == 40 * 3  # the plain picture too
    assert set(counts.column("impressions").to_pylist()) == {500}
    assert counts.column("propensity").to_numpy() == pytest.approx(1 / 3)
    made = {row["creative_id"]: row["image_id"] for row in market.table("creatives").to_pylist()}
    assert (
        dict(zip(*(counts.column(n).to_pylist() for n in ("creative_id", "image_id")), strict=True)) == made
    )


def test_rates_are_those_of_impressions_drawn_one_by_one(market, contexts):
    """The slow twin: context with replacement, creative uniformly, one coin each."""
    world, rng = contexts.world, np.random.default_rng(0)
    product = int(np.diff(contexts.starts).argmax())
    made = world.shelf.creatives[product]
    num = 60_000
    row = rng.choice(contexts.rows[contexts.starts[product] : contexts.starts[product + 1]], num)
    creative = rng.choice(made, num)
    p_click = world.p_click(
        contexts.at[row], contexts.shopper[row], contexts.query[row], np.full(num, product), creative,
        contexts.position[row],
    )  # fmt: skip
    is_click = rng.random(num) < p_click
    rates = contexts.rates(np.full(len(made), product), made)
    for code, rate in zip(made, rates, strict=True):
        clicks = is_click[creative == code]
        assert clicks.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate / len(clicks)))


def test_chunks_do_not_change_rates(contexts, monkeypatch):
    whole = true_rates(contexts)
    monkeypatch.setattr("moontide.market.creative_test.ROWS", 100)
    assert true_rates(contexts) == pytest.approx(whole, rel=1e-12)


def test_clicks_follow_the_true_rates(market, contexts):
    counts = creative_test(market, 20_000, seed=1, contexts=contexts)
    rates = true_rates(contexts)
    rate = np.array([rates[name] for name in counts.column("creative_id").to_pylist()])
    error = counts.column("clicks").to_numpy() / 20_000 - rate
    assert np.abs(error / np.sqrt(rate * (1 - rate) / 20_000)).max() < 4.5
    assert (error / np.sqrt(rate * (1 - rate) / 20_000)).std() == pytest.approx(1, abs=0.25)


def test_the_same_seed_gives_the_same_counts(market):
    first, again, other = (creative_test(market, 300, seed=seed) for seed in (2, 2, 3))
    assert first.equals(again)
    assert not first.equals(other)


def test_contexts_are_the_products_own_impressions_and_of_its_category_where_these_are_few(market, contexts):
    world = contexts.world
    events = market.table("events", ["kind", "product_id"])
    shown = events.filter(pc.equal(events.column("kind"), "impression")).column("product_id").to_pylist()
    own = {name: shown.count(name) for name in world.product_ids}
    leaf_of = dict(zip(world.product_ids, world.shelf.leaf.tolist(), strict=True))
    filled = 0
    for code, name in enumerate(world.product_ids):
        rows = contexts.rows[contexts.starts[code] : contexts.starts[code + 1]]
        there = [shown[row] for row in rows.tolist()]
        assert len(there) >= FEW
        if own[name] >= FEW:
            assert set(there) == {name}
        else:
            assert there[: own[name]] == [name] * own[name]
            filled += sum(leaf_of[one] == leaf_of[name] for one in there[own[name] :])
    assert filled


def test_no_more_contexts_than_asked_for_are_used(market):
    found = Contexts.of(market, most=10)
    assert np.diff(found.starts).max() == 10


def test_creatives_differ_more_where_shoppers_look(contexts, tmp_path):
    def spread(seen: Contexts) -> float:
        rates = true_rates(seen)
        both = [[rates[f"k-{name}-{k}"] for name in seen.world.product_ids] for k in (0, 1)]
        return float(np.median(np.abs(np.log(both[0]) - np.log(both[1]))))

    blind = build_market(tmp_path / "blind", SETTINGS.but(blind=True), seed=4, workers=1)
    assert spread(Contexts.of(blind)) < 0.5 * spread(
        contexts
    )  # a color that is asked for is still looked for


def test_a_dataset_without_truth_or_with_one_creative_each_is_refused(market, tmp_path):
    with DatasetWriter(tmp_path / "bare", "bare") as writer:
        writer.put("products", [{"product_id": "p", "title": "t"}])
    with pytest.raises(DataError, match="lacks"):
        creative_test(Dataset.open(tmp_path / "bare"))
    single = build_market(tmp_path / "single", SETTINGS.but(creatives_per_product=0), seed=4, workers=1)
    with pytest.raises(
        DataError, match=r"no product of .* has two creatives: build the market with --creatives"
    ):
        creative_test(single)
    with pytest.raises(SettingsError, match="impressions of a creative must be at least 1, got 0"):
        creative_test(market, 0)
    with pytest.raises(SettingsError, match="contexts of a product must be at least 1, got 0"):
        Contexts.of(market, most=0)


def test_the_command_writes_counts_that_pairs_are_made_of(market, tmp_path):
    to = tmp_path / "stats.parquet"
    words = ["test-creatives", "--dataset", str(market.path), "--impressions", "1500", "--to", str(to)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert "180,000" in found.output
    assert pq.read_schema(to).equals(SCHEMA)
    stats = read_stats(to)
    assert len(stats) == 120
    assert {stat.product_id for stat in stats} == set(World.open(market).product_ids)


def test_a_market_is_built_with_as_many_creatives_as_asked_for(tmp_path):
    words = ["build", "--to", str(tmp_path / "m"), "--products", "20", "--shoppers", "10", "--impressions",
             "1000", "--days", "2", "--creatives", "4"]  # fmt: skip
    assert CliRunner().invoke(app, words).exit_code == 0
    assert len(Dataset.open(tmp_path / "m").table("creatives")) == 20 * 5
