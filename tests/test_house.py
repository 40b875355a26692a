"""The rules of the house, kept by tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import check_house


def test_no_room_imports_a_room_below_it():
    assert list(check_house.order_findings()) == []


def test_nothing_that_trains_or_serves_reads_the_hidden_truth():
    assert list(check_house.truth_findings()) == []


@pytest.mark.parametrize(
    "line",
    ["import moontide.studies.chain", "from moontide.studies import chain", "from moontide import studies"],
)
def test_an_import_of_a_lower_room_is_found_even_inside_a_function(tmp_path, line):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "bad.py").write_text(f"def f():\n    {line}\n")
    assert list(check_house.order_findings(tmp_path)) == ["catalog/bad.py:2: catalog may not import studies"]


def test_every_room_says_what_it_is_for_and_exports_nothing():
    for room in check_house.ROOMS:
        file = check_house.SOURCE / room / "__init__.py"
        if file.exists():
            lines = file.read_text().strip()
            assert lines.startswith('"""'), room
            assert lines.endswith('"""'), room
            assert "import" not in lines.replace("importers", ""), room
