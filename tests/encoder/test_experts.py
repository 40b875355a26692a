"""Mixtures of experts in the decoder: against a slow twin, at the start, in training, in folders."""

from itertools import combinations

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import GPT2Config, LlamaConfig, Qwen2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.experts.expert import Expert
from moontide.encoder.model.experts.guided import OWNED, GuidedExperts, GuidedSettings
from moontide.encoder.model.experts.modality import ModalityExperts, ModalitySettings
from moontide.encoder.model.inputs import KINDS, product_item, query_item
from moontide.encoder.model.slots import load_slot, save_slot
from moontide.encoder.objectives.infonce import info_nce
from moontide.encoder.objectives.routing import load_balance
from moontide.foundation.errors import SettingsError

GUIDED = [GuidedSettings(mode=mode, every=1) for mode in ("hard", "hard_gated", "additive")]
EVERY = [
    *GUIDED,
    GuidedSettings(every=1, has_category=False),
    GuidedSettings(every=1, has_attribute=False, top=1),
    GuidedSettings(every=1, has_category=False, has_attribute=False, top=3),
    ModalitySettings(layers="all"),
    ModalitySettings(layers="all", num_experts=3, top=3),
]


def experts_of(backbone, settings, seed=0):
    kind = GuidedExperts if isinstance(settings, GuidedSettings) else ModalityExperts
    return kind.of(backbone, settings, seed)


