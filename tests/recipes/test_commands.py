"""The commands as a user types them: what they print, and what a mistake says."""

import subprocess
import sys

import pytest

from moontide.cli import VERBS
from moontide.foundation.errors import SettingsError
from moontide.recipes.demo import RECIPES, own
from moontide.recipes.papers import PAPERS


def moontide(*words):
    done = subprocess.run(
        [sys.executable, "-m", "moontide.cli", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_help_lists_every_verb_with_one_line():
    code, out, _ = moontide("--help")
    assert code == 0
    assert all(f" {verb} " in out for verb in VERBS)


def test_the_index_of_papers_is_printed():
    code, out, _ = moontide("papers")
    assert code == 0
    assert all(paper.arxiv in out for paper in PAPERS)
    code, out, _ = moontide("papers", "MIM")
    assert "arxiv: 2502.00321" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("demo", "--size", "huge"), "no size is called 'huge': the sizes are nano, tiny, study"),
        (("run", "tiny"), "name your dataset folder with --dataset"),
        (("run", "tiny", "--dataset", "no/where", "--to", "never"), "no dataset at no/where"),
        (("serve", "no/where"), "no run at no/where"),
        (("papers", "nothing"), "no system is called 'nothing'"),
        (("market", "report", "no/where"), "no dataset at no/where"),
    ],
)
def test_a_mistake_prints_one_sentence_and_exits_2(words, sentence):
    code, _, error = moontide(*words)
    assert code == 2
    assert sentence in error.replace("\n", " ")
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2


def test_a_run_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, error = moontide("demo", "--size", "nano", "--to", tmp_path)
    assert code == 2
    assert "is not empty and holds no run" in error
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_every_size_is_a_complete_chain():
    for name, recipe in RECIPES.items():
        settings = recipe()
        assert settings.market is not None, name
        assert own(settings).market is None
        assert own(settings).two_tower is not None


def test_the_sizes_are_those_of_the_architecture():
    nano, tiny, study = (RECIPES[name]().market for name in ("nano", "tiny", "study"))
    assert nano.num_products == 400
    assert nano.num_impressions >= 20_000
    assert (tiny.num_products, tiny.images_per_product, tiny.creatives_per_product) == (4_000, 3, 2)
    assert tiny.num_impressions >= 400_000
    assert (study.num_products, study.num_impressions) == (20_000, 3_000_000)


def test_contradicting_settings_are_refused_when_they_are_built():
    with pytest.raises(SettingsError, match="num_merchants must not exceed num_products"):
        RECIPES["nano"]().market.but(num_merchants=900)
