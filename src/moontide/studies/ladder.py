"""The ladder through to the click model: each rung's encoder embeds the catalog, each rung's heads read it.

    rung ──► its encoder, trained from the shared start ──► vectors ──► click models over seeds (`models.py`)

Rows are `Model`s whose `vectors` names the encoder they read, so a step of the ladder changes either the
encoder or what the click model does with it.

    TO/start                  the checkpoint all encoders begin with
    TO/data/vectors-NAME      vectors of one encoder, made once
    TO/cells  models.md       see `models.py`

Paper: MOON Embedding 3.12 (rungs ours).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from moontide.catalog.dataset import Dataset
from moontide.center.contents import Entity, entities
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.reasoned import SIDES, encode_as
from moontide.encoder.twotower import TwoTower
from moontide.foundation.errors import DataError
from moontide.foundation.progress import track
from moontide.foundation.runs import Run
from moontide.foundation.storage import write_json
from moontide.ranking.content import ContentTable
from moontide.ranking.entities import Entities
from moontide.studies.encoders import EncoderPlan, new_encoder, period_start, run_stages
from moontide.studies.grid import claim, slug
from moontide.studies.models import vectors_folder

log = logging.getLogger(__name__)
PIECE = 512  # products or queries encoded at once


def train_rungs(
    to: Path, data: Path, dataset: Dataset, plans: Mapping[str, EncoderPlan], start: Path, seed: int = 0
) -> None:
    """Train the encoders whose vectors are not there yet, and embed every product and query by each.

    Args:
        data: folder of `models.prepare`. plans: name of the vectors -> how their encoder comes about.
        start: checkpoint that all but dual encoders begin with.
    """
    known = Entities.load(data / "samples" / "entities")
    for name, plan in plans.items():
        folder = vectors_folder(data, name)
        with claim(folder.with_suffix(".claim"), wait=True):
            if (folder / "content.json").exists():
                continue
            log.info("encoder %s", name)
            asked = {"plan": plan.model_dump(mode="json"), "start": str(start)}
            run = Run.start(to / "runs" / slug(name), "rung", asked, seed, "cpu")
            encoder = new_encoder(plan, seed, dataset, start)
            pairs, _ = run_stages(plan, encoder, dataset, run, period_start(dataset), seed)
            write_json(to / "runs" / slug(name) / "pairs.json", {"pairs": pairs})
            embed_entities(encoder, dataset, known, name).save(folder)


def embed_entities(
    encoder: MoonEncoder | TwoTower, dataset: Dataset, known: Entities, version: str
) -> ContentTable:
    """Vectors of all products and queries of a dataset by any encoder, aligned with the codes of `known`."""
    view, images = encoder.view(dataset), dataset.images
    form = "title_image" if getattr(encoder, "is_reasoner", False) else "rich_image"
    tables = {}
    for kind, ids in (("product", known.product_ids), ("query", known.query_ids)):
        found: dict[str, np.ndarray] = {}
        encode = encode_as(SIDES[kind], encoder)
        with track(len(ids), f"{kind} vectors") as meter:
            for piece in _pieces(entities(dataset, kind, form, view)):
                items, names = [], []
                for one in piece:
                    pictures = {i: images[i] for i in one.image_ids[: one.num_images] if i in images}
                    try:
                        items.append(one.item(pictures))
                    except DataError:  # neither words nor a picture: it has no vector, and is flagged as such
                        continue
                    names.append(one.entity_id)
                if items:
                    found |= dict(zip(names, encode(items), strict=True))
                meter.step(len(piece))
        dim = len(next(iter(found.values())))
        nothing = np.zeros(dim, np.float32)
        tables[kind] = np.stack([found.get(one, nothing) for one in ids.to_pylist()])
    return ContentTable.of(tables["product"], tables["query"], version=version)


def _pieces(rows: Iterable[Entity]) -> Iterator[list[Entity]]:
    rows = iter(rows)
    while piece := list(islice(rows, PIECE)):
        yield piece
