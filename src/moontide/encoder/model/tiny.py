"""A tiny Qwen3-VL made from configuration: same classes and code path as the published models, random
weights.

One dial, `depth`, sets layers, widths, heads and learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from moontide.encoder.model.processor import CHAT_TEMPLATE, TOKENS
from moontide.foundation.errors import DataError

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
HEAD = 32  # width of a head
WORDS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"  # digits stand alone: numbers are read, not memorized
SAID = "user assistant title category box"  # what questions say besides a catalog's own words


def new_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`; letters are lowercased, since shoppers do not mind case.

    Raises:
        DataError: no text at all.
    """
    texts = [text for text in texts if text and text.strip()]
    if not texts:
        raise DataError("a tokenizer needs texts to learn from: got none")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Prepend(" ")]  # first words are words, too
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    special = [PAD, START, END, *TOKENS.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*texts, *[SAID] * max(8, len(texts) // 20)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START, *TOKENS.values()],
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@dataclass(frozen=True)
class Shape:
    """Widths (multiples of 32, one head each) and layers of the two towers."""

    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int


def shape_of(depth: int) -> Shape:
    """The shape that goes with a depth.

    The vision tower sees some four times as many positions as the decoder and is narrower: at equal time on
    a CPU that finds more (docs/results/encoder.md).
    """
    return Shape(32 * max(1, depth // 2), max(1, depth // 2), 32 * depth, max(1, depth // 2))


def learning_rate(depth: int) -> float:
    """The learning rate that goes with a depth: narrower models take larger steps (docs/experiments.md)."""
    return 1e-3 * (4 / depth) ** 0.5


def new_model(
    depth: int, tokenizer: PreTrainedTokenizerFast, side: int, patch: int, merge: int, seed: int
) -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL in the shape of `depth`, with random weights of `seed`."""
    shape = shape_of(depth)
    ids: dict[str, Any] = {
        f"{role}_token_id": tokenizer.convert_tokens_to_ids(token) for role, token in TOKENS.items()
    }
    text, vision = _text_config(shape, tokenizer), _vision_config(shape, side, patch, merge)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
        model = Qwen3VLForConditionalGeneration(config)
        _scale_weights(model)
    for settings in (model.config, model.generation_config):
        settings.eos_token_id, settings.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return model


def _text_config(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    half = HEAD // 2
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.text_width,
        "intermediate_size": 3 * shape.text_width,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.text_width // HEAD,
        "num_key_value_heads": shape.text_width // HEAD,
        "head_dim": HEAD,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_interleaved": True,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],  # must sum to half a head
        },
    }


def _vision_config(shape: Shape, side: int, patch: int, merge: int) -> dict[str, Any]:
    return {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "intermediate_size": 3 * shape.vision_width,
        "num_heads": shape.vision_width // HEAD,
        "patch_size": patch,
        "spatial_merge_size": merge,
        "temporal_patch_size": 2,
        "out_hidden_size": shape.text_width,
        "num_position_embeddings": (side // patch) ** 2,
        "deepstack_visual_indexes": [],  # the extra mergers cost a quarter of the tower and gain nothing here
    }


def _scale_weights(model: PreTrainedModel) -> None:
    """Give every linear layer outputs as large as its inputs; upstream's 0.02 is made for wide layers."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    nn.init.normal_(embeddings.weight, std=0.02)  # tied: also the output layer
