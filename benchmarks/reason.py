"""What reasoning costs: rollouts a second, vectors with and without a text before them, one joint step.

    python benchmarks/reason.py [--rounds 5] [--clock wall] [--encoder FOLDER] [--dataset DATASET]

    writing    8 prompts x 4 rollouts by `write` (cached) and by a twin that reads the whole sequence again,
               picture included, for every token (rewritten). Both also write one rollout at a time, which
               tells the cache's gain from the batch's. First all four must write the same greedy tokens.
    vectors    `encode_items` of items as they are, against `reasoned` and then `encode_items`, in batches of
               1 and of 32.
    step       one joint step of the stage `reason` (N = 8, G = 4, 32 tokens): rollouts, and all that follows
               them, the optimizer included. Queues are full before the clock runs.

The default is a tiny reasoner with random weights on items drawn with numpy; the joint step needs products to
pair and takes a small market. Random weights hit upon `<emb>` by rare chance only, hence texts fill their
budget: an upper bound of the cost. A trained reasoner (`--encoder`, with `--dataset` for items it knows)
stops where it has said all. Runs are interleaved, ratios are of medians, everything runs on one thread.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moontide.catalog.dataset import Dataset
from moontide.encoder.model.completion import EMB, extended
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Item, render_text
from moontide.encoder.model.prepared import Prepared
from moontide.encoder.model.reasoner import ReasoningSettings, make_reasoner
from moontide.encoder.model.writing import write
from moontide.encoder.stages.loop import TRAINING_LAYOUTS, loop_of, new_optimizer
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.reason import Reasoning, ReasonSettings
from moontide.encoder.stages.rollouts import Rollouts
from moontide.market.build import build_market
from moontide.market.settings import MarketSettings

BUDGET, PROMPTS, ROLLOUTS, ITEMS, SIDE = 32, 8, 4, 32, 112
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WORDS = [
    "red",
    "blue",
    "green",
    "linen",
    "wool",
    "cotton",
    "shirt",
    "dress",
    "coat",
    "lamp",
    "small",
    "plain",
]
MARKET = MarketSettings(
    num_products=200, num_merchants=20, num_shoppers=100, num_impressions=10_000, days=7,
    images_per_product=1, creatives_per_product=0,
)  # fmt: skip
Clock = Callable[[], float]
Lines = list[list[int]]


@torch.no_grad()
def rewritten(encoder: MoonEncoder, prompts: Sequence[Prepared], num: int, temperature: float) -> Lines:
    """The slow twin of `write`: every token of every line from a pass over all that stands before it."""
    backbone = encoder.eval().backbone
    emb, end = (backbone.tokenizer.convert_tokens_to_ids(token) for token in (EMB, "<|im_end|>"))
    lines: Lines = [[] for _ in range(len(prompts) * num)]
    for number in range(BUDGET + 1):
        rows = [row for row, line in enumerate(lines) if not line or line[-1] not in (emb, end)]
        if not rows:
            break
        whole = [extended(prompts[row // num], np.array(lines[row], dtype=np.int64)) for row in rows]
        features = {name: x.to(encoder.device) for name, x in backbone.collate(whole).items()}
        states_BLD = backbone.states(features, "causal")
        last_B = features["attention_mask"].sum(1) - 1
        log_p_BV = backbone.next_log_p(states_BLD[torch.arange(len(rows)), last_B], temperature or 1.0)
        token_B = torch.multinomial(log_p_BV.exp(), 1)[:, 0] if temperature else log_p_BV.argmax(1)
        for row, token in zip(rows, token_B.tolist(), strict=True):
            if number < BUDGET or token == emb:
                lines[row].append(token)
    return lines


def cached(encoder: MoonEncoder, prompts: Sequence[Prepared], num: int, temperature: float) -> Lines:
    """What `write` writes, as token ids."""
    found = write(encoder, prompts, BUDGET, num, temperature)
    return [one.ids.tolist() for own in found for one in own]


def table(*header: str) -> None:
    """The head of a Markdown table."""
    print(f"\n| {' | '.join(header)} |")
    print("|---" * len(header) + "|", flush=True)


def medians(rows: Sequence[Sequence[float]]) -> list[float]:
    """Of every column."""
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def timed(clock: Clock, run: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Seconds and result."""
    start = clock()
    found = run(*given)
    return clock() - start, found


def writing(encoder: MoonEncoder, items: Sequence[Item], rounds: int, clock: Clock) -> None:
    """Print the table of rollouts."""
    prompts = encoder.backbone.prompts(items[:PROMPTS])
    ways = list(itertools.product((cached, rewritten), (True, False)))

    def lines(write_some: Callable[..., Lines], is_together: bool, num: int, temperature: float) -> Lines:
        if is_together:
            return write_some(encoder, prompts, num, temperature)
        return [write_some(encoder, [one], 1, temperature)[0] for one in prompts for _ in range(num)]

    greedy = [lines(*way, 1, 0.0) for way in ways]  # warms up as well
    assert all(found == greedy[0] for found in greedy), "greedy texts differ"
    print(f"{PROMPTS} prompts x {ROLLOUTS} rollouts; all ways agree on {len(greedy[0])} greedy texts")
    runs: list[list[tuple[float, ...]]] = [[] for _ in ways]
    for _, (own, way) in itertools.product(range(rounds), zip(runs, ways, strict=True)):
        seconds, found = timed(clock, lines, *way, ROLLOUTS, 1.0)
        num = sum(map(len, found))
        own.append((len(found) / seconds, num / seconds, num / (len(found) * BUDGET)))
    figures = [medians(own) for own in runs]
    table("writing", "rollouts/s", "tokens/s", "budget filled", "tokens/s, times the last")
    for (way, is_together), (texts, tokens, filled) in zip(ways, figures, strict=True):
        name = f"{way.__name__}, {'all together' if is_together else 'one by one'}"
        print(f"| {name} | {texts:.1f} | {tokens:,.0f} | {filled:.0%} | {tokens / figures[-1][1]:.1f} |")


