"""MOON2.0's stage: its terms against slow twins, who takes part in what, weights, mixture, and resume."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stage_parts import EVENTS, assert_resumes, triplet_training, write_shop

from moontide.encoder.model.encoder import Outputs
from moontide.encoder.model.experts.modality import OBJECTIVES, ModalityExperts, ModalitySettings
from moontide.encoder.objectives.reliability import ReliabilitySettings, sample_weights
from moontide.encoder.stages.triplets import (
    BOTH,
    INTER,
    Places,
    TripletLoss,
    TripletSettings,
    TripletTraining,
    train_triplets,
)

OFF = ReliabilitySettings(mode="off")
PLAIN = TripletSettings(
    num_steps=6, batch_size=7, log_every=1, checkpoint_every=2, reliability=OFF, augment=0.0
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Seven triplets: three asked in words, two by picture, two by both."""
    return write_shop(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture
def make(make_encoder):
    """An encoder, its experts undecided or leaning somewhere."""

    def made(has_experts: bool = False, seed: int = 0):
        encoder = make_encoder(seed=seed)
        if has_experts:
            experts = ModalityExperts.of(encoder.backbone, ModalitySettings(num_experts=3), seed)
            torch.nn.init.normal_(experts.preference, generator=torch.Generator().manual_seed(1))
            encoder.fill(experts=experts)
        return encoder

    return made


@pytest.fixture
def step_of(make, shop):
    def stepped(has_experts: bool = False, dataset=None, augmented=None, **changes) -> TripletTraining:
        encoder, dataset = make(has_experts), dataset or shop
        return triplet_training(encoder, dataset, PLAIN.but(**changes), augmented)

    return stepped


def looked(step: TripletTraining, number: int = 0):
    """Batch, places and outputs of a step."""
    batch = step.triplets.batch(number, step.settings.batch_size)
    places = Places(batch)
    with torch.no_grad():
        outputs = step.encoder.encode_all(step.encoder.prepare_all(places.items))
    return batch, places, outputs


def found(step: TripletTraining, places: Places, outputs: Outputs, batch, number: int = 0):
    """Loss and its figures for given outputs."""
    loss = TripletLoss(step, batch, number)
    return loss(places, outputs).item(), loss.figures


def slow_nce(step: TripletTraining, query, item, pairs, may_push) -> list[float]:
    """-log of the share of its own item for each (row of query, row of item), mean over widths."""
    tau, losses = step.settings.temperature, []
    for row, own in pairs:
        by_width = []
        for width in step.encoder.widths:
            score = F.normalize(item[:, :width], dim=1) @ F.normalize(query[row, :width], dim=0)
            others = [float(score[j]) for j in range(len(item)) if j != own and may_push(row, own, j)]
            by_width.append(math.log1p(sum(math.exp((s - float(score[own])) / tau) for s in others)))
        losses.append(float(np.mean(by_width)))
    return losses


def slow_inter(step: TripletTraining, batch, places: Places, vectors, form: str) -> dict[int, float]:
    """Of each query that has the form, the loss of telling its product from all others of the batch."""
    product = [*batch.positive.product, *batch.negative.product]
    rows, group = step.triplets.rows, step.triplets.group
    known = set(zip(rows.query.tolist(), rows.product.tolist(), strict=True))
    asks = np.flatnonzero(places.of["query", form] >= 0).tolist()

    def may_push(row: int, own: int, j: int) -> bool:
        return group[product[j]] != group[product[own]] and (batch.query_code[row], product[j]) not in known

    query = vectors[places.of["query", form]].double()  # -1: any row
    losses = slow_nce(step, query, vectors[places.sides(BOTH)].double(), [(r, r) for r in asks], may_push)
    return dict(zip(asks, losses, strict=True))


# --- between query and product ------------------------------------------------------------


def test_with_text_queries_alone_the_loss_is_plain_infonce_from_text_to_products(tmp_path, make, step_of):
    dataset = write_shop(tmp_path / "text", [event for event in EVENTS if event[2] in "tu"])
    step = step_of(dataset=dataset, intra="none")
    batch, places, outputs = looked(step)
    wanted = np.mean(list(slow_inter(step, batch, places, outputs.vectors, "text").values()))
    figures = step(0)
    assert figures["t2mm"] == pytest.approx(wanted, rel=1e-4)
    assert [figures[name] for name in OBJECTIVES if name != "t2mm"] == [0, 0, 0, 0]
    assert len(OBJECTIVES) * figures["loss"] == pytest.approx(figures["t2mm"], rel=1e-5)  # omega is 1 / 5


def test_each_objective_is_the_mean_over_the_queries_that_have_its_form(step_of):
    step = step_of()
    batch, places, outputs = looked(step)
    figures = step(0)
    sizes = {}
    for objective, form in INTER.items():
        losses = slow_inter(step, batch, places, outputs.vectors, form)
        assert figures[objective] == pytest.approx(np.mean(list(losses.values())), rel=1e-4)
        sizes[objective] = len(losses)
    assert sizes == {"t2mm": 5, "i2mm": 4, "mm2mm": 2}


def test_a_query_of_words_alone_moves_neither_the_picture_terms_nor_their_weights(step_of):
    step = step_of(has_experts=True)
    batch, places, outputs = looked(step)
    _, before = found(step, places, outputs, batch)
    words = [row for row in range(7) if places.of["query", "image"][row] < 0]
    assert len(words) == 3
    rows = places.of["query", "text"][words]
    vectors, routing = outputs.vectors.clone(), outputs.routing.clone()
    vectors[rows] = F.normalize(-vectors[rows].flip(1), dim=1)
    routing[rows] = routing[rows].roll(1, -1)
    _, after = found(step, places, Outputs(vectors, routing), batch)
    for name in ("i2mm", "mm2mm", "omega_i2mm", "omega_mm2mm", "i2t", "t2i", "omega_i2t", "omega_t2i"):
        assert after[name] == before[name], name
    assert abs(after["t2mm"] - before["t2mm"]) > 1e-3
    assert abs(after["omega_t2mm"] - before["omega_t2mm"]) > 1e-5


# --- inside a product ------------------------------------------------------------


@pytest.mark.parametrize("intra", ["both", "i2t", "t2i"])
def test_picture_and_title_of_a_product_find_each_other_among_the_other_products(step_of, intra):
    step = step_of(intra=intra)
    batch, places, outputs = looked(step)
    figures = step(0)
    product = [*batch.positive.product, *batch.negative.product]
    sides = [outputs.vectors[places.sides(form)].double() for form in ("image", "text")]
    pairs = [(row, row) for row in range(len(product))]

    def may_push(row: int, own: int, j: int) -> bool:
        return product[j] != product[own]  # every product is its own group and title here

    for name, (query, item) in (("i2t", sides), ("t2i", sides[::-1])):
        wanted = np.mean(slow_nce(step, query, item, pairs, may_push)) if intra in ("both", name) else 0
        assert figures[name] == pytest.approx(wanted, rel=1e-4)


# --- weights of the objectives ------------------------------------------------------------


def test_without_experts_every_objective_weighs_a_fifth(step_of):
    figures = step_of()(0)
    assert figures["loss"] == pytest.approx(np.mean([figures[name] for name in OBJECTIVES]), rel=1e-5)
    assert not any(name.startswith("omega") for name in figures)


def test_the_weights_are_the_support_of_the_experts_that_took_the_sequences(step_of):
    step = step_of(has_experts=True, balance=0.0, sparsity=0.0)
    _, places, outputs = looked(step)
    figures = step(0)
    prefer = step.experts.preference.softmax(1).detach().double().numpy()
    support = outputs.routing[:, :, 0].mean(1).double().numpy() @ prefer
    total = 0.0
    for number, name in enumerate(OBJECTIVES):
        if name in INTER:
            asked = places.of["query", INTER[name]]
            members = [*asked[asked >= 0], *places.sides(BOTH)]
        else:
            members = [*places.sides("image"), *places.sides("text")]
        omega = np.mean([support[row, number] for row in members])
        assert figures[f"omega_{name}"] == pytest.approx(omega, rel=1e-5)
        total += omega * figures[name]
    assert figures["loss"] == pytest.approx(total, rel=1e-5)


def test_under_equal_routing_the_weights_sum_to_one(step_of):
    step = step_of(has_experts=True)
    batch, places, outputs = looked(step)
    routing = outputs.routing[:1].expand_as(outputs.routing)
    _, figures = found(step, places, Outputs(outputs.vectors, routing), batch)
    weights = [figures[f"omega_{name}"] for name in OBJECTIVES]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert max(weights) - min(weights) > 0.05


@pytest.mark.parametrize(("omega", "learns"), [("full", True), ("detach", False), ("uniform", False)])
def test_only_the_full_weights_teach_the_experts_preferences(step_of, omega, learns):
    step = step_of(has_experts=True, omega=omega, sparsity=0.0)
    step(0)
    grad = step.experts.preference.grad
    assert (grad is not None and bool(grad.abs().max() > 0)) == learns


# --- filter ------------------------------------------------------------


def test_without_the_filter_every_triplet_weighs_one_to_the_last_bit(step_of):
    off = step_of()
    batch, places, outputs = looked(off)
    plain, figures = found(off, places, outputs, batch)
    assert (figures["down_weighted"], figures["effective_size"]) == (0, 7)
    late = step_of(reliability=ReliabilitySettings(start_share=0.5))
    assert found(late, places, outputs, batch, 2)[0] == plain  # it has not started
    loss, figures = found(late, places, outputs, batch, 3)
    assert loss < plain
    assert figures["down_weighted"] > 0


def test_unreliable_triplets_count_less_by_the_gap_in_the_richest_form_of_their_query(step_of):
    settings = ReliabilitySettings(start_share=0.0)
    step = step_of(reliability=settings)
    batch, places, outputs = looked(step)
    _, figures = found(step, places, outputs, batch, 2)
    forms = ["text_image" if both else "image" if image else "text"
             for both, image in zip(batch.query.text_image, batch.query.image, strict=True)]  # fmt: skip
    query = outputs.vectors[[places.of["query", form][row] for row, form in enumerate(forms)]]
    sides = [outputs.vectors[places.of[side, BOTH]] for side in ("positive", "negative")]
    gap = (query * sides[0]).sum(1) - (query * sides[1]).sum(1)
    weight = sample_weights(gap, 2, step.settings.num_steps, settings)
    assert figures["gap"] == pytest.approx(gap.mean().item(), abs=1e-6)
    assert 0 < weight.min() < 1
    for objective, form in INTER.items():
        losses = slow_inter(step, batch, places, outputs.vectors, form)
        wanted = np.mean([loss * float(weight[row]) for row, loss in losses.items()])
        assert figures[objective] == pytest.approx(wanted, rel=1e-4)


# --- mixture ------------------------------------------------------------


def test_the_mixture_asks_each_query_once_as_12_to_3_to_2_among_the_forms_it_has(step_of):
    step = step_of(inter="mixture", intra="none")
    batch, places, _ = looked(step)
    counts = {form: np.zeros(7) for form in ("text", "image", BOTH)}
    num = 1_500
    for number in range(num):
        asks = TripletLoss(step, batch, number)._asks(places)
        assert (sum(asks[form].astype(int) for form in asks) == 1).all()
        for form, rows in asks.items():
            counts[form] += rows
    has_text, has_image = (places.of["query", form] >= 0 for form in ("text", "image"))
    both = has_text & has_image
    assert counts["text"][~has_image].tolist() == [num] * 3
    assert counts["image"][~has_text].tolist() == [num] * 2
    for form, share in (("image", 12 / 17), ("text", 3 / 17), (BOTH, 2 / 17)):
        assert counts[form][both] / num == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / num))
    figures = step(0)
    assert figures["loss"] == pytest.approx(sum(figures[name] for name in INTER) / len(OBJECTIVES), rel=1e-5)


