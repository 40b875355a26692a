"""The index of the published systems is true: its files exist and the documentation says the same."""

from pathlib import Path

import pytest

import moontide
from moontide.foundation.errors import DataError
from moontide.recipes.papers import NOT_YET, PAPERS, as_markdown, find

ROOT = Path(moontide.__file__).parents[2]


def test_the_documentation_holds_the_same_table():
    assert (ROOT / "docs" / "papers.md").read_text() == as_markdown()


def test_every_named_recipe_and_test_folder_exists():
    for paper in PAPERS:
        if paper.recipe != NOT_YET:
            assert (ROOT / "src" / "moontide" / paper.recipe).exists(), paper.recipe
            for folder in paper.tests.split(", "):
                assert (ROOT / folder).exists(), folder


def test_a_system_is_found_by_name_prefix_or_arxiv_id():
    assert find("moon_embedding").arxiv == find("2511.11305").arxiv == "2511.11305"
    assert find("MOON").name == "MOON"
    with pytest.raises(DataError, match="no system is called 'nothing'"):
        find("nothing")
