"""The picture-only ranker: its loss by value, what it learns, verdicts, saving, bad pictures."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from moontide.creative.image_ranker import (
    ImageRanker,
    RankerSettings,
    fit_ranker,
    highest_ctr,
    list_loss,
    smoothed_ctr,
    verdicts_of,
)
from moontide.creative.metrics import judge_metrics
from moontide.creative.records import CreativePair, CreativeStat
from moontide.foundation.errors import CheckpointError, DataError, ImageError

SMALL = RankerSettings(image_side=32, width=8, epochs=10, batch_size=8, learning_rate=5e-3)


def picture(red: float, seed: int) -> bytes:
    """Noise, and a red square whose side is a share of the picture's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    side = round(32 * red)
    pixels[:side, :side] = (220, 20, 20)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def shop(num: int, seed: int = 0) -> tuple[list[CreativeStat], dict[str, bytes]]:
    """Products of two to five creatives, clicked the more the larger the red square."""
    rng = np.random.default_rng(seed)
    stats, pictures = [], {}
    for product in range(num):
        for place in range(int(rng.integers(2, 6))):
            red = float(rng.uniform(0.1, 0.9))
            name = f"{seed}.{product}.{place}"
            clicks = int(rng.binomial(2000, 0.02 * math.exp(red)))
            stats.append(CreativeStat(name, f"{seed}.{product}", f"i{name}", 2000, clicks))
            pictures[f"i{name}"] = picture(red, len(pictures) + 10_000 * seed)
    return stats, pictures


def pairs_of(stats: list[CreativeStat]) -> list[CreativePair]:
    """The first two creatives of each product; odd ones exchanged."""
    by_product: dict[str, list[CreativeStat]] = {}
    for stat in stats:
        by_product.setdefault(stat.product_id, []).append(stat)
    found = []
    for number, (product, (a, b, *_)) in enumerate(by_product.items()):
        pair = CreativePair(
            product, product, (), "", (), a.creative_id, b.creative_id, a.image_id, b.image_id,
            a.impressions, a.clicks, b.impressions, b.clicks, "A" if a.clicks >= b.clicks else "B", 0.9, "",
        )  # fmt: skip
        found.append(pair.swapped() if number % 2 else pair)
    return found


@pytest.fixture(scope="module")
def fitted() -> ImageRanker:
    return fit_ranker(*shop(60), SMALL, torch.device("cpu"))


