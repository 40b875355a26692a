"""The gradient of a step: pictures seen once, and the same whether at once, in pieces, or over two ranks."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from rank_losses import LOSSES, STAGES, as_rank, build, figures_and_grads
from stage_parts import grads_of, write_shop

from moontide.encoder.model.prepared import Album
from moontide.encoder.stages.gradient import gradients


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        scale = max(float(grad.abs().max()), 1e-3)
        torch.testing.assert_close(found[name], grad, atol=2e-5 * scale, rtol=2e-3, msg=name)


def test_the_vision_tower_sees_every_picture_once_however_many_forms_hold_it(make_encoder, catalog):
    encoder = make_encoder()
    pixels = {i: encoder.pixels(catalog.images[i]) for i in ("i0a", "i1a", "i2a")}
    items = [
        pixels["i0a"],
        {"text": "red", "image": pixels["i0a"]},
        "red",
        {"text": "x", "image": pixels["i1a"]},
    ]
    items += [{"text": "y", "image": [pixels["i1a"], pixels["i2a"], pixels["i0a"]]}]
    prepared = encoder.prepare_all(items)
    assert len(Album.of(prepared)) == 3
    seen = []
    hook = encoder.backbone.visual.patch_embed.proj.register_forward_hook(lambda *_: seen.append(1))
    handle = encoder.backbone.visual.blocks[0].register_forward_pre_hook(lambda *_: None)
    blocks = []
    encoder.backbone.visual.blocks[0].mlp.register_forward_hook(
        lambda _, given, __: blocks.append(len(given[0]))
    )
    vectors = encoder.encode_all(prepared, batch_tokens=40).vectors
    hook.remove(), handle.remove()
    assert sum(blocks) == 3  # rows of the first block's batch: pictures
    one_by_one = torch.cat([encoder.forward_prepared([encoder.prepare(item)]) for item in items])
    torch.testing.assert_close(vectors, one_by_one, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("experts", ["none", "guided", "modality"])
@pytest.mark.parametrize("tokens", [30, 200])
def test_the_gradient_in_pieces_is_the_plain_one_with_experts_and_their_auxiliary_loss(
    make_encoder, catalog, experts, tokens
):
    name = "modality" if experts == "modality" else "infonce"
    encoder, modules, items, loss_of = build(make_encoder(), catalog, name, experts)
    _, whole = gradients(encoder, items, loss_of)
    wanted = grads_of(modules)
    outputs, loss = gradients(encoder, items, loss_of, tokens)
    assert not outputs.vectors.requires_grad
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert_same(grads_of(modules), wanted)
    assert any("router" in name for name in wanted) == (experts != "none")
    assert any("visual" in name for name in wanted)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, catalog, make_encoder):
    """What two processes found, and their shop; forked: importing PyTorch anew takes seconds."""
    folder = tmp_path_factory.mktemp("ranks")
    shop = write_shop(folder / "shop")
    context = multiprocessing.get_context("fork")
    given = [(rank, str(folder), make_encoder, catalog, shop) for rank in range(2)]
    both = [context.Process(target=as_rank, args=one) for one in given]
    for process in both:
        process.start()
    give_up = time.monotonic() + 100
    while any(process.is_alive() for process in both) and time.monotonic() < give_up:
        if any(process.exitcode for process in both):
            break  # the other one would wait for it
        time.sleep(0.02)
    for process in both:
        process.kill()
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    return folder, shop


@pytest.mark.parametrize("name", [*LOSSES, *STAGES])
def test_two_ranks_give_the_figures_and_gradients_of_one_process(make_encoder, catalog, ranks, name):
    folder, shop = ranks
    figures, wanted = figures_and_grads(make_encoder(), catalog if name in LOSSES else shop, name)
    assert len(wanted) > 20
    for rank in range(2):
        found, grads = torch.load(folder / f"{name}-{rank}.pt", weights_only=True)
        assert found == pytest.approx(figures, rel=1e-4, abs=1e-6)
        assert_same(grads, wanted)


def test_a_queue_never_gets_gradient_and_the_same_products_are_masked(make_encoder, catalog):
    encoder, modules, items, loss_of = build(make_encoder(), catalog, "queue", "none")
    gradients(encoder, items, loss_of)
    assert not any(p.requires_grad for p in modules["queue"].buffers())
    assert all(buffer.grad is None for buffer in modules["queue"].buffers())
    assert np.isfinite(sum(float(g.abs().sum()) for g in grads_of(modules).values()))
