"""A pipeline loaded from a run folder, whole and with each part missing or of another version."""

import io
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from small_shop import COLORS, picture

from moontide.center.store import VectorStore
from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.runs import Run
from moontide.foundation.storage import read_json, write_json
from moontide.ranking.export import export_model
from moontide.ranking.score import ClickScorer
from moontide.serving.pipeline import Pipeline
from moontide.serving.request import Request


@pytest.fixture(scope="module")
def loaded(run_folder):
    return Pipeline.load(run_folder)


@pytest.fixture
def copied(run_folder, tmp_path):
    """The run's folder, to be broken."""
    return shutil.copytree(run_folder, tmp_path / "demo")


def degraded(pipeline, *asked):
    return {step.name: step.text for step in pipeline.search(*asked).trace.degraded}


def test_a_whole_run_answers_texts_and_pictures_without_a_degraded_step(loaded, run_folder):
    assert loaded.parts.missing == {}
    fingerprint = read_json(run_folder / "center" / "versions" / "v1.json")["fingerprint"]
    assert loaded.parts.versions == {
        "encoder": fingerprint,
        "vectors": "v1",
        "click model": "content v1 (torch)",
    }
    for asked in (("red mug", None, "d1"), (None, picture(COLORS["red"])), ("lamp", picture(COLORS["blue"]))):
        answer = loaded.search(*asked)
        assert answer.trace.degraded == []
        assert len(answer.products) == 12
        shown = [*answer.ads, *answer.products]
        assert all(0 < one.p_click < 1 and -1 <= one.relevance <= 1 for one in shown)


