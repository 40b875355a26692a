"""Which click models stand in which table, and what the literature has below each.

    heads   every published use of vectors beside ids, with both controls    mim.md 3.5 to 3.8
    cube    CUBE without each of its inputs, other weights, without past queries    moon_embedding.md 3.8
    make    passes of the content model before the ids begin    mim.md 6
    exact   what reads the behaviors that a search found    mim.md 6

Only the order of rows is compared with publications; none of their numbers is shown as ours.
"""

from __future__ import annotations

from collections.abc import Callable

from moontide.ranking.compositions import COMPOSITIONS
from moontide.ranking.cube import PARTS, CubeSettings
from moontide.ranking.heads import ContentSettings
from moontide.ranking.make import MakeSettings
from moontide.ranking.models import ClickSettings
from moontide.ranking.search import SearchSettings
from moontide.studies.models import Model

ABOVE = {
    "id": ("popularity",),
    "vector": ("id",),  # analog SimTier
    "simscore": ("vector",),  # analog SimTier
    "semantic": ("id",),  # analog EST
    "simtier": ("simscore",),  # analog SimTier
    "make": ("simscore",),  # analog MAKE
    "simtier_make": ("simtier", "make"),  # analog SimTier
    "sim_hard": ("id",),  # analog MUSE
    "sim_soft": ("id",),  # analog MUSE
    "muse": ("sim_hard", "sim_soft"),  # analog MUSE
}


def heads() -> list[Model]:
    """Every model, from popularity to all heads together, and the two controls."""
    rows = [Model("popularity", None), Model("logistic", None)]
    rows += [Model(name, settings, above=ABOVE.get(name, ())) for name, settings in COMPOSITIONS.items()]
    simtier = COMPOSITIONS["simtier"]
    return [*rows, Model("permuted", simtier, "permuted"), Model("random", simtier, "random")]


def cube() -> list[Model]:
    """CUBE whole, and what each of its inputs is worth; ID-interest and past queries among them."""
    plain = ContentSettings(tiers=0, match=False)

    def of(settings: CubeSettings, use_interest: bool = True) -> ClickSettings:
        return ClickSettings(content=plain.but(cube=settings), use_interest=use_interest)

    whole = CubeSettings()
    rows = [Model("id", ClickSettings()), Model("cube", of(whole))]
    rows += [
        Model(f"cube - {part}", of(whole.but(parts=tuple(one for one in PARTS if one != part))))
        for part in PARTS
    ]
    rows.append(Model("cube - ID-interest", of(whole, use_interest=False)))
    rows.append(Model("cube - past queries", of(whole.but(has_queries=False))))
    rows += [Model(f"cube, {how}", of(whole.but(weights=how))) for how in ("raw", "topk")]
    return [*rows, Model("cube + simtier", ClickSettings(content=ContentSettings(cube=whole)))]


def make() -> list[Model]:
    """MAKE after so many passes over content alone; 0 learns with the ids."""
    passes = (0, 1, 2, 4, 6, 8, 10)  # analog MAKE
    plain = ContentSettings(tiers=0)
    rows = [Model("id", ClickSettings())]
    return rows + [
        Model(f"make {num}", ClickSettings(content=plain.but(make=MakeSettings(epochs=num))))
        for num in passes
    ]


def exact() -> list[Model]:
    """The exact unit over what a search by content found, and searches with MUSE's own unit."""
    content = ContentSettings()
    units = {
        "attention": SearchSettings(unit="attention", tiers=0),
        "simtier only": SearchSettings(unit="attention"),
        "SA-TA": SearchSettings(tiers=0),
        "SA-TA + simtier": SearchSettings(),
        "by category": SearchSettings(by="category"),
        "by id": SearchSettings(by="id"),
    }
    rows = [Model("id", ClickSettings())]
    return rows + [Model(name, ClickSettings(content=content, search=one)) for name, one in units.items()]


def ladder() -> list[Model]:
    """R0 to R5: in turn the encoder changes and what the click model does with its vectors (ours, 3.12)."""
    plain, top = ContentSettings(tiers=0), CubeSettings(has_queries=False)
    vector = ClickSettings(content=plain.but(vector=True))
    score = ClickSettings(content=plain.but(vector=True, score=True))
    tier = ClickSettings(content=ContentSettings(score=True, cube=top.but(parts=("content",))))
    items = ClickSettings(content=ContentSettings(cube=top))
    both = ClickSettings(content=ContentSettings(cube=CubeSettings()))
    return [
        Model("R0, ids", ClickSettings()),
        Model("R1, vector", vector, vectors="R1"),
        Model("R2, vector", vector, vectors="R2"),
        Model("R2, + score", score, vectors="R2"),
        Model("R3, + score", score, vectors="R3"),
        Model("R3, + SimTier, content-interest", tier, vectors="R3"),
        Model("R4, + SimTier, content-interest", tier, vectors="R4"),
        Model("R4, CUBE over items", items, vectors="R4"),
        Model("R5, CUBE over items", items, vectors="R5"),
        Model("R5, CUBE over items and queries", both, vectors="R5"),
    ]


TABLES: dict[str, Callable[[], list[Model]]] = {"heads": heads, "cube": cube, "make": make, "exact": exact}
