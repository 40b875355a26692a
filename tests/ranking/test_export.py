"""The exported graph: the same logits as the model, for every published composition and any request."""

import json
import logging
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch

from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.foundation.seeds import seed_of
from moontide.ranking import export
from moontide.ranking.calibration import Calibrator
from moontide.ranking.compositions import COMPOSITIONS
from moontide.ranking.content import ContentTable
from moontide.ranking.counters import COUNTERS
from moontide.ranking.cube import CubeSettings
from moontide.ranking.engine import Asked, OnnxEngine, RequestFeed, TorchEngine, open_engine
from moontide.ranking.entities import Entities, Vocabulary
from moontide.ranking.export import export_model, exported_facts, run_program
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.heads import ContentSettings
from moontide.ranking.make import MakeSettings
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.request_model import CANDIDATES, STEPS
from moontide.ranking.samples import History
from moontide.ranking.search import SearchSettings
from moontide.ranking.semantic import SemanticSettings
from moontide.ranking.train import Trained, TrainSettings, feed_of

EVERYTHING = ClickSettings(
    content=ContentSettings(
        score=True,
        vector=True,
        asked=True,
        past_queries=True,
        creative=True,
        plain_counts=True,
        cube=CubeSettings(weights="topk"),
        make=MakeSettings(),
        semantic=SemanticSettings(levels=2, codes=8),
    ),
    search=SearchSettings(steps=90, by="content", unit="similarity", top=20),
    use_attributes=True,
)
BARE = ClickSettings(
    content=ContentSettings(tiers=0, match=False, cube=CubeSettings(weights="topk", top=3)),
    use_interest=False,
    use_counters=False,
    history=7,
)
SETTINGS = {**COMPOSITIONS, "everything": EVERYTHING, "bare": BARE}
QUICK = ("id", "cube_simtier", "muse", "everything")
SLOW = ("vector", "simscore", "simtier", "make", "cube", "semantic", "sim_hard", "sim_soft", "bare")


@pytest.fixture(scope="module")
def content(planted):
    rng = np.random.default_rng(3)
    creatives = rng.normal(size=(240, 16))
    tables = (planted.product_vectors.copy(), planted.query_vectors.copy(), creatives)
    for table in tables:
        table[rng.random(len(table)) < 0.2] = 0
    return ContentTable.of(*tables, version="v1")


def untrained(planted, content, settings, seed=0):
    """A model with weights of a size that training gives them, none of them left at its start."""
    samples = planted.samples
    model = ClickModel(samples.vocabulary.sizes, settings, 5, 16 if settings.reads_vectors else 0)
    model.initialize(seed)
    for name, weight in model.named_parameters():
        rng = torch.Generator().manual_seed(seed_of(seed, "shift", name) % 2**62)
        with torch.no_grad():
            weight.add_(torch.randn(weight.shape, generator=rng), alpha=0.1)
    if hasattr(model, "semantic_centers"):
        model.semantic_centers.normal_(0, 0.25, generator=torch.Generator().manual_seed(seed))
    vectors = content if settings.reads_vectors else None
    feed = feed_of(model, samples.vocabulary, samples.entities, vectors)
    model.fit_scales(feed.of_samples(samples, np.arange(2000)), np.ones(5), np.ones(5) / 20)
    none = np.zeros(0)
    return Trained(
        model.eval(),
        samples.vocabulary,
        Calibrator(),
        none.astype(int),
        none,
        none,
        metrics={},
        training=TrainSettings(),
        version="v1" if vectors else "",
    )


@pytest.fixture(scope="module")
def exported(planted, content, tmp_path_factory):
    """Folders of exported models, each made when it is first asked for."""
    folders = {}

    def folder_of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("models") / name
            untrained(planted, content, SETTINGS[name]).save(folders[name])
            export_model(folders[name])
        return folders[name]

    return folder_of


