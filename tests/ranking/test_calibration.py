"""Calibration: recovers a known distortion, keeps order, says so when it cannot."""

import numpy as np
import pytest
from scipy.special import expit

from moontide.foundation.errors import SettingsError
from moontide.ranking.calibration import Calibrator, fit_calibrator, logit_of
from moontide.ranking.metrics import auc, log_loss, pcoc


def distorted(num=40_000):
    rng = np.random.default_rng(0)
    truth = rng.normal(-3, 1, num)
    return 2 * truth + 3, rng.random(num) < expit(truth)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_distorted_score_is_brought_back_to_probabilities(method):
    click_logit, label = distorted()
    calibrator = fit_calibrator(click_logit[:20_000], label[:20_000], method)
    held, clicked = click_logit[20_000:], label[20_000:]
    before, after = expit(held), calibrator(held)
    assert pcoc(before, clicked) > 1.5
    assert pcoc(after, clicked) == pytest.approx(1, abs=0.06)
    assert log_loss(after, clicked) < log_loss(before, clicked)
    assert np.all(np.diff(calibrator(np.sort(held))) >= 0)


def test_platt_finds_the_distortion_and_keeps_the_order_of_scores():
    click_logit, label = distorted()
    calibrator = fit_calibrator(click_logit, label)
    assert calibrator.slope == pytest.approx(0.5, abs=0.02)
    assert calibrator.offset == pytest.approx(-1.5, abs=0.05)
    assert auc(calibrator(click_logit), label) == auc(click_logit, label)


def test_a_slice_that_ranks_backwards_moves_only_the_level():
    click_logit, label = distorted()
    calibrator = fit_calibrator(-click_logit, label)
    assert calibrator.slope == 1
    assert pcoc(calibrator(-click_logit), label) == pytest.approx(1, abs=1e-6)


def test_one_class_leaves_logits_as_they_are_and_other_methods_are_refused():
    assert fit_calibrator(np.zeros(5), np.zeros(5)) == Calibrator()
    assert fit_calibrator(np.zeros(0), np.zeros(0)) == Calibrator()
    assert Calibrator()(np.array([0.0]))[0] == 0.5
    with pytest.raises(SettingsError, match="got 'beta'"):
        fit_calibrator(np.zeros(5), np.zeros(5), "beta")


def test_calibrators_come_back_from_their_facts():
    click_logit, label = distorted(2000)
    for method in ("platt", "isotonic"):
        calibrator = fit_calibrator(click_logit, label, method)
        assert Calibrator(**calibrator.facts()) == calibrator
    assert logit_of(expit(np.array([-2.0, 3.0]))) == pytest.approx([-2.0, 3.0])
