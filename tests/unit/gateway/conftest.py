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
