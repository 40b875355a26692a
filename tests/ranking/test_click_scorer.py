"""Online scoring: the same numbers as the batch path, from a state that was fed event by event."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import scipy.special
from typer.testing import CliRunner

from moontide.foundation.errors import CheckpointError, DataError
from moontide.ranking.calibration import Calibrator, SlicedCalibrator
from moontide.ranking.content import ContentTable
from moontide.ranking.export import export_model
from moontide.ranking.facts import KINDS
from moontide.ranking.samples import SampleSettings, build_samples
from moontide.ranking.score import ClickScorer
from moontide.ranking.state import OnlineState
from moontide.ranking.train import Trained, TrainSettings, train_click_model


@pytest.fixture(scope="module")
def content(planted):
    return ContentTable.of(planted.product_vectors, planted.query_vectors, version="v1")


@pytest.fixture(scope="module")
def folder(planted, content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "content"
    train_click_model(planted.samples, content, training=TrainSettings(batch_size=256)).save(folder)
    return folder


def codes_of(samples, table):
    ids = samples.entities
    columns = {"shopper_id": ids.shopper_ids, "product_id": ids.product_ids, "query_id": ids.query_ids}
    codes = {
        name: np.array([known.index(one).as_py() for one in table.column(name).to_pylist()])
        for name, known in columns.items()
    }
    at = table.column("at").cast(pa.int64()).to_numpy()
    kind = np.array([KINDS[one] for one in table.column("kind").to_pylist()])
    return at, kind, codes["shopper_id"], codes["product_id"], codes["query_id"]


def test_a_state_fed_event_by_event_scores_stored_impressions_as_the_batch_path_does(
    planted, content, folder
):
    samples = planted.samples
    scorer = ClickScorer.load(folder, planted.dataset, content, until_ms=samples.cutoff_ms)
    trained = scorer.trained
    table = planted.dataset.table("events").sort_by([("at", "ascending"), ("event_id", "ascending")])
    at, kind, shopper, product, query = codes_of(samples, table)
    requests = table.column("request_id").to_pylist()
    asked = {r: q for r, q, k in zip(requests, query, kind, strict=True) if k == KINDS["impression"]}
    expected = dict(
        zip(samples.event_id.take(pa.array(trained.rows)).to_pylist(), trained.scores, strict=True)
    )
    names, differences = table.column("event_id").to_pylist(), []
    late = np.flatnonzero(at >= samples.cutoff_ms)
    for group in np.split(late, np.flatnonzero(np.diff(at[late])) + 1):
        shows = group[kind[group] == KINDS["impression"]]
        if len(shows):  # score all of a request, then let it happen
            one = shows[:1]
            found = scorer.score(shopper[one], query[one], product[shows][None], at[one])[0]
            differences += [abs(p - expected[names[row]]) for p, row in zip(found, shows, strict=True)]
            scorer.observe(shopper[one], query[one], product[shows][None], np.zeros((1, len(shows))), at[one])
        for row in group[kind[group] != KINDS["impression"]]:
            one = np.array([row])
            if kind[row] == KINDS["click"]:
                of_request = np.array([asked[requests[row]]])
                scorer.state.click(shopper[one], of_request, product[one], at[one])
            else:
                scorer.observe_orders(shopper[one], product[one], at[one])
    assert len(differences) == len(trained.rows)
    assert max(differences) < 1e-6


def test_a_state_after_the_whole_log_equals_one_that_was_fed_the_end(planted):
    samples = planted.samples
    whole = OnlineState.of_samples(samples)
    fed = OnlineState.of_samples(samples, until_ms=samples.cutoff_ms)
    late = samples.at >= samples.cutoff_ms
    fed.show(samples.shopper[late], samples.query[late], samples.product[late])
    owner = np.repeat(np.arange(len(samples.entities.shoppers)), np.diff(samples.behavior_start))
    for row in np.flatnonzero(samples.behavior_at >= samples.cutoff_ms):
        columns = (
            owner,
            samples.behavior_query,
            samples.behavior_product,
            samples.behavior_at,
            samples.behavior_kind,
        )
        fed._behave(*(column[row : row + 1] for column in columns))
    shopper = np.arange(-1, 120)
    product = np.tile(np.arange(-1, 240), (121, 1))
    query = np.resize(np.arange(-1, 20), 121)
    np.testing.assert_array_equal(
        whole.counters(shopper, query, product), fed.counters(shopper, query, product)
    )
    for name in ("product", "at", "kind"):
        kept, found = (getattr(state.history(shopper), name) for state in (whole, fed))
        real = whole.history(shopper).product >= 0
        np.testing.assert_array_equal(found[real], kept[real])


def test_a_ring_keeps_the_latest_behaviors_whether_they_come_alone_or_together():
    rng = np.random.default_rng(0)
    shopper, product, at = rng.integers(0, 3, 100), rng.integers(0, 9, 100), np.arange(100)
    none = np.full(100, -1)
    together, alone = (OnlineState(9, 3, 1, np.zeros(9, int), steps=4) for _ in range(2))
    together.click(shopper, none, product, at)
    for row in range(100):
        alone.click(*(column[row : row + 1] for column in (shopper, none, product, at)))
    for code in range(3):
        expected = product[shopper == code][::-1][:4]
        for state in (together, alone):
            assert state.history(np.array([code])).product[0].tolist() == expected.tolist()


def test_a_state_that_grows_keeps_everyone_and_knows_nothing_of_newcomers():
    rng = np.random.default_rng(1)
    shopper, product, at = rng.integers(-1, 3, 60), rng.integers(0, 9, 60), np.arange(60)
    none = np.full(60, -1)
    grown, roomy = (OnlineState(9, num, 1, np.zeros(9, int), steps=4) for num in (3, 50))
    for state in (grown, roomy):
        state.show(shopper, none, product)
        state.click(shopper, none, product, at)
    for num in (4, 5, 50):
        grown.grow(num)
    newcomer = np.array([49, 4]), np.array([-1, -1]), np.array([3, 5]), np.array([70, 71])
    for state in (grown, roomy):
        state.click(*newcomer)
    asked = np.arange(-1, 50)
    for name in ("product", "at", "kind", "query"):
        kept, found = (getattr(state.history(asked), name) for state in (roomy, grown))
        np.testing.assert_array_equal(found, kept)
    codes = np.full(51, -1), np.tile(np.arange(9), (51, 1))
    np.testing.assert_array_equal(grown.counters(asked, *codes), roomy.counters(asked, *codes))
    assert (grown.history(np.array([3, 48, -1])).product == -1).all()


def test_scores_do_not_depend_on_the_other_candidates_or_requests(planted, content, folder, monkeypatch):
    scorer = ClickScorer.load(folder, None, content, samples=planted.samples)
    rng = np.random.default_rng(0)
    shopper, query, product = rng.integers(0, 120, 6), rng.integers(0, 20, 6), rng.integers(0, 240, (6, 30))
    product[2, 5:] = -1
    at = planted.samples.at.max() + 1000
    together = scorer.score(shopper, query, product, at)
    assert (together[2, 5:] == 0).all()
    assert ((together[product >= 0] > 0) & (together[product >= 0] < 1)).all()
    for row, slot in ((0, 0), (3, 29), (5, 7)):
        alone = scorer.score(shopper[[row]], query[[row]], product[[row], slot][:, None], at)
        assert alone[0, 0] == pytest.approx(together[row, slot], abs=1e-6)
    monkeypatch.setattr("moontide.ranking.score.CELLS", 1)
    assert scorer.score(shopper, query, product, at) == pytest.approx(together, abs=1e-6)
    assert scorer.score(shopper[:0], query[:0], product[:0], at).shape == (0, 30)


def test_a_query_vector_stands_in_for_a_stored_query(planted, content, folder):
    scorer = ClickScorer.load(folder, None, content, samples=planted.samples)
    product, at = np.arange(40)[None], planted.samples.at.max()
    unknown = scorer.score(np.array([3]), np.array([-1]), product, at)
    vector = planted.query_vectors[[4]]
    given = scorer.score(np.array([3]), np.array([-1]), product, at, query_vectors=vector)
    assert np.abs(given - unknown).max() > 1e-3
    zero = scorer.score(np.array([3]), np.array([-1]), product, at, query_vectors=0 * vector)
    assert zero == pytest.approx(unknown, abs=1e-12)


def test_strangers_are_scored_and_remembered(planted, content, folder):
    scorer = ClickScorer.load(folder, None, content, samples=planted.samples)
    assert scorer.shopper_codes(["u0003", "new", None]).tolist() == [3, -1, -1]
    code = scorer.shopper_codes(["new"], remember=True)
    assert code.tolist() == scorer.shopper_codes(["new"]).tolist() == [120]
    product, at = np.arange(200)[None], planted.samples.at.max()
    stranger = scorer.score(np.array([-1]), np.array([1]), product, at)
    before = scorer.score(code, np.array([1]), product, at)
    assert before == pytest.approx(stranger, abs=1e-12)
    for _ in range(3):
        scorer.observe(code, np.array([1]), np.array([[7, 8, -1]]), np.array([[True, False, True]]), at)
    assert scorer.state.history(code).product[0, :4].tolist() == [7, 7, 7, -1]
    liked = scorer.score(code, np.array([1]), product, at)
    near = np.argsort(-planted.product_vectors[:200] @ planted.product_vectors[7])[1:20]
    lift = (liked / before)[0]
    assert lift[near].mean() > lift.mean()
    assert scorer.product_codes(["p0001", "gone"]).tolist() == [1, -1]
    assert scorer.query_codes(["q01", None]).tolist() == [1, -1]


def test_the_exported_graph_scores_as_pytorch_does_after_a_stranger_came(planted, content, folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    export_model(own)
    scorers = [
        ClickScorer.load(own, None, content, samples=planted.samples, engine=name) for name in (None, "torch")
    ]
    assert [scorer.engine for scorer in scorers] == ["onnx", "torch"]
    rng, at = np.random.default_rng(0), planted.samples.at.max() + 1000
    product, found = rng.integers(-1, 240, (9, 25)), []
    for scorer in scorers:
        shopper = np.append(np.arange(-1, 7), scorer.shopper_codes(["new"], remember=True))
        scorer.observe(
            shopper[-1:], np.array([1]), np.array([[7, 8, -1]]), np.array([[True, False, True]]), at
        )
        vectors = planted.query_vectors[:9] * (np.arange(9) % 3 > 0)[:, None]
        found += [scorer.score(shopper, np.arange(9) - 1, product, at + 1)]
        found += [scorer.score(shopper, np.arange(9) - 1, product, at + 1, query_vectors=vectors)]
    assert (found[0][product < 0] == 0).all()
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    np.testing.assert_allclose(found[1], found[3], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_products_of_each_slice_are_calibrated_by_their_own(planted, content, folder):
    plain = ClickScorer.load(folder, None, content, samples=planted.samples)
    sliced = Trained.load(folder)
    own = {"new": Calibrator("platt", 1.0, 0.7), "known": Calibrator("platt", 0.5, 0.0)}
    sliced.calibrator, samples = SlicedCalibrator("known", Calibrator(), own), planted.samples
    scorer = ClickScorer(sliced, samples.entities, content, OnlineState.of_samples(samples))
    asked = np.array([3]), np.array([4]), np.arange(-1, 240)[None], samples.at.max()
    before = plain.trained.calibrator
    logit = (scipy.special.logit(plain.score(*asked)[0, 1:]) - before.offset) / before.slope
    is_known = samples.vocabulary.rows("product", samples.entities.product_ids)[:-1] > 0
    assert 0 < is_known.mean() < 1
    expected = np.where(is_known, own["known"](logit), own["new"](logit))
    np.testing.assert_allclose(scorer.score(*asked)[0, 1:], expected, atol=1e-9)
    assert scorer.score(*asked)[0, 0] == 0


def test_what_is_missing_is_said(planted, folder, tmp_path):
    with pytest.raises(DataError, match="reads vectors"):
        ClickScorer.load(folder, None, None, samples=planted.samples)
    with pytest.raises(CheckpointError, match="train one first"):
        ClickScorer.load(tmp_path, planted.dataset)


def test_new_products_of_a_grown_catalog_are_scored_as_unknown_ids(planted, folder, content):
    trained = Trained.load(folder)
    fewer = build_samples(planted.dataset, SampleSettings(min_impressions=10_000))
    assert fewer.vocabulary.sizes["product"] == 1
    scorer = ClickScorer(trained, fewer.entities, content, OnlineState.of_samples(fewer))
    assert (scorer.version, scorer.engine) == ("content v1", "torch")
    assert np.isfinite(scorer.score(np.array([0]), np.array([0]), np.array([[0, 239]]), 0)).all()


def test_the_commands_train_and_evaluate(planted, tmp_path):
    from moontide.center.store import VectorStore
    from moontide.ranking.verbs import app

    store = VectorStore.open(tmp_path / "center")
    ids = planted.samples.entities.product_ids.to_pylist()
    store.upsert("product", ids, "v1", planted.product_vectors, ids)
    store.activate("v1")
    run, dataset = CliRunner(), str(planted.dataset.path)
    for name, more in (("id", []), ("content", ["--vectors", str(tmp_path / "center")])):
        done = run.invoke(app, ["train", "--dataset", dataset, "--out", str(tmp_path / name), *more])
        assert done.exit_code == 0, done.output
        assert "auc" in done.output
    assert Trained.load(tmp_path / "content").version == "v1"
    done = run.invoke(
        app,
        [
            "evaluate",
            "--dataset",
            dataset,
            "--model",
            str(tmp_path / "content"),
            "--against",
            str(tmp_path / "id"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert "new" in done.output
