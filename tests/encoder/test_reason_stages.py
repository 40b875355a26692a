"""Cold start and the joint stage of a reasoner: slow twins, gradients, queue, resume, the log."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_log import write
from stage_parts import assert_equal, assert_resumes, grads_of

from moontide.encoder.chain import chain_keys, chain_of, chain_text, parse_chain
from moontide.encoder.model.inputs import Item
from moontide.encoder.model.reasoner import ReasoningSettings, make_reasoner
from moontide.encoder.model.writing import write as let_write
from moontide.encoder.objectives.rewards import RewardSettings
from moontide.encoder.stages.coldstart import ColdStart, ColdStartSettings, cold_start, text_loss
from moontide.encoder.stages.pairings import REASONING
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.reason import Reasoning, ReasonSettings, SamplingSettings, reason
from moontide.encoder.stages.rollouts import FILE, log_p_gap, rollouts_of
from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.foundation.runs import Run

BUDGET = 24
LOOP = {"num_pairs": 6, "learning_rate": 2e-3, "log_every": 1, "checkpoint_every": 2, "augment": 0.3}
COLD = ColdStartSettings(num_steps=6, **LOOP)
JOINT = ReasonSettings(num_steps=6, rollouts=3, queue=20, **LOOP)
SHAPE = ReasoningSettings(budget=BUDGET, heads=2, head_width=8, dim=16, widths=(4, 8, 16))


@pytest.fixture(scope="module")
def make(make_encoder):
    """A seed -> a new reasoner; another seed, other weights."""

    def new(seed: int = 0, **changes):
        return make_reasoner(make_encoder(seed=seed), SHAPE.but(**changes), seed)

    return new


@pytest.fixture(scope="module")
def school(make, catalog):
    """A reasoner's weights after a cold start: it writes, and not always the same."""
    encoder = make()
    cold_start(encoder, catalog, COLD.but(num_steps=40, num_pairs=12, sft=1.0, learning_rate=4e-3))
    return encoder.state_dict()


@pytest.fixture
def schooled(make, school):
    def new(**changes):
        encoder = make(**changes)
        encoder.load_state_dict(school)
        return encoder

    return new


def cold(encoder, dataset, settings=COLD, **changes) -> ColdStart:
    return ColdStart(encoder, dataset, Pictures(dataset.images, encoder.pixels), settings.but(**changes))


def joint(encoder, dataset, settings=JOINT, **changes) -> Reasoning:
    settings = settings.but(**changes)
    step = Reasoning(encoder, dataset, Pictures(dataset.images, encoder.pixels), settings)
    step.fill_queues()
    return step


# --- what is seen ------------------------------------------------------------


def test_attributes_are_targets_and_never_in_an_input(make, catalog):
    assert {form for row in REASONING for form in (row.query_form, row.item_form)} == {
        "text", "image", "text_image", "title", "title_image",
    }  # fmt: skip
    step = cold(make(), catalog)
    titles = {product.title for product in step.pairs.products}
    asked = {query.text for query in catalog.queries() if query.text}
    for number in range(len(step.pairs.pairings)):
        batch = step.pairs.batch(number, 0, 0, 6)
        assert {item.text for item in batch.items} <= {*titles, None}
        assert {item.text for item in batch.queries} <= {*titles, *asked, None}
        assert all(item.reasoning is None for item in (*batch.queries, *batch.items))


def test_all_five_directions_and_the_log_are_paired(make, catalog):
    step = cold(make(), catalog)
    found = {(row.query_form, row.item_form) for row in step.pairs.pairings if row.source == "catalog"}
    mm = "title_image"
    assert found == {("image", mm), ("title", mm), (mm, mm), ("title", "image"), ("image", "title")}
    assert sum(row.share for row in step.pairs.pairings if row.source == "log") == pytest.approx(0.6)


