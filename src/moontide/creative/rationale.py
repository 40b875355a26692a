"""Written reasons for a pair's label: what the cold start of a judge learns from, and where each is from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from moontide.creative.records import OTHER, CreativePair, Letter, Order
from moontide.foundation.errors import DataError
from moontide.foundation.seeds import stream
from moontide.foundation.storage import storage_errors, write_bytes

ORDERS: tuple[Order, Order] = ("ab", "ba")
Provenance = Literal["annotator", "rejection", "label"]


@dataclass(frozen=True)
class Rationale:
    """A completion for one order of a pair.

    Paper: Creative4U 2, CoTRecord (ours: the paper reports none of its fields).

    Args:
        pair_id, order: the question it answers.
        letter: what it names, in that order.
        answers: question -> answer.
        text: the completion as trained on.
        provenance: "annotator", "rejection" for a model's own, sampled, or "label" for a letter alone.
        accepted: whether training may use it.
        reason: why not; blank if accepted.
    """

    pair_id: str
    order: Order
    letter: Letter
    answers: dict[str, str | None]
    text: str
    provenance: Provenance
    accepted: bool = True
    reason: str = ""


def write_rationales(path: Path, rationales: Iterable[Rationale]) -> None:
    """One line of JSON each."""
    lines = [json.dumps(asdict(one), ensure_ascii=False) for one in rationales]
    write_bytes(path, ("\n".join(lines) + "\n" if lines else "").encode())


def read_rationales(path: Path) -> list[Rationale]:
    """The rationales of a file.

    Raises:
        StorageError: the file cannot be read.
        DataError: a line is no rationale; the text names it.
    """
    with storage_errors(path):
        lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Rationale(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}, line {number} is no rationale ({error}): write the file again"
            ) from None
    return found


def accepted_of(rationales: Iterable[Rationale]) -> list[Rationale]:
    """Those that training may use."""
    return [one for one in rationales if one.accepted]


def balanced(rationales: Sequence[Rationale], seed: int) -> list[Rationale]:
    """As many that name A as name B, the surplus left out at random; their order is kept.

    Paper: Creative4U 3.4: letters balanced exactly (ours).
    """
    rows: dict[str, list[int]] = {"A": [], "B": []}
    for number, one in enumerate(rationales):
        rows[one.letter].append(number)
    num = min(map(len, rows.values()))
    kept: set[int] = set()
    for letter, numbers in rows.items():
        chosen = stream(seed, "balance", letter).permutation(len(numbers))[:num]
        kept |= {numbers[place] for place in chosen}
    return [one for number, one in enumerate(rationales) if number in kept]


def in_order(letter: Letter, order: Order) -> Letter:
    """The letter of the same creative once the pair is shown in `order`; its own inverse.

    Example:
        >>> in_order("A", "ba")
        'B'
    """
    return letter if order == "ab" else OTHER[letter]


def labels_only(pairs: Iterable[CreativePair]) -> list[Rationale]:
    """The label of both orders of every pair without any reasoning: for a judge that only answers."""
    found = []
    for pair in pairs:
        for order in ORDERS:
            letter = in_order(pair.label, order)
            found.append(Rationale(pair.pair_id, order, letter, {}, f"<answer>{letter}</answer>", "label"))
    return found


def counts(rationales: Iterable[Rationale]) -> Counter[str]:
    """How many were accepted, and how many refused for which reason."""
    return Counter("accepted" if one.accepted else one.reason for one in rationales)
