"""A trained click model as one graph that any runtime can run: one request, its candidates, plain tensors.

    settings.json, model.pt ──► `RequestModel` ──► torch.export ──► click.pt2
                                                       └──► ONNX ──► click.onnx   and click.json, which says
                                                                                  what goes in and comes out

The graph scores N candidates of one shopper. What belongs to the shopper (embeddings, keys and values of the
behaviors, the request's part of the tower) stands in it once and is never repeated for a candidate. Rows of
embedding tables, vectors and numbers come in ready: looking them up is the server's part (`engine.py`), and
so is calibrating the logits that come out.

It is one graph, not one for the shopper and one for the candidates: of a request with 500 candidates the
shopper's side is 4 to 11 % (`benchmarks/rank.py`), and a state handed from graph to graph would be a second
format to keep.

Letters: B = 1 request, N candidates, S behavior steps, D width.
"""

# ruff: noqa: N815 - fields are named by their dimensions, as tensors are everywhere

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moontide.foundation.errors import CheckpointError, StorageError
from moontide.foundation.seeds import stream
from moontide.foundation.storage import read_json, storage_errors, write_bytes, write_json
from moontide.ranking.batches import NUM_HOURS, NUM_RECENCIES, Batch, Behaviors, Content, PastQueries
from moontide.ranking.counters import FEATURES
from moontide.ranking.models import SEMANTIC, ClickModel
from moontide.ranking.train import Trained

