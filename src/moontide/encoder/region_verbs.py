"""The command `moontide encoder regions`: where in its pictures each product is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from moontide.catalog.dataset import Dataset
    from moontide.catalog.regions import RegionFinder


def regions(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="dataset folder")],
    to: Annotated[
        Path | None, typer.Option(help="folder for a copy that shares the files; default: the dataset itself")
    ] = None,
    finder: Annotated[
        str,
        typer.Option(
            help="saliency; trained, on annotated pictures; best, trained where 64 are annotated; "
            "or the folder of a trained finder, a Qwen2.5-VL or a Qwen3-VL"
        ),
    ] = "best",
    save: Annotated[Path | None, typer.Option(help="folder to keep a newly trained finder in")] = None,
) -> None:
    """Find the product in every picture; go on where an interrupted call stopped."""
    from moontide.catalog.console import counts_table
    from moontide.catalog.dataset import Dataset
    from moontide.catalog.region_search import find_regions
    from moontide.encoder.regions import TrainedFinder
    from moontide.foundation.errors import SettingsError

    opened = Dataset.open(dataset)
    found = _finder(opened, finder)
    if save is not None:
        if not isinstance(found, TrainedFinder):
            raise SettingsError(
                f"only a trained finder can be kept, this one is {found.version}: leave out --save"
            )
        found.save(save)
    counts = find_regions(opened, found, to)
    Console().print(counts_table(f"Regions by {found.version}", counts.lines()))


def _finder(dataset: Dataset, name: str) -> RegionFinder:
    from moontide.catalog.regions import Saliency
    from moontide.encoder.grounding import GroundingFinder
    from moontide.encoder.regions import FILE, TrainedFinder, best_finder, train_finder

    if name == "saliency":
        return Saliency()
    if name == "trained":
        return train_finder(dataset)[0]
    if name == "best":
        return best_finder(dataset)
    return TrainedFinder.load(name) if (Path(name) / f"{FILE}.json").is_file() else GroundingFinder.load(name)
