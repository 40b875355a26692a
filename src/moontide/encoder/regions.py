"""A finder of what a title names, learned from a shop's annotated boxes, and the finder to take.

The box of the detector (`model/detector.py`) is rough: its edges then snap to what stands out by color in
its neighborhood (`catalog.regions.Saliency`), where the two agree.

Paper: MOON 3.2, in place of a vision-language model that is asked for a box (ours).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from moontide.catalog.dataset import Dataset
from moontide.catalog.regions import ANNOTATION, Box, RegionFinder, Regions, Saliency, checked_box, overlap
from moontide.encoder.model.detector import GRID, SIDE, Detector
from moontide.encoder.model.inputs import Picture
from moontide.encoder.stages.loop import LoopSettings, loop_of, train
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.rows import groups_and_split
from moontide.foundation.errors import CheckpointError, DataError
from moontide.foundation.images import decode
from moontide.foundation.runs import Run
from moontide.foundation.seeds import seed_of, stream
from moontide.foundation.storage import new_folder, read_json, write_json

log = logging.getLogger(__name__)

STAGE = "regions"
FEWEST = 64  # annotated pictures of train products below which nothing is learned
MIDDLE = 0.5  # of the box, each way: places there must say that they lie in the product
AROUND = 0.25  # of a rough box's sides, looked at on each side of it when its edges snap
AGREE = 0.5  # overlap of the rough and the snapped box below which the rough one stays
SWAPPED = 0.5  # of pictures with two products: the added one is meant, so that only the title can tell
FILE = "region_finder"


class FinderSettings(LoopSettings):
    """Size and training of the detector; the defaults take about half a minute of one core."""

    num_steps: int = pydantic.Field(400, ge=1, description="optimizer steps")
    learning_rate: float = pydantic.Field(4e-3, gt=0, description="highest rate, after the warm-up")
    batch_size: int = pydantic.Field(32, ge=1, description="pictures of a step")
    width: int = pydantic.Field(48, ge=8, multiple_of=8, description="channels of a place")
    word_width: int = pydantic.Field(24, ge=1, description="width of a title's words")
    untitled: float = pydantic.Field(0.5, ge=0, lt=1, description="titles hidden in training, share")
    nearer: float = pydantic.Field(0.2, ge=0, lt=1, description="part of a side that is cut away at most")
    strangers: float = pydantic.Field(
        0.3, ge=0, le=1, description="pictures another product is put in, share"
    )
    seed: int = pydantic.Field(0, description="of weights, batches and variations")


class TrainedFinder:
    """A finder that learned; `version` changes with its weights."""

    def __init__(self, net: Detector, settings: FinderSettings):
        self.net, self.settings = net.eval(), settings
        digest = hashlib.sha256(settings.fingerprint().encode())
        for _, weight in sorted(net.state_dict().items()):
            digest.update(weight.detach().numpy().tobytes())
        self.version = f"trained-{digest.hexdigest()[:12]}"

    @torch.inference_mode()
    def find(self, picture: np.ndarray, title: str) -> tuple[Box, float] | None:
        """The box, and how sure the surest place is; None where no usable box comes out."""
        small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        logit_BP, box_BP4 = self.net([np.asarray(small)], [title])
        weight_P1 = torch.softmax(2 * logit_BP[0], 0).unsqueeze(1)
        rough = checked_box((weight_P1 * box_BP4[0]).sum(0).tolist())
        if rough is None:
            return None
        return snapped(picture, rough), float(logit_BP.max().sigmoid())

    def save(self, path: Path | str) -> None:
        """Write a folder: weights and settings."""
        with new_folder(Path(path)) as folder:
            save_file(self.net.state_dict(), folder / f"{FILE}.safetensors")
            write_json(folder / f"{FILE}.json", self.settings.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path | str) -> TrainedFinder:
        """Read a folder that `save` wrote.

        Raises:
            CheckpointError: there is none, or it is broken.
        """
        path = Path(path)
        if not (path / f"{FILE}.json").is_file():
            raise CheckpointError(f"no region finder at {path}: it has no {FILE}.json")
        settings = FinderSettings(**read_json(path / f"{FILE}.json"))
        net = _new_detector(settings)
        try:
            net.load_state_dict(load_file(path / f"{FILE}.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"the region finder at {path} is broken ({error}): train it again"
            ) from None
        return cls(net, settings)


def snapped(picture: np.ndarray, rough: Box) -> Box:
    """The box with its edges where the neighborhood's colors change; the rough one if that is elsewhere."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = rough
    grow_x, grow_y = AROUND * (x1 - x0), AROUND * (y1 - y0)
    left, top = int(max(x0 - grow_x, 0) * width), int(max(y0 - grow_y, 0) * height)
    right, bottom = int(np.ceil(min(x1 + grow_x, 1) * width)), int(np.ceil(min(y1 + grow_y, 1) * height))
    found = Saliency().find(picture[top:bottom, left:right])
    if found is None:
        return rough
    inner = np.array(found[0]) * (right - left, bottom - top, right - left, bottom - top)
    box = checked_box((inner + np.array([left, top, left, top])) / (width, height, width, height))
    return box if box is not None and float(overlap(box, rough)) > AGREE else rough


