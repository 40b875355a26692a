"""Run folders: begun, resumed, refused, and whole again after a crash."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from moontide.foundation.errors import CheckpointError, StorageError
from moontide.foundation.runs import Run

SETTINGS = {"depth": 2, "rate": 0.1}


def begin(path, **changes) -> Run:
    return Run.start(path, "demo", {**SETTINGS, **changes}, seed=7)


def test_a_run_writes_down_what_was_asked_and_where_it_ran(tmp_path):
    begin(tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["recipe"], facts["settings"], facts["seed"], facts["device"]) == (
        "demo",
        SETTINGS,
        7,
        "cpu",
    )
    assert facts["versions"]["numpy"]
    assert facts["started_at"].endswith("Z")


def test_the_commit_is_that_of_moontide_itself(tmp_path):
    asked = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    if done.returncode:
        pytest.skip("the tests do not lie in a git checkout")
    assert begin(tmp_path / "run").facts["commit"] == done.stdout.strip()


def test_the_same_question_resumes_the_run(tmp_path):
    first = begin(tmp_path)
    first.log("train", 1, loss=0.5)
    first.finish("train", {"auc": 0.7})
    again = begin(tmp_path)
    assert again.facts == first.facts
    assert again.metrics() == [{"stage": "train", "step": 1, "loss": 0.5}]
    assert again.results("train") == {"auc": 0.7}
    assert again.results("other") is None
    assert again.checkpoints("train") == tmp_path / "checkpoints" / "train"


def test_other_settings_are_refused_and_named(tmp_path):
    begin(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        begin(tmp_path, rate=0.2)
    text = f"{tmp_path} holds a run with other settings (settings: rate): name another folder, or delete it"
    assert str(caught.value) == text


def test_another_seed_and_another_recipe_are_refused_and_named(tmp_path):
    begin(tmp_path)
    with pytest.raises(CheckpointError, match=r"recipe was 'demo', asked 'moon'.*seed was 7, asked 8"):
        Run.start(tmp_path, "moon", SETTINGS, seed=8)


def test_a_folder_of_something_else_is_never_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError) as caught:
        begin(tmp_path)
    assert str(caught.value) == f"{tmp_path} is not empty and holds no run: name another folder"
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(CheckpointError, match="is not empty and holds no run"):
        begin(tmp_path / "thesis.txt")


def test_a_missing_run_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        Run.open(tmp_path / "none")
    assert str(caught.value) == f"no run at {tmp_path / 'none'}: run `moontide demo` or `moontide run` first"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_run_is_called_broken_not_missing(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    for attempt in (lambda: Run.open(tmp_path), lambda: begin(tmp_path)):
        with pytest.raises(CheckpointError, match=r"the run at .* is broken"):
            attempt()


def test_metrics_are_told_by_stage(tmp_path):
    run = begin(tmp_path)
    run.log("one", 1, loss=3.0)
    run.log("two", 1, loss=2.0)
    assert run.metrics("two") == [{"stage": "two", "step": 1, "loss": 2.0}]
    assert begin(tmp_path / "fresh").metrics() == []


def test_a_last_line_cut_by_a_crash_is_left_out_and_the_next_one_is_whole(tmp_path):
    run = begin(tmp_path)
    run.log("train", 1, loss=3.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "train", "st')
    assert [row["step"] for row in run.metrics()] == [1]
    run.log("train", 2, loss=2.0)
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_rewinding_drops_later_lines_of_that_stage_alone(tmp_path):
    run = begin(tmp_path)
    for step in (1, 2, 3):
        run.log("train", step, loss=step)
        run.log("other", step, loss=step)
    run.rewind("train", 1)
    assert [(row["stage"], row["step"]) for row in run.metrics()] == [
        ("train", 1), ("other", 1), ("other", 2), ("other", 3),
    ]  # fmt: skip


def test_numbers_of_numpy_are_logged_as_numbers(tmp_path):
    run = begin(tmp_path)
    run.log("train", 1, loss=np.float32(0.5), rows=np.int64(3))
    assert run.metrics() == [{"stage": "train", "step": 1, "loss": 0.5, "rows": 3}]


def test_a_run_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="lies under a file, not a folder"):
        begin(tmp_path / "file" / "run")
