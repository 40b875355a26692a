"""Training on triplets: moontide's step against sentence-transformers' trainer, same model, rows and loss.

    python benchmarks/train.py            about three minutes
    python benchmarks/train.py --quick    about one minute

A triplet is a query, what was chosen and what was shown in vain, each as text, picture and both: nine items,
three pictures. Theirs has a column for each item and a loss that embeds one column after the other, as their
losses do. Ours embeds all items together and shows the vision tower each picture once. Both run our modules:
the ratio is that of the training around them. Optimizer, schedule, clipping and order of the rows are the
same; before the clock runs, loss and gradients of the first step must agree to 1e-4.

Data are part of a step: texts to tokens, pictures to patches. Ours keeps pictures decoded, theirs gets them
encoded and decodes them in its collator, once a column; the ratio without data stands beside. Pictures do not
vary. Runs are interleaved, ratios are medians of the paired ones. Both sides run on one thread and are timed
in seconds of the processor, which other programs disturb less than the clock on the wall.

A second table has the peak memory of a process that makes one step of ours: at once, and in pieces.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.encoder import EncoderSettings, MoonEncoder
from moontide.encoder.model.inputs import Item, render_text
from moontide.encoder.objectives.infonce import Temperature
from moontide.encoder.objectives.masks import not_negative
from moontide.encoder.objectives.reliability import ReliabilitySettings
from moontide.encoder.stages.exposures import Triplets
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, loop_of, new_optimizer, rate_at, train
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.triplets import FORMS, Places, TripletSettings, TripletTraining
from moontide.market.build import build_market
from moontide.market.settings import MarketSettings

Whole = Literal["rich_image", "title_image"]
SIDES = ("query", "positive", "negative")
COLUMNS = [(side, form) for side in SIDES for form in FORMS]
PIECE = 2_048  # tokens
WARM, STEPS = 1, 4  # steps of a run before the clock, and on it
MARKET = MarketSettings(
    num_products=600, num_merchants=40, num_shoppers=200, num_impressions=40_000, days=7,
    images_per_product=1, creatives_per_product=0, image_queries=0, mixed_queries=1,
)  # fmt: skip


class NineForms(Triplets):
    """Triplets whose query has a text and a picture: none of the nine columns has a gap."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        asked = [self._queries[self.rows.query_ids[code]] for code in self.rows.query[self._drawn]]
        self._drawn = self._drawn[
            [bool(one.text and one.image_id and one.image_id in self.pictures) for one in asked]
        ]


class Ours:
    """Our training of a fresh copy of the model, a few steps at a time."""

    def __init__(
        self, folder: Path, size: int, num_steps: int, whole: Whole = "rich_image", tokens: int | None = None
    ):
        self.dataset, self.size = Dataset.open(folder / "data"), size
        self.settings = TripletSettings(
            batch_size=size, num_steps=num_steps, mini_batch_tokens=tokens, whole=whole, augment=0,
            omega="uniform", reliability=ReliabilitySettings(mode="off"), kinds=("click", "cart", "order"),
        )  # fmt: skip
        self.encoder = MoonEncoder(folder / "model", device="cpu").train()
        self.pictures = Pictures(self.dataset.images, self.encoder.pixels)
        settings, view = self.settings, self.encoder.view(self.dataset)
        self.triplets = NineForms(
            self.dataset, self.pictures, None, settings.kinds, 0.0, settings.seed, view, settings.whole
        )
        assert len(self.triplets) >= size
        self.step = TripletTraining(self.encoder, self.triplets, settings)

    def run(self) -> tuple[float, list[float]]:
        """Seconds of the steps after the warm ones, and the loss of every step."""
        ends, losses = [], []

        def backward(step: int) -> dict[str, float]:
            figures = self.step(step)
            losses.append(figures["loss"])
            return figures

        def after() -> None:
            self.step.after()
            ends.append(time.process_time())

        train("bench", self.step.modules, backward, loop_of(self.settings), after_step=after)
        return ends[-1] - ends[WARM - 1], losses

    def data_seconds(self) -> float:
        """Seconds it takes to make the inputs of the timed steps."""
        start = time.process_time()
        for step in range(self.settings.num_steps):
            self.encoder.prepare_all(Places(self.triplets.batch(step, self.size)).items)
        return (time.process_time() - start) * (1 - WARM / self.settings.num_steps)

    def rows(self) -> datasets.Dataset:
        """The triplets of all steps as their trainer takes them: pictures encoded, masks by a label.

        And of one step more: it fetches a batch ahead, which the clock would miss.
        """
        encoded = {id(self.pictures[name]): self.dataset.images[name] for name in self.dataset.images}
        rows = []
        for step in range(self.settings.num_steps + 1):
            batch = self.triplets.batch(step, self.size)
            codes = (batch.query_code, batch.positive.product, batch.negative.product)
            for row in range(len(batch.query_code)):
                items = {f"{a}_{b}": getattr(getattr(batch, a), b)[row] for a, b in COLUMNS}
                columns = {name: _as_dict(item, encoded) for name, item in items.items()}
                rows.append(columns | {"label": [int(code[row]) for code in codes]})
        return datasets.Dataset.from_list(rows)


