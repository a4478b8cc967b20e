"""Ports of loopback that nobody has now. Another program may take one before it is used."""

from __future__ import annotations

import socket
from contextlib import ExitStack

UDP = socket.SOCK_DGRAM


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """One; TCP, or UDP."""
    return free_ports(1, kind)[0]


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[int]:
    """Several that differ: they are held open together."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket(socket.AF_INET, kind)) for _ in range(count)]
        for place in held:
            place.bind(("127.0.0.1", 0))
        return [int(place.getsockname()[1]) for place in held]
