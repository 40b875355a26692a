"""How far a triplet can be trusted while training, and what it then weighs. B triplets, D width.

The weights come from the model that is being trained: they say which triplets it can use now. They are no
probability of a correct match and are not for serving.
"""

from __future__ import annotations

import math
from typing import Literal

import pydantic
import torch

from moontide.foundation.settings import Settings


class ReliabilitySettings(Settings):
    """When the filter starts, how strict it is, and what it does to triplets below the threshold."""

    mode: Literal["jump", "continuous", "hard", "off"] = pydantic.Field(
        "jump", description="below the threshold: jump down, fall without a jump, weigh 0; off: all weigh 1"
    )
    threshold: float = pydantic.Field(0.6, gt=0, lt=1, description="reliability that weighs 1")
    below: float = pydantic.Field(
        0.3, ge=0, le=1, description="weight just below it (jump), at 0 (continuous)"
    )
    kappa: float = pydantic.Field(10.0, gt=0, description="steepness of reliability in the similarity gap")
    first_margin: float = pydantic.Field(0.2, ge=-2, le=2, description="gap of reliability 0.5, first step")
    last_margin: float = pydantic.Field(0.0, ge=-2, le=2, description="gap of reliability 0.5, at the end")
    start_share: float = pydantic.Field(0.05, ge=0, le=1, description="share of the steps without the filter")


def margin_at(step: int, num_steps: int, settings: ReliabilitySettings) -> float:
    """Gap that counts as reliability 0.5: half a cosine from the first to the last margin.

        mbar(t) = m1 + (m0 - m1) (1 + cos(pi t / T)) / 2

    Easy triplets count first, harder ones join. Paper: MOON2.0 3.4 (decay paper reported, cosine ours).
    """
    share = (1 + math.cos(math.pi * step / num_steps)) / 2
    return settings.last_margin + (settings.first_margin - settings.last_margin) * share


@torch.no_grad()
def reliability(gap_B: torch.Tensor, margin: float, kappa: float = 10.0) -> torch.Tensor:
    """phi = sigmoid(kappa (gap - margin)), gap = r_q . r_p - r_q . r_n; it carries no gradient.

    phi >= 0.6 exactly where gap >= margin + ln(1.5) / kappa.
    Paper: MOON2.0 3.4 (paper reported; kappa and the missing gradient ours).
    """
    return torch.sigmoid(kappa * (gap_B - margin))


@torch.no_grad()
def sample_weights(
    gap_B: torch.Tensor, step: int, num_steps: int, settings: ReliabilitySettings
) -> torch.Tensor:
    """Weight of each triplet's inter-product terms at a step, without gradient.

        jump         1 where phi >= threshold, below * phi / threshold elsewhere
        continuous   1 where phi >= threshold, below + (1 - below) * phi / threshold elsewhere
        hard         1 where phi >= threshold, 0 elsewhere

    All weigh 1 before the start share: an untrained encoder has gaps near 0 and would silence the batch.

    Paper: MOON2.0 3.4 (threshold 0.6 and down-weighting paper reported; the weights ours).

    Args:
        gap_B: r_q . r_p - r_q . r_n of the richest form that the query has.

    Returns:
        (B,), to be given to a loss as `weight_B`
    """
    if settings.mode == "off" or step < settings.start_share * num_steps:
        return torch.ones_like(gap_B)
    phi_B = reliability(gap_B, margin_at(step, num_steps, settings), settings.kappa)
    share_B = phi_B / settings.threshold
    lower_B = {
        "jump": settings.below * share_B,
        "continuous": settings.below + (1 - settings.below) * share_B,
        "hard": torch.zeros_like(share_B),
    }[settings.mode]
    return torch.where(phi_B >= settings.threshold, torch.ones_like(phi_B), lower_B)


def effective_size(weight_B: torch.Tensor) -> float:
    """(sum w)^2 / sum w^2: how many equal triplets the weighted ones are worth, 1 to B; 0 if all weigh 0.

    Paper: MOON2.0 7, test 13.
    """
    squares = weight_B.square().sum()
    return float(weight_B.sum().square() / squares) if squares > 0 else 0.0
