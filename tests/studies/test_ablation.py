"""An ablation finds planted differences, survives kills and company, and says what is missing."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from planted import ABLATION, DATA, QUERIES, Variant, train

from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.studies.ablation import Row, ablation_table, run_ablation
from moontide.studies.ablation_text import ablation_markdown
from moontide.studies.outcomes import Column

PLANTED = Path(__file__).with_name("planted.py")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    to = tmp_path_factory.mktemp("table")
    return to, run_ablation(to, ABLATION, range(3), train, DATA)


def row_of(table, name):
    return next(row for row in table["rows"] if row["row"] == name)


def without(ablation, **changes):
    return dataclasses.replace(ablation, paper_order={}, **changes)


def test_planted_differences_are_found_and_lie_in_their_intervals(table):
    for name, drop in (("− small", 0.03), ("− large", 0.3)):
        found = row_of(table[1], name)["differences"]["R@10"]
        assert found["low"] < -drop < found["high"] < 0
        assert found["over"] == "seeds and queries"
        assert found["is_resolved"]
    assert 0.02 < row_of(table[1], "− large")["differences"]["R@10"]["resolvable"] < 0.3
    assert row_of(table[1], "full")["differences"] == {}


def test_a_mean_is_that_of_the_ranks_up_to_the_columns_depth_over_seeds(table):
    ranks = np.stack([train(ABLATION.rows[1], seed, table[0] / "again")["hits"]["rank"] for seed in range(3)])
    values = row_of(table[1], "− small")["values"]
    assert values["R@1"] == pytest.approx((ranks <= 1).mean())
    assert values["R@10"] == pytest.approx((ranks <= 10).mean())


def test_a_metric_without_queries_has_students_interval_over_seeds(table):
    aucs = [
        [train(row, seed, table[0] / "again")["metrics"]["auc"] for seed in range(3)]
        for row in ABLATION.rows[::2]
    ]
    found = row_of(table[1], "− large")["differences"]["AUC"]
    change = np.subtract(aucs[1], aucs[0])
    assert found["over"] == "seeds"
    assert found["high"] - found["value"] == pytest.approx(4.30265 * change.std(ddof=1) / 3**0.5, rel=1e-4)


def test_the_page_shows_values_differences_budget_and_order(table):
    text = (table[0] / "table.md").read_text()
    assert text.startswith("# planted ablation\n\nPaper: none. Ours: dataset planted; seeds 0, 1, 2; 9 of 9")
    assert "| row | R@1 | R@10 | AUC | pairs seen | seeds | core min a cell |" in text
    assert "| 1,000 | 3 of 3 | 1.0 |" in text
    assert "## Difference to full" in text
    assert "| − large | **-0." in text
    assert "- R@10: 3 of 3 pairs as published, 3 of them resolved (tau +1.00)" in text
    assert "without the large part" in text
    assert "did not all see" not in text
    assert "¹" not in text.split("of one seed")[0]


def test_published_values_are_nowhere_in_what_is_written(table):
    for kind in ("json", "md", "svg"):
        assert "90.0" not in (table[0] / f"table.{kind}").read_text()
    assert json.loads((table[0] / "table.json").read_text())["order"][0]["published"][0] == "full"


def test_pairs_that_stand_otherwise_than_published_are_named_and_published_ties_are_no_pairs(table):
    orders = {
        "R@10": {"full": 1, "− small": 3, "− large": 2},
        "AUC": {"full": 1, "− small": 1, "− large": 0},
    }
    turned = dataclasses.replace(ABLATION, paper_order=orders)
    found = ablation_table(table[0] / "cells", turned, range(3), DATA)
    assert found["order"][0]["tau"] == pytest.approx(-1 / 3)
    assert found["order"][1]["pairs"] == found["order"][1]["as_published"] == 2
    text = ablation_markdown(found)
    assert "It is ours in 1 of 2 columns. 2 of 5 pairs of rows are turned around, 2 of them resolved." in text
    assert "; full is above − large by 0.3" in text


def test_the_picture_is_1800_pixels_wide_and_names_rows_and_columns(table):
    png = (table[0] / "table.png").read_bytes()
    assert int.from_bytes(png[16:20], "big") == 1800
    svg = (table[0] / "table.svg").read_text()
    assert all(name in svg for name in ("− small", "− large", "R@10", "AUC", "difference to full"))


def test_full_comes_first_then_the_row_that_lost_most_in_the_paper_before_the_second_seed(tmp_path):
    seen = []
    run_ablation(tmp_path, ABLATION, range(2), lambda *cell: seen.append(cell) or train(*cell), DATA)
    assert [(row.name, seed) for row, seed, _ in seen] == [
        (name, seed) for seed in range(2) for name in ("full", "− large", "− small")
    ]


def test_one_seed_is_never_called_resolved(tmp_path):
    table = run_ablation(tmp_path, ABLATION, range(1), train, DATA)
    found = row_of(table, "− large")["differences"]
    assert found["R@10"]["over"] == "queries"
    assert found["R@10"]["high"] < 0
    assert not found["R@10"]["is_resolved"]
    assert found["AUC"]["low"] is None
    text = (tmp_path / "table.md").read_text()
    assert "¹ One seed, so never resolved" in text
    assert "**" not in text
    assert "3 of 3 pairs as published, 0 of them resolved" in text


def test_a_ladder_compares_each_rung_with_the_one_before(tmp_path):
    ladder = without(ABLATION, rows=ABLATION.rows[::-1], reference="previous")
    seen = []
    table = run_ablation(tmp_path, ladder, range(2), lambda *cell: seen.append(cell) or train(*cell), DATA)
    assert [row.name for row, _, _ in seen[:3]] == ["− large", "− small", "full"]
    assert [row["reference"] for row in table["rows"]] == [None, "− large", "− small"]
    steps = [row["differences"]["R@10"]["value"] for row in table["rows"][1:]]
    values = [row["values"]["R@10"] for row in table["rows"]]
    assert steps == pytest.approx(np.diff(values))
    assert "## Difference to the row before" in (tmp_path / "table.md").read_text()


def test_cells_that_are_not_run_say_so_and_are_filled_later(tmp_path):
    table = run_ablation(tmp_path, ABLATION, range(1), train, DATA, only=["full", "small-seed0"])
    assert row_of(table, "− large")["missing"] == {"large-seed0": "not run"}
    text = (tmp_path / "table.md").read_text()
    assert "| − large | not run | not run | not run | – | 0 of 1 | – |" in text
    assert "2 of 3 cells are there" in text
    assert "not run" in (tmp_path / "table.svg").read_text()
    full = run_ablation(tmp_path, ABLATION, range(1), train, DATA)
    assert row_of(full, "− large")["missing"] == {}
    assert row_of(full, "full") == row_of(table, "full")


def test_no_cell_begins_after_the_time_is_up(tmp_path):
    table = run_ablation(tmp_path, ABLATION, range(2), train, DATA, max_minutes=0)
    assert all(row["values"] == {"R@1": None, "R@10": None, "AUC": None} for row in table["rows"])
    assert "R@10: no two rows to compare yet" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "table.png").exists()


def test_a_failed_cell_says_why_and_the_others_stand(tmp_path):
    def broken(row, seed, folder):
        if (row.name, seed) == ("− small", 1):
            raise ValueError("no room\nleft")
        return train(row, seed, folder)

    table = run_ablation(tmp_path, ABLATION, range(2), broken, DATA)
    assert row_of(table, "− small")["seeds"] == [0]
    assert row_of(table, "− small")["differences"]["R@10"]["over"] == "queries"
    assert "- small-seed1: failed: ValueError: no room left" in (tmp_path / "table.md").read_text()
    assert row_of(run_ablation(tmp_path, ABLATION, range(2), train, DATA), "− small")["seeds"] == [0, 1]


def test_changed_settings_or_data_are_refused_before_anything_is_computed(tmp_path):
    run_ablation(tmp_path, ABLATION, range(1), train, DATA)
    changed = without(ABLATION, rows=(*ABLATION.rows[:2], Row("− large", Variant(drop=0.2))))
    seen = []
    for ablation, data in ((changed, DATA), (ABLATION, {"dataset": "another"})):
        with pytest.raises(CheckpointError, match="was computed with other settings"):
            run_ablation(tmp_path, ablation, range(2), lambda *cell: seen.append(cell) or {}, data, ["full"])
    assert not seen


def test_rows_that_were_asked_other_queries_are_refused(tmp_path):
    def other(row, seed, folder):
        ids = [f"{row.name if row.name == '− large' else ''}{n}" for n in range(QUERIES)]
        return train(row, seed, folder) | {"queries": {"rank": ids}}

    with pytest.raises(DataError, match="R@1, full and − large: a paired difference needs the same queries"):
        run_ablation(tmp_path, ABLATION, range(1), other, DATA)


def test_a_metric_that_is_not_the_mean_of_its_outcomes_fails_the_cell(tmp_path):
    def torn(row, seed, folder):
        return {"hits": {"auc": [0, 1]}, "metrics": {"auc": 0.9}, "pairs": 0}

    run_ablation(tmp_path, ABLATION, range(1), torn, DATA, only=["full"])
    assert "AUC is 0.9 as a metric, 0.5 by its outcomes" in (tmp_path / "table.md").read_text()


def test_names_that_are_not_there_or_not_distinct_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="no row or cell is called 'moe': the rows are full, − small"):
        run_ablation(tmp_path, ABLATION, range(1), train, DATA, only=["moe"])
    with pytest.raises(SettingsError, match="need distinct names, got full, moe, moe"):
        without(ABLATION, rows=(ABLATION.rows[0], Row("− MoE", Variant()), Row("+ MoE", Variant())))
    with pytest.raises(SettingsError, match="names a row or column it lacks, in 'R@10'"):
        dataclasses.replace(ABLATION, columns=(Column("R@1", "rank", at=1),))


def start(to, num_workers):
    return subprocess.Popen([sys.executable, PLANTED, to, str(num_workers)])


def test_a_killed_table_goes_on_where_it_stopped_and_ends_as_if_nothing_had_been(tmp_path, table):
    seen = []
    run_ablation(tmp_path, ABLATION, range(3), train, DATA, only=["full-seed0"])
    worker = start(tmp_path, 2)  # there is no second one: it waits in its first cell
    while not (tmp_path / "tries").exists():
        assert worker.poll() is None
        time.sleep(0.02)
    worker.kill()
    worker.wait()
    cut = ablation_table(tmp_path / "cells", ABLATION, range(3), DATA)
    assert row_of(cut, "full")["seeds"] == [0]
    assert row_of(cut, "− large")["missing"]["large-seed0"] == "begun"
    again = run_ablation(tmp_path, ABLATION, range(3), lambda *cell: seen.append(cell) or train(*cell), DATA)
    assert (seen[0][0].name, seen[0][1], len(seen)) == ("− large", 0, 8)
    assert again == table[1]
    assert not list((tmp_path / "cells").glob("*.claim"))


def test_two_workers_share_one_table_and_no_cell_is_computed_twice(tmp_path, table):
    workers = [start(tmp_path, 2) for _ in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    cells, pids = zip(
        *(line.split(":") for line in (tmp_path / "tries").read_text().splitlines()), strict=True
    )
    assert len(cells) == len(set(cells)) == 9
    assert {int(pid) for pid in pids} == {worker.pid for worker in workers}
    assert json.loads((tmp_path / "table.json").read_text()) == table[1]
