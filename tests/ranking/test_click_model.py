"""The click model: masks, padding, what content adds, overfitting, determinism, saving."""

import logging
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.foundation.runs import Run
from moontide.ranking.baselines import logistic_scores, popularity_scores
from moontide.ranking.batches import Batch, Feed
from moontide.ranking.content import ContentTable, VectorTable
from moontide.ranking.cube import CubeSettings
from moontide.ranking.facts import CLICK
from moontide.ranking.heads import ContentSettings, Near, _creative_near, past_query_nears
from moontide.ranking.make import MakeSettings
from moontide.ranking.metrics import auc, auc_difference
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.samples import History, empty_history
from moontide.ranking.search import SearchSettings
from moontide.ranking.semantic import SemanticSettings
from moontide.ranking.slices import compare_scores, slice_masks, slice_table
from moontide.ranking.train import Trained, TrainSettings, feed_of, train_click_model

DIM = 16  # of planted vectors
QUICK = TrainSettings(batch_size=256)
CONTENT = ClickSettings(content=ContentSettings())


@pytest.fixture(scope="module")
def content(planted):
    return ContentTable.of(planted.product_vectors, planted.query_vectors, planted.product_vectors, "v1")


@pytest.fixture(scope="module")
def with_ids(planted):
    return train_click_model(planted.samples, training=QUICK)


@pytest.fixture(scope="module")
def with_content(planted, content):
    return train_click_model(planted.samples, content, training=QUICK)


def new_model(samples, settings=CONTENT, seed=0):
    model = ClickModel(samples.vocabulary.sizes, settings, 5, DIM if settings.reads_vectors else 0)
    model.initialize(seed)
    with torch.no_grad():  # the linear parts start at zero: give every part a say
        for weight in (model.position.weight, model.interest.recency.weight):
            weight.normal_()
        model.wide.weight.normal_()
    return model.eval()


def requests(samples, rows, steps=50):
    """What `Feed.make` needs to score stored impressions as requests with one candidate."""
    return {
        "shopper": samples.shopper[rows],
        "query": samples.query[rows],
        "product": samples.product[rows, None],
        "at": samples.at[rows],
        "counters": samples.counters[rows, None],
        "history": samples.history(rows, steps),
    }


def test_content_lifts_auc_most_where_ids_know_nothing(planted, with_ids, with_content):
    samples, rows = planted.samples, with_ids.rows
    label, shopper = samples.label[rows], samples.shopper[rows]
    gain = auc_difference(with_ids.scores, with_content.scores, label, shopper)
    assert gain.low > 0.03
    lines = {
        line["slice"]: line for line in compare_scores(samples, rows, with_ids.scores, with_content.scores)
    }
    assert lines["all"]["difference"].value == pytest.approx(gain.value)
    assert lines["new"]["difference"].value > 0.03
    assert lines["all"]["resolvable"] > 0


def test_permuted_and_random_vectors_lose_the_gain(planted, content, with_ids, with_content):
    samples, rows = planted.samples, with_ids.rows
    label, shopper = samples.label[rows], samples.shopper[rows]
    gain = auc_difference(with_ids.scores, with_content.scores, label, shopper).value
    for control in (content.permuted(), content.random()):
        scores = train_click_model(samples, control, training=QUICK).scores
        lost = auc_difference(with_ids.scores, scores, label, shopper)
        assert lost.value < 0.25 * gain
        assert lost.low < 0.01


def test_the_same_seed_gives_the_same_model_and_another_seed_another(planted, content, with_content):
    again = train_click_model(planted.samples, content, training=QUICK)
    assert again.scores.tolist() == with_content.scores.tolist()
    other = train_click_model(planted.samples, content, seed=1, training=QUICK)
    assert other.scores.tolist() != with_content.scores.tolist()


