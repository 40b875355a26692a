"""TaobaoAd (Ali_Display_Ad_Click): eight days of ad impressions and what their shoppers did in the shop.

    raw_sample     user, time_stamp (s), adgroup_id, pid, nonclk, clk
    ad_feature     adgroup_id, cate_id, campaign_id, customer, brand, price
    user_profile   userid, cms_segid, cms_group_id, final_gender_code, age_level, pvalue_level,
                   shopping_level, occupation, new_user_class_level
    behavior_log   nick (or user), time_stamp, btag (ipv, cart, fav, buy), cate, brand

An ad is a product: category = cate_id, merchant = customer, `attribute:campaign`. The slot is the place of
pid among the pids of the log. The behavior log names no product, only category and brand, so each such pair
is a product of its own without an id that any impression has: histories match ads by category and brand.
ipv is a click and buy an order; cart and fav are left out, for the samples have no such behaviors.

Everything is point-in-time. No vectors, titles or pictures: models of ids alone.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from moontide.ranking.entities import ATTRIBUTE
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.importers.build import Imported, Shows, entities_of, price_bands, samples_of
from moontide.ranking.importers.csvs import (
    FLAG,
    NUMBER,
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
from moontide.ranking.importers.timed import Events, Timed, counted

SECONDS = Cell(rule=("{} > 0", "a time in seconds after 1970"))
SHOWS = {
    "user": Cell(),
    "time_stamp": SECONDS,
    "adgroup_id": Cell(),
    "pid": TEXT,
    "nonclk": FLAG,
    "clk": FLAG,
}
ADS = {"adgroup_id": Cell()} | dict.fromkeys(("cate_id", "campaign_id", "customer", "brand"), TEXT)
ADS |= {"price": NUMBER}
PROFILE = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)
BUTTON = Cell("VARCHAR", rule=("{} IN ('ipv', 'cart', 'fav', 'buy')", "ipv, cart, fav or buy"))
LOG = {"nick": Cell(names=("user",)), "time_stamp": SECONDS, "btag": BUTTON, "cate": TEXT, "brand": TEXT}
LABEL_RULE = {
    "label_disagrees": (
        "TRY_CAST(nonclk AS TINYINT) + TRY_CAST(clk AS TINYINT) = 1",
        "nonclk and clk must be 1 and 0, or 0 and 1",
    )
}
NOTES = [
    "no vectors, titles or pictures: pair it with a catalog of yours, or train models of ids",
    "behaviors of the shop's log name category and brand, not products; cart and fav are left out",
    "the test part is the last share of the impressions by time; published work takes the last of eight days",
]


def read_taobaoad(
    source: Path | str,
    scratch: Path,
    limit: int | None = None,
    history: int = 1000,
    test_share: float = 0.125,
    validation_share: float = 0.1,
) -> Imported:
    """Read the published files.

    Args:
        source: folder with the four files. scratch: an empty folder for what does not fit in memory.
        limit: impressions read, None: all. Only shoppers and ads that they name are kept.
        history: latest events of the behavior log kept of a shopper, up to the last impression.
        test_share, validation_share: last shares of the impressions by time.

    Raises:
        StorageError: a file is missing. DataError: a column is missing, or nothing is left.
    """
    check_shares(test_share, validation_share)
    source, rejected = Path(source), Rejected()
    files = {name: find_files(source, name, ".csv") for name in ("raw_sample", "ad_feature", "user_profile")}
    behaviors = find_files(source, "behavior_log", ".csv")
    with connect(scratch) as connection:
        load_csv(connection, "shows", files["raw_sample"], SHOWS, rejected, limit=limit, rules=LABEL_RULE)
        load_csv(connection, "ads", files["ad_feature"], ADS, rejected)
        profile = {"userid": Cell()} | dict.fromkeys(PROFILE, TEXT)
        load_csv(connection, "profiles", files["user_profile"], profile, rejected)
        asked = 'TRY_CAST(nick AS BIGINT) IN (SELECT "user" FROM shows)'
        load_csv(connection, "log", behaviors, LOG, rejected, keep=asked)
        _number(connection, history)
        shows = columns_of(connection, "SELECT * FROM coded ORDER BY row")
        products, log_price = _products(connection)
        shoppers = shoppers_of(connection, "user", "profiles", "userid", PROFILE)
        did = columns_of(connection, "SELECT * FROM did")
        lines = _lines(connection)
    entities = entities_of(products, shoppers, log_price)
    timed = Timed(*(shows[name] for name in ("at", "shopper", "product", "label")), len(entities.shoppers))
    counters, end, past = counted(timed, entities.leaf_codes(), Events(**did))
    part, cutoff = by_time(shows["at"], test_share, validation_share)
    built = Shows(
        event_id=pa.array(shows["row"]).cast(pa.string()),
        at=shows["at"],
        shopper=shows["shopper"],
        product=shows["product"],
        position=shows["position"],
        label=shows["label"],
        behavior_end=end,
        part=part,
        counters=counters,
    )
    samples, marks = samples_of(built, past, entities, cutoff_ms=cutoff)
    facts = {"log": "taobaoad", "has_times": True, "has_counters": True, "split": "time"}
    return Imported(samples, marks, None, rejected, facts, lines, list(NOTES))


def _number(connection: duckdb.DuckDBPyConnection, history: int) -> None:
    """Codes of shoppers and products, and impressions and behaviors by code."""
    connection.execute(
        'CREATE TABLE people AS SELECT "user", last, row_number() OVER (ORDER BY "user") - 1 AS shopper FROM '
        '(SELECT "user", max(time_stamp) AS last FROM shows GROUP BY "user")'
    )
    # What a shopper did after the last impression is never looked at.
    connection.execute(
        "CREATE TABLE kept AS SELECT * EXCLUDE (nth) FROM (SELECT log.*, shopper, row_number() OVER "
        "(PARTITION BY shopper ORDER BY time_stamp DESC, log.row DESC) AS nth FROM log JOIN people ON nick = "
        f"\"user\" WHERE time_stamp < last AND btag IN ('ipv', 'buy')) WHERE nth <= {history}"
    )
    connection.execute(
        "CREATE TABLE products AS SELECT *, row_number() OVER (ORDER BY kind, adgroup_id, cate, brand) - 1 "
        "AS product FROM (SELECT DISTINCT 0 AS kind, adgroup_id, NULL AS cate, NULL AS brand "
        "FROM shows UNION ALL SELECT DISTINCT 1, NULL, cate, brand FROM kept)"
    )
    connection.execute(
        "CREATE TABLE slots AS SELECT pid, row_number() OVER (ORDER BY pid) - 1 AS position FROM "
        "(SELECT DISTINCT pid FROM shows WHERE pid IS NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE coded AS SELECT shows.row, time_stamp * 1000 AS at, shopper, product, clk AS label, "
        'coalesce(position, -1) AS position FROM shows JOIN people USING ("user") JOIN products ON kind = 0 '
        "AND shows.adgroup_id = products.adgroup_id LEFT JOIN slots USING (pid)"
    )
    connection.execute(
        f"CREATE TABLE did AS SELECT time_stamp * 1000 AS at, shopper, product, CASE btag WHEN 'buy' "
        f"THEN {ORDER} ELSE {CLICK} END::UTINYINT AS kind FROM kept JOIN products ON kind = 1 "
        "AND kept.cate IS NOT DISTINCT FROM products.cate "
        "AND kept.brand IS NOT DISTINCT FROM products.brand ORDER BY shopper, time_stamp, row"
    )


def _products(connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, pa.Array], np.ndarray]:
    table = arrow(
        connection,
        "SELECT coalesce(products.adgroup_id::VARCHAR, 'cate:' || coalesce(cate, '') || ' brand:' || "
        "coalesce(products.brand, '')) AS product, coalesce(cate_id, cate) AS leaf, coalesce(ads.brand, "
        f'products.brand) AS brand, customer AS merchant, campaign_id AS "{ATTRIBUTE}campaign", '
        "price * 100 AS cents FROM products LEFT JOIN "
        " (SELECT DISTINCT ON (adgroup_id) * FROM ads ORDER BY adgroup_id, row) AS ads "
        "USING (adgroup_id) ORDER BY products.product",
    )
    cents = table.column("cents").to_numpy(zero_copy_only=False).astype(np.float64)
    cents = np.where(cents > 0, cents, np.nan)
    columns = {name: table.column(name).combine_chunks() for name in table.column_names if name != "cents"}
    return columns | {"price_band": price_bands(cents)}, np.log(np.maximum(cents, 1.0))


def _lines(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    queries = {
        "impressions": "shows",
        "clicks": "shows WHERE clk = 1",
        "impressions of ads without features": "shows WHERE adgroup_id NOT IN (SELECT adgroup_id FROM ads)",
        "shoppers": "people",
        "shoppers without a profile": 'people WHERE "user" NOT IN (SELECT userid FROM profiles)',
        "behaviors kept": "did",
        "cart and fav left out": "log WHERE btag IN ('cart', 'fav')",
    }
    lines = [(name, one(connection, f"SELECT count(*) FROM {query}")) for name, query in queries.items()]
    for table, key in (("ads", "adgroup_id"), ("profiles", "userid")):
        again = f"SELECT count(*) - count(DISTINCT {key}) FROM {table}"
        lines.append((f"repeated rows of {table}, the first counts", one(connection, again)))
    return lines
