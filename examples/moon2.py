"""MOON2.0 on a dataset folder: experts by modality, two levels of alignment, added views, sample filter.

moontide encoder augment data/regions --encoder runs/pretrained --to data/augmented
python examples/moon2.py data/augmented --start runs/encoder --steps 110 --to runs/moon2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moontide
from moontide.catalog.augment import Augmented
from moontide.catalog.splits import cutoff
from moontide.encoder.evaluate import as_tables, evaluate
from moontide.encoder.model.experts.modality import ModalityExperts
from moontide.encoder.stages.triplets import train_triplets
from moontide.recipes import moon2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="dataset folder with pictures and a log")
    parser.add_argument("--start", required=True, help="folder or Hub id of the encoder to begin with")
    parser.add_argument("--steps", type=int, default=110, help="steps of training")
    parser.add_argument("--kinds", default="order", help="what is a positive: order, or click,cart,order")
    parser.add_argument("--to", type=Path, help="folder to save the encoder in")
    asked = parser.parse_args()

    dataset = moontide.Dataset.open(asked.dataset)
    before = cutoff(dataset.table("events", ["kind", "at"]))
    encoder = moontide.Encoder(asked.start)
    encoder.fill(experts=ModalityExperts.of(encoder.backbone, moon2.experts(), seed=0))
    settings = moon2.training(moon2.encoder(), asked.steps)
    settings = settings.but(before=before, kinds=tuple(asked.kinds.split(",")))
    added = Augmented.read(dataset).as_mapping() if dataset.has("augmented") else None
    train_triplets(encoder, dataset, settings, augmented=added)
    print(as_tables({"MOON2.0": evaluate(dataset, encoder.encode_items, encoder.view(dataset))}))
    if asked.to:
        encoder.save(asked.to)


if __name__ == "__main__":
    main()
