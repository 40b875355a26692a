"""Rewards of written chains: ranks, ties, masks, form, length, agreement with the catalog."""

import math

import numpy as np
import pytest

from moontide.encoder.objectives.rewards import (
    RewardSettings,
    attribute_f1,
    attribute_reward,
    combine,
    format_reward,
    length_reward,
    log_rank,
    margin_rank,
    rank_reward,
    ranks,
    recall_at,
    zero_variance_share,
)
from moontide.foundation.errors import SettingsError

KEYS = ("category", "color", "use")


def at_rank(rank: int, num: int) -> np.ndarray:
    """Similarities of one rollout whose own item, the first, takes this place."""
    others = np.linspace(0.9, -0.9, num - 1)
    own = others[rank - 1] + 1e-3 if rank < num else -1.0
    return np.concatenate(([own], others))


def drawn(num: int, group: int, items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (num, group, items)), rng.integers(0, items, num)


def test_the_log_rank_falls_from_one_to_nothing():
    similarity = np.array([[at_rank(rank, 64) for rank in (1, 2, 4, 8, 64)]])
    assert ranks(similarity, np.array([0]))[0].tolist() == [[1, 2, 4, 8, 64]]
    expected = [1, 0.833, 0.667, 0.5, 0]
    assert log_rank(similarity, np.array([0]))[0] == pytest.approx(expected, abs=5e-4)
    everywhere = log_rank(np.array([[at_rank(rank, 64) for rank in range(1, 65)]]), np.array([0]))[0]
    assert everywhere == pytest.approx([1 - math.log2(rank) / math.log2(64) for rank in range(1, 65)])


def test_ranks_agree_with_counting():
    similarity, positive = drawn(5, 3, 9)
    mask = np.random.default_rng(1).random((5, 9)) < 0.3
    found, num = ranks(similarity, positive, mask)
    for i in range(5):
        rivals = [j for j in range(9) if j != positive[i] and not mask[i, j]]
        assert num[i] == 1 + len(rivals)
        for g in range(3):
            own = similarity[i, g, positive[i]]
            assert found[i, g] == 1 + sum(similarity[i, g, j] >= own for j in rivals)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_count_against_the_own_item(dtype):
    positive = np.array([0, 3])
    assert log_rank(np.full((2, 4, 8), 0.7, dtype), positive).tolist() == [[0] * 4] * 2
    noise = np.random.default_rng(0).uniform(-1e-7, 1e-7, (2, 4, 8))
    assert log_rank((0.7 + noise).astype(dtype), positive).max() == 0
    tied = np.array([[[0.5, 0.5, 0.1, 0.0]]], dtype)
    assert log_rank(tied, np.array([0])).item() == pytest.approx(0.5)


def test_what_is_no_number_never_wins():
    similarity = np.array([[[np.nan, 0.5, 0.1, 0.0], [0.2, np.nan, 0.1, 0.0]]])
    assert ranks(similarity, np.array([0]))[0].tolist() == [[4, 2]]


@pytest.mark.parametrize("reward", [log_rank, margin_rank, recall_at])
def test_a_single_item_cannot_be_ranked(reward):
    with pytest.raises(SettingsError, match=r"a rank needs at least 2 items, got 1: take more pairs"):
        reward(np.ones((1, 4, 1)), np.array([0]))


def test_masked_items_are_as_if_they_were_not_there():
    similarity, positive = drawn(4, 3, 6)
    more = np.concatenate((similarity, np.ones((4, 3, 2))), axis=2)
    mask = np.zeros((4, 8), bool)
    mask[:, 6:] = True
    mask[np.arange(4), positive] = True  # the own item counts all the same
    for reward in (log_rank, margin_rank):
        assert reward(more, positive, mask) == pytest.approx(reward(similarity, positive))
    alone = np.ones((4, 8), bool)
    assert log_rank(more, positive, alone).max() == margin_rank(more, positive, alone).max() == 0


def test_queued_items_make_the_reward_finer():
    similarity = np.array([[at_rank(2, 4)], [at_rank(2, 4)]])
    more = np.concatenate((similarity, np.full((2, 1, 60), -1.0)), axis=2)
    assert log_rank(similarity, np.array([0, 0])) == pytest.approx(0.5)
    assert log_rank(more, np.array([0, 0])) == pytest.approx(1 - math.log(2) / math.log(64))


def test_the_margin_tells_rollouts_of_one_rank_apart():
    similarity = np.array([[[0.9, 0.1, -0.1], [0.5, 0.1, -0.1], [0.0, 0.6, 0.2]]])
    expected = [0.9, 0.5, 0.0]
    assert margin_rank(similarity, np.array([0]))[0] == pytest.approx(expected)
    second = np.array([[[0.3, 0.6, 0.2]]])
    gap = 0.3 - 0.4
    expected = (1 - math.log(2) / math.log(3)) * gap
    assert margin_rank(second, np.array([0])).item() == pytest.approx(expected)


def test_recall_is_found_or_not_and_a_broken_form_costs():
    similarity = np.array([[at_rank(rank, 8) for rank in (1, 2, 3, 8)]])
    assert recall_at(similarity, np.array([0]), k=2).tolist() == [[1, 1, 0, 0]]
    valid = np.array([[True, False, True, False]])
    assert recall_at(similarity, np.array([0]), 2, None, valid).tolist() == [[1, -0.1, 0, -0.1]]
    with pytest.raises(SettingsError, match=r"recall at 8 of 8 items is always 1: lower k or lengthen"):
        recall_at(similarity, np.array([0]), k=8)


