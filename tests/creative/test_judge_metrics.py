"""The figures of a judge: the identity of strict, flip and order-invariant, place bias, ceilings, slices."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moontide.creative.labels import label_confidence
from moontide.creative.metrics import JudgeMetrics, bucket, ceiling, judge_metrics, pair_scores
from moontide.creative.records import CreativePair, Letter, Order, Verdict
from moontide.foundation.errors import DataError

LETTERS: tuple[Letter | None, ...] = ("A", "B", None)
AB: tuple[Letter, Letter] = ("A", "B")
Both = tuple[Letter | None, Letter | None]


def pair(
    name: str, label: Letter = "A", product_id: str | None = None, clicks: tuple[int, int] = (20, 40)
) -> CreativePair:
    low, high = clicks
    a, b = (high, low) if label == "A" else (low, high)
    return CreativePair(
        name, product_id or name, ("Home", "lamp"), "a lamp", (), f"{name}.0", f"{name}.1", "i", "j",
        1000, a, 1000, b, label, label_confidence(high, 1000, low, 1000), "test",
    )  # fmt: skip


def said(name: str, order: Order, letter: Letter | None, p_a: float | None = None) -> Verdict:
    p = {"A": 0.9, "B": 0.1, None: 0.5}[letter] if p_a is None else p_a
    return Verdict(name, order, letter, p, {}, "", letter is not None, letter is not None, "m")


def judged(pairs: list[CreativePair], letters: list[Both]) -> JudgeMetrics:
    verdicts = []
    for one, (forward, backward) in zip(pairs, letters, strict=True):
        verdicts += [said(one.pair_id, "ba", backward), said(one.pair_id, "ab", forward)]
    return judge_metrics(pairs, verdicts, replicates=50)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("AB"), st.sampled_from(LETTERS), st.sampled_from(LETTERS), st.integers(0, 3)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_order_invariant_is_strict_and_half_the_flips_is_the_mean_accuracy(rows):
    pairs = [pair(f"p{n}", label, f"product{owner}") for n, (label, _, _, owner) in enumerate(rows)]
    got = judged(pairs, [(forward, backward) for _, forward, backward, _ in rows])
    mean = (got.accuracy_ab.value + got.accuracy_ba.value) / 2
    assert mean == pytest.approx(got.strict.value + got.flip / 2, abs=1e-12)
    assert mean == pytest.approx(got.order_invariant.value, abs=1e-12)
    unread = np.mean(
        [(f is None) != (b is None) and (f == y or {"A": "B", "B": "A"}[y] == b) for y, f, b, _ in rows]
    )
    assert got.flip == pytest.approx(got.always_first + got.always_second + unread, abs=1e-12)


@pytest.mark.parametrize(("letter", "first"), [("A", 1.0), ("B", 0.0)])
def test_a_judge_that_always_names_one_place_is_half_right_and_never_strictly(letter, first):
    pairs = [pair(f"p{n}", AB[n % 3 == 0]) for n in range(9)]
    got = judged(pairs, [(letter, letter)] * 9)
    assert (got.strict.value, got.flip, got.order_invariant.value) == (0.0, 1.0, 0.5)
    assert (got.share_a, got.always_first, got.always_second) == (first, first, 1 - first)
    assert got.averaged.value == 0.5  # the mean p of both orders is exactly 0.5


def test_every_combination_of_two_letters_counts_as_it_should():
    """Label A: right is A in order ab, and B in order ba."""
    expected: dict[Both, tuple[int, int]] = {
        ("A", "B"): (1, 0), ("B", "A"): (0, 0), ("A", "A"): (0, 1), ("B", "B"): (0, 1),
        ("A", None): (0, 1), (None, "B"): (0, 1), ("B", None): (0, 0), (None, "A"): (0, 0),
        (None, None): (0, 0),
    }  # fmt: skip
    for letters in product(LETTERS, LETTERS):
        got = judged([pair("p")], [letters])
        assert (got.strict.value, got.flip) == expected[letters], letters


def test_a_perfect_judge_and_its_opposite():
    pairs = [pair(f"p{n}", AB[n % 2]) for n in range(6)]
    right: list[Both] = [("A", "B") if one.label == "A" else ("B", "A") for one in pairs]
    best, worst = judged(pairs, right), judged(pairs, [(b, a) for a, b in right])
    assert (best.strict.value, best.order_invariant.value, best.averaged.value, best.flip) == (1, 1, 1, 0)
    assert (worst.strict.value, worst.order_invariant.value, worst.averaged.value, worst.flip) == (0, 0, 0, 0)
    assert best.share_a == 0.5


def test_a_random_judge_is_right_in_half_of_the_orders_and_a_quarter_of_the_pairs():
    rng = np.random.default_rng(0)
    pairs = [pair(f"p{n}", AB[n % 2]) for n in range(4_000)]
    got = judged(pairs, [(AB[a], AB[b]) for a, b in rng.integers(2, size=(len(pairs), 2))])
    assert got.strict.value == pytest.approx(0.25, abs=0.03)
    assert got.order_invariant.value == pytest.approx(0.5, abs=0.03)
    assert got.flip == pytest.approx(0.5, abs=0.03)


def test_what_cannot_be_read_is_wrong_and_parse_rates_count_verdicts():
    pairs = [pair("p"), pair("q")]
    verdicts = [said("p", "ab", "A"), said("p", "ba", None), said("q", "ab", None), said("q", "ba", None)]
    verdicts[0] = Verdict("p", "ab", "A", 0.9, {}, "", False, True, "m")
    got = judge_metrics(pairs, verdicts, replicates=20)
    assert (got.parsed_strict, got.parsed_lenient) == (0.0, 0.25)
    assert (got.accuracy_ab.value, got.accuracy_ba.value, got.share_a) == (0.5, 0.0, 1.0)
    none = judge_metrics([pair("p")], [said("p", "ab", None), said("p", "ba", None)], replicates=20)
    assert math.isnan(none.share_a)
    assert none.order_invariant.value == 0.0


def test_averaging_orders_weighs_how_sure_each_was():
    pairs = [pair("p", "A")]
    verdicts = [
        said("p", "ab", "A", 0.95),
        said("p", "ba", "A", 0.55),
    ]  # first place both times, but surer of A
    assert judge_metrics(pairs, verdicts, replicates=20).averaged.value == 1.0
    assert judge_metrics([pair("p", "B")], verdicts, replicates=20).averaged.value == 0.0


def test_intervals_draw_products_and_so_are_wider_than_pairs_would_give():
    rights: list[Both] = [("A", "B")] * 50 + [("B", "A")] * 50
    alone = [pair(f"p{n}") for n in range(100)]
    grouped = [pair(f"p{n}", product_id=f"product{n // 10}") for n in range(100)]
    narrow, wide = judged(alone, rights).strict, judged(grouped, rights).strict
    assert narrow.value == wide.value == 0.5
    assert wide.standard_error > 2 * narrow.standard_error
    assert judged(grouped, rights).num_products == 10


def test_one_product_has_no_interval():
    got = judged([pair("p", product_id="x"), pair("q", product_id="x")], [("A", "B")] * 2)
    assert math.isnan(got.strict.low)


def test_slices_divide_the_pairs_by_gap_category_and_confidence():
    pairs = [
        pair("p", clicks=(20, 33)),
        pair("q", clicks=(20, 60)),
        pair("r", clicks=(0, 9)),
        pair("s", clicks=(3, 5)),
    ]
    got = judged(pairs, [("A", "B"), ("B", "A"), ("A", "A"), ("A", "B")])
    for by in ("gap", "category", "confidence"):
        assert sum(one.num_pairs for one in got.slices if one.by == by) == 4
    gaps = {one.name: (one.num_pairs, one.strict.value, one.flip) for one in got.slices if one.by == "gap"}
    assert gaps == {"60% to 100%": (2, 1.0, 0.0), "200% and more": (2, 0.0, 0.5)}  # no clicks: an endless gap
    assert [one.name for one in got.slices if one.by == "category"] == ["lamp"]
    sure = [one.name for one in got.slices if one.by == "confidence"]
    assert sure == ["below 0.8", "0.95 to 0.99", "0.99 and more"]


def test_a_value_on_an_edge_belongs_above_it():
    assert bucket(0.6, (0.6, 1.0), "{:g}") == (1, "0.6 to 1")
    assert bucket(0.59, (0.6, 1.0), "{:g}") == (0, "below 0.6")


def test_figures_are_given_flat_with_their_intervals():
    row = judged([pair("p"), pair("q")], [("A", "B"), ("A", "A")]).row()
    assert row["strict"] == 0.5
    assert row["strict_low"] <= 0.5 <= row["strict_high"]
    assert row["num_pairs"] == 2
    assert "slices" not in row


def test_scores_of_pairs_are_one_a_half_and_zero():
    pairs = [pair("p"), pair("q"), pair("r", "B")]
    verdicts = [said("p", "ab", "A"), said("p", "ba", "B"), said("q", "ab", "A"), said("q", "ba", "A")]
    verdicts += [said("r", "ab", "A"), said("r", "ba", "B")]
    assert pair_scores(pairs, verdicts).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ([said("p", "ab", "A")], "pair 'p' has no verdict in order ba: judge both orders"),
        ([said("p", "ab", "A")] * 2, "pair 'p' has two verdicts in order ab"),
        ([said("x", "ab", "A")], "a verdict is of pair 'x', which is not scored"),
    ],
)
def test_verdicts_that_do_not_fit_the_pairs_are_refused(verdicts, text):
    with pytest.raises(DataError, match=text):
        judge_metrics([pair("p")], verdicts)


def test_no_pairs_are_refused():
    with pytest.raises(DataError, match="no pairs to score"):
        judge_metrics([], [])
    with pytest.raises(DataError, match="nothing to be right about"):
        ceiling([])


def test_the_ceiling_with_true_rates_is_the_share_of_right_labels():
    pairs = [pair("p", "A"), pair("q", "A"), pair("r", "B"), pair("s", "A")]
    rates = {"p.0": 0.2, "p.1": 0.1, "q.0": 0.1, "q.1": 0.2, "r.0": 0.1, "r.1": 0.2, "s.0": 0.1, "s.1": 0.1}
    assert ceiling(pairs, rates) == (1 + 0 + 1 + 0.5) / 4
    with pytest.raises(DataError, match=r"creative 's\.1' of pair 's' has no true rate"):
        ceiling(pairs, {name: rate for name, rate in rates.items() if name != "s.1"})


def test_the_mean_confidence_is_the_true_ceiling_where_rates_follow_the_prior():
    """Rates drawn from the flat prior: the posterior is right by construction, whatever pairs are chosen."""
    rng = np.random.default_rng(3)
    pairs, rates = [], {}
    for n in range(3_000):
        p = rng.uniform(size=2)
        clicks = [int(one) for one in rng.binomial(1000, p)]
        if clicks[0] != clicks[1] and abs(clicks[0] - clicks[1]) < 60:  # chosen by what was observed
            label: Letter = "A" if clicks[0] > clicks[1] else "B"
            pairs.append(pair(f"p{n}", label, clicks=(min(clicks), max(clicks))))
            rates |= {f"p{n}.0": p[0], f"p{n}.1": p[1]}
    assert len(pairs) > 200
    assert ceiling(pairs) == pytest.approx(ceiling(pairs, rates), abs=3 * 0.4 / math.sqrt(len(pairs)))


def test_a_judge_that_knows_the_truth_scores_the_ceiling():
    rng = np.random.default_rng(4)
    pairs, rates, verdicts = [], {}, []
    for n in range(400):
        p = rng.uniform(0.01, 0.05, size=2)
        clicks = [int(one) for one in rng.binomial(500, p)]
        label: Letter = "A" if clicks[0] > clicks[1] else "B"
        pairs.append(pair(f"p{n}", label, clicks=(min(clicks), max(clicks))))
        rates |= {f"p{n}.0": p[0], f"p{n}.1": p[1]}
        is_a = bool(p[0] > p[1])
        verdicts += [said(f"p{n}", "ab", AB[not is_a]), said(f"p{n}", "ba", AB[is_a])]
    got = judge_metrics(pairs, verdicts, replicates=50)
    assert got.order_invariant.value == got.strict.value == pytest.approx(ceiling(pairs, rates))
    assert got.strict.value < 1
