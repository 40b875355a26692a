"""Sizes of the studies that say what vectors are worth: exchange rate, scaling."""

from __future__ import annotations

from moontide.encoder.stages.posttrain import NegativeSettings
from moontide.foundation.errors import SettingsError
from moontide.ranking.search import SearchSettings
from moontide.recipes import mim, moon_embedding
from moontide.studies.exchange import ExchangeSettings, compositions
from moontide.studies.scaling import ScalingSettings


def exchange(clicks: str = "simtier", num_steps: int = 2_600) -> ExchangeSettings:
    """Versions along the demo's own training, behind one click model (ours, 3.7).

    Raises:
        SettingsError: no click model is called `clicks`.
    """
    known = compositions(mim.click_model())
    if clicks not in known:
        raise SettingsError(f"no click model is called {clicks!r}: they are {', '.join(known)}")
    encoder = moon_embedding.encoder()
    return ExchangeSettings(
        clicks=known[clicks],
        training=mim.training(),
        encoder=encoder,
        posttrain=moon_embedding.posttraining(encoder, num_steps),
        shares=(0.0, 0.1, 0.3, 0.6, 1.0),  # ours
    )


def scaling(num_steps: int = 120) -> ScalingSettings:
    """Three axes at minutes a cell (ours, 3.9); the largest pool holds more than all products."""
    encoder = moon_embedding.encoder()
    stage = moon_embedding.posttraining(encoder, num_steps)
    return ScalingSettings(
        factors=(1, 2, 4, 8, 16),  # ours: what the budget holds
        pools=(64, 256, 1024, 4096),  # ours: what the budget holds
        lengths=(20, 50, 100, 200, 500, 1000),  # ours
        encoder=encoder,
        posttrain=stage.but(negatives=NegativeSettings(num_hard=1)),  # ours, unswept
        clicks=mim.click_model().but(
            content=compositions(mim.click_model())["muse"].content, search=SearchSettings()
        ),
        training=mim.training(),
    )
