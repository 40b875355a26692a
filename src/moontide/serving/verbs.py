"""The command `moontide serve`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from moontide.foundation.device import threads
from moontide.foundation.errors import SettingsError

MAX_CONNECTIONS = 256  # beyond it a 503: each may hold an upload in memory


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

    with _listen(host, port) as listener:  # before the models are loaded: a taken port is said at once
        config = uvicorn.Config(
            create_app(run), log_level="warning", server_header=False, ws="none",
            limit_concurrency=MAX_CONNECTIONS,
        )  # fmt: skip
        name = "localhost" if host == "127.0.0.1" else f"[{host}]" if ":" in host else host
        typer.echo(f"moontide is at http://{name}:{port}  (stop: Ctrl+C)")
        with threads():
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; uvicorn begins to listen on it.

    Raises:
        SettingsError: the port is taken, or the address is not this machine's.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}, port {port} ({error.strerror}): name others by --host and --port"
        ) from None
    return listener
