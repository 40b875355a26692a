"""Rankings by value: Copeland and Bradley-Terry, four methods, budgets, ties, judges that go in circles."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from moontide.creative.ranking import bradley_terry, copeland, intransitive_share, rank_candidates
from moontide.foundation.errors import DataError, SettingsError

METHODS = ("all", "knockout", "swiss", "merge")


def full(num: int, seed: int = 0) -> np.ndarray:
    """Random comparisons of all pairs; s(i, j) + s(j, i) = 1."""
    upper = np.triu(np.random.default_rng(seed).uniform(0.01, 0.99, (num, num)), 1)
    return upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(num)


class Asked:
    """A judge that reads a table and counts what it is asked."""

    def __init__(self, s_NN: np.ndarray):
        self.s_NN, self.pairs, self.rounds = s_NN, [], 0

    def __call__(self, pairs: list[tuple[int, int]]) -> list[float]:
        self.pairs += pairs
        self.rounds += 1
        return [float(self.s_NN[i, j]) for i, j in pairs]


def transitive(num: int, seed: int = 0) -> tuple[Asked, tuple[int, ...]]:
    """A judge that never errs, and the order it knows."""
    order = np.random.default_rng(seed).permutation(num)
    place = np.argsort(order)
    return Asked((place[:, None] < place).astype(float) + 0.5 * np.eye(num)), tuple(order.tolist())


@given(st.integers(2, 9), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_copeland_scores_add_up_to_the_number_of_pairs(num, seed):
    s = full(num, seed)
    assert copeland(s).sum() == pytest.approx(num * (num - 1) / 2)
    assert np.triu(s + s.T, 1)[np.triu_indices(num, 1)] == pytest.approx(np.ones(num * (num - 1) // 2))


def test_copeland_counts_wins_and_half_of_ties():
    s = np.array([[0.5, 0.9, 0.52], [0.1, 0.5, 0.45], [0.48, 0.55, 0.5]])
    assert copeland(s).tolist() == [1.5, 0.5, 1.0]
    assert copeland(s, tie_band=(0.5, 0.5)).tolist() == [2.0, 0.0, 1.0]


def test_copeland_takes_ties_told_for_another_reason_and_leaves_out_pairs_not_compared():
    s = np.array([[0.5, 0.9, np.nan], [0.1, 0.5, 0.8], [np.nan, 0.2, 0.5]])
    is_tie = np.zeros((3, 3), bool)
    is_tie[0, 1] = is_tie[1, 0] = True
    assert copeland(s, is_tie_NN=is_tie).tolist() == [0.5, 1.5, 0.0]


@pytest.mark.parametrize("s", [0.5, 0.73, 0.999, 0.02])
def test_two_candidates_without_penalty_are_apart_by_the_log_odds(s):
    t = bradley_terry(np.array([[0.5, s], [1 - s, 0.5]]), penalty=0)
    assert t[0] - t[1] == pytest.approx(logit(s), abs=1e-8)
    assert t.sum() == pytest.approx(0, abs=1e-12)


def test_a_penalty_shrinks_two_candidates_by_its_equation():
    s, penalty = 0.9, 0.1
    t = bradley_terry(np.array([[0.5, s], [1 - s, 0.5]]), penalty)
    assert s - expit(t[0] - t[1]) == pytest.approx(penalty * t[0], abs=1e-10)


@pytest.mark.parametrize(("num", "penalty"), [(3, 0.1), (6, 0.01), (10, 1.0), (5, 0.0)])
def test_newton_finds_what_a_general_optimizer_finds(num, penalty):
    s = full(num, seed=num)
    s[0, 2] = s[2, 0] = np.nan
    rows, columns = np.nonzero(np.triu(~np.isnan(s), 1))

    def cost(t):
        apart = t[rows] - t[columns]
        likely = s[rows, columns] * np.log(expit(apart)) + s[columns, rows] * np.log(expit(-apart))
        return -likely.sum() + penalty / 2 * (t @ t)

    slow = minimize(cost, np.zeros(num), method="BFGS", options={"gtol": 1e-9}).x
    assert bradley_terry(s, penalty) == pytest.approx(slow - slow.mean(), abs=1e-5)


@pytest.mark.parametrize("num", [2, 5, 12])
def test_perfect_transitive_wins_recover_the_order_and_stay_finite(num):
    judge, order = transitive(num, seed=3)
    t = bradley_terry(judge.s_NN)
    assert np.isfinite(t).all()
    assert tuple(np.argsort(-t).tolist()) == order


def test_an_undefeated_candidate_without_penalty_is_refused():
    judge, _ = transitive(3)
    with pytest.raises(DataError, match="without a penalty the strengths are infinite"):
        bradley_terry(judge.s_NN, penalty=0)


def test_a_circle_of_equal_strength_gives_equal_strengths_and_is_all_intransitive():
    s = np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]])
    assert bradley_terry(s) == pytest.approx(np.zeros(3), abs=1e-12)
    found = rank_candidates(3, Asked(s))
    assert found.intransitive_share == 1.0
    assert found.copeland == (1.0, 1.0, 1.0)


def test_intransitive_triples_are_counted_as_by_hand():
    s = full(7, seed=5)
    circles = total = 0
    for i in range(7):
        for j in range(i + 1, 7):
            for k in range(j + 1, 7):
                wins = (s[i, j] > 0.5, s[j, k] > 0.5, s[k, i] > 0.5)
                circles += len(set(wins)) == 1
                total += 1
    assert intransitive_share(s) == pytest.approx(circles / total)
    assert math.isnan(intransitive_share(full(2)))


@given(st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_relabeling_candidates_permutes_the_ranking(num, seed):
    s = full(num, seed)
    label = np.random.default_rng(seed).permutation(num)  # the new name i is the old one label[i]
    old, new = rank_candidates(num, Asked(s)), rank_candidates(num, Asked(s[np.ix_(label, label)]))
    assert tuple(int(label[i]) for i in new.order) == old.order
    assert new.strength == pytest.approx(np.array(old.strength)[label], abs=1e-8)


@pytest.mark.parametrize("method", ["all", "merge"])
@pytest.mark.parametrize("num", [1, 2, 3, 8, 11])
def test_a_judge_that_never_errs_is_followed_to_the_last_place(method, num):
    judge, order = transitive(num, seed=num)
    found = rank_candidates(num, judge, method)
    assert found.order == order
    assert found.num_decided == num
    assert found.tie_groups == tuple((i,) for i in order)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num", [2, 7, 16])
def test_every_method_finds_the_best_of_a_judge_that_never_errs(method, num):
    judge, order = transitive(num, seed=2)
    found = rank_candidates(num, judge, method)
    assert found.order[0] == order[0]
    assert sorted(found.order) == list(range(num))


@pytest.mark.parametrize("num", [2, 5, 10])
def test_calls_are_those_of_the_table(num):
    assert rank_candidates(num, Asked(full(num))).calls == num * (num - 1)
    assert rank_candidates(num, Asked(full(num)), "knockout").calls == 2 * (num - 1)
    swiss = rank_candidates(num, Asked(full(num)), "swiss", rounds=1)
    assert swiss.calls == 2 * (num // 2)


@given(st.integers(2, 14), st.integers(0, 400), st.sampled_from(METHODS), st.integers(0, 99))
@settings(max_examples=120, deadline=None)
def test_no_method_spends_more_than_its_budget_or_asks_a_pair_twice(num, budget, method, seed):
    judge = Asked(full(num, seed))
    least = {"all": num * (num - 1), "swiss": 2 * (num // 2)}.get(method, 2 * (num - 1))
    if budget < least:
        with pytest.raises(SettingsError, match=f"needs {least:,} judge calls"):
            rank_candidates(num, judge, method, budget, seed=seed)
        assert judge.pairs == []
        return
    found = rank_candidates(num, judge, method, budget, seed=seed)
    assert 2 * len(judge.pairs) == found.calls <= budget
    assert len({frozenset(pair) for pair in judge.pairs}) == len(judge.pairs)
    assert sorted(found.order) == list(range(num)) == sorted(i for group in found.tie_groups for i in group)


def test_a_merge_under_a_budget_decides_as_many_places_as_fit_and_gets_those_right():
    for budget, least in [(38, 1), (80, 3), (200, 20)]:
        judge, order = transitive(20, seed=budget)
        found = rank_candidates(20, judge, "merge", budget)
        assert found.num_decided >= least
        assert found.order[: found.num_decided] == order[: found.num_decided]


def test_merges_of_one_level_are_asked_together():
    judge, _ = transitive(16)
    rank_candidates(16, judge, "knockout")
    assert judge.rounds == 4


def test_a_swiss_tournament_comes_near_the_order_of_all_pairs_for_less():
    rng = np.random.default_rng(0)
    t = np.sort(rng.normal(size=16))[::-1]
    judge = Asked(expit(t[:, None] - t))
    found = rank_candidates(16, judge, "swiss", budget=16 * 6)
    assert found.calls <= 96 < 16 * 15
    assert np.corrcoef(np.argsort(found.order), np.arange(16))[0, 1] > 0.9


def test_more_rounds_than_there_are_pairs_compare_each_pair_once():
    found = rank_candidates(4, Asked(full(4)), "swiss", budget=1000)
    assert found.comparisons == 6
    assert found.order == rank_candidates(4, Asked(full(4))).order


def test_neighbors_in_the_tie_band_share_a_group_and_a_chain_does_not():
    t = np.array([0.6, 0.45, 0.3, -2.0])  # neighbors tie, the first and third do not
    found = rank_candidates(4, Asked(expit(t[:, None] - t)))
    assert found.order == (0, 1, 2, 3)
    assert found.tie_groups == ((0, 1), (2,), (3,))


def test_contradicting_orders_are_a_tie_whatever_their_mean():
    told = rank_candidates(2, Asked(np.array([[0.5, 0.7], [0.3, 0.5]])), is_tie=lambda i, j: True)
    assert told.tie_groups == ((0, 1),)
    assert told.copeland == (0.5, 0.5)


def test_one_candidate_needs_no_judge():
    for method in METHODS:
        found = rank_candidates(1, Asked(full(1)), method)
        assert (found.order, found.strength, found.calls) == ((0,), (0.0,), 0)


def test_mistakes_are_named():
    with pytest.raises(SettingsError, match="at least one candidate, got 0"):
        rank_candidates(0, Asked(full(1)))
    with pytest.raises(SettingsError, match="method is one of all, knockout, swiss, merge, got 'heap'"):
        rank_candidates(3, Asked(full(3)), "heap")
    with pytest.raises(SettingsError, match=r"'all' needs 90 judge calls for 10 .* budget of 40"):
        rank_candidates(10, Asked(full(10)), budget=40)
    with pytest.raises(SettingsError, match="top must lie between 1 and the 3 candidates, got 4"):
        rank_candidates(3, Asked(full(3)), "merge", top=4)
    with pytest.raises(DataError, match="3 pairs were to be compared, 1 answers came"):
        rank_candidates(3, lambda pairs: [0.5])
    with pytest.raises(DataError, match="comparing 0 and 1 gave nan"):
        rank_candidates(2, lambda pairs: [math.nan])
    with pytest.raises(DataError, match="must add up to 1"):
        bradley_terry(np.array([[0.5, 0.7], [0.7, 0.5]]))
    with pytest.raises(DataError, match="a square table"):
        copeland(np.zeros((2, 3)))
