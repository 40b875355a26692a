"""Public click logs in their published layouts, written small by the tests; no published row is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from planted_market import unit

DIM = 128
USER = [f"130_{number}" for number in range(1, 6)]


def write_taobao_mm(
    folder: Path,
    train: list[tuple[int, int, int]],
    test: list[tuple[int, int, int]],
    train_past: dict[int, list[int]],
    test_past: dict[int, list[int]],
    vectors: dict[int, np.ndarray],
    items: dict[int, int],
    category_of=lambda item: 1 + abs(item) % 7,
) -> Path:
    """The six tables; samples are (shopper, item, clicked), histories shopper -> items."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = pa.schema([("label_0", pa.list_(pa.int8())), ("129_1", pa.int64()), ("205", pa.int64())])
    for side, rows, past in (("train", train, train_past), ("test", test, test_past)):
        table = [
            {"label_0": [1 - clicked, clicked], "129_1": user, "205": item} for user, item, clicked in rows
        ]
        pq.write_table(pa.Table.from_pylist(table, schema=kinds), folder / f"{side}_samples.parquet")
        pq.write_table(users_table(past, category_of), folder / f"{side}_user_features.parquet")
    columns = {"205": list(items), "206": list(items.values())}
    columns |= {"213": [item % 3 for item in items], "214": [0] * len(items)}
    pq.write_table(
        pa.table({name: pa.array(one, pa.int64()) for name, one in columns.items()}),
        folder / "item_features.parquet",
    )
    write_vectors(folder, vectors)
    return folder


def users_table(past: dict[int, list[int]], category_of) -> pa.Table:
    """A user_features table; the newest item is the last."""
    columns = {"129_1": pa.array(list(past), pa.int64())}
    columns |= {
        name: pa.array([1 + user % (2 + number) for user in past], pa.int64())
        for number, name in enumerate(USER)
    }
    columns["150_2_180"] = pa.array(list(past.values()), pa.list_(pa.int64()))
    categories = [[category_of(item) if item else 0 for item in items] for items in past.values()]
    columns["151_2_180"] = pa.array(categories, pa.list_(pa.int64()))
    return pa.table(columns)


def write_vectors(folder: Path, vectors: dict[int, np.ndarray]) -> None:
    """The table of int8 vectors."""
    table = {
        "205": pa.array(list(vectors), pa.int64()),
        "205_c": pa.array([one.tolist() for one in vectors.values()], pa.list_(pa.int8())),
    }
    pq.write_table(pa.table(table), folder / "scl_embedding_int8_p90.parquet")