def _as_dict(item: Item, encoded: dict[int, bytes]) -> dict[str, Any]:
    pictures = [encoded[id(picture)] for picture in item.images]
    return ({"text": item.text} if item.text else {}) | ({"image": pictures[0]} if pictures else {})


class NineColumns(nn.Module):
    """The loss of `TripletTraining`, uniform and unfiltered, as one writes it for sentence-transformers.

    L = (t2mm + i2mm + mm2mm + i2t + t2i) / 5, each the mean over the nested widths.
    """

    def __init__(self, model: MoonEncoder, triplets: Triplets, temperature: float):
        super().__init__()
        self.model, self.triplets, self.widths = model, triplets, model.widths
        self.between, self.within = Temperature(temperature), Temperature(temperature)
        self.seen: list[float] = []

    def forward(self, features: Sequence[dict[str, torch.Tensor]], labels: torch.Tensor) -> torch.Tensor:
        vectors = [self.model(one)["sentence_embedding"] for one in features]
        of = dict(zip(COLUMNS, vectors, strict=True))
        text, image, both = (torch.cat([of["positive", form], of["negative", form]]) for form in FORMS)
        query, positive, negative = labels.numpy().T
        product, known = np.concatenate([positive, negative]), self.triplets
        mask = not_negative(positive, product, known.group, None, query, known.positives)
        group, title = known.group[product], known.title[product]
        same = torch.from_numpy((group[:, None] == group) | (title[:, None] == title))
        losses = [self._find(of["query", form], both, torch.from_numpy(mask), self.between) for form in FORMS]
        losses += [self._find(*pair, same, self.within) for pair in ((image, text), (text, image))]
        loss = torch.stack(losses).mean()
        self.seen.append(loss.item())
        return loss

    def _find(
        self, query: torch.Tensor, items: torch.Tensor, mask: torch.Tensor, temperature: Temperature
    ) -> torch.Tensor:
        mask = mask & ~torch.eye(len(query), len(items), dtype=torch.bool)
        losses = []
        for width in self.widths:
            short = [F.normalize(one[:, :width], dim=-1) for one in (query, items)]
            logits = (short[0] @ short[1].T / temperature()).masked_fill(mask, -torch.inf)
            losses.append(F.cross_entropy(logits, torch.arange(len(query))))
        return torch.stack(losses).mean()


class Ends(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.at.append(time.process_time())


def in_order(dataset: datasets.Dataset, **kwargs: Any) -> DefaultBatchSampler:
    """Batches of rows in the order they stand in."""
    sampler = SequentialSampler(dataset)
    return DefaultBatchSampler(sampler, **kwargs)  # ty: ignore[invalid-argument-type]  as upstream calls it


class Theirs:
    """The trainer of sentence-transformers over another copy of the same model."""

    def __init__(self, folder: Path, ours: Ours):
        self.folder, self.settings, self.rows = folder, ours.settings, ours.rows()
        self.encoder = MoonEncoder(folder / "model", device="cpu").train()
        self.loss = NineColumns(self.encoder, ours.triplets, ours.settings.temperature)

    def trainer(self) -> SentenceTransformerTrainer:
        """A new one; its optimizer has forgotten the runs before."""
        optimizer, loop = new_optimizer(self.loss, loop_of(self.settings)), loop_of(self.settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step, loop) / loop.learning_rate
        )
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.folder / "trainer"),
            per_device_train_batch_size=self.settings.batch_size,
            max_steps=loop.num_steps,
            max_grad_norm=loop.clip,
            batch_sampler=in_order,
            use_cpu=True,
            bf16=False,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            self.encoder, arguments, self.rows, loss=self.loss, optimizers=(optimizer, schedule)
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def run(self) -> tuple[float, list[float]]:
        """Seconds of the steps after the warm ones, and the loss of every step."""
        trainer, ends = self.trainer(), Ends()
        trainer.add_callback(ends)
        self.loss.seen = []
        trainer.train()
        return ends.at[-1] - ends.at[WARM - 1], self.loss.seen

    def data_seconds(self) -> float:
        """Seconds it takes to make the inputs of the timed steps."""
        batches, num = self.trainer().get_train_dataloader(), self.settings.num_steps
        start = time.process_time()
        for _ in batches:
            pass
        return (time.process_time() - start) * (num - WARM) / len(batches)


@contextmanager
def counting(encoder: MoonEncoder) -> Generator[list[int]]:
    """The number of pictures in each pass of the vision tower within the block."""
    passes: list[int] = []
    hook = encoder.backbone.visual.merger.register_forward_pre_hook(
        lambda _, inputs: passes.append(len(inputs[0]))
    )
    yield passes
    hook.remove()


@dataclass
class Agreement:
    """Relative differences of the first step, and the passes of the vision tower in it."""

    loss: float
    gradient: float
    passes: tuple[list[int], list[int]]


