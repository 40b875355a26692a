"""The small shop, written once for all tests of the room, and a client of its server."""

import pytest
from small_shop import open_pipeline, write_run, write_shop
from starlette.testclient import TestClient

from moontide.serving.app import create_app


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("serving") / "shop")


@pytest.fixture(scope="session")
def pipeline(shop):
    return open_pipeline(shop)


@pytest.fixture(scope="session")
def client(pipeline):
    return TestClient(create_app(pipeline), raise_server_exceptions=False)


@pytest.fixture(scope="session")
def run_folder(shop, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("serving") / "demo", shop)
