"""The three places where later systems add to the encoder; empty, they change nothing.

    experts    beside the feed-forward block of every decoder layer:
               experts(layer, input_BLD, output_BLD, features) -> (B, L, D), in place of the block's output
    residual   behind every decoder layer: residual(layer, states_BLD, features) -> (B, L, D)
    fusion     behind pooling: fusion(pooled_BD, features) -> (B, D')

`features` holds the batch: `token_kinds` (what each token says, see `inputs.KINDS`), `attention_mask`,
positions, `visual_states` (output of the vision tower, in order). A slot module is a sentence-transformers
`Module` of this package: it saves and loads itself, and travels in the model's folder.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from sentence_transformers.base.modules import Module
from torch import nn

from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.foundation.storage import read_json, write_json

SLOTS = ("experts", "fusion", "residual")


def hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those arguments of a sentence-transformers `load` that say how to reach the Hub."""
    names = ("token", "cache_folder", "revision", "local_files_only")
    return {name: kwargs[name] for name in names if name in kwargs}


class SlotModule(Module):
    """A slot's module that saves its settings and weights, and loads them as they were."""

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        os.makedirs(output_path, exist_ok=True)
        self.save_config(output_path)
        self.save_torch_weights(output_path)

    @classmethod
    def load(  # ty: ignore[incompatible-method-override]  upstream's other parameters do not matter here
        cls, model_name_or_path: str, **_: Any
    ) -> Self:
        module = cls(**cls.load_config(model_name_or_path))
        cls.load_torch_weights(model_name_or_path, model=module)
        return module


def save_slot(module: object, folder: str) -> None:
    """Save a slot's module with the name of its class; an empty slot leaves no folder."""
    if module is None:
        return
    if not isinstance(module, Module) or not type(module).__module__.startswith("moontide."):
        raise SettingsError(
            f"a slot's module must be a moontide Module to be saved, got {type(module).__name__}"
        )
    os.makedirs(folder, exist_ok=True)
    module.save(folder)
    write_json(Path(folder) / "slot.json", {"type": f"{type(module).__module__}.{type(module).__name__}"})


def load_slot(folder: str) -> Any:
    """The module saved in `folder`, of whatever class it names, or None.

    Raises:
        CheckpointError: the folder names a class that is not this package's.
    """
    file = Path(folder) / "slot.json"
    if not file.exists():
        return None
    module, _, name = read_json(file)["type"].rpartition(".")
    if not module.startswith("moontide."):
        raise CheckpointError(f"{file} names {module}.{name}, which is no part of moontide: it is not loaded")
    return getattr(importlib.import_module(module), name).load(folder)


class LayerSlots:
    """Applies `experts` and `residual` inside the decoder by forward hooks; made once per backbone.

    `features` is set around each forward: hooks have no other way to see the batch. The hooks are bound, not
    closures: a deep copy of a backbone has hooks of its own.
    """

    def __init__(self, layers: Iterable[Any], owner: Any):
        self._owner, self.features = owner, None
        for number, layer in enumerate(layers):
            layer.mlp.register_forward_hook(partial(self._experts, number))
            layer.register_forward_hook(partial(self._residual, number))

    def _experts(self, number: int, _: nn.Module, given: tuple, output: torch.Tensor) -> torch.Tensor | None:
        experts = self._owner.experts
        return None if experts is None else experts(number, given[0], output, self.features)

    def _residual(self, number: int, _: nn.Module, __: tuple, output: torch.Tensor) -> torch.Tensor | None:
        residual = self._owner.residual
        return None if residual is None else residual(number, output, self.features)
