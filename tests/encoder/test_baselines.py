"""What encoders are held against: pixels and words, plain sentence-transformers models, our own folders."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from encoder.conftest import picture
from moontide.catalog.dataset import Dataset
from moontide.encoder.baselines import named, opened, pixels_and_words, plain, thumbnail, two_tower
from moontide.encoder.evaluate import EvaluateSettings, evaluate
from moontide.encoder.model.inputs import Cropped, Item
from moontide.encoder.model.tiny import new_tokenizer
from moontide.foundation.errors import CheckpointError

ITEMS = [
    Item("red bar"),
    Item(None, (picture("red", "bar"),)),
    Item("red bar", (picture("red", "bar"),)),
    Item("blue cross", (picture("blue", "cross"),)),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """A dual tower in the format of the published ones, with random weights."""
    folder = str(tmp_path_factory.mktemp("models") / "clip")
    tokenizer = new_tokenizer(["red bar", "blue cross"], 320)
    tokenizer.model_max_length = 32
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tower | {"vocab_size": len(tokenizer), "max_position_embeddings": 32}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": 1, "pad_token_id": 0}
    sight = tower | {"image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=sight, projection_dim=8))
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    CLIPProcessor(CLIPImageProcessorPil(**sizes), tokenizer).save_pretrained(folder)
    return folder


def test_a_thumbnail_tells_colors_and_has_unit_length():
    red, other_red, blue = (
        thumbnail(picture(color, "square", seed)) for color, seed in (("red", 1), ("red", 1), ("blue", 1))
    )
    assert np.linalg.norm(red) == pytest.approx(1)
    assert red @ other_red == pytest.approx(1)
    assert red @ blue < 0.9
    assert len(red) == 12 * 12 * 3 + 64


def test_pixels_and_words_meet_only_their_like(catalog):
    subject = pixels_and_words(catalog)
    text, image, both, other = subject.encode(ITEMS)
    assert text @ image == 0
    assert text @ both == pytest.approx(2**-0.5, abs=1e-5)
    assert image @ both == pytest.approx(2**-0.5, abs=1e-5)
    assert text @ other == 0
    assert not subject.encode([Item("unheard")]).any()


def test_pixels_and_words_are_left_out_where_they_cannot_answer(catalog):
    subject = pixels_and_words(catalog)
    settings = EvaluateSettings(replicates=20)
    card = evaluate(catalog, subject.encode, subject.view, settings, subject.abilities)
    found = {(row["task"], row["direction"]) for row in card.rows}
    assert {("retrieval", d) for d in ("t->mm", "i->mm", "mm->mm")} <= found
    assert {"retrieval", "image search", "shape"} == {task for task, _ in found}
    assert card.find("retrieval", "t->mm", "all", "recall@1")["value"] == 1


def test_words_alone_are_enough_for_a_catalog_without_texts(catalog):
    class Silent(Dataset):
        def products(self):
            return []

    assert pixels_and_words(Silent(catalog.path, catalog.info)).encode(ITEMS[:2]).any()


def test_our_own_folder_gives_its_own_vectors(make_encoder, catalog, tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "model")
    subject = named(str(tmp_path / "model"), catalog)
    assert subject.name == "model"
    assert subject.view == encoder.view(catalog)
    np.testing.assert_allclose(subject.encode(ITEMS), encoder.encode_items(ITEMS), atol=1e-5)


def test_a_model_of_joint_inputs_is_given_text_and_picture_as_one(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), trust_remote_code=True)
    subject = plain(model, "any")
    assert subject.abilities.can("t", "i")
    np.testing.assert_allclose(subject.encode(ITEMS), encoder.encode_items(ITEMS), atol=1e-5)


def test_a_dual_tower_gets_the_mean_of_its_two_vectors(clip, catalog):
    subject = named(clip, catalog)
    text, image, both, _ = subject.encode(ITEMS)
    expected = (text + image) / np.linalg.norm(text + image)
    np.testing.assert_allclose(both, expected, atol=1e-5)
    model = SentenceTransformer(clip)
    plainly = model.encode([Image.open(io.BytesIO(ITEMS[1].images[0])).convert("RGB")])[0]
    np.testing.assert_allclose(image, plainly / np.linalg.norm(plainly), atol=1e-5)


def test_a_model_of_texts_reads_what_it_can(catalog):
    subject = plain(SentenceTransformer(modules=[BoW(vocab=["red", "bar", "blue", "cross"])]), "words")
    assert subject.abilities.forms == {"t", "mm"}
    text, image, both, _ = subject.encode(ITEMS)
    np.testing.assert_allclose(text, both)
    assert not image.any()
    settings = EvaluateSettings(tasks=("retrieval", "documents"), replicates=20)
    card = evaluate(catalog, subject.encode, subject.view, settings, subject.abilities)
    assert {row["direction"] for row in card.rows} == {"t->mm", "mm->mm"}


def test_a_crop_is_cut_before_it_is_seen():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 10:] = 255
    right = np.asarray(opened(Cropped(pixels, (0.5, 0.0, 1.0, 1.0))))
    assert right.shape == (10, 10, 3)
    assert (right == 255).all()


def test_the_two_tower_is_trained_on_the_dataset(catalog):
    subject = two_tower(catalog, seconds=1e-9)
    vectors = subject.encode(ITEMS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("path", ["no/such/folder", "nothing"])
def test_a_model_that_is_not_there_is_named(catalog, path):
    with pytest.raises(CheckpointError, match="no model at"):
        named(path, catalog)


def test_a_broken_folder_is_named(catalog, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text(
        '[{"idx": 0, "name": "0", "path": "", "type": "no.Such"}]'
    )
    with pytest.raises(CheckpointError, match="no encoder can be loaded from"):
        named(str(tmp_path / "model"), catalog)
