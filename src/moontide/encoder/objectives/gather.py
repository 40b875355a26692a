"""One batch over several processes: vectors gathered, gradients averaged. Without a process group, one.

Every rank encodes its own rows, gathers everyone's vectors and computes the *same* loss of the whole batch.
So the gradient of a rank's own vectors is whole on that rank, and parameters take the mean over ranks. All
ranks must call these in the same order.

Paper: MOON 3.4, MOON Embedding 3.5, spatial negatives (all-gather paper reported; the gradient's path ours).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

BUCKET_BYTES = 25_000_000  # small gradients travel together, and no copy of all of them is made


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks, rank 0's first, with gradient; ranks may have different numbers of rows.

    Backward gives each rank its own slice of the incoming gradient, times the number of ranks, and sends
    nothing: every rank computes the same loss of all rows, so dL/d(own rows) is complete here. With the
    factor, the mean of all gradients over ranks (`average_gradients`, DDP, FSDP) is that of one process, for
    weights before the gather and behind it alike.
    """
    return rows if world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # one shape for all, as gloo wants it
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.first = sum(sizes[: rank()])
        ctx.num = len(rows)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # ty: ignore[incompatible-method-override]
        return grad[ctx.first : ctx.first + ctx.num] * world_size()


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over ranks; call it after backward, before clipping.

    A parameter without a gradient on some ranks counts as 0 there; without one on all ranks it stays without,
    as in one process, where the optimizer passes it over. In place of the DDP wrapper, whose hooks want one
    backward pass a step: gradient caching takes many.

    Args:
        parameters: those before the gather (the encoder's) and those behind it (temperature, preferences of
            experts) alike. The same on all ranks, in order.
    """
    if world_size() == 1:
        return
    trained = [one for one in parameters if one.requires_grad]
    if not trained:
        return
    has_grad = torch.tensor([one.grad is not None for one in trained], dtype=torch.uint8)
    has_grad = has_grad.to(trained[0].device)
    dist.all_reduce(has_grad, dist.ReduceOp.MAX)
    moved = [one for one, has in zip(trained, has_grad.tolist(), strict=True) if has]
    for bucket in _buckets(moved):
        grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= world_size()
        for one, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
            one.grad = part.view_as(one).clone()


def _buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Runs of parameters of one type and at most `BUCKET_BYTES`, one at least."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for one in parameters:
        num_bytes = one.numel() * one.element_size()
        if not buckets or size + num_bytes > BUCKET_BYTES or buckets[-1][0].dtype != one.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(one)
        size += num_bytes
    return buckets
