"""A benchmark frozen from a log: its rules held against the log itself, its hashes, its leaks."""

import json
from collections import defaultdict
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from catalog.shop import imported, picture, shop
from moontide.catalog.check import check
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.freeze import build_benchmark, check_benchmark, file_sums, hash_of
from moontide.catalog.freeze_verbs import benchmark_app
from moontide.catalog.schema import conform
from moontide.catalog.splits import normalized_title
from moontide.catalog.triplets import category_splits
from moontide.foundation.errors import DataError, SettingsError, StorageError
from moontide.market.build import build_market
from moontide.market.settings import MarketSettings

SETTINGS = MarketSettings(
    num_products=160, num_merchants=8, num_shoppers=60, num_impressions=8_000, days=6, image_side=56,
    images_per_product=2, creatives_per_product=1,
)  # fmt: skip
DIVISIONS = ("", "by_category")


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return build_market(tmp_path_factory.mktemp("market") / "m", SETTINGS, seed=1, workers=1)


@pytest.fixture(scope="module")
def frozen(market, tmp_path_factory):
    to = tmp_path_factory.mktemp("frozen") / "b"
    build_benchmark(market, to, "click")
    return Dataset.open(to)


def rows_of(dataset, name, division=""):
    return pq.read_table(dataset.path / division / f"{name}.parquet").to_pylist()


def log_of(market):
    """Products shown, and products touched, under each content of a query: the slow twin."""
    sums = {row["image_id"]: row["sha256"] for row in market.images.facts(("sha256",)).to_pylist()}
    content = {q.query_id: (normalized_title(q.text), sums.get(q.image_id)) for q in market.queries()}
    shown, touched = defaultdict(set), defaultdict(dict)
    for row in market.table("events", ["kind", "at", "query_id", "product_id"]).to_pylist():
        key = content.get(row["query_id"])
        if row["kind"] == "impression":
            shown[key].add(row["product_id"])
        elif row["kind"] in ("click", "cart", "order"):
            first = touched[key].get(row["product_id"], row["at"])
            touched[key][row["product_id"]] = min(first, row["at"])
    return content, shown, touched


@pytest.mark.parametrize("division", DIVISIONS)
def test_triplets_are_what_the_log_says(market, frozen, division):
    content, shown, touched = log_of(market)
    leaf = {one.product_id: one.category for one in market.products()}
    side = {row["product_id"]: row["split"] for row in rows_of(frozen, "splits", division)}
    group = {row["product_id"]: row["group_id"] for row in rows_of(market, "splits")}
    seen = 0
    for own in ("train", "test"):
        for row in rows_of(frozen, f"triplets/{own}", division):
            key = content[row["query_id"]]
            alone = shown[key] - {p for p in shown[key] if group[p] in {group[t] for t in touched[key]}}
            alone = {one for one in alone if side.get(one) == own}
            other = {one for one in alone if leaf[one] != leaf[row["positive_id"]]}
            assert row["at"] == touched[key][row["positive_id"]]
            assert row["negative_id"] in (other or alone)
            assert row["negative"] == ("other category" if other else "same category")
            assert {side[row["positive_id"]], side[row["negative_id"]]} == {own}
            assert row["form"] == {(True, False): "text", (False, True): "image", (True, True): "both"}[
                bool(key[0]), bool(key[1])
            ]  # fmt: skip
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("division", DIVISIONS)
def test_every_pair_whose_query_and_product_agree_is_judged_and_no_other(market, frozen, division):
    content, _, touched = log_of(market)
    side = {row["product_id"]: row["split"] for row in rows_of(frozen, "splits", division)}
    judged = defaultdict(set)
    query_side = {}
    for row in rows_of(frozen, "judgments", division):
        judged[content[row["query_id"]]].add(row["product_id"])
        assert (
            query_side.setdefault(row["query_id"], row["source"]) == row["source"] == side[row["product_id"]]
        )
        assert row["grade"] == 1
    of_content = {content[query_id]: own for query_id, own in query_side.items()}
    assert len(of_content) == len(query_side)
    for key, own in of_content.items():
        assert judged[key] == {one for one in touched[key] if side.get(one) == own}


