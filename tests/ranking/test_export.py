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
from moontide.ranking.export import export_model, exported_facts, inputs_of, run_program
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.heads import ContentSettings
from moontide.ranking.make import MakeSettings
from moontide.ranking.models import ClickModel, ClickSettings
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
            weight.add_(torch.randn(weight.shape, generator=rng), alpha=0.3)
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


@pytest.mark.parametrize("name", SETTINGS)
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
