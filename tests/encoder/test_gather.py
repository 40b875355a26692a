"""A batch of two ranks against one process. Imports little: both ranks import this file anew."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from moontide.encoder.objectives import gather as ranks
from moontide.encoder.objectives.queue import VectorQueue

PAIRS, SPLIT, INPUT, WIDTH = 7, 4, 5, 6  # the first rank has 4 pairs, the second 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Linear(INPUT, WIDTH).double()
        self.second = nn.Linear(INPUT, WIDTH).double()  # only the second rank's rows come through here
        self.idle = nn.Linear(1, 1)  # none do
        self.scale = nn.Parameter(torch.tensor(5.0).double())  # behind the gather


def gradients(net: Net, queue: VectorQueue, step: int, rows: slice) -> float:
    """Gradients of the whole batch's loss, of which this process embeds some rows."""
    generator = torch.Generator().manual_seed(step)
    given = torch.randn(2, PAIRS, INPUT, generator=generator, dtype=torch.float64)[:, rows]
    through_second = (torch.arange(PAIRS) >= SPLIT)[rows, None]
    encoded = net.encoder(given)
    if through_second.any():
        encoded = encoded + net.second(given) * through_second
    query, item = (ranks.gather(side) for side in F.normalize(encoded, dim=-1))
    product = np.arange(PAIRS) + PAIRS * step
    logits = query @ torch.cat((item, queue.sample().vectors)).T * net.scale
    target = torch.arange(PAIRS)
    loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :PAIRS].T, target)
    loss.backward()
    queue.push(item, product, product, product, step)
    ranks.average_gradients(net.parameters())
    return loss.item()


def two_steps(rows: slice) -> dict:
    net, queue = Net(), VectorQueue(10, WIDTH).double()
    losses = [gradients(net, queue, step, rows) for step in range(2)]
    grads = {name: value.grad for name, value in net.named_parameters()}
    return {"losses": losses, "grads": grads, "queue": queue.state_dict()}


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranks.BUCKET_BYTES = 200  # several buckets even here
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(two_steps(slice(0, SPLIT) if rank == 0 else slice(SPLIT, PAIRS)), f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


def test_one_process_is_its_own_group():
    rows = torch.randn(2, 3, requires_grad=True)
    assert (ranks.world_size(), ranks.rank()) == (1, 0)
    assert ranks.gather(rows) is rows
    layer = nn.Linear(3, 1)
    layer(rows).sum().backward()
    before = layer.weight.grad.clone()
    ranks.average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, before)


@pytest.mark.timeout(120)
def test_ranks_with_unequal_rows_have_the_losses_gradients_and_queue_of_one_process(tmp_path):
    alone = two_steps(slice(0, PAIRS))
    assert alone["grads"]["second.weight"].abs().max() > 0
    assert alone["grads"]["scale"].abs() > 0
    mp.spawn(one_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2))
    assert first["losses"] == pytest.approx(alone["losses"])
    torch.testing.assert_close(first["queue"], alone["queue"])
    for name, grad in alone["grads"].items():
        if name.startswith("idle"):
            assert grad is first["grads"][name] is second["grads"][name] is None
        else:
            torch.testing.assert_close(first["grads"][name], grad, msg=name)
            assert torch.equal(first["grads"][name], second["grads"][name]), name
    assert all(torch.equal(value, second["queue"][name]) for name, value in first["queue"].items())
