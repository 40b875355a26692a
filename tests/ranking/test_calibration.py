"""Calibration: recovers a known distortion, keeps order, says so when it cannot."""

import numpy as np
import pytest
from scipy.special import expit

from moontide.foundation.errors import SettingsError
from moontide.ranking.calibration import (
    Calibrator,
    calibrator_of,
    fit_calibrator,
    fit_sliced,
    logit_of,
    product_slices,
    with_all_negatives,
)
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
        assert calibrator_of(calibrator.facts()) == calibrator
    assert logit_of(expit(np.array([-2.0, 3.0]))) == pytest.approx([-2.0, 3.0])


def two_slices(num=40_000):
    """Logits that are right for one half of the rows and far too high for the other; a third part is tiny."""
    rng = np.random.default_rng(1)
    truth = rng.normal(-2, 1, num)
    key = np.where(np.arange(num) < 200, "tiny", np.where(rng.random(num) < 0.5, "books", "shoes"))
    return truth + 1.5 * (key == "shoes"), rng.random(num) < expit(truth), key


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_each_slice_adds_up_to_its_own_clicks_and_a_tiny_one_follows_all(method):
    click_logit, label, key = two_slices()
    learned, held = slice(0, 20_000), slice(20_000, None)
    overall = fit_calibrator(click_logit[learned], label[learned], method)
    sliced = fit_sliced(click_logit[learned], label[learned], key[learned], "top", method)
    assert set(sliced.slices) == {"books", "shoes"}  # 200 rows have fewer than 50 clicks
    assert sliced.overall == overall
    p_click = sliced(click_logit[held], key[held])
    for name in ("books", "shoes"):
        here = key[held] == name
        assert abs(pcoc(overall(click_logit[held][here]), label[held][here]) - 1) > 0.2
        assert pcoc(p_click[here], label[held][here]) == pytest.approx(1, abs=0.06)
        order = np.argsort(click_logit[held][here])
        assert (np.diff(p_click[here][order]) >= 0).all()
    tiny = np.full(5, "tiny")
    assert sliced(click_logit[:5], tiny).tolist() == overall(click_logit[:5]).tolist()
    assert sliced(click_logit[:5]).tolist() == overall(click_logit[:5]).tolist()
    assert calibrator_of(sliced.facts()) == sliced
    grid = sliced(click_logit[:6].reshape(2, 3), np.full((2, 3), "shoes"))
    assert grid.ravel().tolist() == sliced(click_logit[:6], np.full(6, "shoes")).tolist()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_slice_is_drawn_toward_all_by_its_number_of_clicks(method):
    click_logit, label, key = two_slices()
    shoes = key == "shoes"
    clicks = int(label[shoes].sum())
    overall = fit_calibrator(click_logit, label, method)
    own = fit_calibrator(click_logit[shoes], label[shoes], method)
    drawn = fit_sliced(click_logit, label, key, "top", method, least=clicks).slices["shoes"]
    x = np.linspace(-4, 2, 50)
    if method == "platt":
        expected = expit((logit_of(own(x)) + logit_of(overall(x))) / 2)
    else:
        expected = (own(x) + overall(x)) / 2
    assert drawn(x) == pytest.approx(expected, abs=1e-6)
    assert "shoes" not in fit_sliced(click_logit, label, key, "top", method, least=clicks + 1).slices


def test_slices_with_one_class_or_without_a_method_have_no_calibrator_of_their_own():
    click_logit, label, key = two_slices()
    label = label | (key == "shoes")
    assert set(fit_sliced(click_logit, label, key, "top").slices) == {"books"}
    assert fit_sliced(click_logit, label, key, "top", "none").slices == {}
    assert fit_sliced(click_logit, np.zeros(len(label)), key, "top").slices == {}


@pytest.mark.parametrize("method", ["platt", "isotonic", "none"])
def test_left_out_negatives_are_counted_back(method):
    rng = np.random.default_rng(2)
    truth = rng.normal(-3, 1, 200_000)
    label, share = rng.random(200_000) < expit(truth), 0.2
    seen = label | (rng.random(200_000) < share)
    click_logit = truth - np.log(share)  # what a model says that learned from `seen`
    calibrator = fit_calibrator(click_logit[seen], label[seen], method, share)
    assert pcoc(expit(click_logit), label) > 3
    assert pcoc(calibrator(click_logit), label) == pytest.approx(1, abs=0.03)
    assert calibrator_of(calibrator.facts()) == calibrator


def test_counting_back_divides_the_odds_and_refuses_a_share_that_is_none():
    p_click = np.array([0.0, 0.2, 0.5, 1.0])
    assert with_all_negatives(p_click, 0.25) == pytest.approx([0, 0.05 / 0.85, 0.2, 1])
    assert with_all_negatives(p_click, 1.0) is p_click
    for share in (0.0, 1.5):
        with pytest.raises(SettingsError, match=f"at most 1, got {share}"):
            fit_calibrator(np.zeros(2), np.array([0, 1]), negative_share=share)


def test_products_are_sliced_by_embedding_or_top_category(planted):
    entities, vocabulary = planted.samples.entities, planted.samples.vocabulary
    assert product_slices("all", entities, vocabulary) is None
    known = product_slices("known", entities, vocabulary)
    assert known[-1] == "new"
    assert (known == "known").sum() == vocabulary.sizes["product"] - 1
    top = product_slices("top", entities, vocabulary)
    assert len(top) == len(entities.products) + 1
    assert set(top[:-1]) == {"all"}
    assert top[-1] == ""
    with pytest.raises(SettingsError, match="got 'brand'"):
        product_slices("brand", entities, vocabulary)
