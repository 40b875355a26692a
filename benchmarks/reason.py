"""What reasoning costs: rollouts a second, vectors with and without a text before them, one joint step.

    python benchmarks/reason.py [--rounds 5] [--clock wall] [--encoder FOLDER] [--dataset DATASET]

    writing    8 prompts x 4 rollouts by `write` (cached), and by a twin that reads the whole sequence again,
               picture included, for every token. One rollout at a time, too: that tells what the cache gains
               from what the batch does. First all must write the same greedy tokens.
    vectors    `encode_items` of items as they are, against `reasoned` and then `encode_items`, in batches of
               1 and of 32.
    step       one joint step of the stage `reason` (N = 8, G = 4, 32 tokens), optimizer included, with full
               queues. Its rollouts are seeded: drawn once more before it, they give their share.

The default is a tiny reasoner with random weights on items drawn with numpy; the joint step takes a small
market. Random weights hit upon `<emb>` by rare chance only, hence texts fill their budget: an upper bound of
the cost. A trained reasoner (`--encoder`, with `--dataset`) stops where it has said all. Runs are
interleaved, ratios are of medians, everything runs on one thread.
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
from moontide.market.build import build_market
from moontide.market.settings import MarketSettings

BUDGET, PROMPTS, ROLLOUTS, ITEMS, SIDE = 32, 8, 4, 32, 112
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WORDS = ["red", "blue", "green", "linen", "wool", "cotton", "shirt", "dress", "coat", "lamp"]
MARKET = MarketSettings(num_products=200, num_shoppers=100, num_impressions=10_000, creatives_per_product=0)
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


def cached(encoder: MoonEncoder, prompts: Sequence[Prepared], num: int, temperature: float) -> Lines:
    """What `write` writes."""
    return [one.ids.tolist() for own in write(encoder, prompts, BUDGET, num, temperature) for one in own]


def writing(encoder: MoonEncoder, items: Sequence[Item], rounds: int, clock: Clock) -> None:
    """Print the table of rollouts."""
    prompts = encoder.backbone.prompts(items[:PROMPTS])
    ways = list(itertools.product((cached, rewritten), (True, False)))

    def lines(way: Callable[..., Lines], is_together: bool, num: int, temperature: float) -> Lines:
        if is_together:
            return way(encoder, prompts, num, temperature)
        return [way(encoder, [one], 1, temperature)[0] for one in prompts for _ in range(num)]

    greedy = [lines(*way, 1, 0.0) for way in ways]  # warms up as well
    assert all(found == greedy[0] for found in greedy), "greedy texts differ"
    runs: list[list[tuple[float, ...]]] = [[] for _ in ways]
    for _, (own, way) in itertools.product(range(rounds), zip(runs, ways, strict=True)):
        seconds, found = timed(clock, lines, *way, ROLLOUTS, 1.0)
        num = sum(map(len, found))
        own.append((len(found) / seconds, num / seconds, num / (len(found) * BUDGET)))
    table("writing", "rollouts/s", "tokens/s", "budget filled", "tokens/s, times the last")
    for (way, is_together), own in zip(ways, runs, strict=True):
        (texts, tokens, filled), ratio = medians(own), medians(own)[1] / medians(runs[-1])[1]
        name = f"{way.__name__}, {'all together' if is_together else 'one by one'}"
        print(f"| {name} | {texts:.1f} | {tokens:,.0f} | {filled:.0%} | {ratio:.1f} |")


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
        sides = [[timed(clock, embed, batches, way)[0] for way in (False, True)] for _ in range(rounds + 1)]
        plain, reasoned = (1000 * one / num for one in medians(sides[1:]))  # the first warms up
        print(f"| {form} | {size} | {plain:.2f} | {reasoned:.2f} | {reasoned / plain:.1f} |", flush=True)


def joint_step(encoder: MoonEncoder, dataset: Dataset, rounds: int, clock: Clock) -> None:
    """Print the table of the joint step."""
    settings = ReasonSettings(num_pairs=PROMPTS, rollouts=ROLLOUTS, budget=BUDGET, num_steps=rounds + 1)
    step = Reasoning(encoder.train(), dataset, Pictures(dataset.images, encoder.pixels), settings)
    optimizer, found = new_optimizer(step.modules, loop_of(settings)), []
    with encoder.remembering(TRAINING_LAYOUTS):
        step.fill_queues()
        for number in range(rounds + 1):  # the first warms up
            rollout, _ = timed(clock, step.roll_out, number)
            start = clock()
            step(number)
            optimizer.step()
            optimizer.zero_grad()
            found.append((rollout, clock() - start))
    rollout, whole = medians(found[1:])
    table("joint step", "rollouts, s", "learning, s", "all, s", "share of rollouts")
    figures = f"{rollout:.2f} | {whole - rollout:.2f} | {whole:.2f} | {rollout / whole:.0%}"
    print(f"| N = {PROMPTS}, G = {ROLLOUTS}, {BUDGET} tokens | {figures} |")


def items_of(dataset: Dataset | None, encoder: MoonEncoder) -> list[Item]:
    """Titles with their first pictures, decoded; of no dataset: short texts and noise for pictures."""
    if dataset is None:
        rng = np.random.default_rng(0)
        pictures = rng.integers(0, 255, (ITEMS, SIDE, SIDE, 3), dtype=np.uint8)
        return [Item(" ".join(rng.choice(WORDS, 5)), (picture,)) for picture in pictures]
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
        items = items_of(dataset if asked.dataset else None, encoder)
        print(f"{'trained' if asked.encoder else 'random'} weights, budget {BUDGET}, {asked.clock} time")
        more = (asked.rounds, CLOCKS[asked.clock])
        writing(encoder, items, *more)
        vectors(encoder, items, *more)
        joint_step(encoder, dataset, *more)


if __name__ == "__main__":
    main()
