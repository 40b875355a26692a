"""Post-training's losses and negatives against slow twins; the queue's age, resume, and how a run stops."""

import logging
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stage_parts import assert_equal, assert_resumes, posttraining

from moontide.encoder.stages.posttrain import NegativeSettings, Posttraining, PosttrainSettings, posttrain
from moontide.encoder.stages.rows import LogRows
from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.runs import Run

PLAIN = PosttrainSettings(
    num_steps=10, batch_size=6, pairings="moon", is_symmetric=False, log_every=1, checkpoint_every=2
)


def negatives(**changes) -> NegativeSettings:
    return NegativeSettings(**{"queue_from": 0.0, **changes})


# --- slow twins ------------------------------------------------------------


def seen(step: Posttraining, number: int):
    """The batch of a step, and the vectors of its queries and of its items."""
    batch = step.batch(number)
    items = [*batch.queries, *batch.items, *batch.hard]
    with torch.no_grad():
        vectors = step.encoder.encode_all(step.encoder.prepare_all(items)).vectors.double()
    return batch, vectors[: len(batch.queries)], vectors[len(batch.queries) :]


def left_out(step: Posttraining, batch, more=()) -> np.ndarray:
    """Pair by pair: the same group, the same content, or chosen for the same query; `more` are in a queue."""
    pairs, rows = step.pairs, step.pairs.rows
    known = set(zip(rows.query.tolist(), rows.product.tolist(), strict=True))
    product = [*batch.product, *batch.hard_product, *more]
    content = [*batch.content, *batch.hard_content]
    mask = np.zeros((len(batch.product), len(product)), bool)
    for i, own in enumerate(batch.product):
        for j, other in enumerate(product):
            mask[i, j] = pairs.group[own] == pairs.group[other] or (batch.query[i], other) in known
            mask[i, j] |= j < len(content) and content[j] == content[i]
    return mask


def slow_loss(step: Posttraining, query, item, mask) -> float:
    """Query by query, width by width; item i is query i's, which no mask touches."""
    settings, total = step.settings, []
    tau, margin, scale = settings.temperature, settings.margin, settings.scale
    for width in step.encoder.widths:
        score = (F.normalize(query[:, :width], dim=1) @ F.normalize(item[:, :width], dim=1).T).numpy()
        for i, row in enumerate(score):
            own, others = row[i], [s for j, s in enumerate(row) if j != i and not mask[i, j]]
            if settings.loss == "circle":
                push = sum(math.exp(scale * max(s + margin, 0) * (s - margin)) for s in others)
                pull = math.exp(-scale * max(1 + margin - own, 0) * (own - 1 + margin))
                total.append(math.log1p(push * pull))
                continue
            loss = math.log1p(sum(math.exp((s - own) / tau) for s in others))
            if settings.is_symmetric:
                back = [score[j, i] for j in range(len(score)) if j != i and not mask[j, i]]
                loss = (loss + math.log1p(sum(math.exp((s - own) / tau) for s in back))) / 2
            total.append(loss)
    return float(np.mean(total))


@pytest.fixture
def step_of(make_encoder, catalog):
    def make(settings: PosttrainSettings = PLAIN, rows=None, seed: int = 0, **changes) -> Posttraining:
        return posttraining(make_encoder(seed=seed), catalog, settings.but(**changes), rows)

    return make


# --- losses ------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"is_symmetric": True}, {"loss": "circle"}, {"loss": "circle", "margin": 0.4, "scale": 8.0}],
)
def test_the_loss_is_the_one_asked_for_over_every_width(step_of, changes):
    step = step_of(negatives=negatives(num_hard=2), **changes)
    for number in range(3):
        batch, query, item = seen(step, number)
        wanted = slow_loss(step, query, item, left_out(step, batch))
        assert step(number)["loss"] == pytest.approx(wanted, rel=1e-4)
        step.modules.zero_grad()


def test_hard_negatives_enter_the_loss_and_never_lower_it(step_of):
    plain, hard = step_of(), step_of(negatives=negatives(num_hard=3))
    for number in range(4):
        batch, query, item = seen(hard, number)
        mask = left_out(hard, batch)
        assert np.array_equal(batch.product, plain.batch(number).product)
        losses = [plain(number)["loss"]]
        size = len(query)
        for num in (1, 2, 3):  # of each query's three
            kept = [*range(size), *(size + 3 * row + one for row in range(size) for one in range(num))]
            losses.append(slow_loss(hard, query, item[kept], mask[:, kept]))
        assert losses == sorted(losses)
        assert losses[3] > losses[0]
        assert hard(number)["loss"] == pytest.approx(losses[3], rel=1e-4)


