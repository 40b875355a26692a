"""One encoder of a table: how it comes about from a start that all share, trained and measured.

start            a checkpoint that all cells of a table begin with, made once
EncoderPlan      experts, crops, cleaning, reasoning and stages of one variant
train_cell       plan, seed -> outcome of every query, for `ablation.run_ablation`
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydantic
import torch

from moontide.catalog.augment import Augmented
from moontide.catalog.dataset import Dataset
from moontide.catalog.entities import Gazetteer
from moontide.catalog.splits import TEST_SHARE, cutoff
from moontide.encoder.chain import chain_keys
from moontide.encoder.evaluate import EvaluateSettings, evaluate, headline
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.experts.guided import GuidedExperts, GuidedSettings
from moontide.encoder.model.experts.modality import ModalityExperts, ModalitySettings
from moontide.encoder.model.inputs import Crops, ProductView, render_text
from moontide.encoder.model.reasoner import ReasoningSettings, make_reasoner
from moontide.encoder.pool import Abilities
from moontide.encoder.scorecard import Scorecard
from moontide.encoder.stages.cleaning import CleaningSettings, clean
from moontide.encoder.stages.coldstart import ColdStartSettings, cold_start
from moontide.encoder.stages.csft import CsftSettings, train_csft
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.posttrain import PosttrainSettings, posttrain
from moontide.encoder.stages.reason import ReasonSettings, reason
from moontide.encoder.stages.rows import groups_and_split, num_exposures
from moontide.encoder.stages.triplets import TripletSettings, train_triplets
from moontide.encoder.twotower import TwoTower, TwoTowerSettings, new_two_tower
from moontide.foundation.runs import Run
from moontide.foundation.settings import Settings, fingerprint
from moontide.foundation.storage import new_folder, write_bytes, write_json
from moontide.studies.outcomes import Column
from moontide.studies.reasoning import measure

log = logging.getLogger(__name__)
SHOWN_AT_ONCE = 8  # pictures of an item a cell may need: two and their crops, or one and what was added


class EncoderPlan(Settings):
    """One variant; what is None or False is left out."""

    two_tower: TwoTowerSettings | None = pydantic.Field(
        None, description="a plain dual encoder in place of the start"
    )
    tower_start: PosttrainSettings | None = pydantic.Field(
        None,
        description="what a dual encoder was trained on before, once for all cells; None: random weights",
    )
    guided: GuidedSettings | None = pydantic.Field(None, description="MOON's experts")
    modality: ModalitySettings | None = pydantic.Field(None, description="MOON2.0's experts")
    crops: Crops = pydantic.Field("none", description="products are shown with their regions, or only these")
    has_augmented: bool = pydantic.Field(False, description="enriched titles, added pictures; triplets alone")
    cleaning: CleaningSettings | None = pydantic.Field(None, description="before the last stage of pairs")
    pairs: tuple[PosttrainSettings, ...] = pydantic.Field((), description="stages on pairs, in order")
    csft: CsftSettings | None = pydantic.Field(None, description="MIM's stage")
    triplets: TripletSettings | None = pydantic.Field(None, description="MOON2.0's stage")
    reasoner: ReasoningSettings | None = pydantic.Field(
        None, description="the start made to write before its vector"
    )
    cold_start: ColdStartSettings | None = pydantic.Field(None, description="MOON3.0's supervised stage")
    reason: ReasonSettings | None = pydantic.Field(None, description="MOON3.0's stage of reinforcement")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> EncoderPlan:
        if self.guided is not None and self.modality is not None:
            raise ValueError("guided and modality experts fill the same slot: choose one")
        if self.two_tower is not None and (
            self.guided or self.modality or self.triplets or self.crops != "none"
        ):
            raise ValueError("a two-tower has neither experts, crops nor triplets: leave them out")
        if self.cleaning is not None and not self.pairs:
            raise ValueError("cleaning needs a stage on pairs")
        if self.tower_start is not None and self.two_tower is None:
            raise ValueError("tower_start needs a two_tower: the others begin with the shared start")
        if self.has_augmented and self.triplets is None:
            raise ValueError("has_augmented needs the stage on triplets: no other shows what was added")
        others = (self.two_tower, self.guided, self.modality, self.csft, self.triplets)
        if self.reasoner is not None and any(one is not None for one in others):
            raise ValueError("a reasoner has neither towers, experts, csft nor triplets: leave them out")
        if self.reasoner is None and (self.cold_start is not None or self.reason is not None):
            raise ValueError("cold_start and reason train a reasoner: give one")
        return self


def make_start(
    path: Path, dataset: Dataset, encoder: Callable[[], MoonEncoder], stages: PosttrainSettings, seed: int
) -> Path:
    """The checkpoint all cells begin with, made once: pictures and titles of one product aligned (MIM 3.1).

    Paper: MIM 3.1, pre-training by modal alignment (paper reported; image-title pairs are ours).
    """
    if not (path / "modules.json").exists():
        model = encoder()
        settings = stages.but(before=period_start(dataset), seed=seed)
        results = posttrain(model, dataset, settings, Run.start(path.with_name(f"{path.name}-run"), "start",
                            settings.model_dump(mode="json"), seed, "cpu"))  # fmt: skip
        with new_folder(path, replace=True) as folder:
            model.save(folder)
            write_json(folder / "start.json", {"pairs": results["pairs"], "seconds": results["seconds"]})
    return path


def catalog_texts(dataset: Dataset, before: datetime | None) -> list[str]:
    """What the tokenizer of a new encoder learns from: train products, and what was asked before a moment."""
    products = dataset.products()
    _, is_train = groups_and_split(dataset, [product.product_id for product in products])
    texts = [render_text(product)[0] for product, wanted in zip(products, is_train, strict=True) if wanted]
    events = dataset.table("events", ["at", "query_id"])
    if before is not None:
        events = events.filter(pc.less(events.column("at"), pa.scalar(before, events.column("at").type)))
    asked = set(events.column("query_id").to_pylist())
    return texts + [query.text for query in dataset.queries() if query.text and query.query_id in asked]


def period_start(dataset: Dataset, share: float = TEST_SHARE) -> datetime | None:
    """The moment the test period begins, the last `share` of impressions; None where nothing was shown."""
    events = dataset.table("events", ["kind", "at"])
    is_shown = pc.any(pc.equal(events.column("kind"), "impression")).as_py()
    return cutoff(events, share) if is_shown else None


def train_cell(
    plan: EncoderPlan, seed: int, folder: Path, dataset: Dataset, start: Path, asked: EvaluateSettings
) -> dict[str, Any]:
    """Train one variant and put the benchmark's questions to it; what was cut off goes on.

    Returns:
        see `ablation.run_ablation`; `figures` has what each stage returned, and of a reasoner its texts,
        costs and variants (`reasoning.measure`), its hits also each attribute key's.
    """
    run = Run.start(folder, "cell", {"plan": plan.model_dump(mode="json"), "start": str(start)}, seed, "cpu")
    before, began = period_start(dataset), time.process_time()
    encoder = new_encoder(plan, seed, dataset, start)
    view = encoder.view(dataset)
    pairs, figures = run_stages(plan, encoder, dataset, run, before, seed)
    trained = time.process_time() - began
    asked = asked.but(before=before)
    if plan.reasoner is not None:
        assert isinstance(encoder, MoonEncoder)
        keys = chain_keys(dataset.products())
        card, figures["reasoning"] = measure(dataset, encoder, view, asked, keys)
    else:
        card = evaluate(dataset, encoder.encode_items, view, asked, Abilities())
    return {
        **answers(card, plan.reasoner is not None),
        "pairs": pairs,
        "core_seconds": trained,
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "figures": figures,
    }


def run_stages(
    plan: EncoderPlan,
    encoder: MoonEncoder | TwoTower,
    dataset: Dataset,
    run: Run,
    before: datetime | None,
    seed: int,
) -> tuple[int, dict[str, Any]]:
    """Train an encoder in place through a plan's stages; what was cut off goes on.

    Returns:
        pairs seen, and what each stage returned.
    """
    figures: dict[str, Any] = {}
    for number, stage in enumerate(plan.pairs):
        rows = None
        if plan.cleaning is not None and number == len(plan.pairs) - 1:
            view = encoder.view(dataset)
            rows, figures["cleaning"] = _cleaned(plan.cleaning, encoder, dataset, stage, before, view)
        name = f"pairs{number}"
        figures[name] = posttrain(encoder, dataset, stage.but(before=before, seed=seed), run, rows, name)
    if plan.csft is not None:
        figures["csft"] = train_csft(encoder, dataset, plan.csft.but(before=before, seed=seed), run)
    if plan.triplets is not None:
        assert isinstance(encoder, MoonEncoder)
        added = Augmented.read(dataset).as_mapping() if plan.has_augmented else None
        settings = plan.triplets.but(before=before, seed=seed)
        figures["triplets"] = train_triplets(encoder, dataset, settings, run, added)
    if plan.cold_start is not None:
        assert isinstance(encoder, MoonEncoder)
        settings = plan.cold_start.but(before=before, seed=seed)
        figures["cold_start"] = cold_start(encoder, dataset, settings, run)
    if plan.reason is not None:
        assert isinstance(encoder, MoonEncoder)
        figures["reason"] = reason(encoder, dataset, plan.reason.but(before=before, seed=seed), run)
    return sum(one["pairs"] for one in figures.values() if isinstance(one, dict)), figures


SEVEN = ("t->mm", "i->mm", "mm->mm", "t->i", "i->t", "class", "attr")
"""MOON2.0's columns: recall@10 among held-out products, accuracy at the finest common level, of all keys."""