def _new_detector(settings: FinderSettings) -> Detector:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Detector(settings.width, settings.word_width, settings.untitled)


@dataclass(frozen=True)
class Example:
    """An annotated picture: its pixels (SIDE, SIDE, 3), the title that was meant, and the box in shares."""

    pixels: np.ndarray
    title: str
    box: Box


class Examples:
    """The annotated pictures of a dataset's train products, advertisements included."""

    def __init__(self, dataset: Dataset):
        regions = Regions.read(dataset)
        self._pictures = Pictures(dataset.images, _square)
        self._rows: list[tuple[str, str, Box]] = []
        products = dataset.products()
        _, is_train = groups_and_split(dataset, [product.product_id for product in products])
        creatives = dataset.table("creatives", ["product_id", "image_id"]).to_pylist()
        shown: dict[str, list[str]] = {}
        for row in creatives:
            shown.setdefault(row["product_id"], []).append(row["image_id"])
        for product, wanted in zip(products, is_train, strict=True):
            if not wanted:
                continue
            for image_id in dict.fromkeys((*product.image_ids, *shown.get(product.product_id, ()))):
                region = regions.region(image_id, product.title)
                if region is None or region.source != ANNOTATION or region.box is None:
                    continue
                if image_id in self._pictures:
                    self._rows.append((image_id, product.title, region.box))

    def __len__(self) -> int:
        return len(self._rows)

    def titles(self) -> list[str]:
        """The title of each."""
        return [title for _, title, _ in self._rows]

    def __getitem__(self, place: int) -> Example:
        image_id, title, box = self._rows[place]
        return Example(self._pictures[image_id], title, box)


def _square(picture: Picture) -> np.ndarray:
    assert isinstance(picture, bytes)
    return np.asarray(decode(picture, SIDE))


def train_finder(
    dataset: Dataset, settings: FinderSettings | None = None, run: Run | None = None
) -> tuple[TrainedFinder, dict[str, Any]]:
    """Learn from the annotated pictures of train products.

    Loss: cross-entropy of lying in the middle, summed over places, and 1 - GIoU of those in the middle, both
    for one place in the middle.

    Returns:
        the finder; figures of `loop.train` with `examples` and `parameters`.

    Raises:
        DataError: nothing is annotated. CheckpointError: the run was made with other settings.
    """
    settings = settings or FinderSettings()
    examples = Examples(dataset)
    if not len(examples):
        raise DataError(
            f"{dataset.path} has no annotated picture of a train product: use the saliency finder"
        )
    net = _new_detector(settings)

    def backward(step: int) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):  # hidden titles: a function of the step, resumed or not
            torch.manual_seed(seed_of(settings.seed, "hidden titles", step))
            return _gradients(net, _batch(examples, settings, step))

    asked = [settings.model_dump(mode="json"), dataset.fingerprint()]
    results = train(STAGE, net, backward, loop_of(settings), run, asked)
    net.know(examples.titles())
    figures = {"examples": len(examples), "parameters": sum(one.numel() for one in net.parameters())}
    return TrainedFinder(net, settings), results | figures


def _gradients(net: Detector, batch: list[Example]) -> dict[str, float]:
    logit_BP, box_BP4 = net([one.pixels for one in batch], [one.title for one in batch])
    true_B14 = torch.tensor([one.box for one in batch]).unsqueeze(1)
    middle_P2 = net.get_buffer("middle_P2")
    center_B12, sides_B12 = (true_B14[..., 2:] + true_B14[..., :2]) / 2, true_B14[..., 2:] - true_B14[..., :2]
    half_B12 = (sides_B12 * MIDDLE / 2).clamp(min=0.6 / GRID)  # a thin box holds a place, too
    is_middle_BP = ((middle_P2 - center_B12).abs() < half_B12).all(-1).float()
    missed_BP = F.binary_cross_entropy_with_logits(logit_BP, is_middle_BP, reduction="none")
    place_loss = missed_BP.sum() / is_middle_BP.sum()
    miss_BP = (1 - _generalized_overlap(box_BP4, true_B14)) * is_middle_BP
    box_loss = (miss_BP.sum(1) / is_middle_BP.sum(1)).mean()
    loss = place_loss + box_loss
    loss.backward()
    return {"loss": loss.item(), "places": place_loss.item(), "boxes": box_loss.item()}


