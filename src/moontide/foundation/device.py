"""Which device the models run on, and with how many threads.

PyTorch takes the smaller of the OpenMP and MKL settings, and two processes that each spin on two threads slow
each other down by an order of magnitude: so the number is set here, once, and not left to chance.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moontide.foundation.errors import SettingsError

if TYPE_CHECKING:  # the import takes a second, and commands that only count cores need none of it
    import torch


def pick_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def ranks() -> Generator[int]:
    """Join the processes that `torchrun` started for the length of a block; gives this one's number, else 0.

    Each rank of a machine with several GPUs takes its own. Without torchrun nothing happens.
    """
    import torch
    from torch import distributed

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()


def num_cores() -> int:
    """Cores this process may use; `MOONTIDE_THREADS` overrides it.

    Raises:
        SettingsError: `MOONTIDE_THREADS` is no whole number above 0.
    """
    asked = os.environ.get("MOONTIDE_THREADS")
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise SettingsError(f"MOONTIDE_THREADS must be a whole number above 0, got {asked!r}")
        return int(asked)
    if hasattr(os, "sched_getaffinity"):  # Linux alone tells which cores are ours
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads(num: int | None = None) -> Generator[int]:
    """Run a block with `num` PyTorch threads (default: all cores), then put the old number back."""
    import torch

    before, wanted = torch.get_num_threads(), num or num_cores()
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)