def test_models_of_one_seed_start_alike_where_they_share_parts(planted):
    ids, content = (
        dict(new_model(planted.samples, settings).named_parameters())
        for settings in (ClickSettings(), CONTENT)
    )
    for name, weight in ids.items():
        if (
            not name.startswith(("position", "interest.recency", "wide"))
            and weight.shape == content[name].shape
        ):
            assert torch.equal(weight, content[name]), name


def test_one_batch_can_be_overfitted(planted, content):
    samples = planted.samples
    model = new_model(samples)
    rows = samples.train_rows[-200:]
    batch = feed_of(model, samples.vocabulary, samples.entities, content).of_samples(samples, rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label_BN)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    assert auc(model(batch)[:, 0].detach().numpy(), samples.label[rows]) > 0.999


def test_every_weight_of_the_model_gets_a_gradient(planted, content):
    samples = planted.samples
    settings = ClickSettings(
        content=ContentSettings(
            asked=True, creative=True, past_queries=True, score=True, vector=True, cube=CubeSettings(),
            make=MakeSettings(is_frozen=False), semantic=SemanticSettings(levels=2, codes=8),
        ),
        search=SearchSettings(steps=80, top=5),
        use_attributes=True,
    )  # fmt: skip
    model = new_model(samples, settings)
    feed = feed_of(model, samples.vocabulary, samples.entities, content)
    batch = feed.of_samples(samples, samples.train_rows[-300:])
    logit = model(batch) + model.position_logit(batch.position_BN)
    torch.nn.functional.binary_cross_entropy_with_logits(logit, batch.label_BN).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
    assert len(model.heads.tiers) == 4
    assert "attribute:tone" in model.item_fields


def test_padding_and_the_order_of_behaviors_do_not_move_a_score(planted, content):
    samples, rows = planted.samples, planted.samples.test_rows[:64]
    model = new_model(samples)
    feed = feed_of(model, samples.vocabulary, samples.entities, content)
    asked = requests(samples, rows)
    expected = model(feed.make(**asked))
    history = asked["history"]
    order = np.random.default_rng(0).permutation(history.product.shape[1])
    shuffled = History(*(getattr(history, field.name)[:, order] for field in fields(History)))
    torch.testing.assert_close(model(feed.make(**{**asked, "history": shuffled})), expected)
    garbage = replace(history, at=np.where(history.product < 0, 5, history.at))
    torch.testing.assert_close(model(feed.make(**{**asked, "history": garbage})), expected)


