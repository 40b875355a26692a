"""A table of cells is resumable, keeps failures apart, refuses other settings, and is shared by processes."""

import subprocess
import sys
import threading

import pytest

from moontide.foundation.errors import CheckpointError
from moontide.studies.grid import Cell, as_markdown, claim, run_grid, unfinished

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


def test_a_cell_that_fails_is_tried_once_a_call(tmp_path):
    calls = []

    def broken(cell):
        calls.append(cell.name)
        raise ValueError("no luck")

    for _ in range(2):
        run_grid(tmp_path, CELLS, broken)
    assert calls == ["a-0", "a-1"] * 2
    assert unfinished(tmp_path, CELLS) == dict.fromkeys(("a-0", "a-1"), "failed: ValueError: no luck")


def test_a_claimed_cell_is_left_to_its_holder_and_taken_when_the_holder_lets_go(tmp_path):
    with claim(tmp_path / "a-0.claim") as is_ours:
        assert is_ours
        with claim(tmp_path / "a-0.claim") as is_ours_too:
            assert not is_ours_too
        assert [row["cell"] for row in run_grid(tmp_path, CELLS, lambda cell: {})] == ["a-1"]
        assert unfinished(tmp_path, CELLS) == {"a-0": "begun"}
    assert unfinished(tmp_path, CELLS) == {"a-0": "not run"}
    assert [row["cell"] for row in run_grid(tmp_path, CELLS, lambda cell: {})] == ["a-0", "a-1"]


def test_the_claim_of_a_killed_process_holds_nothing(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from moontide.studies.grid import claim\n"
        "with claim(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    path = tmp_path / "a-0.claim"
    holder = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with claim(path) as is_ours:
        assert not is_ours
    holder.kill()
    holder.communicate()
    assert path.exists()
    with claim(path) as is_ours:
        assert is_ours
    assert not path.exists()


def test_who_waits_for_a_claim_gets_the_file_that_is_there(tmp_path):
    """Every holder removes the file; a waiter that got the removed one would hold a lock that nobody sees."""
    path, held, most = tmp_path / "table.claim", [], []

    def hold():
        for _ in range(50):
            with claim(path, wait=True):
                held.append(1)
                most.append(len(held))
                held.pop()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert max(most) == 1


def test_no_cell_begins_after_the_time_is_up_and_every_end_is_told(tmp_path):
    ends = []
    assert run_grid(tmp_path, CELLS, lambda cell: {}, lambda: ends.append(1), max_minutes=0) == []
    assert len(run_grid(tmp_path, CELLS, lambda cell: {}, lambda: ends.append(1), max_minutes=1)) == 2
    assert len(ends) == 2
