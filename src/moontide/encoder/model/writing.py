"""Writing before the vector: batched generation with a key-value cache.

Every prompt is read once, however many completions are drawn from it. Prompts are padded on the right like
every batch of this package; new tokens follow in the cache and carry their own positions, and a mask hides
the padding. R rows (completions), L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import DynamicCache

from moontide.encoder.model.completion import EMB, Written, spaced
from moontide.encoder.model.prepared import Album, Prepared, token_batches
from moontide.foundation.errors import SettingsError

if TYPE_CHECKING:
    from moontide.encoder.model.encoder import MoonEncoder

WRITING_TOKENS = 8_192  # of one batch, what will be written included: the cache is all that grows


@torch.no_grad()
def write(
    encoder: MoonEncoder,
    prompts: Sequence[Prepared],
    budget: int,
    num: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    batch_tokens: int = WRITING_TOKENS,
) -> list[list[Written]]:
    """`num` completions of each prompt, of at most `budget` tokens before `<emb>`.

    Args:
        encoder: a reasoner, see `reasoner.py`.
        prompts: of `Backbone.prompts`.
        temperature: of sampling; 0 takes the likeliest token.
        top_p: only the likeliest tokens that hold this share of probability are drawn.
        generator: of the draws, on the encoder's device; None: torch's own.

    Raises:
        SettingsError: a budget, number, temperature or top_p out of range, or no reasoner.

    Paper: MOON3.0 3.1 (1) (analog LREM); the cut at the budget is ours.
    """
    if not encoder.is_reasoner:
        raise SettingsError("this encoder does not write: make it a reasoner first, see make_reasoner")
    if budget < 1 or num < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise SettingsError(
            "writing needs budget and num of at least 1, temperature of at least 0 and top_p in (0, 1], "
            f"got {budget}, {num}, {temperature} and {top_p}"
        )
    was_training = encoder.training
    encoder.eval()
    found: list[list[Written]] = [[] for _ in prompts]
    try:
        lengths = [num * (len(prompt) + budget) for prompt in prompts]
        for rows in token_batches(lengths, batch_tokens):
            batch = _Draft(encoder, [prompts[row] for row in rows], num)
            written = batch.finish(budget, temperature, top_p, generator)
            for at, row in enumerate(rows):
                found[row] = written[at * num : (at + 1) * num]
    finally:
        encoder.train(was_training)
    return found


@dataclass
class _Line:
    """One completion while it is written."""

    ids: list[int] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)
    finish: Literal["emb", "budget", "end"] = "budget"


class _Draft:
    """Some prompts and what has been written behind them."""

    def __init__(self, encoder: MoonEncoder, prompts: Sequence[Prepared], num: int):
        self.backbone = encoder.backbone
        device = encoder.device
        album = Album.of(prompts)
        sight = encoder.look(album)
        features: dict[str, Any] = {
            name: x.to(device) for name, x in self.backbone.collate(prompts, False).items()
        }
        if sight is not None:
            features["seen"] = sight.of([number for own in album.places for number in own])
        self.cache = DynamicCache(config=self.backbone.language.config)
        states_BLD = self.backbone.states(features, "causal", self.cache)
        is_real_BL = features["attention_mask"].bool()
        last_B = is_real_BL.sum(1) - 1
        rows_B = torch.arange(len(prompts), device=device)
        next_B = features["position_ids"][rows_B, 0, last_B] + 1
        self.states_RD = states_BLD[rows_B, last_B].repeat_interleave(num, 0)
        self.is_real_RL = is_real_BL.repeat_interleave(num, 0)
        self.position_R = next_B.repeat_interleave(num, 0)
        if num > 1:
            self.cache.batch_repeat_interleave(num)
        self.lines = [_Line() for _ in range(len(prompts) * num)]
        self.live = np.arange(len(self.lines))  # line of every row that is still in the cache
        vocabulary = self.backbone.tokenizer.convert_tokens_to_ids
        self.emb, self.end = vocabulary(EMB), vocabulary("<|im_end|>")

    def finish(
        self, budget: int, temperature: float, top_p: float, generator: torch.Generator | None
    ) -> list[Written]:
        """Write until every line has ended."""
        for number in range(budget + 1):
            log_p_RV = self.backbone.next_log_p(self.states_RD, temperature or 1.0)
            token_R = _drawn(log_p_RV, temperature, top_p, generator)
            chosen_R = log_p_RV.gather(1, token_R[:, None])[:, 0]
            is_open = self._note(token_R.tolist(), chosen_R.tolist(), number == budget)
            if number == budget or not is_open.any():
                break
            if 2 * is_open.sum() <= len(is_open):
                token_R = self._drop(is_open, token_R)
            self._read(token_R)
        return [self._written(line) for line in self.lines]

    def _note(self, tokens: list[int], log_p: list[float], is_last: bool) -> np.ndarray:
        """Put a token behind every open line; gives which rows are still open."""
        is_open = np.zeros(len(tokens), dtype=bool)
        for row, (token, chance) in enumerate(zip(tokens, log_p, strict=True)):
            line = self.lines[self.live[row]]
            has_ended = bool(line.ids) and line.ids[-1] in (self.emb, self.end)
            if has_ended or (is_last and token != self.emb):
                continue
            line.ids.append(token)
            line.log_p.append(chance)
            line.finish = "emb" if token == self.emb else "end" if token == self.end else "budget"
            is_open[row] = line.finish == "budget"
        return is_open

    def _drop(self, is_open: np.ndarray, token_R: torch.Tensor) -> torch.Tensor:
        """Take the ended rows out of the cache."""
        index = torch.from_numpy(np.flatnonzero(is_open)).to(token_R.device)
        self.cache.batch_select_indices(index)
        self.is_real_RL, self.position_R = self.is_real_RL[index], self.position_R[index]
        self.live = self.live[is_open]
        return token_R[index]

    def _read(self, token_R: torch.Tensor) -> None:
        new = self.is_real_RL.new_ones(len(token_R), 1)
        self.is_real_RL = torch.cat((self.is_real_RL, new), 1)
        self.states_RD = self.backbone.next_states(token_R, self.position_R, self.is_real_RL, self.cache)
        self.position_R = self.position_R + 1

    def _written(self, line: _Line) -> Written:
        has_emb = line.finish == "emb"
        said = line.ids[:-1] if line.finish != "budget" else line.ids
        return Written(
            np.array(line.ids, dtype=np.int64),
            np.array(line.log_p, dtype=np.float32),
            spaced(self.backbone.tokenizer.decode(said)),
            has_emb,
            len(line.ids) - has_emb,
            line.finish,
        )


def _drawn(
    log_p_RV: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator | None
) -> torch.Tensor:
    if not temperature:
        return log_p_RV.argmax(1)
    p_RV = log_p_RV.exp()
    if top_p < 1:
        sorted_RV, order_RV = p_RV.sort(1, descending=True)
        sorted_RV[sorted_RV.cumsum(1) - sorted_RV >= top_p] = 0
        p_RV = torch.zeros_like(p_RV).scatter_(1, order_RV, sorted_RV)
    return torch.multinomial(p_RV, 1, generator=generator)[:, 0]
