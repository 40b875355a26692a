"""Joint contrastive and reinforcement learning: a reasoner writes what makes its own vector find its item.

    L = 1.0 L_GRPO + 0.1 L_InfoNCE

One page, `Reasoning.__call__`: the query is written about G times (rollout); one pass reads all texts and the
items; what each text earned (reward) against its group (advantage) moves the log-probabilities of its tokens,
and the vectors of the same pass go into InfoNCE (loss). Texts are fixed once sampled: nothing is
differentiated through sampling, and the items a rollout is ranked among are detached, so that reinforcement
moves what is written and never the items. N pairs, G rollouts, R = N G, A action tokens, M items, D width.

Paper: MOON3.0 3.4 (GRPO with the contrastive loss paper; recipe analog LREM).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.chain import Bm25
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.writing import write
from moontide.encoder.objectives.grpo import (
    Level,
    advantages,
    attribute_weights,
    clipped_loss,
    false_negatives,
    kl,
    repeated_info_nce,
)
from moontide.encoder.objectives.infonce import Temperature
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.objectives.rewards import (
    Rewards,
    RewardSettings,
    attribute_reward,
    combine,
    format_reward,
    length_reward,
    rank_reward,
    zero_variance_share,
)
from moontide.encoder.stages.coldstart import (
    ReasonedPairsSettings,
    budget_of,
    excluded,
    gate_figures,
    reasoned_pairs,
    sides_of,
)
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, loop_of, train
from moontide.encoder.stages.pairings import Pairing
from moontide.encoder.stages.pairs import Batch, turns_of
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.rollouts import Past, PastItems, RolloutLog, Rollouts, figures_of
from moontide.foundation.runs import Run
from moontide.foundation.seeds import seed_of
from moontide.foundation.settings import Settings

if TYPE_CHECKING:
    from moontide.encoder.model.completion import Completed, Scored, Written
    from moontide.encoder.model.prepared import Prepared

STAGE = "reason"
SILENT = 1e-9  # rewards of a group this close teach nothing
FILLING = -1  # the step whose picture variations the first queue has


class SamplingSettings(Settings):
    """How rollouts are drawn."""

    temperature: float = pydantic.Field(1.0, gt=0, description="1: as the encoder itself would")
    top_p: float = pydantic.Field(1.0, gt=0, le=1, description="share of the likeliest tokens; 1: all")
    candidates: int = pydantic.Field(
        1, ge=1, description="pairs written about for each that is kept; silent groups go first"
    )


class ReasonSettings(ReasonedPairsSettings):
    """Rollouts, rewards and weights of the joint stage; the rest is the pairs' and the loop's."""

    rollouts: int = pydantic.Field(8, ge=1, description="texts of a group")
    sampling: SamplingSettings = pydantic.Field(SamplingSettings(), description="how they are drawn")
    num_updates: int = pydantic.Field(1, ge=1, description="steps on one batch of rollouts")
    rewards: RewardSettings = pydantic.Field(RewardSettings(), description="weights and kinds")
    grpo: float = pydantic.Field(1.0, ge=0, description="weight of reinforcement; 0: ablation")
    infonce: float = pydantic.Field(0.1, ge=0, description="weight of the contrastive loss; 0: ablation")
    ratio_clip: float = pydantic.Field(0.2, gt=0, lt=1, description="eps: how far a ratio may move")
    level: Level = pydantic.Field("token", description="what has a ratio: each token, or the whole text")
    kl: float = pydantic.Field(0.0, ge=0, description="weight of the distance to the encoder at the start")
    queue: int = pydantic.Field(960, ge=0, description="past items beside the batch's; 0: none")
    has_attribute_weights: bool = pydantic.Field(
        False, description="pairs whose attributes answer the query weigh more in InfoNCE (AFMRL)"
    )
    false_negative: float | None = pydantic.Field(
        None, gt=0, le=1, description="cosine to the own item from which on InfoNCE spares another (AFMRL)"
    )

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ReasonSettings:
        if not self.infonce and (not self.grpo or self.reason == "none"):
            raise ValueError(
                "nothing is optimized: give infonce a weight, or grpo and a side to reason about"
            )
        if self.rollouts < 2 and self.grpo and self.reason != "none":
            raise ValueError(f"rollouts must be at least 2 to compare, got {self.rollouts}: or set grpo to 0")
        for name in ("num_steps", "checkpoint_every"):
            if (num := getattr(self, name)) % self.num_updates:
                raise ValueError(f"{name} must be a multiple of num_updates {self.num_updates}, got {num}")
        if self.rewards.is_frozen and self.rewards.k >= self.num_pairs + self.queue:
            raise ValueError(
                f"recall at {self.rewards.k} of {self.num_pairs + self.queue} items is always 1: lower k or "
                "lengthen the queue"
            )
        return self


def reason(
    encoder: MoonEncoder, dataset: Dataset, settings: ReasonSettings, run: Run | None = None
) -> dict[str, Any]:
    """Train a reasoner in place; started again on the same run, it goes on where it was cut off.

    With ranks, each does the whole step: they agree, and save no time.

    Returns:
        figures of `loop.train`, pairs and texts seen.

    Raises:
        DataError: the dataset has nothing to pair, or no attributes. SettingsError: the encoder is no
            reasoner. CheckpointError: the run was made with other settings.
    """
    pictures = Pictures(dataset.images, encoder.pixels)
    step = Reasoning(encoder, dataset, pictures, settings, run)
    asked = [settings.model_dump(mode="json"), dataset.fingerprint(), step.pairs.group.tolist()]
    with encoder.remembering(TRAINING_LAYOUTS):
        step.fill_queues()
        loop = (step.modules, step, loop_of(settings), run, asked, step.after, step.kept, step.ids)
        results = train(STAGE, *loop)
    pairs = settings.num_steps // settings.num_updates * settings.num_pairs
    texts = 0 if settings.reason == "none" else pairs * settings.rollouts * settings.sampling.candidates
    return results | {"pairs": pairs, "texts": texts, "refused": len(pictures.refused)}


class Reasoning:
    """The gradients of one step, as `loop.train` calls it.

    Args:
        run: where samples of the texts go; None: nowhere.
    """

    def __init__(
        self,
        encoder: MoonEncoder,
        dataset: Dataset,
        pictures: Pictures,
        settings: ReasonSettings,
        run: Run | None = None,
    ):
        self.encoder, self.settings = encoder, settings
        self.pairs, self.targets = reasoned_pairs(encoder, dataset, pictures, settings)
        self.budget = budget_of(encoder, settings)
        self.temperature = Temperature(settings.temperature).to(encoder.device)
        self.modules = nn.ModuleDict({"encoder": encoder, "temperature": self.temperature})
        is_compared = settings.reason != "none" and (settings.kl > 0 or settings.rewards.is_frozen)
        self.frozen = copy.deepcopy(encoder).eval().requires_grad_(False) if is_compared else None
        forms = [form_of(pairing, settings.reason) for pairing in self.pairs.pairings]
        self.past = PastItems(forms, settings.queue, encoder.widths[-1], settings.rewards.is_frozen)
        self.past.to(encoder.device)
        self.kept = nn.ModuleDict({"past": self.past})
        if self.frozen is not None:  # a run that goes on is handed another encoder than it started with
            self.kept["frozen"] = self.frozen
        self.plan = self.pairs.plan(settings.num_steps // settings.num_updates)
        self.turns = turns_of(self.plan)
        self.samples = RolloutLog(run, STAGE, settings.log_every)
        self.bm25 = self._bm25() if settings.has_attribute_weights else None
        self.rollouts: Rollouts | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Rollout, reward, advantage, loss; further updates on a batch begin at the pass."""
        number, update = divmod(step, self.settings.num_updates)
        rollouts = self.roll_out(number) if update == 0 else self.rollouts
        assert rollouts is not None
        scored = self.read(self.encoder, rollouts)
        if update == 0:
            rollouts = self.judged(rollouts, scored)
            self.samples.keep(rollouts, step, self.product_ids(rollouts.batch))
            self.remember(rollouts, scored, step)
        self.rollouts = rollouts
        loss, figures = self.loss(rollouts, scored)
        loss.backward()
        figures |= {"loss": loss.item(), "temperature": self.temperature().item()}
        return figures | figures_of(rollouts, self.targets.keys) | gate_figures(scored.gates)

    # --- rollout ----------------------------------------------------------------------------------------

    def roll_out(self, number: int) -> Rollouts:
        """The texts of a batch; of more candidates than are kept, silent groups go first."""
        rollouts = self.written(self.batch(number), number)
        if self.settings.sampling.candidates == 1 or not rollouts.written:
            return rollouts
        with torch.no_grad():
            tried = self.judged(rollouts, self.read(self.encoder, rollouts))
        assert tried.rewards is not None
        total_NG = tried.rewards.total_NG
        order = np.argsort(np.ptp(total_NG, axis=1) < SILENT, kind="stable")
        kept = rollouts.only(np.sort(order[: self.settings.num_pairs]))
        return replace(kept, drawn_silent=zero_variance_share(total_NG))

    def written(self, batch: Batch, number: int) -> Rollouts:
        """A batch completed: G texts about each of one side; about the other one each, or none."""
        settings = self.settings
        asked, others = sides_of(batch, settings.reason)
        prompts = self.encoder.backbone.prompts([*asked, *others])
        own, rest = prompts[: len(asked)], prompts[len(asked) :]
        groups: list[list[Written]] = []
        if settings.reason != "none":
            drawn, generator = settings.sampling, torch.Generator(self.encoder.device)
            generator.manual_seed(seed_of(settings.seed, "rollouts", number))
            more = (settings.rollouts, drawn.temperature, drawn.top_p, generator)
            groups = write(self.encoder, own, self.budget, *more)
        past = self.past.sample(self.form(batch))
        return Rollouts(
            batch, groups, self.completed(own, groups), self.others(rest), self._excluded(batch, past), past
        )

    def completed(self, prompts: Sequence[Prepared], groups: Sequence[Sequence[Written]]) -> list[Completed]:
        """Each prompt with each of its texts; without texts, prompt and `<emb>`."""
        texts = groups or [[None]] * len(prompts)
        backbone = self.encoder.backbone
        return [
            backbone.completed(prompt, one) for prompt, own in zip(prompts, texts, strict=True) for one in own
        ]

    def others(self, prompts: Sequence[Prepared]) -> list[Completed]:
        """The side without rollouts: where both reason, with the text the encoder would write by itself."""
        is_written = self.settings.reason == "both"
        groups = write(self.encoder, prompts, self.budget, temperature=0.0) if is_written else []
        return self.completed(prompts, groups)

    def read(self, encoder: MoonEncoder, rollouts: Rollouts) -> Scored:
        """One pass over all texts, then all items."""
        return encoder.score([*rollouts.completed, *rollouts.others], self.settings.batch_tokens)

    # --- reward, advantage ------------------------------------------------------------------------------

    @torch.no_grad()
    def judged(self, rollouts: Rollouts, scored: Scored) -> Rollouts:
        """With what every text earned, and what the pass says of its tokens before anything is updated."""
        if not rollouts.written:
            return rollouts
        num = len(rollouts.completed)
        reference = None if self.frozen is None else self.read(self.frozen, rollouts)
        judge = reference if reference is not None and self.settings.rewards.is_frozen else scored
        rewards = self.rewards(rollouts, judge.vectors[:num], judge.vectors[num:])
        advantage_NG = advantages(torch.from_numpy(rewards.total_NG).float().to(scored.log_p.device))
        return replace(
            rollouts,
            old_log_p_RA=scored.log_p[:num].detach(),
            reference=reference,
            rewards=rewards,
            advantage_R=advantage_NG.flatten(),
        )

    def rewards(self, rollouts: Rollouts, own_RD: torch.Tensor, item_ND: torch.Tensor) -> Rewards:
        """Form, length, place among items that nothing can move, and agreement with the catalog."""
        settings, texts_NG = self.settings.rewards, rollouts.texts()
        own_NGD = own_RD.unflatten(0, (len(item_ND), -1))
        pool_MD = torch.cat((item_ND, rollouts.past.judged_OD))
        similarity_NGM = (own_NGD @ pool_MD.T).float().cpu().numpy()
        keys, is_cut_NG = self.targets.keys, rollouts.column("finish") == "budget"
        form_NG = format_reward(texts_NG, keys, rollouts.column("has_emb"))
        catalog_N = [self.targets.chain(code) for code in rollouts.batch.product.tolist()]
        own_N, mask_NM = np.arange(len(item_ND)), rollouts.not_negative_NM
        parts = {
            "format": form_NG,
            "length": length_reward(rollouts.column("num_tokens"), self.budget, is_cut_NG),
            "retrieval": rank_reward(similarity_NGM, own_N, settings, mask_NM, form_NG > 0),
            "attribute": attribute_reward(texts_NG, catalog_N, keys),
        }
        return combine(parts, settings)

    # --- loss -------------------------------------------------------------------------------------------

    def loss(self, rollouts: Rollouts, scored: Scored) -> tuple[torch.Tensor, dict[str, float]]:
        """GRPO on the tokens of the texts, InfoNCE on the vectors behind them; a part of weight 0 is none."""
        settings, num = self.settings, len(rollouts.completed)
        contrast, figures = self._contrast(rollouts, scored.vectors[:num], scored.vectors[num:])
        parts = [settings.infonce * contrast] if settings.infonce else []
        if rollouts.written:
            policy, more = self._policy(rollouts, scored.log_p[:num], scored.is_action[:num])
            figures |= more
            parts += [settings.grpo * policy] if settings.grpo else []
        return torch.stack(parts).sum(), figures

    def _contrast(
        self, rollouts: Rollouts, own_RD: torch.Tensor, item_ND: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        num, threshold = len(item_ND), self.settings.false_negative
        own_NGD = own_RD.unflatten(0, (num, -1))
        pool_MD = torch.cat((item_ND, rollouts.past.vectors_OD))
        mask_NM = torch.from_numpy(rollouts.not_negative_NM).to(pool_MD.device)
        if threshold is not None:
            mask_NM = mask_NM | false_negatives(pool_MD, num, threshold)
        weight_N, widths = self._attribute_weights(rollouts.batch), self.encoder.widths
        loss = repeated_info_nce(own_NGD, pool_MD, self.temperature(), mask_NM, weight_N, widths)
        best_NG = (own_NGD.detach() @ item_ND.detach().T).argmax(2)
        is_hit_NG = best_NG == torch.arange(num, device=best_NG.device)[:, None]
        return loss, {"infonce": loss.item(), "accuracy": is_hit_NG.float().mean().item()}

    def _policy(
        self, rollouts: Rollouts, log_p_RA: torch.Tensor, is_action_RA: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        assert rollouts.old_log_p_RA is not None
        assert rollouts.advantage_R is not None
        both = (log_p_RA, rollouts.old_log_p_RA)
        more = (rollouts.advantage_R, is_action_RA, self.settings.ratio_clip, self.settings.level)
        loss, figures = clipped_loss(*both, *more)
        figures["grpo"] = loss.item()
        if rollouts.reference is not None:
            distance = kl(log_p_RA, rollouts.reference.log_p[: len(log_p_RA)], is_action_RA)
            figures["kl"] = distance.item()
            loss = loss + self.settings.kl * distance
        return loss, figures

    # --- data -------------------------------------------------------------------------------------------

    def batch(self, number: int) -> Batch:
        """The pairs of a batch of rollouts, those that may be dropped included."""
        settings = self.settings
        times = 1 if settings.reason == "none" else settings.sampling.candidates
        return self.pairs.batch(self.plan[number], self.turns[number], number, settings.num_pairs * times)

    def product_ids(self, batch: Batch) -> list[str]:
        """The products of a batch."""
        return [self.pairs.products[code].product_id for code in batch.product]

    def ids(self, step: int) -> list[str]:
        """The products of a step."""
        return self.product_ids(self.batch(step // self.settings.num_updates))

    def form(self, batch: Batch) -> str:
        """The form of the side without rollouts."""
        assert batch.pairing is not None
        return form_of(batch.pairing, self.settings.reason)

    def after(self) -> None:
        """Called after every optimizer step."""
        self.temperature.clamp()

    def remember(self, rollouts: Rollouts, scored: Scored, step: int) -> None:
        """Put the items of a batch into its form's queue; it is used from the next batch on."""
        num, judge = len(rollouts.completed), rollouts.reference or scored
        self._push(rollouts.batch, scored.vectors[num:], judge.vectors[num:], step)

    @torch.no_grad()
    def fill_queues(self) -> None:
        """Begin with full queues, as far as the data go: a rank among few items would be a coarse reward."""
        for form in self.past.forms:
            number = next(
                n for n, one in enumerate(self.pairs.pairings) if form == form_of(one, self.settings.reason)
            )
            batch = self.pairs.batch(number, 0, FILLING, self.settings.queue)
            rest = self.others(self.encoder.backbone.prompts(sides_of(batch, self.settings.reason)[1]))
            vectors = self.encoder.score(rest, self.settings.batch_tokens).vectors
            self._push(batch, vectors, vectors, FILLING)

    def _push(self, batch: Batch, vectors: torch.Tensor, judged: torch.Tensor, step: int) -> None:
        codes = (batch.product, self.pairs.group[batch.product], self.pairs.category[batch.product])
        self.past.push(self.form(batch), vectors.detach(), judged.detach(), codes, step)

    def _excluded(self, batch: Batch, past: Past) -> np.ndarray:
        """(N, M) what is no rival: in the batch and among past items."""
        mask_NN = excluded(self.pairs, batch)
        if self.settings.reason == "item":  # rows are items, columns queries
            old_NO = not_negative(batch.product, past.product, self.pairs.group)
            return np.concatenate([mask_NN.T, old_NO], axis=1)
        old = (past.product, self.pairs.group, None, batch.query, self.pairs.positives)
        return np.concatenate([mask_NN, not_negative(batch.product, *old)], axis=1)

    def _bm25(self) -> Bm25:
        codes = np.flatnonzero(self.pairs.is_train).tolist()
        return Bm25([" ".join(self.targets.chain(code).values()) for code in codes])

    def _attribute_weights(self, batch: Batch) -> torch.Tensor | None:
        """How much each pair counts in InfoNCE; None: all the same."""
        if self.bm25 is None:
            return None
        texts = [" ".join(self.targets.chain(code).values()) for code in batch.product.tolist()]
        both = zip(batch.queries, texts, strict=True)
        scores = [self.bm25.score(query.text or "", text) for query, text in both]
        return attribute_weights(torch.tensor(scores)).to(self.encoder.device)


def form_of(pairing: Pairing, reason: str) -> str:
    """The form of the side without rollouts."""
    return pairing.query_form if reason == "item" else pairing.item_form
