"""Who advertises what: campaigns with bids and budgets, and the merchants behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from moontide.foundation.seeds import stream
from moontide.market.products import Merchant

STATUS = {"active": 0.92, "paused": 0.06, "ended": 0.02}


def sample_campaigns(
    sold: Iterable[tuple[str, str, int]], merchants: list[Merchant], share: float, seed: int
) -> list[dict[str, Any]]:
    """Rows of the `campaigns` table: about `share` of the products are advertised, one campaign each.

    Bids are lognormal around 30 cents a click and rise slowly with the price; large merchants advertise more
    of their products and with larger daily budgets.

    Args:
        sold: product_id, merchant_id, price_cents.
    """
    tiers = {merchant.merchant_id: merchant.tier for merchant in merchants}
    rows = []
    for product_id, merchant_id, price_cents in sold:
        rng = stream(seed, "campaign", product_id)
        size = {"large": 1.0, "medium": 0.4}.get(tiers.get(merchant_id, "small"), 0.0)
        if rng.random() >= share * (1 + 0.2 * (1 - share) * (size - 0.35)):
            continue
        bid = 30 * math.exp(rng.normal(0, 0.55)) * (price_cents / 4_000) ** 0.25
        budget = 400 * math.exp(rng.normal(0.8 * size, 1.0))
        bid_cents = max(5, round(bid))
        rows.append(
            {
                "campaign_id": f"a-{product_id}",
                "merchant_id": merchant_id,
                "product_id": product_id,
                "bid_cents": bid_cents,
                "daily_budget_cents": max(5 * bid_cents, round(budget)),
                "status": str(rng.choice(list(STATUS), p=list(STATUS.values()))),
            }
        )
    return rows


def merchant_rows(merchants: list[Merchant]) -> list[dict[str, Any]]:
    """Rows of the `merchants` table."""
    return [
        {
            "merchant_id": merchant.merchant_id,
            "tier": merchant.tier,
            "allows_title_changes": merchant.allows_title_changes,
            "banned_selling_points": list(merchant.banned),
        }
        for merchant in merchants
    ]