# --- augmentation ------------------------------------------------------------


def test_what_is_added_is_seen_in_the_form_of_both_alone_and_moves_no_term_inside_a_product(
    tmp_path, step_of
):
    dataset = write_shop(tmp_path / "shop", more_images=("extra0", "extra1"))
    added = {f"lamp{n}": (f"bright lamp{n}, brass", ("extra0", "extra1")) for n in range(5)}
    bare, rich = (step_of(dataset=dataset, augmented=one, drop=0.0) for one in (None, added))
    batch, places, _ = looked(rich)
    own = [rich.triplets.products[code].product_id for code in batch.positive.product]
    for side in ("positive", "negative"):
        for row in range(7):
            text, image, both = (places.items[places.of[side, form][row]] for form in ("text", "image", BOTH))
            assert (text.images, len(image.images)) == ((), 1)
            assert "brass" not in text.text
            is_added = side == "positive" and own[row].startswith("lamp")
            assert len(both.images) == (3 if is_added else 1)
            assert both.text.endswith(f" | bright {own[row]}, brass") == is_added
    before, after = bare(0), rich(0)
    for name in ("i2t", "t2i"):
        assert after[name] == pytest.approx(before[name], rel=1e-4)
    assert abs(after["t2mm"] - before["t2mm"]) > 1e-3


# --- a whole stage ------------------------------------------------------------


def test_a_stage_with_experts_and_filter_resumes_digit_for_digit(make, shop, tmp_path, monkeypatch):
    settings = PLAIN.but(batch_size=3, augment=0.3, inter="mixture", reliability=ReliabilitySettings())
    assert_resumes(
        monkeypatch,
        tmp_path,
        "triplets",
        lambda seed: make(has_experts=True, seed=seed),
        lambda encoder, run: train_triplets(encoder, shop, settings, run, {"lamp0": ("a brass lamp", ())}),
    )


def test_the_stage_lowers_its_loss(make, shop):
    settings = PLAIN.but(num_steps=25, learning_rate=4e-3)
    encoder = make(has_experts=True)
    before = triplet_training(encoder, shop, settings)(0)
    encoder.zero_grad()
    results = train_triplets(encoder, shop, settings)
    for name in ("t2mm", "i2mm", "mm2mm", "i2t", "t2i"):
        assert results[name] < 0.7 * before[name], name