def _generalized_overlap(box_BP4: torch.Tensor, true_B14: torch.Tensor) -> torch.Tensor:
    """GIoU = IoU - (hull - union) / hull, in -1..1 (arXiv 1902.09630)."""

    def area(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return (high - low).clamp(min=0).prod(-1)

    low, high, true_low, true_high = box_BP4[..., :2], box_BP4[..., 2:], true_B14[..., :2], true_B14[..., 2:]
    both = area(torch.maximum(low, true_low), torch.minimum(high, true_high))
    union = area(low, high) + area(true_low, true_high) - both
    hull = area(torch.minimum(low, true_low), torch.maximum(high, true_high))
    return both / union - (hull - union) / hull


def _batch(examples: Examples, settings: FinderSettings, step: int) -> list[Example]:
    """The varied examples of a step, a function of seed and step alone."""
    size = min(settings.batch_size, len(examples))
    per_epoch = len(examples) // size
    order = stream(settings.seed, "region examples", step // per_epoch).permutation(len(examples))
    at = (step % per_epoch) * size
    rng = stream(settings.seed, "region views", step)
    batch = []
    for place in order[at : at + size]:
        example = examples[place]
        if rng.random() < settings.strangers:
            example = _joined(example, examples[int(rng.integers(len(examples)))], rng)
        batch.append(_varied(example, settings.nearer, rng))
    return batch


def _joined(example: Example, stranger: Example, rng: np.random.Generator, tries: int = 6) -> Example:
    """Another product put beside the one that is meant, where there is room for it."""
    if stranger.title == example.title:
        return example
    image = Image.fromarray(stranger.pixels)
    edges = np.array(stranger.box) * SIDE
    scale = rng.uniform(0.15, 0.5) * SIDE / max(edges[2] - edges[0], edges[3] - edges[1])
    width, height = (max(4, round((edges[2 + axis] - edges[axis]) * scale)) for axis in (0, 1))
    piece = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=tuple(edges.tolist())))
    x0, y0, x1, y1 = np.array(example.box) * SIDE
    for _ in range(tries):
        left, top = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
        if left > x1 or left + width < x0 or top > y1 or top + height < y0:
            pixels = example.pixels.copy()
            pixels[top : top + height, left : left + width] = piece
            if rng.random() < SWAPPED:
                corners = np.array([left, top, left + width, top + height]) / SIDE
                x0, y0, x1, y1 = corners.tolist()
                return Example(pixels, stranger.title, (x0, y0, x1, y1))
            return Example(pixels, example.title, example.box)
    return example


def _varied(example: Example, nearer: float, rng: np.random.Generator) -> Example:
    """Nearer, mirrored, in other light; the product stays in the picture as far as it fits."""
    side = 1 - nearer * rng.random()
    low, high = np.array(example.box[:2]), np.array(example.box[2:])
    bounds = np.sort(np.clip([high - side, low], 0, 1 - side), axis=0)
    corner = rng.uniform(bounds[0], bounds[1])
    window = tuple((np.concatenate((corner, corner + side)) * SIDE).tolist())
    image = Image.fromarray(example.pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=window)
    x0, y0, x1, y1 = np.clip((np.array(example.box) - np.tile(corner, 2)) / side, 0, 1).tolist()
    pixels = np.asarray(image)
    if rng.random() < 0.5:
        pixels, x0, x1 = pixels[:, ::-1], 1 - x1, 1 - x0
    light = pixels * rng.uniform(0.8, 1.2, 3) + rng.uniform(-20, 20)
    return Example(light.clip(0, 255).astype(np.uint8), example.title, (x0, y0, x1, y1))


def best_finder(
    dataset: Dataset, settings: FinderSettings | None = None, run: Run | None = None
) -> RegionFinder:
    """A finder trained on the dataset where it has 64 annotated train pictures, else saliency."""
    num = len(Examples(dataset))
    if num >= FEWEST:
        return train_finder(dataset, settings, run)[0]
    log.info("%d annotated pictures of train products, under %d: boxes by saliency", num, FEWEST)
    return Saliency()
