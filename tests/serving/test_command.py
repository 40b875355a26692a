"""The command `moontide serve` and the address it listens on."""

import socket

import pytest
from typer.testing import CliRunner

from moontide.cli import app
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.serving.verbs import _listen


def test_a_taken_port_is_said_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=rf"cannot listen on 127.0.0.1, port {port} \(Address already"
        ):
            _listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1, port 0"):
        _listen("192.0.2.1", 0)


def test_a_folder_without_a_run_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["serve", str(tmp_path / "nothing"), "--port", str(free_port())])
    assert isinstance(done.exception, CheckpointError)
    assert "no run at" in str(done.exception)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]
