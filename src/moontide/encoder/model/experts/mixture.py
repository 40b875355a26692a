"""What all mixtures of experts share: routing, sparse dispatch, the figures that losses need, folders.

    g = softmax(W_r x),  y = sum_{k in topK(g)} g~_k f_k(x),  g~ = g renormalized over the top K

Expert 0 is the decoder's own dense block, whose output the slot is given: it runs on all tokens anyway, the
module holds the others. All begin as copies of it, so that y is the dense output whatever the router says.
B batch, L tokens, T tokens of all rows together, D width, E routed experts, K routed experts of a token,
C all experts of a token, N dispatched tokens.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import nn

from moontide.encoder.model.backbone import Backbone
from moontide.encoder.model.experts.expert import Expert, ExpertShape
from moontide.encoder.model.inputs import KINDS
from moontide.encoder.model.slots import hub_arguments
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings

ROUTER_STD = 0.02  # zero would always break ties for the same experts: the others never learn (moon.md 3.3)


class ExpertLayer(nn.Module):
    """The routers and copies of one decoder layer; `routers` go by name, "router" among them.

    Args:
        routers: rows of each router.
    """

    def __init__(self, shape: ExpertShape, num_copies: int, routers: dict[str, int]):
        super().__init__()
        self.experts = nn.ModuleList(Expert(shape) for _ in range(num_copies))
        self.routers = nn.ModuleDict(
            {name: nn.Linear(shape.width, rows, bias=False) for name, rows in routers.items()}
        )

    @torch.no_grad()
    def copy_(self, mlp: nn.Module, number: int, seed: int) -> None:
        """Make all experts copies of a block and all routers normal(0, 0.02)."""
        self.experts = nn.ModuleList(Expert.like(mlp) for _ in self.experts)
        device = next(mlp.parameters()).device
        for name, router in self.routers.items():
            assert isinstance(router, nn.Linear)
            shape = (router.out_features, router.in_features)
            values = stream(seed, "experts", name, number).normal(0, ROUTER_STD, shape)
            router.weight = nn.Parameter(torch.from_numpy(values).float().to(device))

    def logits(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        """Logits of a router, always in single precision: in half, near ties would go by chance."""
        router = self.routers[name]
        assert isinstance(router, nn.Linear)
        with torch.autocast(x_TD.device.type, enabled=False):
            return F.linear(x_TD.float(), router.weight.float())

    def forward(
        self, x_TD: torch.Tensor, dense_TD: torch.Tensor, ids_TC: torch.Tensor, weight_TC: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sum of the chosen experts' outputs, each run on its own tokens only.

        Every expert is called, on zero rows if need be: its parameters then have a gradient, as training over
        ranks wants.

        Args:
            dense_TD: output of expert 0.
            ids_TC: experts of every token.
            weight_TC: how much of each.
        """
        of_dense_T1 = (weight_TC * (ids_TC == 0)).sum(1, keepdim=True)
        base_TD = dense_TD * of_dense_T1.to(dense_TD.dtype)
        expert, order = ids_TC.flatten().sort(stable=True)
        num_dense, *nums = expert.bincount(minlength=1 + len(self.experts)).tolist()
        order_N = order[num_dense:]
        token_N = order_N // ids_TC.shape[1]
        rows = x_TD.index_select(0, token_N).split(nums)
        output_ND = torch.cat([one(row) for one, row in zip(self.experts, rows, strict=True)])
        weight_N1 = weight_TC.flatten().index_select(0, order_N).unsqueeze(1)
        return base_TD.index_add(0, token_N, (output_ND * weight_N1).to(base_TD.dtype))


