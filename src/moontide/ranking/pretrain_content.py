"""MAKE's first phase: the content model learns alone, for several passes, before the ids' one pass.

A model of content goes on getting better from pass to pass, a model of ids is worse after its second; so the
one gets many passes and the other one. Only the weights under `heads.make.` learn here, no id gets so much
as a gradient, and the feed makes nothing but the content part of a batch.

Paper: 2407.19467 (analog MAKE), MIM (2502.00321) section on its relatives.
"""

from __future__ import annotations

import logging

from torch import Tensor

from moontide.ranking.batches import Batch, Feed
from moontide.ranking.content import ContentTable
from moontide.ranking.entities import Entities, Vocabulary
from moontide.ranking.fit import Phase
from moontide.ranking.make import MakeSettings
from moontide.ranking.models import ClickModel, ClickSettings

log = logging.getLogger(__name__)
NAME = "make"
PREFIX = "heads.make."


def make_of(settings: ClickSettings) -> MakeSettings | None:
    """MAKE's settings in a click model's, None if it has none."""
    return settings.content.make if settings.content is not None else None


def learning_together(settings: ClickSettings) -> ClickSettings:
    """The same settings, but MAKE without passes of its own learns with the ids (its published pass 0).

    Frozen, it would give the click model the features of random weights: so `is_frozen` is off then.
    """
    make = make_of(settings)
    if make is None or make.epochs or not make.is_frozen or settings.content is None:
        return settings
    log.info("MAKE has no passes of its own and learns with the ids: is_frozen is off")
    return settings.but(content=settings.content.but(make=make.but(is_frozen=False)))


def content_phase(
    model: ClickModel, vocabulary: Vocabulary, entities: Entities, vectors: ContentTable | None
) -> Phase | None:
    """MAKE's first phase, None for a model without one.

    Objective: BCE(base + make_logit + position), position and base as they were measured.
    """
    make = make_of(model.settings)
    if make is None or not make.epochs:
        return None
    heads = model.heads
    assert heads is not None
    assert vectors is not None

    def score(batch: Batch) -> Tensor:
        return model.base_logit + heads.make_logit(batch)

    feed = Feed(entities, vocabulary, steps=model.settings.history, vectors=vectors)
    return Phase(NAME, make.epochs, feed, score, names_of(model), reads_off=True)


def names_of(model: ClickModel) -> frozenset[str]:
    """Names of the content model's weights."""
    return frozenset(name for name, _ in model.named_parameters() if name.startswith(PREFIX))


def frozen_names(model: ClickModel) -> frozenset[str]:
    """Names of the weights that the joint pass leaves alone."""
    make = make_of(model.settings)
    return names_of(model) if make is not None and make.is_frozen else frozenset()
