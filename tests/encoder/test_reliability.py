"""The sample filter: margin, reliability, weights."""

import math

import pytest
import torch

from moontide.encoder.objectives.reliability import (
    ReliabilitySettings,
    effective_size,
    margin_at,
    reliability,
    sample_weights,
)
from moontide.foundation.errors import SettingsError

GAPS = torch.linspace(-1, 1, 401)
MODES = ("jump", "continuous", "hard")


def settings(**changes) -> ReliabilitySettings:
    return ReliabilitySettings(start_share=0).but(**changes)


def test_the_margin_falls_from_first_to_last_and_never_rises():
    chosen = settings(first_margin=0.3, last_margin=-0.1)
    margins = [margin_at(step, 100, chosen) for step in range(101)]
    assert margins[0] == pytest.approx(0.3)
    assert margins[50] == pytest.approx(0.1)
    assert margins[100] == pytest.approx(-0.1)
    assert margins == sorted(margins, reverse=True)


def test_a_gap_of_the_margin_is_half_reliable_and_the_threshold_lies_above_it():
    assert reliability(torch.tensor([0.2]), 0.2).item() == 0.5
    edge = 0.2 + math.log(1.5) / 10
    assert edge == pytest.approx(0.2405, abs=1e-4)
    phi = reliability(torch.tensor([edge - 1e-4, edge + 1e-4]), 0.2, 10)
    assert (phi >= 0.6).tolist() == [False, True]
    untrained = sample_weights(torch.zeros(1), 0, 100, settings())
    assert reliability(torch.zeros(1), 0.2).item() == pytest.approx(0.119, abs=1e-3)
    assert untrained.item() == pytest.approx(0.06, abs=1e-3)


def test_below_the_threshold_each_mode_weighs_in_its_own_way():
    gap = torch.tensor([0.0])
    phi = torch.sigmoid(torch.tensor(-2.0)).item()
    expected = {"jump": 0.3 * phi / 0.6, "continuous": 0.3 + 0.7 * phi / 0.6, "hard": 0.0, "off": 1.0}
    for mode, weight in expected.items():
        assert sample_weights(gap, 0, 100, settings(mode=mode)).item() == pytest.approx(weight)
    edge = torch.tensor([0.2 + math.log(1.5) / 10 - 1e-6, 0.5])
    assert sample_weights(edge, 0, 100, settings()).tolist() == pytest.approx([0.3, 1], abs=1e-4)
    smooth = sample_weights(edge, 0, 100, settings(mode="continuous"))
    assert smooth.tolist() == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_a_lower_margin_or_a_larger_gap_never_lowers_a_weight(mode):
    chosen = settings(mode=mode)
    before = torch.zeros_like(GAPS)
    for step in range(0, 101, 10):
        weights = sample_weights(GAPS, step, 100, chosen)
        assert (weights >= before).all()
        assert (weights.diff() >= 0).all()
        assert 0 <= weights.min() <= weights.max() <= 1
        before = weights


@pytest.mark.parametrize("mode", MODES)
def test_the_filter_starts_after_its_share_of_the_steps(mode):
    chosen = ReliabilitySettings(mode=mode)
    assert torch.equal(sample_weights(GAPS, 4, 100, chosen), torch.ones_like(GAPS))
    assert sample_weights(GAPS, 5, 100, chosen).min() < 0.5


def test_weights_carry_no_gradient():
    gap = torch.zeros(3, requires_grad=True)
    assert not reliability(gap, 0.1).requires_grad
    for mode in (*MODES, "off"):
        assert not sample_weights(gap, 50, 100, settings(mode=mode)).requires_grad


def test_the_effective_size_lies_between_one_and_the_batch():
    assert effective_size(torch.ones(7)) == pytest.approx(7)
    assert effective_size(torch.tensor([0.0, 0.3, 0.0])) == pytest.approx(1)
    assert effective_size(torch.tensor([1.0, 0.5])) == pytest.approx(1.5**2 / 1.25)
    assert effective_size(torch.zeros(3)) == 0


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(SettingsError, match="threshold: input should be less than 1, got 1"):
        ReliabilitySettings(threshold=1)
