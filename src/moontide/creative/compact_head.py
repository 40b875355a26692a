"""The output layer over the few tokens that carry a label, for training on a CPU.

TRL scores every position where Triton is missing, the prompt's and the pictures' among them: for a judge four
fifths of the work of the largest layer, half the time of a step. Here only labeled positions are projected;
the numbers are the same (tested against TRL's own).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from trl.trainer.utils import FusedCausalLMOutput


def compact_head(model: Any, temperature: float = 1.0) -> None:
    """Put the compact output layer in front of the one TRL gave a model; off the CPU nothing changes.

    Args:
        model: a causal language model after a trainer was made around it, adapters or not.
        temperature: the logits are divided by it, as the trainer was told.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    theirs = model.forward

    @functools.wraps(theirs)
    def forward(*args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        weight = model.get_output_embeddings().weight
        labels = kwargs.get("labels")
        if not fused_lm_head or weight.device.type != "cpu" or labels is None:
            return theirs(*args, fused_lm_head=fused_lm_head, **kwargs)
        return _labeled(model, temperature, labels, args, kwargs)

    model.forward = forward


def _labeled(model: Any, temperature: float, labels: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> Any:
    rest = {name: value for name, value in kwargs.items() if name not in ("labels", "num_items_in_batch")}
    states = model.base_model(*args, **{**rest, "use_cache": False}).last_hidden_state[:, :-1]
    target = labels[:, 1:]
    mask = target != -100
    log_p_NV = torch.log_softmax(model.get_output_embeddings()(states[mask]).float() / temperature, dim=-1)
    chosen = log_p_NV.gather(1, target[mask][:, None])[:, 0]
    entropy = -(log_p_NV.detach().exp() * log_p_NV.detach()).sum(-1)
    is_top = log_p_NV.detach().argmax(-1) == target[mask]

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    log_probs = spread(chosen)
    num = kwargs.get("num_items_in_batch")
    loss = -log_probs.sum() / (mask.sum().clamp(min=1) if num is None else num)
    return FusedCausalLMOutput(
        loss=loss, log_probs=log_probs, entropy=spread(entropy), is_top1=spread(is_top), label_mask=mask
    )
