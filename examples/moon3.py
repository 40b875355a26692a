"""MOON3.0 on a dataset folder: an encoder that writes attributes before its vector, taught, then rewarded.

python examples/moon3.py data/market --start runs/encoder --steps 400 --joint 40 --to runs/moon3
moontide reason --encoder runs/moon3 --dataset data/market --kind query
"""

from __future__ import annotations

import argparse
from pathlib import Path

import moontide
from moontide.catalog.splits import cutoff
from moontide.encoder.evaluate import as_tables, evaluate
from moontide.encoder.model.reasoner import make_reasoner
from moontide.encoder.stages.coldstart import cold_start
from moontide.encoder.stages.reason import reason
from moontide.foundation.runs import Run
from moontide.recipes import moon3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="dataset folder with pictures, attributes and a log")
    parser.add_argument("--start", required=True, help="folder or Hub id of the encoder to begin with")
    parser.add_argument("--steps", type=int, default=400, help="steps of the supervised stage")
    parser.add_argument("--joint", type=int, default=40, help="steps of reinforcement beside contrast")
    parser.add_argument(
        "--to", type=Path, required=True, help="folder to save the encoder in; its log beside it"
    )
    asked = parser.parse_args()

    dataset = moontide.Dataset.open(asked.dataset)
    before = cutoff(dataset.table("events", ["kind", "at"]))
    encoder = make_reasoner(moontide.Encoder(asked.start), moon3.reasoner())
    run = Run.start(asked.to.with_name(f"{asked.to.name}-run"), "moon3", {}, 0)
    cold_start(encoder, dataset, moon3.cold_start(asked.steps).but(before=before), run)
    reason(encoder, dataset, moon3.joint(asked.joint).but(before=before), run)
    encoder.save(asked.to)

    def reasoned(items):
        return encoder.encode_items(encoder.reasoned(items))

    view = encoder.view(dataset)
    cards = {
        "MOON3.0": evaluate(dataset, encoder.encode_items, view, encode_queries=reasoned),
        "without reasoning": evaluate(dataset, encoder.encode_items, view),
    }
    print(as_tables(cards))


if __name__ == "__main__":
    main()