FORMAT, OPSET = 1, 18
PROGRAM, GRAPH, FACTS = "click.pt2", "click.onnx", "click.json"
CANDIDATES, STEPS = "candidates", "steps"  # the axes whose length each request chooses
AGREEMENT = 1e-4  # most that a graph's logit may differ from the model's, in units of max(1, |logit|)

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Input:
    """One tensor that the graph reads.

    Args:
        shape: lengths; CANDIDATES and STEPS stand for those that differ from request to request.
        dtype: int64, float32 or bool.
        meaning: one line for whoever fills it.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    meaning: str


@dataclass
class _OneRequest(Batch):
    """A batch of one request whose items are not made distinct, so products are told apart by their codes."""

    candidate_code_BN: Tensor | None = None
    behavior_code_BS: Tensor | None = None


class _ByCode(ClickModel):
    """The click model on `_OneRequest`: a behavior is the candidate itself if their codes are equal."""

    def _matches(self, batch: Batch) -> Tensor:
        assert isinstance(batch, _OneRequest)
        assert batch.candidate_code_BN is not None
        assert batch.behavior_code_BS is not None
        target_BN, past_BS = batch.candidate_code_BN, batch.behavior_code_BS
        same_BNS = (target_BN[:, :, None] == past_BS[:, None]) & batch.short.is_real_BS[:, None]
        other_fields_BNF = super()._matches(batch)[..., 1:]
        return torch.cat([torch.log1p(same_BNS.sum(-1, keepdim=True).float()), other_fields_BNF], -1)


class RequestModel(nn.Module):
    """Click logits (N,) of one request's candidates from the tensors that `inputs_of` lists.

    Args:
        model: whose weights it shares.
    """

    def __init__(self, model: ClickModel):
        super().__init__()
        self.model = _ByCode(model.sizes, model.settings, model.num_positions, model.dim)
        self.model.load_state_dict(model.state_dict(), assign=True)
        self.requires_grad_(False).eval()

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """Logits at an average position, not calibrated."""
        num, steps = given["candidate_rows"].shape[0], given["behavior_rows"].shape[0]
        settings, search = self.model.settings, self.model.settings.search
        short, long = self._behaviors(given, num, steps), None
        code_S = given["behavior_code"]
        if search is not None:
            short, long = _first(short, settings.history), _first(short, search.steps)
            code_S = code_S[: settings.history]
        queries = None
        if "past_query_rows" in given:
            row_S = given["past_query_rows"]
            short.query_BS = torch.arange(row_S.shape[0])[None]
            queries = PastQueries(row_S, given["past_query_vector"], given["past_query_has_vector"])
        batch = _OneRequest(
            request_rows_BF=given["request_rows"][None],
            item_rows_UF=torch.cat([given["candidate_rows"], given["behavior_rows"]]),
            product_item_BN=torch.arange(num)[None],
            short=short,
            long=long,
            dense_BNF=given["candidate_numbers"][None],
            content=_content(given) if settings.reads_vectors else None,
            queries=queries,
            candidate_code_BN=given["candidate_code"][None],
            behavior_code_BS=code_S[None],
        )
        return self.model(batch)[0]

    def _behaviors(self, given: Mapping[str, Tensor], num: int, steps: int) -> Behaviors:
        item_BS = torch.arange(num, num + steps)[None]
        return Behaviors(item_BS, given["behavior_is_real"][None], given["behavior_recency"][None])


def inputs_of(model: ClickModel) -> list[Input]:
    """What the graph of a model reads, in order."""
    num, steps = CANDIDATES, STEPS if len(set(steps_of(model))) > 1 else model.settings.all_steps
    fields = len(model.item_fields)
    inputs = [
        Input("request_rows", (len(model.request_fields),), "int64", "table rows of the request's fields"),
        Input("candidate_rows", (num, fields), "int64", "table rows of a product's fields"),
        Input("candidate_code", (num,), "int64", "which product: any number of its own"),
        Input("candidate_numbers", (num, len(FEATURES)), "float32", "counts, age and price, not scaled"),
        Input("behavior_rows", (steps, fields), "int64", "the same of the shopper's behaviors, newest first"),
        Input("behavior_code", (steps,), "int64", "which product, numbered as candidates are"),
        Input(
            "behavior_recency", (steps,), "int64", "12 if an order, plus octave of age: log2(1 + hours) < 12"
        ),
        Input("behavior_is_real", (steps,), "bool", "false for padding, which stands last"),
    ]
    content, dim = model.settings.content, model.dim
    if content is None:
        return inputs
    for name, axis in (("candidate", num), ("behavior", steps)):
        inputs.append(
            Input(f"{name}_vector", (axis, dim), "float32", "unit vector, zero where there is none")
        )
        inputs.append(Input(f"{name}_has_vector", (axis,), "bool", "whether there is one"))
    inputs.append(Input("query_vector", (dim,), "float32", "unit vector of the query asked, or zero"))
    inputs.append(Input("query_has_vector", (1,), "bool", "whether there is one"))
    if content.creative:
        inputs.append(Input("creative_vector", (num, dim), "float32", "unit vector of the creative, or zero"))
        inputs.append(Input("creative_has_vector", (num,), "bool", "whether there is one"))
    if content.reads_past_queries:
        short = steps if model.settings.search is None else model.settings.history
        inputs.append(Input("past_query_rows", (short,), "int64", "table row of a click's query, else 0"))
        inputs.append(Input("past_query_vector", (short, dim), "float32", "unit vector of it, or zero"))
        inputs.append(Input("past_query_has_vector", (short,), "bool", "whether there is one"))
    return inputs


def steps_of(model: ClickModel) -> tuple[int, int]:
    """Fewest and most behavior steps a request may have; shorter histories are padded."""
    settings, search, content = model.settings, model.settings.search, model.settings.content
    if search is None:
        cube = content.cube if content is not None else None
        least = cube.top if cube is not None and cube.weights == "topk" else 1
        return min(least, settings.history), settings.history
    return max(settings.history, min(search.top, search.steps)), settings.all_steps


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


def example_inputs(model: ClickModel, num: int, steps: int, seed: int = 0) -> Inputs:
    """A made-up request: products that occur twice, unknown rows, missing vectors, a fifth of padding.

    Args:
        num, steps: candidates and behavior steps, within `steps_of`.
    """
    rng, content, dim = stream(seed, "example inputs"), model.settings.content, model.dim
    products = 2 + (num + steps) // 2
    rows = {**model.sizes, "hour": NUM_HOURS}
    if content is not None and content.semantic is not None:
        rows |= {name: content.semantic.codes + 1 for name in model.item_fields if name.startswith(SEMANTIC)}
    product_rows = rng.integers(
        0, [rows[name] for name in model.item_fields], (products, len(model.item_fields))
    )

    def vectors(num: int) -> tuple[np.ndarray, np.ndarray]:
        drawn, has = rng.normal(size=(num, dim)), rng.random(num) < 0.8
        return (has[:, None] * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32), has

    given: Inputs = {"request_rows": rng.integers(0, [rows[name] for name in model.request_fields])}
    given["candidate_numbers"] = rng.normal(size=(num, len(FEATURES))).astype(np.float32)
    given["behavior_recency"] = rng.integers(0, NUM_RECENCIES, steps)
    given["behavior_is_real"] = np.arange(steps) < 0.8 * steps
    product_vector, product_has = vectors(products)
    for name, size in (("candidate", num), ("behavior", steps)):
        code = rng.integers(0, products, size)
        given |= {f"{name}_rows": product_rows[code], f"{name}_code": code}
        given |= {f"{name}_vector": product_vector[code], f"{name}_has_vector": product_has[code]}
    short = min(steps, model.settings.history)
    given["past_query_rows"] = rng.integers(0, rows["query"], short)
    for name, size in (("query", 1), ("creative", num), ("past_query", short)):
        given[f"{name}_vector"], given[f"{name}_has_vector"] = vectors(size)
    given["query_vector"] = given["query_vector"][0]
    return {one.name: given[one.name] for one in inputs_of(model)}


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
        inputs = example_inputs(model.model, num, steps, seed=num)
        with torch.no_grad():
            expected = model(_tensors(inputs)).numpy()
        worst = float(np.max(np.abs(run(inputs) - expected) / np.maximum(1, np.abs(expected))))
        if not worst <= AGREEMENT:
            raise CheckpointError(
                f"the {name} graph differs from the model by {worst:.1e}: report this model"
            )


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


def _first(behaviors: Behaviors, steps: int) -> Behaviors:
    """The latest `steps` of them."""
    columns = (behaviors.item_BS, behaviors.is_real_BS, behaviors.recency_BS)
    return Behaviors(*(column[:, :steps] for column in columns))


def _tensors(inputs: Inputs) -> dict[str, Tensor]:
    return {name: torch.from_numpy(column) for name, column in inputs.items()}


def _content(given: Mapping[str, Tensor]) -> Content:
    content = Content(
        item_UD=torch.cat([given["candidate_vector"], given["behavior_vector"]]),
        has_item_U=torch.cat([given["candidate_has_vector"], given["behavior_has_vector"]]),
        query_BD=given["query_vector"][None],
        has_query_B=given["query_has_vector"],
    )
    if "creative_vector" in given:
        content.creative_BND = given["creative_vector"][None]
        content.has_creative_BN = given["creative_has_vector"][None]
    return content
