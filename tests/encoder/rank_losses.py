"""Every loss with gathered negatives, and steps of the stages, on a handful of items, by one rank or two."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from stage_parts import csft_step, posttraining, triplet_training
from torch import nn

from moontide.encoder.model.experts.guided import GuidedExperts, GuidedSettings
from moontide.encoder.model.experts.modality import ModalityExperts, ModalitySettings
from moontide.encoder.model.inputs import product_item, query_item
from moontide.encoder.objectives.circle import circle
from moontide.encoder.objectives.gather import average_gradients
from moontide.encoder.objectives.infonce import Temperature, info_nce, matryoshka
from moontide.encoder.objectives.intra import intra
from moontide.encoder.objectives.levels import tiers
from moontide.encoder.objectives.queue import VectorQueue
from moontide.encoder.objectives.reliability import ReliabilitySettings
from moontide.encoder.objectives.routing import load_balance, objective_weights, sparsity
from moontide.encoder.objectives.triplet import triplet
from moontide.encoder.stages.csft import CsftSettings
from moontide.encoder.stages.gradient import gradients
from moontide.encoder.stages.posttrain import NegativeSettings, PosttrainSettings
from moontide.encoder.stages.triplets import TripletSettings

LOSSES = ("infonce", "circle", "queue", "circle, queue", "tiers", "triplet", "modality")
STAGES = ("MOON", "MOON in pieces", "MOON2.0", "MIM")
SIZE = 5  # odd: the shares of two ranks differ
QUEUED = NegativeSettings(num_hard=1, queue=64, queue_from=0.0, check_every=1)


def items_of(encoder, dataset):
    """Queries, positives, hard negatives, pictures alone and titles alone of the positives."""
    products = dataset.products()[: 2 * SIZE]
    images = {i: encoder.pixels(dataset.images[i]) for p in products for i in p.image_ids}
    own, hard = products[:SIZE], products[SIZE:]
    items = [query_item(p.title.rsplit(" ", 2)[0]) for p in own]
    items += [product_item(p, images) for p in own] + [product_item(p, images) for p in hard]
    items += [product_item(p, images, "image") for p in own] + [product_item(p, None, "title") for p in own]
    return items


def fill(encoder, experts):
    """Put experts into an encoder that differ from each other: the router of equal ones learns from noise."""
    if experts == "none":
        return encoder
    if experts == "guided":
        mixture = GuidedExperts.of(encoder.backbone, GuidedSettings(), seed=1)
    else:
        mixture = ModalityExperts.of(encoder.backbone, ModalitySettings(num_experts=3), seed=1)
        nn.init.normal_(mixture.preference, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in mixture.layers.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return encoder.fill(experts=mixture)


def build(encoder, dataset, name, experts="none"):
    """Encoder, everything trained or kept, items, and the loss of their outputs."""
    fill(encoder, "modality" if name == "modality" else experts)
    mixture = encoder.slots["experts"]
    temperature = Temperature()
    modules = nn.ModuleDict({"encoder": encoder, "temperature": temperature})
    queue = VectorQueue(64, encoder.widths[-1])
    if name in ("queue", "circle, queue", "tiers"):
        rng = np.random.default_rng(0)
        past = torch.from_numpy(rng.normal(size=(20, encoder.widths[-1]))).float()
        queue.push(nn.functional.normalize(past, dim=1), *np.arange(20) + np.zeros((3, 1), int), step=0)
        modules["queue"] = queue
    other = torch.zeros(SIZE, 2 * SIZE, dtype=torch.bool)
    other[0, SIZE + 1] = True

    def loss_of(outputs):
        query, item, hard, picture, title = outputs.vectors.split(SIZE)
        pool, tau = torch.cat((item, hard)), temperature()
        if name == "circle":
            loss = matryoshka(circle, query, pool, widths=encoder.widths, not_negative_BN=other)
        elif name == "triplet":
            loss = triplet(query, item, hard) + info_nce(query, pool, tau, other)
        elif name in ("queue", "circle, queue", "tiers"):
            whole = torch.cat((pool, queue.sample().vectors))
            source = torch.tensor([0] * SIZE + [1] * SIZE + [2] * (len(whole) - 2 * SIZE))
            groups = [source == n for n in range(3)]
            if name == "circle, queue":
                loss = circle(query, whole)
            else:
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


def loss_step(encoder, dataset, name):
    """Figures and gradients of one loss."""
    encoder, modules, items, loss_of = build(encoder, dataset, name)
    _, loss = gradients(encoder, items, loss_of)
    return modules, {"loss": loss.item()}


def stage_step(encoder, dataset, name):
    """Figures and gradients of a stage's second step; the first one fills its queue."""
    if name.startswith("MOON2"):
        settings = TripletSettings(batch_size=SIZE, reliability=ReliabilitySettings(start_share=0.0))
        step = triplet_training(fill(encoder, "modality"), dataset, settings)
    elif name.startswith("MOON"):
        tokens = 60 if name.endswith("pieces") else None
        settings = PosttrainSettings(
            batch_size=SIZE, pairings="moon", negatives=QUEUED, loss="circle", mini_batch_tokens=tokens
        )
        step = posttraining(fill(encoder, "guided"), dataset, settings)
    else:
        settings = CsftSettings(batch_size=SIZE, queue=64, queue_from=0.0, momentum=0.9)
        step = csft_step(encoder, dataset, settings)
    step(0)
    step.modules.zero_grad(set_to_none=True)
    return step.modules, step(1)


def figures_and_grads(encoder, dataset, name):
    """One step, by this process or by all ranks together."""
    modules, figures = (loss_step if name in LOSSES else stage_step)(encoder, dataset, name)
    average_gradients(modules.parameters())
    return figures, {n: p.grad.clone() for n, p in modules.named_parameters() if p.grad is not None}


def as_rank(rank, folder, make_encoder, catalog, shop):
    """What each of two processes does: all steps, one file each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name in (*LOSSES, *STAGES):
        dataset = catalog if name in LOSSES else shop
        torch.save(figures_and_grads(make_encoder(), dataset, name), Path(folder) / f"{name}-{rank}.pt")
    dist.destroy_process_group()
