"""Vector tables: one version and one width, three ways to store them, and vectors that come with ids."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from moontide.center.int8 import encode_int8
from moontide.foundation.errors import DataError, SettingsError
from moontide.ranking.content import ContentTable, VectorTable
from moontide.ranking.samples import Samples

NUM, DIM = 500, 128


@pytest.fixture(scope="module")
def vectors():
    drawn = np.random.default_rng(0).normal(size=(NUM, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture
def table(vectors):
    product = vectors.copy()
    product[3] = 0
    return ContentTable.of(product, vectors[:40], version="v1")


@pytest.mark.parametrize(
    ("kind", "bytes_each", "least"),
    [("int8", 1, 0.999), ("float16", 2, 0.999999), ("float32", 4, 0.999999)],
)
def test_a_saved_table_is_mapped_and_gives_the_same_directions(
    table, vectors, tmp_path, kind, bytes_each, least
):
    table.save(tmp_path / "table", kind)
    size = (tmp_path / "table" / "product.npy").stat().st_size
    assert size - (NUM + 1) * DIM * bytes_each in range(64, 257)  # the header of a .npy file
    loaded = ContentTable.load(tmp_path / "table")
    assert isinstance(loaded.product.stored, np.memmap)
    assert loaded.product.stored.dtype == kind
    codes = np.array([[0, 1, -1], [3, NUM - 1, 40]])
    taken = loaded.product.take(codes)
    assert taken.dtype == torch.float32
    assert taken.shape == (2, 3, DIM)
    length = taken.norm(dim=-1).numpy()
    np.testing.assert_allclose(length, [[1, 1, 0], [0, 1, 1]], atol=1e-3)
    everything = loaded.product.take(np.arange(NUM)).numpy()
    cosine = (everything * vectors).sum(1)
    cosine /= np.maximum(np.linalg.norm(everything, axis=1), 1e-9)
    assert np.delete(cosine, 3).min() > least
    assert loaded.product.present.tolist() == table.product.present.tolist()
    np.testing.assert_allclose(loaded.product.vectors[:NUM], everything, atol=1e-6)
    assert (loaded.version, loaded.logged) == ("v1", "v1")


def test_int8_is_brought_to_length_one_again_and_stays_as_it_is_when_saved_again(table, tmp_path):
    table.save(tmp_path / "a", "int8")
    loaded = ContentTable.load(tmp_path / "a")
    raw = loaded.product.stored[:3].astype(float) / 127
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).max() > 1e-4
    np.testing.assert_allclose(loaded.product.take(np.arange(3)).norm(dim=1), 1, atol=1e-6)
    loaded.save(tmp_path / "b")
    again = ContentTable.load(tmp_path / "b")
    assert again.product.stored.dtype == np.int8
    np.testing.assert_array_equal(again.product.stored, loaded.product.stored)
    loaded.save(tmp_path / "c", "float32")
    wide = ContentTable.load(tmp_path / "c").product
    np.testing.assert_allclose(wide.vectors, loaded.product.vectors, atol=1e-7)
    with pytest.raises(SettingsError, match="saved as float16, float32, int8, got 'int4'"):
        table.save(tmp_path / "d", "int4")
    assert not (tmp_path / "d").exists()


def test_controls_of_an_int8_table_are_those_of_its_vectors(table, tmp_path):
    table.save(tmp_path / "a", "int8")
    small = ContentTable.load(tmp_path / "a")
    for change in ("permuted", "random", "centered"):
        found, expected = (getattr(one, change)().product.vectors for one in (small, table))
        np.testing.assert_allclose(found, expected, atol=5e-3, err_msg=change)
    cut = small.truncated(8)
    np.testing.assert_allclose(np.linalg.norm(cut.product.vectors[[0, 5]], axis=1), 1, atol=1e-6)
    assert (cut.version, cut.logged) == ("v1 first 8", "v1")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells how a file is mapped")
def test_processes_that_load_a_table_or_samples_share_their_pages(table, planted, tmp_path):
    table.save(tmp_path / "table", "int8")
    planted.samples.save(tmp_path / "samples")
    loaded, samples = ContentTable.load(tmp_path / "table"), Samples.load(tmp_path / "samples")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for name in ("table/product.npy", "samples/behavior_product.npy", "samples/behavior_at.npy"):
        how = [line[1] for line in maps if line[-1] == str(tmp_path / name)]
        assert how == ["r--s"], name  # read-only and shared, not a private copy
    assert loaded.product.present.sum() == NUM - 1
    assert len(samples.behavior_at) == len(planted.samples.behavior_at)


def test_widths_and_versions_are_never_mixed(vectors):
    with pytest.raises(DataError, match="query vectors have 64 numbers and product vectors 128"):
        ContentTable.of(vectors, vectors[:, :64])
    with pytest.raises(DataError, match="creative vectors have 7 numbers and product vectors 128"):
        ContentTable.of(vectors, None, vectors[:, :7])
    one, other = VectorTable.of(vectors, version="v1"), VectorTable.of(vectors, version="v2")
    with pytest.raises(DataError, match="product vectors of version 'v1', query vectors of version 'v2'"):
        ContentTable(one, other)
    with pytest.raises(DataError, match="query vectors of version 'v2', the table of version 'v1'"):
        ContentTable(VectorTable.of(vectors), other, version="v1")
    assert ContentTable(one, VectorTable.of(vectors), version="v1").query is not None


class Center:
    """Vectors of two versions, of which another becomes active at the first look."""

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def active(self):
        return "v2" if self.asked else "v1"

    def get(self, kind, ids, version=None):
        self.asked.append(version)
        return np.stack([self.vectors[len(self.asked)]] * len(ids)), np.ones(len(ids), bool)


def test_an_activation_while_vectors_are_read_mixes_no_versions(planted, vectors):
    center = Center(vectors)
    table = ContentTable.read(center, planted.samples.entities)
    assert set(center.asked) == {"v1"}
    assert len(center.asked) == 3
    assert table.version == table.product.version == "v1"


def test_vectors_that_come_with_ids_are_put_in_the_order_of_codes(planted, vectors):
    entities = planted.samples.entities
    ids = entities.product_ids.to_pylist()
    shuffled = np.random.default_rng(0).permutation(200)
    given = [ids[place] for place in shuffled] + ["of another shop"]
    codes = encode_int8(np.concatenate([vectors[shuffled], vectors[[499]]]))
    table = ContentTable.from_ids(entities, (given, codes), (["q03"], codes[:1]), version="published")
    assert table.product.stored.dtype == np.int8
    assert table.product.present.tolist() == [code < 200 for code in range(240)] + [False]
    assert ((table.product.take(np.arange(200)).numpy() * vectors[:200]).sum(1) > 0.999).all()
    assert (table.product.take(np.array([200, -1])) == 0).all()
    assert table.query is not None
    assert np.flatnonzero(table.query.present).tolist() == [3]
    assert table.version == "published"
    floats = ContentTable.from_ids(entities, (pa.array(given), 5 * vectors[: len(given)]))
    np.testing.assert_allclose(floats.product.take(shuffled).numpy(), vectors[:200], atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "num", "text"),
    [
        (["p0001", "p0001"], 2, "some product id has two vectors"),
        (["p0001"], 2, "1 product ids came with 2 vectors"),
        (["x", "y"], 2, "not one product of the dataset"),
        ([], 0, "not one product of the dataset"),
    ],
)
def test_ids_that_do_not_fit_are_refused(planted, vectors, ids, num, text):
    with pytest.raises(DataError, match=text):
        ContentTable.from_ids(planted.samples.entities, (ids, vectors[:num]))


def test_int8_codes_of_zeros_are_missing_vectors():
    table = VectorTable.of(np.array([[0, 0], [3, 4]], np.int8), np.array([True, True]))
    assert table.present.tolist() == [False, True, False]
    np.testing.assert_allclose(table.take(np.array([0, 1])).numpy(), [[0, 0], [0.6, 0.8]], atol=1e-6)
