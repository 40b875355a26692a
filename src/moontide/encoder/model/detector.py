"""The network of a small detector: a picture and a title to rough boxes.

A picture of SIDE pixels becomes GRID x GRID places. Each says how likely it lies in the middle of what the
title names, and how far that reaches to its left, top, right and bottom; the title scales and shifts what
the places see. B batch, P places, D width, H, W height and width.

Paper: boxes told by places as in FCOS (arXiv 1904.01355), 3.1; a text that scales and shifts as in FiLM
(arXiv 1709.07871), 2.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from moontide.catalog.entities import words_of

SIDE, GRID = 112, 14
WORDS = 2_048  # rows that words of titles are hashed to


class Detector(nn.Module):
    """Pictures and titles to places: (B, P) logits of lying in the middle, (B, P, 4) boxes in shares.

    Args:
        width: channels of a place.
        word_width: of the embeddings of words, which are hashed.
        untitled: share of titles that are hidden in training.
    """

    def __init__(self, width: int, word_width: int, untitled: float = 0.0):
        super().__init__()
        self.untitled = untitled
        self.see = nn.Sequential(_block(6, width // 2, 2), _block(width // 2, width, 2))
        self.look_around = nn.ModuleList([_block(width, width, 1, reach) for reach in (1, 2, 3)])
        self.words = nn.EmbeddingBag(WORDS, word_width, mode="mean")
        self.read = nn.Linear(word_width, 2 * width)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)
        self.tell = nn.Conv2d(width, 5, 1)
        side = torch.linspace(-1, 1, SIDE // 2)
        self.register_buffer(
            "place", torch.stack(torch.meshgrid(side, side, indexing="xy")), persistent=False
        )
        self.register_buffer("middle_P2", _middles(), persistent=False)

    def forward(
        self, pixels: Sequence[np.ndarray], titles: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels_B3HW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        seen = F.avg_pool2d(torch.cat((2 * pixels_B3HW - 1, _contrast(pixels_B3HW)), 1), 2)
        place = self.get_buffer("place").expand(len(seen), -1, -1, -1)
        state_BDHW = self.see(torch.cat((seen, place), 1))
        scale_BD, shift_BD = self.read(self._title_states(titles)).chunk(2, 1)
        for number, look in enumerate(self.look_around):
            state_BDHW = state_BDHW + look(state_BDHW)
            if number == 0:
                state_BDHW = state_BDHW * (1 + scale_BD[..., None, None]) + shift_BD[..., None, None]
        told_BP5 = self.tell(state_BDHW).flatten(2).transpose(1, 2)
        reach_BP4, middle_P2 = 0.3 * F.softplus(told_BP5[..., 1:]), self.get_buffer("middle_P2")
        box_BP4 = torch.cat((middle_P2 - reach_BP4[..., :2], middle_P2 + reach_BP4[..., 2:]), -1)
        return told_BP5[..., 0], box_BP4

    @torch.no_grad()
    def know(self, titles: Iterable[str]) -> None:
        """Make all words but those of these titles, which training met, say nothing."""
        known = {row for title in titles for row in _rows(title)}
        self.words.weight[[row not in known for row in range(WORDS)]] = 0

    def _title_states(self, titles: Sequence[str]) -> torch.Tensor:
        rows = [_rows(title) for title in titles]
        starts = np.cumsum([0, *map(len, rows)])[:-1]
        ids = torch.tensor([word for row in rows for word in row], dtype=torch.long)
        state_BD = self.words(ids, torch.from_numpy(starts))
        if self.training:
            state_BD = state_BD * (torch.rand(len(titles), 1) >= self.untitled)
        return state_BD


def _rows(title: str) -> list[int]:
    return [zlib.crc32(word.encode()) % WORDS for word in words_of(title)]


def _block(before: int, after: int, stride: int = 1, reach: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, reach, reach), nn.GroupNorm(4, after), nn.GELU())


def _middles() -> torch.Tensor:
    """x, y of every place, (P, 2) in shares."""
    side = (torch.arange(GRID) + 0.5) / GRID
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)


def _contrast(pixels_B3HW: torch.Tensor) -> torch.Tensor:
    """Difference to the picture's edge as in `catalog.regions.stands_out`, (B, 1, H, W)."""
    edges = (
        pixels_B3HW[..., :2].mean(-1, keepdim=True),
        pixels_B3HW[..., -2:].mean(-1, keepdim=True),
        pixels_B3HW[..., :2, :].mean(-2, keepdim=True),
        pixels_B3HW[..., -2:, :].mean(-2, keepdim=True),
    )
    least = torch.stack([(pixels_B3HW - edge).abs().sum(1, keepdim=True) for edge in edges]).amin(0)
    return 2 * least.clamp(max=0.6)
