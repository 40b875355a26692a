"""One request, from a text or a picture to ads and products: the whole path in one process.

    check ─► encode the query ─► retrieve ads and products ─► relevance floor ─► p(click)
        ─► auction ─► creative of each ad ─► order of the products ─► answer with a trace

Every part but the dataset may be missing: its step then does with less and says so in the trace. Left out for
now: budgets spent during a day, selling points, exploration, and the logging of what was served.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pydantic

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import MoontideError
from moontide.foundation.runs import Run
from moontide.foundation.settings import Settings
from moontide.serving.answer import Ad, Answer, Shown, Step, Trace
from moontide.serving.parts import Parts, dataset_of, load_parts
from moontide.serving.placement import CreativeChoice, Place, hold_auction, quality_of
from moontide.serving.request import Request, checked
from moontide.serving.retrieval import Candidates, Retrieval
from moontide.serving.stock import Past, Stock


class PipelineSettings(Settings):
    """How a request is answered."""

    num_ads: int = pydantic.Field(4, ge=0, le=20, description="places for ads")
    num_candidates: int = pydantic.Field(
        100, ge=1, le=1000, description="rows retrieved for ads, and again for products"
    )
    relevance_margin: float = pydantic.Field(
        0.3, gt=0, description="cosine below the best product's at which an ad is dropped"
    )
    click_power: float = pydantic.Field(
        0.5, ge=0, description="power of p(click) in the order of organic products"
    )
    alpha: float = pydantic.Field(1.0, ge=0, description="power of p(click) in the auction's rank score")
    reserve_cents: float = pydantic.Field(1.0, ge=0, description="least price of a click, cents")


class Pipeline:
    """Answers searches over one dataset. Use `Pipeline.load`; tests build one from parts.

    Args:
        dataset: what is sold.
        stock: the dataset's part that is kept in memory.
        parts: encoder, vectors and click model, as far as they are there.
    """

    def __init__(
        self, dataset: Dataset, stock: Stock, parts: Parts, settings: PipelineSettings | None = None
    ):
        self.dataset, self.stock, self.parts = dataset, stock, parts
        self.settings = settings or PipelineSettings()
        self._retrieval = Retrieval(stock, parts)
        self._creatives = CreativeChoice(stock, parts, self._retrieval)
        self._reading = threading.Lock()  # the image store's cache is one for all requests

    @classmethod
    def load(cls, run_path: Path | str, settings: PipelineSettings | None = None) -> Pipeline:
        """The pipeline of a run folder; any part but the dataset may be missing.

        Raises:
            CheckpointError: there is no run at `run_path`.
            DataError: its dataset is gone.
        """
        run = Run.open(run_path)
        dataset = dataset_of(run)
        stock = Stock.load(dataset)
        return cls(dataset, stock, load_parts(run, dataset, stock), settings)

    def image(self, image_id: str) -> bytes | None:
        """The bytes of a stored picture, None if the dataset has none of that id."""
        with self._reading:
            if image_id not in self.dataset.images:
                return None
            return self.dataset.images[image_id]

    def search(
        self,
        text: str | None = None,
        image: bytes | None = None,
        shopper_id: str | None = None,
        num: int = 12,
    ) -> Answer:
        """Answer one search.

        Args:
            text: what is looked for, at most 300 characters.
            image: a JPEG, PNG or WebP picture of it, at most 8 MB.
            shopper_id: whose past is used; None or an unknown id is a stranger.
            num: organic products wanted, 1 to 48.

        Raises:
            RequestError: the request is out of bounds.
        """
        trace = Trace()
        with trace.step("check") as step:
            request = checked(text, image, shopper_id, num)
            past = self._past(request, step)
        with trace.step("encode") as step:
            query = self._encode(request, step)
        with trace.step("retrieve") as step:
            ads, products = self._retrieval.search(request, query, self.settings.num_candidates, step)
        with trace.step("relevance") as step:
            ads, cut = self._relevant(ads, products, step)
        with trace.step("rank") as step:
            p_click = self._rank(request, past, query, ads, products, step)
        with trace.step("auction") as step:
            places = self._place(ads, cut, p_click, step)
        with trace.step("creative") as step:
            shown_ads = self._dress(places, past, p_click, step)
        with trace.step("order") as step:
            shown = self._order(products, cut, p_click, {place.row for place in places}, num, step)
        versions = dict(self.parts.versions)
        is_image = request.image is not None
        return Answer(request.text, is_image, request.shopper_id, shown_ads, shown, versions, trace)

    def _past(self, request: Request, step: Step) -> Past:
        past = self.stock.past(request.shopper_id)
        who = "a shopper without a past" if request.shopper_id else "no shopper named"
        step.text = f"{len(past.rows)} products in the shopper's past" if len(past.rows) else who
        return past

    def _encode(self, request: Request, step: Step) -> np.ndarray | None:
        if self.parts.shard is None:
            step.text = "skipped: there are no vectors to compare with"
            return None
        if self.parts.encoder is None:
            step.degrade(self.parts.missing.get("encode", "no encoder"))
            return None
        try:
            query = self.parts.encoder.encode_query(request.text, request.image)
        except MoontideError as error:
            step.degrade(str(error))
            return None
        what = " and ".join(name for name in ("text", "image") if getattr(request, name))
        step.text = f"{what.replace('image', 'picture')} to {len(query)} numbers"
        return query

    def _relevant(self, ads: Candidates, products: Candidates, step: Step) -> tuple[Candidates, float]:
        """The ads above the floor, and the floor: the best product's relevance less the margin."""
        best = float(products.relevance[0]) if len(products.rows) else 0.0
        cut = best - self.settings.relevance_margin
        kept = ads.above(cut)
        step.text = f"{len(kept.rows)} of {len(ads.rows)} ads are above {cut:.3f}"
        return kept, cut

    def _rank(
        self,
        request: Request,
        past: Past,
        query: np.ndarray | None,
        ads: Candidates,
        products: Candidates,
        step: Step,
    ) -> dict[int, float]:
        """p(click) by row; empty without a click model."""
        rows = np.unique(np.concatenate([ads.rows, products.rows]))
        if self.parts.clicks is None:
            step.degrade(f"{self.parts.missing.get('rank', 'no click model')}: ordered by relevance alone")
            return {}
        if not len(rows):
            step.text = "no candidates"
            return {}
        try:
            p_click = self.parts.clicks.p_click(request, past, query, rows)
        except MoontideError as error:
            step.degrade(f"{error}: ordered by relevance alone")
            return {}
        step.text = f"{len(rows)} candidates scored"
        return dict(zip(rows.tolist(), map(float, p_click), strict=True))

    def _place(self, ads: Candidates, cut: float, p_click: dict[int, float], step: Step) -> list[Place]:
        # Without a click model every ad is taken as equally likely to be clicked.
        p = np.array([p_click.get(int(row), 1.0) for row in ads.rows])
        quality = quality_of(ads.relevance, cut, self.settings.relevance_margin)
        settings = self.settings
        places = hold_auction(
            ads, self.stock, p, quality, settings.num_ads, settings.alpha, settings.reserve_cents
        )
        step.text = f"{len(ads.rows)} bidders for {settings.num_ads} places, {len(places)} filled"
        return places

    def _dress(self, places: list[Place], past: Past, p_click: dict[int, float], step: Step) -> list[Ad]:
        """The places as ads, each with its picture."""
        taste = self._creatives.taste(past)
        if places:
            step.text = "nearest to the shopper's past" if taste is not None else "the plain picture of each"
        if places and self.parts.creatives is None:
            step.degrade(self.parts.missing.get("creative", "creatives have no vectors"))
        ads = []
        for place in places:
            creative = self._creatives.choose(place.row, taste)
            campaign = self.stock.campaigns[place.row]
            facts = self._facts(place.row, place.relevance, p_click)
            if creative is not None:
                facts["image_id"] = creative.image_id
            ads.append(
                Ad(
                    **facts,
                    campaign_id=campaign.campaign_id,
                    creative_id=creative.creative_id if creative else None,
                    template=creative.template if creative else None,
                    bid_cents=campaign.bid_cents,
                    charge_cents=place.charge_cents,
                    rank_score=place.rank_score,
                )
            )
        return ads

    def _order(
        self,
        products: Candidates,
        cut: float,
        p_click: dict[int, float],
        advertised: set[int],
        num: int,
        step: Step,
    ) -> list[Shown]:
        """Organic products by quality · p(click)^power, then relevance; those shown as ads are left out."""
        quality = quality_of(products.relevance, cut, self.settings.relevance_margin)
        p = np.array([p_click.get(int(row), 1.0) for row in products.rows])
        order = np.lexsort((-products.relevance, -quality * p**self.settings.click_power))
        kept = [at for at in order if int(products.rows[at]) not in advertised][:num]
        step.text = f"{len(kept)} products, " + ("relevance and p(click)" if p_click else "relevance alone")
        return [
            Shown(**self._facts(int(products.rows[at]), float(products.relevance[at]), p_click))
            for at in kept
        ]

    def _facts(self, row: int, relevance: float, p_click: dict[int, float]) -> dict:
        product = self.stock.products[row]
        return {
            "product_id": product.product_id,
            "title": product.title,
            "brand": product.brand,
            "category": product.category,
            "price_cents": product.price_cents,
            "image_id": product.image_ids[0] if product.image_ids else None,
            "relevance": relevance,
            "p_click": p_click.get(row),
        }
