"""MOON2.0's stage: text, picture and both of every query and product train together, weighted by the experts.

    L = sum_theta w_theta L_inter^theta + w_i2t L_i2t + w_t2i L_t2i + rho L_aux + sigma L_sparsity

One page: triplets of a query, what was chosen and what was shown in vain, each in every form it has; one pass
over all of them, pictures seen once; losses between query and product, and between picture and title of one
product; weights of the losses from the routing of modality-driven experts; unreliable triplets count less.

Paper: MOON2.0 3.1 (experts), 3.2 (dual-level alignment), 3.4 (sample filter); tags in the parts.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.encoder import MoonEncoder, Outputs
from moontide.encoder.model.experts.modality import OBJECTIVES, ModalityExperts
from moontide.encoder.model.inputs import Item
from moontide.encoder.objectives.infonce import Temperature, info_nce, matryoshka
from moontide.encoder.objectives.intra import intra
from moontide.encoder.objectives.masks import not_negative, only_present
from moontide.encoder.objectives.reliability import ReliabilitySettings, effective_size, sample_weights
from moontide.encoder.objectives.routing import (
    DeadObjectives,
    load_balance,
    objective_weights,
    sparsity,
    spread,
)
from moontide.encoder.stages.exposures import Augmented, TripletBatch, Triplets
from moontide.encoder.stages.gradient import Trainable, gradients
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, LoopSettings, loop_of, train
from moontide.encoder.stages.pictures import Pictures
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream

STAGE = "triplets"
FORMS = ("text", "image", "text_image")
BOTH = "text_image"
INTER = {"t2mm": "text", "i2mm": "image", "mm2mm": BOTH}  # objective: form of the query; i2t, t2i are within
MIXTURE = {"image": 12, "text": 3, BOTH: 2}  # paper reported, MOON: the fixed mixture that MOON2.0 replaces


class TripletSettings(LoopSettings):
    """Triplets, objectives and switches of the stage; the rest is the loop's."""

    batch_size: int = pydantic.Field(32, ge=1, description="triplets of a step")
    mini_batch_tokens: int | None = pydantic.Field(
        None, ge=1, description="tokens with a graph at a time; None: all. The gradient is the same"
    )
    before: datetime | None = pydantic.Field(None, description="events from this moment on are not seen")
    kinds: tuple[str, ...] = pydantic.Field(("order",), description="what of the log is a positive")
    whole: Literal["title_image", "rich_image"] = pydantic.Field(
        "rich_image", description="a product in both: title or all of its text, with its picture"
    )
    augment: float = pydantic.Field(0.3, ge=0, le=1, description="strength of random picture variation")
    inter: Literal["forms", "mixture"] = pydantic.Field(
        "forms", description="all forms of a query, or one a triplet: image, text, both as 12 : 3 : 2"
    )
    intra: Literal["both", "i2t", "t2i", "none"] = pydantic.Field(
        "both", description="picture and title of one product find each other"
    )
    omega: Literal["full", "detach", "uniform"] = pydantic.Field(
        "full", description="weights of the objectives: learned with gradient, without, or equal"
    )
    temperature: float = pydantic.Field(0.05, ge=0.01, le=0.2, description="where both learned ones start")
    balance: float = pydantic.Field(1e-2, ge=0, description="rho, of the load balance")
    sparsity: float = pydantic.Field(1e-3, ge=0, description="sigma, of decided preferences")
    guard: float = pydantic.Field(0.0, ge=0, description="of experts that prefer different objectives")
    reliability: ReliabilitySettings = pydantic.Field(ReliabilitySettings(), description="sample filter")
    drop: float = pydantic.Field(0.3, ge=0, le=1, description="share of samples without what is added")
    seed: int = pydantic.Field(0, description="of batches and variations")


def train_triplets(
    encoder: MoonEncoder,
    dataset: Dataset,
    settings: TripletSettings,
    run: Run | None = None,
    augmented: Augmented | None = None,
) -> dict[str, Any]:
    """Train `encoder` in place; started again on the same run, it goes on where it was cut off.

    Args:
        augmented: enriched titles and added pictures by product id, see `catalog.augment`; None: none.

    Returns:
        figures of `loop.train`, and triplets seen.

    Raises:
        DataError: the dataset has no positives. CheckpointError: the run was made with other settings.
    """
    more = {"whole": settings.whole, "augmented": augmented, "drop": settings.drop}
    pictures = Pictures(dataset.images, encoder.pixels)
    triplets = triplets_of(encoder, dataset, pictures, settings, **more)
    step = TripletTraining(encoder, triplets, settings)
    asked = [settings.model_dump(mode="json"), dataset.fingerprint(), sorted((augmented or {}).items())]
    encoder.center(encoder.prepare_all(Places(triplets.batch(0, settings.batch_size)).items))
    with encoder.remembering(TRAINING_LAYOUTS):
        results = train(
            STAGE, step.modules, step, loop_of(settings), run, asked, step.after, batch_ids=step.ids
        )
    return results | {"pairs": settings.num_steps * settings.batch_size, "refused": len(pictures.refused)}


