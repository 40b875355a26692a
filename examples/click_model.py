"""One click model on a dataset with a click log: trained, calibrated, and measured slice by slice.

moontide embed --dataset data/market --encoder runs/encoder --to runs/center
python examples/click_model.py data/market --center runs/center --make 6 --to runs/click
torchrun --nproc-per-node 8 examples/click_model.py ...      the same training over eight processes

Killed and started again it goes on where it was; runs/click/run/metrics.jsonl shows how it learns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moontide
from moontide.center.store import VectorStore
from moontide.foundation.device import ranks
from moontide.foundation.runs import Run
from moontide.ranking.content import ContentTable
from moontide.ranking.heads import ContentSettings
from moontide.ranking.make import MakeSettings
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import SampleSettings, build_samples
from moontide.ranking.slices import slice_table
from moontide.ranking.train import TrainSettings, Watch, train_click_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="dataset folder with a click log")
    parser.add_argument("--center", type=Path, help="representation center with vectors; ids alone without")
    parser.add_argument(
        "--make", type=int, default=0, help="passes of MAKE's content model; 0: SimTier alone"
    )
    parser.add_argument("--batch", type=int, default=1024, help="impressions of a step, over all processes")
    parser.add_argument("--negatives", type=float, default=1.0, help="share of non-clicks to learn from")
    parser.add_argument("--by", default="all", help="calibrate by: all, known, top (category)")
    parser.add_argument("--to", type=Path, required=True, help="folder of the model")
    asked = parser.parse_args()

    samples = build_samples(
        moontide.Dataset.open(asked.dataset), SampleSettings(negative_share=asked.negatives)
    )
    vectors, settings = None, ClickSettings()
    if asked.center:
        store = VectorStore.open(asked.center, must_exist=True)
        vectors = ContentTable.read(store, samples.entities, store.active())
        make = MakeSettings(epochs=asked.make) if asked.make else None
        settings = ClickSettings(content=ContentSettings(make=make))
    training = TrainSettings(batch_size=asked.batch, calibration_by=asked.by)
    facts = {"model": settings.model_dump(), "training": training.model_dump(), "dataset": str(asked.dataset)}
    with ranks() as rank:
        run = Run.start(asked.to / "run", "click model", facts, 0) if rank == 0 else None
        checkpoints = (
            asked.to / "run" / "checkpoints" / "ranking"
        )  # all processes read them, the first one writes
        watch = Watch(run, folder=checkpoints)
        trained = train_click_model(samples, vectors, settings, training=training, watch=watch)
    if rank:
        return
    trained.save(asked.to)
    for name, value in trained.metrics.items():
        print(f"{name:>18}  {value:,.4f}")
    for line in slice_table(samples, trained.rows, {"model": trained.scores}):
        if line["slice"] in ("all", "new", "known", "rare") or line["slice"].startswith("category"):
            print(f"{line['slice']:>24}  AUC {line['auc']:.4f}  PCOC {line['pcoc']:.3f}")


if __name__ == "__main__":
    main()