class Mixture(Module):
    """Experts in some layers of a decoder, for its `experts` slot.

    Called as (layer, input_BLD, output_BLD, features), it gives the layer's new output, and appends to
    `features["routing"]` (B, 3, E):

        [:, 0]  mean over the routed tokens of the renormalized top-K gates; sums to 1 over E
        [:, 1]  sum over the routed tokens of the router's probabilities
        [:, 2]  routed tokens sent to each expert, divided by K; without gradient

    Padding is neither routed nor counted; a row without any routed token has zeros.
    """

    settings_type: ClassVar[type[Settings]]

    def __init__(self, settings: Any, shape: ExpertShape, num_layers: int):
        super().__init__()
        self.settings, self.shape, self.num_layers = settings, shape, num_layers
        self.layers = nn.ModuleDict({str(number): self.new_layer() for number in self.layer_numbers()})

    @classmethod
    def of(cls, backbone: Backbone, settings: Any, seed: int) -> Self:
        """Experts that copy the blocks of a backbone; in the slot, they leave its vectors as they are.

        Raises:
            SettingsError: the backbone's blocks are not gated.
        """
        blocks = [layer.mlp for layer in backbone.language.layers]
        with torch.device("meta"):
            mixture = cls(settings, ExpertShape.of(blocks[0]), len(blocks))
        for number, layer in mixture.layers.items():
            assert isinstance(layer, ExpertLayer)
            layer.copy_(blocks[int(number)], int(number), seed)
        return mixture

    # --- what the kinds of mixture differ in ------------------------------------------------------------

    @abstractmethod
    def layer_numbers(self) -> Iterable[int]:
        """Layers with experts, the last one always among them."""

    @abstractmethod
    def new_layer(self) -> ExpertLayer:
        """One of them."""

    def designated(
        self, layer: ExpertLayer, x_TD: torch.Tensor, kind_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """How much of the routed experts each token takes (0: it is not routed), and what it takes besides.

        Returns:
            share_T, and ids and weights of designated experts (T, any number), 0 and 0 where there is none
        """
        none_T0 = x_TD.new_zeros((len(x_TD), 0), dtype=torch.float32)
        return torch.ones_like(kind_T, dtype=torch.float32), none_T0.long(), none_T0

    # --- the slot ---------------------------------------------------------------------------------------

    def forward(  # ty: ignore[incompatible-method-override]  a slot's protocol
        self, layer: int, input_BLD: torch.Tensor, output_BLD: torch.Tensor, features: dict[str, Any]
    ) -> torch.Tensor:
        if str(layer) not in self.layers:
            return output_BLD
        part = self.layers[str(layer)]
        assert isinstance(part, ExpertLayer)
        x_TD, is_real_T = input_BLD.flatten(0, 1), features["attention_mask"].flatten().bool()
        kind_T = features["token_kinds"].flatten().masked_fill(~is_real_T, KINDS.index("special"))
        share_T, own_ids, own_weight = self.designated(part, x_TD, kind_T)
        logit_TE = part.logits("router", x_TD)
        top_TK, ids_TK = logit_TE.topk(self.settings.top)
        gate_TK = top_TK.softmax(-1)
        is_routed_T = is_real_T & (share_T > 0)
        # padding: all of its gates on the dense block, whose output it keeps
        ids_TC = torch.cat((ids_TK.masked_fill(~is_routed_T.unsqueeze(1), 0), own_ids), 1)
        weight_TC = torch.cat((gate_TK * share_T.unsqueeze(1), own_weight), 1)
        mixed_TD = part(x_TD, output_BLD.flatten(0, 1), ids_TC, weight_TC)
        routing = _figures(logit_TE, ids_TK, gate_TK, is_routed_T.view(input_BLD.shape[:2]))
        features.setdefault("routing", []).append(routing)
        return mixed_TD.view_as(output_BLD)

    # --- folders ----------------------------------------------------------------------------------------

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "shape": asdict(self.shape),
            "num_layers": self.num_layers,
        }

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        os.makedirs(output_path, exist_ok=True)
        self.save_config(output_path)
        self.save_torch_weights(output_path)

    @classmethod
    def load(  # ty: ignore[incompatible-method-override]  upstream's other parameters are in kwargs
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> Self:
        hub = hub_arguments(kwargs)
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        settings, shape = cls.settings_type(**config["settings"]), ExpertShape(**config["shape"])
        with torch.device("meta"):
            mixture = cls(settings, shape, config["num_layers"])
        weights = cls.load_torch_weights(model_name_or_path, subfolder=subfolder, **hub)
        copies = {name: weight.clone() for name, weight in weights.items()}  # views of a file that may change
        mixture.load_state_dict(copies, assign=True)
        return mixture


def _figures(
    logit_TE: torch.Tensor, ids_TK: torch.Tensor, gate_TK: torch.Tensor, is_routed_BL: torch.Tensor
) -> torch.Tensor:
    """(B, 3, E), see `Mixture`."""
    none_TE, share_TK = torch.zeros_like(logit_TE), torch.full_like(gate_TK, 1 / ids_TK.shape[1])
    figures_T3E = torch.stack(
        (none_TE.scatter(1, ids_TK, gate_TK), logit_TE.softmax(-1), none_TE.scatter(1, ids_TK, share_TK)), 1
    )
    figures_BL3E = figures_T3E.view(*is_routed_BL.shape, 3, -1)
    total_B3E = (figures_BL3E * is_routed_BL[..., None, None]).sum(1)  # autocast halves an einsum's counts
    num_B11 = is_routed_BL.sum(1).clamp(min=1).view(-1, 1, 1)
    return torch.cat((total_B3E[:, :1] / num_B11, total_B3E[:, 1:]), 1)
