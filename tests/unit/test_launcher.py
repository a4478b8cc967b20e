"""`lockstep serve` says before it loads a model that its port is taken."""

from __future__ import annotations

import socket

import pytest

from serving.errors import Unavailable
from serving.launcher import require_free_port


def test_a_taken_port_is_told_and_a_free_one_stays_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port} cannot be listened on"):
            require_free_port("127.0.0.1", port)
    require_free_port("127.0.0.1", port)
    require_free_port("127.0.0.1", port)
