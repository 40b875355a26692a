"""The accuracy table of judges on a pair set: rows x seeds, every cell trained on the same pairs.

    TO/start/                    the checkpoint all judges begin with, where none was given
    TO/judges/ROW-seedN/judge/   the trained judges; a training that was cut off goes on there
    TO/cells/table-ROW-seedN.json   verdicts of every test pair in both orders (see `grid.py`)
    TO/table.md  .json           written again whenever a cell has ended

A row that goes on from another one (GRPO after SFT) takes the judge of the same seed. Figures of a row are
means over seeds pair by pair; intervals draw products, as pairs of one product depend on each other.

Paper: Creative4U 3.8 and 6 (rows and metrics ours: no table is in the text available to us).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moontide.creative.annotate import reason_words
from moontide.creative.image_ranker import ImageRanker, RankerSettings, fit_ranker
from moontide.creative.judge import FILE, Judge, JudgeSettings, save_judge
from moontide.creative.metrics import ceiling, judge_metrics, pair_scores
from moontide.creative.pairset import PairSet
from moontide.creative.records import CreativePair, CreativeStat, Letter, Order, Verdict
from moontide.creative.schooling import Schooling, school
from moontide.creative.tiny_judge import has_protocol_tokens, new_judge, start_judge
from moontide.foundation.errors import SettingsError
from moontide.foundation.runs import Run
from moontide.foundation.seeds import stream
from moontide.foundation.settings import fingerprint
from moontide.studies.grid import Cell, claim, slug

ORDERS: tuple[Order, Order] = ("ab", "ba")


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Args:
        kind: "judge" is trained by `plan`; "zero-shot" judges as the start does; "ranker" sees the pictures
            alone; "random" names letters by chance.
        plan: stages and sizes of a judge.
        after: row whose judge it goes on from; blank: the common start.
        prompt: fields of `PromptSettings` to set differently, such as {"mode": "answer"}.
    """

    name: str
    kind: Literal["judge", "zero-shot", "ranker", "random"]
    plan: Schooling | None = None
    after: str = ""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """Its settings as JSON, to be checked on resuming."""
        plan = self.plan.model_dump(mode="json") if self.plan else None
        ranker = self.ranker.model_dump(mode="json") if self.kind == "ranker" else None
        return {"kind": self.kind, "plan": plan, "after": self.after, "prompt": dict(self.prompt),
                "ranker": ranker}  # fmt: skip