def request(rng, num, steps, width, has_query_vector=False):
    """A request of random codes, unknown ones (-1) among them; products occur twice, and as behaviors too."""
    at, past = 1_780_000_000_000, np.full((4, 1, width), -1)
    past[0, 0, :steps] = rng.integers(0, 240, steps)
    past[1, 0, :steps] = at - np.sort(rng.integers(0, 90 * 86_400_000, steps))
    past[2, 0, :steps] = rng.choice([CLICK, ORDER], steps)
    past[3, 0, :steps] = rng.integers(-1, 20, steps)
    return Asked(
        shopper=rng.integers(-1, 120, 1),
        query=rng.integers(-1, 20, 1),
        product=rng.integers(0, 240, (1, num)),
        at=np.array([at]),
        counters=rng.integers(0, 500, (1, num, len(COUNTERS))) * rng.integers(0, 2, (1, num, 1)),
        history=History(*past),
        query_vectors=rng.normal(size=(1, 16)) * rng.integers(0, 2) if has_query_vector else None,
        creative=rng.integers(-1, 240, (1, num)),
    )


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_model_program_and_graph_give_the_same_logits(planted, content, exported, name):
    folder, samples = exported(name), planted.samples
    trained = Trained.load(folder)
    vectors = content if trained.model.settings.reads_vectors else None
    eager = TorchEngine(trained.model, trained.feed(samples.entities, vectors))
    graph = OnnxEngine(folder, trained, samples.entities, vectors)
    program, feed = run_program(folder / export.PROGRAM), RequestFeed(trained, samples.entities, vectors)
    rng, spread = np.random.default_rng(seed_of(0, name) % 2**32), []
    most = trained.model.settings.all_steps
    for round, steps in enumerate((0, 1, 2, 49, 50, 51, most - 1, most, 2, 30)):
        num = 1 if round < 3 else int(rng.integers(2, 60))
        asked = request(rng, num, min(steps, most), most, has_query_vector=round % 2 == 1)
        expected = eager.logits(asked)
        np.testing.assert_allclose(graph.logits(asked), expected, rtol=1e-5, atol=1e-5)
        found = program(feed.inputs(asked, 0, np.arange(num)))
        np.testing.assert_allclose(found, expected[0], rtol=1e-5, atol=1e-5)
        spread.append(expected.std())
    assert max(spread) > 0.1  # logits that all were alike would agree for nothing


def test_what_is_the_shoppers_is_never_repeated_for_a_candidate(exported):
    """Between candidates and steps stand single numbers (scores, weights), no embeddings."""
    graph = onnx.load(exported("cube_simtier") / export.GRAPH).graph
    widest, seen = {}, 0
    for value in graph.value_info:
        dims = [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]
        seen += CANDIDATES in dims
        if CANDIDATES in dims and STEPS in dims:
            rest = [one for one in dims if one not in (CANDIDATES, STEPS)]
            widest[value.name] = max([one for one in rest if isinstance(one, int)], default=1)
    assert seen > 20
    assert len(widest) > 20
    assert max(widest.values()) == 1, widest


def test_the_facts_name_every_input_of_the_graph(exported):
    folder = exported("muse")
    facts, graph = exported_facts(folder), onnx.load(folder / export.GRAPH).graph
    kinds = {
        "int64": onnx.TensorProto.INT64,
        "float32": onnx.TensorProto.FLOAT,
        "bool": onnx.TensorProto.BOOL,
    }
    assert [one["name"] for one in facts["inputs"]] == [one.name for one in graph.input]
    for named, given in zip(facts["inputs"], graph.input, strict=True):
        assert given.type.tensor_type.elem_type == kinds[named["dtype"]]
        dims = [one.dim_param or one.dim_value for one in given.type.tensor_type.shape.dim]
        assert dims == named["shape"], named["name"]
    assert [one.name for one in graph.output] == ["click_logit"]
    assert facts["axes"] == {"candidates": [1, None], "steps": [50, 1000]}
    assert facts["opset"] == onnx.load(folder / export.GRAPH).opset_import[0].version


@pytest.fixture
def own(exported, tmp_path):
    """A copy of an exported model of ids, to be broken."""
    return shutil.copytree(exported("id"), tmp_path / "own")


def opened(planted, folder, engine=None):
    return open_engine(folder, Trained.load(folder), planted.samples.entities, None, engine)


def truncated(folder, planted):
    graph = folder / export.GRAPH
    graph.write_bytes(graph.read_bytes()[:-100])


def trained_again(folder, planted):
    untrained(planted, None, SETTINGS["id"], seed=1).save(folder)


def forged(folder, planted, other=None):
    """Another model's graph in the place of its own, with facts that claim otherwise."""
    if other is None:
        other = folder.with_name("other")
        untrained(planted, None, SETTINGS["id"], seed=1).save(other)
        export_model(other)
    shutil.copy(other / export.GRAPH, folder / export.GRAPH)
    facts = json.loads((folder / export.FACTS).read_text())
    facts["files"] = exported_facts(other)["files"]
    (folder / export.FACTS).write_text(json.dumps(facts))


def without_graph(folder, planted):
    (folder / export.GRAPH).unlink()


