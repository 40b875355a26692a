"""The gradient of a step's loss: at once, or in pieces with the memory of a piece; on one process or many.

The vision tower sees every distinct picture of a step once, whichever way. With ranks, each of them embeds
its share of the items and all compute the same loss over all vectors, so that ranks change nothing but who
does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.encoder import PADDING, PATCHES, MoonEncoder, Outputs, token_batches
from moontide.encoder.model.inputs import Item, Picture, ProductView
from moontide.encoder.model.prepared import Album, Prepared, distinct
from moontide.encoder.model.vision import Sight
from moontide.encoder.objectives.gather import gather, rank, world_size

Loss = Callable[[Outputs], torch.Tensor]


class Trainable(Protocol):
    """What a stage trains: a MoonEncoder, or the plain two-tower."""

    @property
    def widths(self) -> list[int]: ...
    @property
    def device(self) -> torch.device: ...
    def view(self, dataset: Dataset, /) -> ProductView: ...
    def pixels(self, picture: Picture, /) -> np.ndarray: ...
    def center(self, prepared: Sequence[Any], /) -> None: ...
    def remembering(self, num: int, /) -> AbstractContextManager[None]: ...
    def prepare_all(self, values: Sequence[Any], /) -> list[Any]: ...
    def encode_all(self, prepared: Sequence[Any], /) -> Outputs: ...


def gradients(
    encoder: Trainable, items: Sequence[Item], loss_of: Loss, mini_batch_tokens: int | None = None
) -> tuple[Outputs, torch.Tensor]:
    """Add the gradients of `loss_of(outputs of all items)` to the parameters.

    Args:
        items: of the whole step; with ranks, the same list on every rank.
        loss_of: scalar loss of the outputs, rows in the order of `items`.
        mini_batch_tokens: tokens with a graph at a time; None: all. The gradient is the same.

    Returns:
        outputs and loss, without a graph.
    """
    own = Share(len(items))
    prepared = encoder.prepare_all([items[row] for row in own.rows])
    if mini_batch_tokens is None:
        outputs = own.gathered(encoder.encode_all(prepared))
        loss = loss_of(outputs)
        loss.backward()
    else:
        assert isinstance(encoder, MoonEncoder)
        pieces = Pieces(encoder, prepared, mini_batch_tokens)
        outputs = own.gathered(pieces.outputs)
        loss = loss_of(outputs)
        loss.backward()
        pieces.replay()
    routing = None if outputs.routing is None else outputs.routing.detach()
    return Outputs(outputs.vectors.detach(), routing), loss.detach()


@dataclass(frozen=True)
class Share:
    """The items this rank embeds: every n-th of n ranks, filled up with the first to be equally many."""

    total: int

    @property
    def rows(self) -> list[int]:
        num = -(-self.total // world_size())
        own = [*range(rank(), self.total, world_size())]
        return own + [0] * (num - len(own))

    def gathered(self, outputs: Outputs) -> Outputs:
        """The outputs of all ranks, in the order of the items; gradients flow to the own ones."""
        if world_size() == 1:
            return outputs
        return Outputs(
            self._whole(outputs.vectors), None if outputs.routing is None else self._whole(outputs.routing)
        )

    def _whole(self, x: torch.Tensor) -> torch.Tensor:
        parts = gather(x).unflatten(0, (world_size(), len(x)))
        return parts.transpose(0, 1).flatten(0, 1)[: self.total]


class Pieces:
    """The gradient of many items in the memory of a few: first the outputs without a graph, as leaves of the
    loss; then each piece again, with the gradient of its outputs; last the vision tower, likewise.

    Also called: GradCache; exact, for one more forward pass.
    """

    def __init__(self, encoder: MoonEncoder, prepared: Sequence[Prepared], tokens: int):
        self.encoder, self.tokens = encoder, tokens
        self.prepared, index = distinct(prepared)
        self.album = Album.of(self.prepared)
        self.rows = token_batches([len(one) for one in self.prepared], tokens, PADDING)
        with torch.no_grad():
            self.sight = encoder.look(self.album, tokens)
            if self.sight is not None:
                layers = tuple(layer.requires_grad_() for layer in self.sight.layers)
                self.sight = Sight(layers, self.sight.lengths)
            parts = [encoder.read(self.prepared, rows, self.album, self.sight) for rows in self.rows]
            self.leaves = Outputs.in_order(parts, self.rows)
        for leaf in (self.leaves.vectors, self.leaves.routing):
            if leaf is not None:
                leaf.requires_grad_()
        self.outputs = self.leaves[torch.from_numpy(index).to(encoder.device)]

    def replay(self) -> None:
        """Add the gradients of the parameters, those of the leaves being there."""
        for rows in self.rows:
            again = self.encoder.read(self.prepared, rows, self.album, self.sight)
            _backward((again.vectors, again.routing), (self.leaves.vectors, self.leaves.routing), rows)
        if self.sight is None or self.sight.layers[0].grad is None:
            return
        start = 0
        for numbers in self.album.pieces(PATCHES * self.tokens):
            again = self.encoder.backbone.look(self.album, numbers)
            end = start + sum(again.lengths)
            _backward(again.layers, self.sight.layers, slice(start, end))
            start = end


def _backward(again: Sequence[torch.Tensor | None], leaves: Sequence[torch.Tensor | None], rows: Any) -> None:
    """Push the gradients of some rows of the leaves through what was computed again."""
    found = [
        (one, leaf.grad[rows])
        for one, leaf in zip(again, leaves, strict=True)
        if one is not None and one.requires_grad and leaf is not None and leaf.grad is not None
    ]
    torch.autograd.backward([one for one, _ in found], [grad for _, grad in found])
