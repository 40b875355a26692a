"""Multi-head modality fusion: what was written, seen and read, weighed head by head.

B batch, L tokens, D width, H heads, K width of a head.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from moontide.encoder.model.inputs import KINDS
from moontide.encoder.model.slots import SlotModule

IMAGE = KINDS.index("image")
TEXTS = tuple(KINDS.index(kind) for kind in KINDS if kind not in ("special", "image"))


class ModalityFusion(SlotModule):
    """Adds raw picture and text to the state at `<emb>`, which long reasoning dilutes.

        e_k = W_e^k e;  o_k^v = Attn(W_q^k e, W_K^k,v H_v, W_V^k,v H_v);  o_k^t likewise over H_t
        g_e, g_v, g_t = softmax(U_k [e_k ; o_k^v ; o_k^t] + b_k), an absent modality having logit -inf
        f = [f_1 ; ... ; f_H],  f_k = g_e e_k + g_v o_k^v + g_t o_k^t

    The projection W_o is the encoder's last module. W_V, U and b start at zero: every gate is equal and the
    direction is that of the plain state.

    Args:
        width: D of the states.
        visual: H_v is what the vision tower gave, or the last states at image positions.
        text: H_t is the last states at text positions, or their input embeddings.

    Paper: MOON3.0 3.2 (paper reported that it exists; formula ours).
    """

    config_keys = ["width", "heads", "head_width", "visual", "text"]

    def __init__(
        self,
        width: int,
        heads: int = 8,
        head_width: int = 64,
        visual: Literal["projector", "states"] = "projector",
        text: Literal["states", "embeddings"] = "states",
    ):
        super().__init__()
        self.width, self.heads, self.head_width, self.visual, self.text = (
            width, heads, head_width, visual, text,
        )  # fmt: skip
        size = heads * head_width
        names = ("emb", "query_visual", "query_text", "key_visual", "key_text", "value_visual", "value_text")
        self.maps = nn.ModuleDict({name: nn.Linear(width, size, bias=False) for name in names})
        for name, linear in self.maps.items():
            assert isinstance(linear, nn.Linear)
            if name.startswith("value"):
                nn.init.zeros_(linear.weight)
            else:
                nn.init.normal_(linear.weight, std=width**-0.5)
        self.gate = nn.Parameter(torch.zeros(heads, 3, 3 * head_width))
        self.gate_bias = nn.Parameter(torch.zeros(heads, 3))

    def forward(  # ty: ignore[incompatible-method-override]  a slot's module is given two things
        self, pooled_BD: torch.Tensor, features: dict[str, Any]
    ) -> torch.Tensor:
        """(B, H x K) of states at `<emb>`; `features["gates"]` becomes (B, 3), the mean over heads."""
        states_BLD = features["token_embeddings"].float()
        kinds_BL, is_real_BL = features["token_kinds"], features["attention_mask"].bool()
        is_image_BL = is_real_BL & (kinds_BL == IMAGE)
        texts = torch.tensor(TEXTS, device=kinds_BL.device)
        is_text_BL = is_real_BL & torch.isin(kinds_BL, texts)
        seen_BLD = read_BLD = states_BLD
        if self.visual == "projector" and "visual_states" in features:
            visual = features["visual_states"].float()
            seen_BLD = torch.zeros_like(states_BLD).masked_scatter(is_image_BL.unsqueeze(-1), visual)
        if self.text == "embeddings":
            read_BLD = features["text_embeddings"].float()
        emb_BHK = self._heads("emb", pooled_BD)
        visual_BHK = self._attend("visual", pooled_BD, seen_BLD, is_image_BL)
        text_BHK = self._attend("text", pooled_BD, read_BLD, is_text_BL)
        three_BH3K = torch.stack((emb_BHK, visual_BHK, text_BHK), 2)
        logit_BH3 = torch.einsum("bhk,hgk->bhg", three_BH3K.flatten(2), self.gate) + self.gate_bias
        has_B3 = torch.stack((torch.ones_like(is_image_BL[:, 0]), is_image_BL.any(1), is_text_BL.any(1)), 1)
        gate_BH3 = logit_BH3.masked_fill(~has_B3[:, None], -torch.inf).softmax(-1)
        features["gates"] = gate_BH3.mean(1)
        return (gate_BH3.unsqueeze(-1) * three_BH3K).sum(2).flatten(1)

    def _heads(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.maps[name](x).unflatten(-1, (self.heads, self.head_width))

    def _attend(
        self, name: str, query_BD: torch.Tensor, keys_BLD: torch.Tensor, is_seen_BL: torch.Tensor
    ) -> torch.Tensor:
        """(B, H, K), 0 where there is nothing to see."""
        query_BHK = self._heads(f"query_{name}", query_BD)
        key_BLHK, value_BLHK = self._heads(f"key_{name}", keys_BLD), self._heads(f"value_{name}", keys_BLD)
        score_BHL = torch.einsum("bhk,blhk->bhl", query_BHK, key_BLHK) * self.head_width**-0.5
        score_BHL = score_BHL.masked_fill(~is_seen_BL[:, None], torch.finfo(score_BHL.dtype).min)
        weight_BHL = score_BHL.softmax(-1) * is_seen_BL[:, None]
        return torch.einsum("bhl,blhk->bhk", weight_BHL, value_BLHK)

    def get_embedding_dimension(self) -> int:
        return self.heads * self.head_width
