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
    encoder = moon_embedding.encoder(depth=2)
    return ChainSettings(
        market=MarketSettings(
            num_products=400, num_merchants=40, num_shoppers=120, num_impressions=20_000, days=14
        ),
        encoder=encoder.but(vocab_size=2_048),
        pretrain=moon_embedding.pretraining(encoder, num_steps=30, batch_size=32),
        posttrain=moon_embedding.posttraining(encoder, num_steps=120),
        clicks=mim.click_model(),
        training=mim.training().but(batch_size=256),
        experiment=ExperimentSettings(num_requests=1_000, days=2),
    )


def tiny() -> ChainSettings:
    """4,000 products with 3 pictures and 2 creatives each, 400,000 impressions."""
    encoder = moon_embedding.encoder()
    return ChainSettings(
        market=MarketSettings(),
        encoder=encoder,
        pretrain=None,  # ours: worse with it in equal time, docs/experiments.md
        posttrain=moon_embedding.posttraining(encoder, num_steps=2_600),
        clicks=mim.click_model(),
        training=mim.training(),
        experiment=ExperimentSettings(num_requests=80_000, days=14),
    )


def study() -> ChainSettings:
    """20,000 products, 3 million impressions: hours on two cores."""
    encoder = moon_embedding.encoder(depth=6)
    return ChainSettings(
        market=MarketSettings(
            num_products=20_000, num_merchants=800, num_shoppers=6_000, num_impressions=3_000_000
        ),
        encoder=encoder,
        pretrain=moon_embedding.pretraining(encoder, num_steps=2_000),
        posttrain=moon_embedding.posttraining(encoder, num_steps=30_000),
        clicks=mim.click_model(),
        training=mim.training(),
        experiment=ExperimentSettings(num_requests=60_000, days=7),
        two_tower=moon_embedding.two_tower(encoder),
        max_gallery=20_000,
    )


def content() -> ChainSettings:
    """A cell of the content study: 1,200 products, 120,000 impressions, three minutes on one core."""
    encoder = moon_embedding.encoder()
    return ChainSettings(
        market=MarketSettings(
            num_products=1_200, num_merchants=60, num_shoppers=240, num_impressions=120_000
        ),
        encoder=encoder,
        posttrain=moon_embedding.posttraining(encoder, num_steps=450),
        clicks=mim.click_model(),
        training=mim.training().but(batch_size=512),
    )


def own(size: ChainSettings) -> ChainSettings:
    """A size's chain on a dataset that is there already, with the plain two-tower beside the encoder."""
    return size.but(market=None, two_tower=moon_embedding.two_tower(size.encoder))


RECIPES: dict[str, Callable[[], ChainSettings]] = {
    "nano": nano, "tiny": tiny, "study": study, "content": content,
}  # fmt: skip