def test_two_blocks_have_the_mean_of_two_half_batches(step_of):
    step = step_of(batch_size=8, negatives=negatives(num_hard=1, blocks=2))
    batch, query, item = seen(step, 0)
    mask, halves = left_out(step, batch), []
    for rows in (range(4), range(4, 8)):
        own = [*rows, *(8 + row for row in rows)]
        halves.append(slow_loss(step, query[list(rows)], item[own], mask[np.ix_(rows, own)]))
    assert step(0)["loss"] == pytest.approx(np.mean(halves), rel=1e-4)
    whole = step_of(batch_size=8, negatives=negatives(num_hard=1))
    assert whole(0)["loss"] > np.mean(halves)


# --- the queue ------------------------------------------------------------


def test_a_query_is_held_against_past_items_of_the_form_it_looks_for_once_their_time_has_come(step_of):
    step = step_of(pairings="nine", negatives=NegativeSettings(num_hard=1, queue=30, queue_from=0.25))
    past = {form: [] for form in ("rich", "image", "title_image", "rich_image")}
    assert set(step.queues) == set(past)
    sizes = []
    for number in range(10):
        batch, query, item = seen(step, number)
        kept = past[batch.pairing.item_form]
        used = kept[-30:] if number >= 2.5 else []
        pool = torch.cat((item, *(vector[None] for vector, _ in used)))
        mask = left_out(step, batch, [product for _, product in used])
        assert step(number)["loss"] == pytest.approx(slow_loss(step, query, pool, mask), rel=1e-4)
        kept += zip(item, [*batch.product, *batch.hard_product], strict=True)
        sizes.append(len(used))
    assert max(sizes) == 30  # older ones were dropped
    assert sizes[:3] == [0, 0, 0]


def test_copies_of_what_a_query_chose_are_no_negatives_in_the_queue(step_of):
    step = step_of(batch_size=1, negatives=negatives(num_hard=2, queue=50))
    text = next(n for n in range(10) if not step.batch(n).queries[0].images)
    batch, query, item = seen(step, text)
    before = step(text)["loss"]
    rows, pairs, queue = step.pairs.rows, step.pairs, step.queues["rich_image"]
    queue.filled.zero_()
    chosen = rows.product[rows.query == batch.query[0]]
    assert len(chosen) > 1
    codes = np.array([*chosen, batch.product[0]])
    copies = torch.cat((query.repeat(len(chosen), 1), item[:1]))
    queue.push(copies, codes, pairs.group[codes], pairs.category[codes], 0)
    assert step(text)["loss"] == pytest.approx(before, rel=1e-6)
    other = np.setdiff1d(np.arange(len(pairs.products)), codes)[:1]
    queue.push(query, other, pairs.group[other], pairs.category[other], 0)
    assert step(text)["loss"] > before + 0.1


def test_categories_are_masked_in_the_queue_when_asked_to(step_of):
    losses = []
    for masks, is_thinned in ((False, False), (True, False), (False, True)):
        step = step_of(batch_size=1, negatives=negatives(queue=100, masks_category=masks))
        batch, pairs = step.batch(0), step.pairs
        codes = np.arange(len(pairs.products))
        if is_thinned:
            codes = codes[pairs.category[codes] != pairs.category[batch.product[0]]]
        vectors = F.normalize(torch.randn(48, 32, generator=torch.Generator().manual_seed(0)), dim=1)
        step.queues["rich_image"].push(vectors[codes], codes, pairs.group[codes], pairs.category[codes], 0)
        losses.append(step(0)["loss"])
    assert losses[1] == pytest.approx(losses[2], rel=1e-6)
    assert losses[0] > losses[1]


def test_products_without_a_category_share_none(step_of):
    step = step_of(batch_size=1, negatives=negatives(queue=100, masks_category=True))
    pairs = step.pairs
    pairs.category[:] = -1
    codes = np.arange(len(pairs.products))
    alone = step(0)["loss"]
    step.queues["rich_image"].push(torch.eye(32)[codes % 32], codes, pairs.group, pairs.category, 0)
    assert alone == 0
    assert step(0)["loss"] > 1


def test_the_queue_has_no_gradient_and_holds_vectors_as_they_were(step_of):
    step = step_of(negatives=negatives(num_hard=1, queue=500))  # longer than the catalog
    for number in range(2):
        _, _, item = seen(step, number)
        step(number)
        newest = step.queues["rich_image"].sample(len(item)).vectors.flip(0)
        torch.testing.assert_close(newest.double(), item, atol=1e-5, rtol=1e-4)
    kept = {name: value.clone() for name, value in step.queues.state_dict().items()}
    with torch.no_grad():
        for weight in step.modules.parameters():
            weight.add_(0.01)
    assert_equal(dict(step.queues.state_dict()), kept)
    assert not any(value.requires_grad for value in step.queues.state_dict().values())
    assert not list(step.queues.parameters())


