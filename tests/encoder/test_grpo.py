"""GRPO: advantages, the clipped loss and its gradient, KL, agreement with TRL, InfoNCE over rollouts."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from moontide.encoder.objectives.grpo import (
    action_mean,
    advantages,
    attribute_weights,
    clipped_loss,
    false_negatives,
    kl,
    repeated_info_nce,
)
from moontide.encoder.objectives.infonce import info_nce, matryoshka
from moontide.foundation.errors import SettingsError


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(drawn(*shape, seed=seed), dim=-1)


def rollouts(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """New and old log-probabilities of six rollouts of 0 to 5 actions, advantages, what is an action."""
    old = -drawn(6, 5, seed=seed).abs()
    new = old + 0.3 * drawn(6, 5, seed=seed + 1)
    is_action = torch.arange(5) < torch.tensor([5, 3, 1, 4, 0, 2])[:, None]
    return new, old, drawn(6, seed=seed + 2), is_action


def test_advantages_have_mean_nothing_and_variance_one():
    advantage = advantages(drawn(5, 8))
    torch.testing.assert_close(advantage.mean(dim=1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(advantage.var(dim=1, correction=0), torch.ones(5, dtype=torch.float64),
                               atol=1e-5, rtol=0)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", [1, 3, 7, 8])
def test_a_group_that_ties_has_exactly_no_advantage(dtype, group):
    reward = torch.tensor([[0.1], [1.7], [1e6]], dtype=dtype).expand(3, group)
    assert advantages(reward).abs().max() == 0
    assert advantages(reward).dtype == dtype


def test_shifted_and_scaled_rewards_have_the_same_advantages():
    reward = drawn(5, 8)
    for changed in (reward + 3.5, reward * 7, reward * 0.2 - 1):
        torch.testing.assert_close(advantages(changed), advantages(reward), atol=1e-4, rtol=0)
        torch.testing.assert_close(advantages(changed, eps=0), advantages(reward, eps=0))


@pytest.mark.parametrize("wins", range(1, 8))
def test_success_and_failure_have_the_advantages_of_their_shares(wins):
    share = wins / 8
    reward = torch.tensor([[1] * wins + [0] * (8 - wins)])  # whole numbers, and arrays, are taken as well
    up, down = math.sqrt((1 - share) / share), -math.sqrt(share / (1 - share))
    expected = torch.tensor([[up] * wins + [down] * (8 - wins)])
    torch.testing.assert_close(advantages(reward), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(advantages(reward.numpy()), advantages(reward))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_at_ratio_one_the_gradient_is_the_policy_gradient(level):
    _, old, advantage, is_action = rollouts()
    new = old.clone().requires_grad_()
    loss, figures = clipped_loss(new, old, advantage, is_action, level=level)
    loss.backward()
    share = is_action / is_action.sum(dim=1, keepdim=True).clamp(min=1) if level == "token" else is_action
    torch.testing.assert_close(new.grad, -advantage[:, None] * share / 6)
    counted = advantage[is_action.any(dim=1)].sum() / 6
    torch.testing.assert_close(loss.detach(), -counted)
    assert figures == {"clip_share": 0, "ratio": 1}


def test_the_loss_is_what_the_formula_says():
    new, old, advantage, is_action = rollouts()
    token = sequence = 0.0
    for r in range(6):
        actions = [t for t in range(5) if is_action[r, t]]
        if actions:
            a = advantage[r].item()
            ratios = [math.exp(new[r, t] - old[r, t]) for t in actions]
            gains = [min(c * a, min(max(c, 0.9), 1.1) * a) for c in ratios]
            token -= sum(gains) / len(gains) / 6
            whole = math.prod(ratios)
            sequence -= min(whole * a, min(max(whole, 0.9), 1.1) * a) / 6
    assert clipped_loss(new, old, advantage, is_action, 0.1)[0].item() == pytest.approx(token)
    assert clipped_loss(new, old, advantage, is_action, 0.1, "sequence")[0].item() == pytest.approx(sequence)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.3, 1, False), (1.3, -1, True), (0.7, 1, True), (0.7, -1, False), (1.1, 1, True), (0.9, -1, True)],
)
def test_a_ratio_out_of_bounds_gets_no_gradient_where_it_would_go_further(ratio, advantage, moves):
    for level in ("token", "sequence"):
        new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        is_action = torch.ones(1, 1, dtype=torch.bool)
        old, given = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([float(advantage)])
        loss, figures = clipped_loss(new, old, given, is_action, 0.2, level)
        loss.backward()
        assert new.grad.item() == pytest.approx(-advantage * ratio if moves else 0, abs=0)
        bound = min(max(ratio, 0.8), 1.2)
        assert loss.item() == pytest.approx(-min(ratio * advantage, bound * advantage))
        assert figures["clip_share"] == (not moves)
        assert figures["ratio"] == pytest.approx(ratio)


def test_token_level_weighs_the_mean_of_a_text_and_sequence_level_its_product():
    log_ratio = torch.tensor([[0.1, 0.15, -0.05, 0.1]], dtype=torch.float64)
    old, is_action = torch.zeros_like(log_ratio), torch.ones(1, 4, dtype=torch.bool)
    plus = torch.tensor([1.0])
    token, figures = clipped_loss(log_ratio, old, plus, is_action)
    assert token.item() == pytest.approx(-log_ratio.exp().mean().item())
    assert figures["clip_share"] == 0  # each ratio is within bounds, their product is not
    sequence, figures = clipped_loss(log_ratio, old, plus, is_action, level="sequence")
    assert sequence.item() == pytest.approx(-1.2)
    assert figures == {"clip_share": 1, "ratio": pytest.approx(math.exp(0.3))}
    first = torch.tensor([[True, False, False, False]])
    one = (
        clipped_loss(log_ratio, old, plus, first)[0],
        clipped_loss(log_ratio, old, plus, first, 0.2, "sequence")[0],
    )
    assert one[0] == one[1]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_what_stands_in_the_padding_changes_nothing(level):
    new, old, advantage, is_action = rollouts()
    results = []
    for filler in (0.0, -40.0, -torch.inf, torch.nan):
        padded = new.masked_fill(~is_action, filler).requires_grad_()
        loss = clipped_loss(padded, old, advantage, is_action, level=level)[0] + kl(padded, old, is_action)
        loss.backward()
        results.append((loss.item(), padded.grad))
    assert all(loss == results[0][0] for loss, _ in results)
    assert all(torch.equal(gradient, results[0][1]) for _, gradient in results)
    assert results[0][1][~is_action].abs().max() == 0


def test_no_gradient_reaches_advantages_old_or_reference_probabilities():
    new, old, advantage, is_action = (one.requires_grad_(one.dtype != torch.bool) for one in rollouts())
    (clipped_loss(new, old, advantage, is_action)[0] + kl(new, old, is_action)).backward()
    assert new.grad.abs().max() > 0
    assert old.grad is None
    assert advantage.grad is None


def test_a_batch_without_actions_costs_nothing():
    new, old, advantage, is_action = rollouts()
    for level in ("token", "sequence"):
        nothing = torch.zeros_like(is_action)
        loss, figures = clipped_loss(new.requires_grad_(), old, advantage, nothing, level=level)
        loss.backward()
        assert loss.item() == new.grad.abs().max() == 0
        assert figures == {"clip_share": 0, "ratio": 0}


def test_wrong_settings_of_the_loss_are_refused():
    given = rollouts()
    for clip in (0, 1, -0.2):
        with pytest.raises(SettingsError, match=f"clip must lie above 0 and below 1, got {clip}"):
            clipped_loss(*given, clip)
    with pytest.raises(SettingsError, match=r"level must be token or sequence, got 'word'"):
        clipped_loss(*given, 0.2, "word")


def test_the_divergence_from_itself_is_nothing_and_never_below():
    new, old, _, is_action = rollouts()
    assert kl(old, old, is_action).item() == 0
    each = torch.expm1(old - new) - (old - new)
    assert each.min() >= 0
    torch.testing.assert_close(kl(new, old, is_action), action_mean(each, is_action))
    for seed in range(20):
        new, old, _, is_action = rollouts(seed)
        assert kl(new, old, is_action) >= 0


def test_the_mean_of_the_estimator_is_the_divergence():
    policy, reference = torch.softmax(drawn(1, 6), dim=1)[0], torch.softmax(drawn(1, 6, seed=1), dim=1)[0]
    each = kl_each(policy.log(), reference.log())
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * each).sum(), exact)


def kl_each(log_p: torch.Tensor, ref_log_p: torch.Tensor) -> torch.Tensor:
    one = torch.ones(1, 1, dtype=torch.bool)
    return torch.stack([kl(p.view(1, 1), q.view(1, 1), one) for p, q in zip(log_p, ref_log_p, strict=True)])


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_policy_of_two_tokens_learns_to_write_the_better_one(level):
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([1.5, 0.0], dtype=torch.float64, requires_grad=True)
    worth = torch.tensor(
        [0.2, 1.0], dtype=torch.float64
    )  # of each token: the optimum always writes the second
    optimizer = torch.optim.Adam([logits], lr=0.1)
    expected = []
    for _ in range(80):
        p = logits.detach().softmax(dim=0)
        expected.append(float(p @ worth))
        token_RA = torch.multinomial(p, 8 * 8 * 3, replacement=True, generator=generator).view(64, 3)
        advantage_R = advantages(worth[token_RA].mean(dim=1).view(8, 8)).flatten()
        for _ in range(2):  # in the second the ratios are no longer 1
            log_p_RA = logits.log_softmax(dim=0)[token_RA]
            is_action_RA = torch.ones_like(token_RA, dtype=torch.bool)
            loss, _ = clipped_loss(log_p_RA, p.log()[token_RA], advantage_R, is_action_RA, level=level)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert expected[0] == pytest.approx(0.2 + 0.8 / (1 + math.exp(1.5)))
    assert all(late > early for early, late in zip(expected[::10], expected[10::10], strict=False))
    assert expected[-1] > 0.99


@dataclass(frozen=True)
class TrlBatch:
    """One generation batch of TRL's trainer: two prompts, four rollouts each."""

    trainer: GRPOTrainer
    inputs: dict[str, Any]
    rewards: torch.Tensor

    def log_p(self) -> torch.Tensor:
        """Log-probabilities of the completions, by the model's own forward pass."""
        prompt, completion = self.inputs["prompt_ids"], self.inputs["completion_ids"]
        mask = torch.cat((self.inputs["prompt_mask"], self.inputs["completion_mask"]), dim=1)
        out = self.trainer.model(torch.cat((prompt, completion), dim=1), attention_mask=mask)
        log_p = out.logits[:, prompt.shape[1] - 1 : -1].log_softmax(dim=-1)
        return log_p.gather(2, completion[:, :, None])[:, :, 0]


