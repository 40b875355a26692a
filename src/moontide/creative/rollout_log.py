"""What a judge writes while it is reinforced: figures of every step, sample texts, and their picture.

    metrics.jsonl    reward by term, zero-variance share, parse rates, share of "A", lengths, KL
    rollouts.jsonl   sample completions with the question they answer and what each earned

A share of "A" that leaves one half, or a length that creeps to the limit, is seen here before it is seen in
accuracy.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from moontide.creative.protocol import parse
from moontide.creative.rewards import NAMES, JudgeRewardSettings, Reward, said, total, zero_variance_share
from moontide.foundation.errors import DataError
from moontide.foundation.runs import Run
from moontide.foundation.storage import storage_errors, write_bytes

FILE = "rollouts.jsonl"
SAMPLES = 4  # completions kept of a logged step
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("reward", ("reward", *NAMES)),
    ("share", ("zero_variance_share", "parsed_strict", "parsed_lenient", "share_a")),
    ("tokens", ("mean_tokens", "longest_tokens")),
    ("KL to the start", ("kl",)),
)


class RolloutLog:
    """Watches a training's rewards and keeps what they were given for.

    Args:
        run: where to write; None keeps figures in memory only.
        stage: names the log lines.
        num_generations: completions of a prompt, side by side.
        settings: weights of the rewards.
        every: steps between sample texts.
    """

    def __init__(
        self, run: Run | None, stage: str, num_generations: int, settings: JudgeRewardSettings, every: int
    ):
        self.run, self.stage, self.every = run, stage, every
        self.num_generations, self.settings = num_generations, settings
        self._figures: dict[str, list[float]] = defaultdict(list)
        self._parts: dict[str, list[float | None]] = {}

    def watching(self, functions: Sequence[Reward]) -> list[Any]:
        """The same rewards; each call is noted, the last one closes the step."""

        def watched(function: Reward, name: str, is_last: bool) -> Reward:
            def call(completions: Sequence[Any], **columns: Any) -> list[float | None]:
                earned = function(completions=completions, **columns)
                self._parts[name] = earned
                if is_last:
                    self._step(completions, columns)
                return earned

            call.__name__ = name
            return call

        last = len(functions) - 1
        return [
            watched(function, name, at == last)
            for at, (function, name) in enumerate(zip(functions, NAMES, strict=True))
        ]

    def _step(self, completions: Sequence[Any], columns: dict[str, Any]) -> None:
        texts = [said(one) for one in completions]
        parts, self._parts = self._parts, {}
        totals = total(parts, self.settings)
        readings = [parse(text) for text in texts]
        letters = [reading.letter_lenient for reading in readings]
        named = [letter for letter in letters if letter]
        lengths = [len(ids) for ids in columns.get("completion_ids") or []]
        figures = {
            "reward": float(np.mean(totals)),
            **{name: _mean(values) for name, values in parts.items()},
            "zero_variance_share": zero_variance_share(totals, self.num_generations),
            "parsed_strict": float(np.mean([one.letter_strict is not None for one in readings])),
            "parsed_lenient": len(named) / max(1, len(letters)),
            "share_a": named.count("A") / len(named) if named else float("nan"),
            "mean_tokens": _mean(lengths),
            "longest_tokens": float(max(lengths, default=0)),
        }
        for name, value in figures.items():
            if np.isfinite(value):
                self._figures[name].append(value)
        state = columns.get("trainer_state")
        step = state.global_step if state is not None else 0
        if self.run and step % self.every == 0:
            self._keep(step, texts, totals, parts, columns)

    def _keep(
        self,
        step: int,
        texts: Sequence[str],
        totals: Sequence[float],
        parts: dict[str, list[float | None]],
        columns: dict[str, Any],
    ) -> None:
        assert self.run is not None
        lines = []
        for at in np.linspace(0, len(texts) - 1, min(SAMPLES, len(texts))).round().astype(int):
            row = {name: columns[name][at] for name in ("pair_id", "order", "letter") if name in columns}
            earned = {name: values[at] for name, values in parts.items()}
            lines.append({"step": step, **row, "reward": totals[at], **earned, "text": texts[at]})
        written = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with storage_errors(self.run.path), (self.run.path / FILE).open("a") as file:
            file.write(written)

    def figures(self) -> dict[str, float]:
        """Means since the last call, for the next log line."""
        found = {name: float(np.mean(values)) for name, values in self._figures.items()}
        self._figures.clear()
        return found

    def rewind(self, step: int) -> None:
        """Drop samples of `step` and later, when the training goes on from a checkpoint of that step."""
        if self.run and (self.run.path / FILE).exists():
            kept = [row for row in rollouts(self.run) if row["step"] < step]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            write_bytes(self.run.path / FILE, text.encode())


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def rollouts(run: Run) -> list[dict[str, Any]]:
    """The sample texts of a run; a last line cut by a crash is left out."""
    rows = []
    file = run.path / FILE
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def plot_rollouts(run: Run, to: Path, stage: str = "grpo") -> None:
    """Four panels over the steps: rewards, shares, lengths, KL; written as PNG or by the file's ending.

    Raises:
        DataError: the run has no line of this stage.
    """
    lines = run.metrics(stage)
    if not lines:
        raise DataError(f"the run at {run.path} has logged nothing of {stage!r}: train a judge there first")
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (label, names) in zip(figure.subplots(2, 2).ravel(), PANELS, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in lines if row.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.4)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
        else:
            axes.text(0.5, 0.5, "not logged", ha="center", transform=axes.transAxes)
    to.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(to):
        figure.savefig(to, dpi=110)
