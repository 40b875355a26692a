"""A vision-language model that is asked where the product is.

Qwen2.5-VL answers in pixels of the picture it was given after its processor resized it, Qwen3-VL in
thousandths of the sides. An answer that holds no box is no error: the crop is then the whole picture.

Paper: MOON 3.2: the grounding ability of a vision-language model, asked with picture and title (paper
reported; the prompt is ours, in the format these models were trained with).
"""

from __future__ import annotations

import re
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from moontide.catalog.regions import Box, checked_box
from moontide.encoder.model.backbone import FAMILIES
from moontide.encoder.model.encoder import BROKEN
from moontide.encoder.model.processor import TOKENS, load_processor
from moontide.foundation.device import pick_device
from moontide.foundation.errors import CheckpointError, ImageError
from moontide.foundation.settings import fingerprint

PROMPT = (
    "Locate the one product that this title describes and output its bbox coordinates in JSON format: {title}"
)
TITLE_CHARACTERS = 300
ANSWER_TOKENS = 64
ANSWER_CHARACTERS = 2_000
_NUMBER = r"\s*[\"']?(-?\d{1,6}(?:\.\d{1,9})?)[\"']?\s*"
_BOXES = (
    re.compile(r"\[" + ",".join([_NUMBER] * 4) + r"\]"),  # {"bbox_2d": [1, 2, 3, 4]}
    re.compile(r"\(" + _NUMBER + "," + _NUMBER + r"\)\s*,\s*\(" + _NUMBER + "," + _NUMBER + r"\)"),
)


def told_box(answer: str) -> tuple[float, float, float, float] | None:
    """The first four coordinates that an answer gives, whatever stands around them, or None.

    Example:
        >>> told_box('```json\\n[{"bbox_2d": [10, 20, 110, 220], "label": "shoe"}]\\n```')
        (10.0, 20.0, 110.0, 220.0)
        >>> told_box("There is no shoe.") is None
        True
    """
    found = [match for form in _BOXES if (match := form.search(answer[:ANSWER_CHARACTERS]))]
    if not found:
        return None
    x0, y0, x1, y1 = (float(edge) for edge in min(found, key=lambda match: match.start()).groups())
    return x0, y0, x1, y1


class GroundingFinder:
    """Boxes as a Qwen2.5-VL or Qwen3-VL tells them; a title in any language the model reads.

    Args:
        model, processor: of one checkpoint.
        name: what tells this checkpoint from others, for the version.

    Raises:
        CheckpointError: a model of another family.
    """

    def __init__(self, model: Any, processor: Any, name: str):
        family = model.config.model_type
        if family not in FAMILIES:
            raise CheckpointError(f"{name} is a {family}: boxes are told by {', '.join(FAMILIES)}")
        self._model, self._processor = model.eval(), processor
        self._in_pixels = family == "qwen2_5_vl"
        # A model may sample a picture's place holder, which its next forward refuses.
        known = processor.tokenizer.get_added_vocab()
        self._banned = [known[token] for token in TOKENS.values() if token in known]
        self.version = f"grounding-{fingerprint([name, PROMPT])}"

    @classmethod
    def load(cls, path: str) -> Self:
        """From a model folder or Hub id.

        Raises:
            CheckpointError: nothing loadable there, or another family.
        """
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype="auto")
            return cls(model.to(pick_device()), load_processor(path), path)
        except BROKEN as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(f"no model that tells boxes can be loaded from {path}: {reason}") from None

    @torch.inference_mode()
    def find(self, picture: np.ndarray, title: str) -> tuple[Box, float] | None:
        """The box, and the geometric mean of its tokens' probabilities; None where the answer has no box."""
        title = " ".join(title.split())[:TITLE_CHARACTERS]
        said = [{"type": "image"}, {"type": "text", "text": PROMPT.format(title=title or "the product")}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": said}], tokenize=False, add_generation_prompt=True
        )
        try:
            batch = self._processor(text=[text], images=[Image.fromarray(picture)], return_tensors="pt")
        except ValueError as error:  # a picture two hundred times as long as wide
            raise ImageError("too_long", f"the model's processor refuses a picture: {error}") from None
        output = self._model.generate(
            **batch.to(self._model.device),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            suppress_tokens=self._banned or None,
            return_dict_in_generate=True,
            output_scores=True,
        )
        answered = output.sequences[0, batch["input_ids"].shape[1] :]
        told = told_box(self._processor.tokenizer.decode(answered, skip_special_tokens=True))
        if told is None:
            return None
        height, width = batch["image_grid_thw"][0, 1:].tolist()
        patch = self._processor.image_processor.patch_size
        sides = (width * patch, height * patch) * 2 if self._in_pixels else (1000,) * 4
        box = checked_box(np.divide(told, sides))
        scores = self._model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        return None if box is None else (box, float(scores.float().mean().exp()))
