"""The marginals of a click log beside what public logs show: is the market believable?

Only the log is read, so any dataset with events can be looked at. The public column quotes what is known of
public data sets; it is there to compare with, and nothing was fitted to it but the click-through rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import DataError

DAY_MS, HOUR_MS = 86_400_000, 3_600_000


@dataclass(frozen=True)
class Marginal:
    """One figure of a log: its value as text, and what is known of public data ("" if nothing is)."""

    name: str
    value: str
    public: str = ""


def market_report(dataset: Dataset) -> list[Marginal]:
    """The marginals of a dataset's log.

    Raises:
        DataError: it has no events, or no impressions.
    """
    dataset.require("market report", "products", "events")
    columns = ["kind", "at", "shopper_id", "query_id", "product_id", "campaign_id", "position"]
    columns += ["charge_cents", "request_id", "p_slate"]
    events = dataset.table("events", columns)
    of = {kind: events.filter(pc.equal(events.column("kind"), kind)) for kind in ("impression", "click")}
    of |= {kind: events.filter(pc.equal(events.column("kind"), kind)) for kind in ("search", "cart", "order")}
    if not len(of["impression"]):
        raise DataError(f"{dataset.path} has no impressions: nothing was shown")
    return [
        *_rates(of),
        *_popularity(of),
        *_shoppers(of),
        *_products(dataset, of),
        *_queries(dataset, of),
        *_money(of),
    ]


def _rates(of: dict[str, pa.Table]) -> Iterator[Marginal]:
    shown, clicked = of["impression"], of["click"]
    yield Marginal("impressions", f"{len(shown):,}")
    public = "1 to 5 % in search ads; Open Bandit 0.5 to 0.7 %, Taobao-MM 13.7 % after sampling"
    yield Marginal("click-through rate", f"{len(clicked) / len(shown):.2%}", public)
    place = _numbers(shown, "position")
    if len(place):
        looks = np.maximum(np.bincount(place), 1)
        at_place = np.bincount(_numbers(clicked, "position"), minlength=len(looks))[: len(looks)] / looks
        text = f"{at_place[0]:.2%} first, {at_place[-1]:.2%} last"
        yield Marginal("click-through rate by place", text, "falls with the place")
    for kind, of_what in (("cart", "click"), ("order", "click")):
        yield Marginal(f"{kind}s a {of_what}", f"{len(of[kind]) / max(len(of[of_what]), 1):.3f}")
    wait = _after_click(of["order"], of["click"])
    if len(wait):
        text = f"median {np.median(wait):.1f} h, one in ten above {np.quantile(wait, 0.9):.0f} h"
        yield Marginal("order after click", text, "hours to days")
    day = _numbers(shown, "at") // DAY_MS
    by_day = np.bincount(day - day.min())
    text = f"{by_day[by_day > 0].min():,} to {by_day.max():,}"
    yield Marginal("impressions a day", text)


def _popularity(of: dict[str, pa.Table]) -> Iterator[Marginal]:
    count = np.sort(_counts(of["click"], "product_id"))[::-1]
    if not len(count):
        return
    head = max(1, len(count) // 10)
    yield Marginal("clicks on the top tenth of clicked products", f"{count[:head].sum() / count.sum():.0%}")
    rank = np.arange(1, len(count) + 1)
    middle = (rank >= 5) & (count >= 3)
    if middle.sum() > 5:
        slope = np.polyfit(np.log(rank[middle]), np.log(count[middle]), 1)[0]
        yield Marginal("Zipf exponent of clicks", f"{-slope:.2f}", "a heavy tail")


def _shoppers(of: dict[str, pa.Table]) -> Iterator[Marginal]:
    shown, clicks = _counts(of["impression"], "shopper_id"), _counts(of["click"], "shopper_id")
    text = f"median {np.median(shown):,.0f}, one in ten above {np.quantile(shown, 0.9):,.0f}"
    yield Marginal("impressions of a shopper", text, "TaobaoAd: 23 on average in 8 days")
    if len(clicks):
        text = f"median {np.median(clicks):,.0f}, one in ten above {np.quantile(clicks, 0.9):,.0f}"
        yield Marginal("clicks of a shopper", text, "Taobao-MM keeps up to 1,000")
    requests = len(of["search"])
    visits = _numbers(of["search"], "at") // HOUR_MS % 24
    evening = float(((visits >= 18) & (visits < 23)).mean()) if requests else 0.0
    yield Marginal("searches from 18 to 23 h", f"{evening:.0%}", "the daily peak")


def _products(dataset: Dataset, of: dict[str, pa.Table]) -> Iterator[Marginal]:
    products = dataset.table("products", ["product_id", "created_at"])
    at = _numbers(of["impression"], "at")
    created = products.column("created_at").cast(pa.int64()).fill_null(0).to_numpy()
    row = pc.index_in(of["impression"].column("product_id"), products.column("product_id"))
    row = row.drop_null().to_numpy().astype(np.int64)
    is_new = created[row] >= at.min()
    text = f"{(created >= at.min()).mean():.0%} of products, {is_new.mean():.0%} of impressions"
    yield Marginal("products that arrived during the log", text, "a steady share")
    seen = len(np.unique(row))
    yield Marginal("products ever shown", f"{seen / len(products):.0%}")
    if of["impression"].column("p_slate").null_count < len(at):
        p = of["impression"].column("p_slate").drop_null().to_numpy()
        text = f"from {p.min():.4f} to {p.max():.3f}"
        yield Marginal("propensity of what was shown", text, "logged and above 0")


def _queries(dataset: Dataset, of: dict[str, pa.Table]) -> Iterator[Marginal]:
    asked = of["search"].column("query_id")
    count = np.sort(_counts(of["search"], "query_id"))[::-1]
    if not len(count):
        return
    head = max(1, len(count) // 100)
    yield Marginal("distinct queries", f"{len(count):,} of {count.sum():,} searches")
    text = f"{count[:head].sum() / count.sum():.0%}; asked once: {(count == 1).mean():.0%} of queries"
    yield Marginal("searches with the top hundredth of queries", text, "head and tail")
    queries = dataset.table("queries")
    row = pc.index_in(asked, queries.column("query_id")).drop_null().to_numpy().astype(np.int64)
    has = {name: queries.column(name).is_valid().to_numpy()[row] for name in ("text", "image_id")}
    shares = {
        "text": has["text"] & ~has["image_id"],
        "picture": has["image_id"] & ~has["text"],
        "both": has["text"] & has["image_id"],
    }
    yield Marginal("searches by", ", ".join(f"{name} {share.mean():.0%}" for name, share in shares.items()))


def _money(of: dict[str, pa.Table]) -> Iterator[Marginal]:
    shown = of["impression"]
    is_ad = shown.column("campaign_id").is_valid().to_numpy()
    yield Marginal("impressions that are ads", f"{is_ad.mean():.0%}")
    charge = of["click"].column("charge_cents").drop_null().to_numpy()
    if len(charge):
        rpm = charge.sum() / len(shown) * 1000 / 100
        yield Marginal("price of a click", f"median {np.median(charge):.0f} cents")
        yield Marginal("revenue of 1,000 impressions (RPM)", f"{rpm:.2f}")


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column without its empty values, as integers."""
    return table.column(name).drop_null().cast(pa.int64()).to_numpy()


def _counts(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).drop_null().value_counts().field("counts").to_numpy()


def _after_click(orders: pa.Table, clicks: pa.Table) -> np.ndarray:
    """Hours from the click of the same request and product to each order."""
    keys = ["request_id", "product_id"]
    both = orders.select([*keys, "at"]).join(clicks.select([*keys, "at"]), keys, right_suffix="_click")
    if not len(both):
        return np.zeros(0)
    return (_numbers(both, "at") - _numbers(both, "at_click")) / HOUR_MS
