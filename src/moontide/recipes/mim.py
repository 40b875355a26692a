"""MIM (arXiv 2502.00321) and its relatives SimTier (2407.19467) and MUSE (2512.07216): the click model.

Built: DIN over ids and the SimTier content branch. Not yet: MAKE, SA-TA, CiUBM, CUBE.
"""

from __future__ import annotations

from moontide.ranking.models import ClickSettings
from moontide.ranking.train import TrainSettings


def click_model() -> ClickSettings:
    """What every arm of a comparison shares; the arms switch content and attributes on."""
    return ClickSettings(
        tiers=20,  # analog SimTier
        history=50,  # guess
        width=16,  # analog MUSE
        attention=32,  # analog MUSE
        hidden=(128, 64),  # guess
    )


def training() -> TrainSettings:
    """One pass: ids overfit from the second on (analog MAKE)."""
    return TrainSettings(
        batch_size=1024,  # guess
        dense_lr=2e-3,  # ours: measured in docs/results.md
        embedding_lr=5e-3,  # ours: measured in docs/results.md
        epochs=1,  # analog MAKE
    )
