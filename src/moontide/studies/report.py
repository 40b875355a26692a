"""One self-contained HTML file that says what a run gained: numbers, tables, figures, sample searches.

`write_report` renders a `ReportData`; it measures nothing and knows no other room's results. The chain fills
the records below; `curves_of` and `facts_of` fill two of them from a run folder. The file needs no network:
style, figures (SVG) and pictures (JPEG) are inside it, and its content policy forbids anything else.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moontide.foundation.errors import ImageError
from moontide.foundation.images import decode
from moontide.foundation.runs import Run
from moontide.foundation.statistics import Interval
from moontide.foundation.storage import write_bytes
from moontide.studies.plots import Curves, Figure, draw

PICTURE_SIDE = 128  # pixels; a report with 100 pictures stays near half a megabyte


@dataclass(frozen=True)
class Number:
    """One key number of the summary row; `value` is text, or a number that is formatted like a table cell."""

    label: str
    value: Any
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Args:
        columns: names, in order; a row may lack some.
        rows: one mapping a row; a value is text, a number, an `Interval`, a bool or None (shown as a dash).
        title: shown above.
        above: what a reader must know first, for instance the smallest difference that can be resolved.
        note: shown below.
        formats: column -> Python format, for instance `{"AUC": ".4f"}`; others get four figures.
        best: column -> "max" or "min": the best finite value of the column is set in bold.
        groups: name of the column whose change draws a rule between rows, for instance "slice".
        bounds: numbers of rows that are limits rather than contestants, for instance the truth: never best.
    """

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    title: str = ""
    above: str = ""
    note: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)
    best: Mapping[str, Literal["max", "min"]] = field(default_factory=dict)
    groups: str | None = None
    bounds: Sequence[int] = ()


class Result(NamedTuple):
    """One result of a sample search; `is_right` marks it when known. A (jpeg, caption) pair will do too."""

    jpeg: bytes | None
    caption: str
    is_right: bool | None = None


@dataclass(frozen=True)
class Sample:
    """One search: a text, a picture or both, and what came back, best first."""

    query_text: str | None
    query_jpeg: bytes | None
    results: Sequence[Result | tuple[bytes | None, str]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs (parted by blank lines), then tables, figures and sample searches."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    samples: Sequence[Sample] = ()


@dataclass(frozen=True)
class ReportData:
    """A whole report.

    Args:
        title: the finding in one sentence.
        name: what was run, for instance "demo, size tiny".
        lead: a paragraph under the title: what was compared, on what, and how sure it is.
        numbers: the summary row, four to six.
        sections: in reading order.
        facts: the last part: commit, seed, sizes, times; see `facts_of`.
    """

    title: str
    name: str = "moontide"
    lead: str = ""
    numbers: Sequence[Number] = ()
    sections: Sequence[Section] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: Path | str, data: ReportData) -> Path:
    """Write the report to `path` as one HTML file, whole or not at all.

    Returns:
        The path written.

    Raises:
        StorageError: the disk refuses.
    """
    path = Path(path)
    write_bytes(path, render_report(data).encode())
    return path