class JudgeTable:
    """The rows of a table on one pair set, their training and their verdicts.

    Args:
        to: folder of the study.
        pairs: split "train" is trained on, "test" judged.
        rows: of the table.
        start: checkpoint of all judges: a judge, an encoder or a Qwen-VL folder; None: random weights, made
            once.
        depth: of a start that is made.

    Raises:
        SettingsError: two rows of one name, a judge without a plan, or a row after one that is no judge.
    """

    def __init__(
        self, to: Path, pairs: PairSet, rows: Sequence[Contestant], start: str | None = None, depth: int = 4
    ):
        self.to, self.pairs, self.rows = to, pairs, {row.name: row for row in rows}
        self._given, self._depth = start, depth
        if len({slug(row.name) for row in rows}) < len(rows):
            raise SettingsError(f"rows need distinct names, got {', '.join(row.name for row in rows)}")
        for row in rows:
            before = self.rows.get(row.after)
            if row.kind == "judge" and row.plan is None:
                raise SettingsError(f"row {row.name!r} is a judge without a plan: give one")
            if row.after and (before is None or before.kind != "judge" or before.after):
                raise SettingsError(f"row {row.name!r} goes on from {row.after!r}, which is no judge's row")

    def cells(self, seeds: Sequence[int]) -> list[Cell]:
        """Every row once before the second seed."""
        data = {"pairs": self.pairs.sha256, "start": self._given, "depth": self._depth}
        return [
            Cell(f"table-{slug(row.name)}-seed{seed}", {"row": row.name, "seed": seed, **data, **row.facts()})
            for seed in seeds
            for row in self.rows.values()
        ]

    def start(self) -> str:
        """The checkpoint all judges begin with; made, or given the protocol's tokens, at the first call."""
        folder = self.to / "start"
        with claim(self.to / "start.claim", wait=True):
            if (folder / FILE).exists():
                return str(folder)
            if self._given is None:
                found = self.pairs.pairs("train")
                texts = [pair.title for pair in found] + [text for p in found for text, _ in p.queries]
                model, processor = new_judge(texts, self._depth, 0, words=reason_words())
            elif (Path(self._given) / FILE).exists():
                return self._given
            else:
                model, processor = start_judge(self._given, reason_words(), 0)
                if not has_protocol_tokens(processor.tokenizer):
                    return self._given  # a published model
            shutil.rmtree(folder, ignore_errors=True)
            save_judge(folder, model, processor, JudgeSettings.for_tokenizer(processor.tokenizer))
        return str(folder)

    def judge(self, name: str, seed: int) -> Path | str:
        """A row's judge, trained where it is not yet."""
        row = self.rows[name]
        if row.kind == "zero-shot":
            return self.start()
        folder = self.to / "judges" / f"{slug(name)}-seed{seed}"
        with claim(folder.with_name(f"{folder.name}.claim"), wait=True):
            if not (folder / "judge" / FILE).exists():
                start = str(self.judge(row.after, seed)) if row.after else self.start()
                assert row.plan is not None
                changes: dict[str, Any] = {"seed": seed}
                if row.prompt:
                    settings = Judge.load(start, "cpu").settings
                    changes["judge"] = settings.but(prompt=settings.prompt.but(**row.prompt))
                school(self.pairs, folder, row.plan.but(**changes), start)
        return folder / "judge"

    def ranker(self, name: str, seed: int) -> ImageRanker:
        """A row's picture-only ranker, from the counts of the train pairs' creatives."""
        file = self.to / "judges" / f"{slug(name)}-seed{seed}.pt"
        if file.exists():
            return ImageRanker.load(file)
        stats = counts_of(self.pairs.pairs("train"))
        pictures = {stat.image_id: self.pairs.picture(stat.image_id) for stat in stats}
        found = fit_ranker(stats, pictures, self.rows[name].ranker.but(seed=seed))
        found.save(file)
        return found

    def compute(self, cell: Cell) -> dict[str, Any]:
        """Train a row with a seed and judge the test pairs."""
        began = sum(os.times()[:4])
        row, seed = self.rows[cell.settings["row"]], cell.settings["seed"]
        test = self.pairs.pairs("test")
        if row.kind == "random":
            verdicts = _by_chance(test, seed)
        elif row.kind == "ranker":
            verdicts = self.ranker(row.name, seed).verdicts(test, self.pairs.picture)
        else:
            judge = Judge.load(self.judge(row.name, seed))
            duels = judge.duels(test, self.pairs.picture, what=row.name)
            verdicts = [one for duel in duels for one in (duel.forward, duel.backward)]
        return {
            "core_seconds": sum(os.times()[:4]) - began,
            "pairs_seen": self.seen(row, seed),
            **keep(test, verdicts),
        }

    def seen(self, row: Contestant, seed: int) -> int:
        """Pairs in one order that a row was trained on, each as often as it came."""
        if row.kind == "ranker":
            lists = {pair.product_id for pair in self.pairs.pairs("train")}
            return row.ranker.epochs * len(lists)
        if row.kind != "judge" or row.plan is None:
            return 0
        results = Run.open(self.to / "judges" / f"{slug(row.name)}-seed{seed}")
        total = 0
        for stage, batch in (("sft", row.plan.sft(True).batch_size), ("grpo", row.plan.num_prompts)):
            found = results.results(stage) if row.plan.stage in (stage, "both") else None
            total += found["steps"] * batch if found else 0
        return total + (self.seen(self.rows[row.after], seed) if row.after else 0)


def counts_of(pairs: Sequence[CreativePair]) -> list[CreativeStat]:
    """The counts of the creatives that stand in pairs, each once."""
    found = {}
    for pair in pairs:
        for one in (pair, pair.swapped()):
            found[one.creative_a] = CreativeStat(
                one.creative_a, one.product_id, one.image_a, one.impressions_a, one.clicks_a
            )
    return list(found.values())


