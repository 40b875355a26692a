"""The click model with and without content: DIN on ids, and the SimTier branch over a center's vectors.

moontide embed --dataset data/market --encoder runs/encoder --to runs/center
python examples/mim.py data/market runs/center
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moontide
from moontide.center.store import VectorStore
from moontide.ranking.content import ContentTable
from moontide.ranking.heads import ContentSettings
from moontide.ranking.samples import build_samples
from moontide.ranking.slices import compare_scores
from moontide.ranking.train import train_click_model
from moontide.recipes import mim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="dataset folder with a click log")
    parser.add_argument("center", type=Path, help="representation center with vectors of its products")
    asked = parser.parse_args()

    samples = build_samples(moontide.Dataset.open(asked.dataset))
    store = VectorStore.open(asked.center, must_exist=True)
    vectors = ContentTable.read(store, samples.entities, store.active())
    settings, training = mim.click_model(), mim.training()
    ids = train_click_model(samples, None, settings, training=training)
    content = train_click_model(samples, vectors, settings.but(content=ContentSettings()), training=training)
    for line in compare_scores(samples, ids.rows, ids.scores, content.scores, only=("all", "new", "rare")):
        gain = f"{line['auc_before']:.4f} -> {line['auc_after']:.4f}"
        print(f"{line['slice']:>5}: AUC {gain}, {line['difference']}")


if __name__ == "__main__":
    main()
