"""Random streams that do not disturb each other.

Every consumer asks for a stream by name, so that adding one draw somewhere changes nothing elsewhere, and the
same seed gives the same numbers whatever order the parts run in.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called `names` under the run's `seed`.

    Example:
        >>> seed_of(0, "market", 3) == seed_of(0, "market", 3) != seed_of(0, "market", 4)
        True
    """
    key = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator for the stream called `names` under the run's `seed`."""
    return np.random.default_rng(seed_of(seed, *names))


def hash_share(key: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on `key` and `salt` alone: how splits and arms are assigned."""
    digest = hashlib.blake2b(f"{salt}\x1f{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # 64 bits would round up to 1.0
