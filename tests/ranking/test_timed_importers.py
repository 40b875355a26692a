"""MicroLens, TaobaoAd and KuaiRand from their published layouts: what was known when, and what is refused."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from layouts import DIM, kuairand_tables, taobaoad_tables, write_csvs, write_microlens
from typer.testing import CliRunner

from moontide.foundation.errors import DataError, StorageError
from moontide.ranking.content import ContentTable
from moontide.ranking.counters import COUNTERS, PLACE
from moontide.ranking.facts import CLICK, ORDER
from moontide.ranking.importers.kuairand import read_kuairand
from moontide.ranking.importers.microlens import read_microlens
from moontide.ranking.importers.parts import load_part
from moontide.ranking.importers.taobaoad import read_taobaoad
from moontide.ranking.importers.timed import Events, Timed, counted
from moontide.ranking.verbs import app


def read(reader, source, tmp_path, **options):
    scratch = tmp_path / f"scratch{len(list(tmp_path.iterdir()))}"
    scratch.mkdir()
    return reader(source, scratch, **options)


def sample(user, item, past, label=0, level=3):
    levels = {"likes_level": level, "views_level": level + 1}
    return {"user_id": user, "item_id": item, "item_seq": past, "label": label, **levels}


def item(number, tags=(4, 5, 0, 0, 0), dim=DIM):
    return {"item_id": number, "item_tags": list(tags), "item_emb_d128": [float(number)] + [1.0] * (dim - 1)}


def microlens(folder, train=None, items=None):
    train = train or [
        sample(1, 10, [11, 12], 1),
        sample(1, 11, [11, 12]),
        sample(1, 12, [12]),
        sample(2, 10, []),
    ]
    valid = [sample(2, 11, [10], 1), sample(3, 99, [10])]
    items = items or [item(0), item(10), item(11, (6, 0, 0, 0, 0)), item(12), item(13)]
    return write_microlens(folder, {"train": train, "valid": valid}, items)


def past_of(samples, row, steps=5):
    ids = samples.entities.product_ids.to_pylist()
    return [ids[code] for code in samples.history(np.array([row]), steps).product[0] if code >= 0]


def test_microlens_keeps_the_sequence_of_each_impression_without_its_padding(tmp_path):
    found = read(read_microlens, microlens(tmp_path / "source"), tmp_path, validation_share=0.0)
    samples = found.samples
    assert [past_of(samples, row) for row in range(6)] == [
        ["12", "11"],
        ["12", "11"],
        ["12"],
        [],
        ["10"],
        ["10"],
    ]
    assert samples.shopper[0] == samples.shopper[1]  # one history, kept once
    assert samples.shopper[1] != samples.shopper[2]
    ids = samples.entities.shopper_ids.to_pylist()
    assert [ids[code] for code in samples.shopper] == ["1", "1", "1", "2", "2", "3"]
    assert samples.is_test.tolist() == [False] * 4 + [True] * 2
    assert dict(found.lines)["impressions of a product in their own history"] == 2
    assert any("cannot be compared" in note for note in found.notes)


def test_microlens_items_have_tags_levels_and_unit_vectors_or_a_flag(tmp_path):
    found = read(read_microlens, microlens(tmp_path / "source"), tmp_path, validation_share=0.0)
    table = found.samples.entities.products
    assert table.column("product").to_pylist() == ["10", "11", "12", "13", "99"]
    assert table.column("leaf").to_pylist() == ["4", "6", "4", "4", None]
    assert table.column("attribute:tag_2").to_pylist() == ["5", None, "5", "5", None]
    assert table.column("attribute:views_level").to_pylist() == ["4", "4", "4", None, "4"]
    assert found.vectors is not None
    found.save(tmp_path / "samples")
    vectors = ContentTable.load(tmp_path / "samples" / "vectors").product
    assert vectors.present.tolist() == [True, True, True, True, False, False]
    expected = np.array(item(11)["item_emb_d128"])
    assert np.allclose(vectors.take(np.array([1]))[0], expected / np.linalg.norm(expected), atol=1e-3)
    assert found.facts["coverage"]["targets"] == pytest.approx(5 / 6)


def test_microlens_refuses_padding_items_and_odd_labels_and_vectors_of_another_width(tmp_path):
    train = [sample(1, 10, [11], 1), sample(1, 0, [11]), sample(0, 10, []), sample(1, 11, [], 2)]
    source = microlens(tmp_path / "source", train, [item(10), item(11, dim=64)])
    found = read(read_microlens, source, tmp_path, validation_share=0.0)
    assert dict(found.rejected.lines()) == {
        "train.parquet: missing_item": 1,
        "train.parquet: missing_user": 1,
        "train.parquet: bad_label": 1,
        "item_info.parquet: bad_vector": 1,
    }
    assert [row["row"] for row in found.rejected.rows if row["reason"] == "bad_label"] == [4]
    source = microlens(tmp_path / "other", items=[item(10, dim=64)])
    with pytest.raises(DataError, match=r"item_emb_d128 of item_info.parquet .* of 64 numbers, 128 expected"):
        read(read_microlens, source, tmp_path)
    (source / "valid.parquet").unlink()
    with pytest.raises(StorageError, match=r"no valid.parquet in"):
        read(read_microlens, source, tmp_path)


def brute_counts(timed, leaf_of, row):
    """What one impression may know, counted by looking at every other."""
    counts = dict.fromkeys(COUNTERS, 0)
    leaf = leaf_of[timed.product[row]]
    for other in np.flatnonzero(timed.at < timed.at[row]):
        same = {
            "product": timed.product[other] == timed.product[row],
            "shopper": timed.shopper[other] == timed.shopper[row],
            "leaf": leaf >= 0 and leaf_of[timed.product[other]] == leaf,
            "all": True,
        }
        for name, is_same in same.items():
            counts[f"{name}_shows"] += int(is_same)
            counts[f"{name}_clicks"] += int(is_same and timed.label[other])
    return counts


def test_counters_and_histories_hold_what_was_strictly_earlier():
    rng = np.random.default_rng(3)
    num, shoppers, products = 300, 7, 12
    timed = Timed(
        rng.integers(0, 60, num),
        rng.integers(0, shoppers, num),
        rng.integers(0, products, num),
        rng.random(num) < 0.4,
        shoppers,
    )
    leaf_of = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, -1, -1, -1])
    more = Events(
        rng.integers(0, 60, 200), rng.integers(0, shoppers, 200), np.full(200, 3), rng.integers(1, 3, 200)
    )
    counters, end, past = counted(timed, leaf_of, more)
    for row in range(num):
        own = (more.shopper == timed.shopper[row]) & (more.at < timed.at[row])
        expected = brute_counts(timed, leaf_of, row)
        expected["shopper_orders"] = int((own & (more.kinds == ORDER)).sum())
        assert counters[row].tolist() == [expected[name] for name in COUNTERS]
        assert end[row] == own.sum() + expected["shopper_clicks"]
        start = past.start[timed.shopper[row]]
        assert (past.at[start : start + end[row]] < timed.at[row]).all()
        assert (np.diff(past.at[start : past.start[timed.shopper[row] + 1]]) >= 0).all()


def test_taobaoad_joins_ads_profiles_and_what_shoppers_did_before(tmp_path):
    found = read(read_taobaoad, write_csvs(tmp_path / "source", taobaoad_tables()), tmp_path)
    samples = found.samples
    products = samples.entities.products
    assert products.column("product").to_pylist() == ["10", "11", "12", "cate:5 brand:300"]
    assert products.column("leaf").to_pylist() == ["5", "6", "5", "5"]
    assert products.column("brand").to_pylist() == ["300", None, "301", "300"]
    assert products.column("attribute:campaign").to_pylist() == ["100", "101", "102", None]
    assert np.exp(samples.entities.log_price[:2]) == pytest.approx([1950, 700])
    assert np.isnan(samples.entities.log_price[2:]).all()
    people = samples.entities.shoppers
    assert people.column("shopper").to_pylist() == ["1", "2"]
    assert people.column("shopper:new_user_class_level").to_pylist() == ["4", None]
    assert people.column("shopper:pvalue_level").to_pylist() == [None, None]
    assert samples.at.tolist() == [1000 * (1000 + 10 * number) for number in range(16)]
    assert samples.position.tolist() == [number % 2 for number in range(16)]
    assert samples.label.tolist() == [number % 4 == 0 for number in range(16)]
    # Shopper 1 sees ads at 1000, 1020, 1040; looked at shoes at 990, clicked at 1000, bought shoes at 1020.
    assert [past_of(samples, row) for row in (0, 2)] == [["cate:5 brand:300"], ["10", "cate:5 brand:300"]]
    assert past_of(samples, 4) == ["cate:5 brand:300", "10", "cate:5 brand:300"]
    kinds = samples.history(np.array([4]), 3).kind[0]
    assert kinds.tolist() == [ORDER, CLICK, CLICK]
    assert samples.counters[4, PLACE["shopper_orders"]] == 1
    assert samples.counters[4, PLACE["shopper_clicks"]] == 1
    assert dict(found.lines)["cart and fav left out"] == 1
    assert dict(found.lines)["shoppers without a profile"] == 1
    assert (samples.at[samples.is_test] >= samples.cutoff_ms).all()
    assert (samples.at[~samples.is_test] < samples.cutoff_ms).all()


def test_taobaoad_counts_bad_rows_by_reason_with_the_line_they_stand_on(tmp_path):
    tables = taobaoad_tables()
    tables["raw_sample"][3:3] = ["1,2", "x,1000,10,430,1,0", "1,,10,430,1,0", "1,5,10,430,1,1"]
    tables["raw_sample"] += ["1,-5,10,430,1,0", '1,1000,"10,430,1,0']
    tables["behavior_log"] += ["1,1000,look,5,300", "1,1000,ipv,5,300,9"]
    tables["user_profile"] += ["1,9,9,9,9,9,9,9,9"]
    found = read(read_taobaoad, write_csvs(tmp_path / "source", tables), tmp_path)
    assert dict(found.rejected.lines()) == {
        "raw_sample.csv: broken_row": 1,
        "raw_sample.csv: bad_user": 1,
        "raw_sample.csv: missing_time_stamp": 1,
        "raw_sample.csv: label_disagrees": 1,
        "raw_sample.csv: bad_time_stamp": 1,
        "raw_sample.csv: bad_adgroup_id": 1,
        "behavior_log.csv: bad_btag": 1,
        "behavior_log.csv: broken_row": 1,
    }
    rows = {(row["table"], row["reason"]): row for row in found.rejected.rows}
    assert rows["raw_sample.csv", "broken_row"]["row"] == 3
    assert rows["raw_sample.csv", "bad_user"]["row"] == 4
    assert rows["raw_sample.csv", "bad_user"]["entity_id"] == "x"
    assert rows["raw_sample.csv", "label_disagrees"]["row"] == 6
    assert rows["raw_sample.csv", "bad_time_stamp"]["row"] == 21
    assert rows["behavior_log.csv", "bad_btag"]["detail"] == "btag must be ipv, cart, fav or buy"
    assert dict(found.lines)["repeated rows of profiles, the first counts"] == 1
    assert found.samples.entities.shoppers.column("shopper:age_level").to_pylist() == ["3", None]
    assert len(found.samples) == 16


def test_a_log_of_another_layout_is_refused_by_file_and_column(tmp_path):
    tables = taobaoad_tables()
    tables["ad_feature"][0] = "adgroup_id,category,campaign_id,customer,brand,price"
    source = write_csvs(tmp_path / "source", tables)
    with pytest.raises(DataError) as caught:
        read(read_taobaoad, source, tmp_path)
    assert str(caught.value) == (
        f"{source / 'ad_feature.csv'} has no column cate_id (it has adgroup_id, category, campaign_id, "
        "customer, brand, price): give the file as published"
    )
    tables["ad_feature"] = ["adgroup_id,cate_id,campaign_id,customer,brand,price", "x,1,1,1,1,1"]
    source = write_csvs(tmp_path / "other", tables)
    with pytest.raises(DataError, match=r"no row of .*ad_feature.csv can be used \(ad_feature.csv: bad_adg"):
        read(read_taobaoad, source, tmp_path)
    (source / "behavior_log.csv").unlink()
    with pytest.raises(StorageError, match=r"no behavior_log\.csv in"):
        read(read_taobaoad, source, tmp_path)


def test_the_history_of_a_shopper_is_bounded_by_its_latest_events(tmp_path):
    tables = taobaoad_tables()
    tables["behavior_log"] = ["user,time_stamp,btag,cate,brand"]
    tables["behavior_log"] += [f"1,{900 + number},ipv,{number},1" for number in range(50)]
    found = read(read_taobaoad, write_csvs(tmp_path / "source", tables), tmp_path, history=3)
    names = [f"cate:{number} brand:1" for number in (49, 48, 47)]
    assert past_of(found.samples, 0) == names


def test_kuairand_marks_random_exposures_and_trains_on_none(tmp_path):
    found = read(read_kuairand, write_csvs(tmp_path / "source", kuairand_tables()), tmp_path)
    assert len(found.samples) == 37
    is_random = found.marks.policy == 1
    names = found.samples.event_id.to_pylist()
    assert [name.startswith("random") for name in names] == is_random.tolist()
    found.save(tmp_path / "samples")
    trained = []
    for part in ("test", "validation", "random"):
        samples = load_part(tmp_path / "samples", part)
        trained.append(samples.event_id.take(samples.train_rows).to_pylist())
        scored = samples.event_id.take(samples.test_rows).to_pylist()
        assert {name.startswith("random") for name in scored} == {part == "random"}
    assert trained[0] == trained[1] == trained[2]
    assert all(name.startswith("standard") for name in trained[0])
    border = found.samples.cutoff_ms
    random = load_part(tmp_path / "samples", "random")
    assert (random.at[random.is_test] >= border).all()


def test_kuairand_videos_and_users_have_their_fields(tmp_path):
    found = read(read_kuairand, write_csvs(tmp_path / "source", kuairand_tables()), tmp_path)
    entities = found.samples.entities
    assert entities.products.column("leaf").to_pylist() == ["12", "12", None, None]
    assert entities.products.column("brand").to_pylist() == ["70", "71", "70", None]
    assert entities.products.column("attribute:video_type").to_pylist() == ["NORMAL", "AD", "NORMAL", None]
    day = 1_649_520_000_000  # 2022-04-10, midnight UTC+8
    assert entities.created_at[:2].tolist() == [day, day]
    assert (entities.created_at[2:] < 0).all()
    assert entities.shoppers.column("shopper:user_active_degree").to_pylist() == [
        "high_active",
        "high_active",
        None,
    ]
    assert dict(found.lines)["shoppers without features"] == 1
    assert dict(found.lines)["products without features"] == 1


def test_kuairand_knows_random_exposures_only_afterwards(tmp_path):
    found = read(read_kuairand, write_csvs(tmp_path / "source", kuairand_tables()), tmp_path)
    samples = found.samples
    for row in range(len(samples)):
        before = samples.at < samples.at[row]
        own = before & (samples.shopper == samples.shopper[row])
        assert samples.counters[row, PLACE["shopper_shows"]] == own.sum()
        assert samples.history_length[row] == samples.label[own].sum()
        assert samples.counters[row, PLACE["all_clicks"]] == samples.label[before].sum()


def test_kuairand_without_a_random_log_says_so(tmp_path):
    tables = kuairand_tables()
    del tables["log_random_4_22_to_5_08_pure"]
    found = read(read_kuairand, write_csvs(tmp_path / "source", tables), tmp_path, limit=20)
    assert len(found.samples) == 20
    assert "no log_random in source: there is no part of random exposures" in found.notes


@pytest.mark.parametrize("name", ["taobaoad", "kuairand", "microlens"])
def test_each_log_goes_from_its_files_to_a_trained_model_by_two_commands(tmp_path, name, caplog):
    tables = {"taobaoad": taobaoad_tables, "kuairand": kuairand_tables}
    if name in tables:
        source = write_csvs(tmp_path / "source", tables[name]())
    else:
        source = microlens(tmp_path / "source")
    to = tmp_path / "samples"
    words = ["import", name, str(source), "--to", str(to), "--validation-share", "0"]
    caplog.set_level(logging.WARNING)
    imported = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "Next: moontide ranking train" in imported.output
    train = ["train", "--samples", str(to), "--out", str(tmp_path / "model")]
    trained = CliRunner().invoke(app, train, catch_exceptions=False)
    assert ("counters are off" in trained.output) == (name == "microlens")
    assert "click model at" in trained.output
    if name != "microlens":
        assert pq.read_table(to / "impressions.parquet").column("all_shows").to_pylist()[-1] > 0
