"""Load balance of experts, and weights of objectives from routing."""

import logging
import math

import numpy as np
import pytest
import torch

from moontide.encoder.objectives.routing import (
    DeadObjectives,
    load_balance,
    objective_weights,
    sparsity,
    spread,
)

NUM, LAYERS, EXPERTS = 6, 2, 4
ROWS = [np.array([0, 1, 2]), np.array([2, 3]), np.array([4, 5]), np.arange(6), np.array([1, 5])]


def route(num_active: int = 2, seed: int = 0, tokens: int = 9) -> torch.Tensor:
    """What a top-K router reports of sequences of random tokens, as the encoder stacks it."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(NUM, LAYERS, tokens, EXPERTS, generator=generator, dtype=torch.float64) * 2
    probability = logits.softmax(-1)
    best, chosen = probability.topk(num_active, dim=-1)
    gate = torch.zeros_like(probability).scatter(-1, chosen, best / best.sum(-1, keepdim=True))
    sent = torch.zeros_like(probability).scatter(-1, chosen, 1 / num_active)
    return torch.stack((gate.mean(2), probability.sum(2), sent.sum(2)), dim=2)


def even(tokens: float = 8) -> torch.Tensor:
    routing = torch.full((NUM, LAYERS, 3, EXPERTS), tokens / EXPERTS, dtype=torch.float64)
    routing[:, :, 0] = 1 / EXPERTS
    return routing


def test_even_routing_costs_one():
    assert load_balance(even()).item() == pytest.approx(1)


def test_one_expert_that_takes_everything_costs_their_number():
    routing = torch.zeros(NUM, LAYERS, 3, EXPERTS, dtype=torch.float64)
    routing[..., 1] = 8
    assert load_balance(routing).item() == pytest.approx(EXPERTS)


def test_the_balance_is_that_of_all_tokens_layer_by_layer():
    routing = route()
    routing[0, :, 1:] *= 5  # a longer sequence
    expected = []
    for layer in range(LAYERS):
        sums = routing[:, layer].sum(0)
        expected.append(
            EXPERTS
            * sum(
                float(sums[2, e] / sums[2].sum()) * float(sums[1, e] / sums[1].sum()) for e in range(EXPERTS)
            )
        )
    assert load_balance(routing).item() == pytest.approx(sum(expected) / LAYERS)
    pieces = torch.cat((routing[3:], routing[:3]))
    assert load_balance(pieces).item() == pytest.approx(load_balance(routing).item())


@pytest.mark.parametrize("num_active", [1, 2, 3])
def test_load_that_is_ordered_like_probability_costs_at_least_one(num_active):
    for seed in range(20):
        routing = route(num_active, seed)
        routing[:, :, 1:] = routing[:, :, 1:].sort(dim=-1).values
        assert load_balance(routing).item() >= 1 - 1e-12


def test_the_share_of_tokens_has_no_gradient_and_the_probability_has():
    routing = route().requires_grad_()
    load_balance(routing).backward()
    assert routing.grad[:, :, [0, 2]].abs().max() == 0
    assert routing.grad[:, :, 1].abs().max() > 0


def test_a_batch_without_routed_tokens_costs_nothing():
    silent = torch.zeros(NUM, LAYERS, 3, EXPERTS, requires_grad=True)
    loss = load_balance(silent)
    loss.backward()
    assert loss.item() == 0
    assert silent.grad.isfinite().all()


def test_undecided_experts_weigh_all_objectives_alike():
    omega = objective_weights(route(), torch.zeros(EXPERTS, 5, dtype=torch.float64), ROWS)
    assert omega.tolist() == pytest.approx([1 / 5] * 5)


def test_weights_are_the_mean_support_of_the_members():
    routing, preference = route(), torch.randn(EXPERTS, 5, dtype=torch.float64)
    p = preference.softmax(1)
    assert p.sum(1).tolist() == pytest.approx([1] * EXPERTS)
    omega = objective_weights(routing, preference, ROWS)
    for m, rows in enumerate(ROWS):
        support = [
            sum(float(p[e, m]) * float(routing[b, :, 0, e].mean()) for e in range(EXPERTS)) for b in rows
        ]
        assert omega[m].item() == pytest.approx(sum(support) / len(rows))
    assert ((omega >= 0) & (omega <= 1)).all()


def test_equal_routing_spends_the_whole_budget():
    preference = torch.randn(EXPERTS, 5, dtype=torch.float64)
    omega = objective_weights(route(), preference, [np.arange(NUM)] * 5)
    assert omega.sum().item() == pytest.approx(1)


def test_an_objective_without_members_weighs_nothing():
    omega = objective_weights(route(), torch.randn(EXPERTS, 2).double(), [ROWS[0], np.array([], dtype=int)])
    assert omega[1].item() == 0
    assert omega[0].item() > 0


def test_gradient_flows_through_weights_only_when_asked():
    routing = route().requires_grad_()
    preference = torch.randn(EXPERTS, 5, dtype=torch.float64, requires_grad=True)
    full = objective_weights(routing, preference, ROWS, "full")
    full[0].backward()
    assert routing.grad[:, :, 0].abs().max() > 0
    assert routing.grad[3:].abs().max() == 0  # not members of objective 0
    assert preference.grad.abs().max() > 0
    detached = objective_weights(routing, preference, ROWS, "detach")
    assert torch.equal(detached, full.detach())
    assert not detached.requires_grad
    uniform = objective_weights(routing, preference, ROWS, "uniform")
    assert uniform.tolist() == [0.2] * 5
    assert not uniform.requires_grad


def test_sparsity_is_the_entropy_of_what_each_expert_prefers():
    assert sparsity(torch.zeros(EXPERTS, 5)).item() == pytest.approx(math.log(5))
    assert sparsity(torch.eye(5) * 200).item() == pytest.approx(0, abs=1e-6)
    for start, moves in ((torch.zeros(EXPERTS, 5), False), (torch.randn(EXPERTS, 5), True)):
        preference = start.requires_grad_()
        sparsity(preference).backward()
        assert (preference.grad.abs().max().item() > 1e-7) == moves


def test_spread_falls_when_all_experts_choose_the_same():
    apart = spread(torch.eye(5) * 200).item()
    together = torch.zeros(5, 5)
    together[:, 2] = 200
    together.requires_grad_()
    alike = spread(together)
    alike.backward()
    assert apart == pytest.approx(math.log(5))
    assert alike.item() == pytest.approx(0, abs=1e-6)
    assert together.grad.isfinite().all()


def test_a_dying_objective_is_announced_once(caplog):
    alarm = DeadObjectives(["t2mm", "i2mm", "mm2mm"])
    with caplog.at_level(logging.WARNING):
        for step in (7, 8):
            alarm.watch(torch.tensor([0.5, 0.01, 0.0]), step)
        assert [record.getMessage() for record in caplog.records] == [
            "objective i2mm weighs 0.0100 at step 7, less than 0.02: it hardly trains any more; "
            "detach the weights or raise the guard"
        ]
        alarm.watch(torch.tensor([0.019, 0.01, 0.3]), 9)
    assert len(caplog.records) == 2