def unreadable(folder, planted):
    (folder / export.FACTS).write_text("[1]")


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (truncated, "not the file that was exported: run `moontide ranking export"),
        (trained_again, "another model than model.pt: run `moontide ranking export"),
        (forged, "the ONNX graph differs from the model by"),
        (without_graph, "no whole export of the click model"),
        (unreadable, "no whole export of the click model"),
    ],
)
def test_a_broken_or_foreign_graph_is_never_run(planted, own, caplog, break_it, text):
    break_it(own, planted)
    with pytest.raises(CheckpointError, match=text):
        opened(planted, own, "onnx")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        engine = opened(planted, own)
    assert engine.name == "torch"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert text in caplog.text


def test_a_graph_with_other_inputs_is_never_run(planted, own, exported):
    forged(own, planted, exported("muse"))
    with pytest.raises(CheckpointError, match=r"the ONNX graph is not of this model .*: export it again"):
        opened(planted, own, "onnx")
    assert opened(planted, own).name == "torch"


def test_the_engine_is_the_one_asked_for_and_onnx_by_default(planted, own, caplog):
    assert opened(planted, own).name == "onnx"
    assert opened(planted, own, "torch").name == "torch"
    with pytest.raises(SettingsError, match="engine must be one of onnx, torch, got 'fast'"):
        opened(planted, own, "fast")
    (own / export.FACTS).unlink()
    with caplog.at_level(logging.INFO):
        assert opened(planted, own).name == "torch"
    assert "faster after `moontide ranking export" in caplog.text
    with pytest.raises(CheckpointError, match="no whole export"):
        opened(planted, own, "onnx")


def test_nothing_is_exported_from_a_folder_without_a_model(tmp_path):
    with pytest.raises(CheckpointError, match="no click model"):
        export_model(tmp_path)


def test_a_graph_that_gives_other_numbers_is_not_written(own, monkeypatch):
    before = {file.name: file.read_bytes() for file in own.iterdir()}
    right = export.run_graph
    monkeypatch.setattr(export, "run_graph", lambda file: lambda inputs: right(file)(inputs) + 1e-3)
    with pytest.raises(CheckpointError, match="the ONNX graph differs from the model by"):
        export_model(own)
    assert {file.name: file.read_bytes() for file in own.iterdir()} == before


def test_many_candidates_are_scored_in_pieces_and_empty_slots_left_out(planted, own, monkeypatch):
    engine, rng = opened(planted, own), np.random.default_rng(0)
    asked = request(rng, 40, 20, 50)
    whole = engine.logits(asked)
    monkeypatch.setattr(engine, "_most", 7)
    np.testing.assert_allclose(engine.logits(asked), whole, atol=1e-6)
    asked.product[0, 5:20] = -1
    holes = engine.logits(asked)
    np.testing.assert_allclose(np.delete(holes, np.s_[5:20]), np.delete(whole, np.s_[5:20]), atol=1e-6)
    asked.product[:] = -1
    assert engine.logits(asked).shape == (1, 40)


def test_many_threads_get_the_answers_of_one(planted, exported, content):
    folder = exported("muse")
    engine = OnnxEngine(folder, Trained.load(folder), planted.samples.entities, content)
    rng = np.random.default_rng(0)
    asked = [request(rng, 30, int(rng.integers(0, 300)), 300) for _ in range(24)]
    alone = [engine.logits(one) for one in asked]
    with ThreadPoolExecutor(6) as pool:
        for found, expected in zip(pool.map(engine.logits, asked), alone, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_requests_inputs_do_not_cost_what_the_catalog_measures():
    num, none = 200_000, np.zeros(0)
    names = pa.array([f"p{code}" for code in range(num)])
    fields = dict.fromkeys(("leaf", "top", "brand", "merchant", "price_band"), pa.nulls(num, pa.string()))
    shoppers = pa.table(dict.fromkeys(("shopper", "segment", "device", "region"), pa.array(["u"] * 120)))
    entities = Entities(
        pa.table({"product": names, **fields}),
        shoppers,
        pa.array(["q"] * 20),
        pa.array(["c"]),
        np.zeros(num),
        np.zeros(num),
    )
    kept = ("product", *fields, *shoppers.column_names, "query")
    vocabulary = Vocabulary({name: [] for name in kept})
    model = ClickModel(vocabulary.sizes, ClickSettings(), 1)
    trained = Trained(model, vocabulary, Calibrator(), none, none, none, {}, TrainSettings())
    feed, asked = RequestFeed(trained, entities, None), request(np.random.default_rng(0), 500, 50, 50)
    slots = np.arange(500)
    feed.inputs(asked, 0, slots)
    tracemalloc.start()
    given = feed.inputs(asked, 0, slots)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6 * sum(column.nbytes for column in given.values())  # one byte a product would be more
    assert 6 * sum(column.nbytes for column in given.values()) < 2 * num
