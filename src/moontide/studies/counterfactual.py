"""One attribute of a picture changed at a time: does the judge move as shoppers would?

A drawn creative is drawn again with one parameter changed and everything else, the product's look, place and
mirroring included, as it was. What shoppers see in the new picture is computed from its pixels, and the
market's truth gives the change of its click-through rate before the same shoppers. The judge compares the
creative with another one of its product, before and after:

    effect = rate after - rate before
    shift  = s(after, other) - s(before, other)         s: mean of both orders
    right way: the sign of the shift is that of the change's mean effect (of its own effect: own)

A mean effect whose interval holds 0 has no right way. A shift of exactly 0 counts half.

Paper: Creative4U 8 (an explanation must not contradict the choice); the test is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.creative.prompt import Asked
from moontide.creative.texts import MAX_TITLE_CHARS, clean_text, top_queries
from moontide.foundation.errors import DataError
from moontide.foundation.progress import track
from moontide.foundation.seeds import stream
from moontide.foundation.statistics import Interval, bootstrap_interval, bootstrap_statistic
from moontide.market.creative_test import Contexts
from moontide.market.perception import perceive
from moontide.market.query_pictures import looks_of
from moontide.market.render.creatives import creative_shot, sample_creative
from moontide.market.render.looks import Look
from moontide.market.render.raster import render
from moontide.market.world import World

Params = dict[str, str]
Compare = Callable[[Sequence[Asked]], np.ndarray]
"""(questions,) chance that A is clicked more, mean of both orders."""
CALM = ("plain", "gradient")
HEADS = (
    "change", "n", "true effect on CTR", "truly harmed", "right way", "mean shift of p",
    "moved the right way", "moved as its own truth", "before against after",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One attribute: which creatives it can be changed in, and their parameters afterwards."""

    name: str
    applies: Callable[[Params], bool]
    changed: Callable[[Params], Params]


CHANGES: tuple[Change, ...] = (
    Change("text overlay added", lambda p: not p["text"], lambda p: p | {"text": "SALE"}),
    Change(
        "subject shrunk",
        lambda p: 0.5 <= float(p["size"]) <= 0.95,  # larger ones are cut by the picture's edge
        lambda p: p | {"size": f"{0.55 * float(p['size']):.2f}"},
    ),
    Change(
        "background cluttered",
        lambda p: p["background"] in CALM and p["props"] == "0",
        lambda p: p | {"background": "blocks", "props": "6"},
    ),
    Change("border added", lambda p: p["border"] == "none", lambda p: p | {"border": "thick"}),
    Change("props added", lambda p: p["props"] == "0", lambda p: p | {"props": "5"}),
)  # fmt: skip


@dataclass(frozen=True)
class Altered:
    """A creative before and after a change, and the creative of its product it is compared with."""

    product_id: str
    creative_id: str
    before: bytes
    after: bytes
    other: bytes
    title: str
    queries: tuple[tuple[str, int], ...]

    def asked(self, first: bytes, second: bytes) -> Asked:
        """Two pictures of the product as a question."""
        return Asked(self.creative_id, self.title, self.queries, first, second)


def redraw(look: Look, image_id: str, template: str, params: Params, seed: int, side: int) -> bytes:
    """The picture of a creative as `market/pictures.py` draws it; other parameters change nothing else.

    Args:
        seed, side: of the market.
    """
    rng = stream(seed, "picture", image_id)
    sample_creative(rng)  # what was drawn before the mirroring
    return render(creative_shot(look, template, params, rng).svg, side)


def alter(
    dataset: Dataset,
    change: Change,
    product_ids: Sequence[str],
    most: int = 200,
    num_queries: int = 5,
    seed: int = 0,
) -> list[Altered]:
    """One creative of each product that the change applies to, changed.

    Args:
        product_ids: those it is taken from, such as held-out ones.
        most: products.
        num_queries: frequent queries a judge is told.
        seed: of the choice of products and creatives.

    Raises:
        DataError: the dataset is not a rendered market, or no creative can be changed so.
    """
    looks = looks_of(dataset)
    if looks is None or dataset.info.get("market", {}).get("kind") != "rendered":
        raise DataError(
            f"{dataset.path} is no rendered market: pictures can be drawn again only where they were drawn "
            "(`moontide market build`)"
        )
    facts, wanted = dataset.info["market"], set(product_ids)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in dataset.table("creatives").to_pylist():
        if row["product_id"] in wanted:
            rows.setdefault(row["product_id"], []).append(row | {"params": dict(row["params"] or ())})
    chosen = _chosen(rows, change, most, seed)
    if not chosen:
        raise DataError(f"no creative of {len(wanted):,} products can be changed so: {change.name}")
    titles = {one.product_id: clean_text(one.title, MAX_TITLE_CHARS) for one in dataset.products()}
    queries = top_queries(dataset, {row["product_id"] for row, _ in chosen}, num_queries)
    found = []
    with track(len(chosen), change.name) as meter:
        for row, other in chosen:
            product, image = row["product_id"], row["image_id"]
            drawn = [
                redraw(looks[product], image, row["template"], params, facts["seed"],
                       facts["settings"]["image_side"])
                for params in (row["params"], change.changed(row["params"]))
            ]  # fmt: skip
            found.append(
                Altered(product, row["creative_id"], *drawn, dataset.images[other["image_id"]],
                        titles[product], queries.get(product, ()))
            )  # fmt: skip
            meter.step()
    return found


