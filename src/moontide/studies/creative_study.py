"""Judges of creatives on one dataset: how often they are right, whether pictures move them, what they earn.

    TO/stats.parquet   counts of the randomized test, where none are given (a simulated market alone)
    TO/pairs/          the pair set made of them, where none is given
    TO/cells/          table-ROW-seedN, counterfactual-ROW-seedN, selection-ROW-seedN (see `grid.py`)
    TO/table.md  counterfactual.md  selection.md  creative.md (all of them), and .json of each

Selection needs the truth of a simulated market, counterfactual one whose pictures were drawn as well; what a
dataset cannot answer is left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from scipy.special import expit

from moontide.catalog.dataset import Dataset
from moontide.creative.bandit import BanditSettings
from moontide.creative.judge import Judge
from moontide.creative.pairs import PairSettings, build_pairs
from moontide.creative.pairset import MANIFEST, PairSet, write_pair_set
from moontide.creative.prompt import Asked
from moontide.creative.stats import read_stats, stats_from_events
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.foundation.storage import write_bytes, write_json
from moontide.market.creative_test import Contexts, creative_test, true_rates, write_counts
from moontide.market.settings import MarketSettings
from moontide.studies.counterfactual import CHANGES, Altered, alter, counterfactual_markdown, measure, moves
from moontide.studies.creatives import Contestant, JudgeTable, ceilings, figures
from moontide.studies.creatives_text import accuracy_markdown, accuracy_table
from moontide.studies.grid import Cell, finished, run_grid, slug, unfinished
from moontide.studies.selection import Field, SelectionSettings, select, strengths_by, strengths_of
from moontide.studies.selection_text import selection_markdown

log = logging.getLogger(__name__)
PARTS = ("table", "counterfactual", "selection")


@dataclass(frozen=True)
class CreativePlan:
    """What a study of judges is made of; a recipe fills it.

    Args:
        rows: of the accuracy table.
        shown: rows that go through counterfactual and selection: judges and rankers.
        reference: row the others are compared with.
        market: size of a market for it, where one is to be built.
        impressions: of each creative in the randomized test, where no counts are given.
        pairs: how pairs are made, where no pair set is given.
        altered: creatives of each change.
        start: checkpoint of all judges; None: random weights of `depth`.
    """

    rows: tuple[Contestant, ...]
    shown: tuple[str, ...]
    reference: str
    market: MarketSettings
    impressions: int
    pairs: PairSettings
    selection: SelectionSettings
    bandit: BanditSettings
    altered: int
    start: str | None = None
    depth: int = 4

    def __post_init__(self) -> None:
        kinds = {row.name: row.kind for row in self.rows}
        for name in self.shown:
            if kinds.get(name, "random") == "random":
                raise SettingsError(f"{name!r} cannot be shown: take judges and rankers among the rows")


class CreativeStudy:
    """One study over one dataset.

    Args:
        dataset: with products, pictures and creatives.
        to: folder of the study.
        plan: rows and sizes.
        stats, pair_set: counts and pair set that exist already; None: made from the dataset.
        start: checkpoint of all judges in the place of the plan's.

    Raises:
        DataError: the dataset lacks what the study needs, or no pairs can be made of it.
        CheckpointError: `to` holds pairs made by another rule.
    """

    def __init__(
        self,
        dataset: Dataset,
        to: Path,
        plan: CreativePlan,
        stats: Path | None = None,
        pair_set: Path | None = None,
        start: str | None = None,
    ):
        dataset.require("study creative", "products", "images", "creatives")
        self.dataset, self.to, self.plan = dataset, to, plan
        self.contexts = Contexts.of(dataset) if _is_market(dataset) else None
        self.pairs = PairSet.open(pair_set) if pair_set else self._paired(stats)
        self.table = JudgeTable(to, self.pairs, plan.rows, start or plan.start, plan.depth)
        self._is_drawn = dataset.info.get("market", {}).get("kind") == "rendered"
        if not self._is_drawn:
            log.warning("%s was not drawn: its pictures cannot be changed one by one", dataset.path)
        self._field: Field | None = None
        self._altered: dict[str, list[Altered]] = {}

    def _paired(self, stats: Path | None) -> PairSet:
        folder, rule = self.to / "pairs", self.plan.pairs
        if not (folder / MANIFEST).exists():
            if stats is None and self.contexts is not None:
                stats = self.to / "stats.parquet"
                if not stats.exists():
                    write_counts(
                        stats, creative_test(self.dataset, self.plan.impressions, contexts=self.contexts)
                    )
            counts = read_stats(stats) if stats else stats_from_events(self.dataset)
            write_pair_set(folder, self.dataset, build_pairs(self.dataset, counts, rule), rule)
        found = PairSet.open(folder)
        if found.settings != rule:
            raise CheckpointError(
                f"{folder} was made by another pair rule: name another folder for the study"
            )
        return found

    def cells(self, seeds: Sequence[int]) -> list[Cell]:
        """All cells in the order they are computed."""
        found = self.table.cells(seeds)
        if self.contexts is None:
            return found
        by_row = {(one.settings["row"], one.settings["seed"]): one.settings for one in found}
        sizes = {
            "counterfactual": {"altered": self.plan.altered, "changes": [one.name for one in CHANGES]},
            "selection": {"max_products": self.plan.selection.max_products,
                          "num_queries": self.plan.selection.num_queries},
        }  # fmt: skip
        if not self._is_drawn:
            del sizes["counterfactual"]
        data = self.dataset.fingerprint()
        for part, size in sizes.items():
            found += [
                Cell(
                    f"{part}-{slug(name)}-seed{seed}",
                    {**by_row[name, seed], **size, "dataset": data},
                )
                for seed in seeds
                for name in self.plan.shown
            ]
        return found

    def run(
        self, seeds: Sequence[int] = range(3), only: Sequence[str] = (), max_minutes: float | None = None
    ) -> None:
        """Compute the cells that are not there yet, and write all tables.

        Args:
            only: names of parts, rows or cells; none: all.
            max_minutes: no cell begins later; 0 writes the tables alone.

        Raises:
            SettingsError: `only` names nothing there is.
            CheckpointError: a finished cell was computed with other settings.
        """
        cells, folder, began = self.cells(seeds), self.to / "cells", time.monotonic()
        finished(folder, cells)  # refuses other settings before an hour is spent
        names = {name for cell in cells for name in _names(cell)}
        if unknown := [name for name in only if name not in names]:
            rows = ", ".join(self.table.rows)
            raise SettingsError(
                f"no part, row or cell is called {unknown[0]!r}: parts are {', '.join(PARTS)}, rows {rows}"
            )
        chosen = [cell for cell in cells if not only or _names(cell) & set(only)]
        run_grid(folder, chosen, self._compute, lambda: self._write_table(seeds), max_minutes)
        self._write_table(seeds)
        if self.contexts is not None:
            self._write_counterfactual(seeds)
            self._write_selection(seeds)
        parts = [self.to / f"{part}.md" for part in PARTS]
        titles = ("How often judges are right", "What moves them", "What choosing is worth")
        texts = [
            f"## {title}\n\n{file.read_text()}"
            for title, file in zip(titles, parts, strict=True)
            if file.exists()
        ]
        write_bytes(self.to / "creative.md", "\n".join(texts).encode())
        log.info("creative study: %.1f minutes", (time.monotonic() - began) / 60)

    # --- cells ---

    def _compute(self, cell: Cell) -> dict[str, Any]:
        part = cell.name.split("-", 1)[0]
        if part == "table":
            return self.table.compute(cell)
        compare, scores = self._voices(cell.settings["row"], cell.settings["seed"])
        if part == "counterfactual":
            assert self.contexts is not None
            return {name: moves(self.contexts, rows, compare) for name, rows in self.altered().items()}
        field = self.field()
        found = strengths_of(field, scores) if scores else strengths_by(field, compare, cell.settings["row"])
        return {"strengths": found.round(6).tolist()}

    def _voices(
        self, name: str, seed: int
    ) -> tuple[Callable[[Sequence[Asked]], np.ndarray], Callable[[Sequence[bytes]], np.ndarray] | None]:
        """How a row compares two pictures, and how it scores one where it can."""
        if self.table.rows[name].kind == "ranker":
            ranker = self.table.ranker(name, seed)

            def apart(asked: Sequence[Asked]) -> np.ndarray:
                images = [image for one in asked for image in (one.image_a, one.image_b) if image is not None]
                scores = ranker.scores(images).reshape(-1, 2)
                return expit(scores[:, 0] - scores[:, 1])

            return apart, lambda images: ranker.scores(list(images))
        judge = Judge.load(self.table.judge(name, seed))
        return lambda asked: np.array([duel.s_a for duel in judge.duels(asked)]), None

    def altered(self) -> dict[str, list[Altered]]:
        """Creatives of held-out products, changed, by name of the change."""
        if not self._altered:
            products = sorted({pair.product_id for pair in self.pairs.pairs("test")})
            self._altered = {
                one.name: alter(self.dataset, one, products, self.plan.altered) for one in CHANGES
            }
        return self._altered

    def field(self) -> Field:
        """The held-out products on which creatives are chosen."""
        if self._field is None:
            assert self.contexts is not None
            trained = {pair.product_id for pair in self.pairs.pairs("train")}
            held_out = {pair.product_id for pair in self.pairs.pairs("test")} - trained
            self._field = Field.of(self.dataset, self.contexts, sorted(held_out), self.plan.selection)
        return self._field

    # --- tables ---

    def _results(self, part: str, seeds: Sequence[int]) -> dict[str, dict[int, dict[str, Any]]]:
        cells = [cell for cell in self.cells(seeds) if cell.name.startswith(f"{part}-")]
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for entry in finished(self.to / "cells", cells):
            found.setdefault(entry["settings"]["row"], {})[entry["settings"]["seed"]] = entry["result"]
        return found

    def _write_table(self, seeds: Sequence[int]) -> None:
        test, results = self.pairs.pairs("test"), self._results("table", seeds)
        rows = [figures(row, test, results[name]) for name, row in self.table.rows.items() if name in results]
        rates = true_rates(self.contexts) if self.contexts is not None else None
        table = accuracy_table(test, rows, ceilings(test, rates), self.plan.reference)
        missing = unfinished(self.to / "cells", self.table.cells(seeds))
        write_json(self.to / "table.json", table | {"missing": missing, "pair_set": self.pairs.sha256})
        write_bytes(self.to / "table.md", accuracy_markdown(table, missing).encode())

    def _write_counterfactual(self, seeds: Sequence[int]) -> None:
        results = self._results("counterfactual", seeds)
        if not results:
            return
        tables = {
            name: {one.name: measure([cell[one.name] for cell in by_seed.values()]) for one in CHANGES}
            for name, by_seed in results.items()
        }
        write_json(self.to / "counterfactual.json", tables)
        write_bytes(self.to / "counterfactual.md", counterfactual_markdown(tables).encode())

    def _write_selection(self, seeds: Sequence[int]) -> None:
        results = self._results("selection", seeds)
        if not results:
            return
        strengths = {
            name: [np.array(cell["strengths"]) for cell in by_seed.values()]
            for name, by_seed in results.items()
        }
        found = select(self.field(), strengths, _ctr(self.dataset), self.plan.selection, self.plan.bandit)
        write_json(self.to / "selection.json", found)
        write_bytes(self.to / "selection.md", selection_markdown(found).encode())


def _names(cell: Cell) -> set[str]:
    return {cell.name, cell.name.split("-", 1)[0], cell.settings["row"]}


def _is_market(dataset: Dataset) -> bool:
    return (dataset.path / "truth" / "market.parquet").exists()


def _ctr(dataset: Dataset) -> float:
    """Clicks per impression of the whole log: what a shop knows before it tests a creative."""
    kind = dataset.table("events", ["kind"]).column("kind")
    clicks, shown = (pc.sum(pc.equal(kind, one)).as_py() or 0 for one in ("click", "impression"))
    return (clicks + 1) / (shown + 50)
