"""Semantic ids: frozen vectors as a few cluster codes, which a click model reads as it reads a brand.

Residual k-means: the first code is the nearest of the first centers, the second that of what is left, and so
on. Codes of two products are equal as far as the products look alike; a new product has codes at once.

Also called: RQ-KMeans, SID. Paper: analog EST (reported; levels and codes are ours).
"""

from __future__ import annotations

import warnings

import numpy as np
import pydantic
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from moontide.foundation.seeds import seed_of
from moontide.foundation.settings import Settings

FIT_ROWS = 50_000


class SemanticSettings(Settings):
    """How many codes a product has."""

    levels: int = pydantic.Field(3, ge=1, le=8, description="codes of a product, coarse to fine")
    codes: int = pydantic.Field(32, ge=2, le=65_535, description="clusters of each level")


def fit_centers(vectors: np.ndarray, settings: SemanticSettings, seed: int = 0) -> np.ndarray:
    """Centers of residual k-means over unit vectors (rows, dim): (levels, codes, dim) float32.

    With fewer distinct rows than codes the surplus centers repeat and are never chosen first.
    """
    rows = np.asarray(vectors, np.float32)
    if len(rows) > FIT_ROWS:
        rng = np.random.default_rng(seed_of(seed, "semantic rows") % 2**32)
        rows = rows[np.sort(rng.choice(len(rows), FIT_ROWS, replace=False))]
    centers = np.zeros((settings.levels, settings.codes, rows.shape[1]), np.float32)
    for level in range(settings.levels):
        num = min(settings.codes, len(np.unique(rows, axis=0)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = KMeans(num, n_init=1, max_iter=25, random_state=seed_of(seed, "semantic", level) % 2**31)
            place = found.fit_predict(rows)
        centers[level, :num] = found.cluster_centers_
        centers[level, num:] = found.cluster_centers_[0]
        rows = rows - centers[level][place]
    return centers


def codes_of(vectors: np.ndarray, present: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Codes from 1 of each vector, (rows, levels) int64; 0 where there is none.

    Args:
        vectors: (rows, dim). present: (rows,) bool. centers: of `fit_centers`.
    """
    codes = np.zeros((len(vectors), len(centers)), np.int64)
    rest = np.asarray(vectors, np.float32)[present]
    for level, center_CD in enumerate(centers):
        place = ((center_CD**2).sum(1) - 2 * rest @ center_CD.T).argmin(1)
        codes[present, level] = place + 1
        rest = rest - center_CD[place]
    return codes