def _chosen(
    rows: Mapping[str, list[dict[str, Any]]], change: Change, most: int, seed: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(creative, its opponent), one of each product."""
    found = []
    for product in stream(seed, "altered", change.name).permutation(sorted(rows)).tolist():
        rng = stream(seed, "altered", change.name, product)
        own = [rows[product][place] for place in rng.permutation(len(rows[product])).tolist()]
        able = [row for row in own if row["params"] and change.applies(row["params"])]
        others = [row for row in own if able and row is not able[0]]
        if others and len(found) < most:
            found.append((able[0], others[0]))
    return found


def true_effects(contexts: Contexts, altered: Sequence[Altered]) -> tuple[np.ndarray, np.ndarray]:
    """(before, after) click-through rates of each, over its product's shoppers, queries and places."""
    world = contexts.world
    code = {name: number for number, name in enumerate(world.creative_ids)}
    place = {name: number for number, name in enumerate(world.product_ids)}
    product = np.array([place[one.product_id] for one in altered], np.int64)
    before = np.array([code[one.creative_id] for one in altered], np.int64)
    added = len(world.creative_picture) + np.arange(len(altered))
    shown = with_pictures(world, perceive([one.after for one in altered]))
    return contexts.rates(product, before), contexts.rates(product, added, shown)


def with_pictures(world: World, seen: np.ndarray) -> World:
    """The same truth with further creatives: codes go on behind those there are.

    Args:
        seen: (pictures, features) of `perceive`.
    """
    codes = len(world.seen) + np.arange(len(seen))
    found = replace(
        world,
        seen=np.concatenate([world.seen, seen.astype(world.seen.dtype)]),
        creative_picture=np.concatenate([world.creative_picture, codes]),
    )
    found.memory = world.memory
    return found


def moves(contexts: Contexts, altered: Sequence[Altered], compare: Compare) -> dict[str, list[float]]:
    """What a change does to each creative: true rates before and after, shift of the judge, and its chance
    that the changed picture is clicked more than the picture it was made from (`direct`)."""
    before, after = true_effects(contexts, altered)
    first = compare([one.asked(one.before, one.other) for one in altered])
    second = compare([one.asked(one.after, one.other) for one in altered])
    direct = compare([one.asked(one.after, one.before) for one in altered])
    return {
        "before": before.tolist(), "after": after.tolist(), "shift": (second - first).tolist(),
        "direct": direct.tolist(),
    }  # fmt: skip


def measure(seeds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """One row of the table: a change, its true effect, and how the judges of several seeds moved.

    Args:
        seeds: what `moves` gave for each seed, over the same creatives.

    Returns:
        n; ctr_before, ctr_after; effect: relative, with its interval over products; harmed: share of
        creatives it truly harms; direction: -1, 0 (undetermined) or 1; shift: mean, with interval;
        right, own: share that moved the right way, by mean and own effect, with interval; direct: share of
        duels before against after that name the truly better one.
    """
    before, after = (np.array(seeds[0][name]) for name in ("before", "after"))
    effect = after - before
    shifts = np.array([one["shift"] for one in seeds])
    directs = np.array([one["direct"] for one in seeds]) - 0.5
    mean = bootstrap_statistic(lambda w: (w @ after) / (w @ before) - 1, len(before), kind="multinomial")
    direction = int(math.copysign(1, mean.value)) if mean.excludes_zero else 0

    def interval(values: np.ndarray) -> dict[str, float | None]:
        return plain(bootstrap_interval(values.mean(0)))

    return {
        "n": len(before),
        "seeds": len(seeds),
        "ctr_before": float(before.mean()),
        "ctr_after": float(after.mean()),
        "effect": plain(mean),
        "harmed": float((effect < 0).mean()),
        "direction": direction,
        "shift": interval(shifts),
        "right": interval(_agree(shifts, np.full(len(before), direction))) if direction else None,
        "own": interval(_agree(shifts, effect)),
        "direct": interval(_agree(directs, effect)),
    }


def _agree(moved: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """1 where both have one sign, 0 where they differ, half where nothing moved or nothing is wanted."""
    return (1 + np.sign(moved) * np.sign(wanted)) / 2


def plain(interval: Interval) -> dict[str, float | None]:
    """An interval as JSON; what is not known is None."""
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: float(number) if math.isfinite(number) else None for name, number in numbers.items()}


def counterfactual_markdown(tables: Mapping[str, Mapping[str, dict[str, Any]]]) -> str:
    """The rows of each judge (name -> change -> `measure`) as Markdown."""
    lines = []
    for judge, rows in tables.items():
        lines += [f"**{judge}**", ""]
        lines += ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
        for name, row in rows.items():
            way = {-1: "down", 0: "undetermined", 1: "up"}[row["direction"]]
            cells = [
                name, row["n"], share(row["effect"], "{:+.1%}"), f"{row['harmed']:.0%}", way,
                share(row["shift"], "{:+.3f}"), share(row["right"]), share(row["own"]), share(row["direct"]),
            ]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines.append("")
    return "\n".join(lines)


def share(one: Mapping[str, float | None] | None, form: str = "{:.1%}") -> str:
    """A number with its interval as text; a dash where there is none."""
    if one is None or one["value"] is None:
        return "–"
    if one["low"] is None:
        return form.format(one["value"])
    return f"{form.format(one['value'])} [{form.format(one['low'])}, {form.format(one['high'])}]"
