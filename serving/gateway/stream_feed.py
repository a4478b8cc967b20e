"""The answer that does not end: server-sent events of one source to one subscriber (WHATWG HTML, section 9.2).

A subscriber that takes nothing for STALL_S is cut; its queue is bounded, and nobody else waits for it. With
Last-Event-ID it goes on where it stopped: what lies between is read from the index.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import DeadlineExceeded, Overloaded, StreamsUnavailable, Unavailable
from serving.gateway.protocol import ABORT
from serving.gateway.stream_events import Event, Subscription
from serving.gateway.streams import StreamServices
from serving.ports_index import Place, ResultIndex

STALL_S = 10.0
HEARTBEAT_S = 5.0
TICK_S = 0.25
SETTLE_S = 1.0  # the index is this far behind the log at most, in quiet times
CATCH_UP_PAGE = 500
SENT_MOST = 1024  # the last places that were caught up: what of them comes live as well is not sent twice
FOLLOW_S = 5.0
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class EventStream(Response):
    """`begin`, then answer with it. draining: the process is on its way out, so the events end."""

    def __init__(
        self, services: StreamServices, source_id: str, after: Place | None, seconds: int | None,
        draining: Callable[[], bool],
    ) -> None:  # fmt: skip
        super().__init__(media_type="text/event-stream")
        self._services, self._source_id, self._after = services, source_id, after
        self._seconds, self._draining = seconds, draining
        self._subscription: Subscription | None = None
        self._cut = False

    async def begin(self, deadline: float) -> None:
        """Subscribe. Raises Overloaded, StreamsUnavailable, IndexUnavailable (there is something to catch up)."""
        self._subscription = self._services.hub.subscribe(self._source_id)
        try:
            left = max(0.1, min(FOLLOW_S, deadline - asyncio.get_running_loop().time()))
            if not await self._services.hub.following(left):
                raise StreamsUnavailable("the log cannot be followed")
            if self._after is not None:
                await self._services.ask(deadline, lambda index: index.epochs(self._source_id))
        except BaseException:
            self._end()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the subscriber goes, stalls, or its time is over."""
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            async for chunk in self._chunks(gone):
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not gone.done():
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            self._services.hub.cut("stalled")
            abort = scope.get(ABORT)
            if abort is None:
                raise
            abort()
            await asyncio.sleep(0.1)  # the server hears of the closed connection before this request ends
        finally:
            self._end()
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    async def _chunks(self, gone: asyncio.Task[None]) -> AsyncIterator[bytes]:
        subscription = self._subscription
        assert subscription is not None
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds if self._seconds is not None else float("inf")
        yield b"retry: 1000\n\n"
        sent: dict[Place, None] = {}
        if self._after is not None:
            try:
                async for event in self._missed(self._after):
                    sent[event.place] = None
                    if len(sent) > SENT_MOST:
                        del sent[next(iter(sent))]
                    yield event.data
            except (Unavailable, DeadlineExceeded, Overloaded):
                self._services.hub.cut("index")
                return  # it comes back, and says what it had last
        spoke = loop.time()
        while not gone.done() and not self._draining() and loop.time() < until:
            live = await _next(subscription, min(TICK_S, max(0.0, until - loop.time())))
            if live is not None and live.place not in sent and (self._after is None or live.place > self._after):
                spoke = loop.time()
                yield live.data
            elif live is None and subscription.gap:
                self._services.hub.cut(subscription.gap)
                return  # it connects again, and says what it had last
            elif loop.time() - spoke > HEARTBEAT_S:
                spoke = loop.time()
                yield b": still here\n\n"

    async def _missed(self, after: Place) -> AsyncIterator[Event]:
        """What was recorded since, from the index; live events wait in the queue meanwhile."""
        await asyncio.sleep(SETTLE_S)
        for epoch in [epoch for epoch in await self._ask(_epochs(self._source_id)) if epoch >= after.epoch]:
            start: int | None = after.pts_ns if epoch == after.epoch else 0
            while start is not None:
                page = await self._ask(_page(self._source_id, epoch, start))
                for document in page.documents:
                    event = Event.of(document)
                    if event.place > after:
                        yield event
                start = page.next_pts_ns

    async def _ask(self, question: Callable[[ResultIndex], Any]) -> Any:
        """A question to the index. Raises IndexUnavailable."""
        deadline = asyncio.get_running_loop().time() + FOLLOW_S
        return await self._services.ask(deadline, question)

    def _end(self) -> None:
        if self._subscription is not None:
            self._services.hub.unsubscribe(self._subscription)
            self._subscription = None


def _epochs(source_id: str) -> Callable[[ResultIndex], Any]:
    return lambda index: index.epochs(source_id)


def _page(source_id: str, epoch: int, start: int) -> Callable[[ResultIndex], Any]:
    return lambda index: index.results(source_id, epoch, start, None, CATCH_UP_PAGE)


async def _next(subscription: Subscription, patience_s: float) -> Event | None:
    if not subscription.queue.empty():
        return subscription.queue.get_nowait()
    with suppress(TimeoutError):
        return await asyncio.wait_for(subscription.queue.get(), patience_s)
    return None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)
