"""A trained click model as one graph that any runtime can run: one request, its candidates, plain tensors.

    settings.json, model.pt ──► `RequestModel` ──► torch.export ──► click.pt2
                                                       └──► ONNX ──► click.onnx   and click.json, which says
                                                                                  what goes in and comes out

The graph scores N candidates of one shopper, whose side stands in it once. Rows of embedding tables, vectors
and numbers come in ready: looking them up is the server's part (`engine.py`), and so is calibrating the
logits that come out.

It is one graph, not one for the shopper and one for the candidates: of a request with 500 candidates the
shopper's side is 4 to 11 % (`benchmarks/rank.py`), and a state handed from graph to graph would be a second
format to keep.

Letters: N candidates.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moontide.foundation.errors import CheckpointError, StorageError
from moontide.foundation.storage import read_json, storage_errors, write_bytes, write_json
from moontide.ranking.counters import FEATURES
from moontide.ranking.request_model import (
    CANDIDATES,
    STEPS,
    Inputs,
    RequestModel,
    example_inputs,
    inputs_of,
    steps_of,
)
from moontide.ranking.train import Trained

FORMAT, OPSET = 1, 18
PROGRAM, GRAPH, FACTS = "click.pt2", "click.onnx", "click.json"
AGREEMENT = 1e-4  # most that a graph's logit may differ from the model's, in units of max(1, |logit|)


def export_model(folder: Path | str) -> Path:
    """Write click.pt2, click.onnx and click.json beside the model in `folder`; click.json comes last.

    Both graphs are run against the model before anything is written.

    Returns:
        The path of click.onnx.

    Raises:
        CheckpointError: no model in `folder`, or a graph that gives other numbers than the model.
        StorageError: the folder cannot be written.
    """
    folder = Path(folder)
    model = RequestModel(Trained.load(folder).model)
    program, onnx = _traced(model)
    with storage_errors(folder), tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as fresh:
        onnx.save(Path(fresh) / GRAPH)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write_bytes(Path(fresh) / PROGRAM, buffer.getvalue())
        check_agreement(model, run_graph(Path(fresh) / GRAPH), "ONNX")
        check_agreement(model, run_program(Path(fresh) / PROGRAM), "torch.export")
        (folder / FACTS).unlink(missing_ok=True)  # it marks a whole export: none, while files are replaced
        files = {file.name: sha256_of(file) for file in sorted(Path(fresh).iterdir())}
        for name in files:
            (Path(fresh) / name).replace(folder / name)
    low, high = steps_of(model.model)
    facts = {
        "format": FORMAT,
        "opset": OPSET,
        "model_sha256": sha256_of(folder / "model.pt"),
        "files": files,
        "axes": {CANDIDATES: [1, None], STEPS: [low, high]},
        "inputs": [asdict(one) for one in inputs_of(model.model)],
        "outputs": [{"name": "click_logit", "shape": [CANDIDATES], "dtype": "float32"}],
        "request_fields": model.model.request_fields,
        "item_fields": model.model.item_fields,
        "numbers": FEATURES,
    }
    write_json(folder / FACTS, facts)
    return folder / GRAPH


def exported_facts(folder: Path | str) -> dict[str, Any]:
    """click.json of a folder whose graph is whole and was made from the model there.

    Raises:
        CheckpointError: there is none, it is broken, or it belongs to another model.
    """
    folder = Path(folder)
    again = f"run `moontide ranking export {folder}`"
    try:
        facts = read_json(folder / FACTS)
        if facts["format"] != FORMAT:
            raise CheckpointError(f"{folder / FACTS} is of format {facts['format']}, not {FORMAT}: {again}")
        if facts["model_sha256"] != sha256_of(folder / "model.pt"):
            raise CheckpointError(f"{folder / GRAPH} was made from another model than model.pt: {again}")
        for name, sha256 in facts["files"].items():
            if name.startswith(GRAPH) and sha256_of(folder / name) != sha256:
                raise CheckpointError(f"{folder / name} is not the file that was exported: {again}")
    except (StorageError, OSError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"no whole export of the click model at {folder} ({error}): {again}") from None
    return facts


def run_graph(file: Path, threads: int = 1) -> Callable[[Inputs], np.ndarray]:
    """click.onnx as a function from inputs to logits (N,); many threads may call it at once.

    Args:
        threads: that one call uses.

    Raises:
        CheckpointError: the file is missing or no graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a server has others to serve
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes of its own, all straight below Exception
        raise CheckpointError(f"{file} cannot be run ({error}): export the click model again") from None
    return lambda inputs: np.asarray(session.run(None, inputs)[0])


def run_program(file: Path) -> Callable[[Inputs], np.ndarray]:
    """click.pt2 as a function from inputs to logits (N,)."""
    module = torch.export.load(file).module()

    def run(inputs: Inputs) -> np.ndarray:
        with torch.no_grad():
            return module(_tensors(inputs)).numpy()

    return run


def check_agreement(model: RequestModel, run: Callable[[Inputs], np.ndarray], name: str) -> None:
    """Compare a graph with the model on made-up requests of several sizes.

    Raises:
        CheckpointError: some logit differs by more than rounding.
    """
    low, high = steps_of(model.model)
    for num, steps in ((1, low), (2, high), (17, (low + high) // 2)):
        # A cosine on the edge of a tier may fall to either side: one draw of a thousand, so not in all three.
        worst = min(_difference(model, run, name, num, steps, seed) for seed in range(3))
        if not worst <= AGREEMENT:
            raise CheckpointError(
                f"the {name} graph differs from the model by {worst:.1e}: report this model"
            )


def _difference(
    model: RequestModel, run: Callable[[Inputs], np.ndarray], name: str, num: int, steps: int, seed: int
) -> float:
    """The largest difference of a logit, in units of max(1, |logit|)."""
    inputs = example_inputs(model.model, num, steps, seed)
    with torch.no_grad():
        expected = model(_tensors(inputs)).numpy()
    try:
        found = run(inputs)
    except Exception as error:  # a runtime's own, of a graph with other inputs
        raise CheckpointError(f"the {name} graph is not of this model ({error}): export it again") from None
    return float(np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected))))


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _traced(model: RequestModel) -> tuple[torch.export.ExportedProgram, torch.onnx.ONNXProgram]:
    """The model as both graphs."""
    inputs, (low, high) = inputs_of(model.model), steps_of(model.model)
    axes = {CANDIDATES: torch.export.Dim(CANDIDATES, min=1)}
    if low < high:
        axes[STEPS] = torch.export.Dim(STEPS, min=low, max=high)
    shapes = {
        one.name: {place: axes[axis] for place, axis in enumerate(one.shape) if isinstance(axis, str)}
        for one in inputs
    }
    # Traced on a request of neither 0 nor 1 of anything, for those sizes would be taken as constants.
    example = example_inputs(model.model, 3, max(low, min(2, high)))
    given = _tensors(example)
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (given,), dynamic_shapes=(shapes,), strict=False)
        names = [one.name for one in inputs]
        onnx = torch.onnx.export(
            program,
            dynamic_shapes=(shapes,),  # for the names of the axes
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=["click_logit"],
            verbose=False,
        )
    assert onnx is not None
    return program, onnx


@contextmanager
def _quiet(name: str) -> Generator[None]:
    """Without a library's warnings about what is not installed."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tensors(inputs: Inputs) -> dict[str, Tensor]:
    return {name: torch.from_numpy(column) for name, column in inputs.items()}
