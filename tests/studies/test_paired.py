"""Intervals of paired differences hold the truth as often as they say, whatever seeds and queries do."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream
from moontide.studies.outcomes import Outcomes
from moontide.studies.paired import difference_over_seeds


def outcomes(table, queries=None):
    table = np.atleast_2d(table)
    ids = np.arange(table.shape[1], dtype=np.uint32) if queries is None else queries
    return [Outcomes(row, ids) for row in table]


def difference(table, queries=None):
    return difference_over_seeds(outcomes(np.zeros_like(table), queries), outcomes(table, queries))


def drawn(rng, seeds, queries, by_seed, by_query, by_cell):
    return (
        rng.normal(0, by_seed, (seeds, 1))
        + rng.normal(0, by_query, (1, queries))
        + rng.normal(0, by_cell, (seeds, queries))
    )


@pytest.mark.parametrize("shape", [(5, 1), (1, 40)])
def test_seeds_alone_and_queries_alone_give_students_interval(shape):
    table = stream(0, "student").normal(0.2, 1, shape)
    student = ttest_1samp(table.ravel(), 0).confidence_interval(0.95)
    found = difference(table)
    assert (found.interval.low, found.interval.high) == pytest.approx((student.low, student.high))
    assert found.over == ("seeds" if shape[1] == 1 else "queries")


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [(0, 0.3, 0.5), (0.03, 0.3, 0.5), (0.05, 0, 0.1)])
def test_the_interval_holds_the_truth_wherever_the_noise_comes_from(num_seeds, spread):
    rng = stream(1, "coverage", num_seeds, spread)
    found = [difference(drawn(rng, num_seeds, 300, *spread)).interval for _ in range(400)]
    assert 0.90 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.99


def test_the_resolvable_difference_is_found_eight_times_of_ten():
    rng = stream(2, "power")
    draws = [drawn(rng, 4, 300, 0.02, 0.3, 0.3) for _ in range(400)]
    size = np.mean([difference(draw).resolvable for draw in draws])
    assert 0.7 < np.mean([difference(draw + size).interval.excludes_zero for draw in draws]) < 0.9


def test_what_both_variants_share_cancels():
    rng = stream(3, "pairs")
    shared, gain = rng.normal(0, 1, (3, 200)), rng.normal(0.05, 0.01, (3, 200))
    paired = difference_over_seeds(outcomes(shared), outcomes(shared + gain))
    apart = difference_over_seeds(outcomes(rng.normal(0, 1, (3, 200))), outcomes(shared + gain))
    assert paired.interval.value == pytest.approx(gain.mean())
    assert paired.interval.standard_error < apart.interval.standard_error / 20
    assert paired.is_resolved


def test_questions_on_one_product_count_as_one_draw():
    table = stream(4, "groups").normal(0, 1, (3, 50))
    thrice = np.repeat(table, 3, axis=1), np.repeat(np.arange(50, dtype=np.uint32), 3)
    once, found = difference(table).interval, difference(*thrice).interval
    assert (found.value, found.low, found.high) == pytest.approx((once.value, once.low, once.high))


def test_other_queries_for_every_seed_leave_the_interval_to_seeds():
    rng = stream(5, "nested")
    before, after = [], []
    for seed in range(3):
        ids = np.arange(100 + seed, dtype=np.uint32) + 1000 * seed
        before.append(Outcomes(np.zeros(len(ids)), ids))
        after.append(Outcomes(rng.normal(0, 1, len(ids)), ids))
    found = difference_over_seeds(before, after)
    student = ttest_1samp([one.mean for one in after], 0).confidence_interval(0.95)
    assert found.over == "seeds"
    assert (found.interval.low, found.interval.high) == pytest.approx((student.low, student.high))


def test_one_number_has_no_interval_and_equal_outcomes_an_empty_one():
    single = difference(np.array([[0.4]]))
    assert (single.interval.value, single.over) == (0.4, "nothing")
    assert np.isnan(single.interval.low)
    assert not single.is_resolved
    same = difference(np.zeros((3, 20))).interval
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_other_queries_are_refused():
    with pytest.raises(DataError, match="needs the same queries, got 3 and 2"):
        difference_over_seeds(outcomes(np.zeros((1, 3))), outcomes(np.zeros((1, 2))))
