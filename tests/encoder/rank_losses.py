"""Every loss with gathered negatives on a handful of items; run by torchrun, one file of gradients a rank."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.experts.guided import GuidedExperts, GuidedSettings
from moontide.encoder.model.experts.modality import ModalityExperts, ModalitySettings
from moontide.encoder.model.inputs import product_item, query_item
from moontide.encoder.objectives.circle import circle
from moontide.encoder.objectives.gather import average_gradients, rank
from moontide.encoder.objectives.infonce import Temperature, info_nce, matryoshka
from moontide.encoder.objectives.intra import intra
from moontide.encoder.objectives.levels import tiers
from moontide.encoder.objectives.queue import VectorQueue
from moontide.encoder.objectives.routing import load_balance, objective_weights, sparsity
from moontide.encoder.objectives.triplet import triplet
from moontide.encoder.stages.gradient import gradients

LOSSES = ("infonce", "circle", "queue", "tiers", "triplet", "modality")
SIZE = 5  # odd: the shares of two ranks differ


def items_of(encoder, dataset):
    """Queries, positives, hard negatives, pictures alone and titles alone of the positives."""
    products = dataset.products()[: 2 * SIZE]
    images = {i: encoder.pixels(dataset.images[i]) for p in products for i in p.image_ids}
    own, hard = products[:SIZE], products[SIZE:]
    items = [query_item(p.title.rsplit(" ", 2)[0]) for p in own]
    items += [product_item(p, images) for p in own] + [product_item(p, images) for p in hard]
    items += [product_item(p, images, "image") for p in own] + [product_item(p, None, "title") for p in own]
    return items


def build(encoder, dataset, name, experts="none"):
    """Encoder, everything trained or kept, items, and the loss of their outputs."""
    if experts == "guided":
        encoder.fill(experts=GuidedExperts.of(encoder.backbone, GuidedSettings(), seed=1))
    if experts == "modality" or name == "modality":
        encoder.fill(experts=ModalityExperts.of(encoder.backbone, ModalitySettings(num_experts=3), seed=1))
    mixture = encoder.slots["experts"]
    temperature = Temperature()
    modules = nn.ModuleDict({"encoder": encoder, "temperature": temperature})
    queue = VectorQueue(64, encoder.widths[-1])
    if name in ("queue", "tiers"):
        rng = np.random.default_rng(0)
        past = torch.from_numpy(rng.normal(size=(20, encoder.widths[-1]))).float()
        queue.push(nn.functional.normalize(past, dim=1), *np.arange(20) + np.zeros((3, 1), int), step=0)
        modules["queue"] = queue
    if mixture is not None and name == "modality":
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            mixture.preference.normal_(generator=generator)
    other = torch.zeros(SIZE, 2 * SIZE, dtype=torch.bool)
    other[0, SIZE + 1] = True

    def loss_of(outputs):
        query, item, hard, picture, title = outputs.vectors.split(SIZE)
        pool, tau = torch.cat((item, hard)), temperature()
        if name == "circle":
            loss = matryoshka(circle, query, pool, widths=encoder.widths, not_negative_BN=other)
        elif name == "triplet":
            loss = triplet(query, item, hard) + info_nce(query, pool, tau, other)
        elif name in ("queue", "tiers"):
            whole = torch.cat((pool, queue.sample().vectors))
            source = torch.tensor([0] * SIZE + [1] * SIZE + [2] * (len(whole) - 2 * SIZE))
            groups = [source == n for n in range(3)]
            loss = tiers(query, whole, tau, groups) if name == "tiers" else info_nce(query, whole, tau)
        elif name == "modality":
            rows = np.arange(len(outputs.vectors))
            members = [rows[: 2 * SIZE], rows[SIZE:], rows, rows[3 * SIZE : 4 * SIZE], rows[4 * SIZE :]]
            omega = objective_weights(outputs.routing, mixture.preference, members)
            same = torch.eye(SIZE, dtype=torch.bool)
            parts = [info_nce(query, pool, tau), info_nce(picture, pool, tau), info_nce(title, pool, tau)]
            parts += [intra(picture, title, tau, same, "i2t"), intra(picture, title, tau, same, "t2i")]
            loss = (omega * torch.stack(parts)).sum() + 1e-2 * sparsity(mixture.preference)
        else:
            loss = matryoshka(
                info_nce, query, pool, widths=encoder.widths, temperature=tau, is_symmetric=True
            )
        if outputs.routing is not None:
            loss = loss + 0.1 * load_balance(outputs.routing)
        return loss

    return encoder, modules, items_of(encoder, dataset), loss_of


def step(start, dataset, name):
    """Loss and gradients of one step, by this process or by all ranks together."""
    encoder, modules, items, loss_of = build(MoonEncoder(start, device="cpu"), Dataset.open(dataset), name)
    _, loss = gradients(encoder, items, loss_of)
    average_gradients(modules.parameters())
    return loss.item(), {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    start, dataset, to = sys.argv[1:]
    for name in LOSSES:
        loss, grads = step(start, dataset, name)
        torch.save({"loss": loss, "grads": grads}, Path(to) / f"{name}-{rank()}.pt")
    dist.destroy_process_group()
