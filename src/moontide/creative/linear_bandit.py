"""A linear bandit over pictures' features: one belief for a product, one for each creative, mixed by traffic.

    L  = L0 + sum pv z z^T             mu = L^-1 (L0 mu0 + sum clk z)
    a  = a0 + sum pv / 2               b  = b0 + (sum clk + mu0^T L0 mu0 - mu^T L mu) / 2
    value = (1 - w) z.theta_product + w z.theta_creative,    w = sigmoid((pv of the product - 150) / 50)

theta is drawn from Normal(mu, sigma^2 L^-1), sigma^2 from Inverse-Gamma(a, b), each of the two by itself.

Paper: A Hybrid Bandit Model with Visual Priors for Creative Ranking in Display Advertising (VAM-HBM), by its
official code (analog VAM-HBM). Not taken from that code: its prior term of b has the covariance where the
precision belongs; its evaluation starts the best value at 0, so that a product of negative values has none.
"""

from __future__ import annotations

import numpy as np
import pydantic
from scipy.special import expit

from moontide.foundation.errors import DataError
from moontide.foundation.seeds import seed_of
from moontide.foundation.settings import Settings


class LinearSettings(Settings):
    """Prior and mixing of the linear bandit."""

    prior_mean: float = pydantic.Field(0.1, description="mu0 of every feature")
    precision: float = pydantic.Field(0.25, gt=0, description="L0 of every feature")
    shape: float = pydantic.Field(60_000.0, gt=0, description="a0 of the noise")
    scale: float = pydantic.Field(6.0, gt=0, description="b0 of the noise")
    pivot: float = pydantic.Field(150.0, description="impressions of a product at which both count alike")
    width: float = pydantic.Field(50.0, gt=0, description="impressions over which the weight turns")
    seed: int = pydantic.Field(0, description="of the draws")


