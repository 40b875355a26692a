import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from center.fakes import FakeEncoder, picture, write_dataset
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.center.contents import content_hash
from moontide.center.embed import EmbedSettings, embed_catalog, embed_items
from moontide.center.pictures import PictureIndex
from moontide.center.shard import HotShard
from moontide.center.store import VectorStore
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import product_item, query_item
from moontide.foundation.errors import CheckpointError, DataError, ImageError, SettingsError

SETTINGS = EmbedSettings(workers=1, flush_rows=16, batch_tokens=64)
PRODUCTS = SETTINGS.but(kinds=("product",))


def loaded(store, kind="product", version="fake-1"):
    ids, vectors = store.load(kind, version)
    return dict(zip(ids, vectors, strict=True))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.fixture
def store(tmp_path):
    return VectorStore.open(tmp_path / "center")


def test_every_entity_gets_the_vector_of_its_item(tmp_path, store):
    dataset, encoder = write_dataset(tmp_path / "data"), FakeEncoder()
    report = embed_catalog(dataset, encoder, store, settings=SETTINGS)
    assert (report.encoded, report.failed, report.reused) == (60 + 20 + 5, 0, 0)
    assert report.version == "fake-1"
    product = dataset.products()[31]
    item = product_item(product, dataset.images)
    wanted = encoder.forward_prepared([encoder.prepare(item)]).numpy()[0]
    assert np.allclose(loaded(store)["p31"], wanted, atol=1e-4)
    creative = encoder.forward_prepared([encoder.prepare(query_item(image=picture(3)))]).numpy()[0]
    assert np.allclose(loaded(store, "creative")["c3"], creative, atol=1e-4)
    assert store.active() is None
    assert "product: 60 encoded, 0 equal to another" in report.lines()[0]


def test_equal_content_is_encoded_once_and_copied(tmp_path, store):
    dataset, encoder = write_dataset(tmp_path / "data", num=60, distinct=20), FakeEncoder()
    report = embed_catalog(dataset, encoder, store, settings=PRODUCTS)
    assert sum(encoder.batches) == encoder.num_prepared == 20
    assert (report.encoded, report.copied, store.count("product", "fake-1")) == (20, 40, 60)
    vectors = loaded(store)
    assert all(np.array_equal(vectors[f"p{row}"], vectors[f"p{row % 20}"]) for row in range(60))


def test_equal_pictures_under_different_words_are_different_content(tmp_path, store):
    with DatasetWriter(tmp_path / "data", "twins") as writer:
        writer.add_image("i", picture(1))
        titles = ["red", "blue", "red"]
        writer.put(
            "products",
            [{"product_id": f"p{n}", "title": t, "image_ids": ["i"]} for n, t in enumerate(titles)],
        )
    encoder = FakeEncoder()
    embed_catalog(Dataset.open(tmp_path / "data"), encoder, store, settings=PRODUCTS)
    assert sum(encoder.batches) == 2
    assert not np.allclose(loaded(store)["p0"], loaded(store)["p1"])


def test_a_second_run_encodes_nothing(tmp_path, store):
    dataset = write_dataset(tmp_path / "data", broken=True)
    embed_catalog(dataset, FakeEncoder(), store, settings=SETTINGS)
    before, again = loaded(store), FakeEncoder()
    report = embed_catalog(dataset, again, store, settings=SETTINGS)
    assert again.batches == []
    assert report.encoded == report.copied == 0
    assert same(before, loaded(store))