@pytest.mark.parametrize("side", ["query", "item", "both", "none"])
def test_a_target_is_the_chain_of_the_positive_product_on_the_side_that_reasons(make, catalog, side):
    encoder = make(reasons=side)
    step = cold(encoder, catalog, reason=side)
    batch, keys = step.batch(0), chain_keys(catalog.products())
    assert step.targets.keys == keys == ("category", "color", "form")
    told = []
    for done in step.completed(batch):
        ids = done.prepared.ids[done.is_action]
        told.append(encoder.tokenizer.decode(ids) if len(ids) else None)
    wanted = [chain_of(step.pairs.products[code], keys) for code in batch.product]
    sides = {"query": (True, False), "item": (False, True), "both": (True, True), "none": (False, False)}
    for texts, is_written in zip((told[:6], told[6:]), sides[side], strict=True):
        if not is_written:
            assert texts == [None] * 6
            continue
        assert all(text.rstrip().endswith("<emb>") for text in texts)
        read = [parse_chain(text.replace("<emb>", "").strip(), keys) for text in texts]
        assert read == wanted


def test_targets_are_cut_to_the_budget_at_the_end_of_a_pair(make, catalog):
    encoder = make()
    whole = cold(encoder, catalog).targets
    full = whole.chain(0)
    room = len(encoder.backbone.tokens(chain_text(dict(list(full.items())[:2]))))
    short = cold(encoder, catalog, budget=room).targets
    assert short.text(0) == chain_text(dict(list(full.items())[:2]))
    assert whole.text(0) == chain_text(full)
    assert (whole.share_cut, short.share_cut) == (0.0, 1.0)
    none = cold(encoder, catalog, budget=1)
    assert none.targets.text(0) is None
    assert not any(done.is_action.any() for done in none.completed(none.batch(0)))


# --- cold start ------------------------------------------------------------


def test_the_loss_of_a_cold_start_is_that_of_its_two_parts(make, catalog):
    encoder = make()
    encoder.eval()
    step = cold(encoder, catalog, sft=0.3, infonce=0.7)
    batch, done = step.batch(0), step.completed(step.batch(0))
    tokens = []
    for one in done[:6]:
        features = encoder.backbone.collate([one.prepared])
        states_BLD = encoder.backbone.states(features, "causal")
        log_p_LV = encoder.backbone.model.lm_head(states_BLD[0]).log_softmax(-1).detach().double()
        tokens += [log_p_LV[at - 1, one.prepared.ids[at]].item() for at in np.flatnonzero(one.is_action)]
    vectors = torch.stack([encoder.forward_prepared([one.prepared])[0] for one in done]).detach().double()
    contrast = []
    for width in encoder.widths:
        both = F.normalize(vectors[:, :width], dim=1)
        score_NN = both[:6] @ both[6:].T / step.temperature().item()
        for i in range(6):
            rivals = [j for j in range(6) if j == i or not same(step, batch, i, j)]
            contrast.append((score_NN[i, rivals].logsumexp(0) - score_NN[i, i]).item())
    figures = step(0)
    assert figures["sft"] == pytest.approx(-np.mean(tokens), rel=1e-2)
    assert figures["infonce"] == pytest.approx(np.mean(contrast), rel=1e-3)
    assert figures["loss"] == pytest.approx(0.3 * figures["sft"] + 0.7 * figures["infonce"], rel=1e-6)


def same(step, batch, i, j) -> bool:
    """Whether item j is no negative of query i, pair by pair."""
    rows, code = step.pairs.rows, batch.product[j]
    known = set(zip(rows.query.tolist(), rows.product.tolist(), strict=True))
    is_equal = step.pairs.group[batch.product[i]] == step.pairs.group[code]
    return is_equal or batch.content[i] == batch.content[j] or (batch.query[i], code) in known


