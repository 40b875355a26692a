"""KuaiRand (Pure, 1K, 27K): video impressions of an app, some of them drawn at random.

    log_standard_*, log_random_*   user_id, video_id, time_ms, is_click, is_rand, tab, and other feedback
    user_features*                 user_id, activity, ranges of counts, onehot_feat0 to onehot_feat17
    video_features_basic*          video_id, author_id, video_type, upload_dt, upload_type, music_type, tag

A video is a product: category = its first tag, brand = author_id; it is clicked (`is_click`) or not. The slot
is `tab`, the page of the app. Random exposures (`is_rand`) carry the policy mark "random": they are behaviors
and count as what was shown, like everything that happened, but no model is trained on them; `--part random`
scores those of the test period, which tells a model's worth without the bias of what the app chose to show.

video_features_statistic is not read: it was counted over the whole time of the log and knows the answers.
Everything is point-in-time. No vectors: frames are not published.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from moontide.foundation.errors import StorageError
from moontide.ranking.entities import ATTRIBUTE, LONG_AGO
from moontide.ranking.importers.build import Imported, Shows, entities_of, samples_of, texts
from moontide.ranking.importers.csvs import (
    FLAG,
    TEXT,
    Cell,
    arrow,
    columns_of,
    connect,
    load_csv,
    one,
    shoppers_of,
)
from moontide.ranking.importers.parts import by_time, check_shares
from moontide.ranking.importers.tables import Rejected, find_files
from moontide.ranking.importers.timed import Timed, counted

MILLISECONDS = Cell(rule=("{} > 0", "a time in milliseconds after 1970"))
SLOT = Cell(rule=("{} >= 0", "a page of the app, 0 or more"))
SHOWS = {"user_id": Cell(), "video_id": Cell(), "time_ms": MILLISECONDS, "is_click": FLAG, "is_rand": FLAG}
SHOWS |= {"tab": SLOT}
SIDES = ("standard", "random")
USER = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{number}" for number in range(18)),
)
VIDEO = ("author_id", "video_type", "upload_dt", "upload_type", "music_type", "tag")
CHINA_MS = 8 * 3_600_000  # dates are of UTC+8
NOTES = [
    "the split is by time over what the app chose to show; random exposures stand on the side of their time "
    "and are never trained on: score them with --part random",
    "no vectors: models of ids alone",
]


def read_kuairand(
    source: Path | str,
    scratch: Path,
    limit: int | None = None,
    test_share: float = 0.2,
    validation_share: float = 0.1,
) -> Imported:
    """Read the published files.

    Args:
        source: folder with the files (`data/` of the archive). scratch: an empty folder.
        limit: impressions read of each log, None: all. Only what they name is kept.
        test_share, validation_share: last shares of the logged impressions by time.

    Raises:
        StorageError: a file is missing. DataError: a column is missing, or nothing is left.
    """
    check_shares(test_share, validation_share)
    source, rejected, notes = Path(source), Rejected(), list(NOTES)
    files = {name: find_files(source, name, ".csv") for name in ("user_features", "video_features_basic")}
    logs = {"standard": find_files(source, "log_standard", ".csv")}
    try:
        logs["random"] = find_files(source, "log_random", ".csv")
    except StorageError:
        notes.append(f"no log_random in {source.name}: there is no part of random exposures")
    with connect(scratch) as connection:
        for side, names in logs.items():
            load_csv(connection, side, names, SHOWS, rejected, limit=limit)
        users = {"user_id": Cell()} | dict.fromkeys(USER, TEXT)
        load_csv(connection, "users", files["user_features"], users, rejected)
        videos = {"video_id": Cell()} | dict.fromkeys(VIDEO, TEXT)
        load_csv(connection, "videos", files["video_features_basic"], videos, rejected, quote='"')
        _number(connection, tuple(logs))
        shows = columns_of(connection, "SELECT * FROM coded ORDER BY side, row")
        products, created_at = _products(connection)
        shoppers = shoppers_of(connection, "user_id", "users", "user_id", USER)
        lines = _lines(connection)
    entities = entities_of(products, shoppers, created_at=created_at)
    timed = Timed(*(shows[name] for name in ("at", "shopper", "product", "label")), len(entities.shoppers))
    counters, end, past = counted(timed, entities.leaf_codes())
    policy = shows["policy"].astype(np.uint8)
    part, cutoff = by_time(shows["at"], test_share, validation_share, policy)
    names = zip(shows["side"].tolist(), shows["row"].tolist(), strict=True)
    built = Shows(
        event_id=pa.array([f"{SIDES[side]}-{row}" for side, row in names], pa.string()),
        at=shows["at"],
        shopper=shows["shopper"],
        product=shows["product"],
        position=shows["position"],
        label=shows["label"],
        behavior_end=end,
        part=part,
        policy=policy,
        counters=counters,
    )
    samples, marks = samples_of(built, past, entities, cutoff_ms=cutoff)
    facts = {"log": "kuairand", "has_times": True, "has_counters": True, "split": "time"}
    return Imported(samples, marks, None, rejected, facts, lines, notes)


def _number(connection: duckdb.DuckDBPyConnection, sides: tuple[str, ...]) -> None:
    """Codes of shoppers and products, and the impressions by code."""
    every = " UNION ALL ".join(f"SELECT {number} AS side, * FROM {side}" for number, side in enumerate(sides))
    connection.execute(f"CREATE TABLE shows AS {every}")
    for table, key, code in (("people", "user_id", "shopper"), ("products", "video_id", "product")):
        connection.execute(
            f"CREATE TABLE {table} AS SELECT {key}, row_number() OVER (ORDER BY {key}) - 1 AS {code} FROM "
            f"(SELECT DISTINCT {key} FROM shows)"
        )
    connection.execute(
        "CREATE TABLE coded AS SELECT side, row, time_ms AS at, shopper, product, is_click AS label, "
        "tab AS position, is_rand AS policy FROM shows JOIN people USING (user_id) "
        "JOIN products USING (video_id)"
    )


def _products(connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, pa.Array], np.ndarray]:
    kinds = ", ".join(
        f'{name} AS "{ATTRIBUTE}{name}"' for name in ("video_type", "upload_type", "music_type")
    )
    table = arrow(
        connection,
        "SELECT products.video_id AS product, trim(split_part(tag, ',', 1)) AS leaf, author_id AS brand, "
        f"{kinds}, coalesce(epoch_ms(TRY_CAST(upload_dt AS DATE)::TIMESTAMP) - {CHINA_MS}, {LONG_AGO}) "
        "AS created FROM products LEFT JOIN "
        "(SELECT DISTINCT ON (video_id) * FROM videos ORDER BY video_id, row) AS videos "
        "USING (video_id) ORDER BY products.product",
    )
    columns = {name: table.column(name).combine_chunks() for name in table.column_names[1:-1]}
    ids = texts(table.column("product").to_numpy(), None)
    return {"product": ids} | columns, table.column("created").to_numpy()


def _lines(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    queries = {
        "impressions": "shows",
        "clicks": "shows WHERE is_click = 1",
        "random exposures": "shows WHERE is_rand = 1",
        "shoppers": "people",
        "shoppers without features": "people WHERE user_id NOT IN (SELECT user_id FROM users)",
        "products": "products",
        "products without features": "products WHERE video_id NOT IN (SELECT video_id FROM videos)",
    }
    return [(name, one(connection, f"SELECT count(*) FROM {query}")) for name, query in queries.items()]
