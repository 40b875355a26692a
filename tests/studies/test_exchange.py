"""Exchange rates: closed forms, what is undefined, planted versions, real checkpoints, the whole study."""

import numpy as np
import pytest
from micro import MICRO

from encoder.conftest import SMALL, write_catalog
from moontide.catalog.dataset import Dataset
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.metrics import uniformity
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.stages import loop
from moontide.encoder.stages.posttrain import NegativeSettings, PosttrainSettings, posttrain
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.ranking.content import ContentTable
from moontide.ranking.heads import ContentSettings
from moontide.ranking.metrics import auc
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import Samples
from moontide.ranking.train import train_click_model
from moontide.studies import exchange
from moontide.studies.encoders import EncoderPlan, catalog_texts, period_start, train_cell
from moontide.studies.exchange import ExchangeSettings, compositions, run_exchange
from moontide.studies.exchange_rates import (
    Asked,
    Versions,
    bootstrap_slope,
    exchange_rate,
    exchange_table,
    noise_floor,
    pairs_of,
    rank_agreement,
    slope_of,
)
from moontide.studies.intermediate import uniformity_by_item
from moontide.studies.outcomes import Outcomes
from moontide.studies.versions import train_versions, version_of_cell, watched_posttrain

PAIRS = PosttrainSettings(
    num_steps=6, batch_size=6, checkpoint_every=2, log_every=1, pairings="moon", kinds=("order",),
    is_symmetric=False, negatives=NegativeSettings(num_hard=1, queue=60, queue_from=0.0),
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def asked(mean: float, num: int = 400, scale: float = 1.0) -> Asked:
    """A metric whose first share of queries is right; the same queries are asked of every version."""
    values = scale * (np.arange(num) < round(mean * num)).astype(float)
    whole = Outcomes(values, np.arange(num, dtype=np.uint32))
    odd = np.arange(num) % 2 == 1
    return Asked(whole, {"odd": Outcomes(values[odd], whole.queries[odd])})


def planted(aucs, means, seeds=3, shoppers=300, noise=0.0, scale=1.0, rng=None) -> Versions:
    """Versions whose AUCs and metrics are known; shoppers differ, alike for all versions, and by `noise`."""
    rng = rng or np.random.default_rng(0)
    shared = rng.normal(0, 0.1, shoppers)
    value = np.asarray(aucs)[:, None, None] + (shared - shared.mean())
    value = value + noise * rng.normal(size=(len(aucs), seeds, shoppers))
    values = {(kind, where): value for kind in ("AUC", "GAUC") for where in ("all", "category odd")}
    names = [f"v{number}" for number in range(len(aucs))]
    metrics = {n: {"recall": asked(mean, scale=scale)} for n, mean in zip(names, means, strict=True)}
    return Versions(names, list(range(seeds)), metrics, values, {"all": 900, "category odd": 450})


# --- closed forms -----------------------------------------------------------------------------------------


def test_a_metric_in_hundredths_has_a_hundredth_of_the_rate_and_slope():
    aucs, means = [0.60, 0.61, 0.64, 0.65], [0.1, 0.3, 0.5, 0.7]
    plain, scaled = planted(aucs, means), planted(aucs, means, scale=100)
    for one, other in zip(pairs_of(plain, "recall"), pairs_of(scaled, "recall"), strict=True):
        assert other["rate"] == pytest.approx(one["rate"] / 100)
    slopes = [exchange_table(held, FACTS)["metrics"][0]["slope"] for held in (plain, scaled)]
    assert slopes[1]["value"] == pytest.approx(slopes[0]["value"] / 100)
    assert slopes[1]["high"] == pytest.approx(slopes[0]["high"] / 100)


FACTS = {"dataset": "planted", "missing": {}}


def test_the_rate_from_first_to_last_is_the_mean_of_the_steps_weighted_by_the_metrics_change():
    held = planted([0.60, 0.63, 0.62, 0.66], [0.1, 0.25, 0.5, 0.8])
    rates = {(pair["before"], pair["after"]): pair for pair in pairs_of(held, "recall")}
    steps = [rates[f"v{number}", f"v{number + 1}"] for number in range(3)]
    weights = [step["metric_change"] for step in steps]
    mean = np.average([step["rate"] for step in steps], weights=weights)
    assert rates["v0", "v3"]["rate"] == pytest.approx(mean)
    assert rates["v0", "v3"]["rate"] == pytest.approx(0.06 / 0.7)
    assert rates["v1", "v2"]["rate"] < 0


def test_equal_metrics_leave_the_rate_undefined_however_the_auc_moves():
    assert exchange_rate(0.1, 0.0, 0.0) is None
    table = exchange_table(planted([0.60, 0.65, 0.70], [0.4, 0.4, 0.4]), FACTS)
    line = table["metrics"][0]
    assert [pair["rate"] for pair in line["by_pair"]] == [None] * 3
    assert line["slope"] is None
    assert not line["is_trusted"]
    assert table["sentence"].startswith("No intermediate metric can be trusted")
    assert "no metric tells two versions apart" in table["sentence"]


def test_a_pair_counts_from_two_standard_errors_of_the_metric_on():
    assert exchange_rate(0.01, 0.1, 0.049) == pytest.approx(0.1)
    assert exchange_rate(0.01, 0.1, 0.05) is None
    assert exchange_rate(0.01, -0.1, 0.049) == pytest.approx(-0.1)


def test_the_slope_is_that_of_ordinary_least_squares():
    means = np.array([0.1, 0.2, 0.35, 0.7])
    held = planted([0.60, 0.66, 0.61, 0.70], means, noise=0.05)
    value_VSU = held.values["AUC", "all"]
    wanted = np.polyfit(means, value_VSU.mean((1, 2)), 1)[0]
    found = slope_of(means, value_VSU)
    assert found.interval.value == pytest.approx(wanted)
    assert found.over == "seeds and queries"
    low, high = bootstrap_slope(means, value_VSU)
    assert low < wanted < high


def test_the_interval_of_the_slope_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    means, held = np.array([0.1, 0.3, 0.5, 0.9]), 0
    for _ in range(300):
        of_seed = rng.normal(0, 0.004, (4, 3, 1))
        of_shopper = rng.normal(0, 0.05, (4, 1, 120))
        value_VSU = 0.6 + 0.05 * means[:, None, None] + of_seed + of_shopper
        interval = slope_of(means, value_VSU).interval
        held += interval.low < 0.05 < interval.high
    assert 0.91 < held / 300 < 0.995


def test_the_noise_floor_is_the_spread_over_seeds_at_one_table():
    value_VSU = np.zeros((2, 3, 10)) + np.array([0.0, 0.01, 0.02])[None, :, None]
    assert noise_floor(value_VSU) == pytest.approx(0.01)
    assert np.isnan(noise_floor(value_VSU[:, :1]))


def test_the_agreement_of_ranks_does_not_depend_on_the_order_of_versions():
    pairs = [
        {"metric_change": 0.1, "auc_change": 0.01},
        {"metric_change": 0.3, "auc_change": 0.02},
        {"metric_change": 0.4, "auc_change": 0.05},
    ]
    turned = [{name: -value for name, value in pairs[0].items()}, *pairs[1:]]
    assert rank_agreement(pairs) == pytest.approx(1)
    assert rank_agreement(turned) == pytest.approx(1)
    assert np.isnan(rank_agreement(pairs[:2]))
    assert np.isnan(rank_agreement([{"metric_change": 0.0, "auc_change": 0.1}] * 3))


def test_uniformity_is_the_mean_of_its_values_by_item():
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert uniformity_by_item(vectors).mean() == pytest.approx(uniformity(vectors), abs=1e-5)


def test_versions_that_rise_together_are_trusted_and_named_in_the_sentence():
    table = exchange_table(planted([0.60, 0.62, 0.64, 0.66], [0.1, 0.3, 0.5, 0.7], noise=0.01), FACTS)
    assert table["chosen"] == "recall"
    assert table["sentence"].startswith("Trust recall: a point of it bought +0.10")
    falling = exchange_table(planted([0.66, 0.64, 0.62, 0.60], [0.1, 0.3, 0.5, 0.7], noise=0.01), FACTS)
    assert falling["chosen"] is None
    assert falling["metrics"][0]["slope"]["is_resolved"]
    lost = exchange_table(planted([0.60, 0.62, 0.64, 0.66], [0.1, 0.3, 0.5, 0.7], noise=3.0), FACTS)
    assert lost["chosen"] is None
    assert "the slope on recall, the surest, is" in lost["sentence"]


def test_what_all_versions_share_is_no_error_of_the_picture():
    table = exchange_table(
        planted([0.60, 0.62, 0.64], [0.1, 0.3, 0.5]), FACTS
    )  # shoppers differ, alike for all
    points = table["metrics"][0]["by_slice"][0]["points"]
    assert [one["auc_error"] for one in points] == pytest.approx([0, 0, 0], abs=1e-9)
    assert table["versions"][0]["interval"]["high"] > 0.605


# --- versions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Dataset:
    return write_catalog(tmp_path_factory.mktemp("data") / "drawn")


def new_encoder(dataset: Dataset) -> MoonEncoder:
    return MoonEncoder.tiny(catalog_texts(dataset, period_start(dataset)), SMALL, device="cpu")


def prints(places) -> list[str]:
    return [MoonEncoder(place, device="cpu").fingerprint() for place in places.values()]


def test_versions_are_the_weights_that_the_plain_stage_passes_through(drawn, tmp_path):
    plain = new_encoder(drawn)
    posttrain(plain, drawn, PAIRS)
    places = train_versions(lambda: new_encoder(drawn), drawn, PAIRS, tmp_path / "v", (0.0, 0.5, 1.0))
    assert list(places) == ["0%", "50%", "100%"]
    found = prints(places)
    assert found[-1] == plain.fingerprint()
    assert len(set(found)) == 3
    half = new_encoder(drawn)
    posttrain(half, drawn, PAIRS.but(num_steps=3))
    assert found[1] != half.fingerprint()  # a shorter training, with a schedule of its own

    def never() -> MoonEncoder:
        raise AssertionError("they are there already")

    assert train_versions(never, drawn, PAIRS, tmp_path / "v", (0.0, 0.5, 1.0)) == places


def test_versions_of_a_training_that_was_cut_off_are_those_of_one_that_was_not(drawn, tmp_path, monkeypatch):
    whole = train_versions(lambda: new_encoder(drawn), drawn, PAIRS, tmp_path / "whole", (0.0, 0.5, 1.0))
    real = loop.keep

    def cut(*args, **kwargs):
        real(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "keep", cut)
    with pytest.raises(KeyboardInterrupt):
        train_versions(lambda: new_encoder(drawn), drawn, PAIRS, tmp_path / "cut", (0.0, 0.5, 1.0))
    monkeypatch.setattr(loop, "keep", real)
    again = train_versions(lambda: new_encoder(drawn), drawn, PAIRS, tmp_path / "cut", (0.0, 0.5, 1.0))
    assert prints(again) == prints(whole)
    with pytest.raises(CheckpointError, match=r"was trained past 33% before: delete it, or ask for other"):
        train_versions(lambda: new_encoder(drawn), drawn, PAIRS, tmp_path / "cut", (0.0, 0.33, 1.0))


def test_shares_must_ascend_by_whole_steps(drawn, tmp_path):
    for shares in ((0.5, 0.1), (0.0, 0.01), (-0.5, 1.0), (0.5, 1.2), ()):
        with pytest.raises(
            SettingsError, match="shares must ascend from 0 to 1, at least one step of 6 apart"
        ):
            train_versions(lambda: new_encoder(drawn), drawn, PAIRS, tmp_path / "v", shares)


def test_the_tokens_of_a_pair_are_those_of_its_prepared_items(drawn):
    titles, seen = PAIRS.but(pairings="titles", negatives=NegativeSettings(), num_steps=2), []
    results = watched_posttrain(new_encoder(drawn), drawn, titles, lambda now: seen.append(now))
    picture = (SMALL.image_side // (SMALL.patch * SMALL.merge)) ** 2
    assert [now.step for now in seen] == [0, 1, 2]
    assert all(now.queued == 0 for now in seen)
    assert results["tokens"] > picture + 3  # a title has three words at least
    assert results["pairs"] == 12
    watched_posttrain(new_encoder(drawn), drawn, PAIRS, lambda now: seen.append(now))
    assert seen[-1].queued > 0


def test_a_cell_of_the_ladder_becomes_a_version(drawn, tmp_path):
    start = tmp_path / "start"
    new_encoder(drawn).save(start)
    plan = EncoderPlan(pairs=(PAIRS.but(num_steps=1), PAIRS.but(num_steps=2)))
    questions = EvaluateSettings(tasks=("retrieval",), max_queries=6, replicates=10)
    train_cell(plan, 0, tmp_path / "cell", drawn, start, questions)
    place = version_of_cell(tmp_path / "cell", tmp_path / "version")
    wanted = MoonEncoder(start, device="cpu")
    for number, stage in enumerate(plan.pairs):
        posttrain(wanted, drawn, stage.but(before=period_start(drawn), seed=0), None, None, f"pairs{number}")
    items = [product.title for product in drawn.products()[:4]]
    assert np.allclose(MoonEncoder(place, device="cpu").encode_items(items), wanted.encode_items(items))


# --- the study ---------------------------------------------------------------------------------------------

CLICKS = ClickSettings(content=ContentSettings(), hidden=(16,), width=8, attention=8, history=10)
NANO = ExchangeSettings(
    clicks=CLICKS, training=MICRO.training, encoder=MICRO.encoder, posttrain=MICRO.posttrain,
    shares=(0.0, 0.5, 1.0), questions=EvaluateSettings(max_queries=20, max_gallery=1, replicates=10),
)  # fmt: skip


@pytest.fixture(scope="module")
def market(micro_run) -> Dataset:
    return Dataset.open(micro_run.path / "dataset")


@pytest.fixture(scope="module")
def study(market, tmp_path_factory):
    to = tmp_path_factory.mktemp("exchange") / "study"
    return to, run_exchange(market, to, NANO, seeds=range(2))


def test_the_study_measures_every_version_and_swaps_nothing_but_the_table(study):
    to, table = study
    assert [one["version"] for one in table["versions"]] == ["0%", "50%", "100%"]
    assert table["seeds"] == [0, 1]
    assert not table["missing"]
    metrics = {line["metric"] for line in table["metrics"]}
    assert {"photo recall@10", "text recall@10", "category accuracy", "−uniformity"} <= metrics
    samples = Samples.load(to / "samples")
    vectors = ContentTable.load(to / "vectors" / "50")
    again = train_click_model(samples, vectors, CLICKS, 1, MICRO.training)
    with np.load(to / "cells" / "50-seed1.npz") as kept:
        assert np.array_equal(kept["scores"], again.scores.astype(np.float32))
    version = table["versions"][1]
    assert version["auc_by_seed"][1] == pytest.approx(auc(again.scores, samples.label[again.rows]), abs=1e-6)
    page = (to / "exchange.md").read_text()
    assert table["sentence"] in page
    assert "Noise floor" in page


def test_a_second_call_computes_nothing_and_a_lost_cell_alone_is_computed_again(study, market, monkeypatch):
    to, table = study
    lost = to / "cells" / "100-seed0.json"
    lost.unlink()
    partial = run_exchange(market, to, NANO, seeds=range(2), max_minutes=0)
    assert partial["missing"] == {"100-seed0": "not run"}
    assert [one["version"] for one in partial["versions"]] == ["0%", "50%"]  # the larger whole table
    assert partial["seeds"] == [0, 1]
    monkeypatch.setattr(exchange, "measure", lambda *_: pytest.fail("the metrics are there"))
    before = (to / "cells" / "50-seed0.json").stat().st_mtime_ns
    again = run_exchange(market, to, NANO, seeds=range(2))
    assert lost.exists()
    assert (to / "cells" / "50-seed0.json").stat().st_mtime_ns == before
    assert again["versions"] == table["versions"]


def test_other_settings_and_unknown_names_are_refused(study, market):
    to, _ = study
    with pytest.raises(CheckpointError, match="was computed with other settings"):
        run_exchange(market, to, NANO.but(clicks=CLICKS.but(width=4)), seeds=range(2))
    with pytest.raises(SettingsError, match=r"no version or cell is called 'E9': the versions are 0%, 50%"):
        run_exchange(market, to, NANO, seeds=range(2), only=["E9"])
    with pytest.raises(SettingsError, match="the click model must read vectors"):
        ExchangeSettings(clicks=ClickSettings())


def test_given_encoders_are_taken_as_they_are(study, market, tmp_path):
    to, table = study
    places = [to / "versions" / name for name in ("step-000000", "step-000008")]
    found = run_exchange(market, tmp_path / "given", NANO, seeds=[0], encoders=places, only=["step-000008"])
    assert [one["version"] for one in found["versions"]] == ["step-000008"]
    assert found["versions"][0]["metrics"] == table["versions"][2]["metrics"]
    assert found["versions"][0]["auc_by_seed"][0] == table["versions"][2]["auc_by_seed"][0]
    assert found["sentence"] == "Fewer than two versions are there: nothing can be said yet."
    with pytest.raises(SettingsError, match="encoders need distinct names"):
        run_exchange(market, tmp_path / "twice", NANO, encoders=[places[0], tmp_path / "a" / "step-000000"])


def test_compositions_differ_in_their_content_alone():
    found = compositions(ClickSettings(width=8))
    assert list(found) == ["simtier", "muse", "cube"]
    assert all(one.reads_vectors and one.width == 8 for one in found.values())
    assert found["muse"].search is not None
    assert found["cube"].content.cube is not None
