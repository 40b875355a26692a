"""Make a simulated market on disk: `build_market` invents its catalog, `open_market` takes a real one.

    supply: products, pictures, campaigns ─► what shoppers see in the pictures ─► tastes, queries, the bar
        ─► the log of the earlier policy, day by day ─► events, queries, shoppers, truth

The same settings and seed give the same files, whatever the number of processes.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.foundation.device import num_cores
from moontide.foundation.errors import DataError, ImageError, SettingsError
from moontide.foundation.progress import track
from moontide.foundation.seeds import stream
from moontide.foundation.workers import in_order
from moontide.market.choice import ChoiceSettings, find_bar
from moontide.market.logbook import Logbook
from moontide.market.matching import Matching
from moontide.market.needs import Needs
from moontide.market.perception import perceive
from moontide.market.policy import PopularityPolicy
from moontide.market.query_pictures import QueryPictures
from moontide.market.settings import MarketSettings
from moontide.market.supply import write_open_supply, write_supply
from moontide.market.traffic import plan_visits, run
from moontide.market.world import World

log = logging.getLogger(__name__)
T = TypeVar("T")
POOL_SHARE = 1 / 3  # pictures shoppers ask with, for each product
BAR_REQUESTS = 6_000  # random slates that set the bar
SEEN_AT_ONCE = 64  # pictures


def build_market(
    path: Path | str,
    settings: MarketSettings | None = None,
    seed: int = 0,
    choice: ChoiceSettings | None = None,
    replace: bool = False,
    workers: int | None = None,
) -> Dataset:
    """Invent a catalog, draw it, and let shoppers loose on it.

    Args:
        path: the dataset folder to write; appears when all is done.
        settings: size and kind; default the size of the demo.
        choice: how shoppers choose; the versioned default is what figures are reported on.
        replace: put it in the place of a dataset that stands there.
        workers: processes that draw; None takes all cores. It changes no file.

    Raises:
        StorageError: `path` is taken, or the disk refuses.
    """
    settings, path = settings or MarketSettings(), Path(path)
    _check_free(path, replace)
    supply = path.with_name(f".{path.name}.supply")
    try:
        with DatasetWriter(supply, path.name, replace=True) as writer:
            write_supply(writer, settings, seed, workers)
        return _let_loose(Dataset.open(supply), path, settings, seed, choice, replace, workers, "rendered")
    finally:
        shutil.rmtree(supply, ignore_errors=True)


def open_market(
    base: Dataset,
    path: Path | str,
    settings: MarketSettings | None = None,
    seed: int = 0,
    choice: ChoiceSettings | None = None,
    replace: bool = False,
    workers: int | None = None,
) -> Dataset:
    """Let simulated shoppers loose on a real catalog; what the catalog has is kept.

    Arguments and errors as `build_market`; `settings.num_products` is taken from the catalog.

    Raises:
        DataError: the catalog has no products or no pictures, or has a log already.
    """
    settings, path = settings or MarketSettings(), Path(path)
    base.require("market open", "products", "images")
    if base.has("events"):
        raise DataError(f"{base.path} has a click log already: a market is opened over a catalog without one")
    if path.resolve() == base.path.resolve():
        raise SettingsError(f"{path} is the catalog itself: name another folder for the market")
    _check_free(path, replace)
    count = len(base.table("products", ["product_id"]))
    settings = settings.but(
        num_products=max(count, 20),
        num_merchants=min(settings.num_merchants, count),
        first_day=_first_day(base, settings),
    )
    supply = path.with_name(f".{path.name}.supply")
    try:
        with DatasetWriter(supply, base.info["name"], base=base, replace=True) as writer:
            write_open_supply(writer, base, settings, seed, workers)
        return _let_loose(
            Dataset.open(supply), path, settings, seed, choice, replace, workers, "opened", base
        )
    finally:
        shutil.rmtree(supply, ignore_errors=True)


def _first_day(base: Dataset, settings: MarketSettings) -> datetime:
    """The first day of a log that ends after the catalog's newest product came; as set if it does anyway."""
    newest = pc.max(base.table("products", ["created_at"]).column(0)).as_py()
    if newest is None or newest < settings.end:
        return settings.first_day
    midnight = newest.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(days=1 - settings.days)


def _check_free(path: Path, replace: bool) -> None:
    """Refuse before the long work, not after it; writes nothing."""
    with contextlib.suppress(InterruptedError), DatasetWriter(path, "check", replace=replace):
        raise InterruptedError


def _let_loose(
    supply: Dataset,
    path: Path,
    settings: MarketSettings,
    seed: int,
    choice: ChoiceSettings | None,
    replace: bool,
    workers: int | None,
    kind: str,
    base: Dataset | None = None,
) -> Dataset:
    """Shoppers, queries and the log over a finished supply side."""
    choice = choice or ChoiceSettings()
    facts = {
        "kind": kind,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "choice": choice.version,
    }
    info = base.info if base else {"license": "Apache-2.0", "source": "simulated market"}
    with DatasetWriter(
        path,
        path.name,
        license=info["license"],
        source=f"{info['source']}, with simulated shoppers" if base else info["source"],
        base=supply,
        replace=replace,
        facts={"market": facts} | ({"split_rule": rule} if (rule := supply.info.get("split_rule")) else {}),
    ) as writer:
        seen = _look_at_shown(supply, workers)
        pool, asked_of = _draw_pool(supply, writer, settings, seed, seen, workers)
        world = World.create(supply, settings, seed, choice, seen)
        code = {product_id: number for number, product_id in enumerate(world.product_ids)}
        world.set_pool(pool, np.array([code[name] for name in asked_of], np.int64), seen)
        world.bar = _set_bar(world)
        _log_days(world, writer)
        writer.put("queries", world.queries.open_table())
        writer.put("shoppers", world.shoppers.open_table())
        world.save(writer, seen)
    return Dataset.open(path)


