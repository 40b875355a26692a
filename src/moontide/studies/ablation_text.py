"""An ablation's table as Markdown: values, differences, the order against the paper, what is missing."""

from __future__ import annotations

from typing import Any

from moontide.studies.grid import as_markdown

MARKS = {"seeds and queries": "", "queries": "¹", "seeds": "²", "nothing": "³"}
FOOTNOTES = {
    "queries": "¹ One seed, so never resolved: the interval covers the choice of queries, not another seed.",
    "seeds": "² The interval covers seeds alone: the column has no queries, or other ones for every seed.",
    "nothing": "³ One number each: no interval.",
}


def ablation_markdown(table: dict[str, Any]) -> str:
    """The page of a table (see `ablation.ablation_table`)."""
    missing = {cell: reason for row in table["rows"] for cell, reason in row["missing"].items()}
    num = len(table["rows"]) * len(table["seeds"])
    facts = [f"{name} {value}" for name, value in table["data"].items()]
    facts += [
        f"seeds {', '.join(map(str, table['seeds']))}",
        f"{num - len(missing)} of {num} cells are there",
    ]
    parts = [f"# {table['ablation']}\n", f"Paper: {table['paper']}. Ours: {'; '.join(facts)}.\n"]
    parts += [_values(table), _differences(table)]
    if table["order"]:
        parts.append("## Order against the paper\n\n" + order_text(table["order"]))
    if notes := [f"- {row['row']}: {row['note']}" for row in table["rows"] if row["note"]]:
        parts.append("## Rows\n\n" + "\n".join(notes) + "\n")
    if missing:
        lines = [f"- {cell}: {' '.join(reason.split())}" for cell, reason in missing.items()]
        parts.append("## Cells without a result\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def against(table: dict[str, Any]) -> str:
    """What each row is compared with."""
    return table["rows"][0]["row"] if table["reference"] == "first" else "the row before"


def row_state(row: dict[str, Any]) -> str:
    """Why a row shows no value: "not run", "begun", "failed", or "–" for a column it does not measure."""
    if row["seeds"]:
        return "–"
    states = [reason.split(":")[0] for reason in row["missing"].values()]
    return next((state for state in ("failed", "begun") if state in states), "not run")


def _values(table: dict[str, Any]) -> str:
    lines = []
    for row in table["rows"]:
        line = {"row": row["row"]}
        for column, value in row["values"].items():
            line[column] = row_state(row) if value is None else value
        pairs = " to ".join(f"{number:,}" for number in sorted({*row["pairs"][:1], *row["pairs"][-1:]}))
        line |= {"pairs seen": pairs or None, "seeds": f"{len(row['seeds'])} of {len(table['seeds'])}"}
        minutes = row["core_minutes"]
        lines.append(line | {"core min a cell": None if minutes is None else f"{minutes:.1f}"})
    text = "Mean over seeds.\n\n" + as_markdown(list(lines[0]), lines)
    if len({pairs for row in table["rows"] for pairs in row["pairs"]}) > 1:
        text += "\nThe rows did not all see the same number of pairs.\n"
    return text


def _differences(table: dict[str, Any]) -> str:
    lines, known = [], []
    for row in table["rows"]:
        if row["reference"] is None:
            continue
        line = {"row": row["row"]}
        for column, found in row["differences"].items():
            line[column] = row_state(row) if found is None else _difference(found)
            known += [found] if found else []
        lines.append(line)
    lines.append({"row": "resolvable", **table["resolvable"]})
    num = sum(found["low"] is not None for found in known)
    used = {found["over"] for found in known}
    text = f"## Difference to {against(table)}\n\n" + as_markdown(["row", *table["columns"]], lines)
    text += (
        "\nRow minus reference [95 % interval], paired by seed and query; bold: resolved, it excludes 0. "
        f"With {num} intervals, {num / 20:.1f} do so by chance.\n"
        "Resolvable: the true difference that the median row would find 8 times of 10 (with one seed: as far "
        "as queries go).\n"
    )
    return text + "".join(f"\n{note}\n" for over, note in FOOTNOTES.items() if over in used)


def _difference(found: dict[str, Any]) -> str:
    value, mark = f"{found['value']:+.4f}", MARKS[found["over"]]
    if found["low"] is None:
        return f"{value}{mark}"
    value = f"**{value}**" if found["is_resolved"] else value
    return f"{value} [{found['low']:+.4f}, {found['high']:+.4f}]{mark}"


def order_text(reports: list[dict[str, Any]]) -> str:
    """In words: which columns order the rows as the paper does, and which pairs are turned around."""
    known = [report for report in reports if report["pairs"]]
    same = sum(report["as_published"] == report["pairs"] for report in known)
    turned = [pair for report in known for pair in report["reversed"]]
    num_sure = sum(pair["is_resolved"] for pair in turned)
    lines = [
        f"Only the order of the paper's rows is looked at. It is ours in {same} of {len(known)} columns. "
        f"{len(turned)} of {sum(report['pairs'] for report in known)} pairs of rows are turned around, "
        f"{num_sure} of them resolved.\n"
    ]
    for report in reports:
        if not report["pairs"]:
            lines.append(f"- {report['column']}: no two rows to compare yet")
            continue
        line = (
            f"- {report['column']}: {report['as_published']} of {report['pairs']} pairs as published, "
            f"{report['resolved']} of them resolved (tau {report['tau']:+.2f})"
        )
        pairs = [
            f"{pair['lower']} is above {pair['higher']} by {pair['value']:.4f}"
            f" ({'resolved' if pair['is_resolved'] else 'not resolved'})"
            for pair in report["reversed"]
        ]
        lines.append("; ".join([line, *pairs]))
    return "\n".join(lines) + "\n"
