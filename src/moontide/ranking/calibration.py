"""From click logits to probabilities that add up to clicks: Platt scaling or isotonic regression.

A calibrator is fitted on a slice of the training period that the model has not learned from, never on the
test period. Platt keeps the order of scores exactly; isotonic is free in shape but makes ties and wants
many clicks. One calibrator for each slice of the products (new and known, top categories) mends what one for
all averages away; a slice with few clicks leans on the one for all. If only a share of the non-clicks was
learned from, what was kept out is put back last.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from moontide.foundation.errors import SettingsError
from moontide.ranking.entities import Entities, Vocabulary

METHODS = ("platt", "isotonic", "none")
TINY = 1e-6
MIN_CLICKS = 50  # of a slice with a calibrator of its own; ours


@dataclass(frozen=True)
class Calibrator:
    """A map from click logits to probabilities; never decreasing.

    Formula: p' = p / (p + (1 - p) / w) at the end, w = `negative_share`.

    Args:
        method: one of METHODS.
        slope, offset: of Platt scaling, p = sigmoid(slope * logit + offset).
        steps_x, steps_y: corners of the isotonic line, in logits and probabilities.
        negative_share: share of the non-clicks that was kept in what it was fitted on; 1: all.
    """

    method: str = "none"
    slope: float = 1.0
    offset: float = 0.0
    steps_x: list[float] = field(default_factory=list)
    steps_y: list[float] = field(default_factory=list)
    negative_share: float = 1.0

    def __call__(self, click_logit: np.ndarray, key: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of logits, same shape, float64; `key` is for `SlicedCalibrator`."""
        click_logit = np.asarray(click_logit, dtype=np.float64)
        if self.method == "isotonic":
            p_click = np.interp(click_logit, self.steps_x, self.steps_y)
        else:
            p_click = expit(self.slope * click_logit + self.offset)
        return with_all_negatives(p_click, self.negative_share)

    def facts(self) -> dict[str, Any]:
        """What a model folder keeps of it; `calibrator_of(facts)` brings it back."""
        return vars(self)


