"""Heads over frozen vectors and the search: closed forms, masks, and what must not matter."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moontide.foundation.errors import SettingsError
from moontide.ranking.cube import PARTS, CubeSettings, Interest
from moontide.ranking.heads import ContentSettings
from moontide.ranking.layers import Comparison, SimilarityAttention, TargetAttention, masked_softmax
from moontide.ranking.make import Make, MakeSettings
from moontide.ranking.search import SearchSettings, by_pairs, find, found_of, similarities
from moontide.ranking.semantic import SemanticSettings, codes_of, fit_centers

B, N, S, D, U = 3, 4, 9, 6, 11


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def comparison(steps=S, share=0.7):
    return Comparison(2 * torch.rand(B, N, steps) - 1, torch.rand(B, N, steps) < share)


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


# SA-TA


def attended(gates, found, module=None):
    module = module or SimilarityAttention(D, 5)
    with torch.no_grad():
        module.gates.copy_(torch.tensor(gates))
    item_UD, past = torch.randn(U, D), torch.randint(U, (B, N, S))
    query_BND, key_UD, value_UD = module.project(torch.randn(B, N, D), item_UD)
    out, weight = module(query_BND, key_UD[past], value_UD[past], found)
    id_BNS = (query_BND[:, :, None] * key_UD[past]).sum(-1) / 5**0.5
    return out, weight, id_BNS, value_UD[past]


def test_without_similarities_sa_ta_is_target_attention():
    found = comparison()
    out, weight, id_BNS, value = attended((1.0, 0.0, 0.0), found)
    torch.testing.assert_close(weight, masked_softmax(id_BNS, found.is_real_BNS))
    torch.testing.assert_close(out, (weight[..., None] * value).sum(2))


def test_with_similarities_alone_sa_ta_weighs_as_cube_does():
    found = comparison()
    _, weight, _, _ = attended((0.0, 0.7, 0.0), found)
    expected = masked_softmax(0.7 * found.similarity_BNS / 0.1, found.is_real_BNS)
    torch.testing.assert_close(weight, expected)


def test_equal_similarities_leave_target_attention_as_it_is():
    found = comparison()
    same = Comparison(torch.full_like(found.similarity_BNS, 0.3), found.is_real_BNS)
    _, weight, id_BNS, _ = attended((1.0, 2.0, 0.0), same)
    torch.testing.assert_close(weight, masked_softmax(id_BNS, same.is_real_BNS))


def test_masked_behaviors_have_weight_exactly_zero_and_none_gives_the_zero_vector():
    found = comparison()
    found.is_real_BNS[0] = False
    out, weight, _, _ = attended((1.0, 1.0, 1.0), found)
    assert (weight[~found.is_real_BNS] == 0).all()
    assert (out[0] == 0).all()
    assert torch.isfinite(out).all()


# SimScore


def test_simscore_starts_as_target_attention_and_ends_in_the_mean_similarity():
    plain, scored = TargetAttention(D, 5), TargetAttention(D, 5, has_scores=True)
    scored.load_state_dict({**scored.state_dict(), **plain.state_dict()})
    item, past, side = torch.randn(U, D), torch.randint(U, (B, S)), comparison()
    is_real = torch.rand(B, S) < 0.8
    rest = (plain.queries(item)[torch.randint(U, (B, N))], plain.keys(item)[past])
    rest += (torch.zeros(B, S, dtype=torch.long), is_real)
    expected, weight = plain(*rest)
    found, _ = scored(*rest, side)
    torch.testing.assert_close(found[..., :5], expected)
    known = side.similarity_BNS * side.is_real_BNS
    torch.testing.assert_close(found[..., 5], (weight * known).sum(-1))
    torch.testing.assert_close(found[..., 6], (weight * side.is_real_BNS).sum(-1))


# the search


def test_pairs_of_items_and_looked_up_vectors_give_the_same_similarities():
    vector, target, past = unit(200, D), torch.randint(200, (B, N)), torch.randint(200, (B, S))
    looked_up = torch.einsum("bnd,bsd->bns", vector[target], vector[past])
    torch.testing.assert_close(similarities(vector, target, past), looked_up)
    torch.testing.assert_close(by_pairs(vector, target, past, vector), looked_up)
    long = torch.randint(200, (B, 150))
    expected = torch.einsum("bnd,bsd->bns", vector[target], vector[long])
    torch.testing.assert_close(similarities(vector, target, long), expected)


def test_a_search_finds_the_best_and_only_real_behaviors():
    score, is_real = torch.randn(B, N, S), torch.rand(B, 1, S) < 0.4
    step, is_found = find(score, is_real, 5)
    for b in range(B):
        real = set(torch.flatten(is_real[b]).nonzero()[:, 0].tolist())
        for n in range(N):
            found = step[b, n][is_found[b, n]].tolist()
            assert is_found[b, n].sum() == min(5, len(real))
            assert found == sorted(real, key=lambda one: -score[b, n, one].item())[:5]


def test_a_real_behavior_of_cosine_exactly_zero_is_found_and_padding_is_not():
    score = torch.tensor([[[0.0, 0.0, 0.0, -0.5]]])
    is_real = torch.tensor([[[False, True, False, True]]])
    step, is_found = find(score, is_real, 4)
    assert sorted(step[0, 0][is_found[0, 0]].tolist()) == [1, 3]
    found = found_of(score, is_real, step, is_found)
    assert found.is_real_BNS.sum() == 2
    assert (found.similarity_BNS[~found.is_real_BNS] == 0).all()


def test_finding_as_many_as_there_are_finds_the_whole_set():
    score, is_real = torch.randn(B, N, S), torch.rand(B, 1, S) < 0.6
    step, is_found = find(score, is_real, S + 3)
    assert step.shape[-1] == S
    assert torch.equal(is_found.sum(-1), is_real.sum(-1).expand(B, N))


# CUBE


def block(**changes):
    settings = CubeSettings(width=4, **changes)
    module = Interest(D, 7, S, settings)
    past = torch.randint(U, (B, S))
    vector, ids = unit(U, D), torch.randn(U, 7)
    return module, past, vector, ids


def outputs(module, near, past, vector, ids, asked=None):
    asked = asked or Comparison(near.similarity_BNS[:, :1], near.is_real_BNS[:, :1])
    return module(near, asked, vector, ids, past)


def test_equal_similarities_give_the_masked_mean():
    module, past, vector, ids = block(parts=("content", "fusion"))
    near = comparison()
    near.similarity_BNS.fill_(0.4)
    content, fusion = outputs(module, near, past, vector, ids)
    mask = near.is_real_BNS.float()
    mean = mask / mask.sum(-1, keepdim=True).clamp_min(1)
    torch.testing.assert_close(content, mean @ module.content(vector)[past])
    torch.testing.assert_close(fusion, mean @ module.fusion(ids)[past])


def test_a_low_temperature_takes_the_most_similar_behavior():
    module, past, vector, ids = block(parts=("content",))
    with torch.no_grad():
        module.log_tau.fill_(-9.0)
    near = comparison(share=0.9)
    (content,) = outputs(module, near, past, vector, ids)
    best = near.similarity_BNS.masked_fill(~near.is_real_BNS, -9).argmax(-1)
    expected = module.content(vector)[past.gather(1, best)]
    torch.testing.assert_close(content, expected, atol=1e-4, rtol=1e-4)


def test_identical_vectors_give_that_vector_for_any_history():
    module, past, vector, ids = block(parts=("content",))
    vector[:] = vector[0]
    near = comparison(share=0.9)
    (content,) = outputs(module, near, past, vector, ids)
    torch.testing.assert_close(content, module.content(vector)[0].expand_as(content))


def test_order_and_padding_change_only_the_cosines_themselves():
    module, past, vector, ids = block()
    near = comparison()
    before = outputs(module, near, past, vector, ids)
    order = torch.randperm(S)
    moved = Comparison(near.similarity_BNS[..., order], near.is_real_BNS[..., order])
    after = outputs(module, moved, past[:, order], vector, ids)
    for one, other in zip(before[:2], after[:2], strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(after[2][..., :S], before[2][..., order])
    cut = Comparison(near.similarity_BNS[..., :6], near.is_real_BNS[..., :6])
    padded = Comparison(
        F.pad(cut.similarity_BNS, (0, 3), value=0.9), F.pad(cut.is_real_BNS, (0, 3), value=False)
    )
    for one, other in zip(
        outputs(module, cut, past[:, :6], vector, ids),
        outputs(module, padded, past, vector, ids),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_nothing_to_weigh_gives_zeros():
    module, past, vector, ids = block()
    near = comparison(share=0.0)
    for one in outputs(module, near, past, vector, ids):
        assert (one == 0).all()


def test_raw_weights_are_the_masked_cosines_and_topk_keeps_the_best_few():
    near = comparison()
    raw, *_ = block(weights="raw")
    torch.testing.assert_close(raw.weights(near), near.similarity_BNS * near.is_real_BNS)
    top, *_ = block(weights="topk", top=2)
    weight = top.weights(near)
    assert torch.equal((weight > 0).sum(-1), near.is_real_BNS.sum(-1).clamp_max(2))
    best = near.similarity_BNS.masked_fill(~near.is_real_BNS, -9).argmax(-1)
    some = near.is_real_BNS.any(-1)
    assert torch.equal(weight.argmax(-1)[some], best[some])


def test_every_part_of_cube_can_be_left_out():
    widths = {part: block(parts=(part,))[0].out_width for part in PARTS}
    assert widths == {"fusion": 4, "scores": 2 * S, "content": 4, "target": 0, "match": 0, "query": 0}
    with pytest.raises(SettingsError, match="parts"):
        CubeSettings(parts=("nothing",))
    with pytest.raises(SettingsError, match="tiers"):
        ContentSettings(tiers=0, asked=True)
    assert SearchSettings(by="id", unit="attention", tiers=0).needs_vectors is False


# MAKE


def test_make_gives_its_insides_and_its_logit_and_no_gradient_when_frozen():
    settings = MakeSettings(width=5, hidden=(8, 3))
    module = Make(D, 2, settings)
    vector, target, past = unit(U, D), torch.randint(U, (B, N)), torch.randint(U, (B, S))
    has_past, query = torch.rand(B, S) < 0.7, unit(B, D)
    rest = (vector, target, past, torch.zeros(B, S, dtype=torch.long), has_past, query)
    features, logit = module(*rest)
    assert features.shape == (B, N, module.out_width) == (B, N, 5 + 8 + 3 + 1)
    torch.testing.assert_close(features[..., -1], logit.detach())
    assert not features.requires_grad
    assert logit.requires_grad
    open_features, _ = Make(D, 2, settings.but(is_frozen=False))(*rest)
    assert open_features.requires_grad


# semantic ids


def test_semantic_ids_are_the_nearest_centers_level_by_level():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 8)).astype(np.float32)
    settings = SemanticSettings(levels=2, codes=6)
    centers = fit_centers(vectors, settings)
    present = np.arange(300) % 7 > 0
    codes = codes_of(vectors, present, centers)
    assert (codes[~present] == 0).all()
    for row in np.flatnonzero(present)[:50]:
        rest = vectors[row].astype(np.float64)
        for level in range(2):
            best = np.linalg.norm(centers[level] - rest, axis=1).argmin()
            assert codes[row, level] == best + 1
            rest = rest - centers[level][best]


def test_equal_vectors_share_their_codes_and_finer_levels_leave_less():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(400, 8)).astype(np.float32)
    vectors[1] = vectors[0]
    centers = fit_centers(vectors, SemanticSettings(levels=3, codes=8))
    present = np.ones(400, bool)
    codes = codes_of(vectors, present, centers)
    assert codes[0].tolist() == codes[1].tolist()
    rest, left = vectors, []
    for level in range(3):
        rest = rest - centers[level][codes[:, level] - 1]
        left.append(float((rest**2).sum()))
    assert left[0] > left[1] > left[2]
    few = fit_centers(vectors[:3], SemanticSettings(levels=1, codes=8))
    assert np.isfinite(few).all()
