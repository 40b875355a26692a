"""Augmentation end to end: bad products do not stop it, only training sees it, refusals have reasons."""

import io
import os
from typing import cast

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from encoder.conftest import COLORS, START, picture
from moontide.catalog.augment import Augmented
from moontide.catalog.compose import Composer
from moontide.catalog.dataset import Dataset, DatasetWriter
from moontide.catalog.entities import Gazetteer
from moontide.catalog.records import Product
from moontide.encoder.augment import CosineFilter, augment_catalog
from moontide.encoder.augment_verbs import augment
from moontide.encoder.enrich import (
    CONTEXT_PROMPTS,
    MAIN_PROMPT,
    AnswerEnricher,
    GenerativeEnricher,
    GenerativeExpander,
)
from moontide.encoder.evaluate import EvaluateSettings, evaluate
from moontide.encoder.model.inputs import FORMS, Form, Item, ProductView, product_item
from moontide.encoder.stages.exposures import Triplets
from moontide.encoder.stages.pictures import Pictures
from moontide.encoder.stages.pretrain import answer_logits
from moontide.encoder.stages.questions import Question, ask
from moontide.foundation.errors import CheckpointError, DataError, ImageError, SettingsError
from moontide.foundation.images import decode


class Says:
    """An enricher that adds fixed words."""

    source, version = "test", "1"

    def __init__(self, words: str):
        self.words = words

    def enrich(self, product, picture):
        return f"{product.title}, {self.words}"


class Brightness:
    """A filter that scores a picture by its brightness."""

    def scores(self, pictures, titles):
        return np.array([one.mean() for one in pictures])


def product(n: int, *image_ids: str, title: str | None = None) -> dict:
    color = list(COLORS)[n % 4]
    return {
        "product_id": f"p{n}",
        "title": f"Acme {color} square" if title is None else title,
        "brand": "Zenit" if n == 3 else "Acme",
        "category": ["Shapes", "square"],
        "attributes": {"color": [color], "finish": ["matt" if n % 2 else "gloss"]},
        "image_ids": list(image_ids),
        "created_at": START,
    }


@pytest.fixture
def awkward(tmp_path) -> Dataset:
    """Good products; then no picture, no title, twelve, broken, missing, shared pictures, held out."""
    twelve = [f"twelve{n}" for n in range(12)]
    products = [
        *(product(n, f"i{n}") for n in range(4)),
        product(4),
        product(5, "i5", title=""),
        product(6, *twelve),
        product(7, "broken", "i0"),
        product(8, "nowhere"),
        product(9, "i0"),
        product(10, "i10"),
    ]
    good = ["i0", "i1", "i2", "i3", "i5", "i10", *twelve]
    with DatasetWriter(tmp_path / "awkward", "awkward") as writer:
        for seed, image_id in enumerate(good):
            writer.add_image(image_id, picture(list(COLORS)[seed % 4], "square", seed))
        broken = {"image_id": "broken", "bytes": picture("red", "bar")[:90], "width": 56, "height": 56}
        writer.append("images", [broken])
        writer.put("products", products)
        sides = [
            {"product_id": f"p{n}", "group_id": f"g{n}", "split": "test" if n == 10 else "train"}
            for n in range(11)
        ]
        writer.put("splits", sides)
    return Dataset.open(tmp_path / "awkward")


def rows_of(dataset: Dataset, product_id: str) -> list[tuple]:
    rows = Augmented.read(dataset).rows
    return [
        (row["kind"], row["title"] or row["image_id"], row["accepted"], row["reason"])
        for row in rows
        if row["product_id"] == product_id
    ]