def test_only_what_changed_is_encoded_again(tmp_path, store):
    embed_catalog(write_dataset(tmp_path / "one"), FakeEncoder(), store, settings=PRODUCTS)
    with DatasetWriter(tmp_path / "two", "changed", base=Dataset.open(tmp_path / "one")) as writer:
        rows = Dataset.open(tmp_path / "one").table("products").to_pylist()
        rows[7]["title"] = "another thing"
        rows[8]["image_ids"] = ["i50"]
        writer.put("products", rows)
    encoder = FakeEncoder()
    report = embed_catalog(Dataset.open(tmp_path / "two"), encoder, store, settings=PRODUCTS)
    assert (report.encoded, report.reused, sum(encoder.batches)) == (2, 58, 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupted_job_resumed_ends_with_the_same_bytes(tmp_path, workers):
    dataset, settings = write_dataset(tmp_path / "data", distinct=50), SETTINGS.but(workers=workers)
    whole, cut = VectorStore.open(tmp_path / "whole"), VectorStore.open(tmp_path / "cut")
    embed_catalog(dataset, FakeEncoder(), whole, settings=settings)
    for stop_after in (5, 20, 30):
        with pytest.raises(KeyboardInterrupt):
            embed_catalog(dataset, FakeEncoder(stop_after=stop_after), cut, settings=settings)
    written = cut.count("product", "fake-1")
    assert 0 < written < 60
    last = FakeEncoder()
    embed_catalog(dataset, last, cut, settings=settings)
    assert 0 < sum(last.batches) < 75
    for kind in ("product", "creative", "query"):
        assert same(loaded(whole, kind), loaded(cut, kind))


def test_a_killed_process_resumed_ends_with_the_same_bytes(tmp_path):
    dataset = write_dataset(tmp_path / "data")
    code = f"""
import os
from center.fakes import FakeEncoder
from moontide.catalog.dataset import Dataset
from moontide.center.embed import EmbedSettings, embed_catalog
from moontide.center.store import VectorStore
class Fatal(FakeEncoder):
    def forward_prepared(self, prepared):
        if sum(self.batches) > 35:
            os.kill(os.getpid(), {signal.SIGKILL})
        return super().forward_prepared(prepared)
embed_catalog(Dataset.open({str(dataset.path)!r}), Fatal(), VectorStore.open({str(tmp_path / "cut")!r}),
    settings=EmbedSettings(workers=1, flush_rows=16, batch_tokens=64))
"""
    tests = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": tests}, timeout=120)
    assert done.returncode == -signal.SIGKILL
    whole, cut = VectorStore.open(tmp_path / "whole"), VectorStore.open(tmp_path / "cut")
    assert 0 < cut.count("product", "fake-1") < 60
    embed_catalog(dataset, FakeEncoder(), whole, settings=SETTINGS)
    embed_catalog(dataset, FakeEncoder(), cut, settings=SETTINGS)
    assert same(loaded(whole), loaded(cut))


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_pictures_are_counted_and_words_stand_in_for_them(tmp_path, store, workers):
    dataset, encoder = write_dataset(tmp_path / "data", broken=True), FakeEncoder()
    report = embed_catalog(dataset, encoder, store, settings=SETTINGS.but(workers=workers))
    products, creatives = report.counts["product"], report.counts["creative"]
    assert (products.encoded, products.failed, products.text_only) == (60, 0, 2)
    assert products.reasons == {"broken_pixels": 1, "missing_image": 1}
    assert (creatives.encoded, creatives.failed, creatives.failed_ids) == (19, 1, ["c0"])
    assert report.counts["query"].reasons == {"empty": 1}
    assert "c0" not in loaded(store, "creative")
    words = encoder.forward_prepared([encoder.prepare(query_item("thing 3"))]).numpy()[0]
    assert np.allclose(loaded(store)["p3"], words, atol=1e-4)
    assert "without a vector: c0" in "\n".join(report.lines())


def test_a_picture_whose_header_is_no_picture_is_broken_too(tmp_path, store):
    with DatasetWriter(tmp_path / "data", "junk") as writer:
        writer.append("images", [{"image_id": "i", "bytes": b"no picture"}])
        row = {"product_id": "p", "title": "thing", "image_ids": ["i"]}
        writer.put("products", [row, row | {"product_id": "q", "title": ""}])

    class ByHeader(FakeEncoder):
        def num_tokens(self, item):
            if item.images:
                raise ImageError("not_an_image", "no picture")
            return super().num_tokens(item)

    report = embed_catalog(Dataset.open(tmp_path / "data"), ByHeader(), store, settings=PRODUCTS)
    assert (report.encoded, report.failed) == (1, 1)
    assert report.counts["product"].reasons == {"not_an_image": 2}


def test_words_stand_in_for_a_sound_picture_that_the_encoder_refuses(tmp_path, store):
    with DatasetWriter(tmp_path / "data", "long") as writer:
        writer.add_image("i", picture(1))
        row = {"product_id": "p", "title": "thing", "image_ids": ["i"]}
        writer.put("products", [row, row | {"product_id": "q", "title": ""}])

    class Strict(FakeEncoder):
        def prepare(self, item):
            if item.images:
                raise ImageError("too_long", "a picture of that shape is refused")
            return super().prepare(item)

    report = embed_catalog(Dataset.open(tmp_path / "data"), Strict(), store, settings=PRODUCTS)
    assert (report.encoded, report.failed) == (1, 1)
    assert report.counts["product"].reasons == {"too_long": 2}


@pytest.mark.parametrize("num", [64, 256])
def test_what_is_in_memory_does_not_grow_with_the_catalog(tmp_path, store, num, monkeypatch):
    dataset, encoder = write_dataset(tmp_path / "data", num=num), FakeEncoder()
    read = []
    real = PictureIndex.read
    monkeypatch.setattr(
        PictureIndex,
        "read",
        lambda self, ids: read.append(len(found := real(self, ids))) or found,
    )
    embed_catalog(dataset, encoder, store, settings=PRODUCTS)
    assert sum(read) == num
    assert max(read) <= PRODUCTS.flush_rows
    assert encoder.most_live <= PRODUCTS.batch_tokens // 6 + 1  # prepared, not yet encoded: one batch
    assert max(encoder.batches) * 6 <= PRODUCTS.batch_tokens


def test_batches_hold_items_of_like_length_within_the_budget(tmp_path, store):
    with DatasetWriter(tmp_path / "data", "lengths") as writer:
        rng = np.random.default_rng(0)
        rows = [
            {"product_id": f"p{n}", "title": " ".join(map(str, range(n, n + rng.integers(1, 40))))}
            for n in range(64)
        ]
        writer.put("products", rows)
    shapes = []

    class Watching(FakeEncoder):
        def prepare(self, item):
            self.lengths = [*getattr(self, "lengths", []), self.num_tokens(item)]
            return super().prepare(item)

        def forward_prepared(self, prepared):
            shapes.append(self.lengths)
            self.lengths = []
            return super().forward_prepared(prepared)

    embed_catalog(Dataset.open(tmp_path / "data"), Watching(), store, settings=PRODUCTS.but(flush_rows=64))
    assert all(len(lengths) * max(lengths) <= PRODUCTS.batch_tokens for lengths in shapes)
    padded, real = sum(len(x) * max(x) for x in shapes), sum(map(sum, shapes))
    assert padded < 1.35 * real


def test_only_some_ids_can_be_embedded(tmp_path, store):
    dataset = write_dataset(tmp_path / "data")
    report = embed_catalog(dataset, FakeEncoder(), store, settings=SETTINGS, only={"p3", "c6", "nobody"})
    assert report.encoded == 2
    assert store.kinds() == ["creative", "product"]


def test_two_encoders_cannot_write_one_version(tmp_path, store):
    dataset = write_dataset(tmp_path / "data", num=8)
    embed_catalog(dataset, FakeEncoder(name="a"), store, "v1", SETTINGS)
    with DatasetWriter(tmp_path / "more", "more", base=dataset) as writer:
        writer.put("products", [{"product_id": "new", "title": "new"}])
    with pytest.raises(CheckpointError, match="made by encoder a, this one is b"):
        embed_catalog(Dataset.open(tmp_path / "more"), FakeEncoder(name="b"), store, "v1", SETTINGS)


def test_a_new_version_embeds_everything_and_the_old_one_stays(tmp_path, store):
    dataset = write_dataset(tmp_path / "data", num=8)
    embed_catalog(dataset, FakeEncoder(name="a"), store, settings=PRODUCTS)
    report = embed_catalog(dataset, FakeEncoder(name="b"), store, settings=PRODUCTS)
    assert (report.encoded, store.versions()) == (8, ["a", "b"])


def test_nothing_to_embed_is_an_error_and_an_unknown_kind_too(tmp_path, store):
    with DatasetWriter(tmp_path / "bare", "bare") as writer:
        writer.put("products", [{"product_id": "p", "title": "t"}])
    bare, queries = Dataset.open(tmp_path / "bare"), SETTINGS.but(kinds=("query",))
    with pytest.raises(DataError, match="there is nothing to embed"):
        embed_catalog(bare, FakeEncoder(), store, settings=queries)
    with pytest.raises(SettingsError, match="unknown kinds shopper"):
        EmbedSettings(kinds=("shopper",))


def test_a_few_items_go_straight_to_store_and_shard(tmp_path, store):
    dataset, encoder = write_dataset(tmp_path / "data", num=8), FakeEncoder()
    embed_catalog(dataset, encoder, store, settings=PRODUCTS)
    store.activate("fake-1")
    shard = HotShard.load(store)
    new = query_item("brand new", picture(77))
    vectors = embed_items("product", ["new"], [new], encoder, store, "fake-1")
    shard.add(["new"], vectors)
    assert shard.ids[shard.search(vectors, 1)[1][0, 0]] == "new"
    assert store.get("product", ["new"])[1].all()


def test_the_content_hash_sees_words_pictures_and_their_order():
    base = query_item("red shoe", b"a")
    twins = [query_item("red shoe", b"a"), query_item(" red shoe ", b"a")]
    others = [query_item("red shoe", b"b"), query_item("red shoes", b"a"), query_item("red shoe")]
    assert {content_hash(item) for item in twins} == {content_hash(base)}
    assert len({content_hash(item) for item in [base, *others]}) == 4


def test_the_index_finds_pictures_over_several_groups(tmp_path):
    dataset = write_dataset(tmp_path / "data", num=300)
    index = PictureIndex(dataset)
    ids = ["i299", "i0", "nowhere", "i257", "i0"]
    found = index.read(ids)
    assert found == {image_id: dataset.images[image_id] for image_id in ("i0", "i257", "i299")}
    place = index.locate(["i257"])["i257"]
    assert place.group == 1
    facts = {row["image_id"]: row["sha256"] for row in dataset.images.facts().to_pylist()}
    assert place.sha256.hex() == facts["i257"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_real_encoder_gives_the_catalog_the_vectors_of_encode_items(tmp_path, store, workers):
    dataset = write_dataset(tmp_path / "data", num=40, broken=True)
    encoder = MoonEncoder.tiny([f"thing {n}" for n in range(40)], seed=1)
    settings = SETTINGS.but(workers=workers, batch_tokens=256)
    report = embed_catalog(dataset, encoder, store, "v1", settings)
    assert report.failed == 2
    sound = [product for product in dataset.products() if product.product_id not in ("p3", "p4")]
    wanted = encoder.encode_items([product_item(product, dataset.images) for product in sound])
    vectors = loaded(store, version="v1")
    found = np.stack([vectors[product.product_id] for product in sound])
    assert np.abs(found - wanted).max() < 1e-5
    words = encoder.encode_items([query_item("thing 3")])[0]  # its picture is broken
    assert np.abs(vectors["p3"] - words).max() < 1e-5
