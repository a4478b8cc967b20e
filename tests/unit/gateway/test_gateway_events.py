"""Live events of the gateway: in order, each once, and none lost to a subscriber that comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.gateway import stream_events, stream_feed
from serving.gateway.stream_events import QUEUE, Event, Subscription
from serving.gateway.stream_feed import EventStream
from serving.metrics import Metrics
from serving.ports_index import Place
from serving.testing.memory_log import MemoryPartition
from serving.testing.stub_streams import FRAME_NS, StubStreams


def events_of(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, event, document) of a body of server-sent events."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "id" in fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def test_events_come_keyed_once_and_ordered_by_pts(streams: TestClient, stub: StubStreams) -> None:
    """Written out of order by two workers, one forged: each recorded result once, in the order of (epoch, pts_ns)."""
    started = stub.services.hub.subscribe
    written: list[Any] = []

    def subscribe(source_id: str) -> Subscription:
        made = started(source_id)
        asyncio.get_running_loop().call_later(0.6, write)
        return made

    def write() -> None:
        written.extend(stub.recorded("gate", [(12, "persons"), (11, "persons"), (10, "persons"), (10, "faces")]))
        stub.forged("gate", 13, "persons")

    stub.services.hub.subscribe = subscribe  # type: ignore[method-assign]
    answer = streams.get("/v1/streams/gate/events", params={"seconds": 3})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events_of(answer.text)
    assert [name for name, _, _ in found] == [
        f"1/{10 * FRAME_NS}/faces", f"1/{10 * FRAME_NS}/persons", f"1/{11 * FRAME_NS}/persons",
        f"1/{12 * FRAME_NS}/persons",
    ]  # fmt: skip
    assert all(kind == "result" for _, kind, _ in found)
    assert {json.dumps(document, sort_keys=True) for _, _, document in found} == {
        json.dumps(document, sort_keys=True) for document in written
    }


def test_a_subscriber_that_comes_back_misses_nothing(streams: TestClient) -> None:
    headers = {"last-event-id": f"1/{6 * FRAME_NS}/persons"}
    answer = streams.get("/v1/streams/gate/events", params={"seconds": 2}, headers=headers)
    assert [name for name, _, _ in events_of(answer.text)] == [f"1/{n * FRAME_NS}/persons" for n in (7, 8, 9)]
    refused = streams.get("/v1/streams/gate/events", headers={"last-event-id": "yesterday"})
    assert_problem(refused, 422, "parameter_invalid")


def test_what_slower_pipelines_have_still_to_say_is_not_lost_to_one_that_comes_back(
    streams: TestClient, stub: StubStreams
) -> None:
    """Caught up to the newest of the fastest pipeline; then the others come, and one that was caught up already."""
    stub.recorded("gate", [(12, "persons")], indexed=True)
    started = stub.services.hub.subscribe

    def subscribe(source_id: str) -> Subscription:
        made = started(source_id)
        asyncio.get_running_loop().call_later(0.6, stub.recorded, "gate", live)
        return made

    live = [(12, "persons"), (8, "faces"), (5, "faces"), (9, "faces"), (13, "persons")]
    stub.services.hub.subscribe = subscribe  # type: ignore[method-assign]
    headers = {"last-event-id": f"1/{6 * FRAME_NS}/persons"}
    answer = streams.get("/v1/streams/gate/events", params={"seconds": 3}, headers=headers)
    assert [name for name, _, _ in events_of(answer.text)] == [
        f"1/{7 * FRAME_NS}/persons", f"1/{8 * FRAME_NS}/persons", f"1/{9 * FRAME_NS}/persons",
        f"1/{12 * FRAME_NS}/persons", f"1/{8 * FRAME_NS}/faces", f"1/{9 * FRAME_NS}/faces",
        f"1/{13 * FRAME_NS}/persons",
    ]  # fmt: skip


@pytest.mark.parametrize("trouble", ["outage", "partitions", "unexpected"])
def test_a_subscriber_is_cut_where_the_log_was_not_followed_and_misses_nothing_when_it_comes_back(
    stub: StubStreams, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(stream_events, "LOOK_S", 0.1)
    monkeypatch.setattr(stream_events, "RETRY_S", 0.5)
    hub, metrics = stub.services.hub, Metrics()
    monkeypatch.setattr(hub, "metrics", metrics)

    async def answer(after: Place | None, seconds: int) -> list[str]:
        taken: list[bytes] = []

        async def send(message: Any) -> None:
            taken.append(message.get("body", b""))

        async def receive() -> Any:
            await asyncio.sleep(3600)

        feed = EventStream(stub.services, "gate", after, seconds, lambda: False)
        await feed.begin(asyncio.get_running_loop().time() + 5)
        await feed({"type": "http"}, receive, send)
        return [name for name, _, _ in events_of(b"".join(taken).decode())]

    async def scene() -> tuple[list[str], list[str]]:
        first = asyncio.create_task(answer(None, 20))
        while not hub._following.is_set():
            await asyncio.sleep(0.02)
        stub.recorded("gate", [(20, "persons")], indexed=True)
        await asyncio.sleep(1)
        with befallen(stub, trouble):
            while hub._following.is_set():
                await asyncio.sleep(0.02)
        stub.recorded("gate", [(21, "persons")], indexed=True)  # nobody follows the log yet
        began = asyncio.get_running_loop().time()
        got = await first
        assert asyncio.get_running_loop().time() - began < 5, "cut, long before its time was over"
        return got, await answer(Place(1, 20 * FRAME_NS, "persons"), 2)

    assert asyncio.run(scene()) == ([f"1/{20 * FRAME_NS}/persons"], [f"1/{21 * FRAME_NS}/persons"])
    assert 'lockstep_event_cuts_total{reason="log"} 1.0' in metrics.exposition(None).decode()
    stub.services.close()


@contextmanager
def befallen(stub: StubStreams, trouble: str) -> Iterator[None]:
    """What makes the hub begin anew."""
    if trouble == "outage":
        stub.log.set_down(True)
        yield
        stub.log.set_down(False)
    elif trouble == "partitions":
        for topic in ("results", "outcomes"):
            stub.log.topic(topic).append(MemoryPartition())
        yield
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Event, "of", lambda document: 1 / 0)
            stub.recorded("gate", [(3, "persons")])
            yield


def test_an_index_that_takes_too_long_cuts_one_that_comes_back(
    streams: TestClient, stub: StubStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_feed, "FOLLOW_S", 1.0)
    monkeypatch.setattr(stub.index, "results", lambda *where: time.sleep(2))
    headers = {"last-event-id": f"1/{6 * FRAME_NS}/persons"}
    answer = streams.get("/v1/streams/gate/events", params={"seconds": 20}, headers=headers)
    assert answer.is_success and events_of(answer.text) == []
    assert 'lockstep_event_cuts_total{reason="index"} 1.0' in streams.get("/metrics").text


def test_f6_a_subscriber_that_takes_nothing_is_cut(stub: StubStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stalled one is cut after STALL_S; one beside it gets everything."""
    monkeypatch.setattr(stream_feed, "STALL_S", 0.3)
    assert stream_feed.HEARTBEAT_S < 10, "a stalled subscriber of a quiet source is noticed as well"
    aborted: list[float] = []

    async def scene() -> list[bytes]:
        loop = asyncio.get_running_loop()
        taken: list[bytes] = []

        async def stalled(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.sleep(3600)

        async def well(message: Any) -> None:
            taken.append(message.get("body", b""))

        async def receive() -> Any:
            await asyncio.sleep(3600)

        async def answer(send: Any) -> None:
            feed = EventStream(stub.services, "gate", None, 2, lambda: False)
            await feed.begin(loop.time() + 5)
            scope = {"type": "http", "lockstep.abort": lambda: aborted.append(loop.time() - began)}
            await feed(scope, receive, send)

        stub.services.table.start()
        began = loop.time()
        both = asyncio.gather(answer(stalled), answer(well))
        await asyncio.sleep(0.5)
        stub.recorded("gate", [(n, "persons") for n in range(20, 25)])
        await both
        return taken

    taken = asyncio.run(scene())
    assert len(aborted) == 1 and aborted[0] < 1.5
    assert [name for name, _, _ in events_of(b"".join(taken).decode())] == [
        f"1/{n * FRAME_NS}/persons" for n in range(20, 25)
    ]
    stub.services.close()


def test_the_queue_of_a_subscriber_is_bounded() -> None:
    async def scene() -> Subscription:
        subscription = Subscription("gate")
        document = {"epoch": 1, "pts_ns": 0, "pipeline": "p"}
        subscription.put([Event.of(document | {"pts_ns": n}) for n in range(QUEUE + 5)])
        return subscription

    subscription = asyncio.run(scene())
    assert subscription.gap == "overflow" and subscription.queue.qsize() == QUEUE
