"""C-SFT: the three readings against a slow twin, the slow copy, the queue, the triplet term, and resume."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stage_parts import EVENTS, assert_equal, assert_resumes, csft_step, grads_of, write_shop

from moontide.encoder.model.experts.modality import ModalityExperts, ModalitySettings
from moontide.encoder.stages.csft import Csft, CsftSettings, train_csft
from moontide.encoder.stages.triplets import FORMS, Places
from moontide.foundation.runs import Run

PLAIN = CsftSettings(
    num_steps=6, batch_size=7, hard=0.0, augment=0.0, queue_from=0.0, log_every=1, checkpoint_every=2
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Seven pairs, two with a product clicked beside what was ordered."""
    return write_shop(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture
def make(make_encoder):
    def made(has_experts: bool = False, seed: int = 0):
        encoder = make_encoder(seed=seed)
        if has_experts:
            settings = ModalitySettings(num_experts=3)
            encoder.fill(experts=ModalityExperts.of(encoder.backbone, settings, seed))
        return encoder

    return made


@pytest.fixture
def step_of(make, shop):
    def stepped(dataset=None, has_experts: bool = False, **changes) -> Csft:
        return csft_step(make(has_experts), dataset or shop, PLAIN.but(**changes))

    return stepped


def looked(step: Csft, number: int, encoder=None):
    """Batch, places and vectors of a step."""
    batch = step.pairs.batch(number, step.settings.batch_size)
    places, encoder = Places(batch), encoder or step.encoder
    with torch.no_grad():
        vectors = encoder.encode_all(encoder.prepare_all(places.items)).vectors
    return batch, places, vectors


def richest(places: Places, row: int) -> str:
    return next(form for form in ("text_image", "image", "text") if places.of["query", form][row] >= 0)


class SlowTwin:
    """The loss pair by pair, source by source; keeps what a queue would, by form."""

    def __init__(self, step: Csft):
        self.step, self.past = step, {form: [] for form in FORMS}

    def loss(self, batch, places, vectors) -> float:
        reading, total = self.step.settings.reading, []
        for width in self.step.encoder.widths:
            for row in range(len(batch.query_code)):
                if reading == "levels":  # each form among products in that form
                    ways = [(form, form) for form in FORMS if places.of["query", form][row] >= 0]
                else:
                    ways = [(richest(places, row), "text_image")]
                sums = [self.sums(batch, places, vectors, row, *way, width) for way in ways]
                if reading == "tiers":
                    total.append(np.mean([math.log1p(one) for one in sums[0]]))
                else:
                    total.append(np.mean([math.log1p(sum(one)) for one in sums]))
        return float(np.mean(total))

    def sums(self, batch, places, vectors, row: int, asked: str, shown: str, width: int) -> list[float]:
        """sum exp((s_n - s_p) / tau) over what may push: batch, clicked products, queue if there is one."""
        step, size = self.step, len(batch.query_code)
        product = [*batch.positive.product, *batch.negative.product, *(code for _, code in self.past[shown])]
        items = [*vectors[places.sides(shown)], *(vector for vector, _ in self.past[shown])]
        query = vectors[places.of["query", asked][row]].double()
        score = [float(F.cosine_similarity(query[:width], item.double()[:width], dim=0)) for item in items]
        rows, group = step.pairs.rows, step.pairs.group
        known = set(zip(rows.query.tolist(), rows.product.tolist(), strict=True))
        found = [0.0, 0.0, 0.0] if self.past[shown] else [0.0, 0.0]
        for j, s in enumerate(score):
            is_right = (batch.query_code[row], product[j]) in known
            if group[product[j]] != group[product[row]] and not is_right:
                found[min(j // size, 2)] += math.exp((s - score[row]) / step.settings.temperature)
        return found

    def push(self, batch, places, vectors, length: int) -> None:
        product = [*batch.positive.product, *batch.negative.product]
        for form in FORMS:
            kept = [*self.past[form], *zip(vectors[places.sides(form)], product, strict=True)]
            self.past[form] = kept[-length:]


# --- readings and queue ------------------------------------------------------------


@pytest.mark.parametrize("reading", ["levels", "tiers", "pooled"])
def test_a_reading_is_its_slow_twin_with_and_without_a_queue(step_of, reading):
    step = step_of(reading=reading, queue=20, batch_size=4)
    twin = SlowTwin(step)
    for number in range(3):
        batch, places, vectors = looked(step, number)
        wanted = twin.loss(batch, places, vectors)
        assert step(number)["loss"] == pytest.approx(wanted, rel=1e-4)
        twin.push(batch, places, vectors, 20)
    assert [len(step.state[form]) for form in FORMS] == [20, 20, 20]  # 24 were pushed


def test_tiers_and_the_pool_stand_in_the_order_of_their_inequality(step_of):
    losses = {}
    for reading in ("tiers", "pooled"):
        step = step_of(reading=reading, queue=100)
        step(0)
        losses[reading] = step(1)["loss"]
    assert losses["tiers"] <= losses["pooled"] <= 3 * losses["tiers"]


def test_the_queue_waits_for_its_share_of_the_steps(step_of):
    waiting, none = step_of(queue=50, queue_from=0.5), step_of()
    losses = [(waiting(number)["loss"], none(number)["loss"]) for number in range(4)]
    assert all(with_queue == without for with_queue, without in losses[:3])
    assert losses[3][0] > losses[3][1]


def test_keys_have_no_gradient(step_of):
    step = step_of(queue=50, momentum=0.5)
    step(0)
    step(1)
    grads = grads_of(step.modules)
    assert any(bool(grad.abs().max() > 0) for grad in grads.values())
    assert not any(one.requires_grad for one in step.state.parameters())
    assert all(one.grad is None for one in step.state.parameters())
    assert not any(value.requires_grad for value in step.state.state_dict().values())


# --- the slow copy ------------------------------------------------------------


def moved(step: Csft) -> None:
    """Weights as after an optimizer step."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in step.encoder.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    step.after()


@pytest.mark.parametrize("has_experts", [False, True])
def test_a_momentum_of_one_freezes_the_copy_and_of_zero_makes_it_follow(step_of, has_experts):
    for momentum in (1.0, 0.0, 0.75):
        step = step_of(queue=100, momentum=momentum, has_experts=has_experts)
        before = {name: value.clone() for name, value in step.encoder.state_dict().items()}
        _, _, start = looked(step, 1)
        step(0)
        step.modules.zero_grad()
        moved(step)
        slow, now = step.state["slow"], step.encoder.state_dict()
        _, places, keys = looked(step, 1, slow)
        if momentum == 1.0:
            assert_equal(slow.state_dict(), before)
            assert torch.equal(keys, start)
        elif momentum == 0.0:
            assert_equal(slow.state_dict(), now)
            assert torch.equal(keys, looked(step, 1)[2])
        else:
            for name, value in slow.state_dict().items():
                torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * now[name])
        step(1)
        for form in FORMS:
            rows = places.sides(form)
            newest = step.state[form].sample(len(rows)).vectors.flip(0)
            torch.testing.assert_close(newest, keys[rows], atol=1e-5, rtol=1e-4)


def test_the_copy_begins_as_the_centered_encoder(make, shop, tmp_path):
    encoder, run = make(), Run.start(tmp_path / "run", "test", {}, 0)
    untouched = make().state_dict()
    train_csft(encoder, shop, PLAIN.but(num_steps=1, learning_rate=1e-12, momentum=1.0), run)
    kept = torch.load(run.checkpoints("csft") / "step-00000001.pt", weights_only=True)["state"]
    slow = {name.removeprefix("slow."): value for name, value in kept.items() if name.startswith("slow.")}
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(slow[name], value, msg=name)
    assert any(not torch.allclose(slow[name], value) for name, value in untouched.items())


# --- the triplet term ------------------------------------------------------------


def test_only_clicked_products_are_held_against_the_ordered_one_by_the_margin(step_of):
    step = step_of(hard=0.5, margin=0.3)
    batch, places, vectors = looked(step, 0)
    terms = []
    for row, source in enumerate(batch.sources):
        if source == "clicked":
            form = richest(places, row)
            query, chosen, clicked = (
                vectors[places.of[side, form][row]] for side in ("query", "positive", "negative")
            )
            terms.append(max(0.0, 0.3 - float(query @ chosen) + float(query @ clicked)))
    figures, plain = step(0), step_of()(0)
    assert len(terms) == 2
    assert figures["clicked"] == pytest.approx(2 / 7)
    assert figures["hard"] == pytest.approx(np.mean(terms), rel=1e-4)
    assert figures["loss"] == pytest.approx(plain["loss"] + 0.5 * np.mean(terms), rel=1e-5)


def test_without_clicks_there_is_no_triplet_term(tmp_path, step_of):
    orders = [event for event in EVENTS if event[0] != "click"]
    figures = step_of(write_shop(tmp_path / "orders", orders), hard=1.0)(0)
    assert (figures["clicked"], figures["hard"]) == (0, 0)


# --- a whole stage ------------------------------------------------------------


def test_a_stage_with_queue_slow_copy_and_experts_resumes_digit_for_digit(make, shop, tmp_path, monkeypatch):
    settings = PLAIN.but(batch_size=3, augment=0.3, hard=1.0, queue=1_000, momentum=0.9)
    assert_resumes(
        monkeypatch,
        tmp_path,
        "csft",
        lambda seed: make(has_experts=True, seed=seed),
        lambda encoder, run: train_csft(encoder, shop, settings, run),
    )


def test_the_stage_lowers_its_loss(make, shop, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    results = train_csft(make(), shop, PLAIN.but(num_steps=25, learning_rate=4e-3, hard=1.0), run)
    assert results["last_loss"] < 0.6 * results["first_loss"]