def test_the_kind_of_the_retrieval_reward_is_a_setting():
    similarity, positive = drawn(3, 4, 9)
    valid = np.random.default_rng(2).random((3, 4)) < 0.5
    log = rank_reward(similarity, positive, RewardSettings(), is_valid_NG=valid)
    assert np.array_equal(log, log_rank(similarity, positive))
    margin = RewardSettings(retrieval_kind="margin")
    assert np.array_equal(rank_reward(similarity, positive, margin), margin_rank(similarity, positive))
    recall = RewardSettings(retrieval_kind="recall", k=3, invalid=-0.5)
    found = rank_reward(similarity, positive, recall, None, valid)
    assert np.array_equal(found, recall_at(similarity, positive, 3, None, valid, -0.5))
    assert [one.is_frozen for one in (RewardSettings(), margin, recall)] == [False, False, True]


def test_the_form_earns_only_with_its_last_token():
    texts = [["<think>color: red</think>", "<think>color red</think>"], ["<think>use: a</think>", ""]]
    assert format_reward(texts, KEYS).tolist() == [[1, 0], [1, 0]]
    assert format_reward(texts, KEYS, [[True, True], [False, True]]).tolist() == [[1, 0], [0, 0]]
    assert format_reward(texts[0], KEYS).tolist() == [1, 0]
    assert format_reward(texts, ("color",)).tolist() == [[1, 0], [0, 0]]


def test_the_length_earns_within_the_budget_and_not_where_it_cut():
    assert length_reward([[0, 31], [32, 33]], 32).tolist() == [[1, 1], [1, 0]]
    assert length_reward([31, 32], 32, [False, True]).tolist() == [1, 0]


def test_agreement_with_the_catalog_is_the_f1_of_pairs():
    catalog = {"category": "Skirt", "color": "red and blue", "use": "party"}
    assert attribute_f1(dict(reversed(catalog.items())), catalog) == 1
    assert attribute_f1({"color": "blue and Red", "use": "PARTY", "category": "skirt"}, catalog) == 1
    assert attribute_f1({"color": "green", "category": "hat"}, catalog) == 0
    assert attribute_f1({"color": "party"}, catalog) == 0
    said = {"color": "red", "use": "travel"}  # 1 of 2 said is right, 1 of 4 known is said
    assert attribute_f1(said, catalog) == pytest.approx(2 * (1 / 2) * (1 / 4) / (1 / 2 + 1 / 4))
    assert attribute_f1(None, catalog) == attribute_f1({}, catalog) == attribute_f1(said, {}) == 0


def test_keys_the_catalog_lacks_neither_help_nor_hurt():
    catalog = {"color": "red", "use": "party"}
    for said in ({"color": "red"}, {"color": "blue"}, dict(catalog), {}):
        more = said | {"category": "skirt", "style": "plain"}
        assert attribute_f1(more, catalog) == attribute_f1(said, catalog)


def test_agreement_is_measured_for_every_rollout_against_its_own_item():
    texts = [["<think>color: red</think>", "color: red"], ["<think>color: blue</think>"] * 2]
    assert attribute_reward(texts, [{"color": "red"}, {"color": "red"}], KEYS).tolist() == [[1, 0], [0, 0]]


def test_rewards_add_up_by_their_weights():
    rng = np.random.default_rng(0)
    parts = {name: rng.random((3, 4)) for name in ("format", "length", "retrieval", "attribute")}
    rewards = combine(parts, RewardSettings())
    expected = 0.5 * parts["format"] + 0.2 * parts["length"] + parts["retrieval"]
    assert rewards.total_NG == pytest.approx(expected)
    assert rewards.parts.keys() == parts.keys()
    figures = rewards.figures()
    assert figures["reward"] == pytest.approx(expected.mean())
    assert figures["reward_attribute"] == pytest.approx(parts["attribute"].mean())
    assert figures["zero_variance_share"] == 0
    alone = combine({"format": parts["format"]}, RewardSettings(length=0, retrieval=0))
    assert alone.total_NG == pytest.approx(0.5 * parts["format"])
    with pytest.raises(AssertionError, match=r"parts with a weight but no reward: \['length', 'retrieval'\]"):
        combine({"format": parts["format"]}, RewardSettings())


def test_rewards_without_any_weight_are_refused():
    with pytest.raises(SettingsError, match=r"every weight is 0: no rollout would be better than another"):
        RewardSettings(format=0, length=0, retrieval=0)


@pytest.mark.parametrize(("p", "expected"), [(0.95, 0.663), (0.8, 0.168), (0.5, 2 * 0.5**8)])
def test_the_share_of_silent_groups_is_that_of_a_simulated_policy(p, expected):
    success = np.random.default_rng(0).random((40_000, 8)) < p
    assert p**8 + (1 - p) ** 8 == pytest.approx(expected, abs=5e-4)
    assert zero_variance_share(0.7 + success * 1.0) == pytest.approx(expected, abs=0.01)
