"""MOON Embedding (arXiv 2511.11305): encoder, pretraining and first post-training stage, by size.

Tags: `paper` with the section where it is stated, `analog NAME`, `ours` (measured, see docs/results.md),
`guess`. The embedded sizes shrink the published system by orders of magnitude; what carries over is its
shape: three stages, one shared bidirectional encoder, mean pooling, Matryoshka, one pairing a step.
"""

from __future__ import annotations

from moontide.encoder.model.encoder import EncoderSettings
from moontide.encoder.stages.cleaning import CleaningSettings
from moontide.encoder.stages.posttrain import NegativeSettings, PosttrainSettings
from moontide.encoder.stages.pretrain import PretrainSettings
from moontide.encoder.twotower import TwoTowerSettings
from moontide.ranking.cube import CubeSettings
from moontide.ranking.heads import ContentSettings
from moontide.studies.ablation import Ablation, Row
from moontide.studies.chain import ChainSettings
from moontide.studies.encoders import COLUMNS, EncoderPlan


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


def first_stage(settings: EncoderSettings, num_steps: int, batch_size: int = 32) -> PosttrainSettings:
    """Nine pairings in cycles of 26 steps, in-batch negatives, query to item (paper 3.4, table 2)."""
    return posttraining(settings, num_steps, batch_size).but(
        pairings="nine",  # paper 3.4
        is_symmetric=False,  # paper 3.4; the other direction is not known
        temperature=0.05,  # ours, unswept
    )


def second_stage(settings: EncoderSettings, num_steps: int, batch_size: int = 32) -> PosttrainSettings:
    """Orders alone, hard negatives with gradient, a queue, circle loss (paper 3.5)."""
    num_hard = 1  # ours, unswept
    queue = 200 * batch_size - batch_size * (1 + num_hard)  # ours, from a paper reported ratio
    return first_stage(settings, num_steps, batch_size).but(
        kinds=("order",),  # paper reported
        learning_rate=settings.learning_rate / 3,  # guess: it refines what is there
        loss="circle",  # paper reported
        margin=0.25,  # analog CircleLoss
        scale=64.0,  # analog CircleLoss
        negatives=NegativeSettings(num_hard=num_hard, queue=queue),
    )


def image_search(settings: EncoderSettings, num_steps: int = 600, batch_size: int = 64) -> PosttrainSettings:
    """Shoppers' photos and pictures of the catalog, for a shop that has such pairs and nothing else."""
    return posttraining(settings, num_steps, batch_size).but(
        pairings="photos",
        kinds=("order",),  # guess: judged pairs count as orders
        catalog_share=0.0,  # guess
        augment=0.8,  # guess
    )


def cleaning() -> CleaningSettings:
    """The four steps before the second stage, in their order (paper reported; formulas ours)."""
    return CleaningSettings(
        min_entities=2,  # paper reported
        guard=0.01,  # ours, unswept
        balance=1.0,  # ours, unswept
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


def system(size: ChainSettings) -> ChainSettings:
    """MOON Embedding whole: both stages of post-training, cleaning between, CUBE over items and queries."""
    steps, batch = size.posttrain.num_steps, size.posttrain.batch_size
    second = second_stage(size.encoder, steps // 4, batch).but(
        kinds=("cart", "order")  # ours: few orders in the log
    )
    return size.but(
        posttrain=first_stage(size.encoder, steps - steps // 4, batch),
        refine=EncoderPlan(pairs=(second,), cleaning=cleaning()),
        content=ContentSettings(cube=CubeSettings()),
    )


def ladder(num_steps: int = 250, batch_size: int = 32, title_steps: int = 1_500) -> Ablation:
    """From a dual encoder on titles and photos to the whole system, one axis at a time (ours, 3.12).

    The dual encoders see `title_steps` batches of titles and photos first, once for all of them: as many as
    the shared checkpoint has seen, which all others begin with. Carts count beside orders: the log has few.
    """
    settings = encoder()
    bought = ("cart", "order")  # ours: 358 orders in the demo's log
    titles = posttraining(settings, title_steps, batch_size).but(pairings="titles")
    clicks = posttraining(settings, num_steps, batch_size).but(catalog_share=0.0, temperature=0.05)  # ours
    orders = clicks.but(kinds=bought)
    circled = second_stage(settings, num_steps - num_steps // 2, batch_size).but(kinds=bought)
    wider = orders.but(negatives=circled.negatives)
    half = first_stage(settings, num_steps // 2, batch_size)
    plain = circled.but(loss="infonce", negatives=NegativeSettings())
    towers = two_tower(settings)

    def dual(*stages: PosttrainSettings) -> EncoderPlan:
        return EncoderPlan(two_tower=towers, tower_start=titles, pairs=stages)

    def whole(*stages: PosttrainSettings, is_cleaned: bool = False) -> EncoderPlan:
        return EncoderPlan(pairs=stages, cleaning=cleaning() if is_cleaned else None)

    return Ablation(
        "moon_embedding",
        "MOON Embedding, arXiv 2511.11305; rungs are ours",
        (
            Row("R1", dual(titles.but(num_steps=num_steps)), "dual encoder, titles and photos"),
            Row("R2", dual(clicks), "then clicks"),
            Row("R2, bought", dual(orders), "carts and orders alone"),
            Row("R3", dual(wider), "hard negatives and a queue"),
            Row("R3, one model", whole(wider), "one bidirectional model of picture and text"),
            Row("R4", whole(first_stage(settings, num_steps, batch_size)), "nine pairings, clicks again"),
            Row("R4, two stages", whole(half, plain), "second half on carts and orders"),
            Row("R5, cleaned", whole(half, plain, is_cleaned=True), "four steps of cleaning"),
            Row("R5, negatives", whole(half, plain.but(negatives=circled.negatives), is_cleaned=True),
                "hard negatives and a queue"),
            Row("R5", whole(half, circled, is_cleaned=True), "circle loss"),
        ),
        COLUMNS,
        reference="previous",
    )  # fmt: skip
