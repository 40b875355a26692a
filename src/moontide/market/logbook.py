"""What happened in a market as rows of the `events` table, and the true click chances beside them.

Batches are kept as numbers until the end, then sorted by time and written piece by piece, so that text costs
memory for one piece only. What lies after the end of the span (an order that comes later) is not in the log,
as it would not be in a shop's.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from moontide.catalog.dataset import DatasetWriter
from moontide.catalog.schema import SCHEMAS, conform
from moontide.market.traffic import SECOND_MS, Batch
from moontide.market.world import World

KINDS = ("search", "facet", "impression", "click", "cart", "order")  # at one moment, in this order
PIECE_ROWS = 131_072
CODES = (
    "kind", "at", "request", "visit", "shopper", "query", "product", "creative", "position", "bid", "charge",
    "paid", "facet", "model",
)  # fmt: skip
CHANCES = ("p_slate", "p_creative", "p_click", "attraction")


class Logbook:
    """Takes batches as they come and writes `events` and `truth/impressions`.

    Args:
        world: whose codes the batches speak in.
        policy: name of the policy that made the log.
        facet: gives (key, value) of a facet box, see `Matching.facet`.
    """

    def __init__(self, world: World, policy: str, facet):
        self.world, self.policy, self._facet = world, policy, facet
        self._codes: list[np.ndarray] = []
        self._chances: list[np.ndarray] = []
        self._models: list[str | None] = []
        self.num_impressions = 0

    def add(self, batch: Batch, model_version: str | None = None) -> None:
        """Note a batch; `model_version` is that of the policy when it decided."""
        if model_version not in self._models:
            self._models.append(model_version)
        model = self._models.index(model_version)
        requests, slates = batch.requests, batch.slates
        common = {"request": requests.request_ids, "visit": batch.visit, "shopper": requests.shopper}
        common |= {"query": requests.query, "model": np.full(len(requests), model)}
        self._append("search", requests.at, common)
        ticked = batch.facet >= 0
        facets = {name: column[ticked] for name, column in common.items()} | {"facet": batch.facet[ticked]}
        self._append("facet", requests.at[ticked] - SECOND_MS, facets)
        row, place = np.nonzero(slates.product >= 0)
        self.num_impressions += len(row)
        shown = {name: column[row] for name, column in common.items()}
        shown |= {"product": slates.product[row, place], "creative": slates.creative[row, place]}
        shown |= {"position": place, "bid": slates.bid_cents[row, place]}
        examined = self.world.examination(requests.shopper[row], place)
        p_click = batch.p_click[row, place]
        chances = np.stack(
            [slates.p_slate[row, place], slates.p_creative[row, place], p_click, p_click / examined], axis=1
        )
        self._append("impression", requests.at[row], shown, chances)
        for kind, at, what, amount in (
            ("click", batch.click_at, "charge", batch.charge_cents),
            ("cart", batch.cart_at, "", None),
            ("order", batch.order_at, "paid", batch.order_cents),
        ):
            happened = at[row, place] > 0
            columns = {name: column[happened] for name, column in shown.items()}
            if amount is not None:
                columns[what] = amount[row, place][happened]
            self._append(kind, at[row, place][happened], columns)

    def _append(
        self, kind: str, at: np.ndarray, columns: dict[str, np.ndarray], chances: np.ndarray | None = None
    ) -> None:
        rows = np.full((len(at), len(CODES)), -1, np.int64)
        rows[:, 0], rows[:, 1] = KINDS.index(kind), at
        for name, column in columns.items():
            rows[:, CODES.index(name)] = column
        self._codes.append(rows)
        blank = np.full((len(at), len(CHANCES)), np.nan)
        self._chances.append((blank if chances is None else chances).astype(np.float32))

    def write(self, writer: DatasetWriter, end_ms: int) -> int:
        """Write what happened before `end_ms` in order of time; gives the number of events."""
        codes, chances = np.concatenate(self._codes), np.concatenate(self._chances)
        self._codes, self._chances = [], []
        kept = codes[:, 1] < end_ms
        codes, chances = codes[kept], chances[kept]
        column = {name: number for number, name in enumerate(CODES)}
        order = np.lexsort((codes[:, column["position"]], codes[:, 0], codes[:, 2], codes[:, 1]))
        codes, chances = codes[order], chances[order]
        truth = []
        for start in range(0, len(codes), PIECE_ROWS):
            piece, odds = codes[start : start + PIECE_ROWS], chances[start : start + PIECE_ROWS]
            event_id = pa.array([f"e{number:09d}" for number in range(start, start + len(piece))])
            writer.append("events", self._table(event_id, dict(zip(CODES, piece.T, strict=True)), odds))
            is_shown = piece[:, 0] == KINDS.index("impression")
            truth.append(
                pa.table(
                    {
                        "event_id": event_id.filter(pa.array(is_shown)),
                        "p_click": odds[is_shown, CHANCES.index("p_click")],
                        "attraction": odds[is_shown, CHANCES.index("attraction")],
                    }
                )
            )
        if truth:
            writer.put_truth("impressions", pa.concat_tables(truth))
        return len(codes)

    def _table(self, event_id: pa.Array, codes: dict[str, np.ndarray], odds: np.ndarray) -> pa.Table:
        world, shelf = self.world, self.world.shelf
        is_shown = codes["kind"] == KINDS.index("impression")
        is_request = codes["kind"] <= KINDS.index("facet")
        campaign = np.where(codes["product"] >= 0, shelf.campaign[np.maximum(codes["product"], 0)], -1)
        is_ad = codes["bid"] > 0
        boxes = [self._facet(key) for key in codes["facet"][codes["facet"] >= 0]]
        ticked = np.where(codes["facet"] >= 0, np.cumsum(codes["facet"] >= 0) - 1, -1)
        columns = {
            "event_id": event_id,
            "request_id": pa.array([f"r{number:08d}" for number in codes["request"].tolist()]),
            "visit_id": pa.array([f"v{number:07d}" for number in codes["visit"].tolist()]),
            "at": pa.array(codes["at"]).cast(SCHEMAS["events"].field("at").type),
            "shopper_id": _texts(world.shopper_ids, codes["shopper"]),
            "kind": _texts(KINDS, codes["kind"]),
            "query_id": _texts(world.query_ids, codes["query"]),
            "product_id": _texts(world.product_ids, codes["product"]),
            "campaign_id": _texts(shelf.campaign_ids, np.where(is_ad, campaign, -1)),
            "creative_id": _texts(world.creative_ids, codes["creative"]),
            "facet_key": _texts([key for key, _ in boxes], ticked),
            "facet_value": _texts([value for _, value in boxes], ticked),
            "position": _known(codes["position"], codes["position"] >= 0),
            "bid_cents": _known(codes["bid"], is_ad),
            "charge_cents": _known(codes["charge"], (codes["charge"] >= 0) & is_ad),
            "order_cents": _known(codes["paid"], codes["paid"] >= 0),
            "policy": _texts([self.policy], np.where(is_request, -1, 0)),
            "p_slate": _known(odds[:, 0], is_shown),
            "p_creative": _known(odds[:, 1], is_shown),
            "model_version": _texts(
                [name or "" for name in self._models],
                np.where(is_request | np.isin(codes["model"], self._unversioned()), -1, codes["model"]),
            ),
        }
        return conform("events", pa.table(columns))

    def _unversioned(self) -> list[int]:
        return [number for number, name in enumerate(self._models) if name is None]


def _texts(names: list[str] | tuple[str, ...], codes: np.ndarray) -> pa.Array:
    """Names by code, null where the code is below 0."""
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def _known(values: np.ndarray, is_known: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~is_known)