def test_awkward_products_are_counted_and_stop_nothing(awkward, tmp_path):
    new = augment_catalog(awkward, tmp_path / "new", Says("matt"), Composer.of(awkward), None, 3)
    title = ("title", "Acme red square, matt", True, None)
    pictures = [
        ("main", "i0+m", True, None),
        ("context", "i0+c1", True, None),
        ("context", "i0+c2", True, None),
    ]
    assert rows_of(new, "p0") == [title, *pictures]
    assert [row[0] for row in rows_of(new, "p4")] == ["title"]
    assert [row[1] for row in rows_of(new, "p5")] == ["i5+m", "i5+c1", "i5+c2"]
    assert [row[1] for row in rows_of(new, "p6")][1:] == ["twelve0+m", "twelve0+c1", "twelve0+c2"]
    assert rows_of(new, "p7")[0] == ("main", None, False, "broken_pixels")
    assert rows_of(new, "p8")[0] == ("main", None, False, "missing")
    assert [row for row in rows_of(new, "p9") if row[0] != "title"] == pictures
    assert rows_of(new, "p10") == []


def test_pictures_are_one_more_shard_and_the_rest_is_shared(awkward, tmp_path):
    before = {file.name: file.read_bytes() for file in awkward.path.iterdir()}
    new = augment_catalog(awkward, tmp_path / "new", Says("matt"), Composer(), None)
    assert {file.name: file.read_bytes() for file in awkward.path.iterdir()} == before
    assert len(new.files("images")) == len(awkward.files("images")) + 1
    for name in ("products.parquet", "images-00000.parquet"):
        assert os.stat(new.path / name).st_ino == os.stat(awkward.path / name).st_ino
    assert new.products() == awkward.products()
    assert decode(new.images["i0+m"]).size == (56, 56)
    ids = new.images.facts(()).column("image_id").to_pylist()
    assert len(ids) == len(set(ids))


def test_the_subject_is_looked_for_in_the_region_of_the_picture(catalog, tmp_path):
    new = augment_catalog(catalog, tmp_path / "new", None, Composer(), None, 1, limit=6)
    pixels = np.asarray(decode(catalog.images["i0a"]))
    expected = Composer().main(pixels, (14 / 56, 7 / 56, 42 / 56, 35 / 56))
    found = np.asarray(decode(new.images["i0a+m"])).astype(int)
    assert np.abs(found - expected).mean() < 4  # JPEG
    assert np.abs(found - Composer().main(pixels, (0.0, 0.0, 1.0, 1.0))).mean() > 8


def test_refused_titles_keep_their_reason_and_are_not_mapped(awkward, tmp_path):
    new = augment_catalog(awkward, tmp_path / "new", Says("Zenit"), Composer(), None)
    augmented = Augmented.read(new)
    assert augmented.counts()["title", "new_brand"] == 9
    assert all(title is None for title, _ in augmented.as_mapping().values())


def test_the_least_consistent_pictures_are_refused_and_those_that_share_them_too(awkward, tmp_path):
    new = augment_catalog(awkward, tmp_path / "new", None, Composer(), Brightness(), 2, 0.3)
    rows = [row for row in Augmented.read(new).rows if row["product_id"] != "p9" and row["score"] is not None]
    assert len(rows) == 10  # five products with a title and a picture of their own; p5 has no title
    refused = sorted(rows, key=lambda row: row["score"])[:3]
    assert {row["reason"] for row in refused} == {"low_consistency"}
    assert sum(row["accepted"] for row in rows) == 7
    assert rows_of(new, "p9") == rows_of(new, "p0")


def test_an_expander_that_fails_costs_its_pictures_alone(awkward, tmp_path):
    def edit(image, prompt):
        if "green" in prompt or prompt.startswith(CONTEXT_PROMPTS[0][:20]):
            raise RuntimeError("out of memory")
        return image

    new = augment_catalog(awkward, tmp_path / "new", None, GenerativeExpander(edit, "copy"), None, 3)
    assert rows_of(new, "p1") == [("main", None, False, "not_edited")]
    assert rows_of(new, "p0") == [
        ("main", "i0+m", True, None),
        ("context", None, False, "not_edited"),
        ("context", "i0+c2", True, None),
    ]


