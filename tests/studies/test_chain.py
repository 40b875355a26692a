"""The chain: every stage ends, a cut run goes on, what is missing is said, the report stands alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from micro import MICRO

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.runs import Run
from moontide.studies.chain import run_chain

STAGES = ("market", "pretrain", "posttrain", "retrieval", "embed", "clicks", "experiment")
TIMED = re.compile("second|rate|bytes|steps_here")


def without_times(results):
    """Results without what a clock or a scheduler decides."""
    if isinstance(results, dict):
        return {name: without_times(value) for name, value in results.items() if not TIMED.search(name)}
    if isinstance(results, list):
        return [without_times(value) for value in results if not isinstance(value, str)]
    return results


def all_results(run):
    return {name: json.dumps(without_times(run.results(name)), sort_keys=True) for name in STAGES}


def test_every_stage_leaves_its_results_and_products(micro_run):
    assert all(micro_run.results(name) for name in STAGES)
    for place in ("dataset/dataset.json", "encoder/modules.json", "center/active.json", "report.html"):
        assert (micro_run.path / place).is_file(), place
    assert {file.name for file in (micro_run.path / "ranking").iterdir()} == set(MICRO.arms)


def test_the_truth_is_the_best_of_the_click_models(micro_run):
    table = micro_run.results("clicks")["table"]
    aucs = {row["model"]: row["auc"] for row in table if row["slice"] == "all"}
    assert set(aucs) == {"popularity", "logistic", *MICRO.arms, "truth"}
    assert aucs["truth"] == max(aucs.values())


def test_gains_are_differences_of_the_table(micro_run):
    clicks = micro_run.results("clicks")
    auc = {(row["slice"], row["model"]): row["auc"] for row in clicks["table"]}
    for gain in clicks["gains"]:
        wanted = auc[gain["slice"], gain["after"]] - auc[gain["slice"], gain["before"]]
        assert gain["difference"]["value"] == pytest.approx(wanted, abs=1e-9, nan_ok=True)
        gap = auc[gain["slice"], "truth"] - auc[gain["slice"], gain["before"]]
        if gap > 0:
            assert gain["closed"] == pytest.approx(wanted / gap, abs=1e-9, nan_ok=True)


def test_the_experiment_counts_every_request_once(micro_run):
    trial = micro_run.results("experiment")
    assert [row["arm"] for row in trial["arms"]] == ["id", "content"]
    assert sum(row["requests"] for row in trial["arms"]) == MICRO.experiment.num_requests
    for row in trial["arms"]:
        assert row["ctr"] == row["clicks"] / row["impressions"]
    found = trial["compared"]["CTR"]  # of clicks from which each shopper's past is taken out
    assert found["lift"]["value"] == pytest.approx(found["after"] / found["before"] - 1)
    assert found["before"] == pytest.approx(trial["arms"][0]["ctr"], rel=0.5)


def test_a_finished_run_is_not_run_again(micro_run):
    before = {file: file.stat().st_mtime_ns for file in (micro_run.path / "stages").iterdir()}
    run_chain(micro_run.path, "micro", MICRO, seed=1)
    assert {file: file.stat().st_mtime_ns for file in (micro_run.path / "stages").iterdir()} == before


def test_a_run_with_other_settings_is_refused(micro_run):
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        run_chain(micro_run.path, "micro", MICRO.but(pretrain=None), seed=1)
    with pytest.raises(CheckpointError, match="seed was 1, asked 2"):
        run_chain(micro_run.path, "micro", MICRO, seed=2)


def test_the_report_stands_alone_and_says_what_was_found(micro_run):
    text = (micro_run.path / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!#|data:)", text)
    assert "http" not in text.replace("http://www.w3.org/", "").replace("http-equiv", "")
    for words in ("A/B in the market", "Click models", "Finding products", "Sample searches", "The log"):
        assert words in text
    row = micro_run.results("clicks")["table"][0]
    assert f"{row['auc']:.4f}" in text


SCRIPT = """
from moontide.studies.chain import run_chain
from micro import MICRO
if __name__ == "__main__":
    run_chain({path!r}, "micro", MICRO, seed=1)
"""


@pytest.mark.slow
def test_a_run_killed_in_post_training_ends_as_one_that_was_not(micro_run, tmp_path):
    path = tmp_path / "run"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(path=str(path)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((path / "checkpoints" / "posttrain").glob("step-*.pt")):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Run.open(path).results("posttrain") is None
    run_chain(path, "micro", MICRO, seed=1)
    assert Run.open(path).results("posttrain")["steps_here"] < MICRO.posttrain.num_steps
    assert all_results(Run.open(path)) == all_results(micro_run)


@pytest.fixture(scope="module")
def catalog(micro_run, tmp_path_factory):
    """Products with one photo each and nothing else."""
    market = Dataset.open(micro_run.path / "dataset")
    path = tmp_path_factory.mktemp("catalog") / "shop"
    with DatasetWriter(path, "shop") as writer:
        rows = []
        for row in market.table("products").to_pylist():
            image_id = row["image_ids"][0]
            writer.add_image(image_id, market.images[image_id])
            rows.append({name: row[name] for name in ("product_id", "title", "category", "attributes")})
            rows[-1]["image_ids"] = [image_id]
        writer.put("products", rows)
        writer.put("splits", market.table("splits"))
    return path


def test_a_catalog_without_a_log_is_embedded_and_the_report_says_what_was_left_out(catalog, tmp_path):
    report = run_chain(tmp_path / "run", "own", MICRO.but(market=None), seed=0, dataset=catalog)
    run = Run.open(tmp_path / "run")
    assert "has no impressions" in run.results("clicks")["skipped"]
    assert "no simulated market" in run.results("experiment")["skipped"]
    assert run.results("embed")["counts"]["product"]["vectors"] == 100
    text = report.read_text()
    assert "has no impressions" in text
    assert "title -&gt; photo" in text


def test_a_run_needs_a_market_or_a_dataset_with_pictures(tmp_path):
    with pytest.raises(DataError, match="give a dataset"):
        run_chain(tmp_path / "run", "own", MICRO.but(market=None))
    with pytest.raises(DataError, match="no dataset at"):
        run_chain(tmp_path / "run", "own", MICRO.but(market=None), dataset=tmp_path / "nothing")
    with DatasetWriter(tmp_path / "words", "words") as writer:
        writer.put("products", [{"product_id": "1", "title": "a mug"}])
    with pytest.raises(DataError, match="run needs images"):
        run_chain(tmp_path / "run", "own", MICRO.but(market=None), dataset=tmp_path / "words")
    assert not (tmp_path / "run").exists()


def test_vectors_of_the_run_are_those_of_its_encoder(micro_run):
    from moontide import Encoder
    from moontide.center.store import VectorStore
    from moontide.encoder.model.inputs import product_item

    dataset = Dataset.open(micro_run.path / "dataset")
    product = dataset.products()[7]
    encoder = Encoder(str(micro_run.path / "encoder"))
    vector = encoder.encode_items([product_item(product, dataset.images, "rich_image")])[0]
    stored, present = VectorStore.open(micro_run.path / "center").get("product", [product.product_id])
    assert present.all()
    assert np.abs(stored[0] - vector).max() < 1e-5