def test_a_queue_of_other_weights_is_stale_and_shrinks_while_other_views_of_the_same_are_fresh(
    step_of, caplog
):
    step = step_of(pairings="nine", augment=0.8, negatives=negatives(queue=40, check_every=1))
    found = []
    for number in range(10):
        figures = step(number)
        found.append(figures.get("queue_cosine", 1.0))
    assert "queue_cosine" not in step(0)  # nothing has aged before the first step
    assert min(found) < 0.9  # two photos of one product
    assert not caplog.records
    length = min(40, len(step.queues[step.batch(9).pairing.item_form]) + 6)
    step.encoder.load_state_dict(step_of(seed=5).encoder.state_dict())
    with caplog.at_level(logging.WARNING):
        figures = step(9)
    assert figures["queue_cosine"] < 0.9 * figures["fresh_cosine"]
    assert figures["queue"] == length // 2
    assert re.search(rf"the queue is stale .* shortened to {length // 2}", caplog.text)


def test_the_age_of_the_queue_is_in_the_log(make_encoder, catalog, tmp_path):
    run = Run.start(tmp_path / "run", "test", {}, 0)
    settings = PLAIN.but(log_every=2, negatives=negatives(queue=20, check_every=4), learning_rate=1e-6)
    posttrain(make_encoder(), catalog, settings, run)
    looked = {row["step"]: row for row in run.metrics() if "queue_cosine" in row}
    assert list(looked) == [4, 8]
    assert all(0 < row["fresh_cosine"] <= 1.001 for row in looked.values())
    assert looked[8]["queue"] == 20


# --- a whole stage ------------------------------------------------------------


def test_a_stage_with_a_queue_resumes_digit_for_digit(make_encoder, catalog, tmp_path, monkeypatch):
    settings = PLAIN.but(
        num_steps=6, loss="circle", augment=0.3, negatives=negatives(num_hard=1, queue=5_000, check_every=2)
    )
    assert_resumes(
        monkeypatch,
        tmp_path,
        "posttrain",
        lambda seed: make_encoder(seed=seed),
        lambda encoder, run: posttrain(encoder, catalog, settings, run),
    )


def test_only_the_rows_given_are_drawn(step_of, make_encoder, catalog, tmp_path):
    settings = PLAIN.but(pairings="spine", catalog_share=0.0)
    every: LogRows = step_of(settings).pairs.rows
    rows = np.flatnonzero(every.product % 3 == 0)
    step = step_of(settings, rows)
    drawn = {product_id for number in range(10) for product_id in step.ids(number)}
    assert drawn <= {f"p{code}" for code in every.product[rows]}
    assert len(drawn) > 6
    run = Run.start(tmp_path / "run", "test", {}, 0)
    short = settings.but(num_steps=1)
    posttrain(make_encoder(), catalog, short, run, rows)
    with pytest.raises(CheckpointError, match="made with other settings or data"):
        posttrain(make_encoder(), catalog, short, run, rows[1:])


def test_a_batch_of_one_learns_from_hard_negatives_alone(make_encoder, catalog, tmp_path):
    first = []
    for num_hard in (0, 1):
        settings = PLAIN.but(num_steps=2, batch_size=1, negatives=negatives(num_hard=num_hard))
        run = Run.start(tmp_path / str(num_hard), "test", {}, 0)
        first.append(posttrain(make_encoder(), catalog, settings, run)["first_loss"])
    assert first[0] == 0
    assert first[1] > 0


def test_a_loss_that_is_no_number_stops_with_the_products_and_the_last_checkpoint(
    make_encoder, catalog, tmp_path, step_of
):
    settings = PLAIN.but(learning_rate=1e30, checkpoint_every=1)
    run = Run.start(tmp_path / "run", "test", {}, 0)
    with pytest.raises(DataError, match="posttrain stopped at step 1: ") as stopped:
        posttrain(make_encoder(), catalog, settings, run)
    text = str(stopped.value)
    assert f"of {', '.join(step_of(settings).ids(1))}; " in text
    assert f"the last good checkpoint is {run.checkpoints('posttrain') / 'step-00000001.pt'}" in text
    with pytest.raises(DataError, match="no checkpoint was written yet"):
        posttrain(make_encoder(), catalog, settings)