COLUMNS = tuple(Column(name, name) for name in SEVEN)


def attribute_columns(keys: Sequence[str]) -> tuple[Column, ...]:
    """A column for the accuracy of each attribute key; a dataset without the key has a dash."""
    return tuple(Column(f"attr: {key}", f"attr: {key}") for key in keys)


def answers(card: Scorecard, has_keys: bool = False) -> dict[str, Any]:
    """The outcome of every query in the seven columns that the dataset has, for `ablation.run_ablation`.

    Args:
        has_keys: with those of every attribute key by itself, see `attribute_columns`.

    Returns:
        hits and queries by column; a query's id is its product group: they are drawn together.
    """
    hits, queries = {}, {}
    for column, row in headline(card).items():
        if row is not None:
            found = card.answers[row["task"], row["direction"], row["gallery"]]
            hits[column], queries[column] = found.values[row["metric"]], found.group
    for (task, key, _), found in card.answers.items():
        if has_keys and task == "attributes" and key != "all keys":
            hits[f"attr: {key}"], queries[f"attr: {key}"] = found.values["accuracy"], found.group
    return {"hits": hits, "queries": queries}


def new_encoder(plan: EncoderPlan, seed: int, dataset: Dataset, start: Path) -> MoonEncoder | TwoTower:
    """The encoder a plan begins with: a dual encoder, or the start with its experts, crops or reasoner."""
    if plan.two_tower is not None:
        return _new_tower(plan.two_tower, plan.tower_start, seed, dataset, start)
    encoder = MoonEncoder(start, device="cpu").shown(crops=plan.crops, max_images=SHOWN_AT_ONCE)
    if plan.guided is not None:
        encoder.fill(experts=GuidedExperts.of(encoder.backbone, plan.guided, seed))
    if plan.modality is not None:
        encoder.fill(experts=ModalityExperts.of(encoder.backbone, plan.modality, seed))
    return encoder if plan.reasoner is None else make_reasoner(encoder, plan.reasoner, seed)