def test_the_text_loss_is_a_mean_over_tokens_and_nothing_without_a_text():
    log_p = torch.tensor([[-1.0, -3.0], [-2.0, -9.0]])
    assert text_loss(log_p, torch.tensor([[True, True], [True, False]])).item() == 2.0
    assert text_loss(log_p, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0


def test_a_cold_start_lowers_both_losses_and_teaches_the_form(make, catalog, tmp_path):
    encoder, run = make(), Run.start(tmp_path / "run", "test", {}, 0)
    results = cold_start(
        encoder, catalog, COLD.but(num_steps=90, num_pairs=12, sft=1.0, learning_rate=4e-3), run
    )
    lines = run.metrics("cold_start")
    for name in ("sft", "infonce"):
        first, last = (np.mean([row[name] for row in rows]) for rows in (lines[:8], lines[-8:]))
        assert last < 0.8 * first
    assert results["pairs"] == 1_080
    (asked,) = encoder.reasoned([Item(catalog.products()[0].title)])
    assert asked.reasoning.startswith("<think>")


# --- the joint step ------------------------------------------------------------


def test_no_gradient_of_reinforcement_reaches_the_items(schooled, catalog):
    for side in ("query", "both", "item"):
        step = joint(schooled(reasons=side), catalog, reason=side)
        rollouts = step.roll_out(0)
        scored = step.read(step.encoder, rollouts)
        rollouts = step.judged(rollouts, scored)
        num = len(rollouts.completed)
        scored.vectors.retain_grad()
        policy, _ = step._policy(rollouts, scored.log_p[:num], scored.is_action[:num])
        policy.backward(retain_graph=True)
        assert scored.vectors.grad is None  # neither an item's vector nor a rollout's
        contrast, _ = step._contrast(rollouts, scored.vectors[:num], scored.vectors[num:])
        contrast.backward()
        assert (scored.vectors.grad[num:].abs().sum(1) > 0).all()
        assert not rollouts.past.vectors_OD.requires_grad


def test_reinforcement_has_the_gradient_of_the_texts_alone(schooled, catalog):
    encoder = schooled()
    encoder.eval()
    step = joint(encoder, catalog, infonce=0.0)
    step(0)
    found = grads_of(encoder)
    rollouts = step.rollouts
    scored = encoder.score(rollouts.completed)  # without the items
    kept = scored.is_action
    gain_R = (scored.log_p * kept).sum(1) / kept.sum(1)
    (-(gain_R * rollouts.advantage_R).mean()).backward()
    wanted = grads_of(encoder)
    assert rollouts.advantage_R.abs().max() > 0.5
    for name, grad in wanted.items():
        if grad.abs().max() > 0:
            torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=1e-3)


def test_log_probabilities_and_vectors_of_the_pass_are_those_of_the_writing(schooled, catalog):
    encoder = schooled()
    encoder.eval()
    step = joint(encoder, catalog)
    for number in range(3):
        rollouts = step.roll_out(number)
        with torch.no_grad():
            scored = step.read(encoder, rollouts)
        rollouts = step.judged(rollouts, scored)
        assert log_p_gap(rollouts) < 1e-4
        rows = [one for group in rollouts.written for one in group]
        for row, one in enumerate(rows):
            assert int(scored.is_action[row].sum()) == len(one.ids)
            read = scored.log_p[row][scored.is_action[row]].numpy()
            np.testing.assert_allclose(read, one.log_p, atol=1e-3)


def test_rewards_are_those_of_the_texts_and_of_the_rank_among_batch_and_queue(schooled, catalog):
    encoder = schooled()
    encoder.eval()
    step = joint(encoder, catalog, rewards=RewardSettings(attribute=0.5))
    rollouts = step.roll_out(0)
    with torch.no_grad():
        scored = step.read(encoder, rollouts)
    rewards = step.judged(rollouts, scored).rewards
    vectors = scored.vectors.double()
    pool = torch.cat((vectors[18:], rollouts.past.judged_OD.double()))
    codes = [*rollouts.batch.product, *rollouts.past.product]
    assert len(rollouts.past.product) > 6
    keys = step.targets.keys
    for i in range(6):
        for g, one in enumerate(rollouts.written[i]):
            score = pool @ vectors[3 * i + g]
            rivals = [j for j in range(len(pool)) if j != i and not rollouts.not_negative_NM[i, j]]
            assert not any(step.pairs.group[codes[j]] == step.pairs.group[codes[i]] for j in rivals)
            rank = 1 + sum((score[j] >= score[i] - 1e-6).item() for j in rivals)
            wanted = 1 - math.log(rank) / math.log(1 + len(rivals))
            assert rewards.parts["retrieval"][i, g] == pytest.approx(wanted, abs=1e-6)
            is_right = one.has_emb and parse_chain(one.text, keys) is not None
            assert rewards.parts["format"][i, g] == is_right
            assert rewards.parts["length"][i, g] == (one.finish != "budget" and one.num_tokens <= BUDGET)
    parts = rewards.parts
    total = 0.5 * parts["format"] + 0.2 * parts["length"] + parts["retrieval"] + 0.5 * parts["attribute"]
    np.testing.assert_allclose(rewards.total_NG, total)