def test_the_loss_is_the_formula_and_padding_takes_no_part():
    score = torch.tensor([[1.0, 3.0, 99.0], [0.5, -0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    ctr = torch.tensor([[0.01, 0.02, 7.0], [0.03, 0.02, 0.01]], dtype=torch.float64)
    is_real = torch.tensor([[True, True, False], [True, True, True]])
    total = squares = 0.0
    for row, length in enumerate((2, 3)):
        s, c = score[row, :length].detach().numpy(), ctr[row, :length].numpy()
        q = np.exp(50 * c) / np.exp(50 * c).sum()
        total -= float((q * (s - np.log(np.exp(s).sum()))).sum()) / 2
        squares += float(((s - 100 * c) ** 2).sum()) / 5
    loss = list_loss(score, ctr, is_real, target_scale=50, rate_weight=0.5)
    assert loss.item() == pytest.approx(total + 0.5 * squares)
    loss.backward()
    assert score.grad is not None
    assert score.grad[0, 2] == 0
    assert torch.isfinite(score.grad).all()
    cut = list_loss(score[:1, :2], ctr[:1, :2], is_real[:1, :2], 50.0)
    assert list_loss(score[:1], ctr[:1], is_real[:1], 50.0).item() == pytest.approx(cut.item())


def test_at_the_papers_scale_the_target_is_the_highest_rate_alone():
    score, ctr = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.03, 0.01]])
    loss = list_loss(score, ctr, torch.ones(1, 2, dtype=torch.bool), 1000.0, rate_weight=0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_rates_are_smoothed_as_the_paper_does():
    assert smoothed_ctr([60, 0], [3, 0]) == pytest.approx([5.0402 / 116.1027, 2.0402 / 56.1027])
    strength = highest_ctr([CreativeStat("a", "p", "i", 60, 3)])
    assert strength == {"a": pytest.approx(math.log(5.0402 / 116.1027))}


def test_it_learns_what_is_clicked_from_pictures_and_says_so_of_new_products(fitted):
    assert fitted.losses[-1] < fitted.losses[0]
    stats, pictures = shop(80, seed=1)
    pairs = pairs_of(stats)
    found = judge_metrics(pairs, fitted.verdicts(pairs, pictures.__getitem__), replicates=50)
    top = judge_metrics(pairs, verdicts_of(pairs, highest_ctr(stats), "counts"), replicates=50)
    assert found.order_invariant.value > 0.75
    assert top.order_invariant.value >= 0.99
    assert found.flip == 0
    assert found.accuracy_ab.value == found.accuracy_ba.value
    assert found.parsed_strict == 1


def test_scores_are_of_the_picture_alone_whatever_stands_beside_it(fitted):
    images = list(shop(5, seed=2)[1].values())
    together = fitted.scores(images)
    assert together == pytest.approx([float(fitted.scores([one])[0]) for one in images], abs=1e-5)
    assert fitted.scores(images[::-1])[::-1] == pytest.approx(together, abs=1e-5)


def test_the_score_is_linear_in_the_features(fitted):
    images = list(shop(3, seed=2)[1].values())
    weight = fitted.score.weight.detach().numpy()[0]
    expected = fitted.features(images) @ weight + float(fitted.score.bias.detach())
    assert fitted.scores(images) == pytest.approx(expected, abs=1e-4)
    assert fitted.scores([]).shape == (0,)


def test_verdicts_are_log_odds_and_equal_scores_count_half():
    pairs = pairs_of(shop(4)[0])
    strength = {name: float(n) for n, pair in enumerate(pairs) for name in (pair.creative_a, pair.creative_b)}
    even = judge_metrics(pairs, verdicts_of(pairs, strength, "even"), replicates=10)
    assert even.order_invariant.value == 0.5
    assert even.averaged.value == 0.5
    strength[pairs[0].creative_a] += 1.5
    forward, backward, *_ = verdicts_of(pairs, strength, "apart")
    assert (forward.letter, backward.letter) == ("A", "B")
    assert forward.p_a == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert forward.p_a + backward.p_a == pytest.approx(1)
    with pytest.raises(DataError, match="has no score"):
        verdicts_of(pairs, {}, "none")


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    data, settings = shop(10), SMALL.but(epochs=2)
    torch.manual_seed(1)
    first = fit_ranker(*data, settings, torch.device("cpu"))
    torch.manual_seed(2)
    again = fit_ranker(*data, settings, torch.device("cpu"))
    other = fit_ranker(*data, settings.but(seed=1), torch.device("cpu"))
    assert again.version == first.version != other.version
    assert again.losses == first.losses


def test_a_saved_ranker_scores_the_same(fitted, tmp_path):
    images = list(shop(3, seed=3)[1].values())
    fitted.save(tmp_path / "ranker.pt")
    again = ImageRanker.load(tmp_path / "ranker.pt")
    assert again.settings == fitted.settings
    assert again.version == fitted.version
    assert again.scores(images).tolist() == fitted.scores(images).tolist()
    (tmp_path / "other.pt").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="no saved image ranker"):
        ImageRanker.load(tmp_path / "other.pt")


def test_creatives_with_broken_missing_or_hardly_shown_pictures_are_left_out(caplog):
    stats, pictures = shop(10)
    stats += [CreativeStat("x", "0.0", "ix", 2000, 900), CreativeStat("y", "0.0", "iy", 2000, 900)]
    stats += [CreativeStat("z", "0.0", stats[0].image_id, 59, 50)]
    found = fit_ranker(stats, {**pictures, "ix": b"rubbish"}, SMALL.but(epochs=1), torch.device("cpu"))
    clean = fit_ranker(stats[:-3], pictures, SMALL.but(epochs=1), torch.device("cpu"))
    assert found.version == clean.version
    assert "1 pictures of creatives cannot be decoded" in caplog.text
    with pytest.raises(ImageError):
        found.scores([b"rubbish"])


def test_products_of_one_creative_are_nothing_to_learn_from():
    stats, pictures = shop(10)
    alone = list({stat.product_id: stat for stat in stats}.values())
    with pytest.raises(DataError, match="no product has two creatives of 60 impressions"):
        fit_ranker(alone, pictures, SMALL)
