"""The command `moontide serve`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from moontide.foundation.device import threads

log = logging.getLogger(__name__)


def serve(
    run: Annotated[Path, typer.Argument(help="folder of a finished run, for example runs/demo")],
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0 opens it to the network")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65535)] = 8000,
) -> None:
    """Open the search page and the JSON API of a run."""
    import uvicorn  # only this verb needs it and what follows

    from moontide.serving.app import create_app

    app = create_app(run)
    typer.echo(f"moontide is at http://{'localhost' if host == '127.0.0.1' else host}:{port}  (stop: Ctrl+C)")
    with threads():
        uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)
