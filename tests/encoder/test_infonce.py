"""Objectives: closed forms, masks, Matryoshka."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moontide.encoder.objectives.infonce import Temperature, info_nce, matryoshka
from moontide.encoder.objectives.masks import is_member, not_negative
from moontide.foundation.errors import SettingsError


def unit(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("num", [1, 3, 63])
def test_equal_similarities_cost_the_logarithm_of_all_items(num):
    query = F.normalize(torch.ones(num + 1, 4, dtype=torch.float64), dim=1)
    assert info_nce(query, query, 0.07).item() == pytest.approx(math.log(1 + num))
    assert info_nce(query, query, 0.07, is_symmetric=True).item() == pytest.approx(math.log(1 + num))


def test_the_loss_is_what_the_formula_says():
    query, item, tau = unit(4, 6), unit(7, 6, 1), 0.2
    expected = 0.0
    for i in range(4):
        scores = [math.exp(float(query[i] @ item[j]) / tau) for j in range(7)]
        expected -= math.log(scores[i] / sum(scores)) / 4
    assert info_nce(query, item, tau).item() == pytest.approx(expected)


def test_masked_items_change_neither_loss_nor_gradient():
    query, item = unit(4, 6).requires_grad_(), unit(5, 6, 1).requires_grad_()
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0, 2] = mask[3, 1] = mask[:, 4] = True
    loss = info_nce(query, item, 0.1, mask)
    loss.backward()
    moved = item.detach().clone()
    moved[4] = -moved[4]
    assert info_nce(query, moved, 0.1, mask).item() == pytest.approx(loss.item())
    assert item.grad[4].abs().max() == 0
    fewer = info_nce(query, item[:4], 0.1, mask[:, :4])
    assert fewer.item() == pytest.approx(loss.item())


def test_a_duplicate_positive_under_the_mask_leaves_the_loss_alone():
    query, item = unit(3, 6), unit(3, 6, 1)
    doubled = torch.cat((item, item[:1]))
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 3] = True
    alone = info_nce(query[:1], item, 0.1)
    assert info_nce(query[:1], doubled, 0.1, mask[:1]).item() == pytest.approx(alone.item())
    assert info_nce(query[:1], doubled, 0.1).item() > alone.item()


def test_the_own_positive_is_never_masked():
    query, item = unit(3, 6), unit(3, 6, 1)
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert info_nce(query, item, 0.1, everything).item() == pytest.approx(0)


def test_the_gradient_of_the_loss_is_softmax_minus_target():
    query, item, tau = unit(5, 4).requires_grad_(), unit(5, 4, 1), 0.3
    info_nce(query, item, tau).backward()
    share = torch.softmax(query.detach() @ item.T / tau, dim=1) - torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(query.grad, share @ item / tau / 5)


def test_matryoshka_with_the_full_width_alone_is_the_plain_loss():
    query, item = unit(4, 8), unit(4, 8, 1)
    plain = info_nce(query, item, 0.1)
    torch.testing.assert_close(matryoshka(info_nce, query, item, temperature=0.1, widths=[8]), plain)
    halves = info_nce(F.normalize(query[:, :4], dim=1), F.normalize(item[:, :4], dim=1), 0.1)
    both = matryoshka(info_nce, query, item, temperature=0.1, widths=[4, 8])
    torch.testing.assert_close(both, (plain + halves) / 2)


def test_a_learned_temperature_stays_within_its_bounds():
    temperature = Temperature(0.05)
    assert temperature().item() == pytest.approx(0.05)
    with torch.no_grad():
        temperature.log.fill_(5.0)
    assert temperature().item() == pytest.approx(0.2)
    temperature.clamp()
    assert temperature.log.exp().item() == pytest.approx(0.2)
    with pytest.raises(SettingsError, match=r"temperature must lie in 0.01..0.2, got 0"):
        Temperature(0)


def test_false_negatives_are_same_product_group_content_and_other_positives():
    group = np.array([0, 0, 1, 2, 3])  # products 0 and 1 share a group
    product = np.array([0, 1, 2, 3, 4])
    content = np.array([10, 11, 12, 12, 14])  # products 2 and 3 show the same picture
    query = np.array([7, 8, 7, 9, -1])  # rows 0 and 2 asked the same
    positives = np.sort(np.array([7 * 5 + 0, 7 * 5 + 2, 7 * 5 + 4, 8 * 5 + 1, 9 * 5 + 3]))
    mask = not_negative(product, product, group, content, query, positives)
    expected = np.eye(5, dtype=bool)
    expected[0, 1] = expected[1, 0] = True  # group
    expected[2, 3] = expected[3, 2] = True  # content
    expected[0, 2] = expected[2, 0] = expected[0, 4] = expected[2, 4] = True  # answered the same query
    assert np.array_equal(mask, expected)


def test_membership_agrees_with_sets():
    rng = np.random.default_rng(0)
    keys, known = rng.integers(0, 50, (6, 7)), np.sort(rng.integers(0, 50, 12))
    assert np.array_equal(is_member(keys, known), np.isin(keys, known))
