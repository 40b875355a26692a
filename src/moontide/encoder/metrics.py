"""What ranks and predictions say, one number a query, and how sure the means are.

Ties count against the positive: rank = 1 + #{other items: s >= s_p}. Constant vectors therefore have recall
0, not 1. Ranks are made once; every metric and every bootstrap replicate is arithmetic on them.

Paper: MOON Embedding 3.6 (ties ours), MOON 3.5 (recall@k; accuracy and macro and weighted precision, recall
and F1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.special import gammaln

from moontide.foundation.seeds import stream
from moontide.foundation.statistics import CHUNK_CELLS, bootstrap_weights

KS = (1, 5, 10)
CHUNK = 512
CLASS_METRICS = (
    "accuracy",
    *(f"{average} {name}" for average in ("macro", "weighted") for name in ("precision", "recall", "f1")),
)


def positive_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence[np.ndarray],
    ignored: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Rank of every positive of each query; 1 is best, and positives do not push each other by ties.

        rank of the i-th best positive = i + #{items that are no positive: s >= s_i},  i = 1, 2, ...

    Args:
        queries: (n, D); gallery: (m, D).
        positives: rows of the gallery for each query, at least one, none twice.
        ignored: rows that count neither way, for instance what the query was also right for.

    Returns:
        n arrays of int64, in the order of the query's positives.
    """
    found = []
    for start in range(0, len(queries), CHUNK):
        scores = queries[start : start + CHUNK] @ gallery.T
        for row, own in enumerate(positives[start : start + CHUNK]):
            assert len(own), "a query without positives has no rank"
            others, best = scores[row], scores[row, own]
            others[own if ignored is None else np.union1d(own, ignored[start + row])] = -np.inf
            if len(own) == 1:
                found.append(1 + np.count_nonzero(others >= best, keepdims=True))
                continue
            ahead = len(others) - np.searchsorted(np.sort(others), best, side="left")
            place = np.empty(len(own), dtype=np.int64)
            place[np.argsort(-best, kind="stable")] = np.arange(1, len(own) + 1)
            found.append(place + ahead)
    return found


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    positives: Sequence[np.ndarray],
    ignored: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Rank of each query's best positive among the items that are none of its positives; 1 is best.

    Args and ties as in `positive_ranks`.

    Returns:
        (n,) int64
    """
    return first_of(positive_ranks(queries, gallery, positives, ignored))


def first_of(found: Sequence[np.ndarray]) -> np.ndarray:
    """The best rank of each query."""
    return np.array([own.min() for own in found], dtype=np.int64)


def recall_at(
    queries: np.ndarray, gallery: np.ndarray, positives: Sequence[np.ndarray], ks: Sequence[int] = KS
) -> dict[str, float]:
    """Share of queries with a positive within the first k, by k; NaN without queries.

    Weighting: every query counts once. Ties: against the positive.

    Returns:
        {"recall@1": ..., ...}

    Example:
        >>> recall_at(np.eye(3), np.eye(3), [np.array([0]), np.array([1]), np.array([0])], ks=(1,))
        {'recall@1': 0.6666666666666666}
    """
    if not len(queries):
        return {f"recall@{k}": float("nan") for k in ks}
    rank = ranks(queries, gallery, positives)
    return {f"recall@{k}": float((rank <= k).mean()) for k in ks}


def found_at(found: Sequence[np.ndarray], k: int) -> np.ndarray:
    """|first k and P| / |P| of each query, P its positives: what TREC tools call recall."""
    return np.array([(own <= k).mean() for own in found])


def ndcg_at(
    found: Sequence[np.ndarray], k: int = 10, gains: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """nDCG of each query.

        DCG = sum over positives with rank <= k of gain / log2(1 + rank);  nDCG = DCG / DCG of the best order

    Args:
        found: as `positive_ranks` gives them. gains: of each positive, above 0; None: 1.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    values = []
    for row, own in enumerate(found):
        gain = np.ones(len(own)) if gains is None else gains[row]
        near = own <= k
        best = np.sort(gain)[::-1][:k]
        values.append((gain[near] * discount[own[near] - 1]).sum() / (best * discount[: len(best)]).sum())
    return np.array(values)


def reciprocal_rank_at(found: Sequence[np.ndarray], k: int = 10) -> np.ndarray:
    """1 / rank of each query's best positive, 0 beyond k; its mean is the MRR."""
    first = first_of(found)
    return np.where(first <= k, 1 / first, 0.0)


def chance_of(num_positives: np.ndarray, size: int | np.ndarray, k: int) -> np.ndarray:
    """Probability that a random order has a positive within the first k: 1 - C(size - p, k) / C(size, k).

    Args:
        num_positives: of each query.
        size: of the gallery, or of what each query is ranked among.
    """
    rest = size - num_positives
    possible = rest >= k
    part = np.zeros(len(num_positives))
    r, p = rest[possible], num_positives[possible]
    part[possible] = np.exp(gammaln(r + 1) - gammaln(r - k + 1) - gammaln(r + p + 1) + gammaln(r + p - k + 1))
    return 1 - part


