"""Who attends to whom, and where each token stands.

B batch, L tokens. Causal attention is what a generative backbone was trained with; bidirectional attention
lets every token see the whole item. The switch is the mask alone: weights and positions stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

Attention = Literal["bidirectional", "causal"]


def attention_mask(is_real_BL: torch.Tensor, attention: Attention) -> torch.Tensor:
    """Which keys (last axis) each query may see, True means seen; padding is never seen.

    Batches are padded on the right, so that in a causal mask every query, padding too, sees at least token 0.

    Paper: MOON Embedding 3.3: causal attention replaced by bidirectional (paper reported).

    Returns:
        (batch, 1, length, length) bool
    """
    mask = is_real_BL.bool()[:, None, None, :]
    length = is_real_BL.shape[1]
    if attention == "causal":
        return mask & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return mask.expand(-1, 1, length, length)


def rope_positions(is_image_L: np.ndarray, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Time, height and width position of every token, as the Qwen-VL families count them for still pictures.

    Text advances all three by one per token; a picture of (h, w) merged tokens shares one time, and the text
    after it goes on max(h, w) later.

    Args:
        is_image_L: which tokens stand for pictures, in runs of h x w.
        grids: (h, w) of every picture, in order, after merging.

    Returns:
        (3, length) int64
    """
    positions = np.empty((3, len(is_image_L)), dtype=np.int64)
    at = token = 0
    for height, width in grids:
        start = token + int(np.argmax(is_image_L[token:]))
        positions[:, token:start] = at + np.arange(start - token)
        at += start - token
        rows, columns = np.divmod(np.arange(height * width), width)
        end = start + height * width
        positions[:, start:end] = at + np.stack([np.zeros_like(rows), rows, columns])
        at, token = at + max(height, width), end
    positions[:, token:] = at + np.arange(len(is_image_L) - token)
    return positions