def agreement(ours: Ours, theirs: Theirs) -> Agreement:
    """Compare loss and gradients of all weights in the first step."""
    with counting(ours.encoder) as mine:
        wanted = ours.step(0)["loss"]
    with counting(theirs.encoder) as others:
        trainer = theirs.trainer()
        found = trainer.compute_loss(theirs.encoder, next(iter(trainer.get_train_dataloader())))
        assert isinstance(found, torch.Tensor)
        found.backward()
    pairs = [(ours.encoder, theirs.encoder)]
    pairs += [(getattr(ours.step, name), getattr(theirs.loss, name)) for name in ("between", "within")]
    apart = max(_apart(*pair) for pair in pairs)
    result = Agreement(abs(found.item() / wanted - 1), apart, (mine, others))
    assert max(result.loss, result.gradient) < 1e-4, result
    ours.step.modules.zero_grad()
    theirs.loss.zero_grad()
    return result


def _apart(module: nn.Module, other: nn.Module) -> float:
    """Relative difference of two modules' gradients."""
    sides = [
        [torch.zeros_like(p) if p.grad is None else p.grad for p in m.parameters()] for m in (module, other)
    ]
    a, b = (torch.cat([one.flatten() for one in side]) for side in sides)
    return float((a - b).norm() / a.norm())


def compare(folder: Path, size: int, whole: Whole, runs: int) -> str:
    """A line of the first table."""
    ours = Ours(folder, size, WARM + STEPS, whole)
    theirs = Theirs(folder, ours)
    same = agreement(ours, theirs)
    pairs, drift = [], 0.0
    with ours.encoder.remembering(TRAINING_LAYOUTS), theirs.encoder.remembering(TRAINING_LAYOUTS):
        for run in range(runs + 1):  # the first warms up
            if run % 2:
                mine, other = ours.run(), theirs.run()
            else:
                other, mine = theirs.run(), ours.run()
            if not run:  # later, rounding grows: a fresh AdamW makes large steps of small gradients
                drift = max(abs(x / y - 1) for x, y in zip(mine[1], other[1], strict=True))
            pairs.append((mine[0], other[0], ours.data_seconds(), theirs.data_seconds()))
    del pairs[0]
    ours_rate, their_rate = (
        size * STEPS / statistics.median(pair[side] for pair in pairs) for side in (0, 1)
    )
    ratio = statistics.median(other / mine for mine, other, _, _ in pairs)
    without = statistics.median((other - b) / (mine - a) for mine, other, a, b in pairs)
    seen = " | ".join(f"{sum(passes)} in {len(passes)}" for passes in same.passes)
    speeds = f"{ours_rate:.1f} | {their_rate:.1f} | {ratio:.2f} | {without:.2f}"
    return f"| {size} | {whole} | {speeds} | {seen} | {same.loss:.0e} | {same.gradient:.0e} | {drift:.0e} |"


def peak_mib(folder: Path, tokens: int | None, size: int) -> tuple[float, float]:
    """Peak resident memory of this process before and after one step of ours, MiB."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    ours = Ours(folder, size, 1, tokens=tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ours.run()
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_table(folder: Path, sizes: Sequence[int]) -> None:
    """Print the second table; every figure comes from a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moontide.encoder.stages.triplets", "moontide.market.build", "datasets"])
    print("\n| peak memory, MiB | before the step |", " | ".join(f"{size} triplets" for size in sizes), "|")
    print("|---" * (2 + len(sizes)) + "|")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for name, tokens in (("at once", None), (f"pieces of {PIECE:,} tokens", PIECE)):
            found = list(pool.map(partial(peak_mib, folder, tokens), sizes))
            peaks = " | ".join(f"{after:,.0f}" for _, after in found)
            print(f"| {name} | {found[0][0]:,.0f} | {peaks} |", flush=True)


def write_world(folder: Path, depth: int) -> None:
    """The market, and a model with random weights, centered as a stage does it."""
    dataset = build_market(folder / "data", MARKET, workers=1)
    texts = [render_text(product)[0] for product in dataset.products()]
    texts += [query.text for query in dataset.queries() if query.text]
    encoder = MoonEncoder.tiny(texts, EncoderSettings(depth=depth, image_side=112), device="cpu")
    encoder.save(folder / "model")
    first = Ours(folder, 32, 1)
    encoder.center(encoder.prepare_all(Places(first.triplets.batch(0, 32)).items))
    encoder.save(folder / "model")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and runs: about a minute")
    parser.add_argument("--depth", type=int, default=4, help="of the encoder")
    arguments = parser.parse_args()
    os.environ |= {"MOONTIDE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sizes, runs, large = ((8, 16), 2, (32, 64)) if arguments.quick else ((8, 16, 32), 5, (32, 64, 128, 256))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_world(folder, arguments.depth)
        print(
            "| triplets a step | product in both | ours, triplets/s | trainer, triplets/s | ratio "
            "| ratio without data | pictures in passes of the tower, ours | trainer "
            "| difference of the loss | of the gradient | of the next losses |"
        )
        print("|---" * 11 + "|")
        for size in sizes:
            print(compare(folder, size, "rich_image", runs), flush=True)
        print(compare(folder, sizes[-1], "title_image", runs), flush=True)
        print(f"\nload of the machine: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
        memory_table(folder, large)


if __name__ == "__main__":
    main()
