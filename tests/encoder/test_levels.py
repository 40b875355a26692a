"""Multi-level InfoNCE in both readings, the triplet term, and masks of what has no form or no content."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moontide.encoder.objectives.infonce import info_nce, matryoshka
from moontide.encoder.objectives.levels import Level, levels, tiers
from moontide.encoder.objectives.masks import not_negative, only_present
from moontide.encoder.objectives.triplet import triplet

LOSS = partial(info_nce, temperature=0.1)
pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection")  # asked for: no NaN on the way


def unit(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def level(query: torch.Tensor, item: torch.Tensor, has_query=None, has_item=None) -> Level:
    num, all_items = len(query), len(item)
    return Level(
        query,
        item,
        torch.zeros(num, all_items, dtype=torch.bool),
        torch.ones(num, dtype=torch.bool) if has_query is None else torch.tensor(has_query),
        torch.ones(all_items, dtype=torch.bool) if has_item is None else torch.tensor(has_item),
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_pooled_loss_lies_between_the_largest_tier_and_the_sum_of_tiers(seed):
    query, item = unit(1, 5, seed), unit(12, 5, seed + 100)
    tier = torch.arange(12) % 3
    masks = [tier == number for number in range(3)]
    alone = [tiers(query, item, 0.3, [mask]).item() for mask in masks]
    pooled = info_nce(query, item, 0.3).item()
    assert max(alone) <= pooled <= sum(alone)
    assert tiers(query, item, 0.3, masks).item() == pytest.approx(sum(alone) / 3)


def test_a_single_tier_is_plain_info_nce_under_the_same_mask_and_weights():
    query, item = unit(4, 6), unit(9, 6, 1)
    mask = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    weight = torch.tensor([1.0, 0.5, 0.0, 0.2])
    everything = torch.ones(9, dtype=torch.bool)
    got = tiers(query, item, 0.1, [everything], mask, weight)
    torch.testing.assert_close(got, info_nce(query, item, 0.1, mask, weight_B=weight))


def test_an_empty_tier_adds_nothing_and_no_nan():
    query, item = unit(3, 6).requires_grad_(), unit(5, 6, 1)
    full, empty = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)
    with torch.autograd.detect_anomaly(check_nan=True):
        loss = tiers(query, item, 0.1, [full, empty])
        loss.backward()
    torch.testing.assert_close(loss * 2, info_nce(query, item, 0.1))


def test_tiers_may_differ_from_row_to_row_and_take_the_matryoshka_sum():
    query, item = unit(4, 6), unit(4, 6, 1)
    near = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    got = tiers(query, item, 0.1, [near, ~near])
    expected = (tiers(query, item, 0.1, [near]) + tiers(query, item, 0.1, [~near])) / 2
    torch.testing.assert_close(got, expected)
    cut = F.normalize(query[:, :2], dim=1), F.normalize(item[:, :2], dim=1)
    nested = matryoshka(tiers, query, item, widths=[2, 6], temperature=0.1, is_tier=[near, ~near])
    torch.testing.assert_close(nested, (got + tiers(*cut, 0.1, [near, ~near])) / 2)


def test_a_single_level_is_the_plain_loss_and_full_levels_are_averaged():
    words, pictures = level(unit(4, 6), unit(7, 6, 1)), level(unit(4, 6, 2), unit(7, 6, 3))
    torch.testing.assert_close(levels({"text": words}, LOSS), LOSS(words.query, words.item))
    both = levels({"text": words, "image": pictures}, LOSS)
    at = [LOSS(one.query, one.item) for one in (words, pictures)]
    torch.testing.assert_close(both, sum(at) / 2)
    weighted = levels({"text": words, "image": pictures}, LOSS, {"text": 3.0, "image": 1.0})
    torch.testing.assert_close(weighted, at[0] * 0.75 + at[1] * 0.25)


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_pairs_that_lack_a_level_neither_count_nor_push_there(is_symmetric):
    loss = partial(info_nce, temperature=0.1, is_symmetric=is_symmetric)
    query, item = unit(4, 6), unit(6, 6, 1)
    has_query, has_item = [True, False, True, True], [True, True, False, True, True, False]
    got = levels({"image": level(query, item, has_query, has_item)}, loss)
    # whole pairs: 0 and 3; item 1 and query 2 are there, though their partners are not
    rows, columns = [0, 3], [0, 3, 1, 4]
    if is_symmetric:
        back = [
            F.cross_entropy((query[[i, *{0, 2, 3} - {i}]] @ item[i])[None] / 0.1, torch.tensor([0]))
            for i in rows
        ]
        expected = (info_nce(query[rows], item[columns], 0.1) + sum(back) / 2) / 2
    else:
        expected = info_nce(query[rows], item[columns], 0.1)
    torch.testing.assert_close(got, expected)


def test_a_missing_level_hands_its_weight_to_the_others_of_the_same_pair():
    words = level(unit(2, 6), unit(2, 6, 1))
    pictures = level(unit(2, 6, 2), unit(2, 6, 3), [True, False], [True, True])
    text = [LOSS(words.query, words.item, weight_B=row) * 2 for row in torch.eye(2)]
    image = LOSS(pictures.query[:1], pictures.item)  # of pair 0, against the picture of item 1
    expected = ((text[0] + image) / 2 + text[1]) / 2
    torch.testing.assert_close(levels({"text": words, "image": pictures}, LOSS), expected)


def test_a_pair_without_any_level_does_not_count_and_none_at_all_cost_nothing():
    query, item = unit(3, 6).requires_grad_(), unit(3, 6, 1)
    some = levels({"text": level(query, item, [True, True, False], [True, True, False])}, LOSS)
    torch.testing.assert_close(some, LOSS(query[:2], item[:2]))
    with torch.autograd.detect_anomaly(check_nan=True):
        none = levels({"text": level(query, item, [False] * 3)}, LOSS)
        none.backward()
    assert none.item() == 0
    assert query.grad.abs().max() == 0


def test_presence_weighs_whole_pairs_so_that_their_mean_is_over_themselves():
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 1] = True
    has_query, has_item = torch.tensor([True, True, False]), torch.tensor([True, True, True, False])
    mask, weight = only_present(mask, has_query, has_item)
    assert weight.tolist() == [1.5, 1.5, 0]
    assert mask.tolist() == [[False, True, False, True], [False, False, False, True], [True] * 4]


def test_items_beyond_the_known_contents_have_none():
    group, product = np.arange(6), np.array([0, 1, 2, 3, 4, 0])
    content = np.array([7, 8, 7])
    mask = not_negative(product[:3], product, group, content)
    expected = np.zeros((3, 6), dtype=bool)
    expected[[0, 1, 2], [0, 1, 2]] = True
    expected[0, 2] = expected[2, 0] = True  # same content
    expected[0, 5] = True  # an old vector of the query's own product
    assert np.array_equal(mask, expected)


def test_the_triplet_term_is_the_margin_short_of_the_gap():
    query = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    positive = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    negative = torch.tensor([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]]).requires_grad_()
    loss = triplet(query, positive, negative)
    assert loss.item() == pytest.approx((0 + 0.1 + 1.1) / 3)
    loss.backward()
    assert negative.grad[0].abs().max() == 0
    torch.testing.assert_close(negative.grad[1:], query[1:] / 3)


def test_queries_without_a_hard_negative_do_not_count():
    query, positive, negative = unit(3, 4), unit(3, 4, 1), unit(3, 4, 2).requires_grad_()
    real = torch.tensor([True, False, True])
    expected = triplet(query[real], positive[real], negative[real])
    torch.testing.assert_close(triplet(query, positive, negative, is_real_B=real), expected)
    nothing = triplet(query, positive, negative, is_real_B=torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert not math.isnan(negative.grad.sum().item())
