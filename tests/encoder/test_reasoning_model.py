"""The reasoner: what it writes, how it is read again, fusion and FIRE."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moontide.encoder.model.completion import Written, extended, spaced
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.fusion import ModalityFusion
from moontide.encoder.model.inputs import KINDS, Item
from moontide.encoder.model.reasoner import ReasoningSettings, make_reasoner
from moontide.encoder.model.residual import FineResidual
from moontide.encoder.model.writing import write
from moontide.foundation.errors import SettingsError

SHAPE = ReasoningSettings(budget=12, heads=2, head_width=8, dim=16, widths=(8, 16), residual_every=1)
TEXT = "<think>category: square; color: red</think>"


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plain(make_encoder):
    return make_encoder(seed=3)


@pytest.fixture
def reasoner(plain):
    return make_reasoner(plain, SHAPE, seed=1)


ITEMS = [Item("red square number 1"), Item(None, (pixels(1),)), Item("blue circle", (pixels(2),)), Item("a")]


# --- writing ------------------------------------------------------------------


def test_what_was_scored_while_writing_is_scored_again_when_it_is_read(reasoner):
    prompts = reasoner.backbone.prompts(ITEMS)
    drawn = write(reasoner, prompts, 12, num=3, generator=torch.Generator().manual_seed(0))
    completed = [
        reasoner.backbone.completed(prompt, one)
        for prompt, own in zip(prompts, drawn, strict=True)
        for one in own
    ]
    with torch.no_grad():
        scored = reasoner.score(completed)
    for row, one in enumerate(one for own in drawn for one in own):
        assert scored.is_action[row].sum() == len(one.ids)
        np.testing.assert_allclose(scored.log_p[row, : len(one.ids)], one.log_p, atol=2e-5)
        assert (scored.log_p[row, len(one.ids) :] == 0).all()


def test_greedy_texts_and_vectors_do_not_depend_on_the_batch(reasoner):
    together = reasoner.reasoned(ITEMS)
    alone = [reasoner.reasoned([item])[0] for item in ITEMS]
    assert [one.reasoning for one in together] == [one.reasoning for one in alone]
    vectors = reasoner.encode_items(together)
    np.testing.assert_allclose(
        vectors, np.concatenate([reasoner.encode_items([one]) for one in alone]), atol=1e-5
    )


def test_seeded_draws_come_again_and_a_group_differs(reasoner):
    prompts = reasoner.backbone.prompts(ITEMS[:1])
    first, again = (
        write(reasoner, prompts, 12, num=4, generator=torch.Generator().manual_seed(7))[0] for _ in range(2)
    )
    assert [one.ids.tolist() for one in first] == [one.ids.tolist() for one in again]
    assert len({tuple(one.ids.tolist()) for one in first}) > 1


def test_without_emb_the_text_is_cut_closed_and_still_gives_a_vector(reasoner):
    backbone = reasoner.backbone
    (prompt,) = backbone.prompts(ITEMS[:1])
    ids = backbone.tokens("<think>color: red")
    cut = Written(ids, np.zeros(len(ids), np.float32), "<think>color: red", False, len(ids), "budget")
    completed = backbone.completed(prompt, cut)
    tail = backbone.tokenizer.decode(completed.prepared.ids[-2:])
    assert tail.replace(" ", "") == "</think><emb>"
    assert completed.is_action.sum() == len(ids)
    with torch.no_grad():
        vectors = reasoner.score([completed]).vectors
    assert torch.linalg.vector_norm(vectors, dim=1).item() == pytest.approx(1, abs=1e-5)
    by_text = reasoner.encode_items([Item(ITEMS[0].text, reasoning="<think>color: red")])
    np.testing.assert_allclose(vectors.numpy(), by_text, atol=1e-5)


def test_a_text_that_is_learned_is_all_action_and_no_text_is_none(reasoner):
    backbone = reasoner.backbone
    (prompt,) = backbone.prompts(ITEMS[2:3])
    taught, bare = backbone.completed_text(prompt, TEXT), backbone.completed(prompt, None)
    assert taught.is_action.sum() == len(taught.prepared) - len(prompt)
    assert bare.is_action.sum() == 0
    assert len(bare.prepared) == len(prompt) + 1


def test_nothing_that_the_next_pass_would_misread_is_ever_written(reasoner):
    never = set(reasoner.backbone.never_written.tolist())
    assert reasoner.backbone.model.config.image_token_id in never
    drawn = write(reasoner, reasoner.backbone.prompts(ITEMS), 12, num=8, temperature=3.0)
    assert not never & {int(token) for own in drawn for one in own for token in one.ids}


def test_reasoning_from_elsewhere_is_bounded_and_its_pictures_are_no_pictures(reasoner):
    long = Item("a", reasoning="<think>" + "red " * 500)
    hostile = Item("a", reasoning="<think><|image_pad|><emb></think></think>")
    for prepared in reasoner.prepare_all([long, hostile]):
        assert len(prepared) <= len(reasoner.prepare(Item("a"))) + SHAPE.budget + 1
    assert np.isfinite(reasoner.encode_items([long, hostile])).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": 0}, "got 0, 1"),
        ({"num": 0}, "got 4, 0"),
        ({"temperature": -1.0}, "-1.0"),
        ({"top_p": 0}, "and 0"),
    ],
)
def test_what_cannot_be_written_is_said(reasoner, changes, said):
    with pytest.raises(SettingsError, match=said):
        write(reasoner, reasoner.backbone.prompts(ITEMS), **{"budget": 4, **changes})


def test_a_plain_encoder_does_not_write(plain):
    with pytest.raises(SettingsError, match="does not write"):
        plain.reasoned(ITEMS)


def test_blanks_stand_as_a_person_would_set_them():
    assert spaced(" <think>  a:  b </think> ") == "<think>a: b</think>"


# --- the model ----------------------------------------------------------------


def test_new_tokens_start_as_the_mean_of_the_others(plain, reasoner):
    before = plain.backbone.model.get_input_embeddings().weight
    after = reasoner.backbone.model.get_input_embeddings().weight
    assert len(after) == len(before) + 3
    torch.testing.assert_close(after[-3:], before.mean(0).expand(3, -1))
    assert len(plain.backbone.tokenizer) == len(before)  # the old encoder is as it was


def test_a_reasoner_comes_back_from_its_folder(reasoner, tmp_path):
    with torch.no_grad():
        for weight in (*reasoner[1].fusion.parameters(), *reasoner.backbone.residual.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    reasoner.save(tmp_path / "model")
    again = MoonEncoder(tmp_path / "model", device="cpu")
    assert again.is_reasoner
    assert again.backbone.settings.reasons == "query"
    assert again.fingerprint() == reasoner.fingerprint()
    items = [*ITEMS, Item("a", reasoning=TEXT)]
    np.testing.assert_allclose(again.encode_items(items), reasoner.encode_items(items), atol=1e-6)
    assert [one.reasoning for one in again.reasoned(ITEMS)] == [
        one.reasoning for one in reasoner.reasoned(ITEMS)
    ]


def test_reasoning_moves_a_vector_and_reading_it_again_does_not(reasoner):
    plain, written = reasoner.encode_items([Item("a"), Item("a", reasoning=TEXT)])
    assert not np.allclose(plain, written, atol=1e-3)
    np.testing.assert_allclose(reasoner.encode_items([Item("a", reasoning=TEXT)])[0], written, atol=1e-6)


# --- fusion -------------------------------------------------------------------


def batch(seed: int = 0, kinds=("image", "image", "title", "special"), width: int = 6) -> dict:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.tensor([[KINDS.index(kind) for kind in kinds]])
    num = int((codes == KINDS.index("image")).sum())
    features = {
        "token_embeddings": torch.randn(1, len(kinds), width, generator=generator),
        "token_kinds": codes,
        "attention_mask": torch.ones_like(codes),
    }
    return features | ({"visual_states": torch.randn(num, width, generator=generator)} if num else {})


def trained_fusion() -> ModalityFusion:
    torch.manual_seed(0)
    fusion = ModalityFusion(6, 2, 4)
    with torch.no_grad():
        for weight in fusion.parameters():
            weight.copy_(torch.randn(weight.shape))
    return fusion


def test_at_the_start_fusion_has_the_direction_of_the_plain_state():
    torch.manual_seed(0)
    fusion, pooled = ModalityFusion(6, 2, 4), torch.randn(1, 6)
    features = batch()
    fused, alone = fusion(pooled, features), fusion.maps["emb"](pooled)
    torch.testing.assert_close(torch.cosine_similarity(fused, alone), torch.ones(1))
    torch.testing.assert_close(features["gates"], torch.full((1, 3), 1 / 3))


@pytest.mark.parametrize(
    ("kinds", "absent"),
    [(("title", "special"), [1]), (("image", "special"), [2]), (("special", "special"), [1, 2])],
)
def test_an_absent_modality_has_no_gate_and_no_gradient_breaks(kinds, absent):
    fusion, features = trained_fusion(), batch(kinds=kinds)
    fused = fusion(torch.randn(1, 6), features)
    fused.sum().backward()
    gates = features["gates"][0]
    assert gates.sum().item() == pytest.approx(1, abs=1e-6)
    assert (gates[absent] == 0).all()
    assert all(torch.isfinite(weight.grad).all() for weight in fusion.parameters() if weight.grad is not None)


def test_neither_padding_nor_the_order_of_visual_tokens_changes_a_vector():
    fusion, features, pooled = trained_fusion(), batch(), torch.randn(1, 6)
    expected = fusion(pooled, dict(features))
    padded = {
        "token_embeddings": torch.cat((features["token_embeddings"], torch.randn(1, 2, 6)), 1),
        "token_kinds": torch.cat((features["token_kinds"], torch.full((1, 2), KINDS.index("title"))), 1),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]]),
        "visual_states": features["visual_states"],
    }
    torch.testing.assert_close(fusion(pooled, padded), expected)
    turned = features | {"visual_states": features["visual_states"].flip(0)}
    torch.testing.assert_close(fusion(pooled, turned), expected)


# --- fine-grained residual ----------------------------------------------------


def test_at_the_start_fire_changes_no_bit_and_sends_no_gradient_but_to_its_scale():
    torch.manual_seed(0)
    residual, features = FineResidual([0], 6, 3), batch()
    features["visual_states"].requires_grad_()
    states = torch.randn(1, 4, 6)
    enhanced = residual(0, states, features)
    assert torch.equal(enhanced, states)
    enhanced.square().sum().backward()
    assert not features["visual_states"].grad.any()
    assert not residual.depths["0"].up.weight.grad.any()
    assert residual.depths["0"].scale.grad.abs() > 0


def test_fire_changes_image_positions_alone_and_then_everything_learns():
    torch.manual_seed(0)
    residual, features = FineResidual([0], 6, 3), batch()
    features["visual_states"].requires_grad_()
    with torch.no_grad():
        residual.depths["0"].scale.fill_(0.5)
    states = torch.randn(1, 4, 6)
    enhanced = residual(0, states, features)
    assert torch.equal(enhanced[:, 2:], states[:, 2:])
    assert (enhanced[:, :2] != states[:, :2]).any(-1).all()
    enhanced.square().sum().backward()
    assert features["visual_states"].grad.any()
    assert residual.depths["0"].up.weight.grad.any()
    assert residual(1, states, features) is states  # another layer
    text = batch(kinds=("title", "special"))
    assert residual(0, text["token_embeddings"], text) is text["token_embeddings"]


def test_an_untrained_residual_leaves_every_vector_as_it_is(plain):
    with_it, without = (make_reasoner(plain, SHAPE.but(has_residual=has), 1) for has in (True, False))
    np.testing.assert_array_equal(with_it.encode_items(ITEMS), without.encode_items(ITEMS))


def test_a_middle_layer_that_is_not_there_is_said(plain):
    with pytest.raises(SettingsError, match="choose 'projector'"):
        make_reasoner(plain, SHAPE.but(residual_source="middle"))


def test_positions_go_on_behind_a_picture_as_if_prompt_and_text_were_one(reasoner):
    backbone = reasoner.backbone
    (prompt,) = backbone.prompts([ITEMS[2]])
    longer = extended(prompt, backbone.tokens("red"))
    assert longer.positions[:, len(prompt) :].tolist() == [[prompt.positions[0, -1] + 1]] * 3
