"""Picture files of a shop, in a folder or a zip, read without ever leaving it.

A path comes from a table, so it is not trusted: no `..`, no place outside, no link that leads outside,
no device, nothing that unpacks to more than a picture may have. Nothing is ever extracted to disk.
"""

from __future__ import annotations

import bisect
import fnmatch
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from moontide.foundation.errors import DataError, ImageError, StorageError
from moontide.foundation.images import LIMITS

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
_DRIVE = re.compile(r"[A-Za-z]:")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)


class Pictures(Protocol):
    """Where pictures are read from: `PictureFolder` or `PictureZip`."""

    where: Path

    def find(self, path: str) -> str:
        """The name under which the picture of a table's path is read.

        Raises:
            ImageError: `unsafe_path`, `image_is_url` or `missing_image`.
        """

    def read(self, name: str) -> bytes:
        """The bytes of a picture found before; safe to call from several threads.

        Raises:
            ImageError: `missing_image`, `unsafe_path`, `too_many_bytes` or `broken_file`.
        """

    def names(self) -> list[str]:
        """All files with the ending of a picture, sorted."""


def open_pictures(path: Path | str) -> Pictures:
    """The folder or zip at `path`.

    Raises:
        StorageError: nothing is there.
        DataError: it is neither a folder nor a zip.
    """
    path = Path(path)
    if path.is_dir():
        return PictureFolder(path)
    if not path.exists():
        raise StorageError(f"no folder or zip of pictures at {path}: check --images")
    return PictureZip(path)


def safe_path(path: str) -> str:
    """A relative path with `/` between its parts, as it stands in a table.

    Raises:
        ImageError: `unsafe_path` when it is absolute or climbs up, `image_is_url` for a web address.

    Example:
        >>> safe_path(r".\\front\\1.jpg")
        'front/1.jpg'
        >>> safe_path("a/../../secret.jpg")
        Traceback (most recent call last):
        moontide.foundation.errors.ImageError: the path 'a/../../secret.jpg' leads out of the pictures: ...
    """
    if _URL.match(path):
        raise ImageError(
            "image_is_url", f"{path!r} is an address: download the pictures, then give their files"
        )
    parts = [part for part in path.strip().replace("\\", "/").split("/") if part != "."]
    is_absolute = path.strip().startswith(("/", "\\")) or bool(_DRIVE.match(parts[0] if parts else ""))
    if is_absolute or ".." in parts or "\0" in path:
        raise ImageError(
            "unsafe_path", f"the path {path!r} leads out of the pictures: write it relative to them"
        )
    return "/".join(part for part in parts if part)


def matching(pictures: Pictures, pattern: str) -> list[str]:
    """Names that match a pattern of `glob` (`*`, `?`, `[...]`), sorted.

    Raises:
        ImageError: `missing_image` when there are none; as `safe_path`.
    """
    names = pictures.names()
    head = re.split(r"[*?\[]", safe_path(pattern))[0]
    near = names[bisect.bisect_left(names, head) : bisect.bisect_right(names, head + "\U0010ffff")]
    found = [name for name in near if fnmatch.fnmatchcase(name, safe_path(pattern))]
    if not found:
        raise ImageError("missing_image", f"no picture matches {pattern!r} in {pictures.where}")
    return found


def guess_pattern(pictures: Pictures, product_ids: Iterable[str]) -> str | None:
    """The pattern by which pictures are named after products ("images/{id}.jpg"), if most ids have one.

    The ending is `.*` where pictures of one folder have several.
    """
    wanted = set(product_ids)
    votes: dict[str, set[str]] = {}
    endings: dict[str, set[str]] = {}
    for name in pictures.names():
        stem, ending = os.path.splitext(name)
        folder, slash, last = stem.rpartition("/")
        if last in wanted:
            votes.setdefault(folder + slash, set()).add(last)
            endings.setdefault(folder + slash, set()).add(ending)
    best = max(votes, key=lambda folder: len(votes[folder]), default=None)
    if best is None or 2 * len(votes[best]) < len(wanted):
        return None
    return f"{best}{{id}}{endings[best].pop() if len(endings[best]) == 1 else '.*'}"


