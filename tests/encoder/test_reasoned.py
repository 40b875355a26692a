"""What an encoder wrote, kept in the dataset: resumed, by version and content, attached, embedded."""

import hashlib

import numpy as np
import pytest
from typer.testing import CliRunner

from encoder.conftest import picture, write_catalog
from moontide.catalog.additions import replace_table
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.center.embed import EmbedSettings, embed_catalog, embed_items
from moontide.center.store import VectorStore
from moontide.encoder import reasoned
from moontide.encoder.model import writing
from moontide.encoder.model.inputs import Item, Part, product_item, query_item
from moontide.encoder.model.reasoner import ReasoningSettings, make_reasoner
from moontide.encoder.reasoned import (
    Reasoned,
    content_hash,
    encode_as,
    served_kinds,
    shown_hash,
    write_reasoned,
    writes,
)
from moontide.encoder.verbs import reason
from moontide.foundation.errors import SettingsError

SHORT = ReasoningSettings(budget=6, heads=2, head_width=8, dim=16, widths=(8, 16), residual_every=2)


@pytest.fixture(scope="session")
def make(make_encoder):
    def reasoner(reasons="both", seed=0):
        return make_reasoner(make_encoder(), SHORT.but(reasons=reasons), seed)

    return reasoner


@pytest.fixture(scope="session")
def both(make):
    return make()


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return write_catalog(tmp_path / "drawn", num=12)


def rows(dataset):
    return sorted(dataset.table("reasoning").to_pylist(), key=lambda row: sorted(row.items()))


def shown(dataset):
    return [product_item(product, dataset.images, "title_image") for product in dataset.products()]


# --- the table ------------------------------------------------------------


def test_every_product_gets_the_text_that_the_encoder_writes_about_it(dataset, both):
    before = dataset.fingerprint()
    counts = write_reasoned(dataset, both)
    assert (counts.written, counts.known, sum(counts.failed.values())) == (12, 0, 0)
    assert counts.tokens_a_second > 0
    assert 0 < counts.mean_tokens <= SHORT.budget
    assert 0 <= counts.emb_share <= 1
    found = rows(dataset)
    assert {row["entity_id"] for row in found} == {f"p{n}" for n in range(12)}
    assert {row["model_version"] for row in found} == {both.fingerprint()}
    items = shown(dataset)
    known = Reasoned.read(Dataset.open(dataset.path), both.fingerprint())
    attached = known.attach(items)
    assert [item.reasoning for item in attached] == [item.reasoning for item in both.reasoned(items)]
    assert all(item.reasoning is not None for item in attached)
    assert Dataset.open(dataset.path).fingerprint() == before  # a cache: no stage has to begin anew


def test_a_second_call_writes_nothing_and_another_version_lies_beside_the_first(dataset, both, make):
    write_reasoned(dataset, both)
    first, data = rows(dataset), (dataset.path / "reasoning.parquet").read_bytes()
    again = write_reasoned(dataset, both)
    assert (again.written, again.known, again.tokens_a_second) == (0, 12, 0)
    assert (dataset.path / "reasoning.parquet").read_bytes() == data
    other = make(seed=5)
    assert write_reasoned(dataset, other).written == 12
    assert [row for row in rows(dataset) if row["model_version"] == both.fingerprint()] == first
    assert len(Reasoned.read(dataset, other.fingerprint()).texts) == 12
    assert Reasoned.read(dataset, "nobody").texts == {}


def test_an_interrupted_job_keeps_what_it_wrote_and_ends_as_an_uninterrupted_one(
    tmp_path, dataset, both, monkeypatch
):
    whole = write_catalog(tmp_path / "whole", num=12)
    monkeypatch.setattr(reasoned, "BATCH", 4)
    write_reasoned(whole, both)
    calls, real = iter(range(9)), writing.write

    def until(*args, **kwargs):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write", until)
        with pytest.raises(KeyboardInterrupt):
            write_reasoned(dataset, both)
    assert len(rows(dataset)) == 8
    counts = write_reasoned(Dataset.open(dataset.path), both)
    assert (counts.written, counts.known) == (4, 8)
    assert rows(dataset) == rows(whole)
    assert dataset.info["rows"]["reasoning"] == 8
    assert Dataset.open(dataset.path).info["rows"]["reasoning"] == 12


