"""The queue of negatives: order, codes, resume, staleness."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moontide.encoder.objectives.circle import circle
from moontide.encoder.objectives.infonce import info_nce
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.objectives.queue import VectorQueue
from moontide.foundation.errors import SettingsError


def rows_of(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(codes)[:, None].float() + torch.arange(3) / 10


def push(queue: VectorQueue, first: int, num: int, step: int) -> None:
    codes = np.arange(first, first + num)
    queue.push(rows_of(codes), codes, codes * 10, codes % 2, step)


def test_the_newest_come_first_with_their_codes_and_the_oldest_go():
    queue = VectorQueue(5, 3)
    assert len(queue.sample().product) == 0
    for step, (first, num) in enumerate([(0, 2), (2, 2), (4, 3)]):
        push(queue, first, num, step)
    held = queue.sample()
    assert held.product.tolist() == [6, 5, 4, 3, 2]
    assert held.group.tolist() == [60, 50, 40, 30, 20]
    assert held.category.tolist() == [0, 1, 0, 1, 0]
    assert held.step.tolist() == [2, 2, 2, 1, 1]
    assert torch.equal(held.vectors, rows_of(held.product))
    assert queue.sample(2).product.tolist() == [6, 5]
    assert len(queue.sample(99).product) == 5


def test_it_behaves_like_a_list_of_which_only_the_end_is_kept():
    rng = np.random.default_rng(0)
    queue, everything = VectorQueue(7, 3), []
    for step in range(30):
        num = int(rng.integers(0, 12))  # more than fit, at times
        push(queue, len(everything), num, step)
        everything += range(len(everything), len(everything) + num)
        assert queue.sample().product.tolist() == everything[::-1][:7]
        assert torch.equal(queue.sample().vectors, rows_of(queue.sample().product))


def test_a_queue_cut_off_and_resumed_draws_the_same():
    one, two = VectorQueue(5, 3), VectorQueue(5, 3)
    push(one, 0, 4, 0)
    one.shorten(4)
    two.load_state_dict(one.state_dict())
    for queue in (one, two):
        push(queue, 4, 3, 1)
    assert two.sample().product.tolist() == one.sample().product.tolist() == [6, 5, 4, 3]
    assert torch.equal(one.sample().vectors, two.sample().vectors)


def test_queued_vectors_have_no_gradient_and_do_not_follow_what_was_pushed():
    queue = VectorQueue(4, 6)
    fresh = F.normalize(torch.randn(4, 6), dim=1).requires_grad_()
    codes = np.arange(4)
    queue.push(fresh, codes, codes, codes, 0)
    old = queue.sample()
    assert not old.vectors.requires_grad
    assert list(queue.parameters()) == []
    query = F.normalize(torch.randn(2, 6), dim=1).requires_grad_()
    own = F.normalize(torch.randn(2, 6), dim=1).requires_grad_()
    info_nce(query, torch.cat((own, old.vectors)), 0.1).backward()
    assert fresh.grad is None
    with torch.no_grad():
        fresh.zero_()
    assert queue.sample().vectors.abs().sum() > 0


def test_an_old_vector_of_the_own_product_is_masked():
    queue = VectorQueue(8, 6)
    query, item = (F.normalize(torch.randn(3, 6, dtype=torch.float64), dim=1) for _ in range(2))
    product = np.array([4, 5, 6])
    queue.push(item[:1], product[:1], product[:1], product[:1], 0)
    old = queue.sample()
    mask = not_negative(product, np.concatenate((product, old.product)), np.arange(7))
    pool = torch.cat((item, old.vectors))
    first = torch.tensor([3.0, 0, 0], dtype=torch.float64)
    got = circle(query, pool, not_negative_BN=torch.from_numpy(mask), weight_B=first)
    torch.testing.assert_close(got, circle(query, item, weight_B=first))


def test_staleness_is_the_cosine_to_vectors_made_again():
    queue = VectorQueue(100, 2)
    assert math.isnan(queue.staleness(lambda product: torch.ones(len(product), 2)))
    codes = np.arange(90)
    queue.push(torch.tensor([[1.0, 0.0]]).repeat(90, 1), codes, codes, codes, 0)
    asked = []

    def turned(product: np.ndarray) -> torch.Tensor:
        asked.append(product)
        return torch.tensor([[0.6, 0.8]]).repeat(len(product), 1)

    assert queue.staleness(turned) == pytest.approx(0.6)
    assert len(set(asked[0])) == 64
    assert {0, 89} <= set(asked[0])
    assert queue.staleness(lambda product: torch.tensor([[2.0, 0.0]]).repeat(len(product), 1), 500) == 1


def test_a_shortened_queue_keeps_the_newest_and_never_grows_back():
    queue = VectorQueue(6, 3)
    push(queue, 0, 6, 0)
    queue.shorten(2)
    queue.shorten(4)
    assert queue.sample().product.tolist() == [5, 4]
    push(queue, 6, 5, 1)
    assert queue.sample().product.tolist() == [10, 9]
    assert len(queue) == 2


def test_a_queue_of_no_length_is_refused():
    with pytest.raises(SettingsError, match="a queue needs a length of at least 1, got 0: leave it out"):
        VectorQueue(0, 3)
