"""Reasoners in an encoder table: a cell trains, is measured with changed texts, and goes on; those texts."""

from dataclasses import replace

import numpy as np
import pytest

from encoder.conftest import SMALL, write_catalog
from moontide.catalog.dataset import Dataset
from moontide.encoder.chain import chain_keys
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.model.completion import Written
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Cropped, Item, ProductView, query_item
from moontide.encoder.model.reasoner import ReasoningSettings, make_reasoner
from moontide.encoder.reasoned import shown_hash
from moontide.encoder.stages import loop
from moontide.encoder.stages.coldstart import ColdStartSettings
from moontide.encoder.stages.posttrain import PosttrainSettings
from moontide.encoder.stages.reason import ReasonSettings
from moontide.foundation.runs import Run
from moontide.studies.encoders import COLUMNS, EncoderPlan, catalog_texts, period_start, train_cell
from moontide.studies.reasoning import Oracle, Writer, cost, masked, shuffled, unnamed

ASKED = EvaluateSettings(
    tasks=("retrieval", "classification", "attributes"), max_queries=8, max_gallery=12, replicates=5
)
LOOP = {"log_every": 1, "checkpoint_every": 1, "augment": 0.0}
PLAN = EncoderPlan(
    reasoner=ReasoningSettings(
        budget=12, heads=2, head_width=8, dim=16, widths=(8, 16), residual_every=1
    ),
    cold_start=ColdStartSettings(num_steps=3, num_pairs=4, **LOOP),
    reason=ReasonSettings(num_steps=2, num_pairs=3, rollouts=2, queue=6, **LOOP),
)  # fmt: skip
SILENT = PLAN.but(
    pairs=(PosttrainSettings(num_steps=1, batch_size=4, kinds=("order",)),), reason=None,
    cold_start=PLAN.cold_start.but(num_steps=1, sft=0.0, reason="none"),
    reasoner=PLAN.reasoner.but(reasons="none"),
)  # fmt: skip
VARIANTS = ("off", "shuffled", "oracle", "masked", "unnamed")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return write_catalog(tmp_path_factory.mktemp("data") / "drawn")


