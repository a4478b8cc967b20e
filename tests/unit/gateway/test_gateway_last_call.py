"""A listening socket that is about to close resets nobody, and a request that takes too long then is told so."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from serving.gateway.edge import Edge
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


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_that_is_cancelled_is_answered_unless_its_answer_had_begun(client: TestClient, begun: bool) -> None:
    """As uvicorn does it with what is in flight when the time of a worker's end is over."""
    sent: list[Message] = []

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def cancelled() -> None:
        edge = Edge(long, client.app.state.context)  # type: ignore[attr-defined]
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []}
        task = asyncio.create_task(edge(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    if begun:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancelled())
        assert [message.get("status") for message in sent] == [200]
    else:
        asyncio.run(cancelled())
        assert sent[0]["status"] == 503 and (b"content-type", b"application/problem+json") in sent[0]["headers"]
        assert json.loads(sent[1]["body"])["code"] == "unavailable"
