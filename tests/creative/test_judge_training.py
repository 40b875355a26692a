"""Training a judge: both stages learn, resume exactly, log what they do, and refuse what they cannot use."""

import dataclasses
import json

import pytest
import torch
from judge_parts import small_judge, small_pairs
from safetensors.torch import load_file
from typer.testing import CliRunner

from moontide.creative.annotate import AnnotatorSettings, annotate_set, fits_of
from moontide.creative.grpo import JudgeGrpoSettings, train_grpo
from moontide.creative.grpo import _rows as grpo_rows
from moontide.creative.judge import Judge
from moontide.creative.prompt import PromptSettings
from moontide.creative.rationale import accepted_of, labels_only
from moontide.creative.rejection import RejectionSettings, sample_rationales
from moontide.creative.rewards import NAMES, JudgeRewardSettings
from moontide.creative.rollout_log import plot_rollouts, rollouts
from moontide.creative.schooling import Schooling, school
from moontide.creative.sft import JudgeSftSettings, train_sft
from moontide.creative.verbs import app
from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.foundation.runs import Run

SFT = JudgeSftSettings(num_steps=6, batch_size=4, learning_rate=3e-3, log_every=1, checkpoint_every=2)
GRPO = JudgeGrpoSettings(
    num_steps=4, num_prompts=4, num_generations=2, learning_rate=1e-3, beta=0.04, log_every=1,
    checkpoint_every=2, rewards=JudgeRewardSettings(order=0.1),
)  # fmt: skip