def _by_chance(pairs: Sequence[CreativePair], seed: int) -> list[Verdict]:
    p_a = stream(seed, "random judge").random((len(pairs), 2))
    return [
        Verdict(pair.pair_id, order, "A" if p > 0.5 else "B", float(p), {}, "", True, True, "random")
        for pair, row in zip(pairs, p_a, strict=True)
        for order, p in zip(ORDERS, row, strict=True)
    ]


# --- what a cell keeps ---


def keep(pairs: Sequence[CreativePair], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts as short columns by pair: letters (`-` for none), chances, what could be parsed."""
    found: dict[str, Any] = {"pair_ids": fingerprint([pair.pair_id for pair in pairs])}
    for order in ORDERS:
        told = {one.pair_id: one for one in verdicts if one.order == order}
        own = [told[pair.pair_id] for pair in pairs]
        found[order] = {
            "letters": "".join(one.letter or "-" for one in own),
            "p_a": [round(one.p_a, 5) for one in own],
            "parsed": "".join("2" if o.parsed_strict else "1" if o.parsed_lenient else "0" for o in own),
        }
    return found


_LETTERS: dict[str, Letter | None] = {"A": "A", "B": "B", "-": None}


def kept(pairs: Sequence[CreativePair], result: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts that a cell kept."""
    found = []
    for order in ORDERS:
        columns = result[order]
        for pair, letter, p_a, parsed in zip(
            pairs, columns["letters"], columns["p_a"], columns["parsed"], strict=True
        ):
            found.append(
                Verdict(pair.pair_id, order, _LETTERS[letter], p_a, {}, "", parsed == "2", parsed != "0", "")
            )
    return found


# --- the table ---


@dataclass(frozen=True)
class RowFigures:
    """A row over its seeds: means by pair (for intervals), and shares that need none."""

    name: str
    note: str
    seeds: list[int]
    pairs_seen: list[int]
    core_minutes: float
    by_pair: dict[str, np.ndarray]
    shares: dict[str, float]
    by_seed: list[float] = field(default_factory=list)


PLACES = ("accuracy_ab", "accuracy_ba", "strict", "order_invariant")
SHARES = ("averaged", "flip", "always_first", "always_second", "share_a", "parsed_strict", "parsed_lenient")


def figures(
    row: Contestant, pairs: Sequence[CreativePair], results: Mapping[int, Mapping[str, Any]]
) -> RowFigures:
    """The figures of a row from its finished cells, by seed."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in PLACES}
    shares: dict[str, list[float]] = {name: [] for name in SHARES}
    for result in results.values():
        verdicts = kept(pairs, result)
        metrics = judge_metrics(pairs, verdicts, replicates=2).row()
        for name in SHARES:
            shares[name].append(metrics[name])
        invariant = pair_scores(pairs, verdicts)
        first = _right(pairs, result)
        columns["accuracy_ab"].append(first)
        columns["accuracy_ba"].append(2 * invariant - first)
        columns["strict"].append((invariant == 1).astype(float))
        columns["order_invariant"].append(invariant)
    return RowFigures(
        row.name, row.note, sorted(results), sorted({result["pairs_seen"] for result in results.values()}),
        float(np.mean([result["core_seconds"] for result in results.values()])) / 60,
        {name: np.mean(values, axis=0) for name, values in columns.items()},
        {name: _mean(values) for name, values in shares.items()},
        [float(one.mean()) for one in columns["order_invariant"]],
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    """Over those that are known: a judge that names no letter has no share of A."""
    known = [one for one in values if math.isfinite(one)]
    return float(np.mean(known)) if known else math.nan


def _right(pairs: Sequence[CreativePair], result: Mapping[str, Any]) -> np.ndarray:
    letters = result["ab"]["letters"]
    return np.array([letter == pair.label for letter, pair in zip(letters, pairs, strict=True)], float)


def ceilings(
    pairs: Sequence[CreativePair], true_rates: Mapping[str, float] | None = None
) -> dict[str, np.ndarray]:
    """What one who knows the truly better creative would score on each pair: labels are noisy.

    Args:
        true_rates: by creative id, of a simulated market: whether each label is true. None: counts alone.
    """
    found = {"ceiling, by the counts": np.array([pair.label_confidence for pair in pairs])}
    if true_rates is not None:
        found["ceiling, by the truth"] = np.array([ceiling([pair], true_rates) for pair in pairs])
    return found
