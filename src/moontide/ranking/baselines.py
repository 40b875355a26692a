"""What a click model must beat: popularity, and a linear model of counters. Neither needs ids or vectors."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from moontide.foundation.errors import DataError
from moontide.ranking.counters import dense_features, smoothed_ctr
from moontide.ranking.samples import Samples


def popularity_scores(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """The product's smoothed CTR before each impression, (rows,): nothing is trained."""
    return smoothed_ctr(samples.counters[rows])


def logistic_scores(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """p(click) by logistic regression on FEATURES, fitted on the training period, (rows,).

    Also called: LR on counting features.

    Raises:
        DataError: the training period has one class only.
    """
    train = samples.train_rows
    label = samples.label[train]
    if label.all() or not label.any():
        raise DataError(
            f"the training period has {int(label.sum())} clicks in {len(label):,} impressions: need both"
        )
    scaler = StandardScaler().fit(_features(samples, train))
    model = LogisticRegression(max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaler.transform(_features(samples, train)), label)
    return model.predict_proba(scaler.transform(_features(samples, rows)))[:, 1]


def _features(samples: Samples, rows: np.ndarray) -> np.ndarray:
    product, entities = samples.product[rows], samples.entities
    return dense_features(
        samples.counters[rows], samples.at[rows], entities.created_at[product], entities.log_price[product]
    )
