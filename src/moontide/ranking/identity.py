"""What decides a training of a click model, as twelve hex digits: a checkpoint of another one is refused."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from moontide.foundation.settings import fingerprint
from moontide.ranking.content import ContentTable
from moontide.ranking.samples import Samples

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
                some = table.stored[:: max(len(table.stored) // LOOKED_AT, 1)]
                seen.append([*table.stored.shape, _sum(some)])
        seen.append(vectors.version)
    return fingerprint([asked, samples.vocabulary.sizes, data, seen])


def _sum(column: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(column).data)
