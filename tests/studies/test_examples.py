"""The scripts in `examples/` run as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
