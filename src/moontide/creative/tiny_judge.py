"""A judge small enough for a CPU: a tiny Qwen3-VL, from random weights or from an encoder's backbone.

A tiny encoder's tokenizer lowercases and has pieces, not words, for most of the protocol. A judge has to
write `A>B`, `Q3:` and a capital letter exactly, so these are added as whole tokens that no normalization
touches; the words its reasons are made of are added where they would fall into pieces, so that all nine
answers and a reason fit 32 tokens. Published models need none of this: their tokenizers keep case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, normalizers
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging as upstream

from moontide.creative.prompt import LABELS, PromptSettings, texts_for_tokenizer
from moontide.encoder.model import tiny
from moontide.encoder.model.norm import quicken
from moontide.encoder.model.processor import load_processor, new_processor
from moontide.foundation.errors import CheckpointError

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "qwen2_vl")
SIDE, PATCH, MERGE = 112, 14, 2
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ANSWERS = ("A>B", "A=B", "A<B", "YES", "NO")
QUESTION_MARKS = tuple(f"Q{number}:" for number in range(1, 11))
LETTERS = ("A", "B")
SAID = ("queries:", "title:", "none")


def new_judge(
    texts: Iterable[str], depth: int = 4, seed: int = 0, vocab_size: int = 2048, words: Sequence[str] = ()
) -> tuple[Any, Any]:
    """A tiny judge with random weights: (model, processor).

    Args:
        texts: titles and queries its tokenizer learns from.
        depth: see `encoder.model.tiny.shape_of`.
        seed: of the weights.
        vocab_size: of the tokenizer before the protocol's tokens.
        words: of reasons; see `add_protocol`.

    Raises:
        DataError: no text.
    """
    said = [*texts, *texts_for_tokenizer(tiny_prompt())]
    tokenizer = tiny.new_tokenizer(said, vocab_size)
    model = tiny.new_model(depth, tokenizer, SIDE, PATCH, MERGE, seed)
    processor = new_processor(tokenizer, SIDE, PATCH, MERGE)
    add_protocol(model, processor, words, seed)
    return model, processor


def start_judge(path: str | Path, words: Sequence[str] = (), seed: int = 0) -> tuple[Any, Any]:
    """Model and processor to train a judge from: a Qwen-VL folder or Hub id, or a moontide encoder's folder.

    Of an encoder the backbone is taken, without its pooling. Where the tokenizer does not keep the protocol's
    case, its tokens are added.

    Raises:
        CheckpointError: no model there, or one of another family.
    """
    model, processor = load_model(path)
    if not keeps_case(processor.tokenizer):
        add_protocol(model, processor, words, seed)
    return model, processor


def load_model(path: str | Path, **kwargs: Any) -> tuple[Any, Any]:
    """Model and processor of a Qwen-VL folder or Hub id, padding on the left.

    Raises:
        CheckpointError: no model there, or one of another family.
    """
    try:
        family = AutoConfig.from_pretrained(str(path)).model_type
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"no judge or vision-language model at {path} ({_line(error)})") from None
    if family not in FAMILIES:
        raise CheckpointError(f"{path} is a {family} model: a judge is one of {', '.join(FAMILIES)}")
    upstream.disable_progress_bar()  # one bar a file says nothing of a minute's training
    try:
        processor = load_processor(str(path))
        model = AutoModelForImageTextToText.from_pretrained(str(path), dtype=torch.float32, **kwargs)
    except Exception as error:
        raise CheckpointError(f"the model at {path} cannot be loaded ({_line(error)})") from None
    processor.tokenizer.padding_side = "left"
    quicken(model)
    return model, processor


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def keeps_case(tokenizer: Any) -> bool:
    """Whether a completion comes back from the tokenizer letter by letter."""
    text = "<think>Q1: NO Q3: A>B because Q10: A=B</think><answer>A</answer>"
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def add_protocol(model: Any, processor: Any, words: Sequence[str] = (), seed: int = 0) -> int:
    """Give a tokenizer that lowercases the protocol's tokens and words; returns how many were added.

    The blank that the tokenizer puts before every stretch of text goes: between two added tokens it would
    double. New rows of the (tied) embedding are the mean row plus noise as large as the rows' spread.
    """
    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()]
    )
    exact = [*TAGS, *LABELS]
    for mark in (*QUESTION_MARKS, *ANSWERS):
        exact += [mark, f" {mark}"]
    tokens = [AddedToken(text, normalized=False, special=False) for text in exact]
    tokens += [AddedToken(letter, normalized=False, single_word=True, special=False) for letter in LETTERS]
    for word in dict.fromkeys((*SAID, *words)):
        for text in (f" {word}", word) if word in SAID else (f" {word}",):
            if len(tokenizer(text, add_special_tokens=False)["input_ids"]) > 1:
                tokens.append(AddedToken(text, normalized=False, special=False))
    before = model.get_input_embeddings().weight.shape[0]
    num = tokenizer.add_tokens(tokens)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        old = rows[:before]
        noise = torch.randn(len(rows) - before, rows.shape[1], generator=generator)
        rows[before:] = (old.mean(0) + old.std(0) * noise).to(rows.dtype)
    return num


def tiny_prompt() -> PromptSettings:
    """The prompt of a tiny judge: no fixed sentences, three queries, small squares."""
    return PromptSettings(
        is_short=True, num_queries=3, max_query_chars=40, max_title_chars=80, image_side=SIDE
    )


def has_protocol_tokens(tokenizer: Any) -> bool:
    """Whether the protocol's answers were added as whole tokens: the mark of a tiny judge."""
    return "A>B" in tokenizer.get_added_vocab()
