"""What the tests of the stages share: a small shop, a step without its loop, a run cut in the middle."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from small_log import write
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.stages import loop
from moontide.encoder.stages.csft import Csft, CsftSettings
from moontide.encoder.stages.exposures import Triplets
from moontide.encoder.stages.loop import rate_at
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.posttrain import Posttraining, PosttrainSettings, pairs_of
from moontide.encoder.stages.triplets import TripletSettings, TripletTraining, triplets_of
from moontide.foundation.runs import Run

PRODUCTS = {
    **{f"lamp{n}": "home/lamp" for n in range(5)},
    **{f"sofa{n}": "home/sofa" for n in range(4)},
    **{f"vase{n}": "home/vase" for n in range(3)},
}
QUERIES = {"t": ("warm lamp", False), "u": ("seat", False), "i": (None, True), "j": (None, True)}
QUERIES |= {"b": ("sofa", True), "c": ("light", True)}  # words; picture; both


def happened(kind: str, request: str, query: str, *products: str) -> list[tuple]:
    return [(kind, request, query, product) for product in products]


EVENTS = [
    *happened("impression", "r1", "t", "lamp0", "lamp1", "sofa0"),
    *happened("click", "r1", "t", "lamp0", "lamp1"),  # lamp1 was clicked and not ordered
    *happened("order", "r1", "t", "lamp0"),
    *happened("impression", "r2", "i", "lamp2", "vase0"),
    *happened("order", "r2", "i", "lamp2"),
    *happened("impression", "r3", "b", "sofa0", "sofa1", "lamp3"),
    *happened("click", "r3", "b", "sofa0", "sofa1"),  # so was sofa1
    *happened("order", "r3", "b", "sofa0"),
    *happened("order", "r4", "u", "vase1"),
    *happened("impression", "r5", "j", "sofa2", "sofa3"),
    *happened("order", "r5", "j", "sofa2"),
    *happened("impression", "r6", "c", "lamp4", "vase2"),
    *happened("order", "r6", "c", "lamp4"),
    *happened("order", "r7", "t", "vase2"),
]


def write_shop(path, events: Sequence[tuple] = EVENTS, **changes: Any) -> Dataset:
    """Seven orders under queries of every form, two with a clicked product beside them."""
    return write(path, PRODUCTS, QUERIES, events, **changes)


def posttraining(
    encoder: Any, dataset: Dataset, settings: PosttrainSettings, rows: Any = None
) -> Posttraining:
    """The step of `posttrain`."""
    pictures = Pictures(dataset.images, encoder.pixels)
    return Posttraining(encoder, pairs_of(encoder, dataset, pictures, settings, rows), settings)


def triplet_training(
    encoder: Any, dataset: Dataset, settings: TripletSettings, augmented: Any = None
) -> TripletTraining:
    """The step of `train_triplets`."""
    more = {"whole": settings.whole, "augmented": augmented, "drop": settings.drop}
    pictures = Pictures(dataset.images, encoder.pixels)
    triplets = triplets_of(encoder, dataset, pictures, settings, **more)
    return TripletTraining(encoder, triplets, settings)


def csft_step(encoder: Any, dataset: Dataset, settings: CsftSettings) -> Csft:
    """The step of `train_csft`."""
    pictures = Pictures(dataset.images, encoder.pixels)
    rest = (settings.before, settings.kinds, settings.augment, settings.seed, encoder.view(dataset))
    return Csft(encoder, Triplets(dataset, pictures, *rest, negatives="clicked"), settings)


def grads_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of a module, which then has none."""
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


class Stop(Exception): ...


def assert_resumes(
    monkeypatch: pytest.MonkeyPatch,
    folder: Any,
    stage: str,
    make: Callable[[int], Any],
    train: Callable[[Any, Run], dict[str, Any]],
) -> None:
    """A run of six steps, checkpoints every second, cut in its sixth step, ends as one that was not cut.

    Args:
        make: a seed -> a new encoder; another seed, other weights: all must come from the checkpoint.
        train: trains an encoder on a run.
    """
    whole_run, cut_run = (Run.start(folder / name, "test", {}, 0) for name in ("whole", "cut"))
    whole, fresh = make(0), make(1)
    train(whole, whole_run)

    def rate_until(step: int, settings: Any) -> float:
        if step == 5:
            raise Stop
        return rate_at(step, settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "rate_at", rate_until)
        with pytest.raises(Stop):
            train(make(0), cut_run)
    assert train(fresh, cut_run)["steps_here"] == 2
    assert_equal(fresh.state_dict(), whole.state_dict())
    assert cut_run.metrics() == whole_run.metrics()
    assert len(cut_run.metrics()) == 6
    ends = [
        torch.load(run.checkpoints(stage) / "step-00000006.pt", weights_only=True)
        for run in (cut_run, whole_run)
    ]
    assert_equal(ends[0]["state"], ends[1]["state"])


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """The same tensors to the last bit."""
    assert found.keys() == wanted.keys()
    assert [name for name, value in wanted.items() if not torch.equal(found[name], value)] == []
