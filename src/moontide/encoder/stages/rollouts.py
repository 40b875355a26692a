"""What a reasoner wrote in one step and what it earned: the record, its figures, and samples of the texts.

    metrics.jsonl    reward by part, zero-variance share, lengths, shares that parse, end in `<emb>`, differ
    rollouts.jsonl   sample texts of logged steps, each with its product, its rewards and its advantage

Rewards that rise while texts grow, repeat each other or leave the list of keys are hacked ones; that is seen
here before it is seen in recall. N pairs, G rollouts of a group, R = N G, A action tokens,
M items, the last O of them past ones.

Paper: MOON3.0 2 (Rollout), 8 (what to watch; ours).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from moontide.encoder.chain import parse_chain
from moontide.encoder.objectives.queue import VectorQueue
from moontide.encoder.objectives.rewards import Rewards
from moontide.encoder.stages.pairs import Batch
from moontide.foundation.runs import Run
from moontide.foundation.storage import storage_errors, write_bytes

if TYPE_CHECKING:
    from moontide.encoder.model.completion import Completed, Scored, Written

FILE = "rollouts.jsonl"
SAMPLES = 4  # groups of a logged step whose texts are kept


class Past(NamedTuple):
    """Items of earlier steps (O, D): their vectors, those that rewards compare with, and product codes."""

    vectors_OD: torch.Tensor  # noqa: N815
    judged_OD: torch.Tensor  # noqa: N815
    product: np.ndarray


class PastItems(nn.Module):
    """Queues of the items of earlier steps, one a form: a vector of another form is told apart by its form.

    Where rewards come from a frozen encoder, its vectors are kept beside those of the encoder that learns.

    Args:
        forms: of items; equal ones share a queue.
        length: of a queue; 0: none is kept.
        width: of a vector.
        has_frozen: whether a frozen encoder judges.
    """

    none: torch.Tensor

    def __init__(self, forms: Sequence[str], length: int, width: int, has_frozen: bool):
        super().__init__()
        self.forms = sorted(set(forms)) if length else []
        self.live = nn.ModuleDict({form: VectorQueue(length, width) for form in self.forms})
        frozen = self.forms if has_frozen else []
        self.frozen = nn.ModuleDict({form: VectorQueue(length, width) for form in frozen})
        self.register_buffer("none", torch.zeros(0, width), persistent=False)

    def sample(self, form: str) -> Past:
        """All that is kept of a form."""
        if form not in self.live:
            return Past(self.none, self.none, np.zeros(0, dtype=np.int64))
        live = cast(VectorQueue, self.live[form]).sample()
        judge = cast(VectorQueue, self.frozen[form]).sample() if form in self.frozen else live
        return Past(live.vectors, judge.vectors, live.product)

    def push(
        self, form: str, vectors: torch.Tensor, judged: torch.Tensor, codes: tuple[np.ndarray, ...], step: int
    ) -> None:
        """Add items of a form with their product, group and category codes."""
        for queues, added in ((self.live, vectors), (self.frozen, judged)):
            if form in queues:
                cast(VectorQueue, queues[form]).push(added, *codes, step)


@dataclass(frozen=True)
class Rollouts:
    """The texts of one batch, fixed while the encoder is updated on them.

    Args:
        written: N groups of G; empty where nothing is written.
        completed: R prompts with their texts; `others`: the N of the other side.
        not_negative_NM: which items of the batch, then of the past, are no rivals.
        past: items beside the batch's.
        old_log_p_RA: of each token under the encoder that wrote it.
        reference: what the frozen encoder makes of it all, if there is one.
        rewards, advantage_R: once judged.
        drawn_silent: share of silent groups among candidates, before they were dropped.
    """

    batch: Batch
    written: list[list[Written]]
    completed: list[Completed]
    others: list[Completed]
    not_negative_NM: np.ndarray  # noqa: N815
    past: Past
    old_log_p_RA: torch.Tensor | None = None  # noqa: N815
    reference: Scored | None = None
    rewards: Rewards | None = None
    advantage_R: torch.Tensor | None = None  # noqa: N815
    drawn_silent: float | None = None

    def texts(self) -> list[list[str]]:
        """What was written, N groups of G."""
        return [[one.text for one in group] for group in self.written]

    def column(self, name: str) -> np.ndarray:
        """(N, G) of an attribute of what was written."""
        return np.array([[getattr(one, name) for one in group] for group in self.written])

    def only(self, rows: np.ndarray) -> Rollouts:
        """Some of the groups; nothing may have been judged yet."""
        num, batch = len(self.written[0]), self.batch
        chosen = rows.tolist()
        return replace(
            self,
            batch=Batch(
                batch.pairing,
                [batch.queries[row] for row in chosen],
                [batch.items[row] for row in chosen],
                batch.product[rows],
                batch.content[rows],
                batch.query[rows],
            ),
            written=[self.written[row] for row in chosen],
            completed=[self.completed[row * num + at] for row in chosen for at in range(num)],
            others=[self.others[row] for row in chosen],
            not_negative_NM=self.not_negative_NM[rows][
                :, [*chosen, *range(len(self.others), self.not_negative_NM.shape[1])]
            ],
        )


def figures_of(rollouts: Rollouts, keys: Sequence[str]) -> dict[str, float]:
    """For the log: rewards, lengths, shares that parse, that end in `<emb>`, that say what no other says.

    `log_p_gap` is the mean difference between the log-probability of a token when it was sampled and when it
    was read again: cache, padding and precision, nothing else, at temperature 1.
    """
    if rollouts.rewards is None or not rollouts.written:
        return {}
    texts = [text for group in rollouts.texts() for text in group]
    drawn = {} if rollouts.drawn_silent is None else {"drawn_zero_variance_share": rollouts.drawn_silent}
    return (
        rollouts.rewards.figures()
        | drawn
        | {
            "parse_rate": float(np.mean([parse_chain(text, keys) is not None for text in texts])),
            "emb_share": float(rollouts.column("has_emb").mean()),
            "num_missing_emb": float((~rollouts.column("has_emb")).sum()),
            "mean_tokens": float(rollouts.column("num_tokens").mean()),
            "longest_tokens": float(rollouts.column("num_tokens").max()),
            "distinct_share": len(set(texts)) / len(texts),
            "log_p_gap": log_p_gap(rollouts),
        }
    )


def log_p_gap(rollouts: Rollouts) -> float:
    """Mean absolute difference of log-probabilities at generation and under teacher forcing."""
    assert rollouts.old_log_p_RA is not None
    written = [one for group in rollouts.written for one in group]
    read_RA = rollouts.old_log_p_RA.float().cpu().numpy()
    gaps = [np.abs(row[: len(one.log_p)] - one.log_p) for one, row in zip(written, read_RA, strict=True)]
    every = np.concatenate(gaps)
    return float(every.mean()) if len(every) else 0.0


class RolloutLog:
    """Keeps sample texts of a stage in `rollouts.jsonl`.

    Args:
        run: where to write; None keeps nothing.
        stage: names the lines.
        every: steps between samples, as between log lines.
    """

    def __init__(self, run: Run | None, stage: str, every: int):
        self.run, self.stage, self.every = run, stage, every
        self._is_rewound = False

    def keep(self, rollouts: Rollouts, step: int, product_ids: Sequence[str]) -> None:
        """Write samples of a judged batch, if it is a logged step's.

        The first call drops what an interrupted one wrote from this step on: it is written again.
        """
        if self.run is None:
            return
        if not self._is_rewound:
            self._rewind(step)
            self._is_rewound = True
        if step % self.every or rollouts.rewards is None or not rollouts.written:
            return
        assert rollouts.advantage_R is not None
        rewards, num = rollouts.rewards, len(rollouts.written[0])
        advantage_NG = rollouts.advantage_R.reshape(-1, num).tolist()
        lines = []
        for row, product_id in enumerate(product_ids[:SAMPLES]):
            for at, one in enumerate(rollouts.written[row]):
                earned = {name: float(part[row, at]) for name, part in rewards.parts.items()}
                line: dict[str, Any] = {
                    "stage": self.stage,
                    "step": step,
                    "product_id": product_id,
                    "rollout": at,
                }
                line |= {"reward": float(rewards.total_NG[row, at]), **earned}
                line |= {"advantage": advantage_NG[row][at], "tokens": one.num_tokens, "finish": one.finish}
                lines.append(line | {"has_emb": bool(one.has_emb), "text": one.text})
        written = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with storage_errors(self.run.path), (self.run.path / FILE).open("a") as file:
            file.write(written)

    def _rewind(self, first: int) -> None:
        assert self.run is not None
        if not (self.run.path / FILE).exists():
            return
        kept = [row for row in rollouts_of(self.run) if row["stage"] != self.stage or row["step"] < first]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        write_bytes(self.run.path / FILE, text.encode())


def rollouts_of(run: Run, stage: str | None = None) -> list[dict[str, Any]]:
    """The sample texts of a run, of one stage or of all; a last line cut by a crash is left out."""
    rows, file = [], run.path / FILE
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [row for row in rows if stage in (None, row["stage"])]
