"""Files and folders that are whole or not there, and disks that refuse."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from moontide.foundation.errors import StorageError
from moontide.foundation.storage import new_folder, read_json, storage_errors, write_bytes, write_json


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_json_comes_back_as_it_was_written(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"word": "größe", "numbers": [1, 2.5, None]})
    assert read_json(tmp_path / "deep" / "a.json") == {"word": "größe", "numbers": [1, 2.5, None]}
    assert names(tmp_path / "deep") == ["a.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_rest(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "a", "text")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_reading_tells_missing_from_broken(tmp_path):
    with pytest.raises(StorageError) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value) == f"no file at {tmp_path / 'a.json'}"
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StorageError, match=r"is not valid JSON \(.*\): delete it and run the step again"):
        read_json(tmp_path / "a.json")
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "no space left on the disk of /x: free some, or name another folder"),
        (errno.EROFS, "/x is on a read-only disk: name a folder that can be written"),
        (errno.EACCES, "no permission to write /x: name a folder that can be written"),
        (errno.EDQUOT, "the disk quota of /x is used up: free some, or name another folder"),
        (errno.ENOENT, "there is no /x: check the path"),
    ],
)
def test_refusals_of_the_system_become_one_sentence(number, text):
    with pytest.raises(StorageError) as caught, storage_errors("/x"):
        raise OSError(number, "as the system says it")
    assert str(caught.value) == text


def test_what_is_no_matter_of_storage_passes():
    with pytest.raises(BrokenPipeError), storage_errors("/x"):
        raise BrokenPipeError(errno.EPIPE, "broken pipe")


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "a") as folder:
        (folder / "one").write_text("1")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "one").read_text() == "1"


def test_an_exception_leaves_nothing(tmp_path):
    def half_done(folder: Path) -> None:
        (folder / "one").write_text("1")
        raise KeyError

    with pytest.raises(KeyError), new_folder(tmp_path / "a") as folder:
        half_done(folder)
    assert names(tmp_path) == []


def test_a_folder_in_use_is_not_replaced_unless_asked(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("1")
    with pytest.raises(StorageError) as caught, new_folder(tmp_path / "a"):
        pass
    assert str(caught.value) == f"{tmp_path / 'a'} already exists: name another folder, or delete it first"
    with new_folder(tmp_path / "a", replace=True) as folder:
        (folder / "new").write_text("2")
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["new"])


def test_a_replacement_that_fails_leaves_the_old_folder(tmp_path):
    with new_folder(tmp_path / "a") as folder:
        (folder / "old").write_text("1")
    with pytest.raises(KeyError), new_folder(tmp_path / "a", replace=True):
        raise KeyError
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["old"])


def test_an_empty_folder_may_be_filled_and_a_file_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "one").write_text("1")
    assert names(tmp_path / "empty") == ["one"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="already exists"), new_folder(tmp_path / "file", replace=True):
        pass


def test_rests_of_a_crash_are_cleared(tmp_path):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "rest").write_text("")
    with new_folder(tmp_path / "a") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["a"]


def test_a_folder_moved_aside_by_a_crash_comes_back(tmp_path):
    (tmp_path / ".a.replaced").mkdir()
    (tmp_path / ".a.replaced" / "old").write_text("1")
    with pytest.raises(KeyError), new_folder(tmp_path / "a", replace=True):
        raise KeyError
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["old"])


def test_a_folder_that_may_not_be_written_is_named_as_it_was_asked_for():
    with pytest.raises(StorageError) as caught, new_folder(Path("/proc/moontide/a")):
        pass
    assert str(caught.value) == "there is no /proc/moontide/a: check the path"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(StorageError, match="no space left on the disk of"):
            write_bytes(disk / "a", bytes(1 << 20))
        with pytest.raises(StorageError) as caught, new_folder(disk / "b") as folder:
            (folder / "c").write_bytes(bytes(1 << 20))
        assert "no space left on the disk of" in str(caught.value)
        assert names(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)
