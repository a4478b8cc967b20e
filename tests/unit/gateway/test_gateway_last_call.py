"""A listening socket that is about to close resets nobody."""

from __future__ import annotations

import socket

import pytest

from serving.gateway.last_call import refuse_new_connections, take_new_connections


def test_those_in_the_queue_are_served_and_new_ones_meet_a_closed_port() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    with socket.create_connection(address) as early:
        refuse_new_connections(listener)
        with socket.socket() as late:
            late.settimeout(0.2)
            with pytest.raises(TimeoutError):
                late.connect(address)
        accepted, _ = listener.accept()
        with accepted:
            early.sendall(b"question")
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
            assert early.recv(100) == b"answer"
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_worker_that_stays_opens_the_door_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        take_new_connections(listener)  # nothing to undo
        refuse_new_connections(listener)
        take_new_connections(listener)
        with socket.create_connection(listener.getsockname(), timeout=5):
            pass
