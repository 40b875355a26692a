"""Frozen encoders of rising quality, to hold one click model against: what an exchange rate is measured over.

    train_versions(encoder, ...)     one post-training, its weights saved on the way: step 0, 10 %, ... 100 %
    version_of_cell(run, to)         the encoder a cell of an ablation ended with (the ladder's rungs)
    version_table(...)               every product and query of a dataset embedded by one encoder, once

The saved weights are those the uninterrupted stage passes through: one schedule, one order of batches. So
the last one is, bit for bit, what `posttrain` gives, and those before it are no shorter trainings.

Paper: MOON Embedding 3.7 (several versions behind one click model: paper; these versions: ours).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moontide.catalog.dataset import Dataset
from moontide.center.embed import EmbedSettings, embed_catalog
from moontide.center.store import VectorStore
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.stages.gradient import Trainable
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, loop_of, train
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.posttrain import STAGE, Posttraining, PosttrainSettings, pairs_of
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.foundation.runs import Run
from moontide.foundation.storage import new_folder, write_json
from moontide.ranking.content import ContentTable
from moontide.ranking.entities import Entities
from moontide.studies.encoders import EncoderPlan
from moontide.studies.grid import claim

SHARES = (0.0, 0.1, 0.3, 0.6, 1.0)
CENTERED_ITEMS = 32  # of each pairing, as `posttrain` takes them
COUNTED_STEPS = (
    32  # whose tokens are counted; the mean over them is that of all to about one part in a hundred
)
MARK = "version.json"


@dataclass(frozen=True)
class Watched:
    """What `watched_posttrain` shows of a training step.

    Args:
        step: optimizer steps taken so far; 0 before the first.
        queued: vectors in the queue of negatives, mean over the forms; 0 without one.
    """

    step: int
    queued: float


def watched_posttrain(
    encoder: Trainable,
    dataset: Dataset,
    settings: PosttrainSettings,
    watch: Callable[[Watched], None],
    run: Run | None = None,
    stage: str = STAGE,
) -> dict[str, Any]:
    """`posttrain`, step for step the same, with a look at the encoder before the first step and after each.

    Args:
        watch: called with the encoder as it is then; must not change it. Steps that an interrupted call took
            are not shown again.

    Returns:
        figures of `loop.train`; `pairs` seen; `tokens` of both sides of a pair, text and picture, on average.

    Raises:
        DataError: nothing to pair. CheckpointError: the run was made with other settings.
    """
    pictures = Pictures(dataset.images, encoder.pixels)
    pairs = pairs_of(encoder, dataset, pictures, settings)
    training = Posttraining(encoder, pairs, settings)
    asked = [settings.model_dump(mode="json"), dataset.fingerprint(), pairs.group.tolist()]
    encoder.center(encoder.prepare_all(_first_items(pairs)))
    taken = 0

    def backward(step: int) -> dict[str, float]:
        nonlocal taken
        if step == 0:
            watch(Watched(0, 0.0))
        figures = training(step)
        taken = step + 1
        return figures

    def after_step() -> None:
        training.after()
        sizes = [len(queue) for queue in training.queues.values()]  # ty: ignore[invalid-argument-type]
        watch(Watched(taken, float(np.mean(sizes)) if sizes else 0.0))

    with encoder.remembering(TRAINING_LAYOUTS):
        results = train(
            stage, training.modules, backward, loop_of(settings), run, asked, after_step, training.queues,
            training.ids,
        )  # fmt: skip
    tokens = tokens_of_pair(encoder, training)
    return results | {"pairs": settings.num_steps * settings.batch_size, "tokens": tokens}


def tokens_of_pair(encoder: Trainable, training: Posttraining, most: int = COUNTED_STEPS) -> float:
    """Text and visual tokens of both sides of a pair, counted from prepared items of evenly spaced steps."""
    num_steps = training.settings.num_steps
    steps = np.unique(np.linspace(0, num_steps - 1, min(most, num_steps)).round().astype(int))
    tokens = rows = 0
    for step in steps.tolist():
        batch = training.batch(step)
        tokens += sum(len(one) for one in encoder.prepare_all([*batch.queries, *batch.items]))
        rows += len(batch.queries)
    return tokens / rows


def _first_items(pairs: TrainingPairs) -> list[Any]:
    batches = [pairs.batch(number, 0, 0, CENTERED_ITEMS) for number in range(len(pairs.pairings))]
    return [item for batch in batches for item in (*batch.queries, *batch.items)]


def train_versions(
    encoder: Callable[[], MoonEncoder],
    dataset: Dataset,
    settings: PosttrainSettings,
    folder: Path,
    shares: Sequence[float] = SHARES,
) -> dict[str, Path]:
    """Encoder folders along one post-training, made once; started again, it goes on where it was cut off.

    A share of 0 is the untrained encoder, its mean vector brought to 0 as every training begins.

    Args:
        encoder: gives the encoder that training begins with.
        settings: of the whole training; the rate falls to its end only at share 1.
        folder: folder/STEPS each, and folder/run.
        shares: of the steps, ascending, each in [0, 1].

    Returns:
        name ("10%") -> encoder folder, ascending.

    Raises:
        SettingsError: shares that are not ascending, or two of one step.
        CheckpointError: `folder` was trained with other settings.
    """
    steps = [round(share * settings.num_steps) for share in shares]
    if not steps or steps != sorted(set(steps)) or not 0 <= steps[0] <= steps[-1] <= settings.num_steps:
        raise SettingsError(
            f"shares must ascend from 0 to 1, at least one step of {settings.num_steps} apart, "
            f"got {tuple(shares)}"
        )
    places = {f"{share:.0%}": folder / f"step-{step:06d}" for share, step in zip(shares, steps, strict=True)}
    asked = {"posttrain": settings.model_dump(mode="json"), "dataset": dataset.fingerprint()}
    folder.mkdir(parents=True, exist_ok=True)
    with claim(folder / "training.claim", wait=True):
        run = Run.start(folder / "run", "versions", asked, settings.seed, "cpu")
        if all((place / MARK).exists() for place in places.values()):
            return places
        wanted = dict(zip(steps, places.values(), strict=True))
        model = encoder()

        def watch(now: Watched) -> None:
            place = wanted.get(now.step)
            if place is not None and not (place / MARK).exists():
                save_version(model, place, {"step": now.step, "of_steps": settings.num_steps})

        results = watched_posttrain(model, dataset, settings, watch, run)
        if missing := [name for name, place in places.items() if not (place / MARK).exists()]:
            raise CheckpointError(
                f"{folder} was trained past {', '.join(missing)} before: delete it, or ask for other shares"
            )
        run.finish(STAGE, results)
    return places


def save_version(encoder: MoonEncoder, path: Path, facts: dict[str, Any]) -> Path:
    """An encoder as a model folder, whole or not at all, with what it is in version.json."""
    with new_folder(path, replace=True) as place:
        encoder.save(place)
        write_json(place / MARK, {**facts, "fingerprint": encoder.fingerprint()})
    return path


def version_of_cell(run: Path, to: Path) -> Path:
    """The encoder that a finished cell of an ablation trained, as a model folder, from its last checkpoint.

    Args:
        run: TO/runs/CELL of `moontide study ablation`, such as a rung of the ladder.

    Raises:
        SettingsError: the cell is no MoonEncoder trained on pairs alone: it has no model folder.
        CheckpointError: there is no finished training.
    """
    if (to / MARK).exists():
        return to
    asked = Run.open(run).facts["settings"]
    plan = EncoderPlan(**asked["plan"])
    if plan.two_tower is not None or plan.guided or plan.modality or plan.csft or plan.triplets:
        raise SettingsError(f"{run.name} is no encoder trained on pairs alone: name another cell")
    last = f"pairs{len(plan.pairs) - 1}"
    kept = sorted((run / "checkpoints" / last).glob("step-*.pt")) if plan.pairs else []
    if plan.pairs and (not kept or kept[-1].stem != f"step-{plan.pairs[-1].num_steps:08d}"):
        raise CheckpointError(f"{run} has not ended its training: compute the cell first")
    encoder = MoonEncoder(asked["start"], device="cpu").shown(crops=plan.crops)
    if kept:
        weights = torch.load(kept[-1], weights_only=True)["weights"]
        prefix = "encoder."
        own = {name.removeprefix(prefix): one for name, one in weights.items() if name.startswith(prefix)}
        unknown = encoder.load_state_dict(own, strict=False).unexpected_keys
        if unknown:
            raise CheckpointError(
                f"{kept[-1]} has weights of another encoder ({unknown[0]}): delete the cell"
            )
    return save_version(encoder, to, {"cell": run.name})


def version_table(
    dataset: Dataset,
    encoder: Callable[[], MoonEncoder],
    entities: Entities,
    path: Path,
    settings: EmbedSettings | None = None,
) -> ContentTable:
    """Vectors of all products and queries by one encoder, made once: PATH is a saved `ContentTable`.

    Args:
        encoder: loads it; called only where the table is not there.
        entities: of the click model's samples; the rows of the table are their codes.
        settings: by default products as the chain embeds them, and queries; creatives are left out.
    """
    with claim(path.with_name(f"{path.name}.claim"), wait=True):
        if not (path / "content.json").exists():
            store = VectorStore.open(path.with_name(f"{path.name}.center"))
            asked = settings or EmbedSettings(kinds=("product", "query"))
            report = embed_catalog(dataset, encoder(), store, settings=asked)
            ContentTable.read(store, entities, report.version).save(path)
    return ContentTable.load(path)
