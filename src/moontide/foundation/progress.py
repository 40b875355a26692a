"""Progress of long work: a bar with rate and time left on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
console = Console(stderr=True)
LINE_SECONDS = 30.0


class Meter:
    """Counts work done; call `step(n)` after each piece and `note(text)` to show a figure beside the bar."""

    def __init__(self, total: int | None, what: str, bar: Progress | None):
        self.total, self.what, self.done, self.text = total, what, 0, ""
        self._bar = bar
        self._task = bar.add_task(what, total=total, rate="", note="") if bar else None
        self._start = self._said = time.monotonic()

    def step(self, num: int = 1) -> None:
        self.done += num
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=num, rate=f"{self.rate:,.0f}/s", note=self.text)
        elif time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            log.info("%s", self.line())

    def note(self, text: str) -> None:
        self.text = text

    @property
    def rate(self) -> float:
        """Pieces a second since the start."""
        return self.done / max(time.monotonic() - self._start, 1e-9)

    def line(self) -> str:
        left = (
            "" if not self.total else f", {max(self.total - self.done, 0) / max(self.rate, 1e-9):,.0f} s left"
        )
        of = "" if not self.total else f" of {self.total:,}"
        return f"{self.what}: {self.done:,}{of}, {self.rate:,.0f}/s{left} {self.text}".rstrip()


@contextmanager
def track(total: int | None, what: str) -> Generator[Meter]:
    """Show the progress of the block's work; `total` counts pieces, None when it is not known."""
    if not console.is_terminal:
        yield Meter(total, what, None)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    ]
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True
    ) as bar:
        yield Meter(total, what, bar)
