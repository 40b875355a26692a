"""Commands of this room: `moontide creative pairs`, `judge`, `train`, `rank`."""

from __future__ import annotations

import typer

from moontide.creative.judge_verbs import judge, rank, train
from moontide.creative.pair_verbs import pairs

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Compare, explain and rank a product's pictures."
)
app.command()(pairs)
app.command()(judge)
app.command()(train)
app.command()(rank)
