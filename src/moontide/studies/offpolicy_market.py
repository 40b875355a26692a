"""Off-policy estimates against the market's truth: what a new policy's click rate will be, and then was.

What the market's log can and cannot say. Its policy shows its ranking, but to one request in ten (epsilon)
the candidates in random order, and logs for each place

    p_slate = (1 - epsilon) [ranked here] + epsilon / candidates        p_creative = 1 / creatives, at random

- By place this is exact: places are looked at and judged one by one, so a place is an action.
- It is no chance of a whole slate: the product of its places' p_slate is not one, so slates have no IPS.
- p_creative supports any choice of creatives; policies that draw them at random need no weight for it.
- Nothing is charged on random slates and a price depends on the place below: revenue has no estimate here.
- Candidates are not in the events. From events alone two targets can be weighed: the ranking without chance,
  and chance alone (`log_rows`). Any other must be asked what it would show while requests pass (`Recorder`).
- A place's p_slate does not say where else the policy might have put the product. That takes its ranking,
  which `Recorder` asks for; weights by position need it, and gain much: any place a product had then counts.
- Requests are those of shoppers who met the logging policy. A policy that leads them elsewhere, uses up
  budgets or bores them differs by that when it is played: `played` beside `same requests`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.isotonic import IsotonicRegression

from moontide.catalog.dataset import Dataset
from moontide.foundation.errors import DataError
from moontide.market.policy import Policy, PopularityPolicy, Requests, Slates, word_relevance
from moontide.market.traffic import run
from moontide.market.world import World
from moontide.studies.experiment import ExperimentSettings
from moontide.studies.grid import Cell, as_markdown, run_grid
from moontide.studies.offpolicy import CrossFit, Logged, OverlapSettings, estimate_rows, weights

EPSILON = 0.1  # of the shop's earlier policy
SHRINK = 20.0  # impressions a past click rate is shrunk by

Targets = Mapping[str, Callable[[World], Policy]]


# ---- from the events alone


def log_rows(dataset: Dataset, epsilon: float = EPSILON) -> dict[str, tuple[Logged, float]]:
    """The log's impressions weighted for its ranking without chance and for chance alone, with the truth.

    A request was drawn at random where a place has p_slate under 1/2. The truth is the mean true chance of a
    click over the requests that were in fact ranked, or random: chance dealt them out, so they stand for all.

    Returns:
        "ranking", "random" -> (rows, truth).
    """
    events = dataset.table(
        "events", ["event_id", "kind", "request_id", "shopper_id", "product_id", "p_slate"]
    )
    shown = events.filter(pc.equal(events.column("kind"), "impression"))
    clicked = events.filter(pc.equal(events.column("kind"), "click"))
    truth = dataset.truth("impressions").column("p_click").to_numpy()
    p_slate = shown.column("p_slate").to_numpy()
    if not len(p_slate) or not np.isfinite(p_slate).all():
        raise DataError(f"the log of {dataset.path} has impressions without p_slate: nothing can be weighed")
    request, shopper = (_codes(shown.column(name)) for name in ("request_id", "shopper_id"))
    keys = [
        pc.binary_join_element_wise(t.column("request_id"), t.column("product_id"), " ")
        for t in (shown, clicked)
    ]
    reward = pc.is_in(keys[0], value_set=keys[1].combine_chunks()).to_numpy().astype(float)
    is_ranked = p_slate > 0.5
    is_random = np.zeros(request.max() + 1, bool)
    is_random[request[~is_ranked]] = True
    by_chance = p_slate - (1 - epsilon) * is_ranked  # epsilon / candidates
    found = {}
    for name, p_target, own in (
        ("ranking", is_ranked.astype(float), ~is_random[request]),
        ("random", by_chance / epsilon, is_random[request]),
    ):
        found[name] = Logged(reward, weights(p_target, p_slate), shopper), float(truth[own].mean())
    return found


def examination_curve(dataset: Dataset) -> np.ndarray:
    """(places,) how often each place is looked at, the first 1, from the clicks on the log's random slates.

    Falling clicks by place are made monotone (isotonic); nothing of the hidden truth is read.
    """
    events = dataset.table("events", ["kind", "request_id", "position", "p_slate"])
    shown = events.filter(pc.equal(events.column("kind"), "impression"))
    request = shown.column("request_id")
    names = pc.unique(request.filter(pc.less(shown.column("p_slate"), 0.5)))
    count = np.bincount(shown.filter(pc.is_in(request, value_set=names)).column("position").to_numpy())
    clicked = events.filter(pc.equal(events.column("kind"), "click"))
    clicked = clicked.filter(pc.is_in(clicked.column("request_id"), value_set=names))
    clicks = np.bincount(clicked.column("position").to_numpy(), minlength=len(count))
    if not clicks.any():
        raise DataError(f"the log of {dataset.path} has no click on a random slate: log with exploration")
    rate = IsotonicRegression(increasing=False).fit_transform(
        np.arange(len(count)), clicks / np.maximum(count, 1), sample_weight=count
    )
    return rate / rate[0]


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return pc.dictionary_encode(column).combine_chunks().indices.to_numpy()


# ---- while requests pass


@dataclass(frozen=True)
class PastRates:
    """Log odds of a click in the log, shrunk to the mean: by product, leaf category and shopper code."""

    product: np.ndarray
    leaf: np.ndarray
    shopper: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, world: World) -> PastRates:
        """The rates of a dataset's log, in the codes of its world."""
        events = dataset.table("events", ["kind", "product_id", "shopper_id"])
        counts = {}
        for kind in ("impression", "click"):
            own = events.filter(pc.equal(events.column("kind"), kind))
            for name, ids in (("product", world.product_ids), ("shopper", world.shopper_ids)):
                code = pc.index_in(own.column(f"{name}_id"), value_set=pa.array(ids, pa.string()))
                counts[kind, name] = np.bincount(code.drop_null().to_numpy(), minlength=len(ids))
            counts[kind, "leaf"] = np.bincount(
                world.shelf.leaf, counts[kind, "product"], len(world.shelf.leaves)
            )
        mean = counts["click", "product"].sum() / max(counts["impression", "product"].sum(), 1)
        columns = []
        for name in ("product", "leaf", "shopper"):
            rate = (counts["click", name] + SHRINK * mean) / (counts["impression", name] + SHRINK)
            rate = np.clip(rate, 1e-4, 1 - 1e-4)
            columns.append(np.log(rate / (1 - rate)))
        return cls(*columns)


