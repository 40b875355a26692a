"""The training loop under every stage: schedule, steps, log lines, checkpoints, exact resume.

A step's data depend on its number alone, so that the data position *is* the step. A checkpoint holds
weights, optimizer, step and random state; a run killed at any moment and started again ends with the weights
it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import nn

from moontide.encoder.objectives.gather import average_gradients, rank
from moontide.foundation import checkpoints
from moontide.foundation.device import threads
from moontide.foundation.errors import DataError
from moontide.foundation.progress import track
from moontide.foundation.runs import Run
from moontide.foundation.settings import Settings, fingerprint

TRAINING_LAYOUTS = 32_768  # five forms of the demo's products, 130 MB at most


class LoopSettings(Settings):
    """Steps, optimizer and checkpoints of a stage."""

    num_steps: int = pydantic.Field(400, ge=1, description="optimizer steps")
    learning_rate: float = pydantic.Field(1e-3, gt=0, description="highest rate, after the warm-up")
    warmup_share: float = pydantic.Field(0.05, ge=0, le=1, description="share of the steps that warm up")
    weight_decay: float = pydantic.Field(0.05, ge=0, description="AdamW, matrices only")
    clip: float = pydantic.Field(1.0, gt=0, description="largest gradient norm")
    log_every: int = pydantic.Field(20, ge=1, description="steps between log lines")
    checkpoint_every: int = pydantic.Field(200, ge=1, description="steps between checkpoints")


def loop_of(settings: LoopSettings) -> LoopSettings:
    """The loop's own part of a stage's settings."""
    return LoopSettings(**{name: getattr(settings, name) for name in LoopSettings.model_fields})


def rate_at(step: int, settings: LoopSettings) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to 1 % of the highest."""
    warm = max(1, round(settings.num_steps * settings.warmup_share))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, settings.num_steps - warm)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def new_optimizer(modules: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; only matrices decay, but not the preferences of experts."""
    named = [(name, one) for name, one in modules.named_parameters() if one.requires_grad]
    decays = [one for name, one in named if one.ndim >= 2 and not name.endswith("preference")]
    others = [one for name, one in named if one.ndim < 2 or name.endswith("preference")]
    groups = [
        {"params": decays, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def train(
    stage: str,
    modules: nn.Module,
    backward: Callable[[int], dict[str, float]],
    settings: LoopSettings,
    run: Run | None = None,
    asked: Any = None,
    after_step: Callable[[], None] | None = None,
    state: nn.Module | None = None,
    batch_ids: Callable[[int], Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Run the steps of a stage, or those an interrupted call left over.

    With ranks (torchrun), gradients are averaged over them after each step and the first rank keeps the run.

    Args:
        stage: names the log lines and the checkpoint folder.
        modules: everything that is trained.
        backward: computes the gradients of a step and returns figures to log ("loss" among them).
        settings: see `LoopSettings`.
        run: where to log and keep checkpoints; None keeps nothing.
        asked: what else decides the outcome (settings, data): a checkpoint of something else is refused.
        after_step: called after every optimizer step.
        state: what is not trained but decides the next step, such as a queue of negatives; kept and restored.
        batch_ids: what a step's batch holds, for the error.

    Returns:
        steps, first and last logged loss, seconds of training in all calls, steps run in this call.

    Raises:
        DataError: the loss or its gradient is no number.
        CheckpointError: the run was made with other settings or data.
    """
    optimizer = new_optimizer(modules, settings)
    folder = run.checkpoints(stage) if run else None
    identity = fingerprint([settings.model_dump(mode="json"), asked])
    start, spent = restore(folder, modules, optimizer, identity, state) if folder else (0, 0.0)
    run, folder = (run, folder) if rank() == 0 else (None, None)
    if run:
        run.rewind(stage, start - 1)
    modules.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    began, figures = time.monotonic(), {}
    with threads(), track(settings.num_steps - start, stage) as meter:
        for step in range(start, settings.num_steps):
            rate = rate_at(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            figures = backward(step)
            average_gradients(parameters)
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
            if not (math.isfinite(figures["loss"]) and math.isfinite(norm)):
                raise _no_number(stage, step, figures["loss"], folder, batch_ids)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if after_step:
                after_step()
            meter.step()
            meter.note(f"loss {figures['loss']:.3f}")
            is_last = step + 1 == settings.num_steps
            if run and (step % settings.log_every == 0 or is_last):
                run.log(stage, step, **figures, rate=rate, gradient_norm=float(norm))
            if folder and ((step + 1) % settings.checkpoint_every == 0 or is_last):
                keep(folder, modules, optimizer, identity, step + 1, spent + time.monotonic() - began, state)
    modules.eval()
    seconds = spent + time.monotonic() - began
    results = {"steps": settings.num_steps, "seconds": seconds, "steps_here": meter.done}
    lines = run.metrics(stage) if run else []
    if lines:
        results |= {"first_loss": lines[0]["loss"], "last_loss": lines[-1]["loss"]}
    return {**results, **{name: value for name, value in figures.items() if name != "loss"}}


def _no_number(
    stage: str, step: int, loss: float, folder: Path | None, ids: Callable[[int], Sequence[str]] | None
) -> DataError:
    batch = f" of {', '.join(list(ids(step))[:20])}" if ids else ""
    what = f"the loss is {loss}" if not math.isfinite(loss) else "a gradient is no finite number"
    last = checkpoints.last_of(folder)
    return DataError(f"{stage} stopped at step {step}: {what} on the batch{batch}; {last}")


def keep(
    folder: Path,
    modules: nn.Module,
    optimizer: Any,
    identity: str,
    step: int,
    seconds: float,
    extra: nn.Module | None = None,
) -> None:
    """Write a checkpoint whole, then drop all but the newest two."""
    trained = {name for name, parameter in modules.named_parameters() if parameter.requires_grad}
    state = {
        "state": extra.state_dict() if extra else {},
        "identity": identity,
        "step": step,
        "seconds": seconds,
        "weights": {name: value for name, value in modules.state_dict().items() if name in trained},
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    checkpoints.keep(folder, f"step-{step:08d}", state)


def restore(
    folder: Path, modules: nn.Module, optimizer: Any, identity: str, extra: nn.Module | None = None
) -> tuple[int, float]:
    """Load the newest checkpoint; gives the step to go on with and the seconds spent so far, 0 without one.

    Raises:
        CheckpointError: it was made with other settings or data.
    """
    state = checkpoints.newest(folder, identity)
    if state is None:
        return 0, 0.0
    result = modules.load_state_dict(state["weights"], strict=False)
    assert not result.unexpected_keys
    optimizer.load_state_dict(state["optimizer"])
    if extra:
        extra.load_state_dict(state["state"])
    torch.set_rng_state(state["random"])
    return state["step"], state["seconds"]