def _look_at_shown(supply: Dataset, workers: int | None) -> dict[str, np.ndarray]:
    """What is seen in the pictures shoppers can be shown: main pictures and creatives, by image id."""
    main = [ids[0] for ids in supply.table("products", ["image_ids"]).column(0).to_pylist() if ids]
    made = supply.table("creatives", ["image_id"]).column(0).to_pylist()
    ids = [name for name in dict.fromkeys([*main, *made]) if name in supply.images]
    if not ids:
        raise DataError(f"{supply.path} has no picture of a product: import the catalog again with --images")
    return _look(ids, (supply.images[name] for name in ids), workers, "looking at pictures")


def _look(ids: list[str], data: Iterable[bytes], workers: int | None, what: str) -> dict[str, np.ndarray]:
    """Perceptions by id; a picture that cannot be decoded is left out, and its product is judged unseen."""
    num_workers = workers or (num_cores() if len(ids) > 2_000 else 1)
    seen: dict[str, np.ndarray] = {}
    with track(len(ids), what) as meter:
        found = in_order(perceive_all, _pieces(data), num_workers, chunk=4)
        for names, rows in zip(_pieces(ids), found, strict=True):
            seen |= {name: row for name, row in zip(names, rows, strict=True) if row is not None}
            meter.step(len(names))
    if len(seen) < len(ids):
        log.warning("%d pictures cannot be decoded: their products are judged unseen", len(ids) - len(seen))
    return seen


def _pieces(things: Iterable[T]) -> Iterator[list[T]]:
    things = iter(things)
    while piece := list(islice(things, SEEN_AT_ONCE)):
        yield piece


def perceive_all(pictures: list[bytes]) -> list[np.ndarray | None]:
    """`perceive`, with None for a picture that is refused."""
    try:
        return list(perceive(pictures))
    except ImageError:
        if len(pictures) == 1:
            return [None]
        return [row for data in pictures for row in perceive_all([data])]


def _draw_pool(
    supply: Dataset,
    writer: DatasetWriter,
    settings: MarketSettings,
    seed: int,
    seen: dict[str, np.ndarray],
    workers: int | None,
) -> tuple[list[str], list[str]]:
    """Write the pictures shoppers ask with; adds to `seen`, gives image ids and the products they show."""
    if settings.blind or not settings.image_queries + settings.mixed_queries:
        return [], []
    pictures = QueryPictures(supply, seed, settings.image_side)
    names = list(pictures.product_ids)
    rng = stream(seed, "query pool")
    num = min(len(names), max(20, int(len(names) * POOL_SHARE)))
    ids, products, data = [], [], []
    for number in sorted(rng.choice(len(names), num, replace=False).tolist()):
        try:
            jpeg, _ = pictures.picture(names[number], 0)
        except DataError as error:
            log.warning("no query picture: %s", error)
            continue
        ids.append(f"q-{names[number]}")
        products.append(names[number])
        data.append(jpeg)
        writer.add_image(ids[-1], jpeg)
    seen |= _look(ids, data, workers, "looking at query pictures")
    return ids, products


def _set_bar(world: World) -> float:
    """The bar at which random slates have the settings' click-through rate."""
    settings, rng = world.settings, stream(world.seed, "bar")
    matching = Matching(world, settings.num_candidates, world.seed)
    visits = plan_visits(world, BAR_REQUESTS, world.start_ms, settings.days, rng)
    needs = Needs(world, matching, visits.shopper, visits.at, rng)
    rows = np.arange(len(visits.at))
    query, facet = needs.ask(rows)
    found = matching.candidates(query, facet, visits.at, rng)
    order = np.argsort(np.where(found >= 0, rng.random(found.shape), 2.0), axis=1)[:, : settings.slots]
    product = np.take_along_axis(found, order, axis=1)
    row, place = np.nonzero(product >= 0)
    shown = product[row, place]
    creative = np.full(len(shown), -1)
    appeal, match = world.judge(visits.at[row], visits.shopper[row], query[row], shown, creative)
    world.queries.forget()
    return find_bar(appeal, match, world.examination(visits.shopper[row], place), world.choice)


def _log_days(world: World, writer: DatasetWriter) -> None:
    """Play the log's days against the shop's earlier policy and write what happened."""
    settings = world.settings
    policy = PopularityPolicy(world, world.seed)
    matching = Matching(world, settings.num_candidates, world.seed)
    book = Logbook(world, policy.name, matching.facet)
    num_requests = max(1, round(settings.num_impressions / settings.slots))
    arm = np.zeros(len(world.shoppers), np.int64)
    with track(num_requests, "shopping") as meter:
        for batch in run(
            world, [policy], arm, num_requests, world.start_ms, settings.days, world.seed, "log"
        ):
            book.add(batch, policy.version)
            meter.step(len(batch.requests))
    book.write(writer, world.end_ms)
