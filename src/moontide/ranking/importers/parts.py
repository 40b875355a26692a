"""Which impressions train a model, which choose one, and which judge it: frozen when a log is imported.

    part     train, validation, test
    policy   logged: what the shop chose to show; random: exposures drawn at random (KuaiRand)

The folder keeps every impression; `load_part` gives the training part and one part to score. Neither the
validation part nor random exposures are ever trained on, so a score on one part is that of the same model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from moontide.foundation.errors import CheckpointError, DataError, SettingsError
from moontide.foundation.storage import read_json
from moontide.ranking.samples import Samples

PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
POLICIES = ("logged", "random")
LOGGED, RANDOM = range(2)
MARKS = "marks.parquet"
SCORED = ("test", "validation", "random")


@dataclass(frozen=True)
class Marks:
    """Beside the samples, one of each for every impression.

    Args:
        part: uint8, place in PARTS. policy: uint8, place in POLICIES.
    """

    part: np.ndarray
    policy: np.ndarray

    def save(self, folder: Path) -> None:
        """Write the marks into a samples folder."""
        named = {"part": self.part, "policy": self.policy}
        pq.write_table(pa.table(named), folder / MARKS, compression="zstd")

    @classmethod
    def load(cls, folder: Path) -> Marks:
        """What `save` wrote."""
        table = pq.read_table(folder / MARKS)
        return cls(*(table.column(name).to_numpy() for name in ("part", "policy")))


def import_facts(folder: Path) -> dict[str, Any]:
    """import.json of an imported samples folder; empty for samples that no importer made."""
    file = folder / "import.json"
    return read_json(file) if file.is_file() else {}


def load_part(folder: Path | str, part: str = "test") -> Samples:
    """The training part of a samples folder, with one other part as its test period.

    Args:
        folder: written by an importer, or by `Samples.save`, which then has the part "test" only.
        part: "test"; "validation" to choose settings by; "random": the random exposures of the test period.

    Raises:
        CheckpointError: no samples there, or marks of other samples.
        SettingsError: there is no such part, or the folder has none of it.
    """
    folder = Path(folder)
    if part not in SCORED:
        raise SettingsError(f"a part to score is one of {', '.join(SCORED)}, got {part!r}")
    samples = Samples.load(folder)
    if not (folder / MARKS).is_file():
        if part != "test":
            raise SettingsError(f"{folder} has no part {part!r}: its samples have the part 'test' alone")
        return samples
    marks = Marks.load(folder)
    if len(marks.part) != len(samples):
        raise CheckpointError(f"{folder / MARKS} belongs to other samples: import them again")
    wanted, policy = (TEST, RANDOM) if part == "random" else (PARTS.index(part), LOGGED)
    is_scored = (marks.part == wanted) & (marks.policy == policy)
    if not is_scored.any():
        raise SettingsError(f"{folder} has no impressions of the part {part!r}: score another one")
    rows = np.flatnonzero(is_scored | ((marks.part == TRAIN) & (marks.policy == LOGGED)))
    return replace(samples.part(rows), is_test=is_scored[rows])


def by_shopper(shopper: np.ndarray, label: np.ndarray, shares: tuple[float, float, float]) -> np.ndarray:
    """The part of each impression, whole shoppers on one side, chosen by the hash of their id.

    Shoppers with and without a click are dealt apart, so that each part has its share of both, training
    first and validation last: with very few shoppers it is validation that stays empty.

    Args:
        shopper: int64 ids. label: clicked.
        shares: of train, validation and test; they sum to 1.
    """
    ids, place = np.unique(shopper, return_inverse=True)
    clicks = np.bincount(place, label, len(ids)) > 0
    drawn = mixed(ids)
    side = np.zeros(len(ids), np.uint8)
    train, _, test = shares
    for kind in (False, True):
        members = np.flatnonzero(clicks == kind)
        members = members[np.argsort(drawn[members], kind="stable")]
        at = (np.arange(len(members)) + 0.5) / max(len(members), 1)
        side[members] = np.where(at < train, TRAIN, np.where(at < train + test, TEST, VALIDATION))
    return side[place]


def by_time(
    at: np.ndarray, test_share: float, validation_share: float, policy: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """The part of each impression by time, and the moment the test part begins, ms.

    The last share of the logged impressions is for test and the share before it for validation; impressions
    of one moment stand on one side, random exposures on the side of their time.

    Raises:
        DataError: nothing is left before the test part.
    """
    order = np.sort(at if policy is None else at[policy == LOGGED])
    places = [int(len(order) * (1 - test_share - more)) for more in (validation_share, 0.0)]
    first, second = (order[min(place, len(order) - 1)] for place in places)
    if first <= order[0]:
        raise DataError(f"{len(at):,} impressions leave nothing to train on before the others: import more")
    return np.where(at >= second, TEST, np.where(at >= first, VALIDATION, TRAIN)).astype(np.uint8), int(
        second
    )


def mixed(ids: np.ndarray) -> np.ndarray:
    """A well-mixed uint64 of each int64 id (splitmix64), the same on every machine."""
    with np.errstate(over="ignore"):
        value = ids.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def check_shares(test_share: float, validation_share: float) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
        SettingsError: a share is negative, or both sum to 1 or more.
    """
    if min(test_share, validation_share) < 0 or test_share + validation_share >= 1:
        raise SettingsError(
            f"the shares for test and validation must be at least 0 and sum to less than 1, got {test_share} "
            f"and {validation_share}"
        )
