"""Layers: tiers against their definition and the published forms, attention and tower against slow twins."""

import numpy as np
import pytest
import torch

from moontide.ranking.layers import SimTier, TargetAttention, Tower, masked_softmax, tier_counts, tier_of

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@DTYPES
def test_edges_fall_in_the_tiers_of_the_definition(dtype):
    cosines = torch.tensor([1.0, 1 - 1e-7, -1.0, -0.9, -0.7, 1.0000001, -1.0000001, 0.0, 1e-4], dtype=dtype)
    assert tier_of(cosines, 20).tolist() == [19, 19, 0, 0, 2, 19, 0, 9, 10]


@DTYPES
def test_every_edge_of_twenty_tiers_closes_the_tier_below(dtype):
    edges = torch.tensor([-1 + k / 10 for k in range(1, 21)], dtype=dtype)
    assert tier_of(edges, 20).tolist() == list(range(20))
    assert tier_of(edges[:-1] + 1e-4, 20).tolist() == list(range(1, 20))


def test_double_precision_keeps_edges_of_many_tiers():
    for num in (25, 50, 100):
        edges = torch.tensor([-1 + 2 * k / num for k in range(1, num + 1)], dtype=torch.float64)
        assert tier_of(edges, num).tolist() == list(range(num))


def test_the_published_pseudo_code_drops_exactly_the_top_tier():
    cosines = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    published = torch.ceil((cosines.double() + 1) / 2 * 20)
    counted = torch.stack([(published == k).sum() for k in range(20)])
    ours = tier_counts(cosines[None], torch.ones(1, 2000, dtype=torch.bool), 20)[0]
    assert counted[1:].tolist() == ours[:-1].tolist()
    assert counted.sum() + ours[-1] == 2000
    assert ours[-1] > 50


def test_slots_of_the_muse_code_are_ours_plus_one():
    cosines = torch.rand(5000, generator=torch.Generator().manual_seed(1)) * 2 - 1
    slots = torch.ceil(cosines / 0.1) + 10
    assert (slots == tier_of(cosines, 20) + 1).all()


def test_counts_sum_to_the_real_behaviors_and_masking_one_lowers_one_count():
    rng = torch.Generator().manual_seed(0)
    cosines = torch.rand(6, 3, 40, generator=rng) * 2 - 1
    real = torch.rand(6, 3, 40, generator=rng) < 0.7
    counts = tier_counts(cosines, real, 20)
    assert (counts.sum(-1) == real.sum(-1)).all()
    place = int(real[2, 1].nonzero()[0])
    real[2, 1, place] = False
    change = counts - tier_counts(cosines, real, 20)
    assert change.sum() == 1
    assert change[2, 1, tier_of(cosines[2, 1, place], 20)] == 1


def test_order_and_padding_of_behaviors_change_no_tier():
    rng = torch.Generator().manual_seed(0)
    cosines, real = torch.rand(4, 1, 30, generator=rng) * 2 - 1, torch.rand(4, 1, 30, generator=rng) < 0.5
    order = torch.randperm(30, generator=rng)
    layer = SimTier(20)
    expected = layer(cosines, real)
    assert torch.equal(layer(cosines[..., order], real[..., order]), expected)
    padded = (
        torch.cat([cosines, torch.zeros(4, 1, 9)], -1),
        torch.cat([real, torch.zeros(4, 1, 9).bool()], -1),
    )
    assert torch.equal(layer(*padded), expected)


def test_features_are_scaled_logs_of_counts_or_plain_counts():
    cosines, real = torch.tensor([[[0.95, 0.99, 0.2]]]), torch.ones(1, 1, 3, dtype=torch.bool)
    layer = SimTier(20)
    with torch.no_grad():
        layer.scale.fill_(2.0)
    features = layer(cosines, real)[0, 0]
    assert features[19].item() == pytest.approx(2 * np.log(3))
    assert features[11].item() == pytest.approx(2 * np.log(2))
    assert SimTier(20, plain_counts=True)(cosines, real)[0, 0, 19] == 2
    assert not list(SimTier(20, plain_counts=True).parameters())


def test_an_empty_history_has_no_similarity_features():
    features = SimTier(20)(torch.zeros(2, 1, 5), torch.zeros(2, 1, 5, dtype=torch.bool))
    assert (features == 0).all()


def test_masked_softmax_gives_masked_entries_exactly_zero():
    score = torch.randn(3, 6, requires_grad=True)
    real = torch.tensor([[1, 1, 0, 0, 1, 0], [0] * 6, [0, 0, 0, 1, 0, 0]]).bool()
    weight = masked_softmax(score, real)
    assert (weight[~real] == 0).all()
    assert weight.sum(1).tolist() == pytest.approx([1, 0, 1])
    expected = torch.softmax(score[0, real[0]], 0)
    torch.testing.assert_close(weight[0, real[0]], expected)
    weight[:, 0].sum().backward()
    assert torch.isfinite(score.grad).all()


def attention_inputs(steps=7):
    torch.manual_seed(0)
    layer = TargetAttention(6, 4, 3)
    torch.nn.init.normal_(layer.recency.weight)
    targets, items = torch.randn(2, 3, 6), torch.randn(2, steps, 6)
    real = torch.rand(2, steps) < 0.6
    real[:, 0] = True
    recency = torch.randint(0, 3, (2, steps))
    return layer, layer.queries(targets), layer.keys(items), recency, real


def test_attention_is_a_weighted_mean_of_the_real_behaviors():
    layer, query, key, recency, real = attention_inputs()
    interest, weight = layer(query, key, recency, real)
    for b in range(2):
        for n in range(3):
            score = [(query[b, n] @ key[b, s] / 2 + layer.recency.weight[recency[b, s], 0]) for s in range(7)]
            score = torch.stack(score)[real[b]]
            mine = torch.softmax(score, 0)
            torch.testing.assert_close(weight[b, n][real[b]], mine)
            torch.testing.assert_close(interest[b, n], mine @ key[b][real[b]])
    assert (weight[~real[:, None].expand_as(weight)] == 0).all()


def test_attention_without_real_behaviors_is_the_zero_vector():
    layer, query, key, recency, real = attention_inputs()
    interest, weight = layer(query, key, recency, torch.zeros_like(real))
    assert (interest == 0).all()
    assert (weight == 0).all()


def test_padding_and_order_of_behaviors_do_not_move_attention():
    layer, query, key, recency, real = attention_inputs()
    expected, _ = layer(query, key, recency, real)
    order = torch.randperm(7)
    moved, _ = layer(query, key[:, order], recency[:, order], real[:, order])
    torch.testing.assert_close(moved, expected)
    garbage = torch.where(real[..., None], key, torch.full_like(key, 7.0))
    changed, _ = layer(query, garbage, recency, real)
    torch.testing.assert_close(changed, expected)


def test_the_split_tower_equals_one_on_the_joined_features():
    torch.manual_seed(0)
    tower = Tower(3, 5, (8, 4))
    request, candidate = torch.randn(2, 3), torch.randn(2, 6, 5)
    joined = torch.cat([request[:, None].expand(2, 6, 3), candidate], -1)
    weight = torch.cat([tower.request.weight, tower.candidate.weight], 1)
    x = torch.nn.functional.silu(joined @ weight.T + tower.candidate.bias)
    x = torch.nn.functional.silu(tower.deeper[0](x))
    torch.testing.assert_close(tower(request, candidate), tower.out(x).squeeze(-1))