def chance_at(num_positives: np.ndarray, size: int | np.ndarray, k: int) -> float:
    """Recall of a random order: the mean of `chance_of`."""
    return float(chance_of(num_positives, size, k).mean())


def predictions(scores: np.ndarray, is_true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class of the highest score of each row, and the true class it is held against.

    Ties: against the truth; a true class wins only where its score is above that of every other class. Of
    several true classes the best one counts.

    Args:
        scores: (n, classes); is_true: (n, classes) bool, at least one true class a row.

    Returns:
        true and predicted classes, (n,) each.
    """
    rows = np.arange(len(scores))
    own = np.where(is_true, scores, -np.inf)
    other = np.where(is_true, -np.inf, scores)
    truth, rival = own.argmax(1), other.argmax(1)
    return truth, np.where(own[rows, truth] > other[rows, rival], truth, rival)


def class_scores(truth: np.ndarray, predicted: np.ndarray, weight_RN: np.ndarray | None = None) -> np.ndarray:
    """`CLASS_METRICS` of predictions, once for every row of weights.

        precision = tp / predicted, recall = tp / true, f1 = 2 tp / (predicted + true), each 0 where 0 / 0

    Macro: mean over the classes that are true or predicted somewhere. Weighted: by how often a class is true;
    weighted recall is accuracy. One class: all are 1 when it is predicted throughout. (As scikit-learn.)

    Args:
        truth, predicted: (n,) codes. weight_RN: (replicates, n); None: every row counts once.

    Returns:
        (replicates, 7)
    """
    codes, place = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    true_class, predicted_class = place[: len(truth)], place[len(truth) :]
    weight_RN = np.ones((1, len(truth))) if weight_RN is None else weight_RN

    def sums(classes: np.ndarray, counted: np.ndarray) -> np.ndarray:
        rows = np.arange(len(classes))
        return weight_RN @ csr_array((counted * 1.0, (rows, classes)), shape=(len(classes), len(codes)))

    everything = np.ones(len(truth))
    hit = sums(true_class, true_class == predicted_class)
    true, said = sums(true_class, everything), sums(predicted_class, everything)
    precision, recall, f1 = _part(hit, said), _part(hit, true), _part(2 * hit, said + true)
    seen = (true + said) > 0
    total = true.sum(1)
    columns = [_part(hit.sum(1), total)]
    columns += [_part((one * seen).sum(1), seen.sum(1)) for one in (precision, recall, f1)]
    columns += [_part((one * true).sum(1), total) for one in (precision, recall, f1)]
    return np.stack(columns, axis=1)


def intervals(
    values_NM: np.ndarray,
    groups: np.ndarray,
    replicates: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of the mean of every column, rows drawn in groups, all columns with one draw.

    The draws are those of `statistics.bootstrap_interval` with the same seed.

    Args:
        values_NM: one number a query and metric. groups: of the queries; queries of a group stay together.

    Returns:
        low and high, (M,) each; NaN under two groups.
    """
    num, code = _codes(groups)
    total = np.stack([np.bincount(code, column, num) for column in values_NM.T], axis=1)
    count = np.bincount(code, minlength=num).astype(float)
    parts = [_part(w @ total, (w @ count)[:, None], math.nan) for w in _weights(num, replicates, seed)]
    return _bounds(np.concatenate(parts), num, level)


def class_intervals(
    truth: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    replicates: int = 1_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """As `intervals`, of `class_scores`."""
    num, code = _codes(groups)
    parts = [class_scores(truth, predicted, w[:, code]) for w in _weights(num, replicates, seed)]
    return _bounds(np.concatenate(parts), num, level)


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of paired unit vectors; 0 is best."""
    return float(((first - second) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray, t: float = 2.0) -> float:
    """log mean exp(-t ||x - y||^2) over distinct pairs; lower is more even, 0 is one point."""
    squared = np.clip(2 - 2 * vectors @ vectors.T, 0, None)
    upper = np.triu_indices(len(vectors), 1)
    return float(np.log(np.exp(-t * squared[upper]).mean()))


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine of distinct unit vectors; near 1 means collapse."""
    num = len(vectors)
    return float((np.square(vectors.sum(0)).sum() - num) / (num * (num - 1)))


def _codes(groups: np.ndarray) -> tuple[int, np.ndarray]:
    values, code = np.unique(groups, return_inverse=True)
    return len(values), code


def _weights(num_groups: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    rng = stream(seed, "bootstrap", "poisson")
    step = max(1, CHUNK_CELLS // num_groups)
    for start in range(0, replicates, step):
        yield bootstrap_weights(num_groups, min(step, replicates - start), rng)


def _bounds(drawn_RM: np.ndarray, num_groups: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    if num_groups < 2:
        return np.full(drawn_RM.shape[1], math.nan), np.full(drawn_RM.shape[1], math.nan)
    low, high = np.nanquantile(drawn_RM, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _part(top: np.ndarray, bottom: np.ndarray, empty: float = 0.0) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom > 0, top / bottom, empty)
