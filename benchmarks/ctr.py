"""DIN: samples a second, data loading included, against FuxiCTR on the same rows; preparation; memory.

    python benchmarks/ctr.py [--impressions 400000] [--only race,plain,preparation,memory]

A made-up log whose clicks follow taste for categories and brands. Both sides get the same impressions, the
same fields, the last 50 clicks, batches of 1,024, Adam at one learning rate, one pass in random order, one
thread, no worker processes; embeddings of 16, 32 units of attention, layers of 128 and 64. The pass is cut
into five pieces, theirs and ours in turn; ratios are medians of the paired ones, in seconds of the processor,
which other programs disturb less than the clock on the wall. Attention is each side's own: theirs a network
over candidate, behavior, difference and product (with Dice), ours scaled products of projections. Ours also
counts behaviors that equal the candidate, field by field. So AUC on the test rows stands beside: speed
counts only if ours is not lower.

Theirs runs in its own environment, made by `benchmarks/peers.sh`; without it the rest runs alone. It is timed
with the loader that is shipped with the model, and with batches ready in memory, which no loader can beat.
The second table has our loader against plain tensors in memory, with the same model: ready batches, and
histories written out for each row. The third has preparation, the fourth peak memory by length of history.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.ranking.batches import Batch, Behaviors
from moontide.ranking.metrics import auc
from moontide.ranking.models import ClickModel, ClickSettings
from moontide.ranking.samples import Samples, build_samples
from moontide.ranking.search import SearchSettings
from moontide.ranking.train import feed_of

PEERS = Path(os.environ.get("MOONTIDE_PEERS", Path.home() / ".cache" / "moontide-peers"))
START_MS, DAYS, SLOTS = 1_772_409_600_000, 28, 8
PRODUCTS, SHOPPERS, QUERIES, LEAVES, BRANDS = 10_000, 500, 2_000, 100, 500
BATCH, REPEATS, RATE = 1024, 5, 2e-3
SETTINGS = ClickSettings(use_counters=False)
BEHAVIOR = ("product", "leaf", "brand", "price_band")  # fields of a behavior, on both sides
TEXT_ROWS, PLAIN_STEPS = 40_000, 20
LENGTHS = (50, 200, 1000, 5000)


def write_log(path: Path, impressions: int, shoppers: int = SHOPPERS) -> Dataset:
    """Impressions and clicks: eight slots a request, about one click in eight."""
    rng = np.random.default_rng(0)
    leaf, brand = rng.integers(0, LEAVES, PRODUCTS), rng.integers(0, BRANDS, PRODUCTS)
    price, appeal = rng.integers(0, 12, PRODUCTS), rng.normal(0, 0.5, PRODUCTS)
    taste, loyalty = rng.normal(0, 1.0, (shoppers, LEAVES)), rng.normal(0, 0.5, (shoppers, BRANDS))
    num = impressions // SLOTS
    share = 1 / np.arange(1, PRODUCTS + 1) ** 0.6
    one = {
        "request": np.arange(num),
        "at": np.sort(rng.integers(START_MS, START_MS + DAYS * 86_400_000, num)),
        "shopper": rng.integers(0, shoppers, num),
        "query": rng.integers(0, QUERIES, num),
    }
    shown = {name: np.repeat(column, SLOTS) for name, column in one.items()}
    shown["product"] = product = rng.choice(PRODUCTS, num * SLOTS, p=share / share.sum())
    shown["position"] = np.tile(np.arange(SLOTS), num)
    who = shown["shopper"]
    logit = appeal[product] + taste[who, leaf[product]] + loyalty[who, brand[product]]
    clicked = rng.random(len(who)) < 1 / (1 + np.exp(2.0 - logit + 0.1 * shown["position"]))
    clicks = {name: column[clicked] for name, column in shown.items()}
    clicks["at"] = clicks["at"] + 15_000
    products = [
        {
            "product_id": f"p{code}",
            "title": "x",
            "category": ["all", f"d{leaf[code] % 10}", f"c{leaf[code]}"],
            "brand": f"b{brand[code]}",
            "merchant_id": f"m{code % 200}",
            "price_cents": int(100 * 2 ** (price[code] / 2)),
        }
        for code in range(PRODUCTS)
    ]
    with DatasetWriter(path, "made up") as writer:
        writer.put("products", products)
        writer.put("queries", [{"query_id": f"q{code}", "text": f"query {code}"} for code in range(QUERIES)])
        writer.append("events", _events("impression", "i", shown))
        writer.append("events", _events("click", "k", clicks))
    return Dataset.open(path)


def _events(kind: str, letter: str, columns: dict[str, np.ndarray]) -> pa.Table:
    num = len(columns["at"])
    ids = {f"{name}_id": _ids(name[0], columns[name]) for name in ("request", "shopper", "query", "product")}
    facts = {"event_id": _ids(letter, np.arange(num)), "kind": [kind] * num, "position": columns["position"]}
    return pa.table({**ids, **facts, "at": pa.array(columns["at"], pa.timestamp("ms", tz="UTC"))})


def _ids(letter: str, codes: np.ndarray) -> pa.Array:
    return pa.array([f"{letter}{code}" for code in codes.tolist()])


class Clock:
    """Seconds of the processor and on the wall since it was made."""

    def __init__(self):
        self.start = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """(processor, wall)."""
        return time.process_time() - self.start[0], time.perf_counter() - self.start[1]


class Ours:
    """Our model and loader on the samples; the loop is that of training, without logging."""

    def __init__(self, samples: Samples, settings: ClickSettings = SETTINGS):
        torch.manual_seed(0)
        self.samples = samples
        self.model = ClickModel(samples.vocabulary.sizes, settings, SLOTS)
        self.model.initialize(0)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE, fused=True)
        self.feed = feed_of(self.model, samples.vocabulary, samples.entities, None)
        self.order, self.next = np.random.default_rng(0).permutation(samples.train_rows), 0

    def pieces(self, steps: int) -> list[np.ndarray]:
        """Rows of the next steps."""
        first, self.next = self.next, self.next + steps * BATCH
        return [self.order[start : start + BATCH] for start in range(first, self.next, BATCH)]

    def load(self, rows: np.ndarray) -> Batch:
        """One batch, as training makes it."""
        return self.feed.of_samples(self.samples, rows)

    def step(self, batch: Batch) -> None:
        """One step of training."""
        assert batch.label_BN is not None
        logit_BN = self.model(batch) + self.model.position_logit(batch.position_BN)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit_BN, batch.label_BN)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def auc(self) -> float:
        """On the test rows, with the positions they were shown at, as theirs reads them."""
        rows, logits = self.samples.test_rows, []
        with torch.no_grad():
            for start in range(0, len(rows), 4096):
                batch = self.load(rows[start : start + 4096])
                logits.append((self.model(batch) + self.model.position_logit(batch.position_BN))[:, 0])
        return auc(torch.cat(logits).double().numpy(), self.samples.label[rows])


class Peer:
    """The other library in its own process, which takes one command at a time."""

    def __init__(self, folder: Path, learning_rate: float, **settings: Any):
        worker = Path(__file__).parent / "peers" / "fuxictr_din.py"
        command = [PEERS / "bin" / "python", worker]
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=quiet,
        )
        self.ask("open", folder=str(folder), learning_rate=learning_rate, **settings)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": command, **arguments}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer ended at {command!r}: run it by hand, {self.process.args}")
        return json.loads(answer)

    def end(self) -> None:
        """Let it go."""
        self.process.communicate()


def write_rows(samples: Samples, folder: Path) -> None:
    """The same rows for the other library: integers for training, text for its preprocessing."""
    folder.mkdir()
    table, rows = samples.vocabulary.table, samples.vocabulary.rows
    products = table(samples.entities.products, (*BEHAVIOR, "top", "merchant")) + 1  # its 0 is padding
    shopper = rows("shopper", samples.entities.shopper_ids) + 1
    query = rows("query", samples.entities.query_ids) + 1
    items = np.concatenate([np.zeros_like(products[:1]), products[:-1]])[:, : len(BEHAVIOR)]
    item_info = {name: items[:, place] for place, name in enumerate(BEHAVIOR)}
    pq.write_table(pa.table({"item_index": np.arange(len(items)), **item_info}), folder / "item_info.parquet")
    bounds = samples.behavior_start
    past = pa.ListArray.from_arrays(bounds.astype(np.int32), samples.behavior_product.astype(np.int64) + 1)
    pq.write_table(pa.table({"full_item_seq": past}), folder / "user_info.parquet")

    def columns(rows: np.ndarray) -> dict[str, np.ndarray]:
        product = samples.product[rows]
        facts = {"user_index": samples.shopper[rows], "item_index": product + 1}
        facts |= {"seq_len": samples.behavior_end[rows], "shopper": shopper[samples.shopper[rows]]}
        facts |= {"query": query[samples.query[rows]], "hour": samples.hour[rows] + 1}
        facts |= {"position": samples.position[rows] + 1, "top": products[product, -2]}
        facts |= {"merchant": products[product, -1], "label": samples.label[rows]}
        return {name: column.astype(np.int64) for name, column in facts.items()}

    for name, some in (("train", samples.train_rows), ("test", samples.test_rows)):
        pq.write_table(pa.table(columns(some)), folder / f"{name}.parquet")
    some = samples.train_rows[-TEXT_ROWS:]
    past_items = items[samples.history(some, SETTINGS.history).product[:, ::-1] + 1]
    flat = {name: column for name, column in columns(some).items() if not name.endswith(("_index", "_len"))}
    for place, name in enumerate(BEHAVIOR):
        flat |= {name: products[samples.product[some], place], f"{name}_seq": past_items[..., place]}
    np.savez(folder / "flat.npz", **flat)
    pa.csv.write_csv(
        pa.table({name: _text(name, column) for name, column in flat.items()}), folder / "text.csv"
    )
    sizes = samples.vocabulary.sizes | {"hour": 24, "position": SLOTS}
    named = ("shopper", "query", "hour", "position", "top", "merchant", *BEHAVIOR)
    fields = {name: [sizes[name] + 1, "item" if name in BEHAVIOR else ""] for name in named}
    facts = {"fields": fields, "history": SETTINGS.history, "hidden": SETTINGS.hidden, "batch_size": BATCH}
    facts |= {"attention": SETTINGS.attention, "width": SETTINGS.width, "text_rows": len(some)}
    (folder / "facts.json").write_text(json.dumps(facts))


def _text(name: str, column: np.ndarray) -> list[str]:
    if column.ndim == 1:
        return [str(one) if name == "label" else f"{name}{one}" for one in column.tolist()]
    field = name.removesuffix("_seq")
    return ["^".join(f"{field}{one}" for one in row if one) for row in column.tolist()]


def race(samples: Samples, peer: Peer | None, folder: Path) -> None:
    """One pass over the training rows in five pieces, theirs and ours in turn; then AUC of both."""
    length = np.minimum(samples.history_length[samples.train_rows], SETTINGS.history).mean()
    steps = len(samples.train_rows) // BATCH // REPEATS
    print(
        f"== training: {REPEATS} x {steps} steps of {BATCH}, histories of {length:.0f} on average", flush=True
    )
    names = ("theirs", "theirs, batches ready", "ours", "ours, batches ready")
    rates: dict[str, list[float]] = {name: [] for name in names}
    ours = Ours(samples)
    for _ in range(REPEATS):
        if peer is not None:
            took = peer.ask("train", steps=steps)
            load, step = took["load"][1], took["step"][1]
            rates["theirs"].append(steps * BATCH / (load + step))
            rates["theirs, batches ready"].append(steps * BATCH / step)
        clock = Clock()
        batches = [ours.load(rows) for rows in ours.pieces(steps)]
        load, clock = clock.read()[0], Clock()
        for batch in batches:
            ours.step(batch)
        step = clock.read()[0]
        rates["ours"].append(steps * BATCH / (load + step))
        rates["ours, batches ready"].append(steps * BATCH / step)
    for name, values in rates.items():
        if values:
            print(f"{name:24} {statistics.median(values):9,.0f} samples/s   ({_span(values)})")
    for name in names:
        ratios = [mine / other for mine, other in zip(rates["ours"], rates[name], strict=False)]
        if ratios and name != "ours":
            print(f"ours with its loader / {name}: {statistics.median(ratios):.2f} ({_span(ratios)})")
    print(f"AUC on {len(samples.test_rows):,} test rows: ours {ours.auc():.4f}", flush=True)
    if peer is not None:
        peer.ask("predict")
        scores = np.load(folder / "scores.npy")
        print(f"AUC theirs: {auc(scores, samples.label[samples.test_rows]):.4f}", flush=True)


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f} to {high:,.0f}" if high > 100 else f"{low:.2f} to {high:.2f}"


def against_plain(ours: Ours) -> None:
    """Our loader against plain indexing of tensors with each row's whole history, same model; in turn."""
    print("== our loader against plain tensors", flush=True)
    samples, feed = ours.samples, ours.feed
    pieces = ours.pieces(PLAIN_STEPS)
    rows = np.sort(np.concatenate(pieces))
    whole = feed.of_samples(samples, rows)
    history = samples.history(rows, whole.short.item_BS.shape[1])
    table = torch.from_numpy(feed._items)
    past_RS, target_R = (
        torch.from_numpy(history.product.astype(np.int64)),
        torch.from_numpy(samples.product[rows]).long(),
    )
    assert whole.position_BN is not None
    assert whole.label_BN is not None

    def plain(piece: np.ndarray) -> Batch:
        at = torch.from_numpy(np.searchsorted(rows, piece))
        past_BS = past_RS[at]
        num, steps = past_BS.shape
        real_BS = past_BS >= 0
        return Batch(
            request_rows_BF=whole.request_rows_BF[at],
            item_rows_UF=torch.cat([table[target_R[at]], table[past_BS.flatten()]]),
            product_item_BN=torch.arange(num)[:, None],
            short=Behaviors(
                num + torch.arange(num * steps).view(num, steps), real_BS, whole.short.recency_BS[at]
            ),
            dense_BNF=whole.dense_BNF[at],
            position_BN=whole.position_BN[at],
            label_BN=whole.label_BN[at],
        )

    makers: dict[str, Callable[[np.ndarray], Batch]] = {"plain": plain, "ours": ours.load}
    took: dict[str, list[float]] = {name: [] for name in makers}
    for piece in pieces:
        for name, make in makers.items():
            clock = Clock()
            ours.step(make(piece))
            took[name].append(clock.read()[0])
    ratio = statistics.median(p / o for p, o in zip(took["plain"], took["ours"], strict=True))
    print(f"against histories written out in memory, item by item: {ratio:.2f}x as fast, loader in the loop")


