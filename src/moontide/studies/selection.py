"""What a judge is worth where creatives are chosen: the best one of each product, and the start of a bandit.

On held-out products of a simulated market, whose true rates are known:

    uplift = sum over products of the rate of the chosen creative / sum of the mean rate of its creatives - 1
    a bandit's day = its chances at that moment x true rates; then it sees so many impressions, and learns
    regret = (best rate - expected rate) x impressions, summed over days
    saved  = impressions a bandit with a flat prior needs until it expects the same CTR, less those it needs
             with the judge's

Half of the products fit eta of the prior, the other half are measured. All bandits know the same overall CTR.
The flat prior's kappa is the one of several that earns most, in its favor; the judge's is given beforehand.
Intervals draw products; each product's figures are means over the simulation's seeds.

Paper: Creative4U 3.6 to 3.8 (ours; uplift analog CG4CTR, replay analog Peri-CR).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from moontide.catalog.dataset import Dataset
from moontide.creative.bandit import BanditSettings, BetaBandit
from moontide.creative.image_ranker import smoothed_ctr
from moontide.creative.prior import PriorSettings, export_priors, fit_eta
from moontide.creative.prompt import Asked
from moontide.creative.ranking import bradley_terry
from moontide.creative.records import CreativePair
from moontide.creative.replay import Replay, replay, replay_bandit, top_k_uplift
from moontide.creative.texts import MAX_TITLE_CHARS, clean_text, top_queries
from moontide.foundation.errors import DataError
from moontide.foundation.progress import track
from moontide.foundation.seeds import hash_share, stream
from moontide.foundation.settings import Settings
from moontide.foundation.statistics import Interval, bootstrap_statistic
from moontide.market.creative_test import Contexts
from moontide.studies.counterfactual import Compare, plain

Strengths = Mapping[str, Sequence[np.ndarray]]
"""By judge, of each training seed: (products, creatives) strengths in log-odds."""
Prior = tuple[np.ndarray, np.ndarray]
"""(alpha, beta) tables of the measured products."""
FLAT, UNIFORM, BEST = "bandit, flat prior", "uniform", "truly best"


class SelectionSettings(Settings):
    """Size of the comparison."""

    max_products: int = pydantic.Field(300, ge=4, description="held-out products, half of them for eta")
    num_queries: int = pydantic.Field(5, ge=0, description="frequent queries a judge is told")
    days: int = pydantic.Field(28, ge=1, description="days of the bandits")
    impressions: int = pydantic.Field(200, ge=1, description="impressions of a product and day")
    kappa: float = pydantic.Field(200.0, gt=0, le=200, description="pseudo-impressions of a judge's prior")
    flat_kappas: tuple[float, ...] = pydantic.Field(
        (10.0, 50.0, 200.0), min_length=1, description="those tried of the flat prior; the best one is taken"
    )
    counted: tuple[int, ...] = pydantic.Field(
        (50, 200, 1000), description="impressions of a creative, after which the highest counted CTR is taken"
    )
    eta_impressions: int = pydantic.Field(1000, ge=1, description="of each creative, where eta is fitted")
    replay_impressions: int = pydantic.Field(200, ge=1, description="of each creative in the replayed log")
    seeds: int = pydantic.Field(5, ge=1, description="simulations")


@dataclass(frozen=True)
class Field:
    """Products with their creatives, by number; (products, creatives) tables padded on the right.

    Args:
        product_ids: by row. creative_ids, images: by row and slot. titles, queries: by row.
        rate: true expected CTR; is_real: where there is a creative.
        is_measured: (products,) False where eta is fitted.
    """

    product_ids: list[str]
    creative_ids: list[list[str]]
    images: list[list[bytes]]
    titles: list[str]
    queries: list[tuple[tuple[str, int], ...]]
    rate: np.ndarray
    is_real: np.ndarray
    is_measured: np.ndarray

    @classmethod
    def of(
        cls, dataset: Dataset, contexts: Contexts, product_ids: Sequence[str], settings: SelectionSettings
    ) -> Field:
        """The held-out products that have at least two creatives, all of them with a picture.

        Raises:
            DataError: fewer than four of them.
        """
        shelf = contexts.world.shelf
        place = {name: number for number, name in enumerate(shelf.product_ids)}
        is_shown = np.array([image in dataset.images for image in shelf.creative_images])
        is_whole = (is_shown[shelf.creatives] | (shelf.creatives < 0)).all(1) & (np.diff(contexts.starts) > 0)
        chosen = [name for name in sorted(product_ids, key=hash_share) if is_whole[place[name]]]
        chosen = sorted(chosen[: settings.max_products])
        if len(chosen) < 4:
            raise DataError(
                f"selection needs four held-out products with two creatives each, got {len(chosen)}: "
                "build a larger market"
            )
        product = np.array([place[name] for name in chosen])
        made = shelf.creatives[product]
        is_real = made >= 0
        rows, slots = np.nonzero(is_real)
        rate = np.zeros(made.shape)
        rate[rows, slots] = contexts.rates(product[rows], made[rows, slots])
        titles = {one.product_id: clean_text(one.title, MAX_TITLE_CHARS) for one in dataset.products()}
        queries = top_queries(dataset, set(chosen), settings.num_queries)
        order = sorted(range(len(chosen)), key=lambda row: hash_share(chosen[row], "eta"))
        is_measured = np.ones(len(chosen), bool)
        is_measured[order[: len(chosen) // 2]] = False
        own = [[int(code) for code in row if code >= 0] for row in made]
        return cls(
            chosen,
            [[shelf.creative_ids[code] for code in codes] for codes in own],
            [[dataset.images[shelf.creative_images[code]] for code in codes] for codes in own],
            [titles[name] for name in chosen], [queries.get(name, ()) for name in chosen],
            rate, is_real, is_measured,
        )  # fmt: skip

    def measured(self, table: np.ndarray) -> np.ndarray:
        """The rows that are measured."""
        return table[self.is_measured]


def strengths_by(field: Field, compare: Compare, what: str = "ranking creatives") -> np.ndarray:
    """(products, creatives) Bradley-Terry strengths from all pairs of each product; 0 where none is."""
    found = np.zeros(field.is_real.shape)
    with track(len(field.product_ids), what) as meter:
        for row, images in enumerate(field.images):
            pairs = [(i, j) for i in range(len(images)) for j in range(i + 1, len(images))]
            asked = [
                Asked(field.creative_ids[row][i], field.titles[row], field.queries[row], images[i], images[j])
                for i, j in pairs
            ]
            s_NN = np.full((len(images), len(images)), 0.5)
            for (i, j), s in zip(pairs, compare(asked), strict=True):
                s_NN[i, j], s_NN[j, i] = s, 1 - s
            found[row, : len(images)] = bradley_terry(s_NN)
            meter.step()
    return found


def strengths_of(field: Field, scores: Callable[[Sequence[bytes]], np.ndarray]) -> np.ndarray:
    """(products, creatives) strengths from a score of each picture."""
    found = np.zeros(field.is_real.shape)
    for row, images in enumerate(field.images):
        found[row, : len(images)] = scores(images)
    return found


# --- the best one of each product ---


def top_one(field: Field, strengths: Strengths, settings: SelectionSettings) -> dict[str, Any]:
    """Uplift of the highest strength, of the highest counted CTR and of the truth over a random choice.

    Returns:
        by name: uplift (with its interval over products), of_best: share of the truth's uplift, top_k: mean
        uplift of the best 1 to 5.
    """
    rate, is_real = field.measured(field.rate), field.measured(field.is_real)
    picks = {"random": [np.zeros(rate.shape)]}
    for shown in settings.counted:
        picks[f"highest CTR of {shown:,} impressions"] = [
            smoothed_ctr(np.full(rate.shape, shown), stream(seed, "selection", shown).binomial(shown, rate))
            for seed in range(settings.seeds)
        ]
    picks |= {name: [field.measured(one) for one in many] for name, many in strengths.items()}
    picks[BEST] = [rate]
    mean = rate.sum(1) / is_real.sum(1)
    chosen = {name: np.mean([_picked(one, rate, is_real) for one in many], 0) for name, many in picks.items()}
    found = {}
    for name, own in chosen.items():
        interval = _interval(_over(own, mean), len(mean))
        shares = [_top_k(one, rate, is_real) for one in picks[name]]
        found[name] = {
            "uplift": plain(interval),
            "of_best": (own.sum() - mean.sum()) / (chosen[BEST].sum() - mean.sum()),
            "top_k": float(np.mean(shares)),
        }
    return found


def _interval(statistic: Callable[[np.ndarray], np.ndarray], num: int) -> Interval:
    """Products drawn again, as many as there are: a ratio is always defined."""
    return bootstrap_statistic(statistic, num, kind="multinomial")


def _over(own: np.ndarray, mean: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda weight: (weight @ own) / (weight @ mean) - 1


def _picked(score: np.ndarray, rate: np.ndarray, is_real: np.ndarray) -> np.ndarray:
    """(products,) rate of the creative with the highest score; the mean of several."""
    score = np.where(is_real, score, -np.inf)
    is_top = score == score.max(1, keepdims=True)
    return (rate * is_top).sum(1) / is_top.sum(1)


def _top_k(score: np.ndarray, rate: np.ndarray, is_real: np.ndarray) -> float:
    product, slot = np.nonzero(is_real)
    equal = np.full(len(product), 1.0)
    return top_k_uplift(product, score[product, slot], equal, rate[product, slot]).headline


# --- bandits ---


def fitted_eta(field: Field, strength: np.ndarray, settings: SelectionSettings, seed: int = 0) -> float:
    """Eta of the prior on the products that are not measured: all their pairs, no rule about gaps."""
    shown = settings.eta_impressions
    clicks = stream(seed, "eta").binomial(shown, field.rate)
    pairs, apart = [], []
    for row in np.flatnonzero(~field.is_measured):
        for i in range(int(field.is_real[row].sum())):
            for j in range(i):
                pairs.append(_pair(field, row, i, j, shown, clicks[row]))
                apart.append(strength[row, i] - strength[row, j])
    return fit_eta(pairs, apart).eta


def _pair(field: Field, row: int, i: int, j: int, shown: int, clicks: np.ndarray) -> CreativePair:
    a, b = field.creative_ids[row][i], field.creative_ids[row][j]
    return CreativePair(
        f"{a}~{b}", field.product_ids[row], (), field.titles[row], (), a, b, a, b,
        shown, int(clicks[i]), shown, int(clicks[j]), "A" if clicks[i] >= clicks[j] else "B", 0.5, "eta",
    )  # fmt: skip


def priors(field: Field, strength: np.ndarray, eta: float, ctr: float, kappa: float) -> Prior:
    """(alpha, beta) tables of the measured products."""
    rows = np.flatnonzero(field.is_measured)
    alpha, beta = np.ones((len(rows), strength.shape[1])), np.ones((len(rows), strength.shape[1]))
    settings = PriorSettings(kappa=kappa, eta=eta)
    for place, row in enumerate(rows):
        names = field.creative_ids[row]
        found = export_priors(field.product_ids[row], names, strength[row, : len(names)], ctr, settings)
        alpha[place, : len(names)] = [one.alpha0 for one in found]
        beta[place, : len(names)] = [one.beta0 for one in found]
    return alpha, beta


def simulate(field: Field, prior: Prior, settings: SelectionSettings, bandit: BanditSettings) -> np.ndarray:
    """(days + 1, products) CTR that a bandit expects to earn at the beginning of each day, by the truth.

    What it shows on a day is drawn from its chances, the clicks from the true rates; it learns overnight.
    """
    rate, is_real = field.measured(field.rate), field.measured(field.is_real)
    found = np.zeros((settings.days + 1, len(rate)))
    rows, slots = np.nonzero(is_real)
    total = np.zeros((settings.days + 1, len(rate)))
    for seed in range(settings.seeds):
        player = BetaBandit(*prior, bandit.but(seed=seed), is_real)
        rng = stream(seed, "selection", "bandit")
        for day in range(settings.days + 1):
            chance = player.p_choice()
            total[day] = (chance * rate).sum(1)
            shown = rng.multinomial(settings.impressions, chance / chance.sum(1, keepdims=True))
            clicks = rng.binomial(shown, rate)
            player.update(rows, slots, shown[rows, slots], clicks[rows, slots])
        found += total / settings.seeds
    return found


def best_flat(
    field: Field, ctr: float, settings: SelectionSettings, bandit: BanditSettings
) -> tuple[Prior, float]:
    """The flat prior whose bandit earns most over the horizon, and its kappa."""
    found = {}
    for kappa in settings.flat_kappas:
        prior = priors(field, np.zeros(field.rate.shape), 0.0, ctr, kappa)
        found[kappa] = (simulate(field, prior, settings, bandit)[: settings.days].mean(), prior)
    kappa = max(found, key=lambda one: found[one][0])
    return found[kappa][1], kappa


def compare_bandits(
    field: Field, curves: Mapping[str, np.ndarray], settings: SelectionSettings, levels: Sequence[float]
) -> dict[str, Any]:
    """CTR by day, regret and impressions saved of each bandit against the one with a flat prior.

    Args:
        curves: by name, from `simulate`; among them `FLAT`.
        levels: shares of the way from a uniform choice to the best one.

    Returns:
        by name: ctr: mean by day; mean: over the horizon, with interval; regret: clicks lost per 1,000
        impressions; lift: of the mean over the flat prior's; reach, saved: impressions of a product by level,
        and until the CTR that this bandit expects on its first day ("first day").
    """
    rate, is_real = field.measured(field.rate), field.measured(field.is_real)
    ends = (rate.sum(1) / is_real.sum(1), rate.max(1))
    curves = {UNIFORM: np.tile(ends[0], (settings.days + 1, 1)), **curves,
              BEST: np.tile(ends[1], (settings.days + 1, 1))}  # fmt: skip
    flat, found = curves[FLAT], {}
    ones = len(ends[0])
    for name, curve in curves.items():
        mean = curve[: settings.days].mean(0)
        entry: dict[str, Any] = {
            "ctr": curve.mean(1).tolist(),
            "mean": plain(_interval(lambda w, m=mean: (w @ m) / w.sum(1), ones)),
            "regret": plain(_interval(lambda w, m=mean: 1000 * (w @ (ends[1] - m)) / w.sum(1), ones)),
        }
        if name not in (UNIFORM, FLAT, BEST):
            entry["lift"] = plain(_interval(_over(mean, flat[: settings.days].mean(0)), ones))
            entry["saved"] = {
                **{f"{level:.0%}": _saved(flat, curve, ends, level, settings) for level in levels},
                "first day": _saved(flat, curve, ends, None, settings),
            }
        found[name] = entry
    return found


def _saved(
    flat: np.ndarray,
    curve: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    level: float | None,
    settings: SelectionSettings,
) -> dict[str, Any]:
    """Impressions of a product that the prior saves until a CTR; `flat`, `prior`: those each one needs.

    `is_bound`: the flat prior does not get there in the days there are, so it saves at least so many;
    `is_reached`: the other one does.
    """

    def needed(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = weight.sum(1)
        means = [weight @ one.T / total[:, None] for one in (flat, curve)]
        low, high = (weight @ end / total for end in ends)
        goal = means[1][:, 0] if level is None else low + level * (high - low)
        return _reached(means[0], goal, settings), _reached(means[1], goal, settings)

    def saved(weight: np.ndarray) -> np.ndarray:
        first, second = needed(weight)
        return first - second

    first, second = (float(one[0]) for one in needed(np.ones((1, flat.shape[1]))))
    horizon = settings.days * settings.impressions
    return {
        "saved": plain(_interval(saved, flat.shape[1])),
        "flat": first, "prior": second, "is_bound": first >= horizon, "is_reached": second < horizon,
    }  # fmt: skip


def _reached(mean: np.ndarray, goal: np.ndarray, settings: SelectionSettings) -> np.ndarray:
    """(replicates,) impressions of a product until (replicates, days + 1) reaches a goal, between days
    linear; the horizon where it does not."""
    is_there = mean >= goal[:, None]
    day = np.where(is_there.any(1), is_there.argmax(1), settings.days).astype(float)
    row, at = np.arange(len(mean)), day.astype(int)
    before = mean[row, np.maximum(at - 1, 0)]
    step = mean[row, at] - before
    part = np.where(
        (at > 0) & is_there.any(1) & (step > 0), (mean[row, at] - goal) / np.where(step > 0, step, 1), 0
    )
    return (day - part) * settings.impressions


# --- replay ---


def replayed(
    field: Field, strengths: Strengths, bandits: Mapping[str, Sequence[Prior]], settings: SelectionSettings,
    bandit: BanditSettings,
) -> dict[str, dict[str, float | None]]:  # fmt: skip
    """sCTR and NSCTR of fixed choices and of learning bandits on a log whose creatives were drawn uniformly.

    Returns:
        by name, means over training seeds: sctr, nsctr, coverage, and true_ctr: what a fixed choice truly
        earns on that traffic.
    """
    rate, is_real = field.measured(field.rate), field.measured(field.is_real)
    rng, num = stream(0, "selection", "replay"), is_real.sum(1)
    rows = rng.permutation(np.repeat(np.arange(len(rate)), num * settings.replay_impressions))
    slots = (rng.random(len(rows)) * num[rows]).astype(np.int64)
    is_click = rng.random(len(rows)) < rate[rows, slots]
    found: dict[str, list[dict[str, float | None]]] = {}
    for name, many in {
        **{n: [field.measured(s) for s in m] for n, m in strengths.items()},
        BEST: [rate],
    }.items():
        for strength in many:
            best = np.where(is_real, strength, -np.inf).argmax(1)
            true = float((rate[np.arange(len(best)), best] * num).sum() / num.sum())
            seen = replay(rows, slots, best[rows], is_click)
            found.setdefault(name, []).append(_replay_row(seen) | {"true_ctr": true})
    for name, priors_ in bandits.items():
        for prior in priors_:
            player = BetaBandit(*prior, bandit, is_real)
            seen = replay_bandit(player, rows, slots, is_click, every=max(1000, len(rows) // 50))
            found.setdefault(name, []).append(_replay_row(seen) | {"true_ctr": None})
    return {name: _means(ones) for name, ones in found.items()}


def _replay_row(seen: Replay) -> dict[str, float | None]:
    return {"sctr": seen.sctr, "nsctr": seen.nsctr, "coverage": seen.coverage}


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in rows[0]:
        known = [value for row in rows if (value := row[name]) is not None]
        found[name] = float(np.mean(known)) if known else None
    return found


def select(
    field: Field,
    strengths: Strengths,
    ctr: float,
    settings: SelectionSettings,
    bandit: BanditSettings | None = None,
    levels: Sequence[float] = (0.5, 0.7, 0.9),
) -> dict[str, Any]:
    """The whole comparison of judges; `ctr` is what the shop knows of all products together."""
    bandit = bandit or BanditSettings()
    etas = {name: [fitted_eta(field, one, settings) for one in many] for name, many in strengths.items()}
    flat, kappa = best_flat(field, ctr, settings, bandit)
    tables: dict[str, list[Prior]] = {FLAT: [flat]}
    for name, many in strengths.items():
        tables[f"bandit, prior of {name}"] = [
            priors(field, one, eta, ctr, settings.kappa) for one, eta in zip(many, etas[name], strict=True)
        ]
    curves = {
        name: np.mean([simulate(field, prior, settings, bandit) for prior in many], axis=0)
        for name, many in tables.items()
    }
    return {
        "products": int(field.is_measured.sum()), "eta_products": int((~field.is_measured).sum()),
        "settings": settings.model_dump(mode="json"), "bandit": bandit.model_dump(mode="json"),
        "ctr": ctr, "eta": etas, "flat_kappa": kappa, "levels": list(levels),
        "top_one": top_one(field, strengths, settings),
        "bandits": compare_bandits(field, curves, settings, levels),
        "replay": replayed(field, strengths, tables, settings, bandit),
    }  # fmt: skip
