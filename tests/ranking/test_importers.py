"""Importing Taobao-MM: codes, histories, vectors, parts, what is refused, and models trained on it."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import DIM, users_table, write_planted_taobao_mm, write_taobao_mm, write_vectors
from planted_market import write_planted
from typer.testing import CliRunner

from moontide.foundation.errors import DataError, MoontideError, SettingsError, StorageError
from moontide.ranking.compositions import COMPOSITIONS
from moontide.ranking.content import ContentTable
from moontide.ranking.importers.parts import by_shopper, by_time, load_part
from moontide.ranking.importers.taobao_mm import read_taobao_mm
from moontide.ranking.samples import Samples
from moontide.ranking.train import Trained, train_click_model
from moontide.ranking.verbs import app

CODES = {item: np.full(DIM, 11 + item % 5, np.int8) for item in (501, 502, 503)}


def small(folder, **changes):
    """Shopper 1 trains, 2 is on both sides, 3 tests; 502 and 503 were only ever looked at."""
    given = {
        "train": [(1, 501, 1), (1, 502, 0), (2, 501, 0)],
        "test": [(2, 502, 1), (3, -77, 0)],
        "train_past": {1: [0, 503, 502], 2: [503]},
        "test_past": {2: [502, 503, 501], 3: [503]},
        "vectors": CODES,
        "items": {501: 9, 502: 0, -77: 4},
    }
    return write_taobao_mm(folder, **(given | changes))


def imported(tmp_path, source=None, **options):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return read_taobao_mm(source or small(tmp_path / "source"), scratch, **options)


def command(*words):
    """What a command prints, and the mistake it ended with, if any."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, (MoontideError, SystemExit)):
        raise result.exception
    return result.output, result.exception


def history_of(samples, row):
    products = samples.entities.product_ids.to_pylist()
    codes = samples.history(np.array([row]), 5).product[0]
    return [products[code] for code in codes if code >= 0]


def test_labels_ids_categories_and_parts_come_as_published(tmp_path):
    samples = imported(tmp_path, validation_share=0.0).samples
    assert samples.label.tolist() == [True, False, False, True, False]
    products = samples.entities.product_ids.to_pylist()
    assert [products[code] for code in samples.product] == ["501", "502", "501", "502", "-77"]
    leaf = dict(zip(products, samples.entities.products.column("leaf").to_pylist(), strict=True))
    assert leaf == {"501": "9", "502": None, "503": str(1 + 503 % 7), "-77": "4"}
    assert samples.is_test.tolist() == [False, False, False, True, True]
    assert samples.event_id.to_pylist() == ["train-1", "train-2", "train-3", "test-1", "test-2"]
    assert not samples.at.any()
    assert not samples.counters.any()
    assert (samples.position == -1).all()
    assert (samples.query == -1).all()


def test_a_shopper_of_both_tables_has_one_id_and_the_history_of_each_side(tmp_path):
    samples = imported(tmp_path, validation_share=0.0).samples
    ids = samples.entities.shopper_ids.to_pylist()
    assert [ids[code] for code in samples.shopper] == ["1", "1", "2", "2", "3"]
    assert samples.shopper[2] != samples.shopper[3]
    assert history_of(samples, 2) == ["503"]
    assert history_of(samples, 3) == ["501", "503", "502"]  # newest first
    assert history_of(samples, 0) == ["502", "503"]  # 0 is missing
    rows = samples.vocabulary.rows("shopper", samples.entities.shopper_ids)
    assert rows[samples.shopper[2]] == rows[samples.shopper[3]]


def test_the_latest_behaviors_are_kept_when_a_history_is_bounded(tmp_path):
    samples = imported(tmp_path, validation_share=0.0, history=2).samples
    assert history_of(samples, 3) == ["501", "503"]
    assert samples.history_length.tolist() == [2, 2, 1, 2, 1]


def test_vectors_stay_int8_and_missing_ones_are_flagged(tmp_path):
    found = imported(tmp_path, validation_share=0.0)
    found.save(tmp_path / "samples")
    stored = np.load(tmp_path / "samples" / "vectors" / "product.npy")
    assert stored.dtype == np.int8
    table = ContentTable.load(tmp_path / "samples" / "vectors")
    products = found.samples.entities.product_ids.to_pylist()
    assert dict(zip(products, table.product.present[:-1].tolist(), strict=True)) == {
        "501": True,
        "502": True,
        "503": True,
        "-77": False,
    }
    assert stored[products.index("502")].tolist() == CODES[502].tolist()
    assert np.allclose(table.product.take(np.array([products.index("502")])).norm(dim=1), 1)
    assert found.facts["coverage"] == {"products": 0.75, "targets": 0.8, "behaviors": 1.0}


