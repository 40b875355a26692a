"""What both stages of a judge's training share: rows for TRL, its arguments, log lines, checkpoints, resume.

TRL's trainers keep weights, optimizer, schedule and random state; the order of rows is ours, drawn from the
seed and laid out whole before the first step, so that a run killed at any moment and started again ends with
the weights it would have had.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pydantic
import torch
from peft import LoraConfig
from PIL import Image
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging as upstream

from moontide.creative.judge import JudgeSettings, save_judge, settings_of
from moontide.creative.pairset import PairSet
from moontide.creative.prompt import Asked, PromptSettings, check_image_side, messages, pictures
from moontide.creative.tiny_judge import start_judge
from moontide.encoder.model.adapters import TARGETS
from moontide.foundation.device import threads
from moontide.foundation.errors import CheckpointError
from moontide.foundation.progress import Meter, track
from moontide.foundation.runs import Run
from moontide.foundation.settings import Settings, fingerprint
from moontide.foundation.storage import read_json, write_json

REMEMBERED = 8_192  # decoded pictures, 38 kB each at 112 pixels
IDENTITY = "moontide_identity.json"


class JudgeLoopSettings(Settings):
    """Optimizer, logging and checkpoints of a stage."""

    learning_rate: float = pydantic.Field(1e-3, gt=0, description="highest rate, after the warm-up")
    warmup_share: float = pydantic.Field(0.05, ge=0, lt=1, description="share of the steps that warm up")
    weight_decay: float = pydantic.Field(0.0, ge=0, description="AdamW")
    clip: float = pydantic.Field(1.0, gt=0, description="largest gradient norm")
    lora_rank: int = pydantic.Field(0, ge=0, le=512, description="rank of the adapters; 0 trains all weights")
    micro_batch: int | None = pydantic.Field(
        None, ge=1, description="sequences at once; None: all of a step's"
    )
    log_every: int = pydantic.Field(10, ge=1, description="steps between log lines")
    checkpoint_every: int = pydantic.Field(100, ge=1, description="steps between checkpoints")
    seed: int = pydantic.Field(0, description="of data order and sampling")


class Rows:
    """Rows of a training set, made when they are asked for; each row's question is shown in its own order.

    Args:
        rows: columns by name, among them "asked" (an `Asked` whose pictures are in order) and whatever the
            trainer needs beside prompt and pictures.
        prompt: how a question is rendered.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], prompt: PromptSettings):
        self.rows, self.prompt = rows, prompt
        self._seen: dict[Any, list[Image.Image]] = {}

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made = [self._made(self.rows[number]) for number in batch["row"]]
        return {name: [row[name] for row in made] for name in (made[0] if made else ())}

    def _made(self, row: dict[str, Any]) -> dict[str, Any]:
        asked: Asked = row["asked"]
        key = (id(asked.image_a), id(asked.image_b))
        if key not in self._seen:
            if len(self._seen) >= REMEMBERED // 2:
                self._seen.clear()
            self._seen[key] = pictures(asked, self.prompt)
        rest = {name: value for name, value in row.items() if name != "asked"}
        return {"prompt": messages(asked, self.prompt), "images": list(self._seen[key]), **rest}

    def dataset(self) -> datasets.Dataset:
        """As TRL wants it; nothing is copied into Arrow but row numbers."""
        return datasets.Dataset.from_dict({"row": list(range(len(self.rows)))}).with_transform(self)

    def __getstate__(self) -> dict[str, Any]:  # datasets hashes its transforms: not by all their pictures
        return {"num": len(self.rows)}


def identity_of(
    settings: JudgeLoopSettings, judge: JudgeSettings, start: Path | str, pairs: PairSet, used: Sequence[str]
) -> str:
    """Changes with anything that decides what a stage ends with; `used` names what is trained on."""
    parts = [settings.model_dump(mode="json"), judge.model_dump(mode="json"), str(start), pairs.sha256]
    return fingerprint([*parts, list(used)])


