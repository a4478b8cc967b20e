"""A gateway in this process, over a server that is not Triton but answers as the models would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.config import Settings
from serving.gateway.app import create_app
from serving.gateway.catalogue import Catalogue
from serving.testing.stub_bundles import stub_bundles, stub_canaries
from serving.testing.stub_server import StubServer
from serving.testing.stub_streams import StubStreams


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """A classifier, a detector with a scenario, an embedder and a raw model."""
    return Catalogue(stub_bundles(tmp_path))


@pytest.fixture
def server(catalogue: Catalogue) -> StubServer:
    """The server behind the gateway."""
    return StubServer(catalogue.bundles)


@pytest.fixture
def settings() -> Settings:
    """Defaults; a test module may override."""
    return Settings()


@pytest.fixture
def client(settings: Settings, server: StubServer, catalogue: Catalogue) -> Iterator[TestClient]:
    """A client of a started app. Exceptions of the app would be raised here: none may come out."""
    with TestClient(create_app(settings, server, catalogue, stub_canaries(catalogue.bundles))) as client:
        yield client


@pytest.fixture
def stub(tmp_path: Path) -> StubStreams:
    """Streams with a few sources and results."""
    made = StubStreams(tmp_path / "streams")
    made.fill()
    return made


@pytest.fixture
def streams(stub: StubStreams, settings: Settings, server: StubServer, catalogue: Catalogue) -> Iterator[TestClient]:
    """A client of a started app that has streams."""
    app = create_app(settings, server, catalogue, stub_canaries(catalogue.bundles), streams=stub.services)
    with TestClient(app) as client:
        while client.get("/v1/streams").status_code == 503:
            pass  # the thread that follows the log has just begun
        yield client