def test_a_limit_keeps_only_what_its_impressions_name(tmp_path):
    found = imported(tmp_path, limit=1, validation_share=0.0)
    assert len(found.samples) == 2
    assert found.samples.entities.shopper_ids.to_pylist() == ["1", "2"]
    assert found.samples.entities.product_ids.to_pylist() == ["501", "502", "503"]


def test_bad_rows_are_counted_by_reason_and_written_with_their_place(tmp_path):
    source = small(tmp_path / "source", train=[(1, 501, 1), (0, 501, 1), (1, 0, 0), (1, 502, 0)])
    table = pq.read_table(source / "train_samples.parquet").to_pylist()
    table += [{"label_0": label, "129_1": 1, "205": 501} for label in ([1, 1], [1], [2, -1], None)]
    schema = pq.read_schema(source / "train_samples.parquet")
    pq.write_table(pa.Table.from_pylist(table, schema=schema), source / "train_samples.parquet")
    write_vectors(source, CODES | {502: np.ones(64, np.int8), 0: np.ones(DIM, np.int8)})
    users = users_table({2: [502], 3: [503], 0: [503]}, lambda item: 1)
    again = users_table({3: [501]}, lambda item: 1)
    odd = users_table({9: [501, 502]}, lambda item: 1)
    odd = odd.set_column(7, "151_2_180", pa.array([[1]], pa.list_(pa.int64())))
    pq.write_table(pa.concat_tables([users, again, odd]), source / "test_user_features.parquet")
    found = imported(tmp_path, source, validation_share=0.0)
    assert dict(found.rejected.lines()) == {
        "train_samples.parquet: bad_label": 4,
        "train_samples.parquet: missing_shopper": 1,
        "train_samples.parquet: missing_item": 1,
        "test_user_features.parquet: missing_shopper": 1,
        "test_user_features.parquet: second_row": 1,
        "test_user_features.parquet: bad_history": 1,
        "scl_embedding_int8_p90.parquet: bad_vector": 1,
        "scl_embedding_int8_p90.parquet: missing_item": 1,
    }
    assert len(found.samples) == 4
    assert history_of(found.samples, 3) == ["503"]  # the first row of shopper 3
    found.save(tmp_path / "samples")
    rows = pq.read_table(tmp_path / "samples" / "rejected.parquet").to_pylist()
    assert [row["row"] for row in rows if row["reason"] == "bad_label"] == [5, 6, 7, 8]
    assert rows[0]["detail"] == "129_1 is 0 or null"


def test_what_cannot_be_read_at_all_is_said_in_one_sentence(tmp_path):
    source = small(tmp_path / "source")
    (source / "item_features.parquet").unlink()
    with pytest.raises(StorageError) as caught:
        imported(tmp_path, source)
    assert str(caught.value) == (
        f"no item_features.parquet in {source}: download that table, or check the folder"
    )
    pq.write_table(pa.table({"205": [1], "206": [1], "213": [1]}), source / "item_features.parquet")
    with pytest.raises(DataError) as caught:
        imported(tmp_path, source)
    assert str(caught.value) == (
        f"{source / 'item_features.parquet'} has no column 214 (it has 205, 206, 213): "
        "give the table as published"
    )
    source = small(tmp_path / "other", vectors={501: np.ones(64, np.int8)})
    with pytest.raises(DataError) as caught:
        imported(tmp_path, source)
    assert str(caught.value) == (
        f"column 205_c of scl_embedding_int8_p90.parquet in {source} has vectors of 64 numbers, 128 "
        "expected: give the table as published"
    )
    table = pq.read_table(source / "test_samples.parquet")
    label = pa.array([1] * len(table), pa.int8())
    pq.write_table(table.set_column(0, "label_0", label), source / "test_samples.parquet")
    with pytest.raises(
        DataError, match=r"label_0 of .*test_samples.parquet is int8, lists of numbers expected"
    ):
        imported(tmp_path, source)
    source = small(tmp_path / "empty", test=[(0, 501, 1)])
    with pytest.raises(DataError) as caught:
        imported(tmp_path, source)
    assert str(caught.value) == (
        f"no row of test_samples.parquet in {source} can be used (test_samples.parquet: missing_shopper): "
        "give it as published"
    )


def test_ids_that_join_nothing_are_said_aloud(tmp_path, caplog):
    source = small(tmp_path / "source", train_past={8: [503]}, vectors={9: CODES[501]})
    with caplog.at_level(logging.WARNING):
        found = imported(tmp_path, source, validation_share=0.0)
    assert "train_samples.parquet: no shopper is in train_user_features.parquet" in caplog.text
    assert "no product shown has a vector: check the ids" in caplog.text
    assert found.facts["coverage"]["targets"] == 0


