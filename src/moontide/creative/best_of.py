"""The chance of each of a product's creatives to be the best, given Beta beliefs about their rates.

    P(i best) = integral of f_i(x) prod_{j != i} F_j(x) dx

It is what one draw of Thompson sampling would choose, and what the stop rule asks. Computed, not drawn: the
bandit draws from these numbers, so that the propensity it logs is the one it acted on.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betainc, betainccinv, betaincinv, betaln, expit, log_expit, polygamma

OUTSIDE = 1e-11  # mass of the best one's rate that may lie outside the grid, at either end
SMALLEST = 1e-300
NODES = (64, 16_384)  # of a grid, at least and at most
CHUNK_CELLS = 4_000_000


def p_best(alpha_PN: np.ndarray, beta_PN: np.ndarray, is_real_PN: np.ndarray | None = None) -> np.ndarray:
    """The chance of each candidate to have the highest rate; rows add up to 1.

    Trapezoids in logit(x), where a Beta density is a smooth bell: with a step under its deviation the error
    falls below 1e-8. The grid holds the highest rate alone, which no candidate's lower end lies above.

    Args:
        alpha_PN, beta_PN: (products, candidates), above 0.
        is_real_PN: False where a product has fewer candidates: these get 0. Each row has at least one.

    Returns:
        (products, candidates) float64.

    Example:
        >>> p_best(np.array([[2.0, 1.0]]), np.array([[1.0, 1.0]])).round(6).tolist()
        [[0.666667, 0.333333]]
    """
    is_real = np.ones(alpha_PN.shape, bool) if is_real_PN is None else is_real_PN
    alpha, beta = np.where(is_real, alpha_PN, 1.0), np.where(is_real, beta_PN, 1.0)
    low = np.where(is_real, betaincinv(alpha, beta, OUTSIDE), 0.0).max(1)
    high = np.where(is_real, betainccinv(alpha, beta, OUTSIDE), 0.0).max(1)
    low, high = (np.log(x) - np.log1p(-x) for x in (low.clip(SMALLEST, 1 - 1e-15), high.clip(0, 1 - 1e-15)))
    spread = np.where(is_real, np.sqrt(polygamma(1, alpha) + polygamma(1, beta)), np.inf).min(1)
    wanted = np.exp2(np.ceil(np.log2((high - low) / (0.7 * spread) + 1))).clip(*NODES).astype(int)
    found = np.zeros(alpha.shape)
    for num in np.unique(wanted):
        rows = np.flatnonzero(wanted == num)
        step = max(1, CHUNK_CELLS // (int(num) * alpha.shape[1]))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            found[part] = _integrals(alpha[part], beta[part], is_real[part], low[part], high[part], int(num))
    return found / found.sum(1, keepdims=True)


def _integrals(
    alpha: np.ndarray, beta: np.ndarray, is_real: np.ndarray, low: np.ndarray, high: np.ndarray, num: int
) -> np.ndarray:
    """Up to a factor of each row: the ends carry no mass, so that their halves do not matter."""
    y = (low[:, None] + (high - low)[:, None] * np.linspace(0, 1, num))[:, None, :]  # (rows, 1, nodes)
    a, b = alpha[:, :, None], beta[:, :, None]
    density = np.exp(a * log_expit(y) + b * log_expit(-y) - betaln(a, b))
    below = np.where(is_real[:, :, None], betainc(a, b, expit(y)), 1.0)
    found = np.zeros(alpha.shape)
    for i in range(alpha.shape[1]):
        others = np.delete(below, i, axis=1).prod(1)
        found[:, i] = np.where(is_real[:, i], (density[:, i] * others).sum(1), 0.0)
    return found


def top_two(p_best_PN: np.ndarray, is_real_PN: np.ndarray, coin: float = 0.5) -> np.ndarray:
    """The chance of each candidate under top-two Thompson sampling; rows add up to 1.

        p_i = coin a_i + (1 - coin) sum_{j != i} a_j a_i / (1 - a_j),      a = P(best)

    One is drawn as Thompson sampling would; with chance 1 - coin another is drawn until it differs. Spends
    as much on telling the second from the best as on the best.

    Also called: TTTS. Analog TTTS (reported).

    Args:
        p_best_PN: a, rows add up to 1.
        is_real_PN: False for empty places.
        coin: chance to show the first one drawn.
    """
    a = p_best_PN
    rest = np.stack([np.delete(a, j, axis=1).sum(1) for j in range(a.shape[1])], axis=1)  # exact near a = 1
    others = is_real_PN.sum(1, keepdims=True) - 1
    second = np.zeros_like(a)
    for j in range(a.shape[1]):
        even = is_real_PN / np.maximum(others, 1)  # nothing tells the others apart
        share = np.where(rest[:, j : j + 1] > 0, a / np.maximum(rest[:, j : j + 1], SMALLEST), even)
        share[:, j] = 0.0
        second += a[:, j : j + 1] * share
    return np.where(others > 0, coin * a + (1 - coin) * second, a)
