"""What a model wrote behind an item, as numbers. L tokens, A action tokens, D width.

A prompt is an item without its end; a completion is what was written behind it; both together close with
`<emb>`, whose state becomes the vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from moontide.encoder.chain import DONE, THINK
from moontide.encoder.model.inputs import KINDS
from moontide.encoder.model.prepared import Prepared

EMB = "<emb>"


@dataclass(frozen=True)
class Written:
    """One completion.

    Args:
        ids: tokens the model chose, `<emb>` last if it wrote it within the budget.
        log_p: (tokens,) float32, log-probability of each when it was chosen.
        text: the same as text, without `<emb>`.
        has_emb: whether the model wrote `<emb>` itself.
        num_tokens: of the reasoning: all but `<emb>`.
        finish: "emb"; "budget": cut; "end": the model ended its turn instead.
    """

    ids: np.ndarray
    log_p: np.ndarray
    text: str
    has_emb: bool
    num_tokens: int
    finish: Literal["emb", "budget", "end"]


@dataclass(frozen=True)
class Completed:
    """A prompt with what was written behind it, `<emb>` last; `is_action` (L,) marks what the model chose."""

    prepared: Prepared
    is_action: np.ndarray


@dataclass(frozen=True)
class Scored:
    """What one teacher-forced pass gives.

    Args:
        vectors: (n, D) unit.
        log_p: (n, A) log-probability of every action token, 0 where there is none.
        is_action: (n, A).
        entropy: (n, A) of the distribution each was chosen from, without a gradient.
        gates: (n, 3) shares of `<emb>`, picture and text in the vector; None without fusion.
    """

    vectors: torch.Tensor
    log_p: torch.Tensor
    is_action: torch.Tensor
    entropy: torch.Tensor | None = None
    gates: torch.Tensor | None = None


def extended(prompt: Prepared, ids: np.ndarray) -> Prepared:
    """The prompt with more text tokens behind it; positions go on by one."""
    after = prompt.positions[:, -1].max() + 1 + np.arange(len(ids))
    kinds = np.full(len(ids), KINDS.index("special"), dtype=np.int64)
    return replace(
        prompt,
        ids=np.concatenate([prompt.ids, ids]).astype(np.int64),
        kinds=np.concatenate([prompt.kinds, kinds]),
        positions=np.concatenate([prompt.positions, np.tile(after, (3, 1))], axis=1),
    )


def spaced(text: str) -> str:
    """Blanks as a person would set them: one between words, none beside the tags.

    Example:
        >>> spaced("<think> color:  red </think>")
        '<think>color: red</think>'
    """
    text = " ".join(text.split())
    for tag in (THINK, DONE):
        text = text.replace(f"{tag} ", tag).replace(f" {tag}", tag)
    return text