def test_parts_hold_whole_shoppers_in_the_shares_asked_for_whatever_the_order_of_rows():
    rng = np.random.default_rng(0)
    shopper = rng.integers(-(2**62), 2**62, 1000)[rng.integers(0, 1000, 20_000)]
    label = rng.random(20_000) < 0.05
    part = by_shopper(shopper, label, (0.7, 0.1, 0.2))
    for one in range(3):
        inside = set(shopper[part == one].tolist())
        assert not inside & set(shopper[part != one].tolist())
        assert len(inside) / 1000 == pytest.approx((0.7, 0.1, 0.2)[one], abs=0.02)
    order = rng.permutation(20_000)
    assert (by_shopper(shopper[order], label[order], (0.7, 0.1, 0.2)) == part[order]).all()


def test_the_only_shopper_with_a_click_is_for_training():
    part = by_shopper(np.array([1, 2, 3]), np.array([0, 0, 1]), (0.7, 0.1, 0.2))
    assert part[2] == 0
    assert set(part.tolist()) == {0, 2}


def test_impressions_of_one_moment_stand_on_one_side_of_a_split_by_time():
    part, cutoff = by_time(np.array([1, 1, 2, 2, 3, 3, 4, 4, 4, 4]), 0.3, 0.2)
    assert part.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert cutoff == 4
    with pytest.raises(DataError, match="3 impressions leave nothing to train on"):
        by_time(np.array([5, 5, 5]), 0.3, 0.2)


def test_validation_and_test_are_scored_by_one_model_that_saw_neither(tmp_path):
    source = write_planted_taobao_mm(tmp_path / "source", num_train=60, num_test=20, shows=5)
    imported(tmp_path, source, validation_share=0.2).save(tmp_path / "samples")
    parts = {part: load_part(tmp_path / "samples", part) for part in ("test", "validation")}
    assert len(parts["test"].test_rows) == 100
    assert len(parts["validation"].test_rows) == 60
    trained = {part: one.event_id.take(pa.array(one.train_rows)).to_pylist() for part, one in parts.items()}
    assert trained["test"] == trained["validation"]
    assert len(trained["test"]) == 240
    with pytest.raises(SettingsError, match="has no impressions of the part 'random'"):
        load_part(tmp_path / "samples", "random")
    with pytest.raises(SettingsError, match="one of test, validation, random, got 'tset'"):
        load_part(tmp_path / "samples", "tset")
    parts["test"].save(tmp_path / "plain")
    assert len(load_part(tmp_path / "plain")) == 340
    with pytest.raises(SettingsError, match="its samples have the part 'test' alone"):
        load_part(tmp_path / "plain", "validation")


