"""How fast simulated shoppers shop: impressions a minute by policy, on one core; the goal is a million.

The market is small, the requests are many: what is timed is needs, matching, the policy, the true choice and
the memory of a shopper, request after request, not the drawing of pictures.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from moontide.foundation.device import threads
from moontide.market.build import build_market
from moontide.market.policy import OraclePolicy, PopularityPolicy, RandomPolicy
from moontide.market.settings import MarketSettings
from moontide.market.traffic import run
from moontide.market.world import World

GOAL = 1_000_000
REQUESTS = 12_000


def main() -> None:
    settings = MarketSettings(
        num_products=1_000, num_merchants=60, num_shoppers=400, num_impressions=8_000, image_side=64,
        images_per_product=1, creatives_per_product=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, threads(1):
        dataset = build_market(Path(folder) / "market", settings)
        print("| policy | impressions a minute | of the goal |\n|---|---|---|")
        for name in ("random", "popularity", "truth"):
            world = World.open(dataset)
            policy = {
                "random": RandomPolicy(settings.slots),
                "popularity": PopularityPolicy(world),
                "truth": OraclePolicy(world),
            }[name]
            arm, shown, began = np.zeros(len(world.shoppers), int), 0, time.perf_counter()
            for batch in run(world, [policy], arm, REQUESTS, world.end_ms, 14, 0, "benchmark"):
                shown += int((batch.slates.product >= 0).sum())
            rate = 60 * shown / (time.perf_counter() - began)
            print(f"| {name} | {rate:,.0f} | {rate / GOAL:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
