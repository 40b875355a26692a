"""What can go wrong because of something outside moontide, as one tree.

    MoontideError                  the command line prints the text and exits 2
    ├── SettingsError              a setting out of range, or two that contradict each other
    ├── DataError                  a dataset, table, column or row that is not what it should be
    │   ├── CellError              one cell that cannot be read; `reason` is a short key for counting
    │   └── ImageError             one picture that is refused; `reason` as well
    ├── CheckpointError            a run folder, checkpoint or model folder of something else, or broken
    └── StorageError               a path that cannot be read or written: missing, read-only, full

The text says what is wrong, the value, and what to do. Our own invariants use `assert`, never these.
"""

from __future__ import annotations


class MoontideError(Exception):
    """Any mistake a user can mend; its text is one or two plain sentences."""


class SettingsError(MoontideError):
    """A setting is out of range, unknown, or contradicts another one."""


class DataError(MoontideError):
    """A dataset, table, column or row is not what it should be."""


class CellError(DataError):
    """One cell of a table cannot be read.

    Args:
        reason: short key that import tables count by, for example "bad_price".
        text: the sentence for people.
    """

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class ImageError(DataError):
    """One picture is refused.

    Args:
        reason: short key that import tables count by, for example "too_many_pixels".
        text: the sentence for people.
    """

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class CheckpointError(MoontideError):
    """A run folder, checkpoint or model folder belongs to something else, or is broken."""


class StorageError(MoontideError):
    """A path cannot be read or written: missing, read-only or full."""
