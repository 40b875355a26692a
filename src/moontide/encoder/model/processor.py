"""Processors of the Qwen-VL families where torchvision is absent.

The image half of these processors has a Pillow twin and works; the video half fails on import. The upstream
class is replaced in its own module, under its own name, by one without the video half: a checkpoint that
names its processor class then finds ours, and a folder we save still names the upstream one, so that it
loads anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers.models.qwen2_5_vl.processing_qwen2_5_vl as qwen25
import transformers.models.qwen3_vl.processing_qwen3_vl as qwen3
from transformers import AutoProcessor, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

TOKENS = {
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}"  # `type` first: Arrow fills missing keys with None
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _without_video(upstream: type) -> type:
    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template=None, **_):  # noqa: N807
        for role, token in TOKENS.items():
            setattr(self, f"{role}_token", token)
            setattr(self, f"{role}_token_id", tokenizer.convert_tokens_to_ids(token))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return type(upstream.__name__, (upstream,), {"__init__": __init__, "__module__": __name__})


def install() -> None:
    """Put the processors without video in place of the upstream ones; again: nothing happens."""
    if is_torchvision_available():
        return
    for module, name in ((qwen3, "Qwen3VLProcessor"), (qwen25, "Qwen2_5_VLProcessor")):
        if getattr(module, name).__module__ != __name__:
            setattr(module, name, _without_video(getattr(module, name)))


def load_processor(path: str, **kwargs: Any) -> ProcessorMixin:
    """The processor of a model folder or Hub id, images handled by Pillow."""
    install()
    return AutoProcessor.from_pretrained(path, **kwargs)


def new_processor(tokenizer: PreTrainedTokenizerBase, side: int, patch: int, merge: int) -> ProcessorMixin:
    """A Qwen3-VL processor for square pictures of `side` pixels, around a tokenizer of ours."""
    install()
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": side * side, "longest_edge": side * side},
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return qwen3.Qwen3VLProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE)


def save_processor(processor: ProcessorMixin, folder: str | Path) -> None:
    """Save beside a model, with the video configuration that upstream looks for where torchvision is."""
    processor.save_pretrained(folder)
    if not hasattr(processor, "video_processor"):
        family = type(processor).__name__
        kind = "Qwen3VLVideoProcessor" if family == "Qwen3VLProcessor" else "Qwen2VLVideoProcessor"
        names = ("patch_size", "temporal_patch_size", "merge_size")
        sizes = {name: getattr(processor.image_processor, name) for name in names}
        file = Path(folder, "video_preprocessor_config.json")
        file.write_text(json.dumps({"video_processor_type": kind, **sizes}))
