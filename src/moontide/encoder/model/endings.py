"""The half of a backbone that writes: what stands between an item and its vector, token after token.

N states, R rows (completions), L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Cache

from moontide.encoder.chain import DONE
from moontide.encoder.model.completion import EMB, Completed, Written, extended
from moontide.encoder.model.inputs import KINDS
from moontide.encoder.model.prepared import Prepared
from moontide.encoder.model.processor import TOKENS

if TYPE_CHECKING:
    from moontide.encoder.model.backbone import BackboneSettings


class WritingHalf:
    """Endings, and states and chances of the next token; mixed into `Backbone`, which has the rest."""

    if TYPE_CHECKING:
        model: Any
        tokenizer: Any
        settings: BackboneSettings

        def tokens(self, text: str) -> np.ndarray: ...
        def _precision(self, kind: str) -> torch.autocast: ...
        def _decoded(self, features, embeds, mask, position_B3L, cache, extra) -> torch.Tensor: ...

    @cached_property
    def never_written(self) -> np.ndarray:
        """Ids that no answer may hold: the next pass would take them for a picture, or for a new turn."""
        names = [*TOKENS.values(), "<|im_start|>", self.tokenizer.pad_token]
        known = self.tokenizer.get_vocab()
        ids = {known[name] for name in names if name in known}
        return np.array(sorted(ids - {self.tokenizer.eos_token_id}), dtype=np.int64)

    def _ending(self, reasoning: str | None) -> np.ndarray:
        """The tokens of a text, bounded and closed, and `<emb>`."""
        emb = self.tokens(EMB)
        if not reasoning:
            return emb
        ids = self.tokens(reasoning)
        done = self.tokens(DONE)
        ids = ids[~np.isin(ids, [*self.never_written, *emb, *done])][: self.settings.reasoning_tokens]
        return np.concatenate([ids, done, emb])

    def completed(self, prompt: Prepared, written: Written | None) -> Completed:
        """A prompt with a completion, closed where the model did not; None: with `<emb>` alone."""
        chosen = self.tokens("") if written is None else written.ids
        rest = chosen[:0]
        if written is None:
            rest = self.tokens(EMB)
        elif not written.has_emb:
            is_closed = len(chosen) and chosen[-1] == self.tokens(DONE)[0]
            rest = self.tokens(EMB if is_closed else DONE + EMB)
        return self._completed(prompt, chosen, rest)

    def completed_text(self, prompt: Prepared, text: str) -> Completed:
        """A prompt with a text to be learned, and `<emb>`: all of it is action."""
        ids = np.concatenate([self.tokens(text), self.tokens(EMB)])
        return self._completed(prompt, ids, ids[:0])

    def _completed(self, prompt: Prepared, chosen: np.ndarray, rest: np.ndarray) -> Completed:
        prepared = extended(prompt, np.concatenate([chosen, rest]))
        is_action = np.zeros(len(prepared), dtype=bool)
        is_action[len(prompt) : len(prompt) + len(chosen)] = True
        return Completed(prepared, is_action)

    def next_states(
        self, token_R: torch.Tensor, position_R: torch.Tensor, is_real_RL: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """States (R, D) of one more text token a row, behind what the cache holds.

        Args:
            position_R: of the new tokens; is_real_RL: which keys there are, the new ones last.
        """
        features = {
            "input_ids": token_R[:, None],
            "attention_mask": torch.ones_like(token_R)[:, None],
            "token_kinds": torch.full_like(token_R, KINDS.index("special"))[:, None],
        }
        with self._precision(token_R.device.type):
            embeds = self.model.get_input_embeddings()(features["input_ids"])
            positions = position_R[:, None, None].expand(-1, 3, 1)
            states = self._decoded(features, embeds, is_real_RL[:, None, None], positions, cache, {})
        return states[:, 0]

    def next_log_p(self, states_ND: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """Log-probability (N, V) of the token behind each state; what may never be written has none."""
        logits_NV = self.model.lm_head(states_ND).float()
        banned = torch.from_numpy(self.never_written).to(logits_NV.device)
        return (
            logits_NV.index_fill(1, banned, torch.finfo(logits_NV.dtype).min).div(temperature).log_softmax(1)
        )
