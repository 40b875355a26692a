"""Which device the models run on, and with how many threads.

PyTorch takes the smaller of the OpenMP and MKL settings, and two processes that each spin on two threads slow
each other down by an order of magnitude: so the number is set here, once, and not left to chance.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch


def pick_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def num_cores() -> int:
    """Cores this process may use; `MOONTIDE_THREADS` overrides it."""
    return int(os.environ.get("MOONTIDE_THREADS") or len(os.sched_getaffinity(0)))


@contextmanager
def threads(num: int | None = None) -> Generator[int]:
    """Run a block with `num` PyTorch threads (default: all cores), then put the old number back."""
    before, wanted = torch.get_num_threads(), num or num_cores()
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)
