"""What another policy would have earned, estimated from the log of this one, or why that cannot be said.

With r the reward of a logged row (a click), w = p_target / p_logged of the action that was taken, q a model
of the reward, and means over rows:

    IPS           mean(w r)                            unbiased where the log may take all the target takes
    SNIPS         sum(w r) / sum(w)                    self-normalized: less noise, a little bias
    clipped IPS   mean(min(w, most) r)                 less noise, too low by what is clipped
    DM            mean(q(target's action))             as good as the model, checked by no click
    DR            mean(q(target's action) + w (r - q(action taken)))      right if w or q is right

Also called: inverse propensity scoring, direct method, doubly robust (Dudik, Langford and Li, 2011);
self-normalized (Swaminathan and Joachims, 2015). A weight need not be of the very action: by position,
w = e(place the target gives) / sum over places of p_logged(place) e(place), after Li et al. (2018); then
`control` says whose mean must be 1.

Weights stand or fall with overlap. `overlap` refuses where the target takes what the log never does, where
too few rows carry the weight, or where weights do not average 1, which right propensities do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings
from moontide.foundation.statistics import Interval, ratio_delta
from moontide.studies.grid import as_markdown

COLUMNS = ("estimator", "value", "low", "high", "effective rows", "mean weight", "largest", "refused")


class OverlapSettings(Settings):
    """When weights are believed."""

    clip: float = pydantic.Field(20.0, gt=0, description="largest weight of clipped IPS")
    least_effective: float = pydantic.Field(
        200.0, gt=0, description="fewest effective rows, (sum w)^2 / sum w^2, under which nothing is said"
    )
    most_uncovered: float = pydantic.Field(
        0.01, ge=0, le=1, description="share of the target's actions that the log never takes"
    )
    most_weight_error: float = pydantic.Field(0.2, gt=0, description="how far from 1 the mean weight may lie")
    most_weight_z: float = pydantic.Field(
        5.0, gt=0, description="the same in standard errors: further, and the propensities are wrong"
    )


@dataclass(frozen=True)
class Logged:
    """Rows of a log, weighted for a target policy; all arrays (rows,).

    Args:
        reward: what the action earned, such as 0 or 1 for a click.
        weight: p_target / p_logged of the action taken, see `weights`.
        group: rows of one shopper are not independent; None makes every row its own group.
        model_logged, model_target: q of the action taken, and its mean under the target; from `CrossFit`,
            so that no row's model has seen the row.
        uncovered: the target's chance of actions with no chance in the log; None if that cannot be known,
            which only their actions themselves tell.
        control: what averages 1 if the propensities are right; None: the weights.
    """

    reward: np.ndarray
    weight: np.ndarray
    group: np.ndarray | None = None
    model_logged: np.ndarray | None = None
    model_target: np.ndarray | None = None
    uncovered: np.ndarray | None = None
    control: np.ndarray | None = None


@dataclass(frozen=True)
class Overlap:
    """How far a log can speak for a target; `refused` says why it cannot, or is None."""

    effective_rows: float
    mean_weight: float
    largest_weight: float
    uncovered: float
    refused: str | None


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer; do not use the value where `refused` is set."""

    name: str
    value: Interval
    refused: str | None = None


def weights(p_target: np.ndarray, p_logged: np.ndarray) -> np.ndarray:
    """p_target / p_logged of the actions taken.

    Raises:
        DataError: a logged propensity outside (0, 1], or a target's outside [0, 1].
    """
    p_target, p_logged = np.asarray(p_target, float), np.asarray(p_logged, float)
    if not len(p_logged):
        raise DataError("an off-policy estimate needs logged rows, got 0")
    if bad := int((~((p_logged > 0) & (p_logged <= 1))).sum()):
        raise DataError(
            f"{bad:,} of {len(p_logged):,} logged propensities are not in (0, 1]: an action that was taken "
            "had a chance; leave rows without one out"
        )
    if bad := int((~((p_target >= 0) & (p_target <= 1 + 1e-9))).sum()):
        raise DataError(f"{bad:,} of {len(p_target):,} of the target's chances are not in [0, 1]")
    return p_target / p_logged


def overlap(logged: Logged, settings: OverlapSettings | None = None) -> Overlap:
    """Whether the log can speak for the target; see `OverlapSettings` for the limits."""
    settings = settings or OverlapSettings()
    weight, one = logged.weight, np.ones(len(logged.weight))
    control = weight if logged.control is None else logged.control
    squares = float((weight**2).sum())
    effective = float(weight.sum()) ** 2 / squares if squares > 0 else 0.0
    mean = ratio_delta(control, one, logged.group)
    uncovered = math.nan if logged.uncovered is None else float(logged.uncovered.mean())
    apart = abs(mean.value - 1)
    refused = None
    if uncovered > settings.most_uncovered:
        refused = f"the log never takes {uncovered:.1%} of the target's actions"
    elif effective < settings.least_effective:
        refused = f"{effective:,.1f} effective rows of {len(weight):,}"
    elif apart > settings.most_weight_error:
        refused = f"weights average {mean.value:.2f}, not 1"
    elif apart > settings.most_weight_z * mean.standard_error and apart > 1e-9:
        refused = (
            f"weights average {mean.value:.3f}, {apart / mean.standard_error:.0f} standard errors from 1"
        )
    return Overlap(effective, mean.value, float(weight.max()), uncovered, refused)


