"""Where a judge's letter stands in its tokens, and how likely each of the two was there.

A tokenizer may write the letter alone (`A`) or glued to the sign before it (`>A`); each spelling of A has its
twin of B. While a completion is generated only these tokens' logits are kept, not those of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from moontide.encoder.model.processor import TOKENS

_SPELLING = re.compile(r"^[>\s]*A$")
_ANSWERED = re.compile(r"<answer>\s*[AB]$")


@dataclass(frozen=True)
class Letters:
    """Token ids of every spelling of the letters: `pairs[k]` is one spelling of A and its twin of B."""

    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """The spellings that a tokenizer has tokens for."""
        vocabulary = tokenizer.get_vocab()
        found = []
        for token, number in vocabulary.items():
            twin = vocabulary.get(f"{token[:-1]}B") if token.endswith("A") and len(token) <= 3 else None
            if twin is not None and _SPELLING.match(tokenizer.decode([number])):
                found.append((number, twin))
        return cls(tuple(sorted(found)))

    @property
    def ids(self) -> list[int]:
        """All of them, A and B in turn."""
        return [number for pair in self.pairs for number in pair]

    def spelling(self, token: int) -> int | None:
        """Which pair a token belongs to."""
        return next((k for k, pair in enumerate(self.pairs) if token in pair), None)


class _Watch(LogitsProcessor):
    """Keeps the letters' logits of every step; changes nothing."""

    def __init__(self, ids: Sequence[int]):
        self.ids, self.steps = list(ids), []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(scores[:, self.ids].float().cpu())
        return scores


@dataclass(frozen=True)
class Wrote:
    """One completion.

    Args:
        text: without the end token.
        p_a: chance of the letter A against B where the letter stands; 0.5 if none stands there.
        has_letter: one stands there.
        num_tokens: written, the end token included.
    """

    text: str
    p_a: float
    has_letter: bool
    num_tokens: int


def generate(
    model: Any,
    tokenizer: Any,
    inputs: dict[str, Any],
    max_tokens: int,
    letters: Letters,
    temperature: float = 0.0,
) -> list[Wrote]:
    """One completion of each prompt; temperature 0 is greedy.

    Vision tokens are never written: a young model would, and its next pass would fail on them.
    """
    ends = _ends(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=temperature > 0,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
        suppress_tokens=suppressed(tokenizer),
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    watch = _Watch(letters.ids)
    watched = LogitsProcessorList([watch] if letters.pairs else [])
    out = model.generate(**inputs, generation_config=config, logits_processor=watched)
    completions = out[:, inputs["input_ids"].shape[1] :].tolist()
    found = []
    for row, ids in enumerate(completions):
        length = next((at for at, token in enumerate(ids) if token in ends), len(ids))
        text = tokenizer.decode(ids[:length], skip_special_tokens=True)
        logits = torch.stack([step[row] for step in watch.steps[:length]]) if watch.steps else None
        p_a = _letter_chance(tokenizer, ids[:length], letters, logits)
        found.append(Wrote(text, 0.5 if p_a is None else p_a, p_a is not None, min(length + 1, len(ids))))
    return found


def suppressed(tokenizer: Any) -> list[int]:
    """Tokens that stand for vision and must not be written."""
    ids = tokenizer.convert_tokens_to_ids(list(TOKENS.values()))
    return [number for number in ids if number is not None]


def _ends(model: Any, tokenizer: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return sorted({*ids, tokenizer.eos_token_id})


def _letter_chance(
    tokenizer: Any, ids: Sequence[int], letters: Letters, logits: torch.Tensor | None
) -> float | None:
    """Chance of A at the last place where an answer's letter was written."""
    for at in reversed(range(len(ids))):
        k = letters.spelling(ids[at])
        if k is not None and logits is not None and _ANSWERED.search(tokenizer.decode(ids[: at + 1])):
            return float(torch.softmax(logits[at, 2 * k : 2 * k + 2], dim=0)[0])
    return None


def forced_scores(model: Any, tokenizer: Any, inputs: dict[str, Any], prefixes: Sequence[str]) -> list[float]:
    """Chance of A against B right behind a text that the judge is made to have written.

    Where the tokenizer glues the letter to the sign before it, the two spellings are compared at the first
    token in which they differ.

    Args:
        inputs: padded on the left.
        prefixes: one for each prompt, ending where the letter would follow.
    """
    tails, pairs = [], []
    for prefix in prefixes:
        a, b = (tokenizer(prefix + letter, add_special_tokens=False)["input_ids"] for letter in "AB")
        at = next(at for at in range(len(a)) if a[at] != b[at])
        tails.append(a[:at])
        pairs.append((a[at], b[at]))
    width = max(map(len, tails))
    device = inputs["input_ids"].device
    ids = torch.full((len(tails), width), tokenizer.pad_token_id, device=device)
    is_real = torch.zeros((len(tails), width), dtype=inputs["attention_mask"].dtype, device=device)
    for row, tail in enumerate(tails):
        ids[row, : len(tail)] = torch.tensor(tail, dtype=torch.long, device=device)
        is_real[row, : len(tail)] = 1
    extended = dict(inputs)
    extended["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    extended["attention_mask"] = torch.cat([inputs["attention_mask"], is_real], dim=1)
    if "mm_token_type_ids" in inputs:
        extended["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], dim=1)
    logits = model(**extended, logits_to_keep=width + 1).logits.float()
    found = []
    for row, (tail, pair) in enumerate(zip(tails, pairs, strict=True)):
        two = logits[row, len(tail), list(pair)]  # logits[:, 0] belongs to the prompt's last token
        found.append(float(torch.softmax(two, dim=0)[0]))
    return found
