"""Which versions of the vectors a center has, and which one is served.

    CENTER/versions/NAME.json   dimension and encoder fingerprint of one version, written once
    CENTER/active.json          the served version and the ones before it; replaced whole, by renaming

Readers see the old file or the new one, never half of either: this is what makes a swap of versions atomic.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.storage import read_json, write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LOCK = threading.Lock()  # read-modify-write of the two files; other processes see whole files either way


@dataclass(frozen=True)
class VersionFacts:
    """What is fixed for one version: width of its vectors, its encoder (None: unknown), and when it began."""

    version: str
    dim: int
    fingerprint: str | None
    created_at: str


class VersionBook:
    """The versions of a center and the pointer to the active one."""

    def __init__(self, folder: Path):
        self._folder, self._pointer = folder / "versions", folder / "active.json"

    def names(self) -> list[str]:
        """All versions, oldest first."""
        facts = [VersionFacts(**read_json(file)) for file in self._folder.glob("*.json")]
        return [fact.version for fact in sorted(facts, key=lambda fact: (fact.created_at, fact.version))]

    def facts(self, version: str) -> VersionFacts:
        """What is known of `version`.

        Raises:
            CheckpointError: the center has no such version.
        """
        file = self._folder / f"{checked_version(version)}.json"
        if not file.exists():
            known = ", ".join(self.names()) or "none"
            raise CheckpointError(
                f"the center has no version {version!r} (it has: {known}): run `moontide embed` first"
            )
        return VersionFacts(**read_json(file))

    def register(self, version: str, dim: int, fingerprint: str | None = None) -> VersionFacts:
        """Note a version before its first vector; noting it again with the same facts changes nothing.

        Raises:
            CheckpointError: the version exists with another dimension or from another encoder.
        """
        with _LOCK:
            file = self._folder / f"{checked_version(version)}.json"
            if not file.exists():
                write_json(file, asdict(VersionFacts(version, dim, fingerprint, self._now())))
            old = VersionFacts(**read_json(file))
            if old.fingerprint is None and fingerprint is not None and old.dim == dim:
                old = VersionFacts(version, dim, fingerprint, old.created_at)
                write_json(file, asdict(old))
        if old.dim != dim:
            raise CheckpointError(
                f"version {version!r} has vectors of {old.dim} numbers, got {dim}: name another version"
            )
        if fingerprint is not None and old.fingerprint != fingerprint:
            raise CheckpointError(
                f"version {version!r} was made by encoder {old.fingerprint}, this one is {fingerprint}: "
                "vectors of two encoders cannot be compared, name another version"
            )
        return old

    def forget(self, version: str) -> None:
        """Remove the note of a version whose vectors are gone."""
        (self._folder / f"{checked_version(version)}.json").unlink(missing_ok=True)

    def active(self) -> str | None:
        """The served version, or None before the first activation."""
        return self._read()["active"]

    def previous(self) -> list[str]:
        """The versions served before the active one, the latest last."""
        return self._read()["previous"]

    def activate(self, version: str) -> None:
        """Serve `version` from now on, in one step; the one served before can be had back by `rollback`."""
        self.facts(version)
        with _LOCK:
            now = self._read()
            if now["active"] == version:
                return
            before = [name for name in now["previous"] if name != version]
            before += [now["active"]] if now["active"] else []
            write_json(self._pointer, {"active": version, "previous": before})

    def rollback(self) -> str:
        """Serve the version before the active one again; gives its name.

        Raises:
            CheckpointError: there is none.
        """
        with _LOCK:
            now = self._read()
            if not now["previous"]:
                raise CheckpointError(
                    f"no version was served before {now['active']!r}: activate one by its name"
                )
            *before, version = now["previous"]
            write_json(self._pointer, {"active": version, "previous": before})
        return version

    def _now(self) -> str:
        """This moment, after that of every version there is, whatever the clock was set back to."""
        now = _stamp(time.time_ns())
        latest = max((self.facts(name).created_at for name in self.names()), default="")
        return now if now > latest else f"{latest}+"

    def _read(self) -> dict:
        if not self._pointer.exists():
            return {"active": None, "previous": []}
        return read_json(self._pointer)


def _stamp(moment_ns: int) -> str:
    """UTC, to the nanosecond, of one reading of the clock; later moments sort later."""
    seconds, rest = divmod(moment_ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def checked_version(version: str) -> str:
    """`version` if it is one usable name.

    Raises:
        DataError: several versions at once, or a name that cannot be a file's.
    """
    if not isinstance(version, str):
        raise DataError(f"one version at a time, got {version!r}: vectors of two versions cannot be compared")
    if not _NAME.fullmatch(version):
        raise DataError(
            f"a version's name is letters, digits, dots, dashes and underscores, got {version!r}: rename it"
        )
    return version
