"""What cells of a study read and leave: the samples of its log, made once, and arrays beside a cell."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.foundation.storage import write_bytes
from moontide.ranking.samples import Samples, SampleSettings, build_samples
from moontide.studies.grid import claim


def samples_at(folder: Path, dataset: Dataset, settings: SampleSettings | None = None) -> Samples:
    """The samples of a dataset's log in `folder`, made by whichever process comes first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claim(folder.with_name(f"{folder.name}.claim"), wait=True):
        if not (folder / "samples.json").exists():
            build_samples(dataset, settings).save(folder)
    return loaded_samples(folder)


def loaded_samples(folder: Path) -> Samples:
    """The samples in `folder`, read once a process."""
    return _loaded(folder, (folder / "samples.json").stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _loaded(folder: Path, stamp: int) -> Samples:
    """Samples as they were written at `stamp`."""
    return Samples.load(folder)


def keep_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into one compressed .npz, whole or not at all."""
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    write_bytes(file, packed.getvalue())