@pytest.fixture(scope="module")
def start(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start"
    MoonEncoder.tiny(catalog_texts(dataset, period_start(dataset)), SMALL, device="cpu").save(path)
    return path


@pytest.fixture(scope="module")
def cell(dataset, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / "whole"
    return train_cell(PLAN, 1, folder, dataset, start, ASKED), Run.open(folder)


@pytest.fixture
def writer(start):
    return Writer(make_reasoner(MoonEncoder(start, device="cpu"), PLAN.reasoner))


def texts_of(items) -> list[str | None]:
    return [item.reasoning for item in items]


def said(text: str) -> Written:
    return Written(np.zeros(0, int), np.zeros(0, np.float32), text, True, 3, "emb")


# --- cells ------------------------------------------------------------


def test_a_cell_of_a_reasoner_answers_every_column_and_each_attribute_key(cell):
    results, run = cell
    keys = {"attr: color", "attr: form"}
    assert set(results["hits"]) == set(results["queries"]) == {one.key for one in COLUMNS} | keys
    for column, hits in results["hits"].items():
        assert len(hits) == len(results["queries"][column]) > 0
        assert np.isin(hits, (0, 1)).all()
    assert results["pairs"] == 3 * 4 + 2 * 3
    assert [len(run.metrics(stage)) for stage in ("cold_start", "reason")] == [3, 2]
    assert all(np.isfinite(row["loss"]) for row in run.metrics())


def test_a_cell_of_a_reasoner_tells_its_texts_its_costs_and_every_variant(cell):
    results, _ = cell
    found = results["figures"]["reasoning"]
    written, costs = found["written"], found["cost"]
    assert written["texts"] >= written["distinct"] >= 1
    assert 0 <= written["tokens"] <= PLAN.reasoner.budget
    assert all(0 <= written[share] <= 1 for share in ("emb_share", "parse_rate"))
    assert (
        costs["plain_tokens"] < costs["reasoned_tokens"] <= costs["plain_tokens"] + PLAN.reasoner.budget + 2
    )
    assert costs["plain_ms"] > 0
    assert costs["reasoned_ms"] > 0
    for key, accuracy in found["attributes"].items():
        assert accuracy == pytest.approx(results["hits"][f"attr: {key}"].mean())
    assert set(found["attributes"]) == {"color", "form"}
    assert tuple(found["variants"]) == VARIANTS
    columns = {one.key for one in COLUMNS} | {"attributes"}
    for variant in found["variants"].values():
        assert set(variant) == columns
        assert all(0 <= value <= 1 for name, value in variant.items() if name != "attributes")
    assert 0 < found["oracle_known"] <= 1


def test_an_encoder_that_never_writes_has_no_variants(dataset, start, tmp_path):
    results = train_cell(SILENT, 1, tmp_path / "cell", dataset, start, ASKED)
    found = results["figures"]["reasoning"]
    assert found["written"] == {"texts": 0}
    assert set(found) == {"written", "cost", "attributes"}
    assert results["pairs"] == 4 + 4


def test_a_cell_that_was_cut_in_its_second_stage_goes_on(dataset, start, cell, tmp_path, monkeypatch):
    whole, run = cell

    class Stop(Exception): ...

    calls = iter(range(100))

    def rate_until(step, settings, real=loop.rate_at):
        if next(calls) == 4:  # three steps of the cold start, one of the joint stage
            raise Stop
        return real(step, settings)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "rate_at", rate_until)
        with pytest.raises(Stop):
            train_cell(PLAN, 1, tmp_path / "cut", dataset, start, ASKED)
    again = train_cell(PLAN, 1, tmp_path / "cut", dataset, start, ASKED)
    assert again["figures"]["cold_start"]["steps_here"] == 0
    assert again["figures"]["reason"]["steps_here"] == 1
    assert again["pairs"] == whole["pairs"]
    assert all(np.array_equal(again["hits"][key], hits) for key, hits in whole["hits"].items())
    one, other = (results["figures"]["reasoning"] for results in (again, whole))
    assert one["variants"] == other["variants"]
    assert one["written"] == other["written"]
    losses = [[row["loss"] for row in found.metrics()] for found in (Run.open(tmp_path / "cut"), run)]
    assert losses[0] == losses[1]


# --- what was written ------------------------------------------------------------


def test_a_writer_writes_once_about_what_is_shown_twice_as_the_encoder_does(writer, monkeypatch):
    items = [Item("red square"), Item("blue bar"), Item("red square")]
    told = writer(items)
    assert texts_of(told) == texts_of(writer.encoder.reasoned(items))
    assert told[0] == told[2]
    assert set(writer.written) == set(map(shown_hash, items[:2]))
    assert writer.figures(("category",))["texts"] == 2
    monkeypatch.setattr("moontide.studies.reasoning.write", None)  # nothing is left to write
    assert writer(items[::-1]) == told[::-1]


def test_a_side_that_does_not_reason_has_the_vectors_of_unreasoned_items(writer):
    items = [Item("red square"), Item("blue bar")]
    plain = writer.encoder.encode_items(items)
    assert np.array_equal(writer.encode("item", masked)(items), plain)
    assert writer.written == {}
    assert np.array_equal(writer.plain(items[::-1]), plain[::-1])
    served = writer.encode("query")(items)
    assert np.allclose(served, writer.encoder.encode_items(writer(items)), atol=1e-6)
    changed = writer.encode("query", lambda found: [replace(one, reasoning=None) for one in found])(items)
    assert np.allclose(changed, plain, atol=1e-6)
    assert not np.allclose(served, plain, atol=1e-3)


def test_figures_of_texts_are_means_over_texts(writer):
    texts = ["<think>category: bar</think>", "<think>category: bar</think>", "<think>bar</think>", ""]
    writer.written = {str(n): said(text) for n, text in enumerate(texts)}
    writer.written["3"] = replace(writer.written["3"], has_emb=False, num_tokens=7)
    found = writer.figures(("category",))
    assert found == {"texts": 4, "tokens": 4.0, "emb_share": 0.75, "parse_rate": 0.5, "distinct": 3}


# --- changed texts ------------------------------------------------------------


def test_a_shuffled_text_is_never_the_own_one_and_always_the_same(writer):
    items = [Item(f"thing {n}") for n in range(60)]
    texts = [f"<think>color: {color}</think>" for color in ("red", "green", "blue")]
    own = [replace(item, reasoning=texts[n % 3]) for n, item in enumerate(items)]
    writer.written = {shown_hash(item): said(item.reasoning) for item in own}
    changed = shuffled(writer)(own)
    assert [item.text for item in changed] == [item.text for item in items]
    assert all(one.reasoning != other.reasoning for one, other in zip(changed, own, strict=True))
    assert {item.reasoning for item in changed} == set(texts)
    assert texts_of(shuffled(writer)(own[::-1])) == texts_of(changed)[::-1]


@pytest.mark.parametrize(
    ("text", "without_values", "without_category"),
    [
        (
            "<think>category: chair; color: dark red</think>",
            "<think>category: unknown; color: unknown</think>",
            "<think>color: dark red</think>",
        ),
        (
            "<think> color: red; category: a: b; size: 2</think>",
            "<think> color: unknown; category: unknown; size: unknown</think>",
            "<think> color: red; size: 2</think>",
        ),
        ("<think>category: chair</think>", "<think>category: unknown</think>", "<think></think>"),
        (
            "<think>color: red; subcategory: arm</think>",
            "<think>color: unknown; subcategory: unknown</think>",
            "<think>color: red; subcategory: arm</think>",
        ),
        (
            "<think>color: red; Category: arm</think>",
            "<think>color: unknown; Category: unknown</think>",
            "<think>color: red</think>",
        ),
        (
            "<think>sub category: arm; category: chair; size: 2</think>",
            "<think>sub category: unknown; category: unknown; size: unknown</think>",
            "<think>sub category: arm; size: 2</think>",
        ),
        (
            "<think>category: a; category: b; color: red; category: c</think>",
            "<think>category: unknown; category: unknown; color: unknown; category: unknown</think>",
            "<think>color: red</think>",
        ),
        ("<think>chair</think>", "<think>chair</think>", "<think>chair</think>"),
        (None, "", ""),
    ],
)
def test_values_are_masked_and_the_category_is_left_out(text, without_values, without_category):
    item = Item("a", reasoning=text)
    assert masked([item]) == [Item("a", reasoning=without_values)]
    assert unnamed([item]) == [Item("a", reasoning=without_category)]


def test_the_oracle_knows_products_by_picture_and_title_and_queries_by_what_was_chosen(dataset):
    oracle = Oracle(dataset, chain_keys(dataset.products()))
    product = dataset.products()[3]  # held out
    (color,), (form,) = product.attributes["color"], product.attributes["form"]
    text = f"<think>category: {form}; color: {color}; form: {form}</think>"
    photo = dataset.images[product.image_ids[1]]
    asked = [
        query_item(None, photo),
        Item("another title", (Cropped(photo, (1, 2, 30, 40)),)),
        query_item(None, dataset.images["q3"]),  # the picture of a query: of no product
        query_item(f"{color} {form}"),
        ProductView().item(product, dataset.images, "title"),
        Item(product.title, reasoning="<think>color: gray</think>"),
    ]
    assert texts_of(oracle(asked)) == [text] * len(asked)
    assert (oracle.asked, oracle.known) == (6, 6)
    own = Item("never seen", reasoning="<think>color: gray</think>")
    assert oracle([own, query_item(None, dataset.images["q0"])]) == [
        own, query_item(None, dataset.images["q0"])  # what train products were chosen for is not asked
    ]  # fmt: skip
    assert (oracle.asked, oracle.known) == (8, 6)


def test_a_text_of_one_token_costs_no_more_tokens_than_its_tags_and_itself(dataset, start):
    encoder = make_reasoner(MoonEncoder(start, device="cpu"), PLAN.reasoner.but(budget=1))
    found = cost(dataset, encoder, encoder.view(dataset))
    assert found["reasoned_tokens"] - found["plain_tokens"] <= 3
    assert set(found) == {"plain_ms", "plain_tokens", "reasoned_ms", "reasoned_tokens"}