def prepare(dataset: Dataset) -> Samples:
    """Time our preparation, from raw events."""
    print("== preparation", flush=True)
    clock = Clock()
    samples = build_samples(dataset)
    ours = [len(samples) / seconds for seconds in clock.read()]
    print(f"ours: {ours[1]:,.0f} rows/s ({ours[0]:,.0f} a second of the processor), from raw events")
    return samples


def peer_prepares(peer: Peer) -> None:
    """Time theirs, from text rows joined beforehand, without Ray and without writing the result."""
    took = peer.ask("prepare")
    wall, processor = (took["rows"] / seconds for seconds in took["prepare"])
    print(f"theirs: {wall:,.0f} rows/s ({processor:,.0f} a second of the processor), from joined rows")


def memory(folder: Path, peers: bool) -> None:
    """Peak memory of processes that make a few steps, by length of history."""
    print("== peak memory", flush=True)
    samples = build_samples(write_log(folder / "long", 150_000, shoppers=3))
    samples.save(folder / "samples")
    if peers:
        write_rows(samples, folder / "long rows")
    print("history   ours, MiB   written out for 400,000 rows, GiB   theirs, MiB")
    for steps in LENGTHS:
        command = [sys.executable, __file__, "--memory-of", str(folder / "samples"), "--steps", str(steps)]
        ours = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        theirs = "-"
        if peers and steps <= 200:  # beyond, its attention alone needs gigabytes a batch
            peer = Peer(folder / "long rows", RATE, max_len=steps)
            peer.ask("train", steps=2)
            theirs = f"{peer.ask('peak')['peak_mib']:,.0f}"
            peer.end()
        print(
            f"{steps:7,} {ours:11,.0f} {400_000 * steps * len(BEHAVIOR) * 8 / 2**30:22.1f} {theirs:>26}",
            flush=True,
        )


