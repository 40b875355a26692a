"""Pretraining and post-training: what they see, gradients in pieces, resume, and that they learn."""

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.benchmark import recall_at
from moontide.encoder.model.inputs import product_item
from moontide.encoder.stages import loop
from moontide.encoder.stages.loop import LoopSettings, rate_at
from moontide.encoder.stages.pairings import CATALOG, schedule
from moontide.encoder.stages.pairs import TrainingPairs
from moontide.encoder.stages.pictures import Pictures, vary
from moontide.encoder.stages.posttrain import PosttrainSettings, posttrain
from moontide.encoder.stages.pretrain import PretrainSettings, answer_gradients, pretrain
from moontide.encoder.stages.questions import Catalog, annotated_boxes, ask
from moontide.encoder.stages.rows import log_rows
from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.runs import Run

QUICK = PosttrainSettings(
    num_steps=6, batch_size=8, learning_rate=2e-3, checkpoint_every=2, log_every=1, augment=0.3
)


def pairs_of(encoder, catalog, **changes) -> TrainingPairs:
    return TrainingPairs(catalog, Pictures(catalog.images, encoder.backbone.pixels), **changes)


def weights_equal(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


# --- what is seen ------------------------------------------------------------


def test_held_out_products_are_in_no_pair_and_no_question(make_encoder, catalog):
    encoder = make_encoder()
    held_out = {f"p{n}" for n in range(48) if n % 4 == 3}
    pairs = pairs_of(encoder, catalog)
    ids = [product.product_id for product in pairs.products]
    seen, turns = set(), [0] * len(pairs.pairings)
    for step, number in enumerate(pairs.plan(200)):
        batch = pairs.batch(number, turns[number], step, 8)
        turns[number] += 1
        seen |= {ids[code] for code in batch.product}
    assert len(seen) == 36
    assert not seen & held_out
    asked = Catalog(catalog, pairs.pictures)
    assert not {product.product_id for product in asked.products} & held_out
    shown = {id(question.image) for step in range(40) for question in asked.questions(step, 12)}
    own = {id(pairs.pictures[f"i{n}{view}"]) for n in range(48) for view in "ab" if n % 4 != 3}
    assert shown <= own


def test_events_after_the_cutoff_are_not_seen(make_encoder, catalog):
    events = catalog.table("events").to_pylist()
    middle = sorted(event["at"] for event in events)[len(events) // 2]
    ids = [product.product_id for product in catalog.products()]
    everyone = np.ones(len(ids), bool)
    early, late = log_rows(catalog, ids, everyone, middle), log_rows(catalog, ids, everyone, after=middle)
    asked = {query.query_id: (query.text, query.image_id) for query in catalog.queries()}
    chosen = [e for e in events if e["at"] < middle and e["kind"] != "impression"]
    found = {(asked[early.query_ids[q]], ids[p]) for q, p in zip(early.query, early.product, strict=True)}
    assert found == {(asked[e["query_id"]], e["product_id"]) for e in chosen}
    whole = log_rows(catalog, ids, everyone)
    assert len(early.query) + len(late.query) >= len(whole.query) > len(early.query) > 0
    assert set(whole.weight) == {3}  # every pair ended in an order


def test_every_step_has_one_pairing_and_shares_are_kept_in_every_stretch(make_encoder, catalog):
    pairs = pairs_of(make_encoder(), catalog, catalog_share=0.4)
    assert sum(pairing.share for pairing in pairs.pairings) == pytest.approx(1)
    assert sum(p.share for p in pairs.pairings if p.source == "catalog") == pytest.approx(0.4)
    plan = pairs.plan(500)
    for start in (0, 123, 400):
        counts = np.bincount(plan[start : start + 100], minlength=len(pairs.pairings))
        assert np.abs(counts - 100 * np.array([p.share for p in pairs.pairings])).max() <= 2
    assert np.array_equal(plan[:50], schedule(pairs.pairings, 50))


def test_the_forms_of_a_batch_are_those_of_its_pairing(make_encoder, catalog):
    pairs = pairs_of(make_encoder(), catalog)
    for number, pairing in enumerate(pairs.pairings):
        batch = pairs.batch(number, 0, 0, 6)
        for form, items in ((pairing.query_form, batch.queries), (pairing.item_form, batch.items)):
            assert all(bool(item.images) == form.endswith("image") for item in items)
            assert all(bool(item.text) == (form != "image") for item in items)


def test_a_picture_is_paired_with_another_picture_of_the_product(make_encoder, catalog):
    pairs = pairs_of(make_encoder(), catalog, catalog_share=1.0)
    number = next(
        n for n, p in enumerate(pairs.pairings) if (p.query_form, p.item_form) == ("image", "image")
    )
    batch = pairs.batch(number, 0, 0, 8)
    for query, item, code in zip(batch.queries, batch.items, batch.product, strict=True):
        views = [pairs.pictures[i] for i in pairs.products[code].image_ids]
        first = [np.array_equal(query.images[0], view) for view in views]
        second = [np.array_equal(item.images[0], view) for view in views]
        assert sum(first) == sum(second) == 1
        assert first != second


def test_an_epoch_shows_every_pair_once(make_encoder, catalog):
    pairs = pairs_of(make_encoder(), catalog, catalog_share=1.0)
    batches = [pairs.batch(0, turn, turn, 6).product for turn in range(12)]
    assert sorted(np.concatenate(batches[:6])) == sorted(np.concatenate(batches[6:]))
    assert len(set(np.concatenate(batches[:6]))) == 36
    assert not np.array_equal(batches[0], batches[6])


def test_a_catalog_without_anything_to_pair_is_refused(make_encoder, catalog, monkeypatch):
    with pytest.raises(DataError, match="nothing to pair"):
        TrainingPairs(catalog, {})
    with pytest.raises(DataError, match="nothing to ask about"):
        Catalog(catalog, {})


def test_a_broken_picture_is_left_out_and_counted(make_encoder, catalog):
    class Broken(dict):
        def __missing__(self, key):
            return catalog.images[key]

        def __contains__(self, key):
            return key in catalog.images

    pictures = Pictures(Broken({"i0a": b"\xff\xd8 no"}), make_encoder().backbone.pixels)
    assert "i0a" not in pictures
    assert "i0b" in pictures
    assert "nothing" not in pictures
    assert pictures.refused == {"i0a": "not_an_image"}
    pairs = TrainingPairs(catalog, pictures, table=CATALOG[:1], catalog_share=1.0)
    batch = pairs.batch(0, 0, 0, 36)
    shown = batch.items[batch.product.tolist().index(0)].images[0]  # its other picture is whole
    assert np.array_equal(shown, pictures["i0b"])
    with pytest.raises(DataError, match="picture 'i0a' cannot be used: not_an_image"):
        pictures["i0a"]


def test_pictures_beyond_the_room_are_decoded_anew(make_encoder, catalog):
    one = 56 * 56 * 3
    pictures = Pictures(catalog.images, make_encoder().backbone.pixels, kept_bytes=one)
    assert pictures["i0a"] is pictures["i0a"]
    assert pictures["i1a"] is not pictures["i1a"]


def test_variations_keep_the_size_and_strength_zero_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    assert vary(pixels, np.random.default_rng(0), 0) is pixels
    varied = [vary(pixels, np.random.default_rng(seed), 1.0) for seed in (1, 1, 2)]
    assert varied[0].shape == pixels.shape
    assert varied[0].dtype == np.uint8
    assert np.array_equal(varied[0], varied[1])
    assert not np.array_equal(varied[0], varied[2])


def test_boxes_are_told_in_hundredths_of_the_sides(make_encoder, catalog):
    assert annotated_boxes(catalog)["i0a"] == pytest.approx((0.25, 0.125, 0.75, 0.625))
    encoder = make_encoder()
    asked = Catalog(catalog, Pictures(catalog.images, encoder.backbone.pixels), augment=1.0)
    questions = [question for step in range(30) for question in asked.questions(step, 12)]
    assert {question.kind for question in questions} == {"title", "attribute", "category", "box"}
    box = next(question for question in questions if question.kind == "box")
    assert box.answer == "25 12 75 62"
    assert np.array_equal(box.image, encoder.backbone.pixels(box.image))


def test_only_the_answer_is_predicted(make_encoder, catalog):
    encoder = make_encoder()
    catalog = Catalog(catalog, Pictures(catalog.images, encoder.backbone.pixels))
    question = catalog.questions(0, 4)[0]
    asked = ask(encoder.backbone, question)
    told = encoder.tokenizer.decode(asked.prepared.ids[asked.is_answer])
    assert told.replace("<|im_end|>", "").strip() == question.answer.lower()
    assert not asked.is_answer[: asked.is_answer.argmax()].any()
    assert asked.is_answer[-1]


# --- gradients, schedule, learning ------------------------------------------------------------


def gradients(module: nn.Module) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return found


def test_answers_in_mini_batches_give_the_gradient_of_the_whole(make_encoder, catalog):
    backbone = make_encoder().backbone
    questions = Catalog(catalog, Pictures(catalog.images, backbone.pixels)).questions(0, 9)
    asked = [ask(backbone, question) for question in questions]
    whole = answer_gradients(backbone, asked, 10**6)
    expected = gradients(backbone)
    assert answer_gradients(backbone, asked, 60)["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    for a, b in zip(gradients(backbone), expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-4)


def test_the_rate_warms_up_and_falls():
    settings = LoopSettings(num_steps=100, learning_rate=1.0, warmup_share=0.1)
    rates = [rate_at(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert np.argmax(rates) in (9, 10)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.02


def test_pretraining_lowers_the_loss(make_encoder, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    settings = PretrainSettings(num_steps=30, batch_size=12, learning_rate=4e-3, log_every=1, augment=0.0)
    results = pretrain(make_encoder(), catalog, settings, run)
    assert results["last_loss"] < 0.6 * results["first_loss"]
    assert [row["step"] for row in run.metrics("pretrain")] == list(range(30))


def test_posttraining_finds_the_looks_of_held_out_products(make_encoder, catalog):
    encoder = make_encoder()
    products = catalog.products()
    test = products[3::4]
    looks = [tuple(product.title.split()[:2]) for product in test]

    def recall() -> float:
        queries = encoder.encode_items([{"text": " ".join(look)} for look in looks])
        gallery = encoder.encode_items([product_item(p, catalog.images, "image") for p in test])
        same = [np.array([n for n, other in enumerate(looks) if other == look]) for look in looks]
        return recall_at(queries, gallery, same, ks=(1,))["recall@1"]

    before = recall()
    settings = PosttrainSettings(num_steps=60, batch_size=24, learning_rate=4e-3, augment=0.2)
    results = posttrain(encoder, catalog, settings)
    assert results["accuracy"] > 0.1
    assert recall() >= max(0.6, before + 0.3)
    short = encoder.encode_items(["red square", "red square number 1", "blue cross"], width=8)
    assert short[0] @ short[1] > short[0] @ short[2]


def test_adapters_alone_can_be_posttrained(make_encoder, catalog):
    encoder = make_encoder(lora_rank=4)
    frozen = encoder.backbone.model.get_input_embeddings().weight.clone()
    before = encoder.encode_items(["red square"])
    posttrain(encoder, catalog, QUICK)
    assert torch.equal(frozen, encoder.backbone.model.get_input_embeddings().weight)
    assert np.abs(encoder.encode_items(["red square"]) - before).max() > 1e-4


# --- resume ------------------------------------------------------------


class Stop(Exception): ...


@pytest.mark.parametrize("stage", ["pretrain", "posttrain"])
def test_a_resumed_stage_ends_like_an_uninterrupted_one(make_encoder, catalog, tmp_path, stage, monkeypatch):
    def equal(first, second) -> bool:  # pretraining leaves the projection alone
        both = (first, second) if stage == "posttrain" else (first.backbone, second.backbone)
        return weights_equal(*both)

    train, settings = {
        "pretrain": (pretrain, PretrainSettings(num_steps=6, batch_size=4, checkpoint_every=2, log_every=1)),
        "posttrain": (posttrain, QUICK),
    }[stage]
    whole, cut = make_encoder(), make_encoder()
    whole_run, cut_run = (Run.start(tmp_path / name, "test", {}, 0) for name in ("whole", "cut"))
    train(whole, catalog, settings, whole_run)

    steps = iter(range(100))

    def rate_until(step, _settings, real=rate_at):
        if next(steps) == 5:
            raise Stop
        return real(step, _settings)

    monkeypatch.setattr(loop, "rate_at", rate_until)
    with pytest.raises(Stop):
        train(cut, catalog, settings, cut_run)
    monkeypatch.setattr(loop, "rate_at", rate_at)
    fresh = make_encoder(seed=1)  # other weights: all must come from the checkpoint
    results = train(fresh, catalog, settings, cut_run)
    assert results["steps_here"] == 2
    assert equal(fresh, whole)
    assert cut_run.metrics() == whole_run.metrics()
    again = make_encoder(seed=2)
    assert train(again, catalog, settings, cut_run)["steps_here"] == 0
    assert equal(again, whole)


def _posttrain_there(path, run: Path, make_encoder, answers) -> None:
    """What the processes of the next test do; they are forked: importing PyTorch anew takes seconds."""
    encoder = make_encoder()
    settings = PosttrainSettings(num_steps=30, batch_size=8, checkpoint_every=3, log_every=1)
    posttrain(encoder, Dataset.open(path), settings, Run.start(run, "test", {}, 0))
    answers.put(encoder.fingerprint())


def test_a_stage_killed_in_the_middle_goes_on_to_the_same_weights(make_encoder, catalog, tmp_path):
    context = multiprocessing.get_context("fork")

    def start(name: str):
        answers = context.Queue()
        arguments = (catalog.path, tmp_path / name, make_encoder, answers)
        process = context.Process(target=_posttrain_there, args=arguments)
        process.start()
        return process, answers

    killed, _ = start("killed")
    checkpoints: Path = tmp_path / "killed" / "checkpoints" / "posttrain"
    give_up = time.monotonic() + 100
    while not list(checkpoints.glob("step-*.pt")) and killed.is_alive() and time.monotonic() < give_up:
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert len(Run.open(tmp_path / "killed").metrics()) < 30
    ends = []
    for name in ("killed", "whole"):
        process, answers = start(name)
        ends.append(answers.get(timeout=100))
        process.join()
    assert ends[0] == ends[1]
    first, second = (Run.open(tmp_path / name).metrics() for name in ("killed", "whole"))
    assert first == second
    assert len(first) == 30


def test_a_checkpoint_of_other_settings_is_refused(make_encoder, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    posttrain(make_encoder(), catalog, QUICK, run)
    with pytest.raises(CheckpointError, match="made with other settings or data"):
        posttrain(make_encoder(), catalog, QUICK.but(temperature=0.1), run)


def test_a_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(make_encoder, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    whole = make_encoder()
    posttrain(whole, catalog, QUICK, run)
    newest = sorted(run.checkpoints("posttrain").glob("step-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    again = make_encoder(seed=1)
    assert posttrain(again, catalog, QUICK, run)["steps_here"] == 2
    assert weights_equal(again, whole)