def test_mistakes_are_told_and_leave_nothing_behind(awkward, tmp_path):
    def run(dataset=awkward, to=tmp_path / "new", enricher=None, expander=None, **options):
        return augment_catalog(dataset, to, enricher, expander, None, **options)

    with pytest.raises(DataError, match=r"nothing could be added to the 10 train products \(no ideas\)"):
        run()
    with pytest.raises(DataError, match=r"9 new_brand"):
        run(enricher=Says("Zenit"))
    with pytest.raises(SettingsError, match="num_contexts must be 0 or more"):
        run(num_contexts=-1)
    assert not (tmp_path / "new").exists()
    new = run(enricher=Says("matt"))
    with pytest.raises(SettingsError, match="augmented already"):
        run(dataset=new, to=tmp_path / "again", enricher=Says("matt"))


def test_no_pictures_are_added_at_zero_and_only_the_first_products_with_a_limit(awkward, tmp_path):
    new = augment_catalog(awkward, tmp_path / "new", Says("matt"), Composer(), None, 0, limit=2)
    assert {(row["product_id"], row["kind"]) for row in Augmented.read(new).rows} == {
        ("p0", "title"),
        ("p1", "title"),
    }


def items_of(dataset: Dataset) -> list[Item]:
    """All that an evaluation encodes."""
    seen: list[Item] = []

    def encode(items):
        seen.extend(items)
        return np.eye(8, dtype=np.float32)[[len(item.text or "") % 8 for item in items]]

    evaluate(dataset, encode, ProductView(2), EvaluateSettings(max_queries=8))
    return seen


def test_poisoned_augmentation_changes_nothing_outside_training(catalog, make_encoder, tmp_path):
    with DatasetWriter(tmp_path / "poisoned", "poisoned", base=catalog) as writer:
        writer.add_image("poison", picture("red", "bar", 5))
        writer.put(
            "augmented",
            [
                {"product_id": one.product_id, "accepted": True, "kind": kind, **value}
                for one in catalog.products()
                for kind, value in (("title", {"title": "POISON"}), ("main", {"image_id": "poison"}))
            ],
        )
    poisoned = Dataset.open(tmp_path / "poisoned")
    assert poisoned.products() == catalog.products()
    for one in catalog.products():
        for form in cast(tuple[Form, ...], FORMS):
            item = product_item(one, poisoned.images, form, 4)
            assert item == product_item(one, catalog.images, form, 4)
    before = items_of(catalog)
    assert len(before) > 50
    assert items_of(poisoned) == before
    encoder = make_encoder()
    pictures = Pictures(poisoned.images, encoder.pixels)
    added = Augmented.read(poisoned).as_mapping()
    trained = Triplets(poisoned, pictures, augmented=added, drop=0.0).batch(0, 8)
    assert all("POISON" in (item.text or "") for item in trained.positive.text_image if item)


def test_values_are_as_likely_as_when_asked_one_by_one(catalog, make_encoder):
    encoder = make_encoder().eval()
    enricher = AnswerEnricher(encoder, catalog)
    pixels = np.asarray(decode(catalog.images["i0a"]))
    found = enricher.probabilities(pixels, ["color", "form"])
    assert [len(p) for p in found] == [4, 3]
    for key, p in zip(["color", "form"], found, strict=True):
        alone = []
        for value in enricher.values[key]:
            asked = ask(encoder.backbone, Question("attribute", pixels, "", key, value))
            with torch.no_grad():
                logits_NV, target_N = answer_logits(encoder.backbone, [asked])
            alone.append(-float(torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="sum")))
        expected = np.exp(np.array(alone) - max(alone))
        assert p == pytest.approx(expected / expected.sum(), abs=1e-4)


def test_only_sure_values_that_the_title_does_not_settle_are_added(catalog, make_encoder):
    encoder = make_encoder().eval()
    pixels = np.asarray(decode(catalog.images["i0a"]))
    asked = Product("x", "A red thing", ("Shapes", "square"))
    sure = AnswerEnricher(encoder, catalog, least_p=0.0)
    best = sure.values["form"][int(sure.probabilities(pixels, ["form"])[0].argmax())]
    assert sure.enrich(asked, pixels) == f"A red thing, {best}"
    assert AnswerEnricher(encoder, catalog, least_p=1.01).enrich(asked, pixels) is None
    assert sure.enrich(asked, None) is None
    assert sure.enrich(Product("x", "", ("Shapes", "square")), pixels) is None
    assert sure.enrich(Product("x", "A thing", ("Unknown",)), pixels) is None


