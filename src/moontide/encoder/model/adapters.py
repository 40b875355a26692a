"""LoRA adapters inside a transformers model, and weights with the adapters folded in."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


def add_adapters(model: Any, rank: int) -> None:
    """Put adapters of `rank` beside every linear layer of the decoder and freeze everything else."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=TARGETS)
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merged_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights under their published names, adapters folded in; the model itself is not touched."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    weights = model.state_dict()
    for name, layer in layers.items():
        delta = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
        weights[f"{name}.base_layer.weight"] = weights[f"{name}.base_layer.weight"] + delta
    return {
        name.replace(".base_layer.", "."): value for name, value in weights.items() if "lora_" not in name
    }