@pytest.fixture(scope="module")
def trl_batch(tmp_path_factory) -> TrlBatch:
    words = ["<pad>", "<end>", *"abcdefghijkl"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    given: list[float] = []

    def reward(completions: list[str], **_: Any) -> list[float]:
        given.extend(len(set(one)) / 3 for one in completions)
        return given

    with torch.random.fork_rng():
        torch.manual_seed(0)
        trainer = GRPOTrainer(
            model=Qwen2ForCausalLM(config),
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to="none",
                gradient_checkpointing=False, save_strategy="no", loss_type="grpo", num_generations=4,
                per_device_train_batch_size=8, max_completion_length=6, epsilon=0.2,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["a b", "c d e"]}),
            processing_class=PreTrainedTokenizerFast(
                tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", padding_side="left"
            ),
        )  # fmt: skip
        inputs = trainer._generate_and_score_completions(
            [{"prompt": one} for one in ["a b"] * 4 + ["c d e"] * 4]
        )
    trainer.model.eval()  # the loss is divided by accumulation steps only while training
    return TrlBatch(trainer, inputs, torch.tensor(given).view(2, 4))


def gradients(loss: torch.Tensor, model: torch.nn.Module) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad]))


def test_advantages_are_those_of_trl_but_for_its_deviation_and_eps(trl_batch):
    factor = math.sqrt((4 - 1) / 4)
    ours = factor * advantages(trl_batch.rewards, eps=1e-4 * factor).flatten()
    assert trl_batch.rewards.std(dim=1).min() > 0
    torch.testing.assert_close(ours, trl_batch.inputs["advantages"])


