"""The vision tower, once per picture: a batched pass for the Qwen3-VL family, the upstream pass for the
others.

Upstream runs one attention per picture and layer. Pictures of one size fit in one tensor, which on a CPU is
several times faster for small ones; the pass below uses the upstream weights and is tested against the
upstream pass. N patches of all pictures, I pictures, P patches of one, D width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids


@dataclass(frozen=True)
class Sight:
    """What the vision tower makes of distinct pictures.

    Args:
        layers: visual tokens, then the deep-stack features, (T, D) each, pictures one after the other.
        lengths: visual tokens of each picture.
    """

    layers: tuple[torch.Tensor, ...]
    lengths: tuple[int, ...]

    def of(self, numbers: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """The layers of these pictures, in this order; a picture may occur many times."""
        if list(numbers) == list(range(len(self.lengths))):
            return self.layers
        starts = np.concatenate(([0], np.cumsum(self.lengths)))
        rows = [np.arange(starts[number], starts[number + 1]) for number in numbers]
        index = torch.from_numpy(np.concatenate(rows)).to(self.layers[0].device)
        return tuple(layer.index_select(0, index) for layer in self.layers)

    @classmethod
    def join(cls, parts: Sequence[Sight]) -> Sight:
        """The pictures of several parts, one after the other."""
        layers = tuple(torch.cat(column) for column in zip(*(part.layers for part in parts), strict=True))
        return cls(layers, tuple(length for part in parts for length in part.lengths))


def patchify(pixels: np.ndarray, patch: int, merge: int) -> np.ndarray:
    """Cut a picture into patches in the order of the Qwen processors: block by block of merge x merge
    patches.

    Args:
        pixels: (height, width, 3) uint8, sides multiples of patch x merge.

    Returns:
        (patches, 3 * patch * patch) uint8; the processors' second, equal frame is left to `see`.
    """
    height, width, _ = pixels.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    blocks = pixels.reshape(rows, merge, patch, columns, merge, patch, 3)
    return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * patch * patch)


def see(
    visual: Any, patches: torch.Tensor, grids: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Visual tokens of all pictures, and the deep-stack features that some decoder layers add.

    Args:
        visual: the vision tower of a Qwen-VL model.
        patches: (N, 3 * patch * patch) uint8, as `patchify` gives them.
        grids: (pictures, 2) patches down and across.
        mean, std: (3,) in 0..1, of the checkpoint's image processor.

    Returns:
        ((tokens, D), [(tokens, D) ...]), pictures in order.
    """
    area = visual.patch_size**2
    scale, shift = 1 / (255 * std), -mean / std
    pixels = torch.addcmul(
        shift.repeat_interleave(area), patches.to(scale.dtype), scale.repeat_interleave(area)
    )
    if visual.config.model_type.startswith("qwen3_vl"):
        return _see_qwen3(visual, pixels, grids)
    frames = visual.config.temporal_patch_size
    pixels = pixels.view(len(pixels), 3, 1, area).expand(-1, -1, frames, -1).reshape(len(pixels), -1)
    grid_thw = F.pad(grids, (1, 0), value=1)
    return visual(pixels.to(visual.dtype), grid_thw=grid_thw, return_dict=True).pooler_output, []


def _see_qwen3(
    visual: Any, pixels: torch.Tensor, grids: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    sizes = [tuple(grid) for grid in grids.tolist()]
    if len(set(sizes)) == 1:
        merged, *deep = _same_size(visual, pixels.view(len(sizes), -1, pixels.shape[1]), sizes[0])
        return merged.flatten(0, 1), [features.flatten(0, 1) for features in deep]
    pieces = pixels.split([height * width for height, width in sizes])
    members = defaultdict(list)
    for number, size in enumerate(sizes):
        members[size].append(number)
    outputs: list[list[torch.Tensor]] = [[] for _ in sizes]
    for size, numbers in members.items():
        results = _same_size(visual, torch.stack([pieces[number] for number in numbers]), size)
        for row, number in enumerate(numbers):
            outputs[number] = [result[row] for result in results]
    merged, *deep = (torch.cat(column) for column in zip(*outputs, strict=True))
    return merged, deep


def _same_size(visual: Any, pixels_IPC: torch.Tensor, size: tuple[int, int]) -> list[torch.Tensor]:
    """Merged tokens and deep-stack features, each (I, tokens, D), of pictures with one grid."""
    num, patches, _ = pixels_IPC.shape
    embed = visual.patch_embed.proj
    weight = embed.weight.sum(2).flatten(1)  # a still picture is two equal frames: their kernels add up
    hidden = F.linear(pixels_IPC.to(weight.dtype), weight, embed.bias)
    positions, cos, sin = _positions(visual, size, hidden)
    hidden = hidden + positions
    stack = list(visual.deepstack_visual_indexes)
    deep = []
    for number, block in enumerate(visual.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).view(num, patches, 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(num, patches, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
        if number in stack:
            deep.append(visual.deepstack_merger_list[stack.index(number)](hidden))
    return [part.view(num, -1, part.shape[-1]) for part in (visual.merger(hidden), *deep)]


def _positions(visual: Any, size: tuple[int, int], hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Learned positions (P, D) resampled to the grid, and the rotary cosines and sines (P, K)."""
    grid = torch.tensor([[1, *size]], device=hidden.device)
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=visual.spatial_merge_size,
    )
    learned = (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
    cos, sin = visual.rotary_pos_emb(hidden, get_vision_position_ids(grid, visual.spatial_merge_size))
    return learned.to(hidden.dtype), cos.to(hidden.dtype), sin.to(hidden.dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
