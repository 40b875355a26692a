"""MOON on a dataset folder: regions, guided experts, many negatives; recall and zero-shot tasks.

moontide encoder regions data/market --to data/regions
python examples/moon.py data/regions --start runs/encoder --steps 250 --to runs/moon
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moontide
from moontide.catalog.splits import cutoff
from moontide.encoder.evaluate import as_tables, evaluate
from moontide.encoder.model.experts.guided import GuidedExperts
from moontide.encoder.stages.posttrain import posttrain
from moontide.recipes import moon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="dataset folder with pictures, regions and a log")
    parser.add_argument("--start", required=True, help="folder or Hub id of the encoder to begin with")
    parser.add_argument("--steps", type=int, default=250, help="steps of training")
    parser.add_argument("--kinds", default="order", help="what is a positive: order, or click,cart,order")
    parser.add_argument("--to", type=Path, help="folder to save the encoder in")
    asked = parser.parse_args()

    dataset = moontide.Dataset.open(asked.dataset)
    before = cutoff(dataset.table("events", ["kind", "at"]))
    encoder = moontide.Encoder(asked.start)
    encoder.shown(crops="added")
    encoder.fill(experts=GuidedExperts.of(encoder.backbone, moon.experts(), seed=0))
    settings = moon.posttraining(moon.encoder(), asked.steps)
    posttrain(encoder, dataset, settings.but(before=before, kinds=tuple(asked.kinds.split(","))))
    print(as_tables({"MOON": evaluate(dataset, encoder.encode_items, encoder.view(dataset))}))
    if asked.to:
        encoder.save(asked.to)


if __name__ == "__main__":
    main()