def render_report(data: ReportData) -> str:
    """The report as HTML text; every value is escaped."""
    environment = Environment(
        loader=PackageLoader("moontide.studies"),
        autoescape=True,  # of every template, whatever its ending
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: dict[str, Any] = {"drawn": _drawn, "result_of": _result_of}
    environment.globals |= functions
    environment.filters |= {"cell": cell, "picture": picture, "is_numeric": _is_numeric}
    environment.filters |= {"best_rows": best_rows, "paragraphs": _paragraphs, "unbroken": _unbroken}
    return environment.get_template("report.html.j2").render(report=data)


def _drawn(figure: Figure, name: str) -> Markup:
    return Markup(draw(figure, name))


def _result_of(item: Result | tuple[bytes | None, str]) -> Result:
    return Result(*item)


def cell(value: Any, spec: str | None = None) -> str:
    """A value as people read it.

    Example:
        >>> cell(12345), cell(0.71234567), cell(None), cell(True), cell(0.5, ".1%")
        ('12,345', '0.7123', '–', 'yes', '50.0%')
        >>> cell(Interval(0.71, 0.70, 0.72, standard_error=0.005), ".3f")
        '0.710 [0.700, 0.720]'
    """
    if isinstance(value, Interval):
        return f"{cell(value.value, spec)} [{cell(value.low, spec)}, {cell(value.high, spec)}]"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item") and not isinstance(value, str):  # a numpy number
        return cell(value.item(), spec)
    if isinstance(value, int | float):
        if spec:
            return format(value, spec)
        is_whole = isinstance(value, int) or (abs(value) >= 1000)
        return f"{value:,.0f}" if is_whole else f"{value:.4g}"
    return str(value)


def best_rows(table: Table, column: str) -> set[int]:
    """Numbers of the rows that hold the best finite value of a column, or of their group in it."""
    sign = {"max": 1, "min": -1}.get(table.best.get(column, ""))
    if sign is None:
        return set()
    best: dict[Any, tuple[float, set[int]]] = {}
    for number, row in enumerate(table.rows):
        value = _number(row.get(column))
        if value is None or number in table.bounds:
            continue
        group = row.get(table.groups) if table.groups else None
        top, rows = best.get(group, (-math.inf, set()))
        if sign * value > top:
            best[group] = (sign * value, {number})
        elif sign * value == top:
            rows.add(number)
    return set().union(*(rows for _, rows in best.values()))


def picture(data: bytes | None, side: int = PICTURE_SIDE) -> str | None:
    """A picture as a `data:` address of a small JPEG; None if there is none or it cannot be decoded."""
    if not data:
        return None
    try:
        image = decode(data)
    except ImageError:
        return None
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def curves_of(
    run: Run, stage: str, names: Sequence[str], title: str = "", y_label: str = "", log_y: bool = False
) -> Curves:
    """Curves of the named metrics of one stage, over its steps, as the run logged them.

    Args:
        names: keys of the stage's lines in metrics.jsonl; a line without a key is left out of its curve.
    """
    lines = run.metrics(stage)
    series = {
        name: [(line["step"], float(line[name])) for line in lines if line.get(name) is not None]
        for name in names
    }
    return Curves(title or stage, series, x_label="step", y_label=y_label, log_y=log_y)


def facts_of(
    run: Run,
    sizes: Mapping[str, int] | None = None,
    wall_seconds: Mapping[str, float] | None = None,
    peak_memory_bytes: int | None = None,
) -> dict[str, Any]:
    """What a reader needs to repeat a run: recipe, commit, seed, versions, sizes, times, memory."""
    commit = run.facts.get("commit")
    facts: dict[str, Any] = {
        "recipe": run.facts.get("recipe"),
        "commit": f"{commit}, with changes" if commit and run.facts.get("dirty") else commit,
        "seed": str(run.facts.get("seed")),
        "started": run.facts.get("started_at"),
        "device": run.facts.get("device"),
        "python": run.facts.get("python"),
    }
    facts |= dict(sizes or {})
    facts |= {f"{name}, wall time": f"{seconds:,.1f} s" for name, seconds in (wall_seconds or {}).items()}
    if wall_seconds:
        facts["whole run, wall time"] = f"{sum(wall_seconds.values()):,.1f} s"
    if peak_memory_bytes:
        facts["peak memory"] = f"{peak_memory_bytes / 2**30:.2f} GiB"
    versions = {name: version for name, version in (run.facts.get("versions") or {}).items() if version}
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items()) or None
    return {name: value for name, value in facts.items() if value is not None}


def _number(value: Any) -> float | None:
    """The finite number in a cell, None for anything else."""
    if isinstance(value, Interval):
        return _number(value.value)
    if value is None or isinstance(value, bool | str):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _is_numeric(table: Table, column: str) -> bool:
    """Whether a column holds numbers alone (and dashes), and is set flush right."""
    values = [row.get(column) for row in table.rows]
    return any(_number(value) is not None for value in values) and all(
        value is None or isinstance(value, Interval | float) or _number(value) is not None for value in values
    )


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def _unbroken(text: str) -> str:
    """Text whose numbers are not parted from their unit or sign at a line's end."""
    return re.sub(r"(?<=\d) (?=%|s\b|min\b|h\b|to \d|±)", "\N{NO-BREAK SPACE}", text)
