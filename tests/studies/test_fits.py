"""Curve fits: noiseless data are recovered, known values, and which curve is reported when."""

import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from moontide.foundation.errors import DataError
from moontide.studies.fits import PowerLaw, aicc, compare_curves, fit_log, fit_power

X = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


@pytest.mark.parametrize(
    ("m_inf", "a", "b"), [(0.8, 0.3, 0.5), (0.4, 0.05, 1.7), (0.9, 2.0, 0.12), (-1, 0.1, 3)]
)
@pytest.mark.parametrize("scale", [1.0, 3e6])
def test_noiseless_data_give_the_power_law_back(m_inf, a, b, scale):
    x = X * scale
    found = fit_power(x, m_inf - a * (x / scale) ** -b)
    assert found.m_inf == pytest.approx(m_inf, abs=1e-5)
    assert found.b == pytest.approx(b, rel=1e-4)
    assert found.a == pytest.approx(a * scale**b, rel=1e-2 if scale > 1 else 1e-4)


def test_doubling_x_shrinks_the_gap_by_two_to_the_minus_b():
    curve = PowerLaw(0.7, 0.4, 0.31)
    assert curve.gap(2 * X) == pytest.approx(curve.gap(X) * 2**-0.31)
    assert curve.at(X) + curve.gap(X) == pytest.approx(np.full(5, 0.7))


def test_the_fit_is_the_least_squares_of_a_slow_twin():
    rng = np.random.default_rng(0)
    for _ in range(10):
        m = 0.7 - 0.3 * X**-0.6 + rng.normal(0, 0.01, 5)
        fast = fit_power(X, m)
        slow = min(
            (
                least_squares(
                    lambda p, m=m: p[0] - p[1] * X ** -p[2] - m, (0.7, 0.3, start),
                    bounds=([-np.inf, 0, 1e-3], [np.inf, np.inf, 5]), xtol=1e-14, ftol=1e-14, gtol=1e-14,
                )
                for start in (0.05, 0.3, 1.0, 3.0)
            ),
            key=lambda one: one.cost,
        )  # fmt: skip
        assert ((fast.at(X) - m) ** 2).sum() <= 2 * slow.cost * (1 + 1e-6)


def test_figures_that_fall_have_no_power_law():
    found = fit_power(X, 0.5 - 0.1 * np.log(X))
    assert found.a == 0
    assert math.isnan(found.b)
    assert found.at(X) == pytest.approx(np.full(5, np.mean(0.5 - 0.1 * np.log(X))))


def test_the_line_in_log_x_is_recovered():
    found = fit_log(X, 0.2 + 0.05 * np.log(X))
    assert (found.c, found.d) == pytest.approx((0.2, 0.05))


def test_akaikes_criterion_has_its_known_values():
    assert aicc(10.0, 10, 3) == pytest.approx(6 + 24 / 6)
    assert aicc(math.e * 12, 12, 4) == pytest.approx(12 + 8 + 40 / 7)
    assert aicc(1.0, 5, 4) == math.inf
    assert aicc(0.0, 12, 3) == -math.inf


def test_points_that_cannot_be_fitted_are_refused():
    with pytest.raises(DataError, match="needs x above 0 and finite figures"):
        fit_log(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    with pytest.raises(DataError, match=r"needs 3 distinct points, got 2: measure more"):
        fit_power(np.array([1.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0]))


def measured(curve: np.ndarray, noise: float = 0.002, seeds: int = 3, queries: int = 400) -> np.ndarray:
    """Figures of points x seeds x queries: queries differ alike for all, seeds and cells by `noise`."""
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 0.05, queries)
    cells = rng.normal(0, noise, (len(curve), seeds, 1))
    return (
        curve[:, None, None]
        + (hard - hard.mean())
        + cells
        + rng.normal(0, noise, (len(curve), seeds, queries))
    )


def test_a_power_law_that_bends_is_chosen_and_predicts_the_largest_point():
    found = compare_curves(X, measured(0.6 - 0.4 / X, noise=0.002))
    assert found["chosen"] == "power"
    assert found["power"]["b"] == pytest.approx(1, abs=0.1)
    assert found["power"]["b_interval"][0] < found["power"]["b"] < found["power"]["b_interval"][1]
    held = found["held_out"]
    assert held["power"]["is_held"]
    assert not held["log"]["is_held"]
    assert held["log"]["error"] < 0  # the line goes on where the curve bends
    assert held["power"]["interval"][0] < held["seen"] < held["power"]["interval"][1]


def test_a_straight_line_is_reported_as_one():
    found = compare_curves(X, measured(0.2 + 0.05 * np.log(X)))
    assert found["chosen"] == "log"
    low, high = found["log"]["d_interval"]
    assert low < 0.05 < high
    assert found["held_out"]["log"]["is_held"]
    assert "touches 0" in found["why"] or "as good" in found["why"]


def test_flat_or_few_points_give_no_power_law():
    assert compare_curves(X, measured(0.5 - 0.05 * np.log(X)))["why"] == "nothing rises towards a limit"
    flat = compare_curves(X, measured(np.full(5, 0.4)))
    assert flat["chosen"] == "log"
    assert flat["log"]["d_interval"][0] < 0 < flat["log"]["d_interval"][1]
    three = compare_curves(X[:3], measured(0.2 + 0.05 * np.log(X[:3])))
    assert three["power"] is None
    assert three["chosen"] == "log"
    assert compare_curves(X[:2], measured(X[:2]))["chosen"] is None


def test_the_interval_of_the_slope_holds_the_truth_about_as_often_as_it_says():
    rng, held = np.random.default_rng(5), 0
    for number in range(200):
        cells = rng.normal(0, 0.01, (3, 3, 1)) + np.zeros((1, 1, 4))
        value_PSQ = 0.3 + 0.02 * np.log(X[:3])[:, None, None] + cells
        low, high = compare_curves(X[:3], value_PSQ, 100, number)["log"]["d_interval"]
        held += low < 0.02 < high
    assert 0.88 < held / 200 < 0.99
