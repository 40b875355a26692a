"""The whole chain of one run, stage by stage; what `moontide demo` and `moontide run` call.

    market ─► pretrain ─► posttrain ─► refine ─► twotower ─► retrieval
                                                     ─► embed ─► clicks ─► export ─► experiment ─► report

Every stage leaves its results in RUN/stages and its products beside them; a stage that has ended is not run
again, and one that was cut off goes on from its last checkpoint. What a dataset lacks (a log, a hidden
truth) leaves out the stages that need it, and the report says so.

    RUN/dataset   RUN/encoder   RUN/center   RUN/samples   RUN/vectors   RUN/ranking/ARM   RUN/report.html
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pydantic

from moontide.catalog.dataset import Dataset
from moontide.center.embed import EmbedSettings, embed_catalog
from moontide.center.store import VectorStore
from moontide.encoder.benchmark import retrieval_table
from moontide.encoder.model.backbone import BackboneSettings
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder
from moontide.encoder.stages.posttrain import PosttrainSettings, posttrain
from moontide.encoder.stages.pretrain import PretrainSettings, pretrain
from moontide.encoder.twotower import TwoTower, TwoTowerSettings, train_two_tower
from moontide.foundation.device import pick_device, threads
from moontide.foundation.errors import DataError
from moontide.foundation.runs import Run
from moontide.foundation.settings import Settings
from moontide.foundation.storage import new_folder
from moontide.market.build import build_market
from moontide.market.settings import MarketSettings
from moontide.market.world import World
from moontide.ranking.content import ContentTable
from moontide.ranking.export import export_model
from moontide.ranking.heads import ContentSettings
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import SampleSettings, build_samples
from moontide.ranking.train import TrainSettings
from moontide.studies.abtest import ab_test
from moontide.studies.clicks import all_scores, arms_of, click_results, train_arms
from moontide.studies.encoders import EncoderPlan, catalog_texts, period_start, run_stages
from moontide.studies.experiment import ExperimentSettings
from moontide.studies.trials import click_targets

log = logging.getLogger(__name__)


class ChainSettings(Settings):
    """Everything a run is decided by; recipes fill it."""

    market: MarketSettings | None = pydantic.Field(
        None, description="market to build; None: a dataset is given"
    )
    encoder: EncoderSettings = pydantic.Field(EncoderSettings(), description="shape of a new encoder")
    backbone: str | None = pydantic.Field(
        None, description="folder or Hub id of a published backbone instead"
    )
    lora_rank: int = pydantic.Field(0, ge=0, description="of a published backbone: 0 trains all weights")
    pretrain: PretrainSettings | None = pydantic.Field(
        None, description="questions on the catalog; None: none"
    )
    posttrain: PosttrainSettings = pydantic.Field(PosttrainSettings(), description="pairs and loss")
    refine: EncoderPlan | None = pydantic.Field(
        None, description="stages after post-training: cleaning and a second stage, or C-SFT; None: none"
    )
    two_tower: TwoTowerSettings | None = pydantic.Field(
        None, description="baseline trained beside the encoder for as long as that took; None: none"
    )
    max_gallery: int | None = pydantic.Field(None, description="products retrieval is measured on at most")
    embed: EmbedSettings = pydantic.Field(EmbedSettings(), description="which vectors are made")
    samples: SampleSettings = pydantic.Field(SampleSettings(), description="how the log becomes samples")
    clicks: ClickSettings = pydantic.Field(ClickSettings(), description="what all click models share")
    content: ContentSettings = pydantic.Field(
        ContentSettings(), description="what the content arms take from vectors"
    )
    training: TrainSettings = pydantic.Field(TrainSettings(), description="how click models are trained")
    arms: tuple[str, ...] = pydantic.Field(
        ("id", "id_attributes", "content", "permuted"), description="click models"
    )
    exports: bool = pydantic.Field(True, description="the content model as a graph for the server")
    experiment: ExperimentSettings | None = pydantic.Field(None, description="A/B in the market; None: none")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> ChainSettings:
        arms_of(self.clicks, self.arms, self.content)
        if self.refine is not None and self.refine.two_tower is not None:
            raise ValueError("refine goes on with the run's own encoder: leave two_tower out of it")
        if self.refine is not None and self.refine.reasoner is not None:
            raise ValueError("the chain has no stage that makes a reasoner: leave it out of refine")
        if self.experiment is not None and not {"id", "content"} <= set(self.arms):
            raise ValueError(f"an experiment needs the arms id and content, got {', '.join(self.arms)}")
        if self.lora_rank and self.backbone is None:
            raise ValueError("lora_rank needs a backbone: name a published model, or set it to 0")
        return self


def run_chain(
    path: Path | str,
    recipe: str,
    settings: ChainSettings,
    seed: int = 0,
    dataset: Path | str | None = None,
    with_report: bool = True,
) -> Path:
    """Run the chain into the folder `path`, or go on with it.

    Args:
        recipe: name for the record.
        dataset: a user's dataset folder; None builds `settings.market`.
        with_report: write report.html when all stages have ended.

    Returns:
        the path of report.html.

    Raises:
        CheckpointError: `path` holds a run with other settings.
        DataError: the dataset has nothing to train on.
    """
    asked = settings.model_dump(mode="json")
    if dataset is not None:
        opened = Dataset.open(dataset)
        opened.require("run", "products", "images")
        asked |= {"dataset": str(Path(dataset).resolve()), "fingerprint": opened.fingerprint()}
    elif settings.market is None:
        raise DataError("nothing to run on: give a dataset")
    run = Run.start(path, recipe, asked, seed, str(pick_device()))
    chain = Chain(run, settings, seed)
    with threads():
        for name, stage in chain.stages():
            if run.results(name) is None:
                log.info("— %s", name)
                began = time.monotonic()
                results = stage()
                results["stage_seconds"] = time.monotonic() - began
                results["peak_bytes"] = peak_bytes()
                run.finish(name, results)
    if not with_report:
        return run.path
    from moontide.studies.findings import write_findings  # reads what all stages left; draws figures

    return write_findings(chain)


class Chain:
    """The stages of one run; each reads what the stages before it left in the folder."""

    def __init__(self, run: Run, settings: ChainSettings, seed: int):
        self.run, self.settings, self.seed = run, settings, seed

    def stages(self) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """Name and function of the stages this run has, in order."""
        settings = self.settings
        stages: list[tuple[str, Callable[[], dict[str, Any]]]] = []
        if settings.market is not None:
            stages.append(("market", self.build))
        if settings.pretrain is not None:
            stages.append(("pretrain", self.pretrain))
        stages.append(("posttrain", self.posttrain))
        if settings.refine is not None:
            stages.append(("refine", self.refine))
        if settings.two_tower is not None:
            stages.append(("twotower", self.train_two_tower))
        stages += [("retrieval", self.measure_retrieval), ("embed", self.embed)]
        stages.append(("clicks", self.train_clicks))
        if settings.exports:
            stages.append(("export", self.export))
        if settings.experiment is not None:
            stages.append(("experiment", self.experiment))
        return stages

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset of the run."""
        return Dataset.open(self.run.facts["settings"].get("dataset") or self.run.path / "dataset")

    @cached_property
    def cutoff(self) -> datetime | None:
        """The moment the test period begins; None where nothing was shown."""
        return period_start(self.dataset, self.settings.samples.test_share)

    @property
    def has_truth(self) -> bool:
        """Whether the dataset is a simulated market."""
        return (self.dataset.path / "truth" / "impressions.parquet").exists()

    def build(self) -> dict[str, Any]:
        """Build the market."""
        assert self.settings.market is not None
        dataset = build_market(self.run.path / "dataset", self.settings.market, self.seed, replace=True)
        return {"rows": dataset.info["rows"]}

    def pretrain(self) -> dict[str, Any]:
        """A new encoder answers questions on the catalog."""
        assert self.settings.pretrain is not None
        encoder = self._new_encoder()
        settings = self.settings.pretrain.but(before=self.cutoff, seed=self.seed)
        results = pretrain(encoder, self.dataset, settings, self.run)
        self._save(encoder, self.run.path / "checkpoints" / "pretrained")
        return results

    def posttrain(self) -> dict[str, Any]:
        """Queries and what was chosen for them move together."""
        if self.settings.pretrain is None:
            encoder = self._new_encoder()
        else:
            encoder = MoonEncoder(self.run.path / "checkpoints" / "pretrained")
        settings = self.settings.posttrain.but(before=self.cutoff, seed=self.seed)
        results = posttrain(encoder, self.dataset, settings, self.run)
        is_last = self.settings.refine is None
        self._save(encoder, self.run.path / ("encoder" if is_last else "checkpoints/posttrained"))
        return results | _facts(encoder)

    def refine(self) -> dict[str, Any]:
        """The stages after post-training."""
        assert self.settings.refine is not None
        encoder = MoonEncoder(self.run.path / "checkpoints" / "posttrained")
        pairs, figures = run_stages(
            self.settings.refine, encoder, self.dataset, self.run, self.cutoff, self.seed
        )
        self._save(encoder, self.run.path / "encoder")
        seconds = sum(one.get("seconds", 0.0) for one in figures.values() if isinstance(one, dict))
        return {"pairs": pairs, "seconds": seconds, "figures": figures, **_facts(encoder)}

    def train_two_tower(self) -> dict[str, Any]:
        """The plain baseline, for as long as the encoder was trained; its retrieval table."""
        assert self.settings.two_tower is not None
        stages = [self.run.results(name) for name in ("pretrain", "posttrain", "refine")]
        seconds = sum(results["seconds"] for results in stages if results)
        settings = self.settings.two_tower.but(seconds=seconds, seed=self.seed)
        model, results = train_two_tower(self.dataset, settings, before=self.cutoff)
        return results | {"table": self._retrieval(model)}

    def measure_retrieval(self) -> dict[str, Any]:
        """Recall on held-out and new products."""
        encoder = MoonEncoder(self.run.path / "encoder")
        return {"table": self._retrieval(encoder)}

    def _retrieval(self, encoder: MoonEncoder | TwoTower) -> list[dict[str, Any]]:
        view, limit = encoder.view(self.dataset), self.settings.max_gallery
        return retrieval_table(self.dataset, encoder.encode_items, self.cutoff, max_gallery=limit, view=view)

    def embed(self) -> dict[str, Any]:
        """Vectors of products, creatives and queries; the version is made active."""
        encoder = MoonEncoder(self.run.path / "encoder")
        store = VectorStore.open(self.run.path / "center")
        report = embed_catalog(self.dataset, encoder, store, settings=self.settings.embed)
        store.activate(report.version)
        counts = {kind: {"vectors": c.encoded + c.copied + c.reused, "failed": c.failed}
                  for kind, c in report.counts.items()}  # fmt: skip
        return {"version": report.version, "counts": counts, "lines": report.lines()}

    def train_clicks(self) -> dict[str, Any]:
        """Click models on the log, compared on its last part."""
        if self.cutoff is None:
            return {"skipped": f"{self.dataset.path.name} has no impressions: no click model, no experiment"}
        folder, settings = self.run.path, self.settings
        samples = build_samples(self.dataset, settings.samples)
        samples.save(folder / "samples")
        version = VectorStore.open(folder / "center", must_exist=True).active()
        ContentTable.read(self.store, samples.entities, version).save(folder / "vectors")
        places = (folder / "samples", folder / "vectors", folder / "ranking")
        arms = arms_of(settings.clicks, settings.arms, settings.content)
        trained = train_arms(arms, *places, settings.training, self.seed, self.run)
        truth = samples.join(self.dataset.truth("impressions"), "attraction") if self.has_truth else None
        scores = all_scores(samples, trained, truth)
        speeds = {name: model.metrics["samples_per_second"] for name, model in trained.items()}
        return click_results(samples, scores) | {"samples": len(samples), "samples_per_second": speeds}

    def export(self) -> dict[str, Any]:
        """The content model as the graph that a server runs."""
        folder = self.run.path / "ranking" / "content"
        if not folder.is_dir():
            return {"skipped": "there is no click model on content"}
        return {"file": export_model(folder).name}

    @property
    def store(self) -> VectorStore:
        """The run's representation center."""
        return VectorStore.open(self.run.path / "center", must_exist=True)

    def experiment(self) -> dict[str, Any]:
        """The ID model against the content model in the market."""
        if not self.has_truth:
            return {"skipped": f"{self.dataset.path.name} is no simulated market: no experiment"}
        assert self.settings.experiment is not None
        world = World.open(self.dataset)
        policies = [make(world) for make in click_targets(self.run.path, ("id", "content")).values()]
        return ab_test(self.dataset, policies, world, self.settings.experiment, self.seed)

    def _new_encoder(self) -> MoonEncoder:
        settings = self.settings
        if settings.backbone is not None:
            backbone = BackboneSettings(lora_rank=settings.lora_rank)
            return MoonEncoder(settings.backbone, backbone=backbone)
        return MoonEncoder.tiny(catalog_texts(self.dataset, self.cutoff), settings.encoder, self.seed)

    def _save(self, encoder: MoonEncoder, path: Path) -> None:
        """Write a model folder whole or not at all."""
        with new_folder(path, replace=True) as folder:
            encoder.save(folder)


def _facts(encoder: MoonEncoder) -> dict[str, Any]:
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return {"parameters": parameters, "fingerprint": encoder.fingerprint()}


def peak_bytes() -> int:
    """The most memory this process or one of its children held so far."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * unit
