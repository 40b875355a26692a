"""From a judge's strengths to the Beta prior a bandit starts from.

    m_i    = c exp(eta t_i) / mean_j exp(eta t_j)       c: the product's click-through rate
    alpha0 = kappa m_i,   beta0 = kappa (1 - m_i)

kappa counts as impressions and is capped: a confident prior on the wrong picture would freeze the bandit.
eta says how much of the judge's log-odds shows in clicks; it is fitted on held-out pairs, and 0
ignores the judge.

Paper: Creative4U 3.7 (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydantic
from scipy.optimize import brentq
from scipy.special import expit, softmax

from moontide.creative.records import CreativePair
from moontide.foundation.errors import DataError
from moontide.foundation.settings import Settings

MOST_KAPPA = 200.0  # ours
RATES = (1e-5, 0.5)  # ours
MOST_ETA = 10.0


class PriorSettings(Settings):
    """How strongly a judge's opinion starts a bandit."""

    kappa: float = pydantic.Field(50.0, gt=0, description="pseudo-impressions, more than 200 count as 200")
    eta: float = pydantic.Field(1.0, ge=0, description="share of the judge's log-odds; 0 ignores it")


@dataclass(frozen=True)
class PriorExport:
    """The prior of one creative; `capped` where kappa or its rate met a bound."""

    product_id: str
    creative_id: str
    alpha0: float
    beta0: float
    source: str
    capped: bool


@dataclass(frozen=True)
class EtaFit:
    """A fitted eta; `gain` is log-likelihood won over eta = 0, in nats a click."""

    eta: float
    gain: float
    num_pairs: int
    num_clicks: int


def prior_means(strength: Sequence[float] | np.ndarray, product_ctr: float, eta: float) -> np.ndarray:
    """The rates m_i of a product's creatives, not clipped: their mean is the product's rate.

    Args:
        strength: t of each creative, in log-odds.
        product_ctr: c, clicks per impression.

    Raises:
        DataError: no creative, a strength that is not finite, or a rate outside (0, 1).
    """
    t = np.asarray(strength, dtype=np.float64)
    if t.ndim != 1 or not len(t) or not np.isfinite(t).all():
        raise DataError("a prior needs one finite strength for each creative: rank them first")
    if not 0 < product_ctr < 1:
        raise DataError(
            f"a product's rate must lie between 0 and 1, got {product_ctr}: smooth it where it has no clicks"
        )
    return product_ctr * len(t) * softmax(eta * t)


def export_priors(
    product_id: str,
    creative_ids: Sequence[str],
    strength: Sequence[float] | np.ndarray,
    product_ctr: float,
    settings: PriorSettings | None = None,
    source: str = "judge",
) -> list[PriorExport]:
    """The priors of one product's creatives, in their order.

    Args:
        strength: t of each creative, such as `Ranking.strength`.
        product_ctr: clicks per impression of the product, all creatives together.
        source: what the strengths come from, such as the judge's version.

    Raises:
        DataError: as `prior_means`, or strengths that do not fit the creatives.

    Example:
        >>> found = export_priors("p", ["a", "b"], [0.5, -0.5], 0.02, PriorSettings(kappa=100, eta=0))
        >>> [(one.creative_id, one.alpha0, one.beta0) for one in found]
        [('a', 2.0, 98.0), ('b', 2.0, 98.0)]
    """
    settings = settings or PriorSettings()
    if len(creative_ids) != len(strength):
        raise DataError(
            f"product {product_id!r} has {len(creative_ids)} creatives and {len(strength)} strengths: give "
            "one for each"
        )
    wanted = prior_means(strength, product_ctr, settings.eta)
    means, kappa = wanted.clip(*RATES), min(settings.kappa, MOST_KAPPA)
    capped = (means != wanted) | (kappa != settings.kappa)
    return [
        PriorExport(product_id, name, float(kappa * m), float(kappa * (1 - m)), source, bool(is_capped))
        for name, m, is_capped in zip(creative_ids, means, capped, strict=True)
    ]


def fit_eta(pairs: Sequence[CreativePair], difference: Sequence[float] | np.ndarray) -> EtaFit:
    """The eta under which held-out clicks fall as they did; 0 for a judge that is no help.

    Given the clicks of a pair together, those of A are Binomial with chance

        q = imp_A exp(eta d) / (imp_A exp(eta d) + imp_B),   d = t_A - t_B

    which is exact for rare clicks whatever the product's rate; concave in eta, found within [0, 10].

    Pairs chosen for a large *observed* gap make eta too large: give pairs built without a gap rule.

    Args:
        pairs: of products that the judge was not trained on.
        difference: t_A - t_B of each pair, in log-odds.

    Raises:
        DataError: no pairs, no clicks, or differences that are not finite or do not fit the pairs.
    """
    d = np.asarray(difference, dtype=np.float64)
    if not pairs or d.shape != (len(pairs),) or not np.isfinite(d).all():
        raise DataError(f"eta needs one finite difference for each pair, got {d.size} for {len(pairs)} pairs")
    counts = np.array([(p.impressions_a, p.impressions_b, p.clicks_a, p.clicks_b) for p in pairs], float)
    counts, d = counts[(counts[:, :2] > 0).all(1)], d[(counts[:, :2] > 0).all(1)]
    shown_a, shown_b, clicks_a, clicks_b = counts.T
    clicks = clicks_a + clicks_b
    if not clicks.sum() > 0:
        raise DataError("eta needs held-out pairs with clicks, these have none: give more impressions")
    offset = np.log(shown_a) - np.log(shown_b)

    def slope(eta: float) -> float:
        return float(d @ (clicks_a - clicks * expit(offset + eta * d)))

    def likely(eta: float) -> float:
        z = offset + eta * d
        return float(-(clicks_a @ np.logaddexp(0, -z)) - clicks_b @ np.logaddexp(0, z))

    if slope(0.0) <= 0:
        eta = 0.0
    elif slope(MOST_ETA) >= 0:
        eta = MOST_ETA
    else:
        eta = float(brentq(slope, 0.0, MOST_ETA, xtol=1e-10))
    gain = (likely(eta) - likely(0.0)) / float(clicks.sum())
    return EtaFit(eta, gain, len(d), int(clicks.sum()))