def write_planted_taobao_mm(folder: Path, num_train=450, num_test=150, shows=20, seed=0) -> Path:
    """Shoppers with a taste in 128 numbers, which only vectors show: a shopper's items are near the taste.

    Two thirds of the items of histories are never shown, a fifth of all items of histories has no vector,
    categories and ids say nothing of a taste. Every tenth test shopper is a training shopper as well.
    """
    rng = np.random.default_rng(seed)
    num_items, styles = 3000, 8
    style = unit(rng.normal(size=(num_items, styles)))
    looks = unit(style @ rng.normal(size=(styles, DIM)) + 0.05 * rng.normal(size=(num_items, DIM)))
    codes = np.rint(looks * 127).astype(np.int8)
    ids = rng.integers(-(2**62), 2**62, num_items)
    category = dict(zip(ids.tolist(), rng.integers(1, 40, num_items).tolist(), strict=True))
    users = rng.integers(-(2**62), 2**62, num_train + num_test)
    users[num_train::10] = users[: len(users[num_train::10])]
    sides: list[tuple[list, dict]] = [([], {}), ([], {})]
    for number, user in enumerate(users.tolist()):
        rows, past = sides[number >= num_train]
        taste = unit(rng.normal(size=styles))
        near = np.exp(4 * style @ taste)
        liked = rng.choice(num_items, rng.integers(200, 300), p=near / near.sum())
        past[user] = ids[liked].tolist()
        shown = rng.choice(num_items // 3, shows, replace=False)
        clicked = rng.random(shows) < 1 / (1 + np.exp(1.6 - 4 * style[shown] @ taste))
        rows += zip([user] * shows, ids[shown].tolist(), clicked.astype(int).tolist(), strict=True)
    has = [code for code in range(num_items) if code < num_items // 3 or rng.random() < 0.8]
    (train, train_past), (test, test_past) = sides
    vectors = {int(ids[code]): codes[code] for code in has}
    items = {int(ids[code]): category[int(ids[code])] for code in range(num_items // 3)}
    return write_taobao_mm(
        folder, train, test, train_past, test_past, vectors, items, category_of=category.__getitem__
    )


def write_microlens(folder: Path, sides: dict[str, list[dict]], items: list[dict]) -> Path:
    """train, valid and item_info; the item_seq of a sample is padded here to 6."""
    folder.mkdir(parents=True, exist_ok=True)
    for side, rows in sides.items():
        columns = {
            name: pa.array([row[name] for row in rows], pa.int64())
            for name in ("user_id", "item_id", "likes_level", "views_level", "label")
        }
        padded = [[0] * (6 - len(row["item_seq"])) + row["item_seq"] for row in rows]
        columns["item_seq"] = pa.array(padded, pa.list_(pa.int64()))
        pq.write_table(pa.table(columns), folder / f"{side}.parquet")
    table = {
        "item_id": pa.array([row["item_id"] for row in items], pa.int64()),
        "item_tags": pa.array([row["item_tags"] for row in items], pa.list_(pa.int64())),
        "item_emb_d128": pa.array([row["item_emb_d128"] for row in items], pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(table), folder / "item_info.parquet")
    return folder


def write_csvs(folder: Path, tables: dict[str, list[str]]) -> Path:
    """CSV files by name, each a list of lines with the header first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def taobaoad_tables() -> dict[str, list[str]]:
    """Two shoppers, three ads; shopper 1 looks at shoes in the shop, then sees an ad for shoes."""
    shows = ["user,time_stamp,adgroup_id,pid,nonclk,clk"]
    shows += [
        f"{1 + n % 2},{1000 + 10 * n},{10 + n % 3},43_{n % 2},{int(n % 4 > 0)},{int(n % 4 == 0)}"
        for n in range(16)
    ]
    return {
        "raw_sample": shows,
        "ad_feature": [
            "adgroup_id,cate_id,campaign_id,customer,brand,price",
            "10,5,100,200,300,19.5",
            "11,6,101,200,NULL,7",
            "12,5,102,201,301,0",
        ],
        "user_profile": [
            "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
            "new_user_class_level ",
            "1,0,2,1,3,,3,0,4",
        ],
        "behavior_log": [
            "nick,time_stamp,btag,cate,brand",
            "1,990,ipv,5,300",
            "1,1020,buy,5,300",
            "1,1021,cart,5,300",
            "1,9999,ipv,6,1",
            "7,1000,ipv,6,1",
        ],
    }


def kuairand_tables() -> dict[str, list[str]]:
    """Three users, four videos, an exposure a second; the random log overlaps the second half."""
    header = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_rand,tab"
    start = 1_650_000_000_000

    def row(user: int, video: int, at: int, clicked: int, rand: int) -> str:
        return f"{user},{video},20220415,1320,{start + at},{clicked},0,{rand},{1 + rand}"

    standard = [row(n % 3, n % 4, 1000 * n, int(n % 3 == 0), 0) for n in range(30)]
    return {
        "log_standard_4_08_to_4_21_pure": [header, *standard[:15]],
        "log_standard_4_22_to_5_08_pure": [header, *standard[15:]],
        "log_random_4_22_to_5_08_pure": [
            header,
            *(row(n % 3, n % 4, 15_500 + 2000 * n, n % 2, 1) for n in range(7)),
        ],
        "user_features_pure": [
            "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
            "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,"
            "register_days,register_days_range," + ",".join(f"onehot_feat{n}" for n in range(18)),
            *(
                f"{user},high_active,0,0,0,5,1-10,0,0,0,0,100,61-90," + ",".join("1" * 18)
                for user in range(2)
            ),
        ],
        "video_features_basic_pure": [
            "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,"
            "server_height,music_id,music_type,tag",
            '0,70,NORMAL,2022-04-10,LongImport,public,1000,720,1280,1,9,"12,34"',
            "1,71,AD,2022-04-10,LongImport,public,1000,720,1280,1,9,12",
            "2,70,NORMAL,,LongImport,public,1000,720,1280,1,9,",
        ],
    }
