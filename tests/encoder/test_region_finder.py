"""Finders that learn or are asked: the item a title names, exact resume, answers with and without a box."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from typer.testing import CliRunner

from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.region_search import find_regions
from moontide.catalog.regions import Saliency, overlap, title_digest
from moontide.encoder.grounding import PROMPT, GroundingFinder, told_box
from moontide.encoder.model import processor as processors
from moontide.encoder.model import tiny
from moontide.encoder.regions import (
    FEWEST,
    Examples,
    FinderSettings,
    TrainedFinder,
    best_finder,
    snapped,
    train_finder,
)
from moontide.encoder.verbs import app
from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.foundation.runs import Run
from moontide.studies.regions import region_table

KINDS = {"red box": (205, 40, 45), "blue box": (40, 70, 200)}
SMALL = FinderSettings(num_steps=4, batch_size=8, width=16, word_width=8, checkpoint_every=2, log_every=1)


def pair(rng, side=112):
    """A red and a blue box somewhere beside each other, and where each is, in pixels."""
    pixels = np.full((side, side, 3), rng.integers(200, 250, 3), np.uint8)
    boxes = {}
    for left, (title, color) in zip(rng.permutation([4, 60]), KINDS.items(), strict=True):
        width, height = rng.integers(26, 46, 2)
        x0, y0 = int(left + rng.integers(0, 48 - width)), int(rng.integers(4, 108 - height))
        boxes[title] = (x0, y0, x0 + int(width), y0 + int(height))
        pixels[y0 : y0 + height, x0 : x0 + width] = color
    return pixels, boxes


def encoded(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def market(path, num=60, num_test=15, annotated=1.0):
    """Pictures of two things, each sold under a title of its own; of the last, one is, its box hidden."""
    rng = np.random.default_rng(0)
    with DatasetWriter(path, "pairs") as writer:
        products, splits, regions, true = [], [], [], []
        for n in range(num):
            pixels, boxes = pair(rng)
            writer.add_image(f"i{n}", encoded(pixels))
            side = "test" if n >= num - num_test else "train"
            sold = boxes if side == "train" else dict([list(boxes.items())[n % 2]])
            for title, box in sold.items():
                product_id = f"{title} {n}"
                products.append({"product_id": product_id, "title": title, "image_ids": [f"i{n}"]})
                splits.append({"product_id": product_id, "group_id": f"g{n}", "split": side})
                edges = dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True))
                row = {"image_id": f"i{n}", "title_sha256": title_digest(title), **edges}
                if side == "train" and rng.random() < annotated:
                    regions.append({**row, "source": "annotation"})
            true.append({"image_id": f"i{n}", "product_id": product_id, **edges})
        writer.put("products", products)
        writer.put("splits", splits)
        writer.put("regions", regions)
        writer.put_truth("boxes", pa.Table.from_pylist(true))
    return Dataset.open(path)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Dataset:
    return market(tmp_path_factory.mktemp("pairs") / "d")


def test_of_two_things_the_one_that_the_title_names_is_found(pairs):
    settings = FinderSettings(num_steps=160, batch_size=16, width=24, untitled=0, strangers=0)
    finder, figures = train_finder(pairs, settings)
    assert figures["examples"] == 90
    rng, right = np.random.default_rng(99), []
    for _ in range(30):
        pixels, boxes = pair(rng)
        for title, other in (("red box", "blue box"), ("blue box", "red box")):
            found = finder.find(pixels, title)
            assert found is not None
            assert 0 <= found[1] <= 1
            true, wrong = (np.array(boxes[name]) / 112 for name in (title, other))
            right.append(overlap(found[0], true) > max(0.5, overlap(found[0], wrong)))
    assert np.mean(right) > 0.9
    rows = {(row["finder"], row["boxes"]): row for row in region_table(pairs, {"trained": finder})}
    whole, trained = rows["none: whole picture", "all"], rows["trained", "all"]
    assert trained["pictures"] == 15
    assert trained["overlap"].low > 0.5 > whole["overlap"].high
    assert (whole["whole"], whole["good"]) == (1, 0)
    assert trained["good"] > 0.8


def test_only_annotated_pictures_of_train_products_are_learned_from(tmp_path):
    dataset = market(tmp_path / "d", num=20, num_test=8, annotated=0.5)
    examples = Examples(dataset)
    assert 0 < len(examples) == len(dataset.table("regions")) < 24
    assert {examples[n].title for n in range(len(examples))} <= set(KINDS)


def test_no_annotation_cannot_be_learned_from(tmp_path):
    dataset = market(tmp_path / "d", num=6, num_test=2, annotated=0.0)
    with pytest.raises(DataError, match="no annotated picture of a train product: use the saliency finder"):
        train_finder(dataset, SMALL)


def test_training_cut_off_ends_with_the_weights_of_one_that_was_not(pairs, tmp_path):
    whole, _ = train_finder(pairs, SMALL)
    run = Run.start(tmp_path / "run", "regions", {}, 0)
    train_finder(pairs, SMALL, run)
    (run.checkpoints("regions") / "step-00000004.pt").unlink()
    resumed, figures = train_finder(pairs, SMALL, run)
    assert figures["steps_here"] == 2
    assert resumed.version == whole.version
    other, _ = train_finder(pairs, SMALL.but(seed=1))
    assert other.version != whole.version


def test_a_saved_finder_gives_the_same_boxes(pairs, tmp_path):
    finder, _ = train_finder(pairs, SMALL)
    finder.save(tmp_path / "finder")
    again = TrainedFinder.load(tmp_path / "finder")
    picture, _ = pair(np.random.default_rng(5))
    assert again.version == finder.version
    assert again.find(picture, "red box") == finder.find(picture, "red box")


def test_a_missing_and_a_broken_finder_are_refused(pairs, tmp_path):
    with pytest.raises(CheckpointError, match=r"no region finder at .*: it has no region_finder.json"):
        TrainedFinder.load(tmp_path / "nothing")
    finder, _ = train_finder(pairs, SMALL)
    finder.save(tmp_path / "finder")
    (tmp_path / "finder" / "region_finder.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"the region finder at .* is broken .*: train it again"):
        TrainedFinder.load(tmp_path / "finder")


def test_a_shop_with_few_annotations_is_searched_by_saliency(pairs, tmp_path):
    assert isinstance(best_finder(pairs, SMALL), TrainedFinder)
    few = market(tmp_path / "few", num=FEWEST // 2 + 9, num_test=10)
    assert isinstance(best_finder(few, SMALL), Saliency)


def test_edges_snap_to_the_thing_near_the_rough_box_and_to_nothing_else():
    pixels = np.full((112, 112, 3), 235, np.uint8)
    pixels[30:70, 40:90] = (40, 70, 200)
    true = (40 / 112, 30 / 112, 90 / 112, 70 / 112)
    rough = (34 / 112, 33 / 112, 84 / 112, 76 / 112)
    assert overlap(snapped(pixels, rough), true) > 0.9 > overlap(rough, true)
    empty = (0.05, 0.72, 0.4, 0.98)
    assert snapped(pixels, empty) == empty


def test_a_title_without_words_or_with_unknown_ones_is_searched_for_all_the_same(pairs):
    finder, _ = train_finder(pairs, SMALL)
    picture, _ = pair(np.random.default_rng(5))
    assert finder.find(picture, "") == finder.find(picture, " - ") == finder.find(picture, "quux \u978b")
    assert finder.find(picture, "") != finder.find(picture, "red box")
    assert finder.find(picture[:40], "red box") is not None


# --- asked for a box ---


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        (
            '```json\n[\n\t{"bbox_2d": [341, 258, 397, 360], "label": "red shoe"}\n]\n```',
            (341, 258, 397, 360),
        ),
        ('{"bbox_2d": [0, 12.5, 1000, 999]}', (0, 12.5, 1000, 999)),
        ('[{"bbox_2d":[1,2,3,4]},{"bbox_2d":[5,6,7,8]}]', (1, 2, 3, 4)),
        ("{'bbox_2d': ['10', '20', '30', '40']}", (10, 20, 30, 40)),
        ('```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "cut o', (10, 20, 30, 40)),
        ("The shoe is at [10,20,30,40].", (10, 20, 30, 40)),
        ("shoe(536,509),(588,602)", (536, 509, 588, 602)),
        ("[-5, 2, 3, 4]", (-5, 2, 3, 4)),
    ],
)
def test_a_box_is_read_from_the_ways_models_say_it(answer, box):
    assert told_box(answer) == box


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "There is no such product in the picture.",
        '{"bbox_2d": [1, 2, 3]}',
        '{"bbox_2d": []}',
        '{"bbox_2d": [one, two, three, four]}',
        "[" * 100_000,
        "[1," * 50_000,
        "[" + "9" * 50_000 + ", 2, 3, 4]",
        " " * 3_000 + "[1, 2, 3, 4]",
    ],
)
def test_an_answer_without_a_box_or_without_end_gives_none(answer):
    assert told_box(answer) is None


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.new_tokenizer([*KINDS, PROMPT, '[{"bbox_2d": [100, 200, 300, 400]}]'] * 20, 420)


def qwen3(tokenizer):
    model = tiny.new_model(2, tokenizer, 56, 14, 2, seed=0)
    return model, processors.new_processor(tokenizer, 56, 14, 2)


def qwen25(tokenizer):
    ids = {
        f"{role}_token_id": tokenizer.convert_tokens_to_ids(one) for role, one in processors.TOKENS.items()
    }
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14,
        "out_hidden_size": 64, "fullatt_block_indexes": [1], "window_size": 56,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    model = Qwen2_5_VLForConditionalGeneration(config)
    settings = model.generation_config
    settings.eos_token_id, settings.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    images = processors.new_processor(tokenizer, 56, 14, 2).image_processor
    processors.install()
    return model, processors.qwen25.Qwen2_5_VLProcessor(
        images, tokenizer, chat_template=processors.CHAT_TEMPLATE
    )


def teach(model, processor, picture, title, answer, steps=60):
    """Let a model learn one answer to what `GroundingFinder` asks."""
    said = [{"type": "image"}, {"type": "text", "text": PROMPT.format(title=title)}]
    asked = processor.apply_chat_template(
        [{"role": "user", "content": said}], tokenize=False, add_generation_prompt=True
    )
    pictures = [Image.fromarray(picture)]
    length = processor(text=[asked], images=pictures, return_tensors="pt")["input_ids"].shape[1]
    batch = processor(text=[f"{asked}{answer}<|im_end|>"], images=pictures, return_tensors="pt")
    labels = batch["input_ids"].clone()
    labels[:, :length] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("family", [qwen3, qwen25])
def test_a_model_that_answers_rubbish_makes_the_job_fall_back(pairs, tokenizer, tmp_path, family):
    finder = GroundingFinder(*family(tokenizer), name="untrained")
    few = market(tmp_path / "few", num=3, num_test=1, annotated=0.0)
    counts = find_regions(few, finder)
    assert (counts.ok, counts.fallback, counts.failed.total()) == (0, 5, 0)
    assert set(Dataset.open(tmp_path / "few").table("regions").column("version").to_pylist()) == {
        finder.version
    }


def test_qwen3_answers_in_thousandths_and_qwen25_in_pixels_of_what_it_saw(tokenizer):
    picture, _ = pair(np.random.default_rng(3))
    for family, answer in ((qwen3, "[250, 100, 750, 500]"), (qwen25, "[14, 5.6, 42, 28]")):
        model, processor = family(tokenizer)
        teach(model, processor, picture, "red box", f'[{{"bbox_2d": {answer}}}]')
        found = GroundingFinder(model, processor, "taught").find(picture, " red  box ")
        assert found is not None
        np.testing.assert_allclose(found[0], (0.25, 0.1, 0.75, 0.5))
        assert 0.5 < found[1] <= 1


def test_a_grounding_model_is_loaded_from_its_folder_and_others_are_refused(tokenizer, tmp_path):
    model, processor = qwen3(tokenizer)
    model.save_pretrained(tmp_path / "model")
    processors.save_processor(processor, tmp_path / "model")
    finder = GroundingFinder.load(str(tmp_path / "model"))
    assert finder.find(np.zeros((30, 60, 3), np.uint8), "x" * 5_000) is None
    with pytest.raises(CheckpointError, match="no model that tells boxes can be loaded from"):
        GroundingFinder.load(str(tmp_path / "nothing"))
    model.config.model_type = "llava"
    with pytest.raises(CheckpointError, match=r"other is a llava: boxes are told by qwen3_vl, qwen2_5_vl"):
        GroundingFinder(model, processor, "other")


# --- the command ---


def test_the_command_counts_what_it_found_and_goes_on(tmp_path):
    dataset = market(tmp_path / "d", num=4, num_test=1, annotated=0.0)
    for counted in ("found │ 7", "known before │ 7"):
        result = CliRunner().invoke(app, ["regions", str(dataset.path), "--finder", "saliency"])
        assert result.exit_code == 0, result.output
        assert counted in " ".join(result.output.split())
    result = CliRunner().invoke(app, ["regions", str(dataset.path), "--save", str(tmp_path / "finder")])
    assert isinstance(result.exception, SettingsError)
    assert "only a trained finder can be kept, this one is saliency-1" in str(result.exception)


def test_a_kept_finder_is_used_by_the_command(pairs, tmp_path):
    finder, _ = train_finder(pairs, SMALL)
    finder.save(tmp_path / "finder")
    kept, copy = str(tmp_path / "finder"), tmp_path / "copy"
    result = CliRunner().invoke(app, ["regions", str(pairs.path), "--to", str(copy), "--finder", kept])
    assert result.exit_code == 0, result.output
    versions = Dataset.open(copy).table("regions").column("version").drop_null().to_pylist()
    assert set(versions) == {finder.version}