class PictureFolder:
    """Pictures below a folder."""

    def __init__(self, where: Path):
        self.where = where
        try:
            self._root = where.resolve(strict=True)
            inside = list(os.scandir(self._root))
        except OSError as error:
            raise StorageError(f"{where} cannot be read: {error.strerror}") from None
        alone = inside[0].name if len(inside) == 1 and inside[0].is_dir() else None
        self._prefixes = ["", *([f"{alone}/"] if alone else [])]

    def find(self, path: str) -> str:
        """See `Pictures.find`; a path may begin with the folder's own name, or leave out its only folder."""
        path = self._below_root(path)
        name = safe_path(path)
        choices = [prefix + name for prefix in self._prefixes]
        if name.startswith(f"{self._root.name}/"):
            choices.append(name.removeprefix(f"{self._root.name}/"))
        for choice in choices:
            if self._is_file(choice):
                return choice
        raise ImageError("missing_image", f"no picture at {path!r} in {self.where}")

    def read(self, name: str) -> bytes:
        """See `Pictures.read`."""
        try:
            place = (self._root / name).resolve(strict=True)
            if not place.is_relative_to(self._root):
                raise ImageError("unsafe_path", f"{name!r} is a link that leads out of {self.where}")
            with place.open("rb") as file:
                data = file.read(LIMITS.max_bytes + 1)
        except OSError as error:
            raise ImageError("missing_image", f"{name!r} cannot be read: {error.strerror}") from None
        return _bounded(name, data)

    def names(self) -> list[str]:
        """See `Pictures.names`; links to folders are not followed."""
        return self._names

    @cached_property
    def _names(self) -> list[str]:
        found = []
        for folder, _, files in os.walk(self._root):
            beyond = os.path.relpath(folder, self._root)
            start = "" if beyond == "." else beyond.replace(os.sep, "/") + "/"
            found += [start + file for file in files if file.lower().endswith(ENDINGS)]
        return sorted(found)

    def _below_root(self, path: str) -> str:
        """An absolute path that lies in the folder, made relative."""
        for root in (str(self._root), str(self.where.absolute())):
            if path.strip().startswith(root + os.sep):
                return path.strip()[len(root) + 1 :]
        return path

    def _is_file(self, name: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self._root / name).st_mode)  # opening a pipe or device would hang
        except (OSError, ValueError):
            return False


class PictureZip:
    """Pictures inside a zip file, unpacked one at a time in memory."""

    def __init__(self, where: Path):
        self.where = where
        try:
            self._zip = zipfile.ZipFile(where)
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            raise DataError(f"{where} is neither a folder nor a whole zip file: check --images") from None
        except OSError as error:
            raise StorageError(f"{where} cannot be read: {error.strerror}") from None
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        self._infos = {info.filename.replace("\\", "/").removeprefix("./"): info for info in infos}
        tops = {name.split("/")[0] for name in self._infos if "/" in name}
        only = len(tops) == 1 and all("/" in name for name in self._infos)
        self._prefixes = ["", *([f"{tops.pop()}/"] if only else [])]

    def find(self, path: str) -> str:
        """See `Pictures.find`; a path may begin with the zip's own name, or leave out its only folder."""
        name = safe_path(path)
        choices = [prefix + name for prefix in self._prefixes]
        if name.startswith(f"{self.where.stem}/"):
            choices.append(name.removeprefix(f"{self.where.stem}/"))
        for choice in choices:
            if choice in self._infos:
                return choice
        raise ImageError("missing_image", f"no picture at {path!r} in {self.where}")

    def read(self, name: str) -> bytes:
        """See `Pictures.read`; the declared size is checked before unpacking, the true size while."""
        info = self._infos[name]
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ImageError("unsafe_path", f"{name!r} in {self.where} is a link")
        if info.file_size > LIMITS.max_bytes:
            raise ImageError(
                "too_many_bytes",
                f"{name!r} unpacks to {info.file_size:,} bytes, more than {LIMITS.max_bytes:,}",
            )
        try:
            with self._zip.open(info) as file:
                data = file.read(LIMITS.max_bytes + 1)
        except _BROKEN as error:
            raise ImageError(
                "broken_file", f"{name!r} cannot be unpacked from {self.where}: {error}"
            ) from None
        return _bounded(name, data)

    def names(self) -> list[str]:
        """See `Pictures.names`."""
        return self._names

    @cached_property
    def _names(self) -> list[str]:
        return sorted(name for name in self._infos if name.lower().endswith(ENDINGS) and _is_safe(name))


def _is_safe(name: str) -> bool:
    try:
        return safe_path(name) == name
    except ImageError:
        return False


def _bounded(name: str, data: bytes) -> bytes:
    if len(data) > LIMITS.max_bytes:
        raise ImageError("too_many_bytes", f"{name!r} has more than {LIMITS.max_bytes:,} bytes: shrink it")
    return data
