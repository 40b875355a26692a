"""The published click models, each as one composition of the parts of `models.py`.

The order known from the literature, from the weakest to the strongest (relative gains in GAUC):

    short history   id < vector (+0.29 %) < simscore (+0.77 %) < make (+0.93 %), simtier (+0.96 %)
                    < simtier_make (+1.25 %)                          analog SimTier, in a production model
                    id < semantic (+0.47 %) < simtier (+1.58 %)       analog EST, reported
    long history    id (DIN) < sim_soft < sim_hard < muse             analog MUSE, Taobao-MM
                    id (DIN) < sim_hard < sim_soft < muse             analog MUSE, in production

`match` is the floor that content must beat (the cosine of candidate and query alone), `id_attributes` the
control that names what pictures show. No order is published for CUBE and CiUBM among these.
"""

from __future__ import annotations

from moontide.ranking.cube import CubeSettings
from moontide.ranking.heads import ContentSettings
from moontide.ranking.make import MakeSettings
from moontide.ranking.models import ClickSettings
from moontide.ranking.search import SearchSettings
from moontide.ranking.semantic import SemanticSettings

CIUBM = CubeSettings(parts=("fusion", "content", "scores"), has_queries=False)
SIM_HARD = SearchSettings(by="category", unit="attention", tiers=0)
SIM_SOFT = SearchSettings(by="id", unit="attention", tiers=0)

COMPOSITIONS: dict[str, ClickSettings] = {
    "id": ClickSettings(),
    "id_attributes": ClickSettings(use_attributes=True),
    "match": ClickSettings(content=ContentSettings(tiers=0)),
    "vector": ClickSettings(content=ContentSettings(tiers=0, vector=True)),
    "simscore": ClickSettings(content=ContentSettings(tiers=0, score=True)),
    "simtier": ClickSettings(content=ContentSettings()),
    "make": ClickSettings(content=ContentSettings(tiers=0, make=MakeSettings())),
    "simtier_make": ClickSettings(content=ContentSettings(make=MakeSettings())),
    "semantic": ClickSettings(content=ContentSettings(tiers=0, semantic=SemanticSettings())),
    "ciubm": ClickSettings(content=ContentSettings(tiers=0, cube=CIUBM)),
    "cube": ClickSettings(content=ContentSettings(tiers=0, cube=CubeSettings())),
    "cube_simtier": ClickSettings(content=ContentSettings(cube=CubeSettings())),
    "sim_hard": ClickSettings(search=SIM_HARD),
    "sim_soft": ClickSettings(search=SIM_SOFT),
    "muse": ClickSettings(content=ContentSettings(), search=SearchSettings()),
}
