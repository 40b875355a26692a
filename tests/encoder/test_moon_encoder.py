"""Vectors of a MoonEncoder: invariances, folders, published layouts, slots."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from moontide.encoder.model import processor as processors
from moontide.encoder.model.backbone import Backbone, BackboneSettings
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder, token_batches
from moontide.encoder.model.inputs import Item
from moontide.encoder.model.matryoshka import Matryoshka, prefix, prefix_of
from moontide.encoder.model.norm import QuickNorm
from moontide.encoder.model.pooling import pool
from moontide.foundation.errors import CheckpointError, SettingsError, StorageError

RNG = np.random.default_rng(0)


def pixels(height=56, width=56):
    return RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)


A, B = pixels(), pixels()
ITEMS = [
    "red square",
    {"image": A},
    {"text": "green bar for the garden", "image": B},
    {"text": "blue", "image": [A, B]},
    {"image": [A, B]},
]


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_every_mix_of_text_and_pictures_embeds_and_neighbors_do_not_matter(make_encoder, attention, pooling):
    encoder = make_encoder(attention=attention, pooling=pooling)
    together = encoder.encode_items(ITEMS)
    assert together.shape == (5, 32)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([encoder.encode_items([item]) for item in ITEMS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    reverse = encoder.encode_items(ITEMS[::-1], batch_tokens=64)[::-1]
    np.testing.assert_allclose(together, reverse, atol=1e-5)
    assert np.abs(together[0] - together[3]).max() > 1e-3


def test_attention_is_a_switch_and_last_pooling_sees_the_whole_item(make_encoder):
    both, causal = make_encoder(), make_encoder(attention="causal")
    assert np.abs(both.encode_items(ITEMS) - causal.encode_items(ITEMS)).max() > 1e-3
    prepared = [causal.prepare(text) for text in ("red square", "red bar")]
    features = causal.backbone.collate(prepared)
    states = causal.backbone.states(features, "causal")
    np.testing.assert_allclose(states[0, 0].detach(), states[1, 0].detach(), atol=1e-6)
    states = causal.backbone.states(features, "bidirectional")
    assert (states[0, 0] - states[1, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(3, 7, 16), (2, 5, 4, 8)])
def test_the_quick_norm_and_its_gradients_are_those_of_upstream(shape):
    generator = torch.Generator().manual_seed(0)
    theirs, ours = Qwen3VLTextRMSNorm(shape[-1]), QuickNorm(shape[-1])
    weight = 1 + torch.randn(shape[-1], generator=generator) / 2
    grad = torch.randn(shape, generator=generator)
    found = []
    for norm in (theirs, ours):
        with torch.no_grad():
            norm.weight.copy_(weight)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = norm(x)
        y.backward(grad)
        found.append((y.detach(), x.grad, norm.weight.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
    half = torch.ones(shape, dtype=torch.bfloat16)
    assert torch.equal(theirs(half), ours(half))


def test_every_norm_of_a_qwen3_decoder_takes_the_short_way(make_encoder):
    norms = [m for m in make_encoder().backbone.language.modules() if isinstance(m, Qwen3VLTextRMSNorm)]
    assert len(norms) == 5  # four a layer, one behind them all
    assert {type(norm) for norm in norms} == {QuickNorm}


def test_pooling_leaves_padding_out():
    states = torch.tensor([[[1.0], [3.0], [100.0]]])
    real = torch.tensor([[1, 1, 0]])
    assert pool(states, real, "mean").item() == 2
    assert pool(states, real, "last").item() == 3


def test_sentence_transformers_encode_gives_the_same_vectors(make_encoder):
    encoder = make_encoder()
    np.testing.assert_allclose(encoder.encode(ITEMS), encoder.encode_items(ITEMS), atol=1e-5)
    flipped = [dict(reversed(item.items())) if isinstance(item, dict) else item for item in ITEMS]
    assert np.array_equal(encoder.encode(ITEMS), encoder.encode(flipped))
    one = encoder.encode(Image.fromarray(A))
    np.testing.assert_allclose(one, encoder.encode_items(ITEMS)[1], atol=1e-5)


def test_the_prompt_of_encode_goes_in_front_of_the_text(make_encoder):
    encoder = make_encoder()
    prompted = encoder.encode(["square"], prompt="red ")
    np.testing.assert_allclose(prompted, encoder.encode(["red square"]), atol=1e-6)


def test_a_saved_encoder_gives_identical_vectors(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "model")
    again = MoonEncoder(tmp_path / "model", device="cpu")
    assert np.array_equal(again.encode_items(ITEMS), encoder.encode_items(ITEMS))
    assert again.fingerprint() == encoder.fingerprint()
    with torch.no_grad():
        next(again.parameters()).add_(1e-4)
    assert again.fingerprint() != encoder.fingerprint()


def test_plain_sentence_transformers_loads_the_folder_with_the_flag_and_gives_equal_vectors(
    make_encoder, tmp_path
):
    encoder = make_encoder()
    encoder.save(tmp_path / "model")
    np.save(tmp_path / "a.npy", A)
    program = (
        "import sys, numpy as np\n"
        "from sentence_transformers import SentenceTransformer\n"
        "model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device='cpu')\n"
        "items = ['red square', {'text': 'blue', 'image': np.load(sys.argv[2])}]\n"
        "assert type(model) is SentenceTransformer\n"
        "np.save(sys.argv[3], model.encode(items))\n"
    )
    files = [str(tmp_path / name) for name in ("model", "a.npy", "out.npy")]
    subprocess.run([sys.executable, "-c", program, *files], check=True, timeout=120, capture_output=True)
    expected = MoonEncoder(tmp_path / "model", device="cpu").encode(
        ["red square", {"text": "blue", "image": A}]
    )
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path / "model"), device="cpu")


def test_our_one_pass_over_pictures_agrees_with_the_upstream_model(make_encoder):
    encoder = make_encoder()
    backbone = encoder.backbone
    prepared = [encoder.prepare(item) for item in ITEMS]
    features = backbone.collate(prepared)
    with torch.no_grad():
        ours = backbone.states(features, "causal")
        images = [Image.fromarray(x) for x in (A, B, A, B, A, B)]
        seen = encoder.processor.image_processor(images, return_tensors="pt")
        theirs = backbone.model.model(
            input_ids=features["input_ids"],
            attention_mask=features["attention_mask"],
            mm_token_type_ids=(features["input_ids"] == backbone.model.config.image_token_id).int(),
            **seen,
        ).last_hidden_state
    real = features["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=2e-5, rtol=1e-4)


def test_our_pixels_equal_those_of_the_upstream_processor(make_encoder):
    backbone = make_encoder().backbone
    images = backbone.processor.image_processor
    theirs = images([Image.fromarray(A)], return_tensors="np")["pixel_values"]
    ours = backbone.prepare({"image": A}).pictures[0].astype(np.float32)
    one_frame = theirs.reshape(len(theirs), 3, 2, -1)[:, :, 0].reshape(len(theirs), -1)
    gray_level = 1 / (255 * 0.5)
    assert np.abs((ours / 255 - 0.5) / 0.5 - one_frame).max() < gray_level / 100


def published_qwen3(make_encoder, folder):
    """A folder as published: a transformers model and its processor, nothing of ours."""
    backbone = make_encoder().backbone
    backbone.model.save_pretrained(folder)
    processors.save_processor(backbone.processor, folder)
    return backbone


def published_qwen25(make_encoder, folder):
    tokenizer = make_encoder().tokenizer
    ids = {f"{role}_token_id": tokenizer.convert_tokens_to_ids(t) for role, t in processors.TOKENS.items()}
    text = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14}
    vision |= {
        "out_hidden_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "spatial_merge_size": 2,
    }
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = processors.new_processor(tokenizer, 56, 14, 2).image_processor
    processors.save_processor(processors.qwen25.Qwen2_5_VLProcessor(images, tokenizer), folder)


def published_qwen3_embedding(make_encoder, folder):
    """As Qwen3-VL-Embedding is published: a Qwen3-VL with sentence-transformers' modules around it."""
    published_qwen3(make_encoder, folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("publish", [published_qwen3, published_qwen3_embedding, published_qwen25])
def test_a_folder_laid_out_like_a_published_model_loads_and_saves(make_encoder, tmp_path, publish):
    publish(make_encoder, tmp_path / "published")
    settings = BackboneSettings(max_pixels=112 * 112, before="<|im_start|>user\n", after="<|im_end|>")
    encoder = MoonEncoder(tmp_path / "published", backbone=settings, pooling="last", device="cpu")
    items = [*ITEMS, {"image": pixels(90, 40)}, {"image": [pixels(60, 120), A], "text": "two sizes"}]
    vectors = encoder.encode_items(items)
    assert vectors.shape == (7, 64)
    alone = np.concatenate([encoder.encode_items([item]) for item in items])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    encoder.save(tmp_path / "ours")
    again = MoonEncoder(tmp_path / "ours", device="cpu")
    assert again.backbone.settings == settings
    assert again[1].mode == "last"
    assert np.array_equal(again.encode_items(items), vectors)


def test_states_of_a_qwen25_agree_with_the_upstream_model(make_encoder, tmp_path):
    published_qwen25(make_encoder, tmp_path / "m")
    backbone = Backbone.from_checkpoint(str(tmp_path / "m"), BackboneSettings())
    features = backbone.collate(
        [backbone.prepare(Item("bar", (pixels(56, 84),))), backbone.prepare({"image": A})]
    )
    token = backbone.model.config.image_token_id
    with torch.no_grad():
        ours = backbone.states(features, "causal")
        patches = features["patches"].float().div(255).sub(0.5).div(0.5)
        frames = patches.view(len(patches), 3, 1, -1).expand(-1, -1, 2, -1).reshape(len(patches), -1)
        theirs = backbone.model.model(
            input_ids=features["input_ids"],
            attention_mask=features["attention_mask"],
            pixel_values=frames,
            image_grid_thw=torch.nn.functional.pad(features["grids"], (1, 0), value=1),
            mm_token_type_ids=(features["input_ids"] == token).int(),
        ).last_hidden_state
    real = features["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=2e-5, rtol=1e-4)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no model at"):
        MoonEncoder(tmp_path / "missing")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="is a bert: the encoder takes qwen3_vl"):
        MoonEncoder(tmp_path)
    with pytest.raises(CheckpointError, match="is a file: name the folder of a model"):
        MoonEncoder(tmp_path / "config.json")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no model can be loaded"):  # empty
        MoonEncoder(tmp_path)
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(CheckpointError, match="no model can be loaded"):
        MoonEncoder(tmp_path)


