"""The port that an embedded broker is told to have."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.embedded.kafka import BrokerSettings, EmbeddedKafka
from serving.errors import Unavailable


def test_a_port_that_somebody_has_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port}: .*--kafka-port 0"):
            EmbeddedKafka(BrokerSettings(tmp_path, port=port))._choose_ports()


def test_a_port_whose_last_connection_is_not_forgotten_yet_is_free(tmp_path: Path) -> None:
    """The side that closes first keeps the connection for a minute (TIME-WAIT): here the broker, which was stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = server.accept()
            served.close()
            assert client.recv(1) == b""
    broker = EmbeddedKafka(BrokerSettings(tmp_path, port=port))
    broker._choose_ports()
    assert broker._port == port
