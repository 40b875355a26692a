"""An ablation without training: variants whose true differences are known, and the same as a worker process.

Run as `python planted.py FOLDER NUM_WORKERS`.
"""

import os
import sys
import time
from pathlib import Path

from moontide.foundation.seeds import stream
from moontide.foundation.settings import Settings
from moontide.studies.ablation import Ablation, Row, run_ablation
from moontide.studies.outcomes import Column

QUERIES = 400
DATA = {"dataset": "planted"}


class Variant(Settings):
    """A variant hits with probability 0.6 - drop."""

    drop: float = 0.0


ABLATION = Ablation(
    "planted ablation",
    "none",
    rows=(
        Row("full", Variant(), "all parts"),
        Row("− small", Variant(drop=0.03)),
        Row("− large", Variant(drop=0.3), "without the large part"),
    ),
    columns=(Column("R@1", "rank", at=1), Column("R@10", "rank", at=10), Column("AUC", "auc")),
    paper_order={"R@10": {"full": 90.0, "− small": 85.0, "− large": 10.0}},
)


def train(row, seed, folder):
    """Ranks of queries that are hard or easy for all, moved a little by the seed and the variant's luck."""
    hard = stream(0, "queries").random(QUERIES)
    mixed = (hard + 0.3 * stream(seed, "seed").random(QUERIES)) % 1
    luck = stream(seed, row.name).normal(0, 0.005)
    is_hit = mixed < 0.6 - row.settings.drop + luck
    is_first = is_hit & (hard > 0.3)
    rank = 100 - 90 * is_hit - 9 * is_first
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "hits": {"rank": rank},
        "metrics": {"auc": 0.8 - row.settings.drop / 10 + luck / 10},
        "pairs": 1_000,
        "core_seconds": 60,
    }


def main(to: Path, num_workers: int) -> None:
    """Compute the table; a first cell waits until every worker has one. FOLDER/tries: who tried what."""

    def together(row, seed, folder):
        with (to / "tries").open("a") as file:
            file.write(f"{row.name} {seed}:{os.getpid()}\n")
        while len({line.split(":")[1] for line in (to / "tries").read_text().splitlines()}) < num_workers:
            time.sleep(0.02)
        return train(row, seed, folder)

    run_ablation(to, ABLATION, range(3), together, DATA)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
