"""The plain baseline and the room's command."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from moontide.encoder import twotower
from moontide.encoder.benchmark import recall_at
from moontide.encoder.twotower import TwoTowerSettings, train_two_tower
from moontide.encoder.verbs import app
from moontide.foundation.errors import CheckpointError, DataError

SMALL = TwoTowerSettings(
    num_steps=60,
    batch_size=24,
    width=8,
    dim=32,
    vocab_size=320,
    image_side=56,
    learning_rate=3e-3,
    augment=0.2,
)


def test_the_two_towers_learn_titles_of_photos(catalog):
    model, results = train_two_tower(catalog, SMALL)
    products = catalog.products()
    texts = model.encode_items([{"text": " ".join(p.title.split()[:2])} for p in products[3::4]])
    photos = model.encode_items([{"image": catalog.images[p.image_ids[0]]} for p in products[3::4]])
    looks = [tuple(p.title.split()[:2]) for p in products[3::4]]
    same = [np.array([n for n, other in enumerate(looks) if other == look]) for look in looks]
    assert recall_at(texts, photos, same, ks=(1,))["recall@1"] > 0.5
    assert results["parameters"] == sum(p.numel() for p in model.parameters())


def test_any_form_has_a_unit_vector_and_neighbors_do_not_matter(catalog):
    model, _ = train_two_tower(catalog, SMALL.but(num_steps=2))
    data = catalog.images["i0a"]
    items = ["red bar", {"image": data}, {"text": "red bar", "image": data}]
    vectors = model.encode_items(items)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = np.concatenate([model.encode_items([item]) for item in items])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_a_budget_in_seconds_becomes_steps(catalog, monkeypatch):
    _, results = train_two_tower(catalog, SMALL.but(seconds=1e-9))
    assert results["steps"] == 1  # measured, whatever the machine
    monkeypatch.setattr(twotower, "_seconds_a_step", lambda *_: 0.25)
    _, results = train_two_tower(catalog, SMALL.but(seconds=2.0))
    assert results["steps"] == results["steps_here"] == 8


def test_the_command_prints_the_vector_of_a_text_and_a_picture(make_encoder, catalog, tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "model")
    (tmp_path / "a.png").write_bytes(catalog.images["i0a"])
    arguments = [str(tmp_path / "model"), "--text", "red bar", "--image", str(tmp_path / "a.png")]
    done = CliRunner().invoke(app, ["encode", *arguments])
    assert done.exit_code == 0, done.output
    vector = json.loads(done.stdout)
    expected = encoder.encode_items([{"text": "red bar", "image": catalog.images["i0a"]}])[0]
    np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (["model"], DataError, "nothing to encode"),
        (["no/such/x", "--text", "a"], CheckpointError, "no model at"),
    ],
)
def test_the_command_says_what_it_lacks(arguments, error, text):
    done = CliRunner().invoke(app, ["encode", *arguments])
    assert isinstance(done.exception, error)
    assert text in str(done.exception)
