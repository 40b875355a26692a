"""Open Bandit Dataset: fashion shown at random and by Thompson sampling, with propensities.

Each policy's click rate is estimated from the other's log and compared with its own. `random` shows every
item of a campaign equally often. `bts` samples by its belief, which it renews through the week, so an item's
chance at a place changes: for a row of the random log it is taken from the nearest earlier row of the bts log
with the same item and place (the first one, before that), and made to sum to 1 over items. That is an
approximation; in the other direction the logged propensities serve as they are.

Data: Saito et al. (2020), ZOZO, CC BY 4.0; nothing of it is in the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moontide.foundation.errors import DataError
from moontide.foundation.statistics import wilson_interval
from moontide.studies.offpolicy import CrossFit, Logged, OverlapSettings, estimate_rows, weights

COLUMNS = ("behavior_policy", "campaign", "timestamp", "item_id", "position", "click", "propensity_score")
POLICIES = ("random", "bts")


@dataclass(frozen=True)
class BanditLog:
    """Impressions of one campaign by one policy, in order of time; all arrays (rows,).

    Args:
        at_ms: UTC ms. item: code from 0. place: from 0. click: 0 or 1. propensity: chance of the item there.
        num_items: of the campaign.
    """

    at_ms: np.ndarray
    item: np.ndarray
    place: np.ndarray
    click: np.ndarray
    propensity: np.ndarray
    num_items: int

    def __len__(self) -> int:
        return len(self.item)


def read_open_bandit(folder: Path | str) -> dict[tuple[str, str], BanditLog]:
    """(policy, campaign) -> log.

    Raises:
        DataError: the files are not those of the dataset.
    """
    folder = Path(folder)
    try:
        table = pq.read_table(folder / "impressions.parquet", columns=list(COLUMNS))
        items = pq.read_table(folder / "item_context.parquet", columns=["campaign", "item_id"])
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{folder} is not the Open Bandit Dataset ({error}): it has impressions.parquet"
        ) from None
    num_items = {
        name: int(pc.sum(pc.equal(items.column("campaign"), name)).as_py())
        for name in pc.unique(table.column("campaign")).to_pylist()  # items are also listed under "all"
    }
    logs = {}
    for policy in POLICIES:
        for campaign in sorted(num_items):
            is_own = pc.and_(
                pc.equal(table.column("behavior_policy"), policy),
                pc.equal(table.column("campaign"), campaign),
            )
            own = table.filter(is_own).sort_by("timestamp")
            column = {name: own.column(name).to_numpy() for name in COLUMNS[2:]}
            at_ms = column["timestamp"].astype("datetime64[ms]").astype(np.int64)
            logs[policy, campaign] = BanditLog(
                at_ms, column["item_id"], column["position"] - 1, column["click"],
                column["propensity_score"], num_items[campaign],
            )  # fmt: skip
    return logs


def chances_at(log: BanditLog, at_ms: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(rows, items) a policy's chance of each item at the place and moment of other rows.

    Read off the log itself, see the module's text; rows sum to 1.
    """
    found = np.zeros((len(at_ms), log.num_items))
    for number in range(int(log.place.max()) + 1):
        rows = np.flatnonzero(place == number)
        for item in range(log.num_items):
            own = np.flatnonzero((log.place == number) & (log.item == item))
            if len(own) and len(rows):
                latest = np.searchsorted(log.at_ms[own], at_ms[rows], side="right") - 1
                found[rows, item] = log.propensity[own[np.maximum(latest, 0)]]
    total = found.sum(1, keepdims=True)
    return np.where(total > 0, found / np.maximum(total, 1e-300), 1 / log.num_items)


def weighted_for(log: BanditLog, chance: np.ndarray, seed: int = 0) -> Logged:
    """A log weighted for a policy with `chance` (rows, items); the reward model knows item and place."""
    taken = np.take_along_axis(chance, log.item[:, None], axis=1)[:, 0]
    places = np.eye(int(log.place.max()) + 1)[log.place]
    one_of = np.eye(log.num_items)
    model = CrossFit(np.hstack([places, one_of[log.item]]), log.click, seed=seed, strength=10.0)
    target = np.zeros(len(log))
    for item in range(log.num_items):
        alike = np.broadcast_to(one_of[item], (len(log), log.num_items))
        target += chance[:, item] * model.predict(np.hstack([places, alike]))
    return Logged(
        log.click.astype(float),
        weights(taken, log.propensity),
        model_logged=model.predict(np.hstack([places, one_of[log.item]])),
        model_target=target,
    )


def open_bandit_rows(folder: Path | str, settings: OverlapSettings | None = None) -> list[dict[str, Any]]:
    """Each policy's click rate from the other's log, beside its own: rows of `offpolicy.estimates_markdown`.

    `truth` is the target's own click rate where it ran, with its 95 % interval in truth_low and truth_high:
    some fifty clicks, so it is itself known to about a third. `z` is the difference over the standard error
    of both.
    """
    logs, rows = read_open_bandit(folder), []
    campaigns = sorted({campaign for _, campaign in logs})
    for campaign in campaigns:
        for logged, target in (("random", "bts"), ("bts", "random")):
            log, own = logs[logged, campaign], logs[target, campaign]
            if target == "random":
                chance = np.full((len(log), log.num_items), 1 / log.num_items)
            else:
                chance = chances_at(own, log.at_ms, log.place)
            truth = wilson_interval(int(own.click.sum()), len(own))
            facts: dict[str, Any] = {"campaign": campaign, "log": logged, "target": target}
            facts |= {"truth": truth.value, "truth_low": truth.low, "truth_high": truth.high}
            for row in estimate_rows(weighted_for(log, chance), settings):
                error = math.hypot((row["high"] - row["low"]) / 3.92, truth.standard_error)
                rows.append(facts | row | {"z": (row["value"] - truth.value) / error})
    return rows
