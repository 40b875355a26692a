"""Vectors of earlier steps, kept as negatives. N items, D width."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from moontide.foundation.errors import SettingsError

CODES = ("product", "group", "category", "step")


class Queued(NamedTuple):
    """Vectors (n, D) drawn from the queue, newest first, and of what each one is and when it was made."""

    vectors: torch.Tensor
    product: np.ndarray
    group: np.ndarray
    category: np.ndarray
    step: np.ndarray


class VectorQueue(nn.Module):
    """First in, first out: the newest `length` item vectors with their codes, none with a gradient.

    It is fed with the vectors of all ranks, so that every rank holds the same queue. All of it is buffers: a
    resumed run draws what the uninterrupted one would. It may be longer than the catalog: a query's own
    product is masked by its code (`masks.not_negative`).

    Also called: memory bank, cross-batch memory.
    Paper: MOON 3.4, MOON Embedding 3.5, "negative item queue" (paper; first in first out and codes ours).

    Args:
        length: largest number of vectors.
        width: of a vector.
    """

    vectors: torch.Tensor
    codes: torch.Tensor
    cursor: torch.Tensor
    filled: torch.Tensor
    limit: torch.Tensor

    def __init__(self, length: int, width: int):
        super().__init__()
        if length < 1:
            raise SettingsError(f"a queue needs a length of at least 1, got {length}: leave it out instead")
        self.register_buffer("vectors", torch.zeros(length, width))
        self.register_buffer("codes", torch.zeros(length, len(CODES), dtype=torch.long))
        for name, value in (("cursor", 0), ("filled", 0), ("limit", length)):
            self.register_buffer(name, torch.tensor(value))

    def __len__(self) -> int:
        return min(int(self.filled), int(self.limit))

    @torch.no_grad()
    def push(
        self,
        vectors_ND: torch.Tensor,
        product: np.ndarray,
        group: np.ndarray,
        category: np.ndarray,
        step: int,
    ) -> None:
        """Add vectors in order, the oldest making room; of more than fit, the last are kept."""
        codes = torch.from_numpy(np.stack((product, group, category, np.full(len(product), step)), axis=1))
        length = len(self.vectors)
        vectors_ND, codes = vectors_ND[-length:], codes[-length:]
        places = (torch.arange(len(codes), device=self.vectors.device) + self.cursor) % length
        self.vectors[places] = vectors_ND.to(self.vectors)
        self.codes[places] = codes.to(self.codes)
        self.cursor.copy_((self.cursor + len(codes)) % length)
        self.filled.copy_((self.filled + len(codes)).clamp(max=length))

    def sample(self, num: int | None = None) -> Queued:
        """The newest `num` vectors, fewer if there are not as many; None: all."""
        size = len(self) if num is None else min(num, len(self))
        return self._at(torch.arange(size, device=self.vectors.device))

    def _at(self, ages: torch.Tensor) -> Queued:
        places = (self.cursor - 1 - ages) % len(self.vectors)
        return Queued(self.vectors[places], *self.codes[places].T.cpu().numpy())

    def staleness(self, encode: Callable[[np.ndarray], torch.Tensor], num: int = 64) -> float:
        """Mean cosine of queued vectors to those that the encoder gives their products now; 1 is fresh.

        Below 0.9 the queue should be shortened. Paper: MOON Embedding 3.5, staleness (ours).

        Args:
            encode: product codes to vectors (n, D); of the views that were pushed, or the difference of views
                counts as age.
            num: how many, evenly spaced from newest to oldest.

        Returns:
            nan for an empty queue
        """
        size = len(self)
        if size == 0:
            return math.nan
        ages = torch.linspace(0, size - 1, min(num, size), dtype=torch.float64).round().long()
        old = self._at(ages.to(self.vectors.device))
        with torch.no_grad():
            return float(F.cosine_similarity(old.vectors, encode(old.product).to(self.vectors)).mean())

    def shorten(self, limit: int) -> None:
        """From now on hold the newest `limit` vectors at most; it never grows back."""
        self.limit.clamp_(max=limit)
