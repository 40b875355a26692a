"""The one page for people, rendered on the server: the search form, shoppers to search as, results, errors.

The form works without a script; `static/page.js` adds dropping a picture, a preview, and results without a
reload.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request

from moontide.catalog.dataset import Dataset
from moontide.foundation.seeds import hash_share
from moontide.serving.answer import Answer
from moontide.serving.pipeline import Pipeline
from moontide.serving.request import LIMITS, MAX_ID, MAX_TEXT, decoded

NUM_EXAMPLES = 6
NUM_THUMBNAILS = 4


@dataclass(frozen=True)
class ShopperCard:
    """A shopper one can search as: what the past is mostly about, and its latest pictures."""

    shopper_id: str
    tastes: list[str]
    image_ids: list[str]
    num_products: int


class Page:
    """Renders the page of one pipeline; examples and shoppers are picked once."""

    num_products = 16

    def __init__(self, pipeline: Pipeline):
        self._pipeline = pipeline
        self._texts, self._pictures = _examples(pipeline.dataset)
        self._shoppers = [self._card(shopper) for shopper in pipeline.stock.sample_shoppers()]
        environment = Environment(
            loader=PackageLoader("moontide.serving"),
            autoescape=True,  # of every template, whatever its ending
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        currency = str(pipeline.dataset.info.get("currency", "$"))
        environment.filters |= {
            "money": lambda cents: "" if cents is None else f"{currency}{cents / 100:,.2f}",
            "percent": lambda share: "–" if share is None else f"{100 * share:.1f}%",
            "path": lambda text: quote(text, safe="/"),
            "query": lambda text: quote(text, safe=""),
        }
        self._template = environment.get_template("page.html.j2")
        self._fragment = environment.get_template("results.html.j2")

    def render(
        self,
        request: Request,
        answer: Answer | None,
        text: str = "",
        like: str = "",
        shopper: str = "",
        upload: bytes | None = None,
        error: str | None = None,
    ) -> str:
        """The page, or its results alone when the request has the header `x-fragment`.

        Args:
            answer: None before anything is asked, or with `error`.
            text, like, shopper: what the form is filled with.
            upload: the picture searched with, shown small beside the results; one of the shop is `like`.
        """
        template = self._fragment if request.headers.get("x-fragment") else self._template
        shopper = shopper[:MAX_ID]
        return template.render(
            answer=answer,
            error=error,
            text=text[:MAX_TEXT],
            like="" if error else like,
            shopper=shopper,
            picture=_small(upload) if upload and answer else None,
            shoppers=self._cards(shopper),
            example_texts=self._texts,
            example_pictures=self._pictures,
            max_text=MAX_TEXT,
            max_bytes=LIMITS.max_bytes,
            num_products=len(self._pipeline.stock.products),
            num_advertised=len(self._pipeline.stock.campaigns),
        )

    def _card(self, shopper_id: str) -> ShopperCard:
        stock = self._pipeline.stock
        rows = stock.past(shopper_id).rows
        pictures = [stock.products[row].image_ids[0] for row in rows if stock.products[row].image_ids]
        return ShopperCard(shopper_id, stock.tastes(shopper_id), pictures[:NUM_THUMBNAILS], len(rows))

    def _cards(self, shopper_id: str) -> list[ShopperCard]:
        """The shoppers on offer, and first the one searched as if it is another."""
        if not shopper_id or any(card.shopper_id == shopper_id for card in self._shoppers):
            return self._shoppers
        return [self._card(shopper_id), *self._shoppers]


def _examples(dataset: Dataset) -> tuple[list[str], list[str]]:
    """Texts and pictures to try, the same ones every time: past queries, else titles and main pictures."""
    queries = dataset.table("queries")
    texts = {" ".join(text.split()) for text in queries["text"].to_pylist() if text}
    pictures = {image_id for image_id in queries["image_id"].to_pylist() if image_id}
    if not texts or not pictures:
        products = dataset.table("products", ["title", "image_ids"])
        texts = texts or {title for title in products["title"].to_pylist() if title}
        pictures = pictures or {images[0] for images in products["image_ids"].to_pylist() if images}
    pictures = {image_id for image_id in pictures if image_id in dataset.images}
    short = {text for text in texts if len(text) <= 40} or {text for text in texts if len(text) <= MAX_TEXT}
    return _some(short), _some(pictures)


def _some(values: set[str]) -> list[str]:
    return sorted(values, key=hash_share)[:NUM_EXAMPLES]


def _small(image: bytes) -> str:
    """A checked picture as a small `data:` address, for it is not kept on the server."""
    picture = decoded(image)
    picture.thumbnail((144, 144))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