def test_the_loss_adds_the_two_parts_and_leaves_out_those_without_weight(schooled, catalog):
    losses = {}
    for name, weights in {"both": (1.0, 0.1), "policy": (1.0, 0.0), "contrast": (0.0, 0.1)}.items():
        step = joint(schooled(), catalog, grpo=weights[0], infonce=weights[1])
        figures = step(0)
        losses[name] = figures["loss"]
        has_grad = step.temperature.log.grad is not None
        assert has_grad == (weights[1] > 0)
    assert losses["both"] == pytest.approx(losses["policy"] + losses["contrast"], abs=1e-6)
    assert losses["contrast"] == pytest.approx(0.1 * figures["infonce"])


def test_a_missing_emb_is_counted_and_earns_no_format(make, catalog):
    encoder = make()  # untaught: it writes on until the budget
    figures = joint(encoder, catalog, budget=4)(0)
    assert figures["num_missing_emb"] >= 1
    assert figures["emb_share"] == pytest.approx(1 - figures["num_missing_emb"] / 18)
    assert figures["reward_format"] <= figures["emb_share"]
    assert math.isfinite(figures["loss"])


def test_the_clip_matters_from_the_second_update_on(schooled, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    settings = JOINT.but(num_steps=6, num_updates=3, checkpoint_every=3, warmup_share=0.0, learning_rate=5e-3)
    results = reason(schooled(), catalog, settings, run)
    lines = run.metrics("reason")
    assert [row["ratio"] == pytest.approx(1, abs=1e-5) for row in lines] == [True, False, False] * 2
    assert max(row["clip_share"] for row in lines) > 0
    assert [row["clip_share"] for row in lines[::3]] == [0, 0]
    assert lines[0]["reward"] == lines[1]["reward"] == lines[2]["reward"]
    assert (results["pairs"], results["texts"]) == (12, 36)


def test_the_distance_to_the_start_is_nothing_at_first_and_then_something(schooled, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    reason(schooled(), catalog, JOINT.but(kl=0.04, learning_rate=5e-3, warmup_share=0.0), run)
    distances = [row["kl"] for row in run.metrics("reason")]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert min(distances) >= 0
    assert distances[-1] > 1e-5


def test_recall_is_judged_by_the_encoder_as_it_was(schooled, catalog):
    settings = JOINT.but(rewards=RewardSettings(retrieval_kind="recall", k=5))
    step = joint(schooled(), catalog, settings)
    with torch.no_grad():
        for weight in step.encoder.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    rollouts = step.roll_out(0)
    with torch.no_grad():
        now = step.read(step.encoder, rollouts)
    judged = step.judged(rollouts, now)
    again = step.rewards(rollouts, judged.reference.vectors[:18], judged.reference.vectors[18:])
    np.testing.assert_array_equal(judged.rewards.total_NG, again.total_NG)
    assert (judged.reference.vectors - now.vectors).abs().max() > 1e-2
    step.remember(judged, now, 0)
    newest = step.past.sample(step.form(judged.batch))
    torch.testing.assert_close(newest.judged_OD[:6].flip(0), judged.reference.vectors[18:])
    torch.testing.assert_close(newest.vectors_OD[:6].flip(0), now.vectors[18:])


def test_candidates_that_teach_nothing_go_first(schooled, catalog):
    settings = JOINT.but(num_pairs=4, sampling=SamplingSettings(candidates=3), rollouts=2)
    settings = settings.but(rewards=RewardSettings(length=0.0, retrieval=0.0))
    step = joint(schooled(), catalog, settings)
    for number in range(3):
        every = step.written(step.batch(number), number)
        with torch.no_grad():
            judged = step.judged(every, step.read(step.encoder, every))
        is_loud = np.ptp(judged.rewards.total_NG, axis=1) > 0
        kept = step.roll_out(number)
        assert len(kept.others) == len(kept.written) == len(kept.batch.product) == 4
        assert kept.drawn_silent == pytest.approx(1 - is_loud.mean())
        loud = [text for text, wanted in zip(every.texts(), is_loud, strict=True) if wanted]
        assert sum(text in loud for text in kept.texts()) >= min(4, len(loud))
        assert kept.not_negative_NM.shape == (4, 4 + len(kept.past.product))
        assert kept.not_negative_NM[np.arange(4), np.arange(4)].all()
    assert "drawn_zero_variance_share" in step(0)


def test_without_reasoning_only_the_contrast_is_left(schooled, catalog):
    step = joint(schooled(reasons="none"), catalog, reason="none")
    figures = step(0)
    assert figures["loss"] == pytest.approx(0.1 * figures["infonce"])
    assert "reward" not in figures
    assert not any(done.is_action.any() for done in step.rollouts.completed)


def test_where_items_reason_their_text_is_the_greedy_one_and_fixed(schooled, catalog):
    encoder = schooled(reasons="both")
    encoder.eval()
    step = joint(encoder, catalog, reason="both")
    rollouts = step.roll_out(0)
    prompts = encoder.backbone.prompts(rollouts.batch.items)
    for done, (one,) in zip(
        rollouts.others, let_write(encoder, prompts, BUDGET, temperature=0.0), strict=True
    ):
        assert np.array_equal(done.prepared.ids[done.is_action], one.ids)
    plain = joint(encoder, catalog).roll_out(0)
    assert not any(done.is_action.any() for done in plain.others)


def test_attribute_words_and_likeness_change_the_contrast_when_asked_to(schooled, catalog):
    plain = joint(schooled(), catalog)(0)["infonce"]
    weighted = joint(schooled(), catalog, has_attribute_weights=True)(0)["infonce"]
    spared = joint(schooled(), catalog, false_negative=0.5)(0)["infonce"]
    assert math.e * plain - 1e-4 <= weighted <= math.e**2 * plain + 1e-4
    assert spared < plain


def test_texts_are_drawn_by_seed_and_batch_alone(schooled, catalog):
    first = joint(schooled(), catalog).roll_out(2).texts()
    torch.manual_seed(99)
    assert joint(schooled(), catalog).roll_out(2).texts() == first
    assert joint(schooled(), catalog, seed=1).roll_out(2).texts() != first


# --- whole stages ------------------------------------------------------------


def test_a_cold_start_resumes_digit_for_digit(make, catalog, tmp_path, monkeypatch):
    train = lambda encoder, run: cold_start(encoder, catalog, COLD, run)  # noqa: E731
    assert_resumes(monkeypatch, tmp_path, "cold_start", make, train)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kl": 0.04, "num_updates": 2, "reason": "both"},
        {"rewards": RewardSettings(retrieval_kind="recall", k=5), "sampling": SamplingSettings(candidates=2)},
    ],
)
def test_a_joint_stage_resumes_digit_for_digit(make, school, catalog, tmp_path, monkeypatch, changes):
    def new(seed: int):
        encoder = make(seed, reasons=changes.get("reason", "query"))
        if seed == 0:  # the other has weights of its own: all must come from the checkpoint
            encoder.load_state_dict(school)
        return encoder

    train = lambda encoder, run: reason(encoder, catalog, JOINT.but(**changes), run)  # noqa: E731
    assert_resumes(monkeypatch, tmp_path, "reason", new, train)
    whole, cut = (rollouts_of(Run.open(tmp_path / name)) for name in ("whole", "cut"))
    assert whole == cut
    assert whole


