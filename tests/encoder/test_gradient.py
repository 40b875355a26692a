"""The gradient of a step: pictures seen once, and the same whether at once, in pieces, or over two ranks."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_losses import LOSSES, build, step

from moontide.encoder.model.prepared import Album
from moontide.encoder.stages.gradient import gradients


def grads_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


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
    encoder, modules, items, loss_of = build(make_encoder(), catalog, "modality" if experts == "modality" else "infonce",
                                             experts)  # fmt: skip
    _, whole = gradients(encoder, items, loss_of)
    wanted = grads_of(modules)
    outputs, loss = gradients(encoder, items, loss_of, tokens)
    assert not outputs.vectors.requires_grad
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert_same(grads_of(modules), wanted)
    assert any("router" in name for name in wanted) == (experts != "none")
    assert any("visual" in name for name in wanted)


def test_two_ranks_give_the_loss_and_gradients_of_one_process_for_every_loss(make_encoder, catalog, tmp_path):
    make_encoder().save(tmp_path / "start")
    script = Path(__file__).with_name("rank_losses.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += [str(script), str(tmp_path / "start"), str(catalog.path), str(tmp_path)]
    for attempt in range(2):  # one early launch in many aborts without a word
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=150, check=False
        )
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr[-3_000:] + f" attempt {attempt}"
    for name in LOSSES:
        loss, wanted = step(tmp_path / "start", catalog.path, name)
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert found["loss"] == pytest.approx(loss, rel=1e-5), name
            assert_same(found["grads"], wanted)


def test_a_queue_never_gets_gradient_and_the_same_products_are_masked(make_encoder, catalog):
    encoder, modules, items, loss_of = build(make_encoder(), catalog, "queue", "none")
    gradients(encoder, items, loss_of)
    assert not any(p.requires_grad for p in modules["queue"].buffers())
    assert all(buffer.grad is None for buffer in modules["queue"].buffers())
    assert np.isfinite(sum(float(g.abs().sum()) for g in grads_of(modules).values()))
