"""A click model trained by one process or by all ranks together; both ranks import this file anew."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from planted_market import write_planted

from moontide.foundation.runs import Run
from moontide.ranking.content import ContentTable
from moontide.ranking.heads import ContentSettings
from moontide.ranking.make import MakeSettings
from moontide.ranking.models import ClickSettings
from moontide.ranking.samples import Samples, build_samples
from moontide.ranking.train import Trained, TrainSettings, Watch, train_click_model

SETTINGS = ClickSettings(content=ContentSettings(tiers=10, make=MakeSettings(epochs=1, width=8, hidden=(8,))))
TRAINING = TrainSettings(batch_size=300, sparse_rows=100)  # the last batch of a pass is a short one
REQUESTS = 500


def write_small(folder: Path) -> None:
    """A planted market of 2,500 impressions: its samples and vectors."""
    dataset, product_vectors, query_vectors = write_planted(folder / "data", REQUESTS, 120, 40)
    build_samples(dataset).save(folder / "samples")
    np.savez(folder / "vectors.npz", product=product_vectors, query=query_vectors)


def read_small(folder: Path) -> tuple[Samples, ContentTable]:
    """What `write_small` wrote."""
    with np.load(folder / "vectors.npz") as vectors:
        table = ContentTable.of(vectors["product"], vectors["query"], version="v1")
    return Samples.load(folder / "samples"), table


def trained_on(folder: Path, run: Run | None = None) -> Trained:
    """Both phases, with checkpoints on the way."""
    samples, vectors = read_small(folder)
    checkpoints = None if run is None else run.checkpoints("ranking")
    watch = Watch(run, folder=checkpoints, log_every=1, check_every=3, checkpoint_every=2)
    return train_click_model(samples, vectors, SETTINGS, training=TRAINING, watch=watch)


def as_rank(rank: int, folder: str) -> None:
    """What each of two processes does; a batch of one row leaves the second one without any."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    trained = trained_on(Path(folder), Run.open(Path(folder) / "run"))
    kept = {"weights": trained.model.state_dict(), "scores": torch.from_numpy(trained.scores)}
    torch.save(kept | {"loss": trained.metrics["train_loss"]}, Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()