def test_a_sentence_transformers_folder_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    kind = "sentence_transformers.models.Transformer"
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    with pytest.raises(CheckpointError, match="is a bert: the encoder takes qwen3_vl"):
        MoonEncoder(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"cut off"),
        ("tokenizer.json", b"{"),
        ("modules.json", b"{"),
        ("moontide_backbone.json", b"{"),
        ("modules.json", b'[{"idx": 0, "name": "0", "path": "", "type": "moontide.encoder.gone.Gone"}]'),
    ],
)
def test_a_broken_folder_gives_one_clear_sentence(make_encoder, tmp_path, file, content):
    make_encoder().save(tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises((CheckpointError, StorageError)) as refused:
        MoonEncoder(tmp_path, device="cpu")
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_adapters_train_alone_and_are_folded_in_when_saved(make_encoder, tmp_path):
    encoder = make_encoder(lora_rank=4)
    backbone = encoder.backbone
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step moves one of the two factors away from zero
        encoder.forward_prepared([encoder.prepare("red bar")]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora_" in name or "projection" in name for name in moved)
    encoder.save(tmp_path / "m")
    again = MoonEncoder(tmp_path / "m", device="cpu")
    assert not any("lora_" in name for name in again.state_dict())
    np.testing.assert_allclose(again.encode_items(ITEMS), encoder.encode_items(ITEMS), atol=1e-5)


def test_a_prefix_of_a_prefix_is_the_prefix():
    vectors = torch.nn.functional.normalize(
        torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=1
    )
    raw = vectors * 3
    torch.testing.assert_close(prefix(prefix(raw, 16), 8), prefix(raw, 8))
    np.testing.assert_allclose(prefix_of(vectors.numpy(), 8), prefix(vectors, 8).numpy(), atol=1e-6)


def test_widths_beyond_the_vector_are_refused(make_encoder):
    with pytest.raises(SettingsError, match=r"widths must lie in 1..8, got \[16\]"):
        Matryoshka(8, None, [16])
    with pytest.raises(SettingsError, match="widths must not exceed dim 32"):
        EncoderSettings(dim=32, widths=(64,))
    with pytest.raises(SettingsError, match="image_side must be a multiple of patch x merge = 28, got 100"):
        EncoderSettings(image_side=100)
    encoder = make_encoder()
    assert encoder.encode_items(["bar"], width=8).shape == (1, 8)
    with pytest.raises(SettingsError, match=r"width must lie in 1..32"):
        encoder.encode_items(["bar"], width=64)


class Doubling(Module):
    """A slot module of a test: it counts its calls and adds nothing, or something."""

    def __init__(self, amount=0.0):
        super().__init__()
        self.amount, self.layers = amount, set()

    def forward(self, layer, states, *rest):
        self.layers.add(layer)
        kinds = rest[-1]["token_kinds"]
        assert kinds.shape == states.shape[:2]
        return (rest[0] if len(rest) == 2 else states) + self.amount

    def save(self, output_path, *args, **kwargs): ...


class Turned(Doubling):
    """A fusion module of a test."""

    def forward(self, pooled, features):
        return pooled.flip(1)

    def get_embedding_dimension(self):
        return 64


@pytest.mark.parametrize("slot", ["experts", "residual"])
def test_a_slot_inside_the_decoder_is_called_at_every_layer_and_identity_changes_nothing(make_encoder, slot):
    encoder = make_encoder()
    before = encoder.encode_items(ITEMS)
    still, moving = Doubling(), Doubling(0.5)
    encoder.fill(**{slot: still})
    np.testing.assert_allclose(encoder.encode_items(ITEMS), before, atol=1e-6)
    assert still.layers == set(range(len(encoder.backbone.language.layers)))
    encoder.fill(**{slot: moving})
    assert np.abs(encoder.encode_items(ITEMS) - before).max() > 1e-4
    encoder.fill(**{slot: None})
    assert np.array_equal(encoder.encode_items(ITEMS), before)
    assert encoder.slots == {"experts": None, "fusion": None, "residual": None}


def test_the_fusion_slot_stands_behind_pooling(make_encoder):
    encoder = make_encoder(dim=None, widths=())
    before = encoder.encode_items(ITEMS)
    encoder.fill(fusion=Turned())
    np.testing.assert_allclose(encoder.encode_items(ITEMS), before[:, ::-1], atol=1e-6)
    with pytest.raises(SettingsError, match="no slot is called 'hat'"):
        encoder.fill(hat=Turned())


def test_a_filled_slot_of_foreign_code_is_not_saved_silently(make_encoder, tmp_path):
    encoder = make_encoder().fill(residual=Doubling())
    with pytest.raises(SettingsError, match="must be a moontide Module to be saved, got Doubling"):
        encoder.save(tmp_path / "m")


def test_batches_hold_every_row_once_and_stay_within_their_tokens():
    lengths = [3, 50, 7, 7, 12, 1, 50, 9]
    batches = token_batches(lengths, 60)
    assert sorted(row for rows in batches for row in rows) == list(range(8))
    assert all(len(rows) * max(lengths[row] for row in rows) <= 60 for rows in batches)
    assert token_batches([100], 10) == [[0]]


def test_centering_brings_the_mean_of_a_new_encoder_to_zero_and_leaves_a_trained_one_alone(make_encoder):
    encoder = make_encoder()
    items = [encoder.prepare({"text": f"a {color} mug"}) for color in ("red", "navy", "green", "white")]
    spread = encoder.forward_prepared(items).mean(0).norm()
    encoder.center(items)
    assert encoder.forward_prepared(items).mean(0).norm() < 0.5 * spread
    bias = encoder.matryoshka.projection.bias.detach().clone()
    encoder.center(items[:1])
    assert torch.equal(encoder.matryoshka.projection.bias, bias)
