"""Who writes enriched titles and draws added pictures: a checkpoint's own answers, or models of others.

Paper: MOON2.0 3.3: T+ = MLLM_text(T, I, E), I_m and I_k^c = MLLM_edit(I_m, T, prompt_k) (paper reported; the
prompts, and answers in the place of a large model, are ours).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from moontide.catalog.dataset import Dataset
from moontide.catalog.entities import EntityExtractor, words_of
from moontide.catalog.records import Product
from moontide.encoder.model.encoder import BATCH_TOKENS, BROKEN, MoonEncoder, token_batches
from moontide.encoder.model.processor import TOKENS, load_processor
from moontide.encoder.stages.pretrain import answer_logits
from moontide.encoder.stages.questions import Question, ask
from moontide.encoder.stages.rows import groups_and_split
from moontide.foundation.errors import CheckpointError, ImageError
from moontide.foundation.settings import fingerprint

if TYPE_CHECKING:
    from moontide.catalog.regions import Box

LEAST_P = 0.8
MAX_VALUES = 24

TITLE_PROMPT = (
    "Write one fluent, complete product title of at most 60 words for the product in the picture. "
    "Keep every one of these words: {entities}. Add only facts that can be seen in the picture. "
    "No brand or model that is not given, no marketing words. Answer with the title alone. "
    "The title is now: {title}"
)
MAIN_PROMPT = "Remove everything but the product on plain ground, the product unchanged. It is: {title}"
CONTEXT_PROMPTS = (
    "Put the product before another fitting background, the product unchanged. It is: {title}",
    "Show the same product from a slightly different angle. It is: {title}",
    "Show the same product in different, natural light. It is: {title}",
    "Show the same product with its logo and details sharper. It is: {title}",
)


class AnswerEnricher:
    """Adds to a title what a checkpoint of `stages/pretrain.py` is sure to see in the picture.

    For every attribute of the product's category it asks as training did, and weighs the known values:

        p(value) = P(value | picture, key) / sum_v P(v | picture, key)

    A value of p >= 0.8 is added, unless the title names a value of that key already: a second one might
    contradict it.

    Args:
        encoder: the checkpoint; its backbone answers.
        dataset: the products of its train split say which keys a leaf category has, and which values a key.
        least_p: what is surer than this is added.
        max_values: of a key at most, the most frequent; a key of a single value is not asked.

    Attributes:
        values: by key, the most frequent first.

    Paper: MOON2.0 3.3 (4): 0.8 (ours).
    """

    source = "answers"

    def __init__(
        self,
        encoder: MoonEncoder,
        dataset: Dataset,
        least_p: float = LEAST_P,
        max_values: int = MAX_VALUES,
    ):
        self._backbone, self.least_p = encoder.backbone, least_p
        self.version = encoder.fingerprint()
        products = dataset.products()
        _, is_train = groups_and_split(dataset, [product.product_id for product in products])
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        keys: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for product, wanted in zip(products, is_train, strict=True):
            for key, values in product.attributes.items() if wanted else ():
                counts[key].update(value for value in values if value)
                keys[product.category].add(key)
        self.values = {
            key: tuple(sorted(sorted(own), key=lambda value: -own[value])[:max_values])
            for key, own in counts.items()
        }
        self._keys = {path: tuple(sorted(own)) for path, own in keys.items()}

    def enrich(self, product: Product, picture: np.ndarray | None) -> str | None:
        """The title and the values that are sure; None where there are none, or no title or picture."""
        title = " ".join(product.title.split())
        if picture is None or not title:
            return None
        said = f" {' '.join(words_of(title))} "
        keys = [key for key in self._keys.get(product.category, ()) if self._is_open(key, said)]
        found = []
        for key, p in zip(keys, self.probabilities(picture, keys), strict=True):
            best = int(p.argmax())
            if p[best] >= self.least_p:
                found.append(self.values[key][best])
        return ", ".join([title, *dict.fromkeys(found)]) if found else None

    def _is_open(self, key: str, said: str) -> bool:
        values = self.values.get(key, ())
        return len(values) > 1 and not any(f" {' '.join(words_of(value))} " in said for value in values)

    @torch.inference_mode()
    def probabilities(self, picture: np.ndarray, keys: Sequence[str]) -> list[np.ndarray]:
        """For each key the probabilities of its values, in the order of their frequency."""
        if not keys:
            return []
        pixels = self._backbone.pixels(picture)
        pairs = [(key, value) for key in keys for value in self.values[key]]
        asked = [ask(self._backbone, Question("attribute", pixels, "", key, value)) for key, value in pairs]
        patches = asked[0].prepared.pictures  # one object: the vision tower sees it once a batch
        asked = [replace(one, prepared=replace(one.prepared, pictures=patches)) for one in asked]
        log_p = np.zeros(len(asked))
        for rows in token_batches([len(one) for one in asked], BATCH_TOKENS):
            logits_NV, target_N = answer_logits(self._backbone, [asked[row] for row in rows])
            token_N = logits_NV.float().log_softmax(1).gather(1, target_N[:, None])[:, 0]
            parts = token_N.split([int(asked[row].is_answer.sum()) for row in rows])
            log_p[list(rows)] = [float(part.sum()) for part in parts]
        ends = np.cumsum([len(self.values[key]) for key in keys])[:-1]
        return [_softmax(part) for part in np.split(log_p, ends)]


def _softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max())
    return p / p.sum()


class GenerativeEnricher:
    """Lets a vision-language model write the title.

    Args:
        path: a transformers model folder or Hub id, its processor beside it.
        entities: finds what the title must keep; it is told to the model, and checked afterwards.
        max_tokens: of the answer.

    Raises:
        CheckpointError: nothing loadable there.

    Paper: MOON2.0 3.3 (1): T+ = MLLM_text(T, I, E) under a controlled prompt (paper reported; prompt ours).
    """

    source = "generated"

    def __init__(self, path: str, entities: EntityExtractor, max_tokens: int = 96, device: str = "cpu"):
        self._entities, self._max_tokens = entities, max_tokens
        try:
            self._processor: Any = load_processor(path)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(path).to(device).eval()
        except BROKEN as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(f"no model that writes can be loaded from {path}: {reason}") from None
        # A model may sample a picture's place holder, which its next forward refuses.
        known = self._processor.tokenizer.get_added_vocab()
        self._banned = [known[token] for token in TOKENS.values() if token in known]
        self.version = f"{path} {fingerprint(TITLE_PROMPT)}"

    @torch.inference_mode()
    def enrich(self, product: Product, picture: np.ndarray | None) -> str | None:
        """The first line that the model writes, without quotes; None for a product without a title."""
        title = " ".join(product.title.split())
        if not title:
            return None
        names = dict.fromkeys(entity.text for entity in self._entities.find(title))
        said: list[dict[str, str]] = [] if picture is None else [{"type": "image"}]
        said.append({"type": "text", "text": TITLE_PROMPT.format(entities=", ".join(names), title=title)})
        chat = [{"role": "user", "content": said}]
        text = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        images = None if picture is None else [Image.fromarray(picture)]
        batch = self._processor(text=[text], images=images, return_tensors="pt").to(self._model.device)
        ids = self._model.generate(
            **batch, max_new_tokens=self._max_tokens, do_sample=False, suppress_tokens=self._banned or None
        )
        answer = self._processor.tokenizer.decode(
            ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        lines = [line.strip(" \"'\u201c\u201d") for line in answer.splitlines()]
        return next((line for line in lines if line), None)


class GenerativeExpander:
    """Lets a picture editor draw the added pictures.

    Args:
        edit: (Pillow image, prompt) -> Pillow image or pixels, for instance
            `lambda image, prompt: pipeline(image=image, prompt=prompt).images[0]`.
        version: what to call it beside its pictures.

    Paper: MOON2.0 3.3 (2) (paper reported; prompts ours).
    """

    source = "edited"

    def __init__(self, edit: Callable[[Image.Image, str], Image.Image | np.ndarray], version: str):
        self._edit = edit
        self.version = f"{version} {fingerprint([MAIN_PROMPT, *CONTEXT_PROMPTS])}"

    def main(self, picture: np.ndarray, box: Box, title: str) -> np.ndarray:
        return self._edited(picture, MAIN_PROMPT.format(title=title))

    def context(self, picture: np.ndarray, box: Box, number: int, title: str) -> np.ndarray:
        return self._edited(picture, CONTEXT_PROMPTS[(number - 1) % len(CONTEXT_PROMPTS)].format(title=title))

    def _edited(self, picture: np.ndarray, prompt: str) -> np.ndarray:
        try:
            edited = self._edit(Image.fromarray(picture), prompt)
        except Exception as error:  # whatever a model of others raises must not end the job
            raise ImageError("not_edited", f"the editor failed: {error}") from error
        pixels = np.asarray(edited.convert("RGB") if isinstance(edited, Image.Image) else edited)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ImageError("not_pixels", f"the editor gave {pixels.shape} {pixels.dtype}, not a picture")
        return pixels