def triplets_of(
    encoder: Trainable, dataset: Dataset, pictures: Pictures, settings: Any, **more: Any
) -> Triplets:
    """The triplets that a stage's settings ask for.

    Args:
        settings: with before, kinds, augment and seed.
        more: what else `Triplets` takes.
    """
    asked = (settings.before, settings.kinds, settings.augment, settings.seed)
    return Triplets(dataset, pictures, *asked, encoder.view(dataset), **more)


class Places:
    """The items of a batch in one list, and where each form of each side stands in it; -1: it has none."""

    def __init__(self, batch: TripletBatch):
        self.items: list[Item] = []
        self.of: dict[tuple[str, str], np.ndarray] = {}
        for side in ("query", "positive", "negative"):
            for form in FORMS:
                found = getattr(getattr(batch, side), form)
                place = np.full(len(found), -1)
                for row, item in enumerate(found):
                    if item is not None:
                        place[row] = len(self.items)
                        self.items.append(item)
                self.of[side, form] = place

    def sides(self, form: str) -> np.ndarray:
        """Where the products of a batch stand in this form: all positives, then all negatives."""
        return np.concatenate([self.of["positive", form], self.of["negative", form]])


class TripletTraining:
    """The gradients of one step, as `loop.train` calls it."""

    def __init__(self, encoder: MoonEncoder, triplets: Triplets, settings: TripletSettings):
        self.encoder, self.triplets, self.settings = encoder, triplets, settings
        self.between = Temperature(settings.temperature).to(encoder.device)
        self.within = Temperature(settings.temperature).to(encoder.device)
        self.modules = nn.ModuleDict({"encoder": encoder, "between": self.between, "within": self.within})
        experts = encoder.slots["experts"]
        self.experts = experts if isinstance(experts, ModalityExperts) else None
        self.alarm = DeadObjectives(OBJECTIVES)

    def ids(self, step: int) -> list[str]:
        """The products of a step, chosen ones first."""
        batch = self.triplets.batch(step, self.settings.batch_size)
        codes = np.concatenate([batch.positive.product, batch.negative.product])
        return [self.triplets.products[code].product_id for code in codes]

    def after(self) -> None:
        """Called after every optimizer step."""
        self.between.clamp()
        self.within.clamp()

    def __call__(self, step: int) -> dict[str, float]:
        batch = self.triplets.batch(step, self.settings.batch_size)
        places, loss = Places(batch), TripletLoss(self, batch, step)
        outputs, total = gradients(
            self.encoder, places.items, partial(loss, places), self.settings.mini_batch_tokens
        )
        if loss.omega_O is not None:
            self.alarm.watch(loss.omega_O, step)
        size, place = len(batch.query_code), places.of
        has = np.flatnonzero(place["query", "text"] >= 0)
        figures = {"loss": total.item(), "temperature": self.between().item(), **loss.figures}
        if len(has):
            score = (
                outputs.vectors[place["query", "text"][has]] @ outputs.vectors[places.sides(BOTH)[:size]].T
            )
            figures["accuracy"] = float((score.argmax(1).cpu().numpy() == has).mean())
        return figures


