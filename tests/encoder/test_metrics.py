"""Ranks against brute force, ties, chance; class metrics against scikit-learn; intervals."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from moontide.encoder import metrics
from moontide.encoder.metrics import (
    CLASS_METRICS,
    alignment,
    chance_at,
    class_intervals,
    class_scores,
    found_at,
    intervals,
    mean_cosine,
    ndcg_at,
    positive_ranks,
    predictions,
    ranks,
    recall_at,
    reciprocal_rank_at,
    uniformity,
)
from moontide.foundation.statistics import bootstrap_interval


def unit(rows, width, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def some_positives(num, size, seed=2, most=4):
    rng = np.random.default_rng(seed)
    return [rng.choice(size, rng.integers(1, most), replace=False) for _ in range(num)]


def test_recall_agrees_with_brute_force(monkeypatch):
    monkeypatch.setattr(metrics, "CHUNK", 7)
    queries, gallery = unit(20, 4), unit(50, 4, 1)
    positives = some_positives(20, 50)
    for k, found in zip((1, 5, 10), recall_at(queries, gallery, positives).values(), strict=True):
        hits = 0
        for query, own in zip(queries, positives, strict=True):
            scores = gallery @ query
            others = np.delete(scores, own)
            hits += (others >= scores[own].max()).sum() < k
        assert found == pytest.approx(hits / 20)


def test_ranks_of_several_positives_are_places_in_the_sorted_list():
    queries, gallery = unit(20, 4), unit(50, 4, 1)
    positives = some_positives(20, 50)
    for query, own, found in zip(
        queries, positives, positive_ranks(queries, gallery, positives), strict=True
    ):
        order = np.argsort(-(gallery @ query)).tolist()
        assert found.tolist() == [1 + order.index(row) for row in own]


def test_what_is_ignored_might_as_well_not_be_there():
    queries, gallery = unit(20, 4), unit(50, 4, 1)
    positives = some_positives(20, 20)
    ignored = [np.arange(20 + n, 50) for n in range(20)]
    for n in range(20):
        alone = ranks(queries[n : n + 1], gallery[: 20 + n], positives[n : n + 1])
        assert ranks(queries[n : n + 1], gallery, positives[n : n + 1], ignored[n : n + 1]) == alone


def test_ties_count_against_the_positive():
    constant = np.ones((6, 4), np.float32) / 2
    own = [np.array([n]) for n in range(6)]
    recall = recall_at(constant, constant, own, ks=(1, 5, 6))
    assert recall == {"recall@1": 0, "recall@5": 0, "recall@6": 1}
    assert sorted(positive_ranks(constant[:1], constant, [np.array([4, 1])])[0].tolist()) == [5, 6]


def test_distinct_vectors_find_themselves_and_recall_grows_to_one():
    vectors = unit(30, 8)
    own = [np.array([n]) for n in range(30)]
    assert recall_at(vectors, vectors, own, ks=(1,)) == {"recall@1": 1}
    values = list(recall_at(unit(30, 8, 3), vectors, own, ks=range(1, 31)).values())
    assert values == sorted(values)
    assert values[-1] == 1


def test_no_query_gives_no_number():
    assert np.isnan(recall_at(np.zeros((0, 4)), unit(3, 4), [])["recall@1"])


@pytest.mark.parametrize(("positives", "size", "k"), [(1, 20, 5), (3, 20, 5), (18, 20, 5), (2, 4, 4)])
def test_chance_is_the_recall_of_random_orders(positives, size, k):
    rng = np.random.default_rng(0)
    orders = np.argsort(rng.random((20_000, size)), axis=1)
    measured = (orders[:, :positives].min(1) < k).mean()
    assert chance_at(np.array([positives]), size, k) == pytest.approx(measured, abs=0.01)


def test_metrics_of_known_ranks_have_the_values_of_their_formulas():
    found = [np.array([1, 3]), np.array([12]), np.array([2, 40, 4])]
    assert found_at(found, 3).tolist() == [1, 0, pytest.approx(1 / 3)]
    assert reciprocal_rank_at(found).tolist() == [1, 0, 0.5]
    ideal = [1 + 1 / np.log2(3), 1, 1 + 1 / np.log2(3) + 0.5]
    gained = [1 + 0.5, 0, 1 / np.log2(3) + 1 / np.log2(5)]
    np.testing.assert_allclose(ndcg_at(found), np.array(gained) / ideal)
    graded = ndcg_at([np.array([2, 1])], gains=[np.array([3.0, 1.0])])
    assert graded[0] == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))


def test_more_positives_than_places_can_still_be_perfect():
    assert ndcg_at([np.arange(1, 30)], 10)[0] == pytest.approx(1)
    assert found_at([np.arange(1, 30)], 29)[0] == 1


def test_the_best_true_class_is_predicted_only_above_all_others():
    scores = np.array([[0.2, 0.9, 0.1], [0.5, 0.5, 0.1], [0.3, 0.7, 0.8]])
    is_true = np.array([[False, True, False], [True, False, False], [True, True, False]])
    truth, predicted = predictions(scores, is_true)
    assert truth.tolist() == [1, 0, 1]
    assert predicted.tolist() == [1, 1, 2]  # a tie goes to the wrong class


@pytest.mark.parametrize("classes", [1, 3, 12])
def test_class_metrics_agree_with_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    truth, predicted = rng.integers(0, classes, (2, 60))
    predicted[:5] = classes + 3  # predicted, never true
    expected = [accuracy_score(truth, predicted)]
    for average in ("macro", "weighted"):
        expected += precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)[:3]
    np.testing.assert_allclose(class_scores(truth, predicted)[0], expected)
    assert len(CLASS_METRICS) == len(expected)


def test_intervals_of_many_columns_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    table, groups = rng.random((80, 3)), rng.integers(0, 30, 80)
    low, high = intervals(table, groups, replicates=200, seed=4)
    for at in range(3):
        alone = bootstrap_interval(table[:, at], groups, replicates=200, seed=4)
        assert (low[at], high[at]) == (pytest.approx(alone.low), pytest.approx(alone.high))


def test_queries_of_one_product_make_an_interval_wider():
    hit = np.repeat(np.random.default_rng(0).random(40) < 0.5, 10)[:, None].astype(float)
    apart, together = (intervals(hit, groups) for groups in (np.arange(400), np.repeat(np.arange(40), 10)))
    assert (together[1] - together[0]) > 2 * (apart[1] - apart[0])


def test_one_group_has_no_interval():
    low, high = intervals(np.eye(3), np.zeros(3))
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_the_interval_of_accuracy_is_that_of_its_mean():
    rng = np.random.default_rng(0)
    truth, groups = rng.integers(0, 4, 90), rng.integers(0, 25, 90)
    predicted = np.where(rng.random(90) < 0.6, truth, 0)
    low, high = class_intervals(truth, predicted, groups, replicates=300)
    alone = intervals((truth == predicted)[:, None].astype(float), groups, replicates=300)
    assert (low[0], high[0]) == (pytest.approx(alone[0][0]), pytest.approx(alone[1][0]))
    value = class_scores(truth, predicted)[0]
    assert ((low <= value) & (value <= high)).all()


def test_the_shape_of_a_cloud():
    vectors = unit(40, 8)
    assert alignment(vectors, vectors) == 0
    assert alignment(vectors, -vectors) == pytest.approx(4)
    assert mean_cosine(np.repeat(vectors[:1], 5, 0)) == pytest.approx(1)
    cosines = (vectors @ vectors.T)[np.triu_indices(40, 1)]
    assert mean_cosine(vectors) == pytest.approx(cosines.mean(), abs=1e-5)
    assert uniformity(np.repeat(vectors[:1], 5, 0)) == pytest.approx(0, abs=1e-5)
    assert uniformity(vectors) == pytest.approx(np.log(np.exp(-2 * (2 - 2 * cosines)).mean()), abs=1e-4)