class Recorder:
    """The logging policy at work, with what targets would have shown for the same requests.

    Targets see what the logging policy's slates led to: their state is part of the context. Rows are places
    with a product; `logged(target)` weighs them.

    Args:
        policy: of the log; asked twice, once without chance, for its ranking.
        targets: policies whose choice of products is not random.
        rates: for the reward model.
        curve: from `examination_curve`.
    """

    name = "recorded"

    def __init__(
        self,
        world: World,
        policy: PopularityPolicy,
        targets: Mapping[str, Policy],
        rates: PastRates,
        curve: np.ndarray,
    ):
        self.world, self.policy, self.targets, self.rates = world, policy, targets, rates
        self.curve = np.pad(curve, (0, max(policy.slots - len(curve), 0)), mode="edge")[: policy.slots]
        self._rows: dict[str, list[np.ndarray]] = {}

    def decide(self, requests: Requests) -> Slates:
        """The logging policy's slates; asks the targets beside it, before anything is clicked."""
        epsilon, self.policy.epsilon = self.policy.epsilon, 0.0
        try:
            self._ranked = self.policy.decide(requests).product
        finally:
            self.policy.epsilon = epsilon
        slates = self.policy.decide(requests)
        self._asked = {name: target.decide(requests) for name, target in self.targets.items()}
        self._truth = {name: self._true_chance(requests, each) for name, each in self._asked.items()}
        return slates

    def observe(self, requests: Requests, slates: Slates, clicks: np.ndarray) -> None:
        """Note the rows and pass on what happened."""
        is_real, batch = slates.product >= 0, len(requests)
        num = (requests.candidates >= 0).sum(1)[:, None]
        place = np.broadcast_to(np.arange(slates.product.shape[1]), slates.product.shape)
        total = np.cumsum(self.curve)[np.minimum(num, len(self.curve)) - 1]
        ranked = _place_of(slates.product, self._ranked)
        shopper = np.broadcast_to(requests.shopper[:, None], place.shape)
        self._note(is_real, "", {
            "reward": clicks, "place": place, "shopper": shopper, "p_slate": slates.p_slate,
            "looks": self._expected_look(ranked, num, total), "features": self._features(requests, slates),
        })  # fmt: skip
        for name, asked in self._asked.items():
            if not np.array_equal(asked.product >= 0, is_real):
                raise DataError(f"the policy {name} fills other places than the logging policy")
            if (asked.p_slate[is_real] < 1).any():
                raise DataError(f"the policy {name} draws its products at random: give one that ranks them")
            given = _place_of(slates.product, asked.product)
            in_rank = _place_of(asked.product, self._ranked) == place
            chance = (1 - self.policy.epsilon) * in_rank + self.policy.epsilon / num
            self._note(is_real, name, {
                "given": given, "creative": _creative_ratio(slates, asked, given),
                "uncovered": chance <= 0, "truth": self._truth[name],
                "features": self._features(requests, asked),
            })  # fmt: skip
        for policy in (self.policy, *self.targets.values()):
            policy.observe(requests, slates, clicks)
        assert batch == len(clicks)

    def logged(self, target: str, by_position: bool = False) -> Logged:
        """The rows weighted for a target, at the very place or by position."""
        row = {name: self._column("", name) for name in ("reward", "place", "shopper", "p_slate", "looks")}
        own = {name: self._column(target, name) for name in ("given", "creative", "uncovered")}
        given, place = own["given"].astype(int), row["place"].astype(int)
        if by_position:
            weight = np.where(given >= 0, self.curve[np.maximum(given, 0)], 0.0) / row["looks"]
            weight *= own["creative"]
            control = weight * self.curve[place] / self.curve[place].mean()
        else:
            weight = weights((given == place) * 1.0, row["p_slate"]) * own["creative"]
            control = weight
        model = self._model()
        return Logged(
            row["reward"], weight, row["shopper"].astype(int), model.predict(self._column("", "features")),
            model.predict(self._column(target, "features")), own["uncovered"], control,
        )  # fmt: skip

    def truth(self, target: str) -> float:
        """Mean true chance of a click on what the target would have shown."""
        return float(self._column(target, "truth").mean())

    @property
    def click_rate(self) -> float:
        """Of the log itself."""
        return float(self._column("", "reward").mean())

    def _model(self) -> CrossFit:
        if not hasattr(self, "_fitted"):
            features, reward, shopper = (self._column("", name) for name in ("features", "reward", "shopper"))
            self._fitted = CrossFit(features, reward, shopper)
        return self._fitted

    def _note(self, is_real: np.ndarray, owner: str, columns: Mapping[str, np.ndarray]) -> None:
        for name, values in columns.items():
            self._rows.setdefault(f"{owner}/{name}", []).append(values[is_real].astype(np.float64))

    def _column(self, owner: str, name: str) -> np.ndarray:
        parts = self._rows.get(f"{owner}/{name}")
        if not parts:
            raise DataError(f"nothing was recorded for {owner or 'the log'}: play some requests first")
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]

    def _expected_look(self, ranked: np.ndarray, num: np.ndarray, total: np.ndarray) -> np.ndarray:
        """(B, K) sum over places of the log's chance of the product there times the look at the place."""
        own = np.where(ranked >= 0, self.curve[np.maximum(ranked, 0)], 0.0)
        return (1 - self.policy.epsilon) * own + self.policy.epsilon / num * total

    def _true_chance(self, requests: Requests, slates: Slates) -> np.ndarray:
        shape = slates.product.shape
        rows = [np.repeat(part, shape[1]) for part in (requests.at, requests.shopper, requests.query)]
        place = np.tile(np.arange(shape[1]), shape[0])
        chance = self.world.p_click(*rows, slates.product.ravel(), slates.creative.ravel(), place)
        return chance.reshape(shape)

    def _features(self, requests: Requests, slates: Slates) -> np.ndarray:
        """(B, K, F) what the reward model sees of a product in a place: nothing hidden."""
        shown = np.maximum(slates.product, 0)
        relevance = word_relevance(self.world, replace(requests, candidates=slates.product))
        shopper = np.broadcast_to(self.rates.shopper[requests.shopper][:, None], shown.shape)
        columns = [
            relevance, self.rates.product[shown], self.rates.leaf[self.world.shelf.leaf[shown]], shopper,
            np.log(self.world.shelf.price[shown]), slates.bid_cents > 0,
        ]  # fmt: skip
        places = np.broadcast_to(np.eye(shown.shape[1]), (*shown.shape, shown.shape[1]))
        return np.concatenate([np.stack(columns, axis=2), places], axis=2)


