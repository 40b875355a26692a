"""Checkpoints of a training: written whole, the newest two kept, another training's refused, gone at the end.

Files are named so that their order is that of the training; a half-written or broken one is passed over for
the one before.
"""

from __future__ import annotations

import io
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moontide.foundation.errors import CheckpointError
from moontide.foundation.settings import fingerprint
from moontide.foundation.storage import write_bytes
from moontide.ranking.content import ContentTable
from moontide.ranking.samples import Samples

log = logging.getLogger(__name__)
KEPT = 2
LOOKED_AT = 1_000  # vectors of a table


def identity_of(samples: Samples, vectors: ContentTable | None, asked: Any) -> str:
    """Twelve hex digits of everything that decides a training: settings, samples, vectors.

    Args:
        asked: settings and seed, as JSON can hold them.
    """
    columns = ("at", "shopper", "query", "product", "position", "label", "is_test", "behavior_end")
    data = [_sum(getattr(samples, name)) for name in columns]
    data += [_sum(samples.behavior_product), len(samples), len(samples.train_rows), samples.cutoff_ms]
    seen: list[Any] = []
    if vectors is not None:
        for table in (vectors.product, vectors.query, vectors.creative):
            if table is not None:
                some = table.vectors[:: max(len(table.vectors) // LOOKED_AT, 1)]
                seen.append([*table.vectors.shape, _sum(some)])
        seen.append(vectors.version)
    return fingerprint([asked, samples.vocabulary.sizes, data, seen])


def keep(folder: Path, name: str, state: dict[str, Any]) -> None:
    """Write a checkpoint whole, then drop all but the newest two."""
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
                f"{file} belongs to other settings or data: name another run, or delete {folder}"
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
    return sorted(folder.glob("?-*.pt")) if folder is not None else []


def _sum(column: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(column).data)
