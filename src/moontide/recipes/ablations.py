"""The papers' ablation tables by name, and how one is computed on a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moontide.catalog.dataset import Dataset
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.model.encoder import MoonEncoder
from moontide.foundation.device import threads
from moontide.foundation.errors import SettingsError
from moontide.recipes import mim, moon, moon2, moon3, moon_embedding
from moontide.studies.ablation import Ablation, Row, run_ablation
from moontide.studies.encoders import EncoderPlan, catalog_texts, make_start, period_start, train_cell

TABLES: dict[str, Callable[..., Ablation]] = {
    "moon_embedding": moon_embedding.ladder,
    "mim": mim.ablation,
    "moon": moon.ablation,
    "moon2": moon2.ablation,
    "moon3": moon3.ablation,
}


def start_of(to: Path, dataset: Dataset, num_steps: int) -> Path:
    """The checkpoint at TO/start that all cells of a table begin with, made once from pictures and titles."""
    settings = moon_embedding.encoder()
    titles = moon_embedding.posttraining(settings, num_steps).but(pairings="titles")

    def new() -> MoonEncoder:
        return MoonEncoder.tiny(catalog_texts(dataset, period_start(dataset)), settings, 0)

    return make_start(to / "start", dataset, new, titles, 0)


def run(
    name: str,
    dataset: Dataset,
    to: Path,
    start: Path | None = None,
    seeds: Sequence[int] = range(3),
    steps: int | None = None,
    start_steps: int = 1_500,
    only: Sequence[str] = (),
    max_queries: int = 1_000,
    max_minutes: float | None = None,
) -> dict[str, Any]:
    """Compute the cells of one paper's table that are not there yet; gives what table.json holds.

    Args:
        start: checkpoint all cells begin with; None: made once at TO/start, from pictures and titles.
        steps: of a cell's training; None: the recipe's.

    Raises:
        SettingsError: no table is called so.
    """
    if name not in TABLES:
        raise SettingsError(f"no table is called {name!r}: the tables are {', '.join(TABLES)}")
    table = TABLES[name]() if steps is None else TABLES[name](num_steps=steps)
    plans = [row.settings for row in table.rows]
    reason = all(isinstance(plan, EncoderPlan) and plan.reasoner is not None for plan in plans)
    asked = EvaluateSettings(
        tasks=("retrieval", "classification", "attributes"),
        text="title" if reason else "rich",  # catalog attributes are no input of a reasoner
        max_queries=max_queries,
        replicates=200,  # guess: intervals of a table are its own, over seeds and queries
    )
    with threads():
        if start is None:
            start = start_of(to, dataset, start_steps)
        data = {
            "dataset": dataset.info.get("name", dataset.path.name),
            "fingerprint": dataset.fingerprint(),
            "start": MoonEncoder(start, device="cpu").fingerprint(),
            "questions": asked.model_dump(mode="json"),
        }

        def train(row: Row, seed: int, folder: Path) -> dict[str, Any]:
            assert isinstance(row.settings, EncoderPlan)
            return train_cell(row.settings, seed, folder, dataset, start, asked)

        return run_ablation(to, table, list(seeds), train, data, only, max_minutes)