def _place_of(product: np.ndarray, slate: np.ndarray) -> np.ndarray:
    """(B, K) where each product stands in another slate (B, K), -1 where it does not."""
    same = (product[:, :, None] == slate[:, None, :]) & (product >= 0)[:, :, None]
    return np.where(same.any(2), same.argmax(2), -1)


def _creative_ratio(slates: Slates, asked: Slates, given: np.ndarray) -> np.ndarray:
    """(B, K) the target's chance of the creative shown over the log's; 1 where both draw alike."""
    at = np.maximum(given, 0)
    chance = np.take_along_axis(asked.p_creative, at, axis=1)
    is_same = np.take_along_axis(asked.creative, at, axis=1) == slates.creative
    ratio = np.where(is_same, chance / np.maximum(slates.p_creative, 1e-12), 0.0)
    return np.where(np.isclose(chance, slates.p_creative), 1.0, ratio)


# ---- against the truth


def off_policy_cell(
    dataset: Dataset,
    targets: Targets,
    settings: ExperimentSettings,
    seed: int,
    limits: OverlapSettings | None = None,
    epsilon: float = EPSILON,
) -> dict[str, Any]:
    """Estimate targets from days after the log, then play each on the same visits.

    Args:
        targets: name -> what makes the policy in a world as the log left it.
        settings: of the days that are logged. epsilon: share of requests that the log draws at random.

    Returns:
        "log": click rate of the log. "rows": of `estimate_rows` by target and weighting ("place",
        "position"), each with "same requests" and "played", the two truths.
    """
    world = World.open(dataset)
    policies = {name: make(world) for name, make in targets.items()}
    policy = PopularityPolicy(world, seed, epsilon)
    recorder = Recorder(world, policy, policies, PastRates.of(dataset, world), examination_curve(dataset))
    _play(world, recorder, settings, seed)
    rows = []
    for name, make in targets.items():
        fresh = World.open(dataset)
        facts = {"target": name, "same requests": recorder.truth(name)}
        facts |= {"played": _play(fresh, make(fresh), settings, seed)}
        for weighting in ("place", "position"):
            for row in estimate_rows(recorder.logged(name, weighting == "position"), limits):
                if row["estimator"] != "DM" or weighting == "place":
                    rows.append(
                        facts | {"weighting": weighting if row["estimator"] != "DM" else "none"} | row
                    )
    return {"log": recorder.click_rate, "rows": rows}


