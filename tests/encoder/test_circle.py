"""Circle loss in closed form; weights of queries and the Matryoshka sum, which it shares with InfoNCE."""

import math

import pytest
import torch
import torch.nn.functional as F

from moontide.encoder.objectives.circle import circle
from moontide.encoder.objectives.infonce import batch_mean, info_nce, log_one_plus, matryoshka
from moontide.encoder.objectives.triplet import triplet

pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection")  # asked for: no NaN on the way


def unit(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def with_scores(positive: float, negatives: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """One query and items whose similarities to it are these: the positive first."""
    scores = torch.tensor([positive, *negatives], dtype=torch.float64)
    item = torch.stack((scores, (1 - scores**2).clamp(min=0).sqrt()), dim=1)
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64), item


@pytest.mark.parametrize("num", [1, 5, 300])
@pytest.mark.parametrize("scale", [32.0, 256.0])
def test_scores_at_the_margins_cost_the_logarithm_of_all_items(num, scale):
    query, item = with_scores(0.75, [0.25] * num)
    assert circle(query, item, 0.25, scale).item() == pytest.approx(math.log(1 + num))


def test_several_positives_at_the_margin_multiply_the_negatives():
    query, item = with_scores(0.75, [0.75, 0.75, 0.25, 0.25])
    positive = torch.tensor([[False, True, True, False, False]])
    assert circle(query, item, positive_BN=positive).item() == pytest.approx(math.log(1 + 2 * 3))


def test_a_perfect_query_costs_little():
    query, item = with_scores(1.0, [0.0] * 7)
    expected = math.log(1 + 7 * math.exp(-2 * 16 * 0.25**2))
    assert circle(query, item, 0.25, 16.0).item() == pytest.approx(expected)


def test_one_pair_has_the_closed_form_and_its_gradients():
    m, g = 0.25, 8.0
    for s_p, s_n in [(0.6, 0.3), (0.2, -0.1), (0.9, 0.8)]:
        query, item = with_scores(s_p, [s_n])
        item.requires_grad_()
        loss = circle(query, item, m, g)
        z = g * (s_n**2 + (1 - s_p) ** 2 - 2 * m**2)
        assert loss.item() == pytest.approx(math.log(1 + math.exp(z)))
        loss.backward()
        sigma = 1 / (1 + math.exp(-z))
        slope_p, slope_n = item.grad[:, 0].tolist()
        assert slope_p == pytest.approx(-sigma * g * (1 + m - s_p))
        assert slope_n == pytest.approx(sigma * g * (s_n + m))


def test_negatives_at_or_below_minus_the_margin_get_no_gradient():
    query, item = with_scores(0.5, [-0.25, -0.9, 0.1])
    item.requires_grad_()
    circle(query, item).backward()
    assert item.grad[1:3].abs().max() == 0
    assert item.grad[3, 0] > 0


def test_the_loss_is_not_monotone_in_its_negatives():
    at = {s: circle(*with_scores(1.0, [s] * 5888)).item() for s in (0.0, -0.5)}
    assert at[0.0] == pytest.approx(1.09, abs=0.005)
    assert at[-0.5] == pytest.approx(4.69, abs=0.005)


@pytest.mark.parametrize("scores", [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
def test_loss_and_gradient_stay_finite_at_the_largest_scale(scores):
    query, item = with_scores(scores[0], [scores[1]] * 4)
    query, item = query.float().requires_grad_(), item.float().requires_grad_()
    loss = circle(query, item, 0.35, 256.0)
    loss.backward()
    assert loss.isfinite()
    assert query.grad.isfinite().all()
    assert item.grad.isfinite().all()


def test_masked_items_and_masked_duplicates_of_the_positive_change_nothing():
    query, item = unit(4, 6), unit(5, 6, 1)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:, 5] = True
    longer = torch.cat((item, item[:1])).requires_grad_()
    loss = circle(query, longer, not_negative_BN=mask)
    loss.backward()
    assert loss.item() == pytest.approx(circle(query, item).item())
    assert longer.grad[5].abs().max() == 0


def test_several_queries_are_averaged():
    query, item = unit(3, 6), unit(6, 6, 1)
    alone = [circle(query[i : i + 1], torch.cat((item[i:], item[:i]))).item() for i in range(3)]
    assert circle(query, item).item() == pytest.approx(sum(alone) / 3)


@pytest.mark.parametrize("loss", [circle, lambda *given, **rest: info_nce(*given, 0.1, **rest)])
def test_nothing_left_to_tell_apart_costs_nothing_and_moves_nothing(loss):
    for num in (1, 3):
        query, item = unit(num, 6).requires_grad_(), unit(num, 6, 1).requires_grad_()
        with torch.autograd.detect_anomaly(check_nan=True):
            value = loss(query, item, not_negative_BN=torch.ones(num, num, dtype=torch.bool))
            value.backward()
        assert value.item() == 0
        assert query.grad.abs().max() == 0
        assert item.grad.abs().max() == 0


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_weights_divide_by_the_batch_and_not_by_their_sum(is_symmetric):
    query, item = unit(4, 6), unit(7, 6, 1)
    rows = [info_nce(query, item, 0.1, None, is_symmetric, row) for row in torch.eye(4)]
    weight = torch.tensor([0.5, 0.0, 1.0, 0.1], dtype=torch.float64)
    weighted = info_nce(query, item, 0.1, None, is_symmetric, weight)
    torch.testing.assert_close(weighted, sum(w * row for w, row in zip(weight, rows, strict=True)))
    torch.testing.assert_close(info_nce(query, item, 0.1, None, is_symmetric), sum(rows))
    half = circle(query, item, weight_B=torch.full((4,), 0.5))
    torch.testing.assert_close(half, circle(query, item) / 2)


@pytest.mark.parametrize("loss", [circle, lambda *given, **rest: info_nce(*given, 0.07, **rest)])
def test_weights_of_one_leave_loss_and_gradient_the_same_to_the_last_bit(loss):
    results = []
    for weight in (None, torch.ones(64)):
        query, item = unit(64, 16).float().requires_grad_(), unit(100, 16, 1).float()
        value = loss(query, item, weight_B=weight)
        value.backward()
        results.append((value.detach(), query.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert batch_mean(torch.ones(3), torch.zeros(3)) == 0


def test_the_matryoshka_sum_of_any_loss_is_its_mean_over_prefixes():
    query, item, other = unit(4, 8), unit(4, 8, 1), unit(4, 8, 2)
    torch.testing.assert_close(matryoshka(circle, query, item, widths=[8]), circle(query, item))
    cut = [F.normalize(one[:, :3], dim=1) for one in (query, item, other)]
    expected = (circle(query, item, 0.2) + circle(cut[0], cut[1], 0.2)) / 2
    torch.testing.assert_close(matryoshka(circle, query, item, widths=[3, 8], margin=0.2), expected)
    expected = (triplet(query, item, other) + triplet(*cut)) / 2
    torch.testing.assert_close(matryoshka(triplet, query, item, other, widths=[3, 8]), expected)


def test_the_logarithm_of_one_plus_exponentials_is_exact_where_a_naive_sum_overflows():
    logits = torch.tensor([[1000.0, -torch.inf], [-torch.inf, -torch.inf], [0.0, 0.0]])
    assert log_one_plus(logits).tolist() == pytest.approx([1000, 0, math.log(3)])