def arguments(settings: JudgeLoopSettings, folder: Path, num_steps: int, batch: int) -> dict[str, Any]:
    """What TRL's configurations have in common; `batch` counts sequences of a step."""
    on_gpu = torch.cuda.is_available()
    micro = min(settings.micro_batch or batch, batch)
    return {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, batch // micro),
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(settings.warmup_share * num_steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.clip,
        "adam_beta2": 0.98,
        "logging_steps": settings.log_every,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": 2,
        "seed": settings.seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "activation_checkpointing": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def adapters(settings: JudgeLoopSettings) -> LoraConfig | None:
    """LoRA on the decoder's linear layers, None for full weights."""
    if not settings.lora_rank:
        return None
    return LoraConfig(r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules=TARGETS)


class Silent:
    """Mixed into TRL's trainers: nothing is sent anywhere."""

    def _send_telemetry(self) -> None:
        """Leave out."""


class Logged(TrainerCallback):
    """Progress and log lines of a stage.

    Args:
        more: figures to add to each line, by step.
    """

    def __init__(
        self, stage: str, meter: Meter, run: Run | None, more: Callable[[], dict[str, float]] = dict
    ):
        self.stage, self.meter, self.run, self.more = stage, meter, run, more
        self.last: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.meter.step()
        control.should_log = control.should_log or state.global_step >= state.max_steps

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "train_runtime" in logs:
            return
        figures = {name: value for name, value in logs.items() if isinstance(value, (int, float))}
        figures |= self.more()
        self.last = figures
        if "loss" in figures:
            self.meter.note(f"loss {figures['loss']:.3f}")
        if self.run:
            self.run.log(self.stage, state.global_step, **figures)


@contextmanager
def stage_folder(stage: str, run: Run | None, identity: str) -> Generator[tuple[Path, str | None]]:
    """Where a stage's checkpoints are, and the newest one to go on from.

    Raises:
        CheckpointError: the folder holds a training with other settings or data.
    """
    with _hushed():
        if run is None:
            with tempfile.TemporaryDirectory() as name:
                yield Path(name), None
        else:
            folder = _folder(run.checkpoints(stage), identity)
            yield folder, _newest(folder)
            shutil.rmtree(folder)


@contextmanager
def _hushed() -> Generator[None]:
    """Without what transformers tells of tokens it aligned and of each log line: we say it ourselves."""
    level = upstream.get_verbosity()
    upstream.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL calls transformers by older names
            yield
    finally:
        upstream.set_verbosity(level)


def _folder(folder: Path, identity: str) -> Path:
    file = folder / IDENTITY
    if file.exists() and read_json(file) != identity:
        raise CheckpointError(
            f"{folder} was made with other settings or data: name another run, or delete {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)
    return folder


def _newest(folder: Path) -> str | None:
    while (found := get_last_checkpoint(str(folder))) is not None:
        if (Path(found) / "trainer_state.json").exists():  # written last
            return found
        shutil.rmtree(found)
    return None


def opened(
    start: Path | str, words: Sequence[str], asked: JudgeSettings | None, seed: int
) -> tuple[Any, Any, JudgeSettings]:
    """Model, processor and settings a stage starts from."""
    model, processor = start_judge(start, words, seed)
    settings = asked or settings_of(start) or JudgeSettings.for_tokenizer(processor.tokenizer)
    vision = model.config.vision_config
    check_image_side(settings.prompt, vision.patch_size, vision.spatial_merge_size)
    return model, processor, settings


def run_trainer(
    trainer: Any, stage: str, num_steps: int, run: Run | None, newest: str | None, more: Any
) -> Any:
    """Train to the end, or go on from a checkpoint; returns the last log line's figures."""
    trainer.remove_callback(PrinterCallback)
    done = int(newest.rsplit("-", 1)[1]) if newest else 0
    if run:
        run.rewind(stage, done)
    with threads(), track(num_steps - done, stage) as meter:
        logged = Logged(stage, meter, run, more)
        trainer.add_callback(logged)
        trainer.train(resume_from_checkpoint=newest)
    return logged.last


def saved(trainer: Any, processor: Any, settings: JudgeSettings, to: Path) -> None:
    """Write what a trainer ends with as a judge's folder, adapters folded in."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    save_judge(to, model.to("cpu"), processor, settings)
