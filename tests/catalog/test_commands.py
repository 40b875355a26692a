"""`moontide data ...` as a user runs it."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.shop import picture, rows, shop, write_table
from moontide.catalog.dataset import Dataset
from moontide.catalog.verbs import app
from moontide.foundation.errors import MoontideError, StorageError

MOONTIDE = Path(sys.executable).with_name("moontide")


def run(*words) -> tuple[int, str]:
    """Exit code and output of a command, in this process; errors are raised as they are."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, " ".join(done.output.split())


def shell(*words, limit: str = "") -> tuple[int, str]:
    """Exit code and last line of the real command, run by a shell under `limit`."""
    line = f'{limit} exec "$0" "$@"'
    asked = ["bash", "-c", line, MOONTIDE, "data", *words]
    done = subprocess.run([str(one) for one in asked], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_import_prints_the_mapping_the_counts_and_what_comes_next(tmp_path):
    source = shop(tmp_path / "shop", 6)
    code, output = run("import", "table", source, "--to", tmp_path / "d")
    assert code == 0
    for piece in ("category │ department > category", "rows read │ 6", "pictures │ 6", "rows a second"):
        assert piece in output
    assert f"Next: moontide data check {tmp_path / 'd'}" in output
    assert "rejected" not in output


def test_rejected_rows_are_counted_and_the_file_is_named(tmp_path):
    source = shop(tmp_path / "shop", 6)
    (source.parent / "pics" / "p3.jpg").write_bytes(b"junk")
    _, output = run("import", "table", source, "--to", tmp_path / "d")
    assert "rejected products: not_an_image │ 1" in output
    assert f"Why: {tmp_path / 'd' / 'rejected.parquet'}" in output


def test_a_dry_run_shows_rows_and_writes_nothing(tmp_path):
    source = shop(tmp_path / "shop", 6)
    (source.parent / "pics" / "p1.jpg").unlink()
    code, output = run("import", "table", source, "--to", tmp_path / "d", "--dry-run")
    assert code == 0
    for piece in (
        "row 1 ┃ taken",
        "row 2 ┃ rejected: missing_image",
        "price_cents │ 150",
        "pictures │ 1 of 1",
    ):
        assert piece in output
    assert output.endswith("Nothing was written. Leave out --dry-run to import.")
    assert names(tmp_path) == ["shop"]


def test_flags_and_a_file_map_columns(tmp_path):
    source = shop(tmp_path / "shop", 3)
    run(
        "import", "table", source, "--to", tmp_path / "a", "--map", "title=brand,attributes.kind=name,price=-"
    )
    first = Dataset.open(tmp_path / "a").products()[1]
    assert (first.title, first.price_cents) == ("Brand 1", None)
    assert first.attributes == {"color": ("blue",), "kind": ("oak mug a",)}
    (tmp_path / "map.toml").write_text('title = "name"\ncategory = "brand"\n[attributes]\nhue = "colour"\n')
    words = ("--mapping", tmp_path / "map.toml", "--map", "attributes.sort=category")
    run("import", "table", source, "--to", tmp_path / "b", *words)
    second = Dataset.open(tmp_path / "b").products()[1]
    assert (second.category, second.price_cents, second.image_ids) == (("Brand 1",), None, ())
    assert second.attributes == {"hue": ("blue",), "sort": ("Living",)}


def test_show_prints_a_product_even_with_brackets(tmp_path):
    table = [{"sku": "a", "name": "lamp [bold] new"}, {"sku": "b", "name": "mug"}]
    run("import", "table", write_table(tmp_path / "t.csv", table), "--to", tmp_path / "d", "--license", "MIT")
    _, output = run("show", tmp_path / "d", "-n", 1)
    assert "license: MIT" in output
    assert "products │ 2" in output
    assert "lamp [bold] new" in output
    assert "mug" not in output
    assert "b ┃ mug" in run("show", tmp_path / "d", "--product", "b")[1]
    with pytest.raises(MoontideError, match=r"no product of .* has the id 'zz'"):
        run("show", tmp_path / "d", "--product", "zz")


def test_check_exits_0_when_sound_and_1_when_not(tmp_path):
    run("import", "table", shop(tmp_path / "shop", 6), "--to", tmp_path / "d")
    code, output = run("check", tmp_path / "d", "--sheet", tmp_path / "s.png")
    assert (code, output.endswith(f"6 pictures on {tmp_path / 's.png'}")) == (0, True)
    assert "0 kinds of errors, 0 kinds of warnings" in output
    (tmp_path / "d" / "splits.parquet").unlink()
    code, output = run("check", tmp_path / "d")
    assert code == 1
    assert "error missing_file: files of dataset.json are gone: 1 (splits.parquet)" in output


def test_split_makes_another_split(tmp_path):
    run("import", "table", shop(tmp_path / "shop", 30), "--to", tmp_path / "d")
    _, output = run("split", tmp_path / "d", "--test-share", 1)
    assert "products for train │ 0 products for test" not in output
    assert "products for test │ 30" in output
    assert Dataset.open(tmp_path / "d").info["split_rule"]["test_share"] == 1


@contextmanager
def nobody() -> Generator[None]:
    """Root may write anywhere: be nobody for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_place_that_may_not_be_written_is_one_sentence():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # unlike pytest's own folders, open to other users
        table = write_table(Path(folder) / "t.csv", rows(2))
        locked = Path(folder) / "locked"
        locked.mkdir(0o555)
        with pytest.raises(StorageError) as caught, nobody():
            run("import", "table", table, "--to", locked / "d")
        assert (
            str(caught.value) == f"no permission to write {locked / 'd'}: name a folder that can be written"
        )
        assert names(locked) == []


def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path):
    source, empty = shop(tmp_path / "shop", 3), tmp_path / "empty.csv"
    empty.write_text("sku,name\n")
    asked = {
        (empty,): f"{empty} has no rows: there is nothing to import",
        (source, "--map", "title=nam"): "the source has no column 'nam': did you mean 'name'?",
        (
            source,
            "--images",
            tmp_path / "no",
        ): f"no folder or zip of pictures at {tmp_path / 'no'}: check --images",
        (source, "--to", empty): f"{empty} already exists: name another folder, or delete it first",
    }
    for words, text in asked.items():
        with pytest.raises(MoontideError) as caught:
            run("import", "table", "--to", tmp_path / "d", *words)
        assert str(caught.value) == text
    assert names(tmp_path) == ["empty.csv", "shop"]


def test_a_mistake_exits_2_with_its_sentence_alone(tmp_path):
    code, line = shell("import", "table", tmp_path / "none.csv", "--to", tmp_path / "d")
    assert (code, line) == (2, f"moontide: no file at {tmp_path / 'none.csv'}: check the path")
    assert names(tmp_path) == []


def test_a_zip_that_leads_out_imports_the_rest(tmp_path):
    table = rows(3)
    table[2]["photo"] = "../evil.jpg"
    source = write_table(tmp_path / "t.csv", table)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for number, name in enumerate(["pics/p0.jpg", "pics/p1.jpg", "../evil.jpg"]):
            archive.writestr(name, picture(number))
    run("import", "table", source, "--to", tmp_path / "d", "--images", tmp_path / "p.zip")
    dataset = Dataset.open(tmp_path / "d")
    assert [one.product_id for one in dataset.products()] == ["p0", "p1"]
    assert names(tmp_path) == ["d", "p.zip", "t.csv"]
    assert not (tmp_path.parent / "evil.jpg").exists()


def test_a_disk_that_refuses_is_one_sentence_and_nothing_is_left(tmp_path):
    source = shop(tmp_path / "shop", 80)
    code, line = shell("import", "table", source, "--to", tmp_path / "d", limit="ulimit -f 40;")
    assert code == 2
    assert line.startswith("moontide: ")
    assert line.endswith("grew larger than the system allows: name another folder")
    assert names(tmp_path) == ["shop"]