def test_a_batch_does_not_depend_on_its_other_rows(planted, content):
    samples, rows = planted.samples, planted.samples.test_rows[:100]
    model = new_model(samples)
    feed = feed_of(model, samples.vocabulary, samples.entities, content)
    together = model(feed.of_samples(samples, rows))
    alone = torch.cat([model(feed.of_samples(samples, rows[i : i + 1])) for i in range(100)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_an_empty_history_and_missing_vectors_give_finite_scores_and_are_flagged(planted, content):
    samples, rows = planted.samples, planted.samples.test_rows[:8]
    model = new_model(samples)
    vectors = planted.product_vectors.copy()
    vectors[samples.product[rows[:4]]] = 0
    partial = ContentTable.of(vectors, planted.query_vectors)
    feed = feed_of(model, samples.vocabulary, samples.entities, partial)
    asked = requests(samples, rows)
    nothing = empty_history(8, 3)
    batch = feed.make(**{**asked, "history": nothing})
    assert torch.isfinite(model(batch)).all()
    near = Near.of(batch)
    has_product, has_query, has_both, share, is_empty = model.heads._flags(batch, near)[:, 0].T
    gone = np.isin(samples.product[rows], samples.product[rows[:4]])
    assert has_product.tolist() == (~gone).astype(float).tolist()
    assert has_both.tolist() == has_product.tolist()
    assert has_query.tolist() == [1.0] * 8
    assert share.tolist() == [0.0] * 8
    assert is_empty.tolist() == [1.0] * 8
    assert (near.match_BN[gone] == 0).all()
    without_query = feed.make(**{**asked, "query": np.full(8, -1)})
    assert (model.heads._flags(without_query, Near.of(without_query))[..., 1] == 0).all()
    assert torch.isfinite(model(without_query)).all()


def test_behaviors_equal_to_the_candidate_are_counted_field_by_field(planted):
    samples = planted.samples
    rows = samples.test_rows[samples.behavior_end[samples.test_rows] >= 5][:40]
    model = new_model(samples, ClickSettings())
    feed = feed_of(model, samples.vocabulary, samples.entities, None)
    asked = requests(samples, rows)
    asked["product"][::2] = asked["history"].product[::2, :1]  # half of the candidates were clicked before
    counts = torch.expm1(model._matches(feed.make(**asked)))[:, 0].round()
    products = samples.entities.products.to_pylist()
    for row in range(40):
        target = products[asked["product"][row, 0]]
        past = [products[code] for code in asked["history"].product[row] if code >= 0]
        expected = [
            sum(one[field] == target[field] for one in past)
            for field in ("product", "leaf", "brand", "price_band")
        ]
        assert counts[row].tolist() == expected
    assert (counts[::2, 0] >= 1).all()


def test_a_behavior_without_a_vector_counts_in_no_tier(planted, content):
    samples = planted.samples
    rows = samples.test_rows[samples.behavior_end[samples.test_rows] >= 3][:1]
    asked = requests(samples, rows)
    missing = planted.product_vectors.copy()
    gone = asked["history"].product[0, 0]
    missing[gone] = 0
    real = []
    for table in (content, ContentTable.of(missing, planted.query_vectors)):
        feed = Feed(samples.entities, samples.vocabulary, 50, vectors=table)
        real.append(Near.of(feed.make(**asked)).history.is_real_BNS.sum().item())
    assert real[0] - real[1] == (asked["history"].product[0] == gone).sum()


def test_cosines_are_those_of_the_vectors(planted, content):
    samples, rows = planted.samples, planted.samples.test_rows[:16]
    feed = Feed(
        samples.entities, samples.vocabulary, 50, vectors=content, has_creatives=True, has_queries=True
    )
    batch: Batch = feed.of_samples(samples, rows)
    near = Near.of(batch)
    kinds = {"history": near.history, "asked": near.asked, "creative": _creative_near(batch, near)}
    kinds["past_queries"], kinds["asked_queries"] = past_query_nears(batch)
    history = samples.history(rows, 50)
    unit = planted.product_vectors / np.linalg.norm(planted.product_vectors, axis=1, keepdims=True)
    for row in range(16):
        target = unit[samples.product[rows[row]]]
        query = planted.query_vectors[samples.query[rows[row]]]
        assert near.match_BN[row, 0].item() == pytest.approx(target @ query, abs=1e-5)
        for step in np.flatnonzero(history.product[row] >= 0):
            past, code = unit[history.product[row, step]], history.query[row, step]
            found = {name: one.similarity_BNS[row, 0, step].item() for name, one in kinds.items()}
            expected = {"history": target @ past, "asked": query @ past, "creative": target @ past}
            is_click = history.kind[row, step] == CLICK
            then = planted.query_vectors[code] if is_click and code >= 0 else np.zeros(DIM)
            expected |= {"past_queries": target @ then, "asked_queries": query @ then}
            assert found == pytest.approx(expected, abs=1e-5)


def test_the_position_is_a_separate_logit_that_averages_to_zero(planted, with_content):
    model, samples = with_content.model, planted.samples
    position = samples.position[samples.train_rows]
    logit = model.position_logit(torch.from_numpy(position.astype(np.int64)[:, None]))
    assert logit.mean().item() == pytest.approx(0, abs=0.02)
    bias = model.position_logit(torch.arange(5)[:, None])[:, 0].tolist()
    assert bias[0] > bias[-1] + 0.3  # the planted log loses 0.3 a slot
    assert model.position_logit(None).item() == 0
    assert model.position_logit(torch.tensor([[-1]])).item() == 0
    assert model.position_logit(torch.tensor([[99]])).item() == pytest.approx(bias[-1])


def test_scores_of_the_test_period_do_not_see_the_logged_position(planted, content, with_content):
    samples = planted.samples
    moved = replace(samples, position=np.where(samples.is_test, 0, samples.position))
    again = train_click_model(moved, content, training=QUICK)
    assert again.scores.tolist() == with_content.scores.tolist()
    assert again.logged_scores.tolist() != with_content.logged_scores.tolist()


def test_calibrated_scores_add_up_to_clicks_better_than_chance(with_content):
    metrics = with_content.metrics
    assert 0.8 < metrics["pcoc"] < 1.25
    assert metrics["normalized_entropy"] < 1
    assert metrics["auc_logged"] > metrics["auc"]


def test_hidden_ids_are_row_zero_for_targets_and_kept_for_behaviors(planted):
    samples, rows = planted.samples, planted.samples.train_rows[-50:]
    feed = Feed(samples.entities, samples.vocabulary, 50)
    plain = feed.of_samples(samples, rows)
    hidden = feed.of_samples(samples, rows, np.ones((50, 3), dtype=bool))
    assert (hidden.request_rows_BF[:, 0] == 0).all()
    assert (hidden.request_rows_BF[:, 4] == 0).all()
    targets = hidden.item_rows_UF[hidden.product_item_BN[:, 0]]
    assert (targets[:, 0] == 0).all()
    assert torch.equal(targets[:, 1:], plain.item_rows_UF[plain.product_item_BN[:, 0]][:, 1:])
    past = hidden.item_rows_UF[hidden.short.item_BS]
    assert torch.equal(past, plain.item_rows_UF[plain.short.item_BS])


def test_a_model_saved_and_loaded_is_the_same(planted, content, with_content, tmp_path):
    with_content.save(tmp_path / "model")
    loaded = Trained.load(tmp_path / "model")
    samples, rows = planted.samples, planted.samples.test_rows[:300]
    batches = [
        trained.feed(samples.entities, content).of_samples(samples, rows)
        for trained in (with_content, loaded)
    ]
    with torch.no_grad():
        assert torch.equal(with_content.model(batches[0]), loaded.model(batches[1]))
    assert loaded.calibrator == with_content.calibrator
    assert loaded.scores.tolist() == with_content.scores.tolist()
    assert loaded.metrics == pytest.approx(with_content.metrics)
    assert loaded.version == "v1"
    (tmp_path / "model" / "model.pt").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="train again"):
        Trained.load(tmp_path / "model")
    with pytest.raises(CheckpointError, match="train one first"):
        Trained.load(tmp_path)


def test_losses_and_metrics_are_logged_to_a_run(planted, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    trained = train_click_model(planted.samples, training=TrainSettings(batch_size=128), run=run)
    lines = run.metrics("ranking")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) >= 3
    assert lines[-1]["auc"] == trained.metrics["auc"]


def test_settings_that_contradict_each_other_are_refused_or_warned_of(planted, content, caplog):
    with pytest.raises(SettingsError, match="content needs vectors"):
        train_click_model(planted.samples, None, CONTENT)
    with pytest.raises(SettingsError, match="needs content"):
        ClickSettings(search=SearchSettings())
    with caplog.at_level(logging.WARNING):
        trained = train_click_model(planted.samples, content, ClickSettings(history=1), training=QUICK)
    assert "vectors are not read" in caplog.text
    assert trained.version == ""


def test_a_training_period_without_clicks_is_refused(planted):
    silent = replace(planted.samples, label=np.zeros(len(planted.samples), dtype=bool))
    with pytest.raises(DataError, match="no click"):
        train_click_model(silent)
    with pytest.raises(DataError, match="need both"):
        logistic_scores(silent, silent.test_rows)


def test_baselines_rank_better_than_chance(planted):
    samples, rows = planted.samples, planted.samples.test_rows
    for scores in (popularity_scores(samples, rows), logistic_scores(samples, rows)):
        assert scores.shape == rows.shape
        assert auc(scores, samples.label[rows]) > 0.51


def test_slices_cover_the_test_period_and_have_metrics_of_every_model(planted, with_ids):
    samples, rows = planted.samples, with_ids.rows
    masks = slice_masks(samples, rows)
    assert (masks["new"] ^ masks["known"]).all()
    assert (masks["rare"] ^ masks["frequent"]).all()
    for prefix in ("frequency ", "history ", "position "):
        assert (sum(mask.astype(int) for name, mask in masks.items() if name.startswith(prefix)) == 1).all()
    table = slice_table(samples, rows, {"id": with_ids.scores, "popular": popularity_scores(samples, rows)})
    assert len(table) == 2 * len(masks)
    assert table[0]["auc"] == pytest.approx(with_ids.metrics["auc"])


def test_controls_keep_what_is_there_and_change_what_it_says(content):
    for control in (content.permuted(), content.random(), content.centered(), content.truncated(8)):
        for kind in ("product", "query", "creative"):
            kept, changed = getattr(content, kind), getattr(control, kind)
            assert changed.present.tolist() == kept.present.tolist()
            norms = np.linalg.norm(changed.vectors, axis=1)
            assert norms[:-1] == pytest.approx(1, abs=1e-5)
            assert norms[-1] == 0
    dealt = content.permuted().product.vectors
    assert sorted(map(tuple, dealt)) == sorted(map(tuple, content.product.vectors))
    assert content.permuted(1).product.vectors.tolist() != dealt.tolist()
    assert content.truncated(8).product.vectors.shape[1] == 8


def test_vectors_come_from_a_store_and_survive_half_precision(planted, tmp_path):
    class FakeStore:
        def get(self, kind, ids, version=None):
            if kind == "creative":
                return np.zeros((len(ids), 16), np.float32), np.zeros(len(ids), dtype=bool)
            vectors = {"product": planted.product_vectors, "query": planted.query_vectors}[kind] * 3
            present = np.ones(len(ids), dtype=bool)
            present[0] = False
            return vectors, present

    table = ContentTable.read(FakeStore(), planted.samples.entities, "v1")
    assert table.creative is None
    assert table.product.coverage == pytest.approx(1 - 1 / 240)
    assert (table.product.vectors[0] == 0).all()
    table.save(tmp_path / "table")
    loaded = ContentTable.load(tmp_path / "table")
    assert isinstance(loaded.product.vectors, np.memmap)
    taken = loaded.product.take(np.array([[1, -1], [2, 3]]))
    assert taken.dtype == torch.float32
    assert taken.shape == (2, 2, 16)
    assert np.abs(taken.numpy() - table.product.vectors[[[1, -1], [2, 3]]]).max() < 1e-3
    assert (taken[0, 1] == 0).all()
    with pytest.raises(CheckpointError, match="no content table"):
        ContentTable.load(tmp_path)
    with pytest.raises(DataError, match="not finite"):
        VectorTable.of(np.array([[np.nan, 1.0]]))


def test_the_vocabulary_of_a_model_reads_any_catalog(planted):
    vocabulary = planted.samples.vocabulary
    other = pa.table({"product": ["p0001", "never seen", None], "leaf": ["all > kind 1", None, "?"]})
    rows = vocabulary.table(other, ("product", "leaf", "brand"))
    assert (rows[:, 0] > 0).tolist() == [True, False, False, False]
    assert (rows[:, 1] > 0).tolist() == [True, False, False, False]
    assert (rows[:, 2] == 0).all()