def require_overlap(logged: Logged, settings: OverlapSettings | None = None) -> Overlap:
    """`overlap`, for callers who want no estimate without it.

    Raises:
        DataError: overlap fails, and how.
    """
    found = overlap(logged, settings)
    if found.refused is not None:
        raise DataError(
            f"no off-policy estimate: {found.refused}; log with more exploration, or play the policy"
        )
    return found


def estimates(logged: Logged, settings: OverlapSettings | None = None, level: float = 0.95) -> list[Estimate]:
    """Every estimator on the same rows, with intervals by group (delta method).

    DM's interval is that of its mean over rows: how wrong the model may be is not in it. Where overlap fails
    the others are marked as refused; DM stands, on the model alone.
    """
    settings = settings or OverlapSettings()
    refused = overlap(logged, settings).refused
    reward, weight, one = logged.reward, logged.weight, np.ones(len(logged.weight))
    control = weight if logged.control is None else logged.control
    found = [
        Estimate("IPS", ratio_delta(weight * reward, one, logged.group, level), refused),
        Estimate("clipped IPS", _clipped(logged, settings.clip, level), refused),
    ]
    if control.any():
        found.insert(
            1, Estimate("SNIPS", ratio_delta(weight * reward, control, logged.group, level), refused)
        )
    if logged.model_logged is not None and logged.model_target is not None:
        model = logged.model_target
        found.append(Estimate("DM", ratio_delta(model, one, logged.group, level)))
        robust = model + weight * (reward - logged.model_logged)
        found.append(Estimate("DR", ratio_delta(robust, one, logged.group, level), refused))
    return found


def _clipped(logged: Logged, most: float, level: float) -> Interval:
    value = np.minimum(logged.weight, most) * logged.reward
    return ratio_delta(value, np.ones(len(value)), logged.group, level)


def estimate_rows(logged: Logged, settings: OverlapSettings | None = None) -> list[dict[str, Any]]:
    """`estimates` as rows of a table, the effective rows always beside them; see `COLUMNS`."""
    seen = overlap(logged, settings)
    rows = []
    for found in estimates(logged, settings):
        row = {"estimator": found.name, "value": found.value.value, "low": found.value.low,
               "high": found.value.high, "refused": found.refused}  # fmt: skip
        if found.name != "DM":
            row |= {
                "effective rows": seen.effective_rows,
                "mean weight": seen.mean_weight,
                "largest": seen.largest_weight,
            }
        rows.append(row)
    return rows


def estimates_markdown(rows: Iterable[Mapping[str, Any]], first: tuple[str, ...] = ()) -> str:
    """Rows of `estimate_rows` as Markdown; click rates in per cent, because they are small."""
    shown = []
    for row in rows:
        texts = {name: f"{row[name]:.3%}" for name in ("truth", "value", "low", "high") if name in row}
        texts |= {name: f"{row[name]:,.1f}" for name in ("effective rows", "largest") if name in row}
        shown.append({**row, **texts})
    return as_markdown((*first, *COLUMNS), shown)


class CrossFit:
    """A logistic reward model that judges each row by rows of other groups alone.

    DR stays unbiased only if q of a row does not know the row's reward: groups are dealt into folds, and
    every fold is judged by a model of the others.

    Args:
        features: (rows, F). reward: (rows,) 0 or 1. group: (rows,) or None.
        folds: at least 2. strength: of the ridge (scikit-learn's C is 1 / strength).

    Raises:
        DataError: rewards other than 0 and 1, or a fold's complement without both.
    """

    def __init__(
        self,
        features: np.ndarray,
        reward: np.ndarray,
        group: np.ndarray | None = None,
        folds: int = 5,
        strength: float = 1.0,
        seed: int = 0,
    ):
        if not np.isin(reward, (0, 1)).all():
            raise DataError("the reward model is logistic: rewards must be 0 or 1")
        names, code = np.unique(np.arange(len(reward)) if group is None else group, return_inverse=True)
        self.fold = (stream(seed, "folds").permutation(len(names)) % folds)[code]
        self._scaler = StandardScaler().fit(features)
        scaled, self._models = self._scaler.transform(features), []
        for fold in range(folds):
            others = self.fold != fold
            if len(np.unique(reward[others])) < 2:
                raise DataError(f"the log has {int(reward.sum())} rewards: too few for a reward model")
            model = LogisticRegression(C=1 / strength, max_iter=400)
            self._models.append(model.fit(scaled[others], reward[others]))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(rows,) chance of a reward of other actions of the very rows it was fitted on."""
        scaled, found = self._scaler.transform(features), np.zeros(len(features))
        for fold, model in enumerate(self._models):
            own = self.fold == fold
            if own.any():
                found[own] = model.predict_proba(scaled[own])[:, 1]
        return found
