"""The fast ways of looking rows up and of attending to them, against plain ones."""

import pytest
import torch

from moontide.ranking import lookup
from moontide.ranking.layers import Comparison, TargetAttention
from moontide.ranking.lookup import attend, attend_at_once, pick


def drawn(candidates=1, requests=7, steps=5, items=11, width=4):
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(requests, candidates, width, generator=rng, dtype=torch.float64, requires_grad=True)
    key = torch.randn(items, width, generator=rng, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(requests, candidates, steps, generator=rng, dtype=torch.float64, requires_grad=True)
    item = torch.randint(items, (requests, steps), generator=rng)
    real = torch.rand(requests, steps, generator=rng) < 0.7
    real[2] = False
    return query, key, item, bias, real


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("piece", [1, 2 * 5 * 4, 1 << 17])
def test_attention_in_pieces_gives_the_numbers_and_gradients_of_all_at_once(candidates, piece, monkeypatch):
    monkeypatch.setattr(lookup, "PIECE_NUMBERS", piece)
    query, key, item, bias, real = drawn(candidates)
    pull = torch.Generator().manual_seed(1)
    results = []
    for found, weight in (
        attend(query, key, item, bias, real, 0.5),
        attend_at_once(query, key[item], bias, real, 0.5),
    ):
        pull.manual_seed(1)
        loss = sum((part * torch.randn(part.shape, generator=pull)).sum() for part in (found, weight))
        results.append((found, weight, *torch.autograd.grad(loss, (query, key, bias))))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-12)


def test_the_gradient_of_attention_agrees_with_differences():
    query, key, item, bias, real = drawn(2)
    assert torch.autograd.gradcheck(lambda *x: attend(x[0], x[1], item, x[2], real, 0.5), (query, key, bias))


def test_a_request_without_behaviors_finds_zeros_and_moves_nothing():
    query, key, item, bias, _ = drawn()
    found, weight = attend(query, key, item, bias, torch.zeros_like(item, dtype=torch.bool), 0.5)
    (found.sum() + weight.sum()).backward()
    assert not found.any()
    assert not weight.any()
    assert not key.grad.any()
    assert not bias.grad.any()


def test_padding_moves_neither_keys_nor_bias():
    query, key, item, bias, real = drawn()
    item[~real] = 10  # the last item stands for padding alone
    item[real] %= 10
    attend(query, key, item, bias, real, 0.5)[0].sum().backward()
    assert not key.grad[10].any()
    assert not bias.grad[:, 0][~real].any()
    assert key.grad[:10].any()


def test_attention_over_a_table_is_attention_over_looked_up_keys():
    query, key, item, _, real = (part.float() if part.is_floating_point() else part for part in drawn(2))
    layer = TargetAttention(4, 4, 3, has_scores=True)
    torch.nn.init.normal_(layer.recency.weight)
    torch.nn.init.normal_(layer.score)
    recency = item % 3
    side = Comparison(torch.rand(7, 2, 5), real[:, None] & (torch.rand(7, 2, 5) < 0.8))
    for given in (None, side):
        fast = layer.over(query, key, item, recency, real, given)
        slow = layer(query, key[item], recency, real, given)
        for one, other in zip(fast, slow, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_picked_rows_and_their_gradient_are_an_embeddings():
    table = torch.randn(6, 3, requires_grad=True)
    index = torch.tensor([[0, 5, 5], [2, 0, 5]])
    pull = torch.randn(2, 3, 3)
    assert torch.equal(pick(table, index), torch.nn.functional.embedding(index, table))
    assert torch.equal(pick(table.detach(), index), pick(table, index))
    (fast,) = torch.autograd.grad((pick(table, index) * pull).sum(), table)
    (slow,) = torch.autograd.grad((torch.nn.functional.embedding(index, table) * pull).sum(), table)
    torch.testing.assert_close(fast, slow)
