"""MOON Embedding on a dataset folder: a new encoder, pretraining, post-training, recall on held-out products.

python examples/moon_embedding.py data/market --steps 600 --to runs/encoder
torchrun --nproc-per-node 8 examples/moon_embedding.py ...      the same training over eight processes
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moontide
from moontide.catalog.splits import cutoff
from moontide.encoder.benchmark import retrieval_table
from moontide.encoder.model.inputs import render_text
from moontide.encoder.stages.posttrain import posttrain
from moontide.encoder.stages.pretrain import pretrain
from moontide.foundation.device import ranks
from moontide.recipes import moon_embedding
from moontide.studies.grid import as_markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="dataset folder with pictures")
    parser.add_argument("--steps", type=int, default=600, help="steps of post-training")
    parser.add_argument("--pretrain", type=int, default=0, help="steps of pretraining; 0 leaves it out")
    parser.add_argument("--depth", type=int, default=4, help="size of the encoder")
    parser.add_argument("--to", type=Path, help="folder to save the encoder in")
    asked = parser.parse_args()

    dataset = moontide.Dataset.open(asked.dataset)
    before = cutoff(dataset.table("events", ["kind", "at"])) if dataset.has("events") else None
    settings = moon_embedding.encoder(asked.depth)
    held = {row["product_id"] for row in dataset.table("splits").to_pylist() if row["split"] == "test"}
    known = [product for product in dataset.products() if product.product_id not in held]
    encoder = moontide.Encoder.tiny([render_text(product)[0] for product in known], settings)
    if asked.pretrain:
        pretrain(encoder, dataset, moon_embedding.pretraining(settings, asked.pretrain).but(before=before))
    with ranks() as rank:
        posttrain(encoder, dataset, moon_embedding.posttraining(settings, asked.steps).but(before=before))
    if rank:
        return
    columns = ("protocol", "gallery", "n", "size", "recall@1", "recall@10", "chance@10")
    print(as_markdown(columns, retrieval_table(dataset, encoder.encode_items, before)))
    if asked.to:
        encoder.save(asked.to)


if __name__ == "__main__":
    main()