def _play(world: World, policy: Policy, settings: ExperimentSettings, seed: int) -> float:
    """Mean true chance of a click of one policy on the days after the log."""
    arm = np.zeros(len(world.shoppers), np.int64)
    chance = shown = 0.0
    for batch in run(
        world, [policy], arm, settings.num_requests, world.end_ms, settings.days, seed, "off-policy"
    ):
        is_real = batch.slates.product >= 0
        chance, shown = chance + float(batch.p_click[is_real].sum()), shown + float(is_real.sum())
    return chance / shown


def off_policy_study(
    folder: Path,
    dataset: Dataset,
    targets: Targets,
    num_seeds: int = 10,
    settings: ExperimentSettings | None = None,
    limits: OverlapSettings | None = None,
    max_minutes: float | None = None,
) -> list[dict[str, Any]]:
    """Estimators against the truth over many logs of the market; cells in `folder`, resumable.

    Returns:
        rows of `summary_rows`.
    """
    settings = settings or ExperimentSettings(num_requests=10_000, days=5)
    facts = {"dataset": dataset.fingerprint(), **settings.model_dump(), "targets": sorted(targets)}
    facts |= (limits or OverlapSettings()).model_dump()
    cells = [Cell(f"log-{seed:03d}", facts | {"seed": seed}) for seed in range(num_seeds)]

    def compute(cell: Cell) -> dict[str, Any]:
        return off_policy_cell(dataset, targets, settings, cell.settings["seed"], limits)

    found = run_grid(folder, cells, compute, max_minutes=max_minutes)
    return summary_rows([entry["result"] for entry in found])


