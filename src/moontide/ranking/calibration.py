"""From click logits to probabilities that add up to clicks: Platt scaling or isotonic regression.

A calibrator is fitted on a slice of the training period that the model has not learned from, never on the
test period. Platt keeps the order of scores exactly; isotonic is free in shape but makes ties and wants
many clicks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from moontide.foundation.errors import SettingsError

METHODS = ("platt", "isotonic", "none")
TINY = 1e-6


@dataclass(frozen=True)
class Calibrator:
    """A map from click logits to probabilities; never decreasing.

    Args:
        method: one of METHODS.
        slope, offset: of Platt scaling, p = sigmoid(slope * logit + offset).
        steps_x, steps_y: corners of the isotonic line, in logits and probabilities.
    """

    method: str = "none"
    slope: float = 1.0
    offset: float = 0.0
    steps_x: list[float] = field(default_factory=list)
    steps_y: list[float] = field(default_factory=list)

    def __call__(self, click_logit: np.ndarray) -> np.ndarray:
        """Probabilities of logits, same shape, float64."""
        click_logit = np.asarray(click_logit, dtype=np.float64)
        if self.method == "isotonic":
            return np.interp(click_logit, self.steps_x, self.steps_y)
        return expit(self.slope * click_logit + self.offset)

    def facts(self) -> dict[str, Any]:
        """What a model folder keeps of it; `Calibrator(**facts)` brings it back."""
        return vars(self)


def fit_calibrator(click_logit: np.ndarray, label: np.ndarray, method: str = "platt") -> Calibrator:
    """Fit a calibrator; with one class only there is nothing to fit and logits stay as they are.

    Platt minimizes log loss over slope and offset by Newton's method. The slope is kept positive: a slice on
    which the model ranks backwards gets only an offset, so that calibration never turns an order around.

    Raises:
        SettingsError: another method.
    """
    if method not in METHODS:
        raise SettingsError(f"calibration must be one of {', '.join(METHODS)}, got {method!r}")
    click_logit, label = np.asarray(click_logit, np.float64), np.asarray(label, np.float64)
    if method == "none" or label.sum() in (0, len(label)):
        return Calibrator()
    if method == "platt":
        slope, offset = _platt(click_logit, label, fixed_slope=False)
        if slope <= 0:
            slope, offset = _platt(click_logit, label, fixed_slope=True)
        return Calibrator("platt", slope, offset)
    line = IsotonicRegression(y_min=TINY, y_max=1 - TINY, out_of_bounds="clip").fit(click_logit, label)
    return Calibrator("isotonic", steps_x=line.X_thresholds_.tolist(), steps_y=line.y_thresholds_.tolist())


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