def test_a_query_gets_a_unit_vector_as_wide_as_the_stored_ones(loaded):
    vector = loaded.parts.encoder.encode_query("red mug", loaded.image("i05"))
    assert vector.shape == (loaded.parts.shard.dim,) == (16,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_click_probabilities_are_those_of_the_trained_model(loaded, shop, run_folder):
    store = VectorStore.open(run_folder / "center")
    scorer = ClickScorer.load(run_folder / "ranking" / "content", shop, store)
    at = int(shop.table("events").column("at").cast("int64").to_numpy().max())
    rows = np.arange(24)
    query = loaded.parts.encoder.encode_query("red mug", None)
    request = Request("Red mug", None, "d1", 12)
    found = loaded.parts.clicks.p_click(request, loaded.stock.past("d1"), query, rows)
    codes = scorer.shopper_codes(["d1"]), scorer.query_codes(["q1"])
    expected = scorer.score(*codes, rows[None], np.array([at]), query_vectors=query[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    unseen = loaded.parts.clicks.p_click(Request("new", None, None, 12), loaded.stock.past(None), None, rows)
    assert unseen.shape == (24,)
    assert np.abs(unseen - found).max() > 1e-4


def test_an_exported_click_model_is_run_by_onnxruntime_and_gives_the_same_answers(loaded, copied):
    export_model(copied / "ranking" / "content")
    exported = Pipeline.load(copied)
    assert exported.parts.versions["click model"] == "content v1 (onnx)"
    assert exported.search("red mug", shopper_id="d1").versions["click model"] == "content v1 (onnx)"
    rows, past = np.arange(24), loaded.stock.past("d1")
    query = loaded.parts.encoder.encode_query("red mug", None)
    for request in (Request("Red mug", None, "d1", 12), Request("new", None, None, 12)):
        found = [one.parts.clicks.p_click(request, past, query, rows) for one in (exported, loaded)]
        np.testing.assert_allclose(*found, atol=1e-6)


def test_a_loaded_run_answers_alike_from_many_threads(loaded):
    asked = [("red mug", None, "d1"), ("blue", None, "d2"), (None, picture(COLORS["red"]), None)] * 4

    def seen(one):
        answer = loaded.search(*one)
        return [(shown.product_id, shown.p_click) for shown in (*answer.ads, *answer.products)]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(seen, asked)) == [seen(one) for one in asked]


def test_a_picture_of_extreme_shape_is_answered(loaded):
    for size in ((4, 4000), (4000, 4)):
        file = io.BytesIO()
        Image.new("RGB", size, "red").save(file, "PNG")
        assert loaded.search(image=file.getvalue()).products


@pytest.mark.parametrize(
    ("folder", "step", "text"),
    [
        ("encoder", "encode", "no encoder at demo/encoder"),
        ("center", "retrieve", "no vectors at demo/center: run `moontide embed` first: titles were matched"),
        ("ranking", "rank", "no click model at demo/ranking/content: ordered by relevance alone"),
    ],
)
def test_a_run_without_a_part_answers_and_names_it(copied, folder, step, text):
    shutil.rmtree(copied / folder)
    pipeline = Pipeline.load(copied)
    assert degraded(pipeline, "red mug")[step].startswith(text)
    assert pipeline.search("red mug").products[0].product_id == "p00"
    assert str(copied.parent) not in str(pipeline.parts.missing)  # visitors see these sentences


def test_a_run_with_nothing_but_its_dataset_answers_by_words(copied, shop):
    for folder in ("encoder", "center", "ranking"):
        shutil.rmtree(copied / folder)
    pipeline = Pipeline.load(copied)
    assert set(pipeline.parts.missing) == {"retrieve", "encode", "rank"}
    assert pipeline.search("red mug").products[0].title == "Red mug <No. 0>"


def test_a_center_without_an_active_version_says_so(copied):
    (copied / "center" / "active.json").unlink()
    assert Pipeline.load(copied).parts.missing["retrieve"] == (
        "no version of demo/center is active: run `moontide center activate`"
    )


def test_an_active_version_without_creatives_or_products_says_so(copied):
    store = VectorStore.open(copied / "center")
    vectors = np.eye(16, dtype=np.float32)[:1]
    store.upsert("query", ["q1"], "v2", vectors, ["h"])
    store.activate("v2")
    missing = Pipeline.load(copied).parts.missing
    assert missing["retrieve"] == "no product has a vector of version v2: run `moontide embed`"
    assert missing["creative"] == "no creative has a vector of version v2: run `moontide embed`"
    assert "learned from vectors of version 'v1', served are those of 'v2'" in missing["rank"]


def test_an_encoder_that_did_not_make_the_vectors_is_not_compared_with_them(copied):
    file = copied / "center" / "versions" / "v1.json"
    write_json(file, {**read_json(file), "fingerprint": "0123456789abcdef"})
    pipeline = Pipeline.load(copied)
    assert "the vectors were made by 0123456789abcdef: embed again" in pipeline.parts.missing["encode"]
    assert set(degraded(pipeline, "red mug")) == {"encode", "retrieve"}


def test_broken_files_degrade_their_step_instead_of_stopping_the_server(copied):
    (copied / "encoder" / "model.safetensors").write_bytes(b"broken")
    (copied / "ranking" / "content" / "model.pt").write_bytes(b"broken")
    pipeline = Pipeline.load(copied)
    assert {"encode", "rank"} <= set(pipeline.parts.missing)
    assert pipeline.search("red mug").products[0].product_id == "p00"


def test_a_dataset_beside_the_run_is_found_and_a_lost_one_is_named(copied, shop):
    facts = read_json(copied / "run.json")
    write_json(copied / "run.json", {**facts, "settings": {}})
    with pytest.raises(DataError, match=r"the dataset of .*demo is not at .*demo/dataset: put it back"):
        Pipeline.load(copied)
    shutil.copytree(shop.path, copied / "dataset")
    assert len(Pipeline.load(copied).stock.products) == 24
    with pytest.raises(CheckpointError, match="no run at"):
        Pipeline.load(copied / "nothing")


def test_a_dataset_path_may_be_relative_to_the_run(copied, shop):
    shutil.copytree(shop.path, copied / "data" / "shop")
    facts = read_json(copied / "run.json")
    write_json(copied / "run.json", {**facts, "settings": {"dataset": "data/shop"}})
    assert Pipeline.load(Run.open(copied).path).dataset.path == copied / "data" / "shop"
