"""A judge of two creatives: a vision-language model that reasons along the protocol and names a letter.

A verdict's probability is read where the letter stands: a softmax over the two letters alone. A duel asks in
both orders and averages, since a judge may prefer a place to a picture.

    s(A, B) = ( p(A | order A, B) + 1 - p(A | order B, A) ) / 2          s(A, B) + s(B, A) = 1

Paper: Creative4U 3.3 (prompt, paper reported) and 3.6 (probabilities, ties; ours).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pydantic
import torch
from PIL import Image
from transformers.utils import logging as upstream

from moontide.creative.letters import Letters, Wrote, forced_scores, generate
from moontide.creative.prompt import Asked, PromptSettings, check_image_side, messages, pictures
from moontide.creative.protocol import QUESTIONS, parse
from moontide.creative.records import CreativePair, Verdict
from moontide.creative.tiny_judge import has_protocol_tokens, load_model, tiny_prompt
from moontide.encoder.model.processor import save_processor
from moontide.foundation.device import pick_device, threads
from moontide.foundation.errors import CheckpointError, SettingsError, StorageError
from moontide.foundation.progress import track
from moontide.foundation.settings import Settings
from moontide.foundation.storage import read_json, write_json

FILE = "moontide_judge.json"
TIE_BAND = (0.45, 0.55)
IDENTICAL = "identical pictures"
UNFINISHED = "</think><answer>"  # what a completion without an answer is closed with to read the letters


class JudgeSettings(Settings):
    """What a judge is shown and how much it may write; saved beside its weights."""

    prompt: PromptSettings = pydantic.Field(PromptSettings(), description="what it is shown and asked")
    max_tokens: int = pydantic.Field(1024, ge=1, description="longest completion")
    num_samples: int = pydantic.Field(
        0, ge=0, le=64, description="sampled reasonings whose chances are averaged; 0: the greedy one's alone"
    )

    @classmethod
    def for_tokenizer(cls, tokenizer: Any) -> Self:
        """The defaults: short prompts and 32 tokens for a tiny judge."""
        return cls(prompt=tiny_prompt(), max_tokens=32) if has_protocol_tokens(tokenizer) else cls()


@dataclass(frozen=True)
class Duel:
    """One pair asked in both orders.

    Args:
        s_a: chance that A is clicked more, mean of both orders.
        is_tie: within the tie band, or the orders name different pictures, or one names none.
        forward: the verdict with A first.
        backward: the verdict with B first; its letters and answers are in that order.
    """

    s_a: float
    is_tie: bool
    forward: Verdict
    backward: Verdict

    @classmethod
    def of(cls, forward: Verdict, backward: Verdict) -> Self:
        """Both orders of one pair, brought together."""
        s_a = (forward.p_a + 1 - backward.p_a) / 2
        letters = (forward.letter, backward.letter)
        agree = letters in (("A", "B"), ("B", "A"))  # the same picture bears the other letter there
        return cls(s_a, not agree or TIE_BAND[0] <= s_a <= TIE_BAND[1], forward, backward)


class Judge:
    """Compares two creatives of a product. Use `Judge.load`.

    Args:
        model: a Qwen-VL model with its language head.
        processor: of the same checkpoint.
        settings: see `JudgeSettings`; None takes the defaults for its tokenizer.
        device: where it runs; None picks one.

    Raises:
        SettingsError: `image_side` is no multiple of the model's patch x merge size.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        settings: JudgeSettings | None = None,
        device: torch.device | str | None = None,
    ):
        self.settings = settings or JudgeSettings.for_tokenizer(processor.tokenizer)
        self.processor = processor
        self.device = torch.device(device) if device else pick_device()
        self.model = model.to(self.device).eval()
        vision = model.config.vision_config
        check_image_side(self.settings.prompt, vision.patch_size, vision.spatial_merge_size)

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str | None = None, **changes: Any) -> Self:
        """A judge from any Qwen-VL folder or Hub id; one that was never trained here judges zero-shot.

        Args:
            path: its folder, the run folder of its training, or a Hub id.
            changes: fields of `JudgeSettings` to set differently, for instance `prompt`.

        Raises:
            CheckpointError: no model there, one of another family, or broken settings beside it.
        """
        if (Path(path) / "judge" / FILE).exists():
            path = Path(path) / "judge"
        model, processor = load_model(path)
        settings = settings_of(path) or JudgeSettings.for_tokenizer(processor.tokenizer)
        return cls(model, processor, settings.but(**changes) if changes else settings, device)

    def save(self, folder: Path | str) -> None:
        """Write weights, processor and settings; `load` gives the same judge back."""
        save_judge(folder, self.model, self.processor, self.settings)

    @cached_property
    def version(self) -> str:
        """Twelve hex digits that change with weights or settings."""
        digest = hashlib.sha256(self.settings.fingerprint().encode())
        for name, one in self.model.named_parameters():
            flat = one.detach().flatten()
            figures = [float(flat.double().sum()), *flat[:: max(1, len(flat) // 16)][:16].tolist()]
            digest.update(f"{name}{tuple(one.shape)}{figures}".encode())
        return digest.hexdigest()[:12]

    @cached_property
    def letters(self) -> Letters:
        """The tokens in which this tokenizer writes the letters."""
        return Letters.of(self.processor.tokenizer)

    # --- asking ---------------------------------------------------------------------------------------------

    def inputs(self, asked: Sequence[Asked], images: Sequence[Sequence[Image.Image]]) -> dict[str, Any]:
        """The model's inputs for questions whose pictures are decoded, padded on the left."""
        rendered = [
            self.processor.apply_chat_template(
                messages(one, self.settings.prompt), tokenize=False, add_generation_prompt=True
            )
            for one in asked
        ]
        batch = self.processor(
            text=rendered, images=[list(pair) for pair in images], padding=True, return_tensors="pt",
            padding_side="left",
        )  # fmt: skip
        return {name: value.to(self.device) for name, value in batch.items()}

    def compare(
        self, questions: Sequence[Asked], batch_size: int = 32, what: str | None = None
    ) -> list[Verdict]:
        """Verdicts in one order, as asked.

        Identical pictures are not put to the model: their verdict names no letter.

        Args:
            what: shown beside the progress bar; None shows none.

        Raises:
            ImageError: a picture is missing or cannot be read; the text names which.
        """
        found: list[Verdict | None] = [None] * len(questions)
        asked: list[int] = []
        images: dict[int, list[Image.Image]] = {}
        with threads(), track(len(questions), what or "comparing") as meter:
            for first in range(0, len(questions), batch_size):
                window = range(first, min(first + batch_size, len(questions)))
                images = {row: pictures(questions[row], self.settings.prompt) for row in window}
                asked = [row for row in window if not _is_same(questions[row], images[row])]
                for row in set(window) - set(asked):
                    found[row] = self._identical(questions[row])
                verdicts = self._judged([questions[row] for row in asked], [images[row] for row in asked])
                for row, verdict in zip(asked, verdicts, strict=True):
                    found[row] = verdict
                meter.step(len(window))
        return [verdict for verdict in found if verdict is not None]

    @torch.no_grad()
    def _judged(self, asked: list[Asked], images: list[list[Image.Image]]) -> list[Verdict]:
        if not asked:
            return []
        if self.settings.prompt.mode == "answer":
            inputs = self.inputs(asked, images)
            p_a = forced_scores(self.model, self.processor.tokenizer, inputs, ["<answer>"] * len(asked))
            return [self._answer_only(one, p) for one, p in zip(asked, p_a, strict=True)]
        written, num = self._written(asked, images), self.settings.num_samples
        p_a = [one.p_a for one in written]
        if num:
            sampled = [one.p_a for one in self._sampled(asked, images, num, 1.0, 0)]
            p_a = [sum(sampled[at : at + num]) / num for at in range(0, len(sampled), num)]
        return [self._verdict(one, wrote.text, p) for one, wrote, p in zip(asked, written, p_a, strict=True)]

    def _written(
        self, asked: Sequence[Asked], images: Sequence[Sequence[Image.Image]], temperature: float = 0.0
    ) -> list[Wrote]:
        """Completions; where one names no letter, its reasoning is closed for it to read the chance."""
        inputs, tokenizer = self.inputs(asked, images), self.processor.tokenizer
        limit = self.settings.max_tokens
        written = generate(self.model, tokenizer, inputs, limit, self.letters, temperature)
        if all(one.has_letter for one in written):
            return written
        prefixes = [
            "" if one.has_letter else one.text.split("</think>")[0].split("<answer>")[0] + UNFINISHED
            for one in written
        ]
        forced = forced_scores(self.model, tokenizer, inputs, prefixes)
        return [
            one if one.has_letter else replace(one, p_a=p) for one, p in zip(written, forced, strict=True)
        ]

    def _sampled(
        self,
        asked: Sequence[Asked],
        images: Sequence[Sequence[Image.Image]],
        num: int,
        temperature: float,
        seed: int,
    ) -> list[Wrote]:
        """`num` sampled completions of each question, side by side."""
        rows = [row for row in range(len(asked)) for _ in range(num)]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            return self._written([asked[row] for row in rows], [images[row] for row in rows], temperature)

    def _verdict(self, asked: Asked, text: str, p_a: float) -> Verdict:
        reading = parse(text)
        return Verdict(
            pair_id=asked.pair_id,
            order="ab",
            letter=reading.letter_strict or reading.letter_lenient,
            p_a=p_a,
            answers=dict(reading.answers),
            text=text,
            parsed_strict=reading.letter_strict is not None,
            parsed_lenient=reading.letter_lenient is not None,
            model_version=self.version,
        )

    def _answer_only(self, asked: Asked, p_a: float) -> Verdict:
        letter = "A" if p_a > 0.5 else "B" if p_a < 0.5 else None
        return Verdict(
            asked.pair_id, "ab", letter, p_a, dict.fromkeys(q.key for q in QUESTIONS),
            f"<answer>{letter or ''}</answer>", letter is not None, letter is not None, self.version,
            "answer only",
        )  # fmt: skip

    def _identical(self, asked: Asked) -> Verdict:
        answers: dict[str, str | None] = {q.key: None for q in QUESTIONS} | {"Q1": "YES", "Q2": "YES"}
        return Verdict(asked.pair_id, "ab", None, 0.5, answers, "", False, False, self.version, IDENTICAL)

    def duels(
        self,
        pairs: Sequence[CreativePair | Asked],
        picture: Callable[[str], bytes] | None = None,
        batch_size: int = 32,
        what: str | None = None,
    ) -> list[Duel]:
        """Each pair in both orders.

        Args:
            pairs: questions, or pairs of a set whose `picture` gives the bytes of an image id.

        Raises:
            ImageError: a picture is missing or cannot be read.
        """
        asked = [one if isinstance(one, Asked) else Asked.of(one, picture) for one in pairs]
        both = [turned for one in asked for turned in (one, one.swapped())]
        verdicts = self.compare(both, batch_size, what)
        return [
            Duel.of(forward, replace(backward, order="ba"))
            for forward, backward in zip(verdicts[::2], verdicts[1::2], strict=True)
        ]

    @torch.no_grad()
    def sample(
        self, questions: Sequence[Asked], num: int, temperature: float = 1.0, seed: int = 0
    ) -> list[list[str]]:
        """`num` sampled completions of each question; the same seed gives the same ones on one machine.

        Raises:
            ImageError: a picture is missing or cannot be read.
        """
        images = [pictures(one, self.settings.prompt) for one in questions]
        with threads():
            texts = [one.text for one in self._sampled(questions, images, num, temperature, seed)]
        return [texts[at : at + num] for at in range(0, len(texts), num)]


def _is_same(asked: Asked, images: Sequence[Image.Image]) -> bool:
    if asked.image_a == asked.image_b:
        return True
    first, second = images
    return first.size == second.size and np.array_equal(np.asarray(first), np.asarray(second))


def settings_of(path: Path | str) -> JudgeSettings | None:
    """The settings beside a judge's weights, None where there are none.

    Raises:
        CheckpointError: they cannot be read.
    """
    file = Path(path) / FILE
    if not file.exists():
        return None
    try:
        return JudgeSettings.model_validate(read_json(file))
    except (SettingsError, StorageError, pydantic.ValidationError) as error:
        raise CheckpointError(
            f"{file} is broken ({str(error).splitlines()[0]}): train the judge again"
        ) from None


def save_judge(folder: Path | str, model: Any, processor: Any, settings: JudgeSettings) -> None:
    """Weights, processor and settings in one folder, loadable by transformers alone as well."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    upstream.disable_progress_bar()
    model.save_pretrained(folder)
    save_processor(processor, folder)
    write_json(Path(folder) / FILE, settings.model_dump(mode="json"))
