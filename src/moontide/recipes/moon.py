"""MOON (arXiv 2508.11999): core-product regions, guided experts, many more and harder negatives.

Tags: `paper` with the section where it is stated, `paper reported`, `analog NAME`, `ours`, `guess`.
"""

from __future__ import annotations

from moontide.encoder.model.encoder import EncoderSettings
from moontide.encoder.model.experts.guided import GuidedSettings
from moontide.encoder.stages.posttrain import NegativeSettings, PosttrainSettings
from moontide.recipes import moon_embedding
from moontide.studies.ablation import Ablation, Row
from moontide.studies.encoders import COLUMNS, EncoderPlan


def encoder(depth: int = 4) -> EncoderSettings:
    """The spine's encoder, shown each product with its crop."""
    return moon_embedding.encoder(depth).but(crops="added")  # paper: the crop is added, never replaces


def experts() -> GuidedSettings:
    """Four general experts, one for category words, one for attribute words."""
    return GuidedSettings(
        num_experts=6,  # ours, unswept: the paper's number is not known
        top=2,  # ours, unswept
        every=2,  # ours, unswept
        mode="hard",  # ours: the plainest reading of the figure
    )


def negatives(batch_size: int) -> NegativeSettings:
    """About 200 times as many negatives as in the batch."""
    num_hard = 1  # ours, unswept
    return NegativeSettings(
        num_hard=num_hard,
        queue=max(1, 200 * batch_size - batch_size * (1 + num_hard)),  # paper reported: the factor 200
        queue_from=0.05,  # ours: after the warm-up
    )


def posttraining(settings: EncoderSettings, num_steps: int, batch_size: int = 32) -> PosttrainSettings:
    """Orders only, queries of picture, text and both as 12 : 3 : 2, products always in both."""
    return moon_embedding.posttraining(settings, num_steps, batch_size).but(
        pairings="moon",  # paper reported: 12 : 3 : 2
        kinds=("order",),  # paper reported
        is_symmetric=False,  # paper 3.4
        temperature=0.05,  # ours, unswept
        negatives=negatives(batch_size),
        balance=1e-2,  # ours, unswept
    )


def ablation(num_steps: int = 250, batch_size: int = 32) -> Ablation:
    """What each part of MOON is worth; the plain row is the same backbone with in-batch negatives alone.

    All rows start from one checkpoint and see equally many pairs. The rendered market has few orders, so
    clicks and carts are positives, too (ours). The paper gives no numbers: the published order is of ranks.
    """
    settings = moon_embedding.encoder()
    clicked = ("click", "cart", "order")  # ours: 358 orders in the demo's log
    stage = posttraining(settings, num_steps, batch_size).but(
        kinds=clicked,
        learning_rate=settings.learning_rate / 3,  # guess: it refines what is there
    )
    full = EncoderPlan(guided=experts(), crops="added", pairs=(stage,))

    def variant(name: str, note: str, **changes: object) -> Row:
        return Row(name, full.but(pairs=(stage.but(negatives=stage.negatives.but(**changes)),)), note)

    in_batch = stage.but(negatives=NegativeSettings())
    return Ablation(
        "moon",
        "MOON, arXiv 2508.11999",
        (
            Row("full", full),
            Row("- regions", full.but(crops="none"), "the picture alone"),
            Row("- guided experts", full.but(guided=None), "dense blocks"),
            Row("- extended negatives", full.but(pairs=(in_batch,)), "the batch alone"),
            Row("plain", EncoderPlan(pairs=(in_batch,)), "none of the three"),
            Row("crop only", full.but(crops="only"), "the crop in place of the picture"),
            Row("- category expert", full.but(guided=experts().but(has_category=False))),
            Row("- attribute expert", full.but(guided=experts().but(has_attribute=False))),
            variant("- hard", "no product of the positive's category", num_hard=0),
            variant("- temporal", "no queue", queue=0),
            variant("- spatial", "the batch in two parts that do not see each other", blocks=2),  # ours
        ),
        COLUMNS,
        PUBLISHED,
    )


PUBLISHED = {  # paper reported, in words: order alone
    "i->mm": {"full": 4, "- extended negatives": 3, "- guided experts": 2, "- regions": 1},
    "class": {"full": 2, "- guided experts": 1},
    "attr": {"full": 2, "- guided experts": 1},
}
