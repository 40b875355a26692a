"""Published vectors on their way into a content table: gathered by code in a file, not in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moontide.ranking.content import ContentTable, VectorTable


class VectorSink:
    """A matrix by product code, filled in any order, with a last row of zeros.

    int8 codes (scale 1/127) stay as they are: a content table decodes what it takes and brings it to unit
    norm, which that of the published ones is not (0.966 in the mean). Others become float16 of unit norm.

    Args:
        file: where the matrix lies until it is saved. num: products. dim: numbers of a vector.
        kind: of the source's numbers.
    """

    def __init__(self, file: Path, num: int, dim: int, kind: type = np.float32):
        self.is_coded = kind is np.int8
        stored = np.int8 if self.is_coded else np.float16
        self.matrix = np.lib.format.open_memmap(file, "w+", stored, (num + 1, dim))
        self.present = np.zeros(num + 1, bool)

    def put(self, codes: np.ndarray, vectors: np.ndarray) -> None:
        """Keep the vectors of some codes; one of zeros, or with a number that is not finite, is missing."""
        norm = np.linalg.norm(vectors.astype(np.float32), axis=1)
        good = np.isfinite(norm) & (norm > 0)
        held = vectors[good] if self.is_coded else vectors[good] / norm[good, None]
        self.matrix[codes[good]] = held
        self.present[codes[good]] = True

    def table(self, version: str) -> ContentTable:
        """The content table of what was put."""
        return ContentTable(VectorTable(self.matrix, self.present, version), version=version)