@dataclass(frozen=True)
class SlicedCalibrator:
    """A calibrator for each slice of the products, and one for all others; never decreasing inside a slice.

    Args:
        by: what the slices are, see `product_slices`.
        overall: for products of no slice, and where no key is given.
        slices: by key.
    """

    by: str
    overall: Calibrator
    slices: dict[str, Calibrator]

    def __call__(self, click_logit: np.ndarray, key: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of logits, same shape, float64; `key` names the slice of each, in the same shape."""
        p_click = self.overall(click_logit)
        if key is not None:
            for name, own in self.slices.items():
                here = np.asarray(key) == name
                p_click[here] = own(np.asarray(click_logit)[here])
        return p_click

    def facts(self) -> dict[str, Any]:
        """What a model folder keeps of it; `calibrator_of(facts)` brings it back."""
        slices = {name: own.facts() for name, own in self.slices.items()}
        return {"by": self.by, "overall": self.overall.facts(), "slices": slices}


def calibrator_of(facts: dict[str, Any]) -> Calibrator | SlicedCalibrator:
    """The calibrator whose `facts` these are."""
    if "by" not in facts:
        return Calibrator(**facts)
    slices = {name: Calibrator(**own) for name, own in facts["slices"].items()}
    return SlicedCalibrator(facts["by"], Calibrator(**facts["overall"]), slices)


def with_all_negatives(p_click: np.ndarray, share: float) -> np.ndarray:
    """Probabilities among all impressions, from those learned with a share of the non-clicks.

    Formula: p / (p + (1 - p) / w), w the share that was kept: the odds fall by the factor w.

    Example:
        >>> float(with_all_negatives(np.array([0.5]), 0.25)[0])
        0.2
    """
    return p_click if share == 1 else p_click / (p_click + (1 - p_click) / share)


def product_slices(by: str, entities: Entities, vocabulary: Vocabulary) -> np.ndarray | None:
    """(products + 1,) the slice of each product code, the last for no product; None for "all".

    Args:
        by: "known": "known" if the product has an embedding of its own, else "new"; "top": its top category.

    Raises:
        SettingsError: another name.
    """
    if by == "all":
        return None
    if by == "known":
        return np.where(vocabulary.rows("product", entities.product_ids) > 0, "known", "new")
    if by == "top":
        return np.append(entities.products.column("top").fill_null("").to_numpy().astype(str), "")
    raise SettingsError(f"calibration is by all, known or top, got {by!r}")


def fit_calibrator(
    click_logit: np.ndarray, label: np.ndarray, method: str = "platt", negative_share: float = 1.0
) -> Calibrator:
    """Fit a calibrator; with one class only there is nothing to fit and logits stay as they are.

    Platt minimizes log loss over slope and offset by Newton's method. The slope is kept positive: a slice on
    which the model ranks backwards gets only an offset, so that calibration never turns an order around.

    Args:
        negative_share: share of the non-clicks that was kept in training and here.

    Raises:
        SettingsError: another method, or a share that is none.
    """
    if method not in METHODS:
        raise SettingsError(f"calibration must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0 < negative_share <= 1:
        raise SettingsError(f"negative_share must be above 0 and at most 1, got {negative_share}")
    click_logit, label = np.asarray(click_logit, np.float64), np.asarray(label, np.float64)
    if method == "none" or label.sum() in (0, len(label)):
        return Calibrator(negative_share=negative_share)
    if method == "platt":
        slope, offset = _platt(click_logit, label, fixed_slope=False)
        if slope <= 0:
            slope, offset = _platt(click_logit, label, fixed_slope=True)
        return Calibrator("platt", slope, offset, negative_share=negative_share)
    line = IsotonicRegression(y_min=TINY, y_max=1 - TINY, out_of_bounds="clip").fit(click_logit, label)
    x, y = line.X_thresholds_.tolist(), line.y_thresholds_.tolist()
    return Calibrator("isotonic", steps_x=x, steps_y=y, negative_share=negative_share)


def fit_sliced(
    click_logit: np.ndarray,
    label: np.ndarray,
    key: np.ndarray,
    by: str,
    method: str = "platt",
    negative_share: float = 1.0,
    least: int = MIN_CLICKS,
) -> SlicedCalibrator:
    """Fit a calibrator for all, and one for each slice that has clicks enough, drawn toward the one for all.

    Formula: own = w slice + (1 - w) all, w = n / (n + least), n the slice's clicks; in logits for Platt, in
    probabilities for isotonic. Below `least` clicks, or without non-clicks, all.

    Args:
        key: the slice of each row. by: what the slices are, see `product_slices`.
        least: fewest clicks of an own calibrator.
    """
    label, key = np.asarray(label, bool), np.asarray(key)
    overall = fit_calibrator(click_logit, label, method, negative_share)
    slices = {}
    for name in np.unique(key) if overall.method != "none" else ():
        here = key == name
        clicks = int(label[here].sum())
        if least <= clicks < here.sum():
            own = fit_calibrator(np.asarray(click_logit)[here], label[here], method, negative_share)
            slices[str(name)] = _drawn(own, overall, clicks / (clicks + least))
    return SlicedCalibrator(by, overall, slices)


def _drawn(own: Calibrator, overall: Calibrator, weight: float) -> Calibrator:
    """Between a slice's calibrator and the one for all; the mean of two rising lines rises."""
    if own.method == "platt":
        slope = weight * own.slope + (1 - weight) * overall.slope
        return replace(own, slope=slope, offset=weight * own.offset + (1 - weight) * overall.offset)
    x = np.union1d(own.steps_x, overall.steps_x)
    lines = [np.interp(x, one.steps_x, one.steps_y) for one in (own, overall)]
    return replace(own, steps_x=x.tolist(), steps_y=(weight * lines[0] + (1 - weight) * lines[1]).tolist())


def _platt(click_logit: np.ndarray, label: np.ndarray, fixed_slope: bool) -> tuple[float, float]:
    slope, offset = 1.0, 0.0
    for _ in range(50):
        p = expit(slope * click_logit + offset)
        weight = np.maximum(p * (1 - p), 1e-12)
        gradient = np.array([((p - label) * click_logit).sum(), (p - label).sum()])
        curve = np.array([(weight * click_logit**2).sum(), (weight * click_logit).sum(), weight.sum()])
        if fixed_slope:
            step = np.array([0.0, gradient[1] / curve[2]])
        else:
            matrix = np.array([[curve[0], curve[1]], [curve[1], curve[2]]]) + 1e-9 * np.eye(2)
            step = np.linalg.solve(matrix, gradient)
        step = np.clip(step, -2, 2)  # far from the minimum Newton's steps overshoot
        slope, offset = slope - step[0], offset - step[1]
        if np.abs(step).max() < 1e-10:
            break
    return float(slope), float(offset)


def logit_of(p_click: np.ndarray) -> np.ndarray:
    """Logits of probabilities, clipped away from 0 and 1."""
    return logit(np.clip(p_click, TINY, 1 - TINY))