def _new_tower(
    settings: TwoTowerSettings, stage: PosttrainSettings | None, seed: int, dataset: Dataset, start: Path
) -> TwoTower:
    """A dual encoder; where it has a stage of its own before, from a file beside the shared start."""
    if stage is None:
        return new_two_tower(dataset, settings.but(seed=seed))
    tower, stage = new_two_tower(dataset, settings), stage.but(before=period_start(dataset))
    asked = [settings.model_dump(mode="json"), stage.model_dump(mode="json"), dataset.fingerprint()]
    file = start.with_name(f"{start.name}-tower-{fingerprint(asked)}.pt")
    if not file.exists():
        posttrain(tower, dataset, stage)
        buffer = io.BytesIO()
        torch.save(tower.state_dict(), buffer)
        write_bytes(file, buffer.getvalue())
    tower.load_state_dict(torch.load(file, weights_only=True))
    return tower


def _cleaned(
    settings: CleaningSettings,
    encoder: Any,
    dataset: Dataset,
    stage: PosttrainSettings,
    before: datetime | None,
    view: ProductView,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The rows that the last stage draws, and rows in and out of every step."""
    pictures = Pictures(dataset.images, encoder.pixels)
    pairs = TrainingPairs(dataset, pictures, before, kinds=stage.kinds, view=view)
    gazetteer = Gazetteer.of(pairs.products)
    shown = num_exposures(dataset, [product.product_id for product in pairs.products], before)
    report = clean(pairs, shown, encoder.encode_items, lambda text: len(gazetteer.find(text)), settings)
    return report.rows, [vars(step) for step in report.steps]
