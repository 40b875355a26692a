"""The split: groups on one side, about the asked share, the same on every machine."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from catalog.shop import imported, picture, rows, shop, write_pictures, write_table
from moontide.catalog.resplit import write_splits
from moontide.catalog.schema import conform
from moontide.catalog.splits import (
    cutoff,
    near_duplicate_groups,
    normalized_title,
    split_by_group,
    title_stem,
)
from moontide.foundation.errors import DataError, SettingsError


def products(*cells) -> pa.Table:
    """(id, title, spu, image ids) a row."""
    names = ("product_id", "title", "spu_id", "image_ids")
    return conform("products", [dict(zip(names, row, strict=False)) for row in cells])


def images(*cells) -> pa.Table:
    return pa.table(
        {name: [row[place] for row in cells] for place, name in enumerate(["image_id", "sha256", "dhash"])}
    )


def groups(table, pictures=None, **options) -> dict[str, str]:
    found = near_duplicate_groups(table, pictures, **options)
    return dict(zip(table.column("product_id").to_pylist(), found, strict=True))


def test_a_group_stands_on_one_side_and_the_share_is_about_right():
    ids = [str(number) for number in range(8000)]
    table = split_by_group(ids, [f"g{number // 2}" for number in range(8000)], 0.25).to_pylist()
    sides: dict[str, set[str]] = {}
    for row in table:
        sides.setdefault(row["group_id"], set()).add(row["split"])
    assert all(len(one) == 1 for one in sides.values())
    share = sum(row["split"] == "test" for row in table) / len(table)
    assert share == pytest.approx(0.25, abs=0.035)  # five standard deviations of 4,000 groups


def test_the_side_depends_on_the_group_and_the_salt_alone():
    first = split_by_group(["a", "b", "c"], ["g1", "g2", "g3"]).to_pylist()
    again = split_by_group(["x", "c", "b", "a"], ["g9", "g3", "g2", "g1"]).to_pylist()
    assert [row for row in again if row["product_id"] != "x"] == first[::-1]
    ids = [str(number) for number in range(100)]
    assert not split_by_group(ids, ids).equals(split_by_group(ids, ids, salt="other"))


def test_shares_of_none_and_all_are_allowed_and_others_refused():
    ids = ["a", "b", "c"]
    assert set(split_by_group(ids, ids, 0).column("split").to_pylist()) == {"train"}
    assert set(split_by_group(ids, ids, 1).column("split").to_pylist()) == {"test"}
    with pytest.raises(SettingsError, match=r"test_share must be between 0 and 1, got -0.1"):
        split_by_group(ids, ids, -0.1)


def test_products_of_one_spu_or_title_are_one_group_transitively():
    table = products(
        ("c", "Red lamp", "s1", []),
        ("a", "blue mug", "s1", []),
        ("b", "BLUE  mug!", None, []),
        ("d", "x", None, []),
    )
    assert groups(table) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_the_group_does_not_depend_on_the_order_of_rows():
    table = products(("b", "lamp", "s", []), ("a", "mug", "s", []))
    assert groups(table) == groups(table.take([1, 0])) == {"a": "a", "b": "a"}


def test_an_identical_picture_joins_whatever_the_titles_say():
    table = products(
        ("a", "red lamp", None, ["1"]), ("b", "wool hat", None, ["2"]), ("c", "cup", None, ["3"])
    )
    pictures = images(("1", "same", "00ff"), ("2", "same", "00ff"), ("3", "other", "00ff"))
    assert groups(table, pictures) == {"a": "a", "b": "a", "c": "c"}


def test_a_no_picture_sign_joins_nothing():
    table = products(*((f"p{number}", f"thing {'abcdef'[number]}", None, ["sign"]) for number in range(6)))
    pictures = images(("sign", "same", "00ff"))
    assert len(set(groups(table, pictures, placeholder_products=5).values())) == 6
    assert len(set(groups(table, pictures, placeholder_products=6).values())) == 1


def test_alike_pictures_join_where_titles_differ_in_color_or_size_alone():
    table = products(
        ("a", "Nike Air 90 black", None, ["1"]),
        ("b", "Nike Air 95 red XL", None, ["2"]),
        ("c", "Nike Air blue", None, ["3"]),
        ("d", "Puma shoe", None, ["4"]),
    )
    pictures = images(("1", "s1", "ff00"), ("2", "s2", "ff03"), ("3", "s3", "ff07"), ("4", "s4", "ff00"))
    assert groups(table, pictures, hash_distance=2) == {"a": "a", "b": "a", "c": "a", "d": "d"}  # c by b
    assert groups(table, pictures, hash_distance=1) == {"a": "a", "b": "b", "c": "b", "d": "d"}
    assert len(set(groups(table, pictures, hash_distance=None).values())) == 4


def test_a_blank_picture_is_like_nothing():
    table = products(("a", "Nike Air black", None, ["1"]), ("b", "Nike Air red", None, ["2"]))
    assert groups(table, images(("1", "s1", "0000"), ("2", "s2", "0000"))) == {"a": "a", "b": "b"}


def test_no_products_have_no_groups():
    assert near_duplicate_groups(products()) == []


def test_titles_are_compared_without_case_marks_and_variants():
    assert normalized_title(" Red—SHIRT, slim_fit") == "red shirt slim fit"
    assert normalized_title(None) == ""
    assert title_stem("Shirt Red XL 2-pack") == "shirt pack"


def test_an_import_keeps_a_picture_saved_again_on_the_side_of_the_first(tmp_path):
    table = [{**row, "spu_id": ""} for row in rows(60)]
    for number in range(0, 60, 2):  # pairs: one title but for the color, one picture in two files
        table[number]["name"] = f"{table[number]['name']} red"
        table[number + 1]["name"] = table[number]["name"].removesuffix("red") + "blue"
    write_pictures(tmp_path, [row["sku"] for row in table])
    for number in range(0, 60, 2):
        (tmp_path / "pics" / f"p{number + 1}.jpg").write_bytes(picture(number, side=48))
    dataset, _ = imported(write_table(tmp_path / "t.csv", table), tmp_path / "d", test_share=0.5)
    side = {row["product_id"]: row["split"] for row in dataset.table("splits").to_pylist()}
    pairs = [(side[f"p{number}"], side[f"p{number + 1}"]) for number in range(0, 60, 2)]
    assert all(first == second for first, second in pairs)
    assert 5 < sum(first == "test" for first, _ in pairs) < 25


def test_a_dataset_is_split_again_in_place_and_only_there(tmp_path):
    dataset, _ = imported(shop(tmp_path / "shop", 40), tmp_path / "d")
    before = {file.name: file.read_bytes() for file in dataset.path.iterdir()}
    counts = write_splits(dataset, 0.5, salt="other", hash_distance=None)
    after = {file.name: file.read_bytes() for file in dataset.path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"splits.parquet", "dataset.json"}
    assert dataset.table("splits").column("split").to_pylist().count("test") == counts["test"]
    assert counts["train"] + counts["test"] == 40
    rule = dataset.open(dataset.path).info["split_rule"]
    assert (rule["test_share"], rule["salt"], rule["hash_distance"]) == (0.5, "other", None)


def log(*minutes, kind="impression") -> pa.Table:
    start = datetime(2024, 3, 25, tzinfo=UTC)
    times = [None if minute is None else start + timedelta(minutes=minute) for minute in minutes]
    return conform("events", [{"event_id": str(at), "kind": kind, "at": at} for at in times])


def test_the_last_share_of_impressions_is_the_test_period():
    events = pa.concat_tables([log(*range(10), None), log(50, kind="click")])
    assert cutoff(events, 0.2) == datetime(2024, 3, 25, 0, 8, tzinfo=UTC)
    assert cutoff(log(1, 2, 2, 2, 2), 0.2) == datetime(2024, 3, 25, 0, 2, tzinfo=UTC)
    assert cutoff(log(7), 0.5) == datetime(2024, 3, 25, 0, 7, tzinfo=UTC)


def test_a_log_without_impressions_has_no_test_period():
    with pytest.raises(DataError, match="the log has no impressions, so it has no test period"):
        cutoff(log(1, kind="click"))
    with pytest.raises(SettingsError, match="share must be above 0 and below 1, got 1"):
        cutoff(log(1), 1)
