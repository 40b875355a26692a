"""The default: a rendered market from nothing to an A/B test, in three sizes.

    nano   tests; under a minute on two cores
    tiny   the demo; under ten minutes on two cores
    study  hours

`own` is the same chain on a user's dataset folder.
"""

from __future__ import annotations

from collections.abc import Callable

from moontide.market.settings import MarketSettings
from moontide.recipes import mim, moon_embedding
from moontide.studies.chain import ChainSettings
from moontide.studies.experiment import ExperimentSettings


def nano() -> ChainSettings:
    """400 products, 20,000 impressions: every stage runs, nothing is resolved."""
    encoder = moon_embedding.encoder(depth=2)  # guess
    return ChainSettings(
        market=MarketSettings(
            num_products=400,  # guess
            num_merchants=40,  # guess
            num_shoppers=120,  # guess
            num_impressions=21_500,  # guess: 20,000 are shown
            days=14,  # guess
        ),
        encoder=encoder.but(vocab_size=2_048),  # guess
        pretrain=moon_embedding.pretraining(encoder, num_steps=30, batch_size=32),  # guess
        posttrain=moon_embedding.posttraining(encoder, num_steps=120),  # guess
        clicks=mim.click_model(),
        training=mim.training().but(batch_size=256),  # guess
        experiment=ExperimentSettings(num_requests=1_000, days=2),  # guess
    )


def tiny() -> ChainSettings:
    """4,000 products with 3 pictures and 2 creatives each, 400,000 impressions."""
    encoder = moon_embedding.encoder()
    return ChainSettings(
        market=MarketSettings(),
        encoder=encoder,
        pretrain=None,  # ours: worse with it in equal time, docs/experiments.md
        posttrain=moon_embedding.posttraining(encoder, num_steps=2_600),  # ours: what ten minutes hold
        clicks=mim.click_model(),
        training=mim.training(),
        experiment=ExperimentSettings(num_requests=80_000, days=14),  # ours: resolves a lift of some 5 %
    )


def study() -> ChainSettings:
    """20,000 products, 3 million impressions: hours on two cores."""
    encoder = moon_embedding.encoder(depth=6)  # guess
    return ChainSettings(
        market=MarketSettings(
            num_products=20_000,  # guess
            num_merchants=800,  # guess
            num_shoppers=6_000,  # guess
            num_impressions=3_000_000,  # guess
        ),
        encoder=encoder,
        pretrain=moon_embedding.pretraining(encoder, num_steps=2_000),  # guess
        posttrain=moon_embedding.posttraining(encoder, num_steps=30_000),  # guess
        clicks=mim.click_model(),
        training=mim.training(),
        experiment=ExperimentSettings(num_requests=200_000, days=14),  # guess
        two_tower=moon_embedding.two_tower(encoder),
        max_gallery=20_000,  # guess
    )


def content() -> ChainSettings:
    """A cell of the content study: 1,200 products, 120,000 impressions, three minutes on one core."""
    encoder = moon_embedding.encoder()
    return ChainSettings(
        market=MarketSettings(
            num_products=1_200,  # ours: what three minutes a cell hold, as all below
            num_merchants=60,  # guess
            num_shoppers=240,  # guess
            num_impressions=120_000,  # guess
        ),
        encoder=encoder,
        posttrain=moon_embedding.posttraining(encoder, num_steps=450),  # guess
        clicks=mim.click_model(),
        training=mim.training().but(batch_size=512),  # guess
        exports=False,
    )


def own(size: ChainSettings) -> ChainSettings:
    """A size's chain on a dataset that is there already, with the plain two-tower beside the encoder."""
    return size.but(market=None, two_tower=moon_embedding.two_tower(size.encoder))


RECIPES: dict[str, Callable[[], ChainSettings]] = {
    "nano": nano, "tiny": tiny, "study": study, "content": content,
}  # fmt: skip

SYSTEMS: dict[str, Callable[[ChainSettings], ChainSettings]] = {
    "mim": mim.system, "moon_embedding": moon_embedding.system,
}  # fmt: skip
"""A published system whole, from its stages of training to its click model, at the size of a recipe."""
