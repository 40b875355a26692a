"""Checks what no linter knows: order of rooms, file lengths, the docs index, spare file names.

Run by `make check`; prints every finding and exits 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "moontide"
ROOMS = (
    "foundation", "catalog", "market", "encoder", "center", "ranking", "creative", "titles", "serving",
    "studies", "recipes",
)  # fmt: skip
MAX_LINES = 500
SPARE_NAMES = {"utils", "common", "misc", "helpers", "helper", "base"}


def imported_rooms(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and room of every import of the package, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "a relative import"
        elif isinstance(node, ast.ImportFrom) and node.module == "moontide":
            names = [f"moontide.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "moontide" and len(parts) > 1:
                yield node.lineno, parts[1]


def order_findings(source: Path = SOURCE) -> Iterator[str]:
    """Imports that point from a room to one below it."""
    for number, room in enumerate(ROOMS):
        for file in sorted((source / room).rglob("*.py")):
            for line, other in imported_rooms(ast.parse(file.read_text())):
                if other not in ROOMS[: number + 1]:
                    yield f"{file.relative_to(source)}:{line}: {room} may not import {other}"


def length_findings() -> Iterator[str]:
    for folder in ("src", "tests", "benchmarks", "tools"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            lines = len(file.read_text().splitlines())
            if lines > MAX_LINES:
                yield f"{file.relative_to(ROOT)}: {lines} lines, more than {MAX_LINES}: split it"
            if file.stem in SPARE_NAMES or file.parent.name in SPARE_NAMES:
                yield f"{file.relative_to(ROOT)}: a file or room of that name says nothing"


def truth_findings() -> Iterator[str]:
    """`Dataset.truth` is read by market, studies and tests alone."""
    for room in ROOMS:
        if room in ("catalog", "market", "studies"):
            continue
        for file in sorted((SOURCE / room).rglob("*.py")):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if re.search(r"\.truth\(|[\"']truth[\"'/]", line):
                    yield f"{file.relative_to(ROOT)}:{number}: {room} may not read the hidden truth"


def docs_findings() -> Iterator[str]:
    """Relative links of the documentation lead somewhere; every docs page is reachable from the README."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    linked = set()
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" in target:
                continue
            file = (page.parent / target).resolve()
            linked.add(file)
            if not file.exists():
                yield f"{page.relative_to(ROOT)}: the link to {target} leads nowhere"
    for page in pages[1:]:
        if page.resolve() not in linked:
            yield f"{page.relative_to(ROOT)}: no page links to it"


def main() -> int:
    findings = [*order_findings(), *length_findings(), *truth_findings(), *docs_findings()]
    print("\n".join(findings) or "house: rooms in order, files short, links whole")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