@pytest.mark.parametrize(("beta", "is_corrected"), [(0.0, False), (0.04, False), (0.04, True)])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_clipped_loss_and_its_gradient_are_those_of_trl(
    trl_batch, beta, is_corrected, shift, monkeypatch
):
    trainer = trl_batch.trainer
    monkeypatch.setattr(trainer, "beta", beta)  # set before, it would load a reference from the Hub
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", is_corrected)
    log_p = trl_batch.log_p()
    is_action = trl_batch.inputs["completion_mask"].bool()
    old = log_p.detach() + shift * drawn(*log_p.shape).float()
    reference = log_p.detach() + 0.5 * drawn(*log_p.shape, seed=1).float()
    given = trl_batch.inputs | {"old_per_token_logps": old, "ref_per_token_logps": reference}
    trainer._metrics["eval"].clear()
    theirs = trainer.compute_loss(trainer.model, given)
    loss, figures = clipped_loss(log_p, old, trl_batch.inputs["advantages"], is_action)
    divergence = kl(log_p, reference, is_action)
    if is_corrected:  # TRL's default: the estimator times the ratio
        change = reference - log_p
        divergence = action_mean((change.expm1() - change) * (log_p - old).exp(), is_action)
    ours = loss + beta * divergence
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(gradients(ours, trainer.model), gradients(theirs, trainer.model), strict=True):
        torch.testing.assert_close(one, other)
    assert figures["clip_share"] == pytest.approx(trainer._metrics["eval"]["clip_ratio/region_mean"][0])
    assert (figures["clip_share"] > 0.1) == (shift > 0)


