"""What choosing creatives is worth, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moontide.studies.counterfactual import share


def selection_markdown(found: Mapping[str, Any]) -> str:
    """The result of `selection.select` for people."""
    settings = found["settings"]
    lines = [
        f"{found['products']:,} held-out products are measured, {found['eta_products']:,} others fit eta. "
        f"Intervals: 95 %, products drawn again. A bandit shows {settings['impressions']:,} impressions of a "
        f"product and day and learns overnight. Kappa is {settings['kappa']:g} of a judge's prior and "
        f"{found['flat_kappa']:g} of the flat one, the best of "
        f"{', '.join(f'{one:g}' for one in settings['flat_kappas'])}.",
        "",
        *_head(("choice of one creative", "CTR uplift over random", "of the best one's", "top 1 to 5")),
    ]
    for name, row in found["top_one"].items():
        cells = (name, share(row["uplift"], "{:+.1%}"), f"{row['of_best']:.0%}", f"{row['top_k']:+.1%}")
        lines.append(_line(cells))
    lines += ["", *_bandits(found), "", *_saved(found), "", *_replay(found)]
    etas = "; ".join(
        f"{name}: {', '.join(f'{eta:.2f}' for eta in own)}" for name, own in found["eta"].items()
    )
    return "\n".join([*lines, "", f"Fitted eta, by seed: {etas}."]) + "\n"


def _bandits(found: Mapping[str, Any]) -> list[str]:
    days = found["settings"]["days"]
    shown = sorted({0, 1, 3, 7, 14, days} & set(range(days + 1)))
    heads = ("policy", *(f"CTR, day {day}" for day in shown))
    lines = _head((*heads, "mean CTR", "over the flat prior", "clicks lost per 1,000"))
    for name, row in found["bandits"].items():
        by_day = [f"{row['ctr'][day]:.2%}" for day in shown]
        cells = [name, *by_day, share(row["mean"], "{:.2%}"), share(row.get("lift"), "{:+.1%}")]
        lines.append(_line([*cells, share(row["regret"], "{:.1f}")]))
    return lines


def _saved(found: Mapping[str, Any]) -> list[str]:
    levels = [f"{level:.0%}" for level in found["levels"]]
    heads = [f"to {level} of the way" for level in levels]
    lines = [
        "Impressions of a product that a prior saves until the same CTR, on the way from a uniform to the "
        "best choice:",
        "",
        *_head(("policy", *heads, "to its first day's CTR")),
    ]
    for name, row in found["bandits"].items():
        if "saved" in row:
            lines.append(_line([name, *(_saving(row["saved"][key]) for key in (*levels, "first day"))]))
    return lines


def _saving(one: Mapping[str, Any]) -> str:
    if not one["is_reached"]:
        return "not reached"
    text = share(one["saved"], "{:,.0f}")
    return f"at least {text}" if one["is_bound"] else f"{text} of {one['flat']:,.0f}"


def _replay(found: Mapping[str, Any]) -> list[str]:
    lines = _head(("replay of a uniform log", "sCTR", "NSCTR", "coverage", "true CTR of the choice"))
    for name, row in found["replay"].items():
        true = "–" if row["true_ctr"] is None else f"{row['true_ctr']:.2%}"
        lines.append(
            _line([name, f"{row['sctr']:.2%}", f"{row['nsctr']:.2%}", f"{row['coverage']:.0%}", true])
        )
    return lines


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