@torch.no_grad()
def scatter(mixture, amount=0.3, router=1.0):
    """Give every expert weights of its own, and routers that decide."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in mixture.named_parameters():
        size = router if "routers" in name else amount * weight.std().item()
        weight += size * torch.randn(weight.shape, generator=generator)
    return mixture


@pytest.fixture
def encoder(make_encoder):
    return make_encoder(depth=4)  # two decoder layers


@pytest.fixture
def items(catalog):
    products = catalog.products()[:4]
    forms = ("rich", "rich_image", "title", "title_image")
    made = [product_item(p, catalog.images, form) for p, form in zip(products, forms, strict=True)]
    return [*made, query_item("red square")]


def batch(encoder, seed=0):
    """A block, its input and features: three rows, padding behind two, every kind of token."""
    rng = np.random.default_rng(seed)
    mask = torch.tensor([[1] * 12, [1] * 7 + [0] * 5, [1] * 3 + [0] * 9])
    kinds = torch.from_numpy(rng.integers(0, len(KINDS), (3, 12)))
    kinds[:, :2] = torch.tensor([KINDS.index("query"), KINDS.index("category")])
    block = encoder.backbone.language.layers[0].mlp
    x = torch.randn(3, 12, block.hidden_size, generator=torch.Generator().manual_seed(seed))
    return block, x, {"attention_mask": mask, "token_kinds": kinds}


def by_hand(mixture, block, x, features):
    """The twin: every expert on every token, one token at a time; output of real tokens, and the routing."""
    settings, layer = mixture.settings, mixture.layers["0"]
    every = torch.stack([block(x), *[expert(x) for expert in layer.experts]])
    names = settings.designated if isinstance(settings, GuidedSettings) else ()
    num = settings.num_experts if isinstance(settings, ModalitySettings) else settings.num_general
    output, routing = torch.zeros_like(x), torch.zeros(len(x), 3, num)
    for row in range(len(x)):
        routed = 0
        for at in range(int(features["attention_mask"][row].sum())):
            kind = KINDS[int(features["token_kinds"][row, at])]
            owner = next((n for n, name in enumerate(names) if kind in OWNED[name]), None)
            logits = layer.routers["router"].weight @ x[row, at]
            p = torch.softmax(logits, 0)
            chosen = sorted(range(num), key=lambda z, p=p: -p[z].item())[: settings.top]
            gates = p[chosen] / p[chosen].sum()
            general = sum(gate * every[z, row, at] for z, gate in zip(chosen, gates, strict=True))
            if owner is None:
                output[row, at] = general
            else:
                own = every[num + owner, row, at]
                if settings.mode == "additive":
                    own = (1 - settings.blend) * general + settings.blend * own
                elif settings.mode == "hard_gated":
                    own = torch.sigmoid(layer.routers["own"].weight[owner] @ x[row, at]) * own
                output[row, at] = own
            if owner is None or settings.mode == "additive":
                routed += 1
                routing[row, 1] += p
                for z, gate in zip(chosen, gates, strict=True):
                    routing[row, 0, z] += gate
                    routing[row, 2, z] += 1 / settings.top
        routing[row, 0] /= max(1, routed)
    return output, routing


# --- one expert ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_an_expert_is_a_copy_of_any_gated_block(has_bias, activation):
    llama = LlamaConfig(hidden_size=32, intermediate_size=20, hidden_act=activation, mlp_bias=has_bias)
    qwen = Qwen2Config(hidden_size=32, intermediate_size=20, hidden_act=activation)
    x = torch.randn(5, 32)
    for block in (LlamaMLP(llama), Qwen2MLP(qwen)):
        expert = Expert.like(block)
        torch.testing.assert_close(expert(x), block(x), rtol=0, atol=0)
        assert sorted(expert.state_dict()) == sorted(block.state_dict())
        assert all(parameter.requires_grad for parameter in expert.parameters())
        expert.up_proj.weight.data.zero_()
        assert block.up_proj.weight.abs().min() > 0


def test_an_expert_of_a_block_with_adapters_has_them_folded_in():
    block = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=20))
    config = LoraConfig(r=2, target_modules=r".*(gate|up|down)_proj", init_lora_weights=False)
    inject_adapter_in_model(config, block)
    x = torch.randn(5, 32)
    torch.testing.assert_close(Expert.like(block)(x), block(x))


def test_a_block_without_gates_is_refused_in_one_sentence():
    with pytest.raises(
        SettingsError, match=r"GPT2MLP is another, choose a backbone that has them$"
    ) as refused:
        Expert.like(GPT2MLP(32, GPT2Config(n_embd=8)))
    assert "\n" not in str(refused.value)


# --- against the slow twin, and at the start ----------------------------------------------------------------


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_sparse_dispatch_gives_the_values_routing_and_gradients_of_the_slow_twin(encoder, settings):
    mixture = scatter(experts_of(encoder.backbone, settings))
    block, x, features = batch(encoder)
    grad, weight = (
        torch.randn(x.shape),
        torch.randn(3, 3, mixture.layers["0"].routers["router"].out_features),
    )
    weight[:, 2] = 0  # counts have no gradient
    real = features["attention_mask"].bool()
    found = []
    for is_twin in (False, True):
        asked = x.clone().requires_grad_()
        if is_twin:
            output, routing = by_hand(mixture, block, asked, features)
        else:
            output = mixture(0, asked, block(asked), features)
            (routing,) = features["routing"]
        mixture.zero_grad()
        block.zero_grad()
        ((output * grad)[real].sum() + (routing * weight).sum()).backward()
        grads = {name: p.grad for name, p in mixture.layers["0"].named_parameters()}
        grads |= {f"dense {name}": p.grad.clone() for name, p in block.named_parameters()}
        found.append({"output": output[real], "routing": routing, "x": asked.grad[real], **grads})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(
            value, found[1][name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("settings", [GUIDED[0], GUIDED[2], ModalitySettings(layers="all")], ids=str)
def test_identical_experts_are_the_dense_block_whatever_the_router_says(encoder, settings):
    mixture = scatter(experts_of(encoder.backbone, settings), amount=0, router=3.0)
    block, x, features = batch(encoder)
    dense = block(x)
    torch.testing.assert_close(mixture(0, x, dense, features), dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        GuidedSettings(),
        GuidedSettings(mode="additive", every=1),
        GuidedSettings(has_category=False, has_attribute=False),
        ModalitySettings(),
        ModalitySettings(layers="last_third"),
    ],
    ids=str,
)
def test_new_experts_leave_the_vectors_as_they_are(encoder, items, settings):
    before = encoder.encode_items(items)
    encoder.fill(experts=experts_of(encoder.backbone, settings))
    np.testing.assert_allclose(encoder.encode_items(items), before, atol=1e-5)
    scatter(encoder.backbone.experts)
    assert np.abs(encoder.encode_items(items) - before).max() > 1e-3


def test_new_experts_beside_adapters_leave_the_vectors_as_they_are(make_encoder, items):
    encoder = make_encoder(lora_rank=2)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    before = encoder.encode_items(items)
    encoder.fill(experts=GuidedExperts.of(encoder.backbone, GuidedSettings(), 0))
    np.testing.assert_allclose(encoder.encode_items(items), before, atol=1e-5)


def test_as_many_experts_as_there_are_make_the_dense_mixture(encoder):
    mixture = scatter(experts_of(encoder.backbone, ModalitySettings(layers="all", num_experts=3, top=3)))
    block, x, features = batch(encoder)
    layer = mixture.layers["0"]
    gates = torch.softmax(layer.routers["router"](x), -1)
    every = torch.stack([block(x), *[expert(x) for expert in layer.experts]], -1)
    real = features["attention_mask"].bool()
    mixed = mixture(0, x, block(x), features)
    torch.testing.assert_close(
        mixed[real], (every @ gates.unsqueeze(-1)).squeeze(-1)[real], atol=1e-5, rtol=1e-4
    )


def test_experts_stand_in_every_second_layer_counted_from_the_last(encoder):
    backbone = encoder.backbone
    last = experts_of(backbone, GuidedSettings())
    assert list(last.layers) == ["1"]
    block, x, features = batch(encoder)
    dense = block(x)
    assert last(0, x, dense, features) is dense
    assert "routing" not in features
    shape = last.shape
    for layers, num, wanted in (
        ("every_second", 7, "0246"),
        ("every_second", 4, "13"),
        ("last_third", 7, "456"),
        ("last_third", 2, "1"),
        ("all", 3, "012"),
    ):
        assert list(ModalityExperts(ModalitySettings(layers=layers), shape, num).layers) == list(wanted)
    assert list(GuidedExperts(GuidedSettings(every=3), shape, 8).layers) == list("147")


# --- routing ------------------------------------------------------------------------------------------------


def rows_seen(mixture, encoder, items):
    """Rows that reached each expert of the last layer in one pass."""
    seen, layer = {}, mixture.layers["1"]
    hooks = [
        expert.register_forward_hook(lambda _, given, __, n=n: seen.__setitem__(n, len(given[0])))
        for n, expert in enumerate(layer.experts)
    ]
    outputs = encoder.encode_all([encoder.prepare(item) for item in items])
    for hook in hooks:
        hook.remove()
    return seen, outputs


def test_in_hard_exactly_the_marked_spans_reach_the_designated_experts(encoder, items):
    mixture = GuidedExperts.of(encoder.backbone, GuidedSettings(), 0)
    encoder.fill(experts=mixture)
    kinds = np.concatenate([encoder.prepare(item).kinds for item in items])
    num = {kind: int((kinds == code).sum()) for code, kind in enumerate(KINDS)}
    assert min(num[kind] for kind in ("category", "attribute", "brand")) > 1
    seen, outputs = rows_seen(mixture, encoder, items)
    assert (seen[3], seen[4]) == (num["category"], num["attribute"] + num["brand"])
    routed = len(kinds) - seen[3] - seen[4]
    assert outputs.routing.shape == (len(items), 1, 3, 4)
    sent = outputs.routing[:, 0, 2].sum(0).detach()
    assert [round(2 * float(n)) for n in sent[1:]] == [seen[n] for n in range(3)]
    assert sent.sum().item() == pytest.approx(routed)
    assert outputs.routing[:, 0, 1].sum().item() == pytest.approx(routed, rel=1e-5)
    torch.testing.assert_close(outputs.routing[:, 0, 0].sum(1), torch.ones(len(items)))


def test_words_without_an_expert_of_their_own_go_to_the_general_ones(encoder, items):
    kinds = np.concatenate([encoder.prepare(item).kinds for item in items])
    category = int((kinds == KINDS.index("category")).sum())
    sent = {}
    for has in (True, False):
        encoder.fill(experts=GuidedExperts.of(encoder.backbone, GuidedSettings(has_category=has), 0))
        _, outputs = rows_seen(encoder.backbone.experts, encoder, items)
        sent[has] = round(outputs.routing[:, 0, 2].sum().item())
    assert sent[False] - sent[True] == category


def test_a_query_gives_designated_experts_a_zero_gradient_and_every_parameter_one(encoder, items):
    encoder.fill(experts=GuidedExperts.of(encoder.backbone, GuidedSettings(mode="hard_gated"), 0))
    experts = encoder.backbone.experts.layers["1"].experts
    for asked, is_zero in (([query_item("red bar", items[1].images[0])], True), (items, False)):
        encoder.zero_grad()
        encoder.encode_all([encoder.prepare(item) for item in asked]).vectors.sum().backward()
        assert all(p.grad is not None for p in encoder.backbone.experts.parameters())
        for designated in (experts[3], experts[4]):
            assert all((p.grad == 0).all() == is_zero for p in designated.parameters())


def test_padding_and_neighbors_and_order_change_no_vector(encoder, items):
    for settings in (GuidedSettings(every=1, mode="additive"), ModalitySettings(layers="all")):
        encoder.fill(experts=scatter(experts_of(encoder.backbone, settings)))
        prepared = [encoder.prepare(item) for item in items]
        assert len({len(one) for one in prepared}) > 3
        together = encoder.forward_prepared(prepared)
        alone = torch.cat([encoder.forward_prepared([one]) for one in prepared])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            encoder.forward_prepared(prepared[::-1]).flip(0), together, atol=1e-5, rtol=1e-4
        )


def test_padding_of_any_kind_is_neither_routed_nor_counted(encoder):
    mixture = scatter(GuidedExperts.of(encoder.backbone, GUIDED[0], 0))
    block, x, features = batch(encoder)
    mixed = mixture(0, x, block(x), features)
    is_padding = features["attention_mask"] == 0
    features["token_kinds"][is_padding] = KINDS.index("category")
    x[is_padding] += 1
    again = mixture(0, x, block(x), features)
    torch.testing.assert_close(again[~is_padding], mixed[~is_padding])
    torch.testing.assert_close(again[is_padding], block(x)[is_padding])
    torch.testing.assert_close(*features["routing"])


def test_load_balance_is_one_for_a_router_without_opinion_and_trains_one_that_has(encoder, items):
    mixture = GuidedExperts.of(encoder.backbone, GuidedSettings(), 0)
    encoder.fill(experts=mixture)
    prepared = [encoder.prepare(item) for item in items]
    layer = mixture.layers["1"]
    router, copy = layer.routers["router"], layer.experts[0]
    with torch.no_grad():
        router.weight.zero_()
    assert load_balance(encoder.encode_all(prepared).routing).item() == pytest.approx(1, abs=1e-5)
    encoder.fill(experts=scatter(mixture))
    load_balance(encoder.encode_all(prepared).routing).backward()
    assert router.weight.grad.any()
    assert copy.up_proj.weight.grad is None  # it is behind the router


# --- training and folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [GuidedSettings(), ModalitySettings()], ids=str)
def test_after_a_hundred_steps_no_two_experts_are_equal(make_encoder, catalog, settings):
    encoder = make_encoder()  # one decoder layer
    encoder.fill(experts=experts_of(encoder.backbone, settings))
    products = catalog.products()
    queries = [encoder.prepare(query_item(p.title.split(" number")[0])) for p in products[:12]]
    shown = [encoder.prepare(product_item(p, None, "rich")) for p in products[:12]]
    optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(100):
        rows = [(5 * step + n) % 12 for n in range(4)]
        outputs = encoder.encode_all([side[row] for side in (queries, shown) for row in rows])
        loss = info_nce(outputs.vectors[:4], outputs.vectors[4:], 0.1) + 1e-2 * load_balance(outputs.routing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    every = [encoder.backbone.language.layers[0].mlp, *encoder.backbone.experts.layers["0"].experts]
    for one, other in combinations(every, 2):
        for name in ("gate_proj", "up_proj", "down_proj"):
            assert (getattr(one, name).weight - getattr(other, name).weight).abs().max() > 1e-4


@pytest.mark.parametrize("settings", EVERY[1:], ids=str)
def test_saved_experts_are_the_same_to_the_bit(encoder, tmp_path, settings):
    mixture = scatter(experts_of(encoder.backbone, settings))
    for kind in (torch.float32, torch.bfloat16):
        for layer in mixture.layers.values():
            layer.experts.to(kind)
        save_slot(mixture, str(tmp_path / "slot"))
        again = load_slot(str(tmp_path / "slot"))
        file = tmp_path / "slot" / "model.safetensors"
        with file.open("r+b") as stream:  # as one that is saved over: the experts must not look into it
            stream.write(bytes(file.stat().st_size))
        assert (type(again), again.settings, again.shape) == (type(mixture), settings, mixture.shape)
        weights = again.state_dict()
        assert sorted(weights) == sorted(mixture.state_dict())
        for name, weight in mixture.state_dict().items():
            assert weights[name].dtype == weight.dtype
            assert torch.equal(weights[name], weight)
        assert all(parameter.requires_grad for parameter in again.parameters())


def test_an_encoder_with_experts_comes_back_from_its_folder(encoder, items, tmp_path):
    encoder.fill(experts=scatter(GuidedExperts.of(encoder.backbone, GuidedSettings(), 0)))
    encoder.save(tmp_path / "model")
    again = MoonEncoder(tmp_path / "model", device="cpu")
    assert np.array_equal(again.encode_items(items), encoder.encode_items(items))
    assert again.fingerprint() == encoder.fingerprint()


def test_a_seed_sets_the_routers_and_nothing_else_is_drawn(encoder):
    before = torch.get_rng_state()
    one, same, other = (
        GuidedExperts.of(encoder.backbone, GuidedSettings(every=1), seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    weights = [m.layers[n].routers["router"].weight for m in (one, same, other) for n in "01"]
    assert torch.equal(weights[0], weights[2])
    assert all(not torch.equal(weights[0], weights[n]) for n in (1, 4))
    assert weights[0].std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("settings", [GuidedSettings(mode="additive"), ModalitySettings()], ids=str)
def test_half_precision_changes_little_and_trains_in_the_type_of_the_weights(encoder, items, settings):
    before = encoder.encode_items(items)
    mixture = experts_of(encoder.backbone, settings)
    encoder.fill(experts=mixture)
    prepared = [encoder.prepare(item) for item in items]
    for is_autocast in (True, False):
        if not is_autocast:
            mixture.to(torch.bfloat16)  # experts of a folder that holds half precision
        precision = "bfloat16" if is_autocast else "float32"
        encoder.backbone.settings = encoder.backbone.settings.but(precision=precision)
        outputs = encoder.encode_all(prepared)
        np.testing.assert_allclose(outputs.vectors.detach(), before, atol=3e-2)
        assert outputs.routing.dtype == torch.float32
        (outputs.vectors.sum() + load_balance(outputs.routing)).backward()
        for name, parameter in mixture.layers.named_parameters():
            assert parameter.grad.dtype == parameter.dtype, name


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: GuidedSettings(top=5), r"general experts, num_experts - 2 = 4, got 5"),
        (
            lambda: GuidedSettings(num_experts=3),
            r"num_experts: input should be greater than or equal to 4, got 3",
        ),
        (lambda: GuidedSettings(blend=1), r"blend: input should be less than 1, got 1"),
        (lambda: ModalitySettings(top=5), r"top must not exceed num_experts 4, got 5"),
        (lambda: ModalitySettings(objectives=("a", "a")), r"objectives must differ, got a, a"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(make, text):
    with pytest.raises(SettingsError, match=text):
        make()


def test_preferences_start_at_zero_one_row_an_expert(encoder):
    mixture = ModalityExperts.of(encoder.backbone, ModalitySettings(objectives=("a", "b", "c")), 0)
    assert mixture.preference.shape == (4, 3)
    assert not mixture.preference.any()
    assert mixture.preference.requires_grad
