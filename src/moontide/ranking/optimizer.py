"""Optimizers of a click model: layers, tables and large tables; their rates; their gradients over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from moontide.encoder.objectives.gather import average_gradients, world_size
from moontide.ranking.models import ClickModel

if TYPE_CHECKING:
    from moontide.ranking.fit import TrainSettings


def new_optimizers(
    model: ClickModel, names: frozenset[str], training: TrainSettings
) -> list[torch.optim.Optimizer]:
    """AdamW in two groups, layers and what sees few inputs at a time; SparseAdam for tables that are large.

    A dense step costs time for every row of a table, a sparse one only for the rows of the batch; there a
    row's moments stand still while it is not seen.
    """
    quick = model.quick_parameters()
    layers: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    large: list[nn.Parameter] = []
    is_large = mark_sparse(model, training.sparse_rows)
    for name, weight in model.named_parameters():
        if name in names:
            (large if name in is_large else tables if name in quick else layers).append(weight)
    groups = [
        {"params": layers, "lr": training.dense_lr, "weight_decay": training.weight_decay},
        {"params": tables, "lr": training.embedding_lr, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], fused=True)
    ]
    if large:
        optimizers.append(torch.optim.SparseAdam(large, lr=training.embedding_lr))
    return optimizers


def mark_sparse(model: ClickModel, least: int | None) -> set[str]:
    """Have tables of at least `least` rows give sparse gradients, others dense ones; gives their names."""
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.startswith("tables."):
            module.sparse = least is not None and module.num_embeddings >= least
            if module.sparse:
                names.add(f"{name}.weight")
    return names


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rates at a step: a rise over the first steps, then straight down to a tenth."""
    rise = max(int(steps * warmup), 1)
    if step < rise:
        return (step + 1) / rise
    return 1 - 0.9 * (step - rise) / max(steps - rise, 1)


def set_rates(optimizers: list[torch.optim.Optimizer], rates: list[list[float]], share: float) -> None:
    """Give every group its learning rate times `share`."""
    for optimizer, own in zip(optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = rate * share


def average(optimizers: list[torch.optim.Optimizer]) -> None:
    """Replace gradients by their mean over ranks, sparse ones too (which gloo can, NCCL cannot)."""
    if world_size() == 1:
        return
    for optimizer in optimizers:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if not isinstance(optimizer, torch.optim.SparseAdam):
            average_gradients(weights)
            continue
        for weight in weights:
            grad = torch.zeros_like(weight).to_sparse() if weight.grad is None else weight.grad.coalesce()
            dist.all_reduce(grad)
            weight.grad = grad.coalesce() / world_size()


@torch.no_grad()
def start_anew(
    model: ClickModel,
    names: frozenset[str],
    start: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
) -> None:
    """Put weights back to where the training began, and forget their moments: the multi-epoch trick of ids.

    Paper: analog EST: at each epoch sparse parameters go back to the starting checkpoint, dense ones go on.
    That the moments are forgotten, too, is ours.
    """
    for name, weight in model.named_parameters():
        if name in names:
            weight.copy_(start[name])
            for optimizer in optimizers:
                optimizer.state.pop(weight, None)
