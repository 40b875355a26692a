"""MOON Embedding (arXiv 2511.11305): encoder, pretraining and first post-training stage, by size.

Tags: `paper` with its section in the specification, `analog NAME`, `ours` (measured, see docs/results.md),
`guess`. The embedded sizes shrink the published system by orders of magnitude; what carries over is its
shape: three stages, one shared bidirectional encoder, mean pooling, Matryoshka, one pairing a step.
"""

from __future__ import annotations

from moontide.encoder.model.encoder import EncoderSettings
from moontide.encoder.stages.posttrain import PosttrainSettings
from moontide.encoder.stages.pretrain import PretrainSettings
from moontide.encoder.twotower import TwoTowerSettings


def encoder(depth: int = 3) -> EncoderSettings:
    """A tiny Qwen3-VL; `depth` sets layers, width, heads and learning rate."""
    return EncoderSettings(
        depth=depth,  # ours: measured in docs/results.md
        image_side=112,  # guess
        dim=128,  # analog MUSE
        widths=(32, 64, 128),  # guess
        attention="bidirectional",  # paper 3.3
        pooling="mean",  # paper 3.3
    )


def pretraining(settings: EncoderSettings, num_steps: int, batch_size: int = 64) -> PretrainSettings:
    """Questions on the catalog: title, attributes, category, which box (paper 3.2)."""
    return PretrainSettings(
        num_steps=num_steps,  # ours: measured in docs/results.md
        batch_size=batch_size,  # guess
        learning_rate=settings.learning_rate,  # guess
        checkpoint_every=max(20, num_steps // 5),  # guess
    )


def posttraining(settings: EncoderSettings, num_steps: int, batch_size: int = 128) -> PosttrainSettings:
    """InfoNCE on clicks, carts and orders, in-batch negatives, one pairing of forms a step (paper 3.4)."""
    return PosttrainSettings(
        num_steps=num_steps,  # ours: measured in docs/results.md
        batch_size=batch_size,  # guess
        learning_rate=settings.learning_rate,  # guess
        temperature=0.05,  # guess: learned from there on
        checkpoint_every=max(20, num_steps // 8),  # guess
    )


def two_tower(settings: EncoderSettings) -> TwoTowerSettings:
    """The plain baseline beside the encoder: equal time, about equal size."""
    return TwoTowerSettings(
        width=settings.depth * 8,  # ours: about as many parameters as the encoder
        dim=settings.dim or 128,  # analog MUSE
        image_side=settings.image_side,  # guess
    )