def test_an_import_never_leaves_half_a_folder_and_replaces_only_when_told(tmp_path):
    source, to = small(tmp_path / "source"), tmp_path / "samples"
    words = ("import", "taobao-mm", source, "--to", to)
    assert command(*words)[1] is None
    _, mistake = command(*words)
    assert str(mistake) == f"{to} already exists: name another folder, or give --replace"
    assert command(*words, "--replace")[1] is None
    (source / "item_features.parquet").unlink()
    assert isinstance(command("import", "taobao-mm", source, "--to", tmp_path / "new")[1], StorageError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples", "source"]
    facts = json.loads((to / "import.json").read_text())
    assert (facts["has_counters"], facts["counts"]["impressions"]) == (False, 5)


def test_the_commands_of_a_log_print_coverage_and_turn_counters_off(tmp_path):
    source, to = write_planted_taobao_mm(tmp_path / "source", 40, 20, 5), tmp_path / "samples"
    output, _ = command("import", "taobao-mm", source, "--to", to)
    assert "targets with a vector" in output
    assert "a shopper of both published tables is two rows with one id" in output
    vectors = ("--vectors", to / "vectors")
    output, mistake = command(
        "train", "--samples", to, *vectors, "--model", "sim_hard", "--history", 30, "--out", tmp_path / "m"
    )
    assert mistake is None
    assert "counters are off" in output
    settings = Trained.load(tmp_path / "m").model.settings
    assert (settings.use_counters, settings.search.steps, settings.search.by) == (False, 30, "category")
    output, _ = command("evaluate", "--samples", to, "--model", tmp_path / "m", "--replicates", 5)
    assert "pcoc" in output
    assert "gauc" in output


def test_wrong_options_of_train_are_answered_by_what_to_do(tmp_path):
    to, out = tmp_path / "samples", ("--out", tmp_path / "m")
    imported(tmp_path, validation_share=0.0).save(to)
    texts = {
        (): "give --dataset, a folder with an event log, or --samples, made of one, not both",
        (
            "--samples",
            to,
            "--model",
            "muze",
        ): "no model is called 'muze': give one of id, id_attributes, match",
        ("--samples", to, "--model", "muse"): "the model 'muse' reads vectors: give --vectors",
        ("--samples", to, "--part", "random"): f"{to} has no impressions of the part 'random'",
    }
    for words, text in texts.items():
        assert str(command("train", *out, *words)[1]).startswith(text)
    imported(tmp_path, small(tmp_path / "more", items={501: 9, 4: 4}), validation_share=0.0).save(
        tmp_path / "o"
    )
    _, mistake = command("train", "--samples", to, "--vectors", tmp_path / "o" / "vectors", *out)
    assert "has vectors of 5 products, the samples have 4" in str(mistake)


def test_every_composition_names_a_model_and_none_is_there_twice():
    names = (
        "id id_attributes match vector simscore simtier make simtier_make semantic ciubm cube cube_simtier"
    )
    assert list(COMPOSITIONS) == [*names.split(), "sim_hard", "sim_soft", "muse"]
    dumped = [settings.model_dump_json() for settings in COMPOSITIONS.values()]
    assert len(set(dumped)) == len(dumped)


def test_muse_beats_the_id_model_on_held_out_shoppers_with_a_planted_taste(tmp_path):
    source, to = write_planted_taobao_mm(tmp_path / "source"), tmp_path / "samples"
    imported(tmp_path, source).save(to)
    samples, vectors = load_part(to), ContentTable.load(to / "vectors")
    found = {}
    for name in ("id", "muse"):
        settings = COMPOSITIONS[name].model_copy(update={"use_counters": False})
        table = vectors if settings.reads_vectors else None
        found[name] = train_click_model(samples, table, settings, 0).metrics
    permuted = COMPOSITIONS["muse"].model_copy(update={"use_counters": False})
    control = train_click_model(samples, vectors.permuted(), permuted, 0).metrics
    assert found["muse"]["gauc"] > found["id"]["gauc"] + 0.05
    assert control["gauc"] < found["muse"]["gauc"] - 0.05


@pytest.mark.data
def test_the_published_ten_rows_go_from_the_files_to_a_trained_muse(tmp_path):
    if "MOONTIDE_DATA" not in os.environ:
        pytest.skip("MOONTIDE_DATA is unset: name the folder of real data")
    source = Path(os.environ["MOONTIDE_DATA"]) / "format_fixtures" / "taobao_mm_demo"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    to, out = tmp_path / "samples", tmp_path / "model"
    output, mistake = command("import", "taobao-mm", source, "--to", to)
    assert mistake is None
    _, mistake = command(
        "train", "--samples", to, "--vectors", to / "vectors", "--model", "muse", "--out", out
    )
    assert "has 10 impressions and no click" in str(mistake)  # the ten training rows
    output, mistake = command("import", "taobao-mm", source, "--to", to, "--split", "shoppers", "--replace")
    assert mistake is None
    samples = Samples.load(to)
    assert (len(samples), int(samples.label.sum()), len(samples.behavior_product)) == (20, 1, 19_351)
    table = ContentTable.load(to / "vectors")
    assert (table.product.stored.dtype, int(table.product.present.sum())) == (np.int8, 10)
    words = ("train", "--samples", to, "--vectors", to / "vectors", "--model", "muse", "--out", out)
    output, mistake = command(*words)
    assert mistake is None
    assert "click model at" in output
    trained = Trained.load(out)
    assert trained.model.settings == replace_counters(COMPOSITIONS["muse"])
    assert np.isfinite(trained.scores).all()


def replace_counters(settings):
    return settings.model_copy(update={"use_counters": False})


def test_train_and_evaluate_read_a_dataset_as_well_with_counters_on(tmp_path):
    write_planted(tmp_path / "data", num_requests=200)
    words = ("--dataset", tmp_path / "data")
    output, mistake = command("train", *words, "--backend", "duckdb", "--out", tmp_path / "m")
    assert mistake is None
    assert "counters are off" not in output
    assert Trained.load(tmp_path / "m").model.settings == COMPOSITIONS["id"]
    output, mistake = command("evaluate", *words, "--model", tmp_path / "m", "--replicates", 5)
    assert mistake is None
    assert "pcoc" in output
    _, mistake = command("train", *words, "--backend", "polars", "--out", tmp_path / "m")
    assert str(mistake) == "backend must be one of duckdb, spark, got 'polars'"
