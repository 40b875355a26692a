"""A table of cells is resumable, keeps failures apart, and refuses cells of other settings."""

import pytest

from moontide.foundation.errors import CheckpointError
from moontide.studies.grid import Cell, as_markdown, run_grid

CELLS = [Cell("a-0", {"x": 1}), Cell("a-1", {"x": 2})]


def test_a_finished_cell_is_never_computed_twice(tmp_path):
    calls = []

    def compute(cell):
        calls.append(cell.name)
        return {"y": cell.settings["x"] * 10}

    first = run_grid(tmp_path, CELLS, compute)
    assert [row["result"]["y"] for row in first] == [10, 20]
    assert run_grid(tmp_path, CELLS, compute) == first
    assert calls == ["a-0", "a-1"]


def test_a_failing_cell_is_noted_and_tried_again_while_others_go_on(tmp_path):
    def broken(cell):
        if cell.name == "a-0":
            raise ValueError("no luck")
        return {"y": 1}

    assert [row["cell"] for row in run_grid(tmp_path, CELLS, broken)] == ["a-1"]
    assert "no luck" in (tmp_path / "a-0.json").read_text()
    assert [row["cell"] for row in run_grid(tmp_path, CELLS, lambda cell: {"y": 2})] == ["a-0", "a-1"]


def test_a_cell_of_other_settings_is_refused(tmp_path):
    run_grid(tmp_path, CELLS, lambda cell: {})
    with pytest.raises(CheckpointError, match="computed with other settings"):
        run_grid(tmp_path, [Cell("a-0", {"x": 9})], lambda cell: {})


def test_a_table_shows_missing_values_as_dashes():
    assert as_markdown(["m", "auc"], [{"m": "id", "auc": 0.5}, {"m": "none"}]).splitlines()[2:] == [
        "| id | 0.5000 |",
        "| none | – |",
    ]
