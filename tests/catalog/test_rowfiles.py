"""Tables on disk, row by row: formats, encodings, broken rows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.shop import write_table
from moontide.catalog.rowfiles import RowFile
from moontide.foundation.errors import DataError, StorageError

TABLE = [{"id": "1", "name": "lamp, red"}, {"id": "2", "name": 'mug "big"\nblue'}]


def cells(file) -> list[dict]:
    return [row.cells for row in RowFile(file)]


def problems(file, encoding=None) -> list[tuple[int, str]]:
    return [(row.number, row.problem[0]) for row in RowFile(file, encoding) if row.problem]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    file = RowFile(write_table(tmp_path / f"t{ending}", TABLE))
    assert file.columns == ["id", "name"]
    assert [row.cells for row in file] == TABLE == [row.cells for row in file]  # as often as asked
    assert [row.number for row in file] == [1, 2]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, mark):
    (tmp_path / "t.csv").write_text(f"id{mark}name\n1{mark}x\n")
    assert cells(tmp_path / "t.csv") == [{"id": "1", "name": "x"}]


def test_utf_8_with_a_mark_and_utf_16_are_told_apart(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "t.csv").write_text("id,name\n1,größe\n", encoding=encoding)
        assert cells(tmp_path / "t.csv") == [{"id": "1", "name": "größe"}]


def test_another_encoding_is_given(tmp_path):
    (tmp_path / "t.csv").write_bytes("id,name\n1,größe\n2,ok\n".encode("latin-1"))
    assert problems(tmp_path / "t.csv") == [(1, "wrong_encoding")]
    assert [row.cells["name"] for row in RowFile(tmp_path / "t.csv", "latin-1")] == ["größe", "ok"]
    with pytest.raises(DataError, match=r"no encoding is called 'klingon': try utf-8, latin-1 or cp1252"):
        RowFile(tmp_path / "t.csv", "klingon")
    (tmp_path / "t.csv").write_bytes("größe,name\n1,x\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"the first line of .*t.csv is not utf-8-sig: give --encoding"):
        _ = RowFile(tmp_path / "t.csv").columns


def test_a_row_of_another_length_is_a_problem_and_reading_goes_on(tmp_path):
    (tmp_path / "t.csv").write_text("id,name\n1,x\n2\n3,y,z\n\n4,w\n")
    rows = list(RowFile(tmp_path / "t.csv"))
    assert [(row.number, row.problem) for row in rows] == [
        (1, None),
        (2, ("wrong_field_count", "the row has 1 fields, the header has 2")),
        (3, ("wrong_field_count", "the row has 3 fields, the header has 2")),
        (4, None),
    ]


def test_broken_lines_of_json_are_problems_and_reading_goes_on(tmp_path):
    lines = [
        '{"id": 1}',
        "{",
        "7",
        '{"id": "\\ud800"}',
        '{"id": ' + "1" * 5000 + "}",
        '{"a":' * 3000,
        '{"id": 2}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert problems(tmp_path / "t.jsonl") == [
        (2, "broken_row"), (3, "broken_row"), (4, "wrong_encoding"), (5, "broken_row"), (6, "broken_row"),
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_bytes(b'{"id": "\xe9"}\n{"id": 2}\n')
    assert problems(tmp_path / "t.jsonl") == [(1, "wrong_encoding")]


def test_nested_objects_become_dotted_columns(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": 1, "specs": {"size": {"w": 2}, "tags": ["a"]}}))
    file = RowFile(tmp_path / "t.jsonl")
    assert file.columns == ["id", "specs.size.w", "specs.tags"]
    assert cells(tmp_path / "t.jsonl") == [{"id": 1, "specs.size.w": 2, "specs.tags": ["a"]}]


def test_nanoseconds_of_pandas_are_read(tmp_path):
    times = pa.array([1_711_324_800_000_000_001], pa.timestamp("ns"))
    pq.write_table(pa.table({"id": ["1"], "at": times}), tmp_path / "t.parquet")
    assert cells(tmp_path / "t.parquet")[0]["at"].isoformat() == "2024-03-25T00:00:00"


def test_what_is_no_table_is_refused_by_name(tmp_path):
    with pytest.raises(StorageError) as missing:
        RowFile(tmp_path / "none.csv")
    assert str(missing.value) == f"no file at {tmp_path / 'none.csv'}: check the path"
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(DataError, match=r"t.xlsx is not a table: give one of .csv, .txt, .tsv"):
        RowFile(tmp_path / "t.xlsx")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(DataError, match=r"dir.csv is not a table"):
        RowFile(tmp_path / "dir.csv")
    (tmp_path / "t.parquet").write_text("junk")
    with pytest.raises(DataError, match=r"t.parquet cannot be read \("):
        _ = RowFile(tmp_path / "t.parquet").columns
    (tmp_path / "t.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match=r"t.json is one JSON array: write one object per line"):
        list(RowFile(tmp_path / "t.json"))
    (tmp_path / "t.csv").write_text("id,name,id\n")
    with pytest.raises(DataError, match=r"t.csv has two columns called id: rename one"):
        _ = RowFile(tmp_path / "t.csv").columns