def write_shop(path, titles, ids=None, queries=()):
    with DatasetWriter(path, "shop") as writer:
        for n in range(len(titles)):
            writer.add_image(f"i{n}", picture("red", "square", n))
        whole = picture("blue", "bar", 9)
        writer.append("images", [{"image_id": "cut", "bytes": whole[: len(whole) // 2]}])
        shown = ids or [f"i{n}" for n in range(len(titles))]
        writer.put(
            "products",
            [{"product_id": f"p{n}", "title": t, "image_ids": [shown[n]]} for n, t in enumerate(titles)],
        )
        if queries:
            writer.put("queries", [{"query_id": f"p{n}", "text": text} for n, text in enumerate(queries)])
    return Dataset.open(path)


def test_a_broken_picture_is_counted_and_never_stops_the_job(tmp_path, both):
    dataset = write_shop(tmp_path / "shop", ["red", "green", "", ""], ["i0", "cut", "cut", "nowhere"])
    counts = write_reasoned(dataset, both)
    assert counts.written == 2
    assert sum(counts.failed.values()) == 2
    assert counts.empty == 1
    assert ("nothing to show", 1) in counts.lines()
    assert {row["entity_id"] for row in rows(dataset)} == {"p0", "p1"}
    text = next(row["text"] for row in rows(dataset) if row["entity_id"] == "p1")
    assert text == both.reasoned([Item("green")])[0].reasoning


def test_what_changed_is_written_about_anew_and_what_looks_the_same_shares_a_text(tmp_path, both):
    dataset = write_shop(tmp_path / "shop", ["red", "red", "blue"], ["i0", "i0", "i2"])
    counts = write_reasoned(dataset, both)
    assert (counts.written, counts.copied) == (2, 1)
    products = dataset.table("products").to_pylist()
    products[2] |= {"title": "red", "image_ids": ["i0"]}
    products[1]["title"] = "yellow"
    replace_table(dataset, "products", products)
    counts = write_reasoned(dataset, both)
    assert (counts.written, counts.copied, counts.known) == (1, 1, 1)
    found = {row["entity_id"]: row for row in rows(dataset)}
    assert len(rows(dataset)) == 3
    assert found["p2"]["text"] == found["p0"]["text"]
    assert found["p2"]["content_hash"] == found["p0"]["content_hash"] != found["p1"]["content_hash"]


def test_a_query_and_a_product_of_one_id_have_each_their_text(tmp_path, both):
    dataset = write_shop(tmp_path / "shop", ["red", "green"], queries=["bar", "cross"])
    write_reasoned(dataset, both, ("product", "query"))
    found = {(row["entity_kind"], row["entity_id"]): row["content_hash"] for row in rows(dataset)}
    assert set(found) == {("product", "p0"), ("product", "p1"), ("query", "p0"), ("query", "p1")}
    assert len(set(found.values())) == 4
    attached = Reasoned.read(dataset, both.fingerprint()).attach([query_item("bar")])
    assert attached[0].reasoning is not None


def test_an_encoder_that_does_not_reason_is_refused(dataset, make_encoder, both):
    with pytest.raises(SettingsError, match="this encoder does not reason"):
        write_reasoned(dataset, make_encoder())
    with pytest.raises(SettingsError, match="unknown kinds shop: choose from product, creative, query"):
        write_reasoned(dataset, both, ("shop",))


# --- hashes ------------------------------------------------------------


def test_the_hash_of_an_item_without_reasoning_is_what_it_was_before_there_was_any():
    item = Item("red | 1", (b"a",), (Part("title", 0, 3),))
    parts = repr([("text", item.text), ("images", item.images), ("parts", item.parts)])
    assert content_hash(item) == hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
    reasoned_item = Item("red | 1", (b"a",), (Part("title", 0, 3),), "<think>color: red</think>")
    assert content_hash(reasoned_item) != content_hash(item)
    assert shown_hash(reasoned_item) == shown_hash(item)


# --- sides ------------------------------------------------------------


@pytest.mark.parametrize(
    ("reasons", "sides", "kinds"),
    [
        ("none", set(), ()),
        ("query", {"query"}, ("query",)),
        ("item", {"item"}, ("product",)),
        ("both", {"query", "item"}, ("product", "query")),
    ],
)
def test_an_encoder_says_which_sides_it_writes_about(dataset, make, reasons, sides, kinds):
    encoder = make(reasons)
    assert {side for side in ("query", "item") if writes(encoder, side)} == sides
    assert served_kinds(dataset, encoder) == kinds
    items = shown(dataset)[:3]
    plain, written = encoder.encode_items(items), encoder.encode_items(encoder.reasoned(items))
    assert not np.allclose(plain, written, atol=1e-3)
    for side in ("query", "item"):
        wanted = written if side in sides else plain
        assert np.allclose(encode_as(side, encoder)(items), wanted, atol=1e-5)


# --- the center ------------------------------------------------------------

EMBED = EmbedSettings(kinds=("product", "query"), form="title_image", workers=1, flush_rows=8)


@pytest.mark.parametrize("reasons", ["none", "query", "item", "both"])
def test_vectors_of_the_center_follow_the_sides_that_are_reasoned_about(tmp_path, dataset, make, reasons):
    encoder, store = make(reasons), VectorStore.open(tmp_path / "center")
    embed_catalog(dataset, encoder, store, settings=EMBED)
    ids, vectors = store.load("product", encoder.fingerprint())
    items = {
        product.product_id: item for product, item in zip(dataset.products(), shown(dataset), strict=True)
    }
    wanted = encode_as("item", encoder)([items[one] for one in ids])
    assert np.allclose(vectors, wanted, atol=2e-3)  # stored in half precision
    ids, vectors = store.load("query", encoder.fingerprint())
    asked = {query.query_id: query for query in dataset.queries()}
    pictures = [dataset.images[asked[one].image_id] if asked[one].image_id else None for one in ids]
    queries = [query_item(asked[one].text, picture) for one, picture in zip(ids, pictures, strict=True)]
    assert np.allclose(vectors, encode_as("query", encoder)(queries), atol=2e-3)
    kinds = {row["entity_kind"] for row in rows(dataset)}
    assert kinds == {"none": set(), "query": {"query"}, "item": {"product"}}.get(
        reasons, {"product", "query"}
    )
    again = embed_catalog(Dataset.open(dataset.path), encoder, store, settings=EMBED)
    assert (again.encoded, again.failed) == (0, 0)


def test_a_text_that_changed_makes_a_new_vector(tmp_path, dataset, both):
    store, settings = VectorStore.open(tmp_path / "center"), EMBED.but(kinds=("product",))
    embed_catalog(dataset, both, store, settings=settings)
    table = dataset.table("reasoning").to_pylist()
    table[3]["text"] = "<think>color: green</think>"
    replace_table(dataset, "reasoning", table)
    again = embed_catalog(Dataset.open(dataset.path), both, store, settings=settings)
    assert (again.encoded, again.reused) == (1, 11)


def test_a_new_product_between_two_jobs_is_reasoned_about_too(tmp_path, dataset, both):
    store, item = VectorStore.open(tmp_path / "center"), Item("green bar")
    vectors = embed_items("product", ["new"], [item], both, store, both.fingerprint())
    assert np.allclose(vectors, encode_as("item", both)([item]), atol=1e-5)


# --- the command ------------------------------------------------------------


def test_the_command_says_what_was_written_and_goes_on(tmp_path, dataset, make):
    import typer

    app = typer.Typer()
    app.command()(reason)
    make("query").save(tmp_path / "encoder")
    arguments = ["--encoder", str(tmp_path / "encoder"), "--dataset", str(dataset.path)]
    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "tokens a text" in first.output
    assert "tokens a second" in first.output
    assert {row["entity_kind"] for row in rows(Dataset.open(dataset.path))} == {"query"}
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "known before" in again.output
    assert "tokens a second" not in again.output
    unused = CliRunner().invoke(app, [*arguments, "--kind", "product"], catch_exceptions=False)
    assert "not used by `moontide embed`: product" in unused.output
