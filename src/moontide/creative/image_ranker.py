"""A ranker that sees the pictures alone, and the ceiling it is measured against.

A small convolutional network gives every picture a score; it learns from lists of creatives of one product:

    loss = - sum_i q_i log softmax(score)_i  +  0.5 mean (score_i - 100 ctr_i)^2
    q    = softmax(target_scale * ctr),     ctr = (clicks + 2.0402) / (impressions + 2.0402 + 54.0625)

It knows no product, query or title. Lists shorter than the longest are padded, and what is padded takes no
part in either sum. Two scores give s(A, B) = sigmoid(score_A - score_B), so that a judge's metrics apply.

Paper: Creative4U 3.7 (the list of its baselines ours); VAM of VAM-HBM (analog VAM-HBM): its ranker is a
ResNet-18 on lists of 3 with target_scale 1000. At that scale q names the one with the highest *counted* rate;
with few impressions this is noise, so the default is lower.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pydantic
import torch
from torch import nn

from moontide.creative.records import CreativePair, CreativeStat, Order, Verdict
from moontide.encoder.model.inputs import Picture, PictureSource, opened
from moontide.encoder.stages.pictures import Pictures
from moontide.foundation.device import pick_device
from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.progress import track
from moontide.foundation.seeds import seed_of, stream
from moontide.foundation.settings import Settings
from moontide.foundation.storage import storage_errors, write_bytes

log = logging.getLogger(__name__)
FORMAT = "moontide image ranker 1"
SMOOTH = (2.0402, 54.0625)  # analog VAM-HBM: clicks, and impressions without one, that are added
RATE_SCALE = 100.0  # analog VAM-HBM: what the squared error multiplies rates with


class RankerSettings(Settings):
    """Size and training of the picture-only ranker."""

    image_side: int = pydantic.Field(112, ge=32, description="side of the pictures it sees, pixels")
    width: int = pydantic.Field(16, ge=4, multiple_of=4, description="channels of the first stage")
    dim: int = pydantic.Field(
        10, ge=1, description="features before the score, as a linear bandit takes them"
    )
    list_length: int = pydantic.Field(4, ge=2, description="creatives of a list; of longer ones a sample")
    target_scale: float = pydantic.Field(300.0, gt=0, description="of rates in the target's softmax")
    rate_weight: float = pydantic.Field(0.5, ge=0, description="of the squared error beside the list's loss")
    min_impressions: int = pydantic.Field(60, ge=0, description="impressions a creative needs")
    epochs: int = pydantic.Field(6, ge=1, description="passes over the lists")
    batch_size: int = pydantic.Field(16, ge=1, description="lists of a step")
    learning_rate: float = pydantic.Field(2e-3, gt=0, description="highest one; it falls as a cosine")
    weight_decay: float = pydantic.Field(0.05, ge=0, description="of AdamW")
    seed: int = pydantic.Field(0, description="of weights, lists and their order")


def smoothed_ctr(impressions: np.ndarray | Sequence[int], clicks: np.ndarray | Sequence[int]) -> np.ndarray:
    """Clicks per impression with the prior of VAM-HBM: a creative without traffic has 3.6 %.

    Example:
        >>> smoothed_ctr([0, 1000], [0, 30]).round(4).tolist()
        [0.0364, 0.0303]
    """
    return (np.asarray(clicks) + SMOOTH[0]) / (np.asarray(impressions) + sum(SMOOTH))


def highest_ctr(stats: Sequence[CreativeStat]) -> dict[str, float]:
    """Strength of each creative by its own counts: log of its smoothed rate. A ceiling, not a prediction."""
    rates = smoothed_ctr([stat.impressions for stat in stats], [stat.clicks for stat in stats])
    return {stat.creative_id: float(value) for stat, value in zip(stats, np.log(rates), strict=True)}


def verdicts_of(
    pairs: Sequence[CreativePair], strength: Mapping[str, float], model_version: str
) -> list[Verdict]:
    """What a score says of pairs, in both orders, as a judge would: p_a = sigmoid(t_A - t_B).

    A score knows no order; equal scores name the first picture in both, which `judge_metrics` counts half.

    Args:
        strength: by creative id.

    Raises:
        DataError: a creative without a score.
    """
    found = []
    orders: tuple[Order, Order] = ("ab", "ba")
    for pair in pairs:
        for creative in (pair.creative_a, pair.creative_b):
            if creative not in strength:
                raise DataError(f"creative {creative!r} of pair {pair.pair_id!r} has no score: score all")
        apart = strength[pair.creative_a] - strength[pair.creative_b]
        for order, shown in zip(orders, (apart, -apart), strict=True):
            p_a = float(torch.sigmoid(torch.tensor(shown, dtype=torch.float64)))
            letter = "A" if shown >= 0 else "B"
            found.append(Verdict(pair.pair_id, order, letter, p_a, {}, "", True, True, model_version))
    return found


def list_loss(
    score_BN: torch.Tensor,
    ctr_BN: torch.Tensor,
    is_real_BN: torch.Tensor,
    target_scale: float = 1000.0,
    rate_weight: float = 0.5,
) -> torch.Tensor:
    """The loss of lists of creatives, mean over lists; padded places take no part.

    Also called: ListNet (top one).

    Paper: VAM-HBM (analog); formula at the top of the file.

    Args:
        score_BN: of B lists of N places.
        ctr_BN: smoothed rates.
        is_real_BN: False where padded.
        target_scale: of the rates in q. rate_weight: of the squared error.
    """
    log_p = score_BN.masked_fill(~is_real_BN, -torch.inf).log_softmax(1).masked_fill(~is_real_BN, 0.0)
    q = (target_scale * ctr_BN).masked_fill(~is_real_BN, -torch.inf).softmax(1)
    error = (score_BN - RATE_SCALE * ctr_BN).square().masked_fill(~is_real_BN, 0.0).sum() / is_real_BN.sum()
    return -(q * log_p).sum(1).mean() + rate_weight * error


class ImageRanker(nn.Module):
    """Scores pictures; made by `fit_ranker` or `ImageRanker.load`.

    Args:
        settings: size.
    """

    def __init__(self, settings: RankerSettings | None = None):
        super().__init__()
        self.settings = settings = settings or RankerSettings()
        widths = [settings.width * 2**stage for stage in range(4)]
        stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, stride=4, padding=2)]
        for before, after in pairwise(widths):
            stages += [nn.GroupNorm(4, before), nn.GELU(), nn.Conv2d(before, after, 3, stride=2, padding=1)]
        self.look = nn.Sequential(*stages, nn.GroupNorm(4, widths[-1]), nn.GELU())
        self.feature = nn.Linear(2 * widths[-1], settings.dim)
        self.score = nn.Linear(settings.dim, 1)
        self.losses: list[float] = []

    @property
    def version(self) -> str:
        """Name for verdicts: settings and a sum of the weights."""
        weight = sum(float(one.detach().double().sum()) for one in self.parameters())
        return f"image ranker {self.settings.fingerprint()} {weight:.6g}"

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """(pictures, dim) features of (pictures, side, side, 3) uint8."""
        map_ = self.look(pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1))
        return self.feature(torch.cat((map_.mean((2, 3)), map_.amax((2, 3))), 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(pictures,) scores of (pictures, side, side, 3) uint8."""
        return self.score(self.embed(pixels)).squeeze(1)

    @torch.no_grad()
    def _batched(self, images: Sequence[Picture], function: Any, batch_size: int = 64) -> np.ndarray:
        device, parts = self.score.weight.device, []
        for start in range(0, len(images), batch_size):
            part = [_pixels(one, self.settings.image_side) for one in images[start : start + batch_size]]
            parts.append(function(torch.from_numpy(np.stack(part)).to(device)).cpu().numpy())
        return np.concatenate(parts).astype(np.float64)

    def scores(self, images: Sequence[Picture]) -> np.ndarray:
        """(pictures,) a score of each encoded picture: higher is clicked more.

        Raises:
            ImageError: one cannot be decoded.
        """
        return self._batched(images, self) if len(images) else np.zeros(0)

    def features(self, images: Sequence[Picture]) -> np.ndarray:
        """(pictures, dim) what the score is linear in, for `LinearBandit`.

        Raises:
            ImageError: one cannot be decoded.
        """
        return self._batched(images, self.embed) if len(images) else np.zeros((0, self.settings.dim))

    def strengths(self, images: Mapping[str, Picture]) -> dict[str, float]:
        """A score for each name; in log-odds, as `bradley_terry` gives them."""
        return dict(zip(images, self.scores(list(images.values())).tolist(), strict=True))

    def verdicts(self, pairs: Sequence[CreativePair], picture: Callable[[str], Picture]) -> list[Verdict]:
        """What it says of pairs, in both orders.

        Args:
            picture: by image id, such as `PairSet.picture`.

        Raises:
            ImageError: a picture cannot be decoded.
        """
        owner = {
            creative: image
            for pair in pairs
            for creative, image in ((pair.creative_a, pair.image_a), (pair.creative_b, pair.image_b))
        }
        strength = self.strengths({creative: picture(image) for creative, image in owner.items()})
        return verdicts_of(pairs, strength, self.version)

    def save(self, path: Path | str) -> None:
        """Write settings and weights as one file.

        Raises:
            StorageError: the place cannot be written.
        """
        buffer = io.BytesIO()
        state = {name: value.cpu() for name, value in self.state_dict().items()}
        torch.save({"format": FORMAT, "settings": self.settings.model_dump(), "state": state}, buffer)
        write_bytes(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """A ranker as it was saved, on the CPU.

        Raises:
            CheckpointError: the file is none of a ranker.
            StorageError: it cannot be read.
        """
        with storage_errors(path):
            data = Path(path).read_bytes()
        try:
            saved = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
            is_ours = saved["format"] == FORMAT
        except Exception:
            is_ours, saved = False, {}
        if not is_ours:
            raise CheckpointError(
                f"{path} is no saved image ranker: give a file that `ImageRanker.save` wrote"
            )
        ranker = cls(RankerSettings(**saved["settings"]))
        ranker.load_state_dict(saved["state"])
        return ranker.eval()


def fit_ranker(
    stats: Sequence[CreativeStat],
    pictures: PictureSource,
    settings: RankerSettings | None = None,
    device: torch.device | None = None,
) -> ImageRanker:
    """Train the ranker on counts of creatives; the same seed gives the same weights.

    Args:
        stats: of train products alone; creatives of too few impressions and products of one are left out.
        pictures: encoded pictures by image id; creatives whose picture is missing or broken are left out.
        device: None: a GPU where there is one.

    Raises:
        DataError: no product has two creatives to learn from, or the loss is no number.
    """
    settings, device = settings or RankerSettings(), device or pick_device()
    seen = Pictures(pictures, lambda one: _pixels(one, settings.image_side))
    lists = _lists(stats, seen, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings.seed, "image ranker"))
        ranker = ImageRanker(settings).to(device)
    rates = np.concatenate(
        [smoothed_ctr([s.impressions for s in row], [s.clicks for s in row]) for row in lists]
    )
    nn.init.constant_(ranker.score.bias, RATE_SCALE * float(rates.mean()))
    steps = settings.epochs * -(-len(lists) // settings.batch_size)
    optimizer = torch.optim.AdamW(
        ranker.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.95)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False
    )
    with track(steps, "image ranker") as meter:
        for epoch in range(settings.epochs):
            total = 0.0
            for batch in _batches(lists, settings, epoch):
                loss = _loss(ranker, batch, seen, device)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(ranker.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(batch) / len(lists)
                meter.step()
            if not np.isfinite(total):
                raise DataError(
                    f"the image ranker's loss is {total} in pass {epoch + 1}: lower learning_rate"
                )
            ranker.losses.append(total)
            meter.note(f"loss {total:.4f}")
    return ranker.eval()


def _pixels(picture: Picture, side: int) -> np.ndarray:
    image = opened(picture, side)
    return np.array(image if image.size == (side, side) else image.resize((side, side)))


def _lists(
    stats: Sequence[CreativeStat], seen: Pictures, settings: RankerSettings
) -> list[list[CreativeStat]]:
    by_product: dict[str, list[CreativeStat]] = {}
    for stat in stats:
        if stat.impressions >= settings.min_impressions and stat.image_id in seen:
            by_product.setdefault(stat.product_id, []).append(stat)
    if seen.refused:
        log.warning("%d pictures of creatives cannot be decoded: left out", len(seen.refused))
    lists = [by_product[name] for name in sorted(by_product) if len(by_product[name]) > 1]
    if not lists:
        raise DataError(
            f"no product has two creatives of {settings.min_impressions} impressions with pictures: "
            "lower min_impressions or give more counts"
        )
    return lists


def _batches(
    lists: list[list[CreativeStat]], settings: RankerSettings, epoch: int
) -> list[list[list[CreativeStat]]]:
    rng = stream(settings.seed, "image ranker", epoch)
    drawn = []
    for place in rng.permutation(len(lists)):
        row = lists[place]
        picks = rng.permutation(len(row))[: settings.list_length]
        drawn.append([row[pick] for pick in picks])
    return [drawn[start : start + settings.batch_size] for start in range(0, len(drawn), settings.batch_size)]


def _loss(
    ranker: ImageRanker, batch: list[list[CreativeStat]], seen: Pictures, device: torch.device
) -> torch.Tensor:
    """Only real pictures go through the network; scores are laid into their places afterwards."""
    longest = max(map(len, batch))
    is_real = torch.tensor([[place < len(row) for place in range(longest)] for row in batch], device=device)
    flat = [stat for row in batch for stat in row]
    pixels = torch.from_numpy(np.stack([seen[stat.image_id] for stat in flat])).to(device)
    rates = smoothed_ctr([stat.impressions for stat in flat], [stat.clicks for stat in flat])
    score_BN = torch.zeros(is_real.shape, device=device).masked_scatter(is_real, ranker(pixels))
    ctr_BN = torch.zeros(is_real.shape, device=device)
    ctr_BN[is_real] = torch.tensor(rates, dtype=torch.float32, device=device)
    return list_loss(score_BN, ctr_BN, is_real, ranker.settings.target_scale, ranker.settings.rate_weight)