def test_rewards_are_in_the_log_and_texts_beside_it(schooled, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    results = reason(schooled(), catalog, JOINT.but(log_every=2), run)
    lines = run.metrics("reason")
    assert [row["step"] for row in lines] == [0, 2, 4, 5]
    names = {"reward", "reward_format", "reward_length", "reward_retrieval", "reward_attribute"}
    names |= {"zero_variance_share", "mean_tokens", "parse_rate", "emb_share", "clip_share", "infonce"}
    names |= {"grpo", "distinct_share", "log_p_gap", "gate_emb", "gate_visual", "gate_text"}
    assert all(names <= row.keys() for row in lines)
    samples = rollouts_of(run, "reason")
    assert [row["step"] for row in samples] == [0] * 12 + [2] * 12 + [4] * 12
    assert all(row["text"].startswith("<think>") for row in samples if row["format"])
    assert {row["product_id"] for row in samples} <= {one.product_id for one in catalog.products()}
    by_group = np.array([row["advantage"] for row in samples]).reshape(-1, 3)
    np.testing.assert_allclose(by_group.sum(1), 0, atol=1e-4)
    assert results["steps"] == 6
    (run.path / FILE).open("a").write('{"cut": ')
    assert rollouts_of(run) == samples


def test_other_settings_are_refused_on_the_same_run(schooled, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    reason(schooled(), catalog, JOINT.but(num_steps=1), run)
    with pytest.raises(CheckpointError, match="made with other settings or data"):
        reason(schooled(), catalog, JOINT.but(num_steps=1, kl=0.1), run)


def test_the_frozen_encoder_stays_as_it_was(schooled, catalog):
    step = joint(schooled(), catalog, kl=0.1)
    before = {name: value.clone() for name, value in step.frozen.state_dict().items()}
    step(0)
    assert all(weight.grad is None for weight in step.frozen.parameters())
    with torch.no_grad():
        for weight in step.encoder.parameters():
            weight.add_(1.0)
    assert_equal(dict(step.frozen.state_dict()), before)


# --- bad input ------------------------------------------------------------


def test_an_encoder_that_does_not_reason_is_refused(make_encoder, catalog):
    for stage, settings in ((cold_start, COLD), (reason, JOINT)):
        with pytest.raises(SettingsError, match="the encoder does not reason: make a reasoner of it first"):
            stage(make_encoder(), catalog, settings)


def test_a_dataset_without_attributes_or_pairs_is_refused(make, tmp_path):
    products = {f"p{n}": "home/lamp" for n in range(4)}
    bare = write(tmp_path / "bare", products, {}, [])
    for stage, settings in ((cold_start, COLD), (reason, JOINT)):
        with pytest.raises(
            DataError, match="bare has no attributes to reason about: no train product has one"
        ):
            stage(make(), bare, settings)
    empty = write(tmp_path / "empty", {"p0": "home/lamp"}, {}, [])
    with pytest.raises(DataError, match="empty has nothing to pair"):
        cold_start(make(), empty, COLD)


@pytest.mark.parametrize(
    ("settings", "changes", "text"),
    [
        (JOINT, {"num_pairs": 1}, "num_pairs: input should be greater than or equal to 2, got 1"),
        (COLD, {"num_pairs": 1}, "num_pairs: input should be greater than or equal to 2, got 1"),
        (JOINT, {"rollouts": 1}, "rollouts must be at least 2 to compare, got 1: or set grpo to 0"),
        (JOINT, {"grpo": 0.0, "infonce": 0.0}, "nothing is optimized"),
        (JOINT, {"reason": "none", "infonce": 0.0}, "nothing is optimized"),
        (COLD, {"sft": 0.0, "infonce": 0.0}, "nothing is optimized"),
        (JOINT, {"num_updates": 4}, "num_steps must be a multiple of num_updates 4, got 6"),
        (JOINT, {"num_updates": 3}, "checkpoint_every must be a multiple of num_updates 3, got 2"),
        (JOINT, {"rewards": RewardSettings(retrieval_kind="recall")}, "recall at 50 of 26 items is always 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings, changes, text):
    with pytest.raises(SettingsError, match=text):
        settings.but(**changes)


def test_serving_another_side_than_was_trained_is_a_warning(make, catalog, caplog):
    cold(make(reasons="query"), catalog, reason="both")
    assert "trained to reason about both, served to reason about query" in caplog.text
