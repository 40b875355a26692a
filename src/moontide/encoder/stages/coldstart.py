"""Cold start: a reasoner is shown what to write, and where its vector should lie, in one pass.

    L = 0.1 L_SFT + 1.0 L_InfoNCE

One page: a pair's positive product gives the text, its category and attributes from the catalog; the query is
completed with it, read once, and gives both the loss of the text and the vector behind it. Attributes are
targets, never an input: products are shown as title, picture or both. Without this stage no rollout has the
right form, and reinforcement has nothing to start from. N pairs, A action tokens, D width.

Paper: MOON3.0 3.4, 3.5 (stage and weights analog LREM; targets from the catalog ours).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.chain import chain_keys, chain_of, chain_text
from moontide.encoder.model.encoder import TRAINING_TOKENS, MoonEncoder
from moontide.encoder.model.inputs import Item
from moontide.encoder.objectives.infonce import Temperature, info_nce, matryoshka
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, LoopSettings, loop_of, train
from moontide.encoder.stages.pairings import REASONING
from moontide.encoder.stages.pairs import Batch, TrainingPairs, turns_of
from moontide.encoder.stages.pictures import Pictures
from moontide.foundation.errors import DataError, SettingsError
from moontide.foundation.runs import Run

log = logging.getLogger(__name__)
STAGE = "cold_start"


class ReasonedPairsSettings(LoopSettings):
    """What both stages of a reasoner share: the pairs, and which side of them is written about."""

    warmup_share: float = pydantic.Field(0.03, ge=0, le=1, description="share of the steps that warm up")
    num_pairs: int = pydantic.Field(64, ge=2, description="pairs of a step; all are each other's negatives")
    reason: Literal["none", "query", "item", "both"] = pydantic.Field(
        "query", description="the side written about; the other is prompt and `<emb>`"
    )
    budget: int | None = pydantic.Field(None, ge=1, description="tokens of a text; None: the encoder's own")
    before: datetime | None = pydantic.Field(None, description="events from this moment on are not seen")
    kinds: tuple[str, ...] = pydantic.Field(
        ("click", "cart", "order"), description="what of the log is a pair"
    )
    catalog_share: float = pydantic.Field(0.4, ge=0, le=1, description="steps that pair views of one product")
    augment: float = pydantic.Field(0.5, ge=0, le=1, description="strength of random picture variation")
    temperature: float = pydantic.Field(
        0.05, ge=0.01, le=0.2, description="of InfoNCE: where the learned one starts"
    )
    batch_tokens: int = pydantic.Field(
        TRAINING_TOKENS, ge=1, description="tokens of one pass, padding included; the gradient is the same"
    )
    seed: int = pydantic.Field(0, description="of batches, variations and sampling")


class ColdStartSettings(ReasonedPairsSettings):
    """Weights of the two losses; the rest is the pairs' and the loop's."""

    sft: float = pydantic.Field(0.1, ge=0, description="weight of the text's loss")
    infonce: float = pydantic.Field(1.0, ge=0, description="weight of the contrastive loss")

    @pydantic.model_validator(mode="after")
    def _learns(self) -> ColdStartSettings:
        if not self.infonce and (not self.sft or self.reason == "none"):
            raise ValueError("nothing is optimized: give infonce a weight, or sft and a side to reason about")
        return self


def cold_start(
    encoder: MoonEncoder, dataset: Dataset, settings: ColdStartSettings, run: Run | None = None
) -> dict[str, Any]:
    """Train a reasoner in place; started again on the same run, it goes on where it was cut off.

    Returns:
        figures of `loop.train`, pairs seen, and the share of targets cut to the budget.

    Raises:
        DataError: the dataset has nothing to pair, or no attributes to write. SettingsError: the encoder is
            no reasoner. CheckpointError: the run was made with other settings.
    """
    pictures = Pictures(dataset.images, encoder.pixels)
    step = ColdStart(encoder, dataset, pictures, settings)
    asked = [settings.model_dump(mode="json"), dataset.fingerprint(), step.pairs.group.tolist()]
    some = [done.prepared for number in range(len(step.pairs.pairings)) for done in step.some(number)]
    encoder.center(some)
    with encoder.remembering(TRAINING_LAYOUTS):
        results = train(STAGE, step.modules, step, loop_of(settings), run, asked, step.after, None, step.ids)
    figures = {"pairs": settings.num_steps * settings.num_pairs, "targets_cut": step.targets.share_cut}
    return results | figures | {"refused": len(pictures.refused)}


class ColdStart:
    """The gradients of one step, as `loop.train` calls it."""

    def __init__(
        self, encoder: MoonEncoder, dataset: Dataset, pictures: Pictures, settings: ColdStartSettings
    ):
        self.encoder, self.settings = encoder, settings
        self.pairs, self.targets = reasoned_pairs(encoder, dataset, pictures, settings)
        self.temperature = Temperature(settings.temperature).to(encoder.device)
        self.modules = nn.ModuleDict({"encoder": encoder, "temperature": self.temperature})
        self.plan = self.pairs.plan(settings.num_steps)
        self.turns = turns_of(self.plan)

    def batch(self, step: int) -> Batch:
        """The pairs of a step."""
        return self.pairs.batch(self.plan[step], self.turns[step], step, self.settings.num_pairs)

    def ids(self, step: int) -> list[str]:
        """The products of a step."""
        return [self.pairs.products[code].product_id for code in self.batch(step).product]

    def __call__(self, step: int) -> dict[str, float]:
        settings, batch = self.settings, self.batch(step)
        num = len(batch.queries)
        scored = self.encoder.score(self.completed(batch), settings.batch_tokens)
        query_ND, item_ND = scored.vectors[:num], scored.vectors[num:]
        mask_NN = torch.from_numpy(excluded(self.pairs, batch)).to(item_ND.device)
        both, rest = (query_ND, item_ND), {"temperature": self.temperature(), "not_negative_BN": mask_NN}
        contrast = matryoshka(info_nce, *both, widths=self.encoder.widths, **rest)
        text = text_loss(scored.log_p, scored.is_action)
        loss = settings.sft * text + settings.infonce * contrast
        loss.backward()
        hit = (query_ND @ item_ND.T).argmax(1) == torch.arange(num, device=item_ND.device)
        figures = {"loss": loss.item(), "sft": text.item(), "infonce": contrast.item()}
        figures |= {"accuracy": hit.float().mean().item(), "temperature": self.temperature().item()}
        return figures | gate_figures(scored.gates)

    def completed(self, batch: Batch) -> list[Any]:
        """Queries, then items, the side that is reasoned about with its target text."""
        reason = self.settings.reason
        sides = ((batch.queries, reason in ("query", "both")), (batch.items, reason in ("item", "both")))
        prompts = iter(self.encoder.backbone.prompts([*batch.queries, *batch.items]))
        found = []
        for items, is_written in sides:
            texts = self.targets.texts(batch.product) if is_written else [None] * len(items)
            found += [complete_with(self.encoder, next(prompts), text) for text in texts]
        return found

    def some(self, number: int, num: int = 32) -> list[Any]:
        """Completions of a pairing, as the first steps see them."""
        return self.completed(self.pairs.batch(number, 0, 0, num))

    def after(self) -> None:
        """Called after every optimizer step."""
        self.temperature.clamp()


class Targets:
    """What a reasoner should write about each product: its catalog values, as many as the budget holds.

    Later keys are left out of a text that is too long: they are the rarer ones. A product without any value
    has no text; it is shown as prompt and `<emb>`.

    Paper: MOON3.0 3.5 (targets from the catalog ours).

    Args:
        pairs: of the products.
        budget: tokens of a text, without `<emb>`.

    Raises:
        DataError: no train product has an attribute.
    """

    def __init__(self, encoder: MoonEncoder, pairs: TrainingPairs, budget: int, path: Any):
        self.keys = chain_keys(pairs.products)
        self.budget, self._backbone, self._products = budget, encoder.backbone, pairs.products
        if not any(pairs.products[code].attributes for code in np.flatnonzero(pairs.is_train)):
            raise DataError(
                f"{path} has no attributes to reason about: no train product has one; import a catalog with "
                "attributes, or train with posttrain"
            )
        self._texts: dict[int, str | None] = {}
        self._num_cut = 0

    def chain(self, code: int) -> dict[str, str]:
        """All that the catalog says about a product."""
        return chain_of(self._products[code], self.keys)

    def text(self, code: int) -> str | None:
        """The target of a product."""
        if code not in self._texts:
            chain = self.chain(code)
            whole = len(chain)
            while chain and len(self._backbone.tokens(chain_text(chain))) > self.budget:
                chain.popitem()
            self._num_cut += len(chain) < whole
            self._texts[code] = chain_text(chain) if chain else None
        return self._texts[code]

    def texts(self, codes: np.ndarray) -> list[str | None]:
        """The targets of products."""
        return [self.text(code) for code in codes.tolist()]

    @property
    def share_cut(self) -> float:
        """Of the targets asked for so far those that had to be shortened."""
        return self._num_cut / max(1, len(self._texts))


def reasoned_pairs(
    encoder: MoonEncoder, dataset: Dataset, pictures: Pictures, settings: ReasonedPairsSettings
) -> tuple[TrainingPairs, Targets]:
    """The pairs that the settings ask for, and what the catalog says about their products.

    Raises:
        SettingsError: the encoder is no reasoner. DataError: nothing to pair, or no attributes.
    """
    if not encoder.is_reasoner:
        raise SettingsError(
            "the encoder does not reason: make a reasoner of it first (encoder.model.reasoner.make_reasoner)"
        )
    if settings.reason != encoder.backbone.settings.reasons:
        log.warning(
            "trained to reason about %s, served to reason about %s: the two should agree",
            settings.reason, encoder.backbone.settings.reasons,
        )  # fmt: skip
    pairs = TrainingPairs(
        dataset,
        pictures,
        settings.before,
        settings.catalog_share,
        settings.augment,
        settings.seed,
        REASONING,
        encoder.view(dataset),
        settings.kinds,
    )
    return pairs, Targets(encoder, pairs, budget_of(encoder, settings), dataset.path)


def budget_of(encoder: MoonEncoder, settings: ReasonedPairsSettings) -> int:
    """Tokens of a text: as set, else as the encoder is served."""
    return settings.budget or encoder.backbone.settings.reasoning_tokens


def complete_with(encoder: MoonEncoder, prompt: Any, text: str | None) -> Any:
    """A prompt with a text that is given; without one, prompt and `<emb>`."""
    backbone = encoder.backbone
    return backbone.completed(prompt, None) if text is None else backbone.completed_text(prompt, text)


def excluded(pairs: TrainingPairs, batch: Batch) -> np.ndarray:
    """(N, N) True where an item is no negative for a query: the same product, or chosen for it as well."""
    return not_negative(
        batch.product, batch.product, pairs.group, batch.content, batch.query, pairs.positives
    )


def text_loss(log_p_NA: torch.Tensor, is_action_NA: torch.Tensor) -> torch.Tensor:
    """Mean over all tokens of the texts of minus their log-probability; 0 where there is no text.

    Paper: MOON3.0 3.4, L_SFT: on the completion only (analog LREM).
    """
    return -log_p_NA.masked_fill(~is_action_NA, 0.0).sum() / is_action_NA.sum().clamp(min=1)


def gate_figures(gates_N3: torch.Tensor | None) -> dict[str, float]:
    """Mean gates of the fusion, for the log; nothing without one."""
    if gates_N3 is None:
        return {}
    means = gates_N3.detach().float().mean(0).tolist()
    return {f"gate_{name}": gate for name, gate in zip(("emb", "visual", "text"), means, strict=True)}


def sides_of(batch: Batch, reason: str) -> tuple[Sequence[Item], Sequence[Item]]:
    """The side that rollouts are written about, and the other: items come first where only they reason."""
    return (batch.items, batch.queries) if reason == "item" else (batch.queries, batch.items)
