"""Image search from pairs alone: a photo finds the catalog picture of its product.

moontide data import table products.csv --images pictures/ --to data/catalog --test-share 0
moontide data import queries photos.csv --images photos/ --dataset data/catalog --to data/pairs
python examples/image_search.py data/pairs --to runs/image-search

`photos.csv` names a picture, the product that answers, and a split: train, val or test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moontide
from moontide.encoder.baselines import pixels_and_words
from moontide.encoder.evaluate import EvaluateSettings, evaluate
from moontide.encoder.model.inputs import render_text
from moontide.encoder.stages.posttrain import posttrain
from moontide.recipes import moon_embedding
from moontide.studies.grid import as_markdown

COLUMNS = ("encoder", "direction", "n", "size", "metric", "value", "low", "high", "chance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="dataset folder with judged picture queries")
    parser.add_argument("--steps", type=int, default=600, help="steps of training")
    parser.add_argument("--depth", type=int, default=4, help="size of the encoder")
    parser.add_argument("--on", choices=("val", "test"), default="test", help="whose photos are asked")
    parser.add_argument("--to", type=Path, help="folder to save the encoder in")
    asked = parser.parse_args()

    dataset = moontide.Dataset.open(asked.dataset)
    settings = moon_embedding.encoder(asked.depth)
    texts = [render_text(product)[0] for product in dataset.products()]
    encoder = moontide.Encoder.tiny(texts, settings)
    questions = EvaluateSettings(tasks=("judged",), judged=asked.on, max_queries=10_000)
    pixels = pixels_and_words(dataset)
    cards = {"pixels": evaluate(dataset, pixels.encode, pixels.view, questions, pixels.abilities)}
    cards["random weights"] = evaluate(dataset, encoder.encode_items, None, questions)
    posttrain(encoder, dataset, moon_embedding.image_search(settings, asked.steps))
    cards["trained"] = evaluate(dataset, encoder.encode_items, None, questions)
    rows = [{"encoder": name, **row} for name, card in cards.items() for row in card.rows if not row["slice"]]
    print(as_markdown(COLUMNS, [row for row in rows if row["metric"] in ("recall@1", "recall@5")]))
    if asked.to:
        encoder.save(asked.to)


if __name__ == "__main__":
    main()
