"""The gateway as real processes: gunicorn, workers, sockets; a stub stands where Triton would."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_process import Running, Start, launch, stop, wait_ready


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start gateways; they are ended, and their workers with them, after the test."""
    with _starter(tmp_path) as run:
        yield run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same, but tests of one file that ask for the same settings get the same gateway."""
    known: dict[str, Running] = {}
    with _starter(tmp_path_factory.mktemp("gateways")) as run:

        def get(**settings: Any) -> Running:
            return known.get(repr(settings)) or known.setdefault(repr(settings), run(**settings))

        yield get


@contextlib.contextmanager
def _starter(folder: Path) -> Iterator[Start]:
    started: list[Running] = []

    def run(delay: float = 0.0, **settings: Any) -> Running:
        started.append(launch(folder, len(started), delay, settings))
        wait_ready(started[-1])
        return started[-1]

    try:
        yield run
    finally:
        for gateway in started:
            if gateway.process.poll() is None:
                gateway.process.send_signal(signal.SIGTERM)
        for gateway in started:
            stop(gateway)
