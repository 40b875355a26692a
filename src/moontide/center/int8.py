"""Vectors in one byte a component: a quarter of the bytes to keep and to ship.

The scale is fixed at 1/127, so that codes of different tables and days can be compared without carrying a
scale.
"""

from __future__ import annotations

import numpy as np

from moontide.foundation.errors import DataError

SCALE = 127.0


def encode_int8(vectors: np.ndarray) -> np.ndarray:
    """The int8 codes of unit vectors: round(127 x), component by component.

    Paper: MUSE (Taobao-MM), data card: the scale 1/127 (analog).

    Args:
        vectors: float, (rows, dim), components in [-1, 1].

    Returns:
        int8, same shape; decoding errs by at most 1/254 a component before it is brought back to length one.

    Raises:
        DataError: a component is not a number or lies outside [-1, 1].
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    largest = float(np.abs(vectors).max()) if vectors.size else 0.0
    if not largest <= 1.0 + 1e-4:
        raise DataError(
            f"int8 codes need components between -1 and 1, got {largest}: normalize the vectors first"
        )
    return np.rint(np.clip(vectors, -1.0, 1.0) * SCALE).astype(np.int8)


def decode_int8(codes: np.ndarray, normalize: bool = True) -> np.ndarray:
    """The float32 vectors of int8 codes: code / 127, then brought back to length one.

    Args:
        codes: int8, (rows, dim).
        normalize: False leaves the plain quotient, whose error is at most 1/254 a component.

    Example:
        >>> (1000 * decode_int8(encode_int8(np.array([[0.6, 0.8]])))).round().tolist()
        [[597.0, 802.0]]
    """
    vectors = np.asarray(codes, dtype=np.int8).astype(np.float32) / np.float32(SCALE)
    if not normalize:
        return vectors
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length == 0, 1, length)  # an all-zero code stays zero