def test_train_and_test_have_nothing_in_common(frozen):
    leaf = {one.product_id: one.category for one in frozen.products()}
    splits = rows_of(frozen, "splits", "by_category")
    leaves = {
        own: {leaf[row["product_id"]] for row in splits if row["split"] == own} for own in ("train", "test")
    }
    assert leaves["train"]
    assert leaves["test"]
    assert not leaves["train"] & leaves["test"]
    verdict = check_benchmark(frozen.path)
    assert verdict.is_sound
    assert {leak.count for leak in verdict.leaks} == {0}
    assert len(verdict.leaks) == 21


def test_the_log_its_shoppers_and_the_truth_stay_behind(market, frozen):
    assert market.has("events")
    names = {file.name for file in frozen.path.rglob("*") if file.is_file()}
    for name in ("events", "shoppers", "merchants", "campaigns", "creatives"):
        assert not any(file.startswith(name) for file in names)
    assert not (frozen.path / "truth").exists()
    used = {one for p in frozen.products() for one in p.image_ids} | {
        q.image_id for q in frozen.queries()
    } - {None}
    assert set(frozen.images) == used
    assert all(frozen.images[one] == market.images[one] for one in list(used)[:5])
    assert check(frozen).errors == []


def test_the_same_dataset_gives_the_same_hash_and_another_rule_another(market, frozen, tmp_path):
    total = json.loads((frozen.path / "manifest.json").read_text())["sha256"]
    assert build_benchmark(market, tmp_path / "elsewhere", "click").sha256 == total
    assert build_benchmark(market, tmp_path / "carts", "cart").sha256 != total


def test_the_card_says_sizes_rules_license_and_limits(frozen):
    card = (frozen.path / "README.md").read_text()
    judged = rows_of(frozen, "judgments")
    sides = [sum(row["source"] == own for row in judged) for own in ("train", "test")]
    for piece in (
        "license of the source: Apache-2.0", f"| pairs (judgments) | {sides[0]} | {sides[1]} |",
        "## Leak checks", "## Intended use", "## Limits", "The shoppers are simulated",
        "click or cart or order",
    ):  # fmt: skip
        assert piece in card


def with_log(tmp_path, augmented=()):
    """Thirty products, and a query that shows each of six slates; two of every slate are bought."""
    base, _ = imported(shop(tmp_path / "shop", 30), tmp_path / "catalog", name="Shop", license="MIT")
    events, queries = [], []
    for query in range(20):
        queries.append({"query_id": f"q{query}", "text": f"want {query}", "image_id": None})
        for place in range(8):
            product = f"p{(query * 7 + place * 3) % 30}"
            event = {"request_id": f"r{query}", "query_id": f"q{query}", "product_id": product}
            event |= {"at": datetime(2026, 3, 1, query, tzinfo=UTC), "shopper_id": "s1"}
            events.append({**event, "kind": "impression", "event_id": f"i{query}-{place}"})
            if place < 4:
                events.append({**event, "kind": "order", "event_id": f"o{query}-{place}"})
    with DatasetWriter(tmp_path / "logged", "Shop", base=base) as writer:
        writer.put("queries", queries)
        writer.append("events", events)
        if augmented:
            writer.add_image("new-view", picture(500))
            writer.put("augmented", list(augmented))
    return Dataset.open(tmp_path / "logged")


def test_enriched_views_are_for_the_training_side_alone(tmp_path):
    views = [
        {
            "product_id": f"p{n}",
            "title": f"better {n}",
            "image_id": "new-view",
            "source": "test",
            "version": "1",
        }
        for n in range(30)
    ]
    dataset = with_log(tmp_path, views)
    build_benchmark(dataset, tmp_path / "b")
    frozen = Dataset.open(tmp_path / "b")
    for division in DIVISIONS:
        side = {row["product_id"]: row["split"] for row in rows_of(frozen, "splits", division)}
        kept = {row["product_id"] for row in rows_of(frozen, "augmented", division)}
        assert kept == {one for one, own in side.items() if own == "train"}
        assert 0 < len(kept) < 30
    assert frozen.images["new-view"] == picture(500)
    assert "for products of the training side alone" in (tmp_path / "b" / "README.md").read_text()
    assert check_benchmark(tmp_path / "b").is_sound


