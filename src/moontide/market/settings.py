"""The size and kind of a simulated market; how its shoppers behave is fixed in `choice.py`.

Recipes choose sizes. Nothing here changes what a shopper likes: `ChoiceSettings` is versioned and separate,
so that no comparison of models can move it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pydantic

from moontide.foundation.settings import Settings

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday; the first day of a drawn market's log


class MarketSettings(Settings):
    """How large a market is and what it lacks; the defaults are the size of the demo.

    Every shopper sees `num_impressions / num_shoppers` results; at a click-through rate of about 3 % the
    defaults leave a shopper with some ten clicks, one in ten with more than thirty.

    Example:
        >>> MarketSettings(num_merchants=10, num_products=5)
        Traceback (most recent call last):
        moontide.foundation.errors.SettingsError: MarketSettings: num_merchants must not exceed ...
    """

    num_products: int = pydantic.Field(4_000, ge=20, description="products ever sold, new ones included")
    images_per_product: int = pydantic.Field(
        3, ge=1, le=8, description="pictures of one product; first is main"
    )
    creatives_per_product: int = pydantic.Field(
        2, ge=0, le=8, description="ad pictures of one advertised product"
    )
    image_side: int = pydantic.Field(112, ge=32, le=1024, description="side of every picture, pixels")
    num_merchants: int = pydantic.Field(200, ge=1, description="merchants that share the products")
    advertised_share: float = pydantic.Field(0.6, ge=0, le=1, description="products with a campaign, share")
    new_share: float = pydantic.Field(0.3, ge=0, lt=1, description="products created inside the log, share")
    annotated_share: float = pydantic.Field(0.1, ge=0, le=1, description="pictures with a known box, share")
    num_shoppers: int = pydantic.Field(800, ge=10, description="shoppers who visit during the log")
    num_impressions: int = pydantic.Field(
        430_000, ge=1_000, description="places of all slates in the log; some one in twenty stays empty"
    )
    days: int = pydantic.Field(28, ge=2, le=3650, description="length of the log, days")
    slots: int = pydantic.Field(8, ge=1, le=50, description="results of one request, advertised and organic")
    num_candidates: int = pydantic.Field(24, ge=2, le=200, description="products matched to one request")
    image_queries: float = pydantic.Field(0.15, ge=0, le=1, description="requests asked by a picture, share")
    mixed_queries: float = pydantic.Field(0.05, ge=0, le=1, description="requests by picture and text, share")
    first_day: datetime = pydantic.Field(START, description="midnight UTC at which the log begins")
    blind: bool = pydantic.Field(
        False, description="control market: looks and words play no role for shoppers"
    )

    @pydantic.model_validator(mode="after")
    def _agree(self) -> MarketSettings:
        if self.num_merchants > self.num_products:
            raise ValueError(
                f"num_merchants must not exceed num_products ({self.num_products}), got {self.num_merchants}"
            )
        if self.num_candidates < self.slots:
            raise ValueError(
                f"num_candidates must be at least slots ({self.slots}), got {self.num_candidates}"
            )
        if self.image_queries + self.mixed_queries > 1:
            asked = self.image_queries + self.mixed_queries
            raise ValueError(f"image_queries + mixed_queries must not exceed 1, got {asked}")
        return self

    @property
    def start(self) -> datetime:
        """The first moment of the log (UTC)."""
        return self.first_day

    @property
    def end(self) -> datetime:
        """The moment after the log's last visit (UTC)."""
        return self.first_day + timedelta(days=self.days)
