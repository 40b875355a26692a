"""The linear bandit by value: prior without data, regression on pooled data, draws, values below 0."""

import numpy as np
import pytest
from scipy.special import expit

from moontide.creative.linear_bandit import LinearBandit, LinearBelief, LinearSettings
from moontide.foundation.errors import DataError


def counts(num: int = 12, dim: int = 4, products: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num, dim))
    impressions = rng.integers(50, 400, num).astype(float)
    return z, np.arange(num) % products, impressions, rng.binomial(impressions.astype(int), 0.1).astype(float)


def test_without_data_the_belief_is_the_prior():
    z, product, *_ = counts()
    bandit = LinearBandit(z, product)
    bandit.refit(np.zeros(12), np.zeros(12))
    for belief, num in [(bandit.by_product, 3), (bandit.by_creative, 12)]:
        assert belief.mu == pytest.approx(np.full((num, 4), 0.1))
        assert belief.precision == pytest.approx(np.tile(0.25 * np.eye(4), (num, 1, 1)))
        assert belief.shape.tolist() == [60_000.0] * num
        assert belief.scale == pytest.approx(np.full(num, 6.0))


def test_the_belief_is_the_regression_on_one_row_for_each_impression():
    z, product, impressions, clicks = counts()
    settings = LinearSettings(shape=3.0, scale=2.0)
    belief = LinearBelief(3, np.array([0.1, -0.2, 0.3, 0.0]), settings)
    belief.refit(product, z, impressions, clicks)
    for one in range(3):
        rows = np.flatnonzero(product == one)
        x = np.repeat(z[rows], impressions[rows].astype(int), axis=0)
        y = np.concatenate([np.arange(impressions[row]) < clicks[row] for row in rows]).astype(float)
        mu0 = np.array([0.1, -0.2, 0.3, 0.0])
        pulled_x, pulled_y = np.vstack((x, 0.5 * np.eye(4))), np.r_[y, 0.5 * mu0]  # L0 = 0.25 as rows of data
        slow, *_ = np.linalg.lstsq(pulled_x, pulled_y, rcond=None)
        assert belief.mu[one] == pytest.approx(slow)
        assert belief.precision[one] == pytest.approx(0.25 * np.eye(4) + x.T @ x)
        assert belief.shape[one] == pytest.approx(3 + len(y) / 2)
        left = ((pulled_y - pulled_x @ slow) ** 2).sum()  # the precision of mu0 in b, not its covariance
        assert belief.scale[one] == pytest.approx(2 + left / 2)


def test_a_refit_forgets_the_one_before():
    z, product, impressions, clicks = counts()
    once, twice = LinearBandit(z, product), LinearBandit(z, product)
    twice.refit(impressions, clicks)
    twice.refit(2 * impressions, clicks)
    once.refit(2 * impressions, clicks)
    assert twice.by_creative.mu == pytest.approx(once.by_creative.mu)


def test_draws_have_the_mean_and_spread_of_the_belief():
    z, product, impressions, clicks = counts(dim=2)
    settings = LinearSettings(shape=50.0, scale=100.0)
    belief = LinearBelief(3, np.full(2, 0.1), settings)
    belief.refit(product, z, impressions, clicks)
    rng = np.random.default_rng(0)
    drawn = np.stack([belief.draw(rng)[0] for _ in range(20_000)])
    covariance = np.linalg.inv(belief.precision[0]) * belief.scale[0] / (belief.shape[0] - 1)
    assert drawn.mean(0) == pytest.approx(belief.mu[0], abs=4 * np.sqrt(covariance.max() / 20_000))
    assert np.cov(drawn.T) == pytest.approx(covariance, rel=0.06, abs=0.02 * covariance.max())


def test_values_move_from_the_products_belief_to_the_creatives_as_traffic_comes():
    z, product, impressions, clicks = counts()
    bandit = LinearBandit(z, product)
    bandit.refit(impressions, clicks)
    shown = np.bincount(product, weights=impressions)[product]
    w = expit((shown - 150) / 50)
    shared = (z * bandit.by_product.mu[product]).sum(1)
    own = (z * bandit.by_creative.mu).sum(1)
    assert bandit.values(is_drawn=False) == pytest.approx((1 - w) * shared + w * own)


def test_products_whose_values_are_all_negative_are_served_their_best():
    z = np.array([[-3.0], [-1.0], [-2.0], [5.0]])
    bandit = LinearBandit(z, np.array([0, 1, 0, 1]), mu0=np.array([0.5]))
    assert bandit.values(is_drawn=False) == pytest.approx([-1.5, -0.5, -1.0, 2.5])
    assert bandit.choose(is_drawn=False).tolist() == [2, 3]


def test_it_learns_which_features_are_clicked():
    rng = np.random.default_rng(0)
    z = np.c_[np.ones(200), rng.normal(size=(200, 3))]
    rate = (0.05 + 0.02 * z[:, 1]).clip(0.002)
    product = np.arange(200) // 4
    bandit = LinearBandit(z, product)
    shown, clicked = np.zeros(200), np.zeros(200)
    found = []
    for _ in range(15):
        picks = bandit.choose()
        shown[picks] += 100
        clicked[picks] += rng.binomial(100, rate[picks])
        bandit.refit(shown, clicked)
        found.append(rate[picks].mean())
    assert np.mean(found[-5:]) > 0.9 * rate.reshape(50, 4).max(1).mean() > 1.2 * rate.mean()


def test_mistakes_are_named():
    z, product, impressions, clicks = counts()
    with pytest.raises(DataError, match="finite features"):
        LinearBandit(z * np.nan, product)
    with pytest.raises(DataError, match="numbered from 0 on without gaps"):
        LinearBandit(z, product + 1)
    with pytest.raises(DataError, match="must have 4 numbers"):
        LinearBandit(z, product, mu0=np.zeros(3))
    with pytest.raises(DataError, match="0 <= clicks <= impressions"):
        LinearBandit(z, product).refit(clicks, impressions)
