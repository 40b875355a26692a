"""The frozen pair set: what it gives back, its hashes, what it refuses, the command."""

import json
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import typer
from pair_parts import Event, shop, stat
from typer.testing import CliRunner

from moontide.creative.pair_verbs import pairs as pairs_command
from moontide.creative.pairs import PairSettings, build_pairs
from moontide.creative.pairset import PairSet, write_pair_set
from moontide.creative.stats import write_stats
from moontide.foundation.errors import DataError, ImageError, SettingsError, StorageError


@pytest.fixture
def frozen(tmp_path):
    products = {f"p{n}": 2 for n in range(6)}
    events: list[Event] = [("impression", "r", "p0", "p0.0", "q"), ("click", "r", "p0", "p0.0", "q")]
    dataset = shop(tmp_path / "d", products, test=("p0", "p1"), queries={"q": "lamp"}, events=events)
    report = build_pairs(dataset, [stat(f"{name}.{k}", 10 * 3**k) for name in products for k in range(2)])
    return dataset, report, write_pair_set(tmp_path / "set", dataset, report, PairSettings())


def test_a_frozen_set_gives_pairs_pictures_and_parameters_back(frozen):
    dataset, report, pairs = frozen
    assert pairs.pairs() == report.pairs
    assert len(pairs.pairs("test")) == 2
    assert len(pairs) == 6
    assert pairs.pairs("test")[0].queries == (("lamp", 1),)
    assert pairs.settings == PairSettings()
    for pair in pairs.pairs():
        assert pairs.picture(pair.image_a) == dataset.images[pair.image_a]
    assert pairs.params("p1.1") == ("busy", {"size": "0.2"})


def test_a_frozen_set_says_what_it_lacks(frozen):
    pairs = frozen[2]
    with pytest.raises(ImageError, match=r"has the id 'none'"):
        pairs.picture("none")
    with pytest.raises(DataError, match=r"no creative of .* has the id 'none'"):
        pairs.params("none")
    with pytest.raises(DataError, match=r"no pairs for dev: it has some for test, train"):
        pairs.pairs("dev")


def test_the_same_pairs_give_the_same_hash_and_other_settings_another(frozen, tmp_path):
    dataset, report, pairs = frozen
    again = write_pair_set(tmp_path / "again", dataset, report, PairSettings())
    other = write_pair_set(tmp_path / "other", dataset, report, PairSettings(min_gap=0.5))
    assert again.sha256 == pairs.sha256 != other.sha256


def test_a_set_that_changed_is_refused(frozen):
    pairs = frozen[2]
    file = pairs.path / "pairs.parquet"
    rows = pq.read_table(file)
    pq.write_table(rows.slice(1), file)
    with pytest.raises(DataError, match=r"pairs\.parquet of .* changed since the set was frozen"):
        PairSet.open(pairs.path)


def test_a_manifest_that_changed_is_refused(frozen):
    file = frozen[2].path / "pairs.json"
    info = json.loads(file.read_text())
    info["settings"]["min_gap"] = 0.1
    file.write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"is not that of its content"):
        PairSet.open(file.parent)
    file.write_text("[]")
    with pytest.raises(DataError, match=r"not of a pair set of format 1"):
        PairSet.open(file.parent)


def test_no_pair_set_and_no_pairs_are_said_plainly(frozen, tmp_path):
    dataset, report, _ = frozen
    with pytest.raises(DataError, match=r"no pair set at .*: it has no pairs.json"):
        PairSet.open(tmp_path)
    empty = replace(report, pairs=[], dropped=Counter({"pair: gap of 60% or less": 3}))
    with pytest.raises(DataError, match=r"no pair is left to freeze .*gap of 60% or less: 3.*lower --min"):
        write_pair_set(tmp_path / "none", dataset, empty, PairSettings())
    assert not (tmp_path / "none").exists()


def test_a_folder_of_something_else_is_never_replaced(frozen, tmp_path):
    dataset, report, pairs = frozen
    with pytest.raises(StorageError, match=r"already exists"):
        write_pair_set(pairs.path, dataset, report, PairSettings())
    with pytest.raises(StorageError, match=r"holds something that is no pair set"):
        write_pair_set(dataset.path, dataset, report, PairSettings(), replace=True)
    assert write_pair_set(pairs.path, dataset, report, PairSettings(), replace=True).sha256 == pairs.sha256


def test_the_card_names_rule_sizes_and_ceiling(frozen):
    card = (frozen[2].path / "card.md").read_text()
    assert "more than 1,000 impressions" in card
    assert "above 60% of the lower rate" in card
    assert "| pairs for test | 2 |" in card
    assert "ceiling" in card


def test_a_source_that_lists_no_creatives_gives_pairs_without_parameters(tmp_path):
    dataset = shop(tmp_path / "d", {"p": 2})
    (dataset.path / "creatives.parquet").unlink()
    report = build_pairs(dataset, [stat("p.0", 10), stat("p.1", 40)])
    pairs = write_pair_set(tmp_path / "set", dataset, report, PairSettings())
    assert pairs.params("p.0") == ("", {})


def test_the_command_prints_counts_kept_and_left_out(tmp_path):
    dataset = shop(tmp_path / "d", {"p": 3})
    write_stats(tmp_path / "s.parquet", [stat("p.0", 10), stat("p.1", 40), stat("p.2", 11)])
    app = typer.Typer()
    app.command()(pairs_command)
    asked = ["--dataset", dataset.path, "--stats", tmp_path / "s.parquet", "--to", tmp_path / "set"]
    result = CliRunner().invoke(app, list(map(str, asked)), catch_exceptions=False)
    assert result.exit_code == 0
    assert "left out, pair: gap of 60% or less" in result.output
    assert PairSet.open(tmp_path / "set").sha256 in result.output
    with pytest.raises(SettingsError, match=r"min_confidence: input should be less than 1, got 1"):
        CliRunner().invoke(app, [*map(str, asked), "--min-confidence", "1"], catch_exceptions=False)