class TripletLoss:
    """The loss of one batch, and what there is to log about it.

    B triplets, N products: the positives, then the negatives; O objectives.
    """

    def __init__(self, training: TripletTraining, batch: TripletBatch, step: int):
        self.training, self.batch, self.step = training, batch, step
        self.settings, self.device = training.settings, training.encoder.device
        self.omega_O: torch.Tensor | None = None
        self.figures: dict[str, float] = {}

    def __call__(self, places: Places, outputs: Outputs) -> torch.Tensor:
        asks = self._asks(places)
        weight_B = self._weights(places, outputs)
        members, losses = [], []
        for objective in OBJECTIVES:
            if objective in INTER:
                form = INTER[objective]
                rows, loss = self._inter(places, outputs, form, asks[form], weight_B)
            else:
                rows, loss = self._intra(places, outputs, objective)
            members.append(rows)
            losses.append(loss)
            self.figures[objective] = loss.item()
        omega_O = self._omega(outputs, members)
        total = (omega_O * torch.stack(losses)).sum()
        return total + self._auxiliary(outputs)

    def _asks(self, places: Places) -> dict[str, np.ndarray]:
        """Which queries are asked in each form: all that have it, or one form each, by the mixture."""
        has = {form: places.of["query", form] >= 0 for form in FORMS}
        if self.settings.inter == "forms":
            return has
        rng = stream(self.settings.seed, "mixture", self.step)
        share_BF = np.stack([has[form] * MIXTURE[form] for form in FORMS], axis=1).astype(float)
        bound_BF = share_BF.cumsum(1)
        drawn = (rng.random(len(share_BF))[:, None] * bound_BF[:, -1:] >= bound_BF).sum(1)
        return {form: drawn == number for number, form in enumerate(FORMS)}

    def _inter(
        self, places: Places, outputs: Outputs, form: str, asks_B: np.ndarray, weight_B: torch.Tensor
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Queries in one form find their product, shown in both, among all products of the batch."""
        batch, triplets = self.batch, self.training.triplets
        place_B = places.of["query", form]
        product = np.concatenate([batch.positive.product, batch.negative.product])
        mask = not_negative(
            batch.positive.product, product, triplets.group, None, batch.query_code, triplets.positives
        )
        everything = torch.ones(len(product), dtype=torch.bool, device=self.device)
        asks = torch.from_numpy(asks_B).to(self.device)
        mask_BN, share_B = only_present(torch.from_numpy(mask).to(self.device), asks, everything)
        loss = matryoshka(
            info_nce,
            outputs.vectors[place_B.clip(0)],
            outputs.vectors[places.sides(BOTH)],
            widths=self.training.encoder.widths,
            temperature=self.training.between(),
            not_negative_BN=mask_BN,
            weight_B=share_B * weight_B,
        )
        return np.concatenate([place_B[asks_B], places.sides(BOTH)]) if asks_B.any() else place_B[:0], loss

    def _intra(self, places: Places, outputs: Outputs, direction: Any) -> tuple[np.ndarray, torch.Tensor]:
        """Picture and title of one product find each other among those of all products of the batch."""
        image, text = places.sides("image"), places.sides("text")
        if self.settings.intra not in ("both", direction):
            return image[:0], outputs.vectors.new_zeros(())
        group, title = (
            np.concatenate([getattr(self.batch.positive, name), getattr(self.batch.negative, name)])
            for name in ("group", "title")
        )
        same = (group[:, None] == group[None]) | (title[:, None] == title[None])
        has = torch.from_numpy((image >= 0) & (text >= 0)).to(self.device)
        same_NN, weight_N = only_present(torch.from_numpy(same).to(self.device), has, has)
        loss = matryoshka(
            intra,
            outputs.vectors[image.clip(0)],
            outputs.vectors[text.clip(0)],
            widths=self.training.encoder.widths,
            temperature=self.training.within(),
            same_NN=same_NN,
            direction=direction,
            weight_N=weight_N,
        )
        rows = np.concatenate([image, text])
        return rows[rows >= 0], loss

    @torch.no_grad()
    def _weights(self, places: Places, outputs: Outputs) -> torch.Tensor:
        """How much each triplet counts, by its gap in the richest form that its query has."""
        richest = places.of["query", BOTH]
        for form in ("image", "text"):
            richest = np.where(richest >= 0, richest, places.of["query", form])
        query, vectors = outputs.vectors[richest], outputs.vectors
        shown = vectors[places.sides(BOTH)].unflatten(0, (2, -1))
        gap_B = (query * (shown[0] - shown[1])).sum(1)
        settings = self.settings
        weight_B = sample_weights(gap_B, self.step, settings.num_steps, settings.reliability)
        self.figures |= {
            "gap": gap_B.mean().item(),
            "down_weighted": (weight_B < 1).float().mean().item(),
            "effective_size": effective_size(weight_B),
        }
        return weight_B

    def _omega(self, outputs: Outputs, members: list[np.ndarray]) -> torch.Tensor:
        """Weights of the objectives; without experts 1 / O each."""
        experts = self.training.experts
        if experts is None or outputs.routing is None:
            return outputs.vectors.new_full((len(members),), 1 / len(members))
        omega_O = objective_weights(outputs.routing, experts.preference, members, self.settings.omega)
        self.omega_O = omega_O.detach()
        names = [f"omega_{objective}" for objective in OBJECTIVES]
        self.figures |= dict(zip(names, self.omega_O.tolist(), strict=True))
        return omega_O

    def _auxiliary(self, outputs: Outputs) -> torch.Tensor:
        """Load balance of the experts, and how decided they are."""
        experts, settings = self.training.experts, self.settings
        if outputs.routing is None:
            return outputs.vectors.new_zeros(())
        balance = load_balance(outputs.routing)
        self.figures["balance"] = balance.item()
        loss = settings.balance * balance
        if experts is None:
            return loss
        undecided = sparsity(experts.preference)
        self.figures["undecided"] = undecided.item()
        return loss + settings.sparsity * undecided - settings.guard * spread(experts.preference)