def test_a_changed_a_missing_and_a_new_file_are_found(tmp_path):
    build_benchmark(with_log(tmp_path), tmp_path / "b")
    run = CliRunner().invoke
    assert run(benchmark_app, ["check", str(tmp_path / "b")]).exit_code == 0
    (tmp_path / "b" / "notes.txt").write_text("mine")
    (tmp_path / "b" / "by_category" / "splits.parquet").unlink()
    with (tmp_path / "b" / "README.md").open("a") as card:
        card.write("better than it was")
    verdict = check_benchmark(tmp_path / "b")
    assert (verdict.changed, verdict.missing) == (["README.md"], ["by_category/splits.parquet"])
    assert (verdict.unlisted, verdict.is_sound) == (["notes.txt"], False)
    done = run(benchmark_app, ["check", str(tmp_path / "b")])
    assert done.exit_code == 1
    for line in (
        "changed: README.md",
        "missing: by_category/splits.parquet",
        "not in the manifest: notes.txt",
    ):
        assert line in done.output
    assert "not sound" in done.output


def rewritten(folder, name, change):
    """Change a table and note its new hash, as one who does not know the rules would."""
    file = folder / f"{name}.parquet"
    table = pq.read_table(file)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), file)
    sums = file_sums(folder)
    (folder / "manifest.json").write_text(json.dumps({"files": sums, "sha256": hash_of(sums)}))


def test_a_leak_is_found_though_every_hash_agrees(tmp_path):
    build_benchmark(with_log(tmp_path), tmp_path / "b")

    def other_side(rows):
        row = next(one for one in rows if one["split"] == "test")
        return [*rows, {**row, "split": "train"}]

    rewritten(tmp_path / "b", "splits", other_side)
    verdict = check_benchmark(tmp_path / "b")
    found = {(leak.division, leak.what): leak.count for leak in verdict.leaks if leak.count}
    assert not verdict.changed
    assert verdict.is_same_hash
    assert found["product", "products in train and test"] == 1
    assert found["product", "groups in train and test"] == 1
    assert not verdict.is_sound
    train = rows_of(Dataset.open(tmp_path / "b"), "triplets/train")
    rewritten(tmp_path / "b", "triplets/test", lambda rows: [*rows, train[0]])
    found = {(leak.division, leak.what): leak.count for leak in check_benchmark(tmp_path / "b").leaks}
    assert found["product", "pairs and triplets with a product of another side"] > 0


def test_categories_that_share_a_group_stay_on_one_side():
    ids = [f"p{n}" for n in range(40)]
    leaves = [f"leaf {n // 2}" for n in range(38)] + ["", "leaf 0"]
    groups = [f"g{n}" for n in range(40)]
    groups[1] = groups[2] = groups[5] = "shared"  # joins leaves 0, 1 and 2
    table = conform(
        "splits",
        [{"product_id": i, "group_id": g, "split": "train"} for i, g in zip(ids, groups, strict=True)],
    )
    rows = category_splits(ids, table, leaves, 0.3).to_pylist()
    side = {row["product_id"]: row["split"] for row in rows}
    assert "p38" not in side  # without a category
    assert len({side[one] for one in ("p0", "p1", "p2", "p3", "p4", "p5", "p39")}) == 1
    assert 0.15 < sum(own == "test" for own in side.values()) / len(side) <= 0.32
    assert len(category_splits(ids, table, ["same"] * 40, 0.3)) == 0
    two = category_splits(ids[10:], table.slice(10), ["a"] * 12 + ["b"] * 18, 0.1).to_pylist()
    assert {row["product_id"] for row in two if row["split"] == "test"} == set(ids[10:22])


def test_what_cannot_be_frozen_is_refused_in_one_sentence(tmp_path):
    catalog, _ = imported(shop(tmp_path / "other", 6), tmp_path / "c")
    with pytest.raises(DataError, match=r"benchmark build needs events, which .* lacks: import a click log"):
        build_benchmark(catalog, tmp_path / "b")
    dataset = with_log(tmp_path)
    with pytest.raises(SettingsError, match="is the dataset itself"):
        build_benchmark(dataset, dataset.path, replace=True)
    with pytest.raises(StorageError, match="already exists"):
        build_benchmark(dataset, catalog.path)
    with pytest.raises(DataError, match=r"no benchmark at .*: it has no manifest\.json"):
        check_benchmark(catalog.path)
    kinds = {"impression": "has no order under a query: try --positives click", "order": "has no impressions"}
    for kept, text in kinds.items():
        with DatasetWriter(tmp_path / kept, "x", base=catalog) as writer:
            rows = dataset.table("events").to_pylist()
            writer.put("queries", dataset.table("queries"))
            writer.append("events", [{**row, "product_id": "p1"} for row in rows if row["kind"] == kept])
        with pytest.raises(DataError, match=text):
            build_benchmark(Dataset.open(tmp_path / kept), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.glob(".*"))
