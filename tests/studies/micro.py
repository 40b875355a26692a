"""The settings of the smallest chain that has every stage."""

from moontide.encoder.model.encoder import EncoderSettings
from moontide.encoder.stages.posttrain import PosttrainSettings
from moontide.encoder.stages.pretrain import PretrainSettings
from moontide.market.settings import MarketSettings
from moontide.ranking.models import ClickSettings
from moontide.ranking.train import TrainSettings
from moontide.studies.chain import ChainSettings
from moontide.studies.experiment import ExperimentSettings

MICRO = ChainSettings(
    market=MarketSettings(
        num_products=100, num_merchants=8, num_shoppers=40, num_impressions=4_000, days=6, image_side=56,
        images_per_product=2, creatives_per_product=1,
    ),
    encoder=EncoderSettings(depth=1, image_side=56, vocab_size=600, dim=32, widths=(16, 32)),
    pretrain=PretrainSettings(num_steps=3, batch_size=8, checkpoint_every=2, log_every=1),
    posttrain=PosttrainSettings(num_steps=8, batch_size=16, checkpoint_every=2, log_every=1),
    clicks=ClickSettings(hidden=(16,), width=8, attention=8, history=10),
    training=TrainSettings(batch_size=256),
    exports=False,  # a quarter of a minute
    experiment=ExperimentSettings(num_requests=300, days=1),
)  # fmt: skip