def test_values_are_those_of_train_products_most_frequent_first_and_at_most_so_many(awkward, make_encoder):
    encoder = make_encoder()
    values = AnswerEnricher(encoder, awkward).values
    assert values["color"] == ("green", "red", "blue", "yellow")
    assert AnswerEnricher(encoder, awkward, max_values=2).values["color"] == values["color"][:2]


def test_cosines_are_those_of_the_vectors_and_repeats_are_encoded_once(catalog, make_encoder):
    encoder = make_encoder()
    shown = [np.asarray(decode(catalog.images[one])) for one in ("i0a", "i1a")]
    titles = ["red square", "green bar", "red square"]
    scores = CosineFilter(encoder).scores([shown[0], shown[1], shown[1]], titles)
    left = encoder.encode_items([Item(images=(one,)) for one in (shown[0], shown[1], shown[1])])
    right = encoder.encode_items([Item(title) for title in titles])
    assert scores == pytest.approx((left * right).sum(1), abs=1e-5)


@pytest.fixture
def writes(make_encoder, tmp_path):
    """A tiny model folder of transformers, as a user may have a large one."""
    make_encoder().backbone.save(str(tmp_path / "writes"))
    return str(tmp_path / "writes")


def test_a_model_that_writes_gives_one_line_without_vision_tokens(writes, catalog):
    enricher = GenerativeEnricher(writes, Gazetteer.of(catalog.products()), max_tokens=12)
    pixels = np.asarray(decode(catalog.images["i0a"]))
    one = catalog.products()[0]
    for shown in (pixels, None):
        title = enricher.enrich(one, shown)
        assert title == enricher.enrich(one, shown)
        assert title is None or ("<|" not in title and "\n" not in title)
    assert enricher.enrich(Product("x", " "), pixels) is None


def test_a_model_that_only_wants_to_draw_pictures_is_kept_from_it(writes, catalog):
    model = AutoModelForImageTextToText.from_pretrained(writes)
    state = {"ids": []}
    token = model.config.image_token_id
    enricher = GenerativeEnricher(writes, Gazetteer([]), max_tokens=6)
    head = enricher._model.lm_head
    bias = torch.zeros(head.out_features)
    bias[token] = 1e4
    head.register_forward_hook(lambda module, inputs, output: output + bias)
    generate = enricher._model.generate
    enricher._model.generate = lambda **kwargs: state.update(ids=generate(**kwargs)) or state["ids"]
    enricher.enrich(Product("x", "red chair"), None)
    assert len(state["ids"][0]) > 0
    assert token not in state["ids"][0].tolist()


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no model that writes can be loaded"):
        GenerativeEnricher(str(tmp_path), Gazetteer([]))


def test_an_editor_is_asked_with_the_title_and_its_pictures_are_checked():
    asked = []

    def edit(image: Image.Image, prompt: str) -> Image.Image:
        asked.append(prompt)
        return image.convert("L")

    pixels = np.zeros((8, 8, 3), np.uint8)
    expander = GenerativeExpander(edit, "editor-1")
    box = (0.0, 0.0, 1.0, 1.0)
    assert expander.main(pixels, box, "red chair").shape == (8, 8, 3)
    expander.context(pixels, box, 5, "red chair")
    assert asked == [MAIN_PROMPT.format(title="red chair"), CONTEXT_PROMPTS[0].format(title="red chair")]
    with pytest.raises(ImageError, match="not a picture"):
        GenerativeExpander(lambda image, prompt: np.zeros((8, 8)), "x").main(pixels, box, "")


def test_the_command_writes_a_dataset_and_prints_counts(awkward, make_encoder, tmp_path):
    make_encoder().save(tmp_path / "encoder")
    app = typer.Typer()
    app.command()(augment)
    arguments = [str(awkward.path), "--encoder", str(tmp_path / "encoder"), "--to", str(tmp_path / "new")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    new = Dataset.open(tmp_path / "new")
    assert Augmented.read(new).counts()["main", "broken_pixels"] == 1
    assert Image.open(io.BytesIO(new.images["i0+m"])).size == (56, 56)
