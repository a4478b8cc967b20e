"""The gateway as real processes: gunicorn, workers, sockets; a stub stands where Triton would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_support import RedisServer

from serving.testing.gateway_process import Running, Start, gateways


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start gateways of a test's own."""
    with gateways(tmp_path) as run:
        yield run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same, but tests of one file that ask for the same settings get the same gateway."""
    known: dict[str, Running] = {}
    with gateways(tmp_path_factory.mktemp("gateways")) as run:

        def get(**settings: Any) -> Running:
            return known.get(repr(settings)) or known.setdefault(repr(settings), run(**settings))

        yield get


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()
