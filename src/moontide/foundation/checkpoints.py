"""Checkpoints of a training: written whole, the newest two kept, another training's refused, gone at the end.

Files are named so that their order is that of the training; a half-written or broken one is passed over for
the one before.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import torch

from moontide.foundation.errors import CheckpointError
from moontide.foundation.storage import write_bytes

log = logging.getLogger(__name__)
KEPT = 2


def keep(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write a checkpoint whole, then drop all but the newest two.

    Args:
        state: holds "identity", what decides the training's outcome (see `newest`).
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(folder / f"{name}.pt", buffer.getvalue())
    for old in _files(folder)[:-KEPT]:
        old.unlink()


def newest(folder: Path | None, identity: str) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, None without one.

    Raises:
        CheckpointError: it is of a training with other settings or data.
    """
    for file in reversed(_files(folder)):
        try:
            state = torch.load(file, weights_only=True)
        except Exception as error:
            log.warning("checkpoint %s cannot be read (%s): trying the one before", file, error)
            continue
        if state["identity"] != identity:
            raise CheckpointError(
                f"{file} was made with other settings or data: name another run, or delete {folder}"
            )
        return state
    return None


def forget(folder: Path | None) -> None:
    """Remove the checkpoints of a training that has ended."""
    for file in _files(folder):
        file.unlink(missing_ok=True)
    if folder is not None and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def last_of(folder: Path | None) -> str:
    """Where the last checkpoint is, as an error says it."""
    files = _files(folder)
    return f"the last good checkpoint is {files[-1]}" if files else "no checkpoint was written yet"


def _files(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("*.pt")) if folder is not None else []
