"""A run folder: what was asked, what was measured, and where an interrupted run goes on.

    RUN/
      run.json            recipe, settings, seed, commit and dirty flag, versions, device
      metrics.jsonl       one line per logged step: {"stage": ..., "step": ..., name: value, ...}
      stages/NAME.json    written when a stage has ended: its results; the stage is not run again
      checkpoints/NAME/   what a stage needs to go on in the middle
      report.html

Studies read these files, never a log.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from moontide.foundation.errors import CheckpointError, StorageError
from moontide.foundation.settings import fingerprint
from moontide.foundation.storage import read_json, storage_errors, write_bytes, write_json

PACKAGES = ("moontide", "torch", "transformers", "sentence-transformers", "numpy", "lancedb", "faiss-cpu")


class Run:
    """One run on disk. Use `Run.start` to begin or resume, `Run.open` to read."""

    def __init__(self, path: Path, facts: dict[str, Any]):
        self.path, self.facts = path, facts

    @classmethod
    def start(
        cls, path: Path | str, recipe: str, settings: dict[str, Any], seed: int, device: str = "cpu"
    ) -> Run:
        """Begin a run, or go on with the one at `path` if recipe, settings and seed are the same.

        Raises:
            CheckpointError: `path` holds another run, or something that is no run.
            StorageError: the folder cannot be written.
        """
        path = Path(path)
        asked = {"recipe": recipe, "settings": settings, "seed": seed}
        asked = json.loads(json.dumps(asked, default=str))
        if (path / "run.json").exists():
            run = cls.open(path)
            changed = _differences(run.facts, asked)
            if changed:
                raise CheckpointError(
                    f"{path} holds a run with other settings ({changed}): name another folder, or delete it"
                )
            return run
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CheckpointError(f"{path} is not empty and holds no run: name another folder")
        facts = {
            **asked,
            "device": device,
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **_surroundings(),
        }
        write_json(path / "run.json", facts)
        return cls(path, facts)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Read a run.

        Raises:
            CheckpointError: there is no run at `path`, or its run.json is broken.
        """
        path = Path(path)
        if not (path / "run.json").exists():
            raise CheckpointError(f"no run at {path}: run `moontide demo` or `moontide run` first")
        try:
            facts = read_json(path / "run.json")
        except StorageError as error:
            raise CheckpointError(f"the run at {path} is broken ({error})") from None
        if not isinstance(facts, dict):
            raise CheckpointError(f"the run at {path} is broken (run.json is no object): name another folder")
        return cls(path, facts)

    def log(self, stage: str, step: int, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        line = json.dumps({"stage": stage, "step": step, **values}, default=float)
        with storage_errors(self.path), (self.path / "metrics.jsonl").open("a+b") as file:
            file.seek(max(file.tell() - 1, 0))
            if file.read(1) not in (b"", b"\n"):  # a line cut by a crash must not swallow this one
                file.write(b"\n")
            file.write(line.encode() + b"\n")

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """The logged lines, of one stage or of all; a last line cut by a crash is left out."""
        file = self.path / "metrics.jsonl"
        rows = []
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return [row for row in rows if stage in (None, row["stage"])]

    def rewind(self, stage: str, step: int) -> None:
        """Drop the lines of `stage` after `step`, when it goes on from a checkpoint of that step."""
        kept = [row for row in self.metrics() if row["stage"] != stage or row["step"] <= step]
        write_bytes(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept).encode())

    def results(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left, or None if it has not ended."""
        file = self.path / "stages" / f"{stage}.json"
        return read_json(file) if file.exists() else None

    def finish(self, stage: str, results: dict[str, Any]) -> dict[str, Any]:
        """Mark a stage as ended and keep its results."""
        write_json(self.path / "stages" / f"{stage}.json", results)
        return results

    def checkpoints(self, stage: str) -> Path:
        """The folder for a stage's checkpoints."""
        return self.path / "checkpoints" / stage


def _differences(old: dict[str, Any], asked: dict[str, Any]) -> str:
    names = []
    for key, value in asked.items():
        if fingerprint(old.get(key)) == fingerprint(value):
            continue
        if isinstance(value, dict):
            before = old.get(key) or {}
            inner = sorted(name for name in {*value, *before} if value.get(name) != before.get(name))
            names.append(f"{key}: {', '.join(inner)}")
        else:
            names.append(f"{key} was {old.get(key)!r}, asked {value!r}")
    return "; ".join(names)


def _surroundings() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **_commit(),
    }


def _commit() -> dict[str, Any]:
    def git(*words: str) -> str:
        folder = Path(__file__).parent
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if not git("ls-files", Path(__file__).name):  # installed in a folder of someone else's repository
            return {"commit": None, "dirty": None}
        return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.TimeoutExpired):
        return {"commit": None, "dirty": None}