class LinearBelief:
    """Normal-inverse-gamma beliefs about many weight vectors.

    Args:
        num: of weight vectors.
        mu0: (dim,) prior mean.
        settings: the rest of the prior.
    """

    def __init__(self, num: int, mu0: np.ndarray, settings: LinearSettings):
        self.mu0, self.settings = np.asarray(mu0, dtype=np.float64), settings
        dim = len(self.mu0)
        self.precision = np.tile(settings.precision * np.eye(dim), (num, 1, 1))
        self.mu = np.tile(self.mu0, (num, 1))
        self.shape, self.scale = np.full(num, settings.shape), np.full(num, settings.scale)

    def refit(self, owner: np.ndarray, z: np.ndarray, impressions: np.ndarray, clicks: np.ndarray) -> None:
        """From the prior anew, on all that is known; nothing known gives the prior.

        Args:
            owner: (rows,) the weight vector each row counts for.
            z: (rows, dim) features.
            impressions, clicks: (rows,) totals; a click is an impression of reward 1.
        """
        num, dim = self.mu.shape
        prior = self.settings.precision * np.eye(dim)
        self.precision = np.tile(prior, (num, 1, 1))
        np.add.at(self.precision, owner, impressions[:, None, None] * z[:, :, None] * z[:, None, :])
        moment = np.tile(prior @ self.mu0, (num, 1))
        np.add.at(moment, owner, clicks[:, None] * z)
        self.mu = np.linalg.solve(self.precision, moment[:, :, None])[:, :, 0]
        shown, clicked = (np.bincount(owner, weights=one, minlength=num) for one in (impressions, clicks))
        left = clicked + self.mu0 @ prior @ self.mu0 - (self.mu * moment).sum(1)  # mu^T L mu = mu^T moment
        self.shape = self.settings.shape + shown / 2
        self.scale = self.settings.scale + np.maximum(left, 0.0) / 2  # never below 0 but by rounding

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(num, dim) weight vectors drawn from the belief."""
        noise = self.scale / rng.gamma(self.shape)
        factor = np.linalg.cholesky(self.precision)  # L = C C^T, so C^-T e has covariance L^-1
        spread = np.linalg.solve(factor.transpose(0, 2, 1), rng.standard_normal(self.mu.shape)[:, :, None])
        return self.mu + np.sqrt(noise)[:, None] * spread[:, :, 0]


class LinearBandit:
    """Chooses a creative for each product by features of the pictures.

    Args:
        z: (creatives, dim) features, such as `ImageRanker.features`.
        product: (creatives,) number of the product of each, from 0 on without gaps.
        settings: prior and mixing.
        mu0: (dim,) prior mean instead of the settings', such as the weights of a trained ranker's last layer.

    Raises:
        DataError: features that are not finite, or shapes that do not fit.
    """

    def __init__(
        self,
        z: np.ndarray,
        product: np.ndarray,
        settings: LinearSettings | None = None,
        mu0: np.ndarray | None = None,
    ):
        self.z, self.product = np.asarray(z, dtype=np.float64), np.asarray(product, dtype=np.int64)
        self.settings = settings or LinearSettings()
        if self.z.ndim != 2 or not len(self.z) == len(self.product) > 0 or not np.isfinite(self.z).all():
            raise DataError(
                f"a linear bandit needs finite features (creatives, dim) and a product of each, got "
                f"{self.z.shape} and {self.product.shape}"
            )
        if not np.array_equal(np.unique(self.product), np.arange(self.product.max() + 1)):
            raise DataError("products must be numbered from 0 on without gaps")
        dim = self.z.shape[1]
        mean = np.full(dim, self.settings.prior_mean) if mu0 is None else np.asarray(mu0, dtype=np.float64)
        if mean.shape != (dim,):
            raise DataError(f"the prior mean must have {dim} numbers as the features do, got {mean.shape}")
        self.by_product = LinearBelief(int(self.product.max()) + 1, mean, self.settings)
        self.by_creative = LinearBelief(len(self.z), mean, self.settings)
        self._shown = np.zeros(int(self.product.max()) + 1)
        self._rng = np.random.default_rng(seed_of(self.settings.seed, "linear bandit"))

    def refit(self, impressions: np.ndarray, clicks: np.ndarray) -> None:
        """Learn all counts so far anew, such as once a day.

        Args:
            impressions, clicks: (creatives,) totals since the start.

        Raises:
            DataError: counts that cannot be.
        """
        shown, clicked = np.asarray(impressions, dtype=np.float64), np.asarray(clicks, dtype=np.float64)
        if shown.shape != (len(self.z),) or clicked.shape != shown.shape:
            raise DataError(f"counts of {len(self.z)} creatives are needed, got {shown.size}, {clicked.size}")
        if not ((clicked >= 0) & (clicked <= shown) & np.isfinite(shown)).all():
            raise DataError("counts must be finite and hold 0 <= clicks <= impressions")
        self.by_product.refit(self.product, self.z, shown, clicked)
        self.by_creative.refit(np.arange(len(self.z)), self.z, shown, clicked)
        self._shown = np.bincount(self.product, weights=shown)

    def values(self, is_drawn: bool = True) -> np.ndarray:
        """(creatives,) the mixed value of each: of drawn weights, or of their means."""
        if is_drawn:
            of_product, of_creative = self.by_product.draw(self._rng), self.by_creative.draw(self._rng)
        else:
            of_product, of_creative = self.by_product.mu, self.by_creative.mu
        w = expit((self._shown - self.settings.pivot) / self.settings.width)[self.product]
        shared, own = ((self.z * theta).sum(1) for theta in (of_product[self.product], of_creative))
        return (1 - w) * shared + w * own

    def choose(self, is_drawn: bool = True) -> np.ndarray:
        """(products,) number of the creative of the highest value in each product, be it negative."""
        value = self.values(is_drawn)
        order = np.lexsort((value, self.product))
        is_last = np.r_[self.product[order][1:] != self.product[order][:-1], True]
        return order[is_last]
