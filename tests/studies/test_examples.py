"""The scripts in `examples/` run as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from encoder.conftest import write_catalog
from moontide.catalog.dataset import DatasetWriter

ROOT = Path(__file__).parents[2]


def run(script, *words):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *map(str, words)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "MOONTIDE_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_encoder_is_trained_by_its_recipe_and_measured(micro_run, tmp_path):
    words = ("--steps", 2, "--pretrain", 1, "--depth", 1, "--to", tmp_path / "encoder")
    out = run("moon_embedding.py", micro_run.path / "dataset", *words)
    assert "| title -> photo | held-out |" in out
    assert (tmp_path / "encoder" / "modules.json").is_file()


@pytest.mark.slow
def test_click_models_with_and_without_content_are_compared(micro_run):
    out = run("mim.py", micro_run.path / "dataset", micro_run.path / "center")
    assert "all: AUC 0." in out
    assert "->" in out


@pytest.mark.slow
@pytest.mark.parametrize(("script", "name"), [("moon.py", "MOON"), ("moon2.py", "MOON2.0")])
def test_an_encoder_becomes_a_system_with_experts_and_is_evaluated(micro_run, tmp_path, script, name):
    words = ("--start", micro_run.path / "encoder", "--steps", 2, "--kinds", "click,cart,order")
    out = run(script, micro_run.path / "dataset", *words, "--to", tmp_path / "encoder")
    assert f"| {name} |" in out
    assert (tmp_path / "encoder" / "experts" / "slot.json").is_file()


@pytest.mark.slow
def test_an_encoder_learns_to_write_before_its_vector(micro_run, tmp_path):
    words = ("--start", micro_run.path / "encoder", "--steps", 2, "--joint", 1, "--to", tmp_path / "reasoner")
    out = run("moon3.py", micro_run.path / "dataset", *words)
    assert "| MOON3.0 |" in out
    assert (tmp_path / "reasoner" / "residual" / "slot.json").is_file()
    assert (tmp_path / "reasoner-run" / "rollouts.jsonl").is_file()


@pytest.mark.slow
def test_photos_find_the_pictures_they_were_judged_by(tmp_path):
    drawn = write_catalog(tmp_path / "drawn")
    sides = {0: "train", 1: "train", 2: "test"}
    judged = [
        {"query_id": f"v{n}", "product_id": f"p{n}", "grade": 1.0, "source": sides[n % 3]} for n in range(48)
    ]
    with DatasetWriter(tmp_path / "pairs", "pairs", base=drawn) as writer:
        writer.put("judgments", judged)
    out = run("image_search.py", tmp_path / "pairs", "--steps", 2, "--depth", 2)
    assert "| trained | i->i | 16 |" in out
