"""The click model as a graph sees it: one request, its candidates, plain tensors with names.

`ClickModel` reads batches whose items were made distinct. A server in another language should not have to do
that: here each candidate and each behavior brings its own rows, vector and product code, and still what
belongs to the shopper is computed once and never repeated for a candidate.

Letters: B = 1 request, N candidates, S behavior steps, U = N + S items, F fields, D width.
"""

# ruff: noqa: N815 - fields are named by their dimensions, as tensors are everywhere

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from moontide.foundation.seeds import stream
from moontide.ranking.batches import NUM_HOURS, NUM_RECENCIES, Batch, Behaviors, Content, PastQueries
from moontide.ranking.counters import FEATURES
from moontide.ranking.models import SEMANTIC, ClickModel

CANDIDATES, STEPS = "candidates", "steps"  # the axes whose length each request chooses

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


def _first(behaviors: Behaviors, steps: int) -> Behaviors:
    """The latest `steps` of them."""
    columns = (behaviors.item_BS, behaviors.is_real_BS, behaviors.recency_BS)
    return Behaviors(*(column[:, :steps] for column in columns))


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