def vectors(encoder: MoonEncoder, items: Sequence[Item], rounds: int, clock: Clock) -> None:
    """Print the table of vectors with and without reasoning."""

    def embed(batches: Sequence[Sequence[Item]], is_reasoned: bool) -> None:
        for batch in batches:
            encoder.encode_items(encoder.reasoned(batch, BUDGET) if is_reasoned else batch)

    table("vectors", "batch", "without reasoning, ms an item", "with it, ms an item", "ratio")
    forms = {"text": [Item(item.text) for item in items], "text and picture": items}
    for (form, shown), size in itertools.product(forms.items(), (1, ITEMS)):
        batches = [shown[:size]] if size > 1 else [[item] for item in shown[:PROMPTS]]
        num = sum(map(len, batches))
        pairs = [
            [1000 * timed(clock, embed, batches, way)[0] / num for way in (False, True)]
            for _ in range(rounds + 1)  # the first warms up
        ]
        plain, reasoned = medians(pairs[1:])
        print(f"| {form} | {size} | {plain:.2f} | {reasoned:.2f} | {reasoned / plain:.1f} |", flush=True)


class Timed(Reasoning):
    """The joint stage, with the seconds of its last rollouts."""

    clock: Clock
    seconds: float = 0.0

    def roll_out(self, number: int) -> Rollouts:
        self.seconds, rollouts = timed(self.clock, super().roll_out, number)
        return rollouts


def joint_step(encoder: MoonEncoder, dataset: Dataset, rounds: int, clock: Clock) -> None:
    """Print the table of the joint step."""
    steps = {"num_steps": rounds + 1, "checkpoint_every": rounds + 1}
    settings = ReasonSettings(num_pairs=PROMPTS, rollouts=ROLLOUTS, budget=BUDGET, **steps)
    step = Timed(encoder.train(), dataset, Pictures(dataset.images, encoder.pixels), settings)
    step.clock, found = clock, []
    optimizer = new_optimizer(step.modules, loop_of(settings))

    def whole(number: int) -> None:
        step(number)
        optimizer.step()
        optimizer.zero_grad()
        step.after()

    with encoder.remembering(TRAINING_LAYOUTS):
        step.fill_queues()
        for number in range(rounds + 1):  # the first warms up
            seconds, _ = timed(clock, whole, number)
            found.append((step.seconds, seconds - step.seconds, seconds))
    rollout, learning, both = medians(found[1:])
    table("joint step", "rollouts, s", "learning, s", "all, s", "share of rollouts")
    name = f"N = {PROMPTS}, G = {ROLLOUTS}, {BUDGET} tokens"
    print(f"| {name} | {rollout:.2f} | {learning:.2f} | {both:.2f} | {rollout / both:.0%} |")


def drawn_items() -> list[Item]:
    """Short texts and noise for pictures."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (ITEMS, SIDE, SIDE, 3), dtype=np.uint8)
    return [Item(" ".join(rng.choice(WORDS, 5)), (picture,)) for picture in pictures]


def items_of(dataset: Dataset, encoder: MoonEncoder) -> list[Item]:
    """Titles with their first pictures, decoded."""
    products = [one for one in dataset.products() if one.title and one.image_ids][:ITEMS]
    return [Item(one.title, (encoder.pixels(dataset.images[one.image_ids[0]]),)) for one in products]


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: where others use the machine")
    parser.add_argument("--encoder", type=Path, help="a trained reasoner")
    parser.add_argument("--dataset", type=Path, help="where items come from")
    asked = parser.parse_args()
    os.environ |= {"MOONTIDE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        market = (Path(folder) / "data", MARKET)
        dataset = Dataset.open(asked.dataset) if asked.dataset else build_market(*market, workers=1)
        if asked.encoder:
            encoder = MoonEncoder(asked.encoder, device="cpu")
        else:
            texts = [*WORDS, *(render_text(product)[0] for product in dataset.products())]
            encoder = make_reasoner(MoonEncoder.tiny(texts, device="cpu"), ReasoningSettings(budget=BUDGET))
        items = items_of(dataset, encoder) if asked.dataset else drawn_items()
        rounds, clock = asked.rounds, CLOCKS[asked.clock]
        print(f"{'trained' if asked.encoder else 'random'} weights, budget {BUDGET}, {asked.clock} time")
        writing(encoder, items, rounds, clock)
        vectors(encoder, items, rounds, clock)
        joint_step(encoder, dataset, rounds, clock)


if __name__ == "__main__":
    main()
