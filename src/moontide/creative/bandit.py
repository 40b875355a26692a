"""A bandit over the creatives of many products: Beta beliefs, chances computed, creatives drawn from these.

    p(i) = explore / N + (1 - explore) rule(i),      rule: Thompson sampling or top-two

A share `explore` of requests is a bucket that draws uniformly, whatever is believed; its log is fair to every
later question. The chance logged with each choice is exact: the rule's chances are integrated (`best_of.py`)
and the creative is drawn from them, so that no estimate stands between what is logged and what was done.

Paper: Creative4U 3.7 (ours; top-two and its stop rule analog TTTS, reported).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pydantic

from moontide.creative.best_of import p_best, top_two
from moontide.creative.prior import PriorExport
from moontide.creative.records import CreativeStat
from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.seeds import seed_of
from moontide.foundation.settings import Settings
from moontide.foundation.storage import read_json, write_json

log = logging.getLogger(__name__)
FORMAT = "moontide beta bandit 1"


class BanditSettings(Settings):
    """How a bandit chooses, when it stops, and how much one update may say."""

    rule: Literal["thompson", "top_two"] = pydantic.Field("thompson", description="what it draws by")
    coin: float = pydantic.Field(0.5, gt=0, le=1, description="top-two: chance to show the first one drawn")
    explore: float = pydantic.Field(0.05, ge=0, le=1, description="share of requests drawn uniformly")
    delta: float = pydantic.Field(
        0.05, ge=0, lt=0.5, description="top-two: stop where P(best) > 1 - delta; 0: never"
    )
    settle_after: int = pydantic.Field(
        100, ge=0, description="impressions every creative of a product needs before it may stop"
    )
    most: int = pydantic.Field(
        100_000, ge=1, description="impressions of a creative that one row of an update may count for"
    )
    seed: int = pydantic.Field(0, description="of the draws")


@dataclass(frozen=True)
class Choices:
    """What was chosen at each request.

    Args:
        slot: number of the creative within its product.
        p_creative: chance with which it was chosen, bucket and rule together: the propensity to log.
        is_explored: the request fell into the uniform bucket.
    """

    slot: np.ndarray
    p_creative: np.ndarray
    is_explored: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """The creative to show for one product, and what to log with it."""

    product_id: str
    creative_id: str
    p_creative: float
    is_explored: bool


class BetaBandit:
    """Beliefs Beta(alpha, beta) about the rate of each creative.

    Args:
        alpha, beta: (products, creatives) prior, above 0; see `prior.py`.
        settings: rule, exploration, stop.
        is_real: (products, creatives), False where a product has fewer creatives. None: all are real.
        names: product id and creative ids of each row, for `choose_for` and `learn`.

    Raises:
        DataError: shapes that differ, a product without creatives, or a prior that is not above 0.
    """

    def __init__(
        self,
        alpha: np.ndarray,
        beta: np.ndarray,
        settings: BanditSettings | None = None,
        is_real: np.ndarray | None = None,
        names: Sequence[tuple[str, Sequence[str]]] | None = None,
    ):
        self.alpha0, self.beta0 = np.array(alpha, dtype=np.float64), np.array(beta, dtype=np.float64)
        self.settings = settings or BanditSettings()
        self.is_real = np.ones(self.alpha0.shape, bool) if is_real is None else np.array(is_real, dtype=bool)
        if self.alpha0.ndim != 2 or not self.alpha0.shape == self.beta0.shape == self.is_real.shape:
            raise DataError(
                f"priors must be two equal tables, got {self.alpha0.shape} and {self.beta0.shape}"
            )
        if not self.is_real.any(1).all():
            raise DataError(f"product {int(self.is_real.any(1).argmin())} has no creative: leave it out")
        for prior in (self.alpha0, self.beta0):
            if not ((prior > 0) & np.isfinite(prior))[self.is_real].all():
                raise DataError("alpha and beta of a prior must be finite and above 0: take kappa above 0")
            prior[~self.is_real] = 1.0
        self.names = [(product, tuple(creatives)) for product, creatives in names or ()]
        self._row = {product: row for row, (product, _) in enumerate(self.names)}
        self.impressions, self.clicks = np.zeros(self.alpha0.shape), np.zeros(self.alpha0.shape)
        self.refused: Counter[str] = Counter()
        self._rng = np.random.default_rng(seed_of(self.settings.seed, "beta bandit"))
        self._p_best, self._is_old = np.zeros(self.alpha0.shape), np.ones(len(self.alpha0), bool)

    @classmethod
    def of_priors(cls, priors: Iterable[PriorExport], settings: BanditSettings | None = None) -> Self:
        """A bandit from exported priors, products in the order they come.

        Raises:
            DataError: no priors, or a creative twice.
        """
        by_product: dict[str, dict[str, PriorExport]] = {}
        for one in priors:
            rows = by_product.setdefault(one.product_id, {})
            if one.creative_id in rows:
                raise DataError(f"creative {one.creative_id!r} has two priors: give one")
            rows[one.creative_id] = one
        if not by_product:
            raise DataError("no priors: export at least one product's")
        shape = (len(by_product), max(map(len, by_product.values())))
        alpha, beta, is_real = np.ones(shape), np.ones(shape), np.zeros(shape, bool)
        for row, ones in enumerate(by_product.values()):
            alpha[row, : len(ones)] = [one.alpha0 for one in ones.values()]
            beta[row, : len(ones)] = [one.beta0 for one in ones.values()]
            is_real[row, : len(ones)] = True
        return cls(alpha, beta, settings, is_real, [(name, list(ones)) for name, ones in by_product.items()])

    # --- beliefs ---

    @property
    def alpha(self) -> np.ndarray:
        """(products, creatives) prior and clicks."""
        return self.alpha0 + self.clicks

    @property
    def beta(self) -> np.ndarray:
        """(products, creatives) prior and impressions without a click."""
        return self.beta0 + self.impressions - self.clicks

    @property
    def mean(self) -> np.ndarray:
        """(products, creatives) rate believed in: (alpha0 + clicks) / (kappa + impressions)."""
        return self.alpha / (self.alpha + self.beta)

    def p_best(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(rows, creatives) chance of each creative to be the best one of its product; None: all products."""
        rows = np.arange(len(self.alpha0)) if rows is None else self._rows(rows)
        old = np.unique(rows[self._is_old[rows]])
        if len(old):
            self._p_best[old] = p_best(self.alpha[old], self.beta[old], self.is_real[old])
            self._is_old[old] = False
        return self._p_best[rows]

    def is_settled(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Whether top-two stops at a product: the best one is shown outside the bucket.

        Every creative must have been seen `settle_after` times: a prior alone settles nothing. Clicks of the
        bucket can open a product again.
        """
        rows = np.arange(len(self.alpha0)) if rows is None else self._rows(rows)
        if self.settings.rule != "top_two" or self.settings.delta == 0:
            return np.zeros(len(rows), bool)
        is_seen = (self.impressions[rows] >= self.settings.settle_after) | ~self.is_real[rows]
        return (self.p_best(rows).max(1) > 1 - self.settings.delta) & is_seen.all(1)

    def p_choice(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(rows, creatives) chance of each creative to be chosen, by bucket and rule together."""
        rows = np.arange(len(self.alpha0)) if rows is None else self._rows(rows)
        unique, place = np.unique(rows, return_inverse=True)
        explore = self.settings.explore
        return ((1 - explore) * self._p_rule(unique) + explore * self._uniform(unique))[place]

    # --- requests ---

    def choose(self, rows: np.ndarray) -> Choices:
        """A creative for each request.

        Args:
            rows: (requests,) number of the product asked for; one may come many times.

        Raises:
            DataError: a number of no product.
        """
        rows = self._rows(rows)
        unique, place = np.unique(rows, return_inverse=True)
        rule, uniform = self._p_rule(unique), self._uniform(unique)
        is_explored = self._rng.random(len(rows)) < self.settings.explore
        p = np.where(is_explored[:, None], uniform[place], rule[place])
        edge = p.cumsum(1)
        drawn = self._rng.random(len(rows))
        slot = (edge / edge[:, -1:] <= drawn[:, None]).sum(1)
        both = (1 - self.settings.explore) * rule + self.settings.explore * uniform
        return Choices(slot, both[place, slot], is_explored)

    def choose_for(self, product_ids: Sequence[str]) -> list[Chosen]:
        """A creative for each request, by ids.

        Raises:
            DataError: a product the bandit does not know.
        """
        missing = [one for one in product_ids if one not in self._row]
        if missing:
            raise DataError(f"the bandit does not know product {missing[0]!r}: export its prior first")
        rows = np.array([self._row[one] for one in product_ids], dtype=np.int64)
        found = self.choose(rows)
        return [
            Chosen(name, self.names[row][1][slot], float(p), bool(is_explored))
            for name, row, slot, p, is_explored in zip(
                product_ids, rows, found.slot, found.p_creative, found.is_explored, strict=True
            )
        ]

    def update(self, rows: np.ndarray, slots: np.ndarray, impressions: np.ndarray, clicks: np.ndarray) -> int:
        """Count what was seen; rows that cannot be are left out and counted in `refused` by reason.

        A row of more than `most` impressions counts as `most`, at its rate: a broken counter can then be
        outvoted. The prior is never touched.

        Returns:
            rows counted.

        Raises:
            DataError: columns of different length.
        """
        rows, slots = np.asarray(rows, dtype=np.int64), np.asarray(slots, dtype=np.int64)
        shown, clicked = np.asarray(impressions, dtype=np.float64), np.asarray(clicks, dtype=np.float64)
        if len({one.shape for one in (rows, slots, shown, clicked)}) > 1:
            raise DataError(
                f"an update needs columns of equal length, got {len(rows)}, {len(slots)}, {len(shown)} and "
                f"{len(clicked)}"
            )
        inside = (rows >= 0) & (rows < len(self.alpha0)) & (slots >= 0) & (slots < self.alpha0.shape[1])
        inside[inside] = self.is_real[rows[inside], slots[inside]]
        faults = {
            "unknown creative": ~inside,
            "not a number": ~(np.isfinite(shown) & np.isfinite(clicked)),
            "below 0": (shown < 0) | (clicked < 0),
            "more clicks than impressions": clicked > shown,
        }
        good = np.ones(len(rows), bool)
        for reason, is_fault in faults.items():
            self._refuse(reason, int((good & is_fault).sum()))
            good &= ~is_fault
        rows, slots, shown, clicked = rows[good], slots[good], shown[good], clicked[good]
        share = np.minimum(1.0, self.settings.most / np.maximum(shown, 1.0))
        self._refuse("too many impressions, cut", int((share < 1).sum()))
        np.add.at(self.impressions, (rows, slots), shown * share)
        np.add.at(self.clicks, (rows, slots), clicked * share)
        self._is_old[rows] = True
        return len(rows)

    def learn(self, stats: Iterable[CreativeStat]) -> int:
        """`update` by ids: counts of one more stretch of time.

        Returns:
            rows counted.
        """
        places = {
            (product, creative): (row, slot)
            for row, (product, creatives) in enumerate(self.names)
            for slot, creative in enumerate(creatives)
        }
        found = [
            (*places.get((stat.product_id, stat.creative_id), (-1, -1)), stat.impressions, stat.clicks)
            for stat in stats
        ]
        columns = np.array(found, dtype=np.float64).reshape(-1, 4).T
        return self.update(columns[0], columns[1], columns[2], columns[3])

    # --- state ---

    def save(self, path: Path | str) -> None:
        """Write beliefs, settings and the state of the draws as JSON; `load` goes on as if never stopped.

        Raises:
            StorageError: the place cannot be written.
        """
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        state: dict[str, Any] = {
            "format": FORMAT,
            "settings": self.settings.model_dump(),
            "names": self.names,
        }
        state |= {"draws": self._rng.bit_generator.state, "refused": dict(self.refused), **arrays}
        write_json(Path(path), state)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """A bandit as it was saved.

        Raises:
            CheckpointError: the file is none of a bandit.
            StorageError: it is missing, or no JSON.
        """
        state = read_json(Path(path))
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no saved bandit: give a file that `BetaBandit.save` wrote")
        settings = BanditSettings(**state["settings"])
        bandit = cls(
            np.array(state["alpha0"]), np.array(state["beta0"]), settings, state["is_real"], state["names"]
        )
        bandit.impressions, bandit.clicks = np.array(state["impressions"]), np.array(state["clicks"])
        bandit.refused = Counter(state["refused"])
        bandit._rng.bit_generator.state = state["draws"]
        return bandit

    # --- parts ---

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self.alpha0)):
            raise DataError(
                f"products are numbered 0 to {len(self.alpha0) - 1}, got {rows.min()} to {rows.max()}"
            )
        return rows

    def _uniform(self, rows: np.ndarray) -> np.ndarray:
        return self.is_real[rows] / self.is_real[rows].sum(1, keepdims=True)

    def _p_rule(self, rows: np.ndarray) -> np.ndarray:
        best = self.p_best(rows)
        if self.settings.rule == "thompson":
            return best
        one_hot = np.zeros_like(best)
        one_hot[np.arange(len(rows)), best.argmax(1)] = 1.0
        open_ones = top_two(best, self.is_real[rows], self.settings.coin)
        return np.where(self.is_settled(rows)[:, None], one_hot, open_ones)

    def _refuse(self, reason: str, num: int) -> None:
        if num:
            self.refused[reason] += num
            log.warning("%d rows of counts of creatives: %s", num, reason)


_ARRAYS = ("alpha0", "beta0", "is_real", "impressions", "clicks")