class Stopping(Run):
    """A run whose process is killed when it logs a step."""

    def log(self, stage, step, **values):
        if step == self.at:
            raise KeyboardInterrupt
        super().log(stage, step, **values)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Pairs, their rationales, and an untrained judge."""
    folder = tmp_path_factory.mktemp("shop")
    pairs = small_pairs(folder)
    start = small_judge(folder / "start")
    tokenizer = Judge.load(start, "cpu").processor.tokenizer
    told = annotate_set(pairs, AnnotatorSettings(), fits_of(tokenizer, 32))
    return pairs, told, start


@pytest.fixture(scope="module")
def taught(shop, tmp_path_factory):
    """A judge that has learned its few pairs by heart, and its run."""
    pairs, told, _ = shop
    folder = tmp_path_factory.mktemp("taught")
    start = small_judge(folder / "start", depth=2)
    run = Run.start(folder / "run", "test", {}, 0)
    settings = JudgeSftSettings(num_steps=90, batch_size=8, learning_rate=8e-3, log_every=10)
    train_sft(start, pairs, told, settings, folder / "judge", run)
    return folder / "judge", run


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_annotations_of_a_set_are_balanced_fit_and_carry_their_provenance(shop):
    pairs, told, start = shop
    kept = accepted_of(told)
    letters = [one.letter for one in kept]
    assert kept
    assert letters.count("A") == letters.count("B")
    assert {one.provenance for one in told} == {"annotator"}
    assert {one.pair_id for one in told} == {pair.pair_id for pair in pairs.pairs("train")}
    tokenizer = Judge.load(start, "cpu").processor.tokenizer
    assert max(len(tokenizer(one.text)["input_ids"]) + 1 for one in kept) <= 32


def test_the_first_stage_teaches_the_form_and_the_letters(shop, taught):
    pairs, told, _ = shop
    folder, run = taught
    lines = run.metrics("sft")
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    judge = Judge.load(folder, "cpu")
    known = {one.pair_id for one in accepted_of(told)}
    found = [pair for pair in pairs.pairs("train") if pair.pair_id in known]
    duels = judge.duels(found, pairs.picture)
    assert all(duel.forward.parsed_strict and duel.backward.parsed_strict for duel in duels)
    right = [(duel.s_a > 0.5) == (pair.label == "A") for pair, duel in zip(found, duels, strict=True)]
    assert sum(right) >= len(found) - 1
    assert not run.checkpoints("sft").exists()
    assert run.results("sft")["rationales"] == len(accepted_of(told))


def test_the_first_stage_resumes_exactly(shop, tmp_path):
    pairs, told, start = shop
    train_sft(start, pairs, told, SFT, tmp_path / "whole")
    stopped = Stopping.start(tmp_path / "run", "test", {}, 0)
    stopped.at = 5
    with pytest.raises(KeyboardInterrupt):
        train_sft(start, pairs, told, SFT, tmp_path / "resumed", stopped)
    run = Run.start(tmp_path / "run", "test", {}, 0)
    train_sft(start, pairs, told, SFT, tmp_path / "resumed", run)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert [line["step"] for line in run.metrics("sft")] == [1, 2, 3, 4, 5, 6]


def test_the_second_stage_resumes_exactly_and_logs_each_step(shop, taught, tmp_path):
    pairs, start = shop[0], taught[0]
    whole = Run.start(tmp_path / "whole_run", "test", {}, 0)
    train_grpo(start, pairs, GRPO, tmp_path / "whole", whole)
    stopped = Stopping.start(tmp_path / "run", "test", {}, 0)
    stopped.at = 3
    with pytest.raises(KeyboardInterrupt):
        train_grpo(start, pairs, GRPO, tmp_path / "resumed", stopped)
    run = Run.start(tmp_path / "run", "test", {}, 0)
    train_grpo(start, pairs, GRPO, tmp_path / "resumed", run)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    moved = weights(start)
    assert any(not torch.equal(moved[name], one) for name, one in weights(tmp_path / "whole").items())
    lines, again = whole.metrics("grpo"), run.metrics("grpo")
    assert [line["step"] for line in again] == [1, 2, 3, 4]
    for name in (*NAMES, "reward", "kl", "zero_variance_share", "parsed_strict", "mean_tokens", "share_a"):
        assert [line[name] for line in lines] == pytest.approx([line[name] for line in again])
    assert lines[0]["rewards/r_acc/mean"] == pytest.approx(lines[0]["r_acc"])
    assert lines[0]["frac_reward_zero_std"] == pytest.approx(lines[0]["zero_variance_share"])
    assert rollouts(run) == rollouts(whole)
    assert {"pair_id", "order", "letter", "reward", "text"} <= rollouts(run)[0].keys()
    plot_rollouts(run, tmp_path / "rollouts.png")
    assert (tmp_path / "rollouts.png").stat().st_size > 5_000


def test_another_training_is_not_resumed(shop, tmp_path):
    pairs, told, start = shop
    stopped = Stopping.start(tmp_path / "run", "test", {}, 0)
    stopped.at = 3
    with pytest.raises(KeyboardInterrupt):
        train_sft(start, pairs, told, SFT, tmp_path / "judge", stopped)
    run = Run.open(tmp_path / "run")
    with pytest.raises(CheckpointError, match="was made with other settings or data"):
        train_sft(start, pairs, told, SFT.but(learning_rate=1e-4), tmp_path / "judge", run)


def test_both_orders_of_a_pair_stand_in_one_batch_and_the_label_turns(shop):
    pairs = shop[0]
    rows = grpo_rows(pairs, pairs.pairs("train"), GRPO)
    assert len(rows) == GRPO.num_steps * GRPO.num_prompts
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["pair_id"] == second["pair_id"]
        assert (first["order"], second["order"]) == ("ab", "ba")
        assert first["letter"] != second["letter"]
        assert first["asked"].swapped() == second["asked"]
    assert [row["pair_id"] for row in rows] == [
        row["pair_id"] for row in grpo_rows(pairs, pairs.pairs("train"), GRPO)
    ]


def test_adapters_train_the_decoder_alone_and_are_folded_in(shop, tmp_path):
    pairs, told, start = shop
    train_sft(start, pairs, told, SFT.but(num_steps=2, lora_rank=2), tmp_path / "judge")
    before, after = weights(start), weights(tmp_path / "judge")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed
    assert all(".language_model.layers." in name for name in changed)
    train_grpo(tmp_path / "judge", pairs, GRPO.but(num_steps=1, lora_rank=2), tmp_path / "more")
    assert 0 < Judge.load(tmp_path / "more", "cpu").duels(pairs.pairs("test"), pairs.picture)[0].s_a < 1


def test_a_small_batch_at_a_time_gives_the_gradient_of_the_whole(shop, tmp_path):
    pairs, told, start = shop
    whole = train_sft(start, pairs, told, SFT.but(num_steps=1), tmp_path / "whole")
    parts = train_sft(start, pairs, told, SFT.but(num_steps=1, micro_batch=2), tmp_path / "parts")
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-3)  # TRL takes the mean of the parts' means
    assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-2)


def test_sampled_rationales_lead_to_the_label_and_are_at_most_two_a_pair(shop, taught):
    pairs = shop[0]
    judge = Judge.load(taught[0], "cpu")
    found = sample_rationales(judge, pairs.pairs("train"), pairs, RejectionSettings(num_samples=4))
    kept, labels = accepted_of(found), {pair.pair_id: pair.label for pair in pairs.pairs()}
    assert kept
    assert [one.letter for one in kept].count("A") * 2 == len(kept)
    assert max(sum(one.pair_id == other.pair_id for other in kept) for one in kept) <= 2
    assert all((one.letter == labels[one.pair_id]) == (one.order == "ab") for one in kept)
    assert {one.provenance for one in found} == {"rejection"}
    assert all(one.reason for one in found if not one.accepted)


def test_what_cannot_be_trained_on_is_refused(shop, tmp_path):
    pairs, told, start = shop
    with pytest.raises(DataError, match="no rationale is accepted"):
        train_sft(start, pairs, [], SFT, tmp_path / "judge")
    with pytest.raises(DataError, match=r"the pair set .* has no such pair"):
        train_sft(
            start, pairs, [dataclasses.replace(accepted_of(told)[0], pair_id="p99")], SFT, tmp_path / "j"
        )
    with pytest.raises(DataError, match="has no pairs for validation"):
        train_grpo(start, pairs, GRPO, tmp_path / "judge", split="validation")
    with pytest.raises(SettingsError, match="num_prompts must be even"):
        JudgeGrpoSettings(num_prompts=3)
    with pytest.raises(SettingsError, match="micro_batch must divide"):
        JudgeGrpoSettings(micro_batch=5)
    with pytest.raises(CheckpointError, match="no judge or vision-language model at"):
        train_sft(tmp_path / "nothing", pairs, told, SFT, tmp_path / "judge")


def test_a_judge_that_only_answers_learns_from_labels(shop, tmp_path):
    pairs, _, start = shop
    judge = Judge.load(start, "cpu").settings.but(
        prompt=PromptSettings(mode="answer", is_short=True, image_side=112)
    )
    found = train_sft(start, pairs, labels_only(pairs.pairs("train")), SFT, tmp_path / "judge", judge=judge)
    assert found["rationales"] == 2 * len(pairs.pairs("train"))
    assert Judge.load(tmp_path / "judge", "cpu").settings.prompt.mode == "answer"


def test_the_whole_schooling_is_kept_and_not_done_twice(shop, tmp_path):
    pairs = shop[0]
    plan = Schooling(depth=1, sft_steps=2, grpo_steps=1, num_prompts=2, num_generations=2, beta=0.0)
    first = school(pairs, tmp_path / "run", plan)
    files = {"start", "sft", "judge", "rationales.jsonl", "run.json", "metrics.jsonl", "rollouts.png"}
    assert files <= {file.name for file in (tmp_path / "run").iterdir()}
    assert (
        Judge.load(tmp_path / "run", "cpu").version == Judge.load(tmp_path / "run" / "judge", "cpu").version
    )
    stamp = (tmp_path / "run" / "judge" / "model.safetensors").stat().st_mtime_ns
    assert school(pairs, tmp_path / "run", plan) == json.loads(json.dumps(first))
    assert (tmp_path / "run" / "judge" / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(CheckpointError, match="holds a run with other settings"):
        school(pairs, tmp_path / "run", plan.but(grpo_steps=2))


def test_the_command_says_verdict_protocol_and_reason(shop, taught, tmp_path):
    pairs = shop[0]
    pair = pairs.pairs("train")[0]
    for name, image_id in (("a.jpg", pair.image_a), ("b.jpg", pair.image_b)):
        (tmp_path / name).write_bytes(pairs.picture(image_id))
    words = ["judge", str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg"), "--model", str(taught[0])]
    done = CliRunner().invoke(app, [*words, "--title", pair.title, "--query", "gift=3"])
    assert done.exit_code == 0, done.output
    assert "Verdict:" in done.output
    assert "Q8" in done.output
    missing = CliRunner().invoke(app, ["judge", "no.jpg", *words[2:]])
    assert "creative A: no picture can be read at no.jpg" in str(missing.exception)
