"""MOON Embedding (arXiv 2511.11305): encoder, pretraining and first post-training stage, by size.

Tags: `paper` with the section where it is stated, `analog NAME`, `ours` (measured, see docs/results.md),
`guess`. The embedded sizes shrink the published system by orders of magnitude; what carries over is its
shape: three stages, one shared bidirectional encoder, mean pooling, Matryoshka, one pairing a step.
"""

from __future__ import annotations

from moontide.encoder.model.encoder import EncoderSettings
from moontide.encoder.stages.posttrain import PosttrainSettings
from moontide.encoder.stages.pretrain import PretrainSettings
from moontide.encoder.twotower import TwoTowerSettings


def encoder(depth: int = 4) -> EncoderSettings:
    """A tiny Qwen3-VL; `depth` sets layers, width, heads and learning rate."""
    return EncoderSettings(
        depth=depth,  # ours: measured in docs/results.md
        image_side=112,  # guess
        dim=128,  # analog MUSE
        widths=(32, 64, 128),  # guess
        attention="bidirectional",  # paper 3.3
        pooling="mean",  # paper 3.3
        max_text_tokens=64,  # guess: the end of long descriptions is left out
    )


def pretraining(settings: EncoderSettings, num_steps: int, batch_size: int = 64) -> PretrainSettings:
    """Questions on the catalog: title, attributes, category, which box (paper 3.2).

    At the demo's size and time it makes the vectors worse (docs/experiments.md), so `tiny` leaves it out.
    """
    return PretrainSettings(
        num_steps=num_steps,  # ours: measured in docs/results.md
        batch_size=batch_size,  # guess
        learning_rate=settings.learning_rate,  # guess
        checkpoint_every=max(20, num_steps // 5),  # guess
    )


def posttraining(settings: EncoderSettings, num_steps: int, batch_size: int = 32) -> PosttrainSettings:
    """InfoNCE on clicks, carts and orders, in-batch negatives, one pairing of forms a step (paper 3.4)."""
    return PosttrainSettings(
        num_steps=num_steps,  # ours: measured in docs/results.md
        batch_size=batch_size,  # ours: docs/experiments.md
        learning_rate=settings.learning_rate,  # ours: docs/experiments.md
        temperature=0.1,  # ours: docs/experiments.md; learned from there on
        catalog_share=0.5,  # guess
        augment=0.3,  # ours: docs/experiments.md
        checkpoint_every=max(20, num_steps // 8),  # guess
    )


def published(settings: PosttrainSettings, lora_rank: int) -> PosttrainSettings:
    """Post-training of a published backbone: gentle rates, a batch in pieces that fit its memory."""
    return settings.but(
        learning_rate=1e-4 if lora_rank else 1e-5,  # guess
        mini_batch_tokens=4_096,  # guess
    )


def two_tower(settings: EncoderSettings) -> TwoTowerSettings:
    """The plain baseline beside the encoder: equal time, about equal size."""
    return TwoTowerSettings(
        width=settings.depth * 8,  # ours: about as many parameters as the encoder
        dim=settings.dim or 128,  # analog MUSE
        image_side=settings.image_side,  # guess
    )