def summary_rows(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Target by estimator: the mean error relative to the truth with its interval, its size, how often the
    95 % interval held the truth, effective rows, and how many logs were refused.

    Errors are against "same requests", which is what the estimators estimate; "played" stands beside it.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        for row in cell["rows"]:
            groups.setdefault((row["target"], row["weighting"], row["estimator"]), []).append(row)
    table = []
    for (target, weighting, estimator), rows in groups.items():
        truth = np.array([row["same requests"] for row in rows])
        error = np.array([row["value"] for row in rows]) / truth - 1
        reach = 1.96 * error.std(ddof=1) / np.sqrt(len(error)) if len(error) > 1 else np.nan
        holds = [row["low"] <= t <= row["high"] for row, t in zip(rows, truth, strict=True)]
        effective = [row["effective rows"] for row in rows if "effective rows" in row]
        table.append({
            "target": target, "weighting": weighting, "estimator": estimator, "logs": len(rows),
            "same requests": float(truth.mean()), "played": float(np.mean([row["played"] for row in rows])),
            "estimate": float(np.mean([row["value"] for row in rows])), "error": float(error.mean()),
            "error_low": float(error.mean() - reach), "error_high": float(error.mean() + reach),
            "root mean square": float(np.sqrt((error**2).mean())), "covered": float(np.mean(holds)),
            "effective rows": float(np.mean(effective)) if effective else None,
            "refused": sum(row["refused"] is not None for row in rows),
        })  # fmt: skip
    return table


def summary_markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of `summary_rows` as Markdown."""
    shown = []
    for row in rows:
        texts = {name: f"{row[name]:.3%}" for name in ("same requests", "played", "estimate")}
        texts["error"] = f"{row['error']:+.1%} ({row['error_low']:+.1%} to {row['error_high']:+.1%})"
        texts |= {name: f"{row[name]:.0%}" for name in ("root mean square", "covered")}
        if row["effective rows"] is not None:
            texts["effective rows"] = f"{row['effective rows']:,.0f}"
        shown.append({**row, **texts})
    columns = ("target", "weighting", "estimator", "same requests", "played", "estimate", "error",
               "root mean square", "covered", "effective rows", "refused", "logs")  # fmt: skip
    return as_markdown(columns, shown)
