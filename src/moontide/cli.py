"""The command line: mounts each room's `verbs.py`; a user's mistake prints one or two lines and exits 2.

Rooms are imported when their command is asked for: `moontide --help` must not wait for PyTorch.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from moontide.foundation.errors import MoontideError
from moontide.foundation.storage import storage_errors

# verb -> (room whose verbs.py has it, the name there, one line for --help)
VERBS = {
    "demo": ("recipes", "demo", "Run the whole chain on a rendered market and write a report."),
    "run": ("recipes", "run", "Run the whole chain on your own dataset folder."),
    "serve": ("serving", "serve", "Serve a finished run: search API and page."),
    "data": ("catalog", "app", "Import, check and split datasets."),
    "market": ("market", "app", "Build a simulated market, or open one over a dataset."),
    "embed": ("center", "embed", "Embed a catalog into a representation center."),
    "center": ("center", "app", "Look into a representation center."),
    "encoder": ("encoder", "app", "Encode a text or a picture with a trained encoder."),
    "evaluate": ("encoder", "evaluate_command", "Benchmark encoders and baselines on held-out products."),
    "reason": ("encoder", "reason", "Let an encoder write about products before they are embedded."),
    "creative": ("creative", "app", "Pairs of creatives, a judge that gives reasons, a ranking."),
    "heatmap": ("encoder", "heatmap", "Show which words and picture regions carry a match."),
    "ranking": ("ranking", "app", "Train and evaluate click models."),
    "benchmark": ("catalog", "benchmark_app", "Freeze a log into a benchmark that others can use."),
    "study": ("recipes", "study", "Comparisons over seeds, cached cell by cell."),
    "papers": ("recipes", "papers", "The published systems and where each is found here."),
}


class LazyVerbs(TyperGroup):
    """Commands whose room is imported only when they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        if ctx.resilient_parsing or any(word in ctx.help_option_names for word in sys.argv[1:2]):
            return TyperCommand(cmd_name, short_help=VERBS[cmd_name][2])
        room, name, _ = VERBS[cmd_name]
        verb = getattr(importlib.import_module(f"moontide.{room}.verbs"), name)
        if isinstance(verb, typer.Typer):
            return typer.main.get_command(verb)
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(verb)
        return typer.main.get_command(single)


app = typer.Typer(cls=LazyVerbs, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def options(
    ctx: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    quiet: bool = typer.Option(False, "--quiet", help="Only warnings and results."),
) -> None:
    """Multimodal product vectors that lift click-through rate, and the ad server that uses them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # our bars say what is going on
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # waiting threads that spin on slow others tenfold
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("moontide").setLevel(logging.WARNING if quiet else logging.INFO)


def main() -> None:
    """Entry point of the `moontide` command."""
    try:
        with storage_errors("."):
            app(standalone_mode=True)
    except MoontideError as error:
        if "--debug" in sys.argv:
            raise
        print(f"moontide: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