def test_the_sequence_ratio_of_one_action_is_that_of_trl(trl_batch, monkeypatch):
    trainer = trl_batch.trainer
    monkeypatch.setattr(trainer, "importance_sampling_level", "sequence")
    first = torch.zeros_like(trl_batch.inputs["completion_mask"])
    first[:, 0] = 1
    log_p = trl_batch.log_p()
    old = log_p.detach() + 0.3 * drawn(*log_p.shape).float()
    given = trl_batch.inputs | {"old_per_token_logps": old, "tool_mask": first}
    advantage = trl_batch.inputs["advantages"]
    ours, _ = clipped_loss(log_p, old, advantage, first.bool(), level="sequence")
    torch.testing.assert_close(ours, trainer.compute_loss(trainer.model, given))


def test_one_rollout_is_the_standard_loss():
    query, item = unit(4, 6), unit(7, 6, seed=1)
    mask = drawn(4, 7, seed=2) > 1
    weight = drawn(4, seed=3).abs()
    ours = repeated_info_nce(query[:, None], item, 0.1, mask, weight)
    assert torch.equal(ours, info_nce(query, item, 0.1, mask, weight_B=weight))


def test_rollouts_written_twice_leave_the_loss_alone():
    reasoned, item = unit(4, 3, 6), unit(7, 6, seed=1)
    mask = drawn(4, 7, seed=2) > 1
    once = repeated_info_nce(reasoned, item, 0.1, mask)
    for repeated in (reasoned.repeat(1, 2, 1), reasoned.repeat_interleave(3, dim=1)):
        torch.testing.assert_close(repeated_info_nce(repeated, item, 0.1, mask), once)


def test_the_loss_over_rollouts_is_what_the_formula_says():
    reasoned, item, tau = unit(3, 2, 6).requires_grad_(), unit(5, 6, seed=1).requires_grad_(), 0.2
    loss = repeated_info_nce(reasoned, item, tau)
    expected = 0.0
    for i in range(3):
        for g in range(2):
            scores = [math.exp((reasoned[i, g] @ item[j]).item() / tau) for j in range(5)]
            expected -= math.log(scores[i] / sum(scores)) / 6
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert reasoned.grad.abs().amin(dim=2).min() > 0
    assert item.grad.abs().max() > 0


def test_prefixes_of_rollouts_are_averaged_as_those_of_vectors_are():
    reasoned, item = unit(4, 9, 8), unit(4, 8, seed=1)
    each = [matryoshka(info_nce, reasoned[:, g], item, widths=[2, 8], temperature=0.1) for g in range(9)]
    torch.testing.assert_close(
        repeated_info_nce(reasoned, item, 0.1, widths=[2, 8]), torch.stack(each).mean()
    )


def test_pairs_that_share_words_weigh_up_to_e_times_more():
    weight = attribute_weights(torch.tensor([0.0, 1.0, 50.0]))
    assert weight.tolist() == pytest.approx([math.e, math.exp(1 + math.tanh(1)), math.e**2])


def test_items_like_the_own_one_are_no_negatives():
    item = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 1.0]]), dim=1)
    expected = [[True, False, True, False], [False, True, False, False]]
    assert false_negatives(item, 2, 0.9).tolist() == expected
    query = item[:2] + 0.0
    only = info_nce(query, item, 0.1, false_negatives(item, 2, 0.9))
    assert only < info_nce(query, item, 0.1)
