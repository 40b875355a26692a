"""Writing files so that a crash, a full disk or a second reader never sees half of one.

Files are written beside their place and renamed; folders are built as `NAME.partial` and renamed when closed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moontide.foundation.errors import StorageError

_SENTENCES = {
    errno.ENOSPC: "no space left on the disk of {path}: free some, or name another folder",
    errno.EROFS: "{path} is on a read-only disk: name a folder that can be written",
    errno.EACCES: "no permission to write {path}: name a folder that can be written",
    errno.EPERM: "no permission to write {path}: name a folder that can be written",
    errno.ENOENT: "there is no {path}: check the path",
    errno.ENOTDIR: "{path} lies under a file, not a folder: name another folder",
    errno.EEXIST: "{path} is in the way: name another folder",
    errno.EISDIR: "{path} is a folder, not a file: name another place",
    errno.EFBIG: "{path} grew larger than the system allows: name another folder",
    errno.ENAMETOOLONG: "the name of {path} is too long: name another folder",
    errno.EIO: "the disk of {path} does not answer: name another folder",
    errno.EDQUOT: "the disk quota of {path} is used up: free some, or name another folder",
}


@contextmanager
def storage_errors(path: Path | str) -> Generator[None]:
    """Turn the operating system's refusals into a `StorageError` with one clear sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _SENTENCES:
            raise
        raise StorageError(_SENTENCES[error.errno].format(path=error.filename or path)) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all (renamed into place, flushed to disk first)."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        StorageError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise StorageError(f"no file at {path}") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not valid JSON ({error}): delete it and run the step again") from None


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Generator[Path]:
    """Build a folder under another name; it appears at `path` only if the block ends well.

    Raises:
        StorageError: `path` exists and `replace` is False, or the disk refuses.
    """
    with storage_errors(path):
        path = path.resolve()  # "." has no name to build beside, and a link cannot be replaced by a folder
        partial, old = path.with_name(f"{path.name}.partial"), path.with_name(f".{path.name}.replaced")
        if old.exists() and not path.exists():
            old.replace(path)
        if path.exists() and (not path.is_dir() or (not replace and any(path.iterdir()))):
            raise StorageError(f"{path} already exists: name another folder, or delete it first")
        for rest in (partial, old):  # of a crash; a folder that was moved aside then was put back above
            if rest.exists():
                shutil.rmtree(rest)
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error  # people asked for `path`
        try:
            yield partial
            if path.is_dir():
                path.replace(old)  # renamed, not deleted: a crash between the two loses nothing
            partial.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            if old.exists() and not path.exists():
                old.replace(path)
            shutil.rmtree(partial, ignore_errors=True)
            raise
