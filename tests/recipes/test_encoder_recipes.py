"""The encoder recipes: every system trains from its own, rows of tables differ, numbers have an origin."""

import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from encoder.conftest import write_catalog
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.encoder.evaluate import EvaluateSettings
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Item
from moontide.encoder.model.reasoner import make_reasoner
from moontide.foundation.errors import SettingsError
from moontide.foundation.runs import Run
from moontide.recipes import ablations, mim, moon, moon2, moon3, moon_embedding
from moontide.studies.encoders import (
    SEVEN,
    EncoderPlan,
    catalog_texts,
    make_start,
    period_start,
    train_cell,
)

ASKED = EvaluateSettings(tasks=("retrieval",), max_queries=4, max_gallery=12, replicates=2)
STEPS, BATCH = 20, 8
SHAPE = moon_embedding.encoder(depth=2).but(image_side=56, vocab_size=400)
SYSTEMS = {
    "MOON Embedding": EncoderPlan(
        cleaning=moon_embedding.cleaning(),
        pairs=(
            moon_embedding.first_stage(SHAPE, STEPS, BATCH),
            moon_embedding.second_stage(SHAPE, STEPS, BATCH),
        ),
    ),
    "MIM": EncoderPlan(pairs=(mim.pretraining(SHAPE, STEPS, BATCH),), csft=mim.csft(SHAPE, STEPS, BATCH)),
    "MOON": EncoderPlan(
        guided=moon.experts(), crops=moon.encoder().crops, pairs=(moon.posttraining(SHAPE, STEPS, BATCH),)
    ),
    "MOON2.0": EncoderPlan(
        modality=moon2.experts(), has_augmented=True, triplets=moon2.training(SHAPE, STEPS, BATCH)
    ),
    "MOON3.0": EncoderPlan(
        reasoner=moon3.reasoner(12),
        cold_start=moon3.cold_start(STEPS, BATCH),
        reason=moon3.joint(2, num_pairs=4, rollouts=2).but(queue=0),
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """The drawn catalog; every product ordered twice, regions annotated, some titles enriched."""
    folder = tmp_path_factory.mktemp("data")
    drawn = write_catalog(folder / "drawn")
    kept = {"kind": "title", "source": "test", "version": "1", "accepted": True}
    added = [
        kept | {"product_id": product.product_id, "title": f"{product.title}, plain"}
        for product in drawn.products()[::2]
    ]
    with DatasetWriter(folder / "augmented", "augmented", base=drawn) as writer:
        writer.put("augmented", added)
    return Dataset.open(folder / "augmented")


@pytest.fixture(scope="module")
def start(dataset, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("start") / "start"
    texts = catalog_texts(dataset, period_start(dataset))
    titles = mim.pretraining(SHAPE, 1, BATCH)
    return make_start(path, dataset, lambda: MoonEncoder.tiny(texts, SHAPE, device="cpu"), titles, 0)


def every_step(plan: EncoderPlan) -> EncoderPlan:
    """The plan with a line in the log for every step."""
    names = ("csft", "triplets", "cold_start", "reason")
    stages = {name: stage.but(log_every=1) for name in names if (stage := getattr(plan, name))}
    return plan.but(pairs=tuple(stage.but(log_every=1) for stage in plan.pairs), **stages)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_trains_from_its_recipe(dataset, start, tmp_path, system):
    results = train_cell(every_step(SYSTEMS[system]), 0, tmp_path / "cell", dataset, start, ASKED)
    stages = [name for name in results["figures"] if name not in ("cleaning", "reasoning")]
    assert len(stages) == (2 if system in ("MOON Embedding", "MIM", "MOON3.0") else 1)
    for stage in stages:
        losses = np.array([row["loss"] for row in Run.open(tmp_path / "cell").metrics(stage)])
        assert len(losses) == (2 if stage == "reason" else STEPS)
        assert np.isfinite(losses).all()
        if system == "MOON Embedding" or stage == "reason":
            continue  # one loss a pairing, circle loss, or mean advantages: not to be compared
        if system == "MOON":  # its queue fills: a loss that learns nothing would rise as log(1 + negatives)
            losses -= np.log(2 * BATCH * (1 + np.arange(STEPS)))
        assert losses[-5:].mean() < losses[:5].mean() - 0.1, stage


@pytest.mark.parametrize("name", ablations.TABLES)
def test_the_rows_of_a_table_differ_and_see_equally_many_pairs(name):
    for num_steps in (250, 31):
        table = ablations.TABLES[name](num_steps=num_steps)
        for one, other in itertools.combinations(table.rows, 2):
            assert one.settings != other.settings, (one.name, other.name)
        seen = {}
        for row in table.rows:
            plan = row.settings
            stages = [*plan.pairs, *filter(None, (plan.csft, plan.triplets))]
            reasoned = [*filter(None, (plan.cold_start, plan.reason))]
            seen[row.name] = sum(stage.num_steps * stage.batch_size for stage in stages)
            seen[row.name] += sum(stage.num_steps * stage.num_pairs for stage in reasoned)
        joint = 40 * 8 if name == "moon3" else 0  # its second stage has its own length
        assert set(seen.values()) == {num_steps * 32 + joint}, seen
        assert {order for orders in table.paper_order.values() for order in orders} <= set(seen)


def test_moon_has_two_hundred_times_the_negatives_of_its_batch():
    for batch_size in (8, 32, 256):
        found = moon.negatives(batch_size)
        assert batch_size * (1 + found.num_hard) + found.queue == 200 * batch_size


def test_a_table_is_computed_by_name_and_an_unknown_one_is_refused(dataset, start, tmp_path):
    table = ablations.run("mim", dataset, tmp_path, start, [0], steps=1, only=["full"], max_queries=4)
    full = table["rows"][0]
    assert full["missing"] == {}
    assert full["pairs"] == [32]
    assert all(value is not None for value in full["values"].values())
    assert "| full |" in (tmp_path / "table.md").read_text()
    with pytest.raises(
        SettingsError,
        match="no table is called 'moon4': the tables are moon_embedding, mim, moon, moon2, moon3",
    ):
        ablations.run("moon4", dataset, tmp_path)


# --- MOON3.0 ------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [(moon3.reasoner(), "query"), (moon3.large_reasoner(), "both")],
)
def test_both_sizes_of_moon3_make_a_reasoner_of_the_shared_start(start, settings, reasons):
    encoder = make_reasoner(MoonEncoder(start, device="cpu"), settings)
    assert encoder.is_reasoner
    assert encoder.backbone.settings.reasons == reasons
    assert encoder.backbone.settings.reasoning_tokens == settings.budget
    assert encoder.backbone.residual.layers == [0]  # of two layers the first, whatever was asked
    vectors = encoder.encode_items([Item("red square"), Item("blue bar")])
    assert vectors.shape == (2, 256)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_published_stages_of_moon3_differ_from_the_embedded_ones_only_where_it_is_said():
    first, second = moon3.published_cold_start(100), moon3.published_joint(100)
    assert first == moon3.cold_start(100).but(num_pairs=64, learning_rate=1e-5, sft=0.1, reason="both")
    assert second == moon3.joint(100).but(
        num_pairs=64, rollouts=8, learning_rate=1e-6, queue=960, reason="both"
    )
    assert second.num_pairs + second.queue == 1_024
    for stages in ((first, second), (moon3.cold_start(3), moon3.joint(3))):
        assert [stage.checkpoint_every >= 10 for stage in stages] == [True, True]


def test_rows_of_moon3_that_leave_a_stage_out_learn_nothing_from_it():
    rows = {row.name: row.settings for row in moon3.ablation(31).rows}
    assert rows["- reasoning"].reasoner.reasons == "none"
    for name in ("- reasoning", "GRPO only"):
        assert (rows[name].cold_start.sft, rows[name].cold_start.reason) == (0, "none")
    assert rows["- reasoning"].reason is rows["SFT only"].reason is None
    assert rows["SFT only"].cold_start == rows["full"].cold_start.but(
        num_steps=41, checkpoint_every=rows["SFT only"].cold_start.checkpoint_every
    )
    assert rows["- InfoNCE"].reason == rows["full"].reason.but(infonce=0.0)
    assert rows["- GRPO"].reason == rows["full"].reason.but(grpo=0.0)
    rewards = {name: row.reason.rewards for name, row in rows.items() if row.reason is not None}
    full = rewards["full"]
    for name, left_out in (("- format", "format"), ("- length", "length"), ("- rank", "retrieval")):
        assert rewards[name] == full.but(**{left_out: 0.0})
    assert rewards["+ attributes"] == full.but(attribute=1.0)
    assert not rows["- fusion"].reasoner.has_fusion
    assert not rows["- FIRE"].reasoner.has_residual
    budgets = [rows[name].reasoner.budget for name in ("16 tokens", "full", "64 tokens", "96 tokens")]
    assert budgets == [16, 32, 64, 96]
    assert [rewards[name].retrieval_kind for name in ("full", "margin", "recall")] == [
        "log_rank", "margin", "recall",
    ]  # fmt: skip
    for name, side in (("full", "query"), ("items", "item"), ("both", "both")):
        row = rows[name]
        assert (row.reasoner.reasons, row.cold_start.reason, row.reason.reason) == (side, side, side)


def test_catalog_attributes_are_shown_to_no_row_of_moon3(dataset, start, tmp_path):
    texts = {"moon3": "title", "mim": "rich"}
    for name, text in texts.items():
        table = ablations.run(name, dataset, tmp_path / name, start, [0], only=["full"], max_minutes=0)
        assert table["data"]["questions"]["text"] == text


def test_the_table_of_moon3_has_a_column_for_every_attribute_key_of_the_market():
    columns = [column.name for column in moon3.ablation(31).columns]
    assert columns[:7] == list(SEVEN)
    assert columns[7:] == [f"attr: {key}" for key in moon3.MARKET_KEYS]


# --- where numbers come from ------------------------------------------------------------

TAG = re.compile(r"# (paper|analog|ours|guess)\b")
FOLDER = Path(moon.__file__).parent
NO_RECIPES = ("__init__.py", "papers.py", "study.py", "verbs.py")


def untagged(source: str) -> list[int]:
    """Lines that give a setting a number, other than 0 for "off", and do not end in where it comes from."""
    lines, found = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.keyword, ast.Assign)):
            continue
        is_built = isinstance(node.value, ast.Call) and not isinstance(node.value.func, ast.Name)
        if is_built or isinstance(node.value, (ast.Dict, ast.DictComp, ast.Lambda)):
            continue  # its own keywords are looked at by themselves
        if isinstance(node.value, ast.Call) and node.value.func.id not in ("max", "min", "round"):
            continue
        constants = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
        numbers = [one for one in constants if type(one) in (int, float) and one]
        line = node.value.end_lineno
        if numbers and not TAG.search(lines[line - 1]):
            found.append(line)
    return found


def test_every_number_of_a_recipe_says_where_it_comes_from():
    files = [file for file in FOLDER.glob("*.py") if file.name not in NO_RECIPES]
    assert len(files) >= 6
    assert any(file.name == "moon3.py" for file in files)
    assert {file.name: lines for file in files if (lines := untagged(file.read_text()))} == {}


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("f(x=3)", True),
        ("f(x=3)  # guess", False),
        ("f(x=0, y=True, z='3')", False),
        ("f(x=max(20, n // 8))", True),
        ("f(x=(1, 2))  # ours: measured", False),
        ("f(x=g(y=-2.5))", True),
        ("f(x=rate / 3)  # about right", True),
        ("num_hard = 1", True),
    ],
)
def test_a_number_without_an_origin_is_found(line, is_found):
    assert untagged(line) == ([1] if is_found else [])