def peak_of(folder: Path, steps: int) -> None:
    """Print this process's peak memory after a few steps on the longest histories."""
    search = None if steps <= 50 else SearchSettings(steps=steps, by="id", unit="attention", tiers=0)
    ours = Ours(Samples.load(folder), SETTINGS.model_copy(update={"search": search}))
    last = ours.samples.train_rows[-2 * BATCH :]
    for rows in (last[:BATCH], last[BATCH:]):
        ours.step(ours.load(rows))
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):  # ru_maxrss would start at the parent's
            print(int(line.split()[1]) / 1024)


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=400_000)
    parser.add_argument("--their-rate", type=float, default=RATE, help=f"their learning rate, ours is {RATE}")
    parser.add_argument("--only", default="preparation,race,plain,memory", help="tables, by comma")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.memory_of is not None:
        peak_of(asked.memory_of, asked.steps)
        return
    has_peers = (PEERS / "bin" / "python").exists()
    if not has_peers:
        print("no FuxiCTR: make its environment with benchmarks/peers.sh; running ours alone")
    with tempfile.TemporaryDirectory() as name:
        folder, tables = Path(name), asked.only.split(",")
        samples = prepare(write_log(folder / "log", asked.impressions))
        peer = None
        if has_peers and {"preparation", "race"} & {*tables}:
            write_rows(samples, folder / "rows")
            peer = Peer(folder / "rows", asked.their_rate)
        if peer is not None and "preparation" in tables:
            peer_prepares(peer)
        if "race" in tables:
            race(samples, peer, folder / "rows")
        if peer is not None:
            peer.end()
        if "plain" in tables:
            against_plain(Ours(samples))
        if "memory" in tables:
            memory(folder, has_peers)


if __name__ == "__main__":
    main()
