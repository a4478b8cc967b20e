"""The metrics page of a gateway: one at a time is made, beside the requests, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class MetricsPage:
    """`make` takes tens of milliseconds, so it runs in a thread. Who asks while a page is being made shares the next
    one: what was counted before the question is on it."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._now: asyncio.Task[bytes] | None = None
        self._next: asyncio.Task[bytes] | None = None

    async def newest(self) -> bytes:
        """A page that was begun after this call."""
        if self._now is None or self._now.done():
            self._now = asyncio.create_task(asyncio.to_thread(self._make))
            return await asyncio.shield(self._now)
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._now))
        return await asyncio.shield(self._next)

    async def _after(self, earlier: asyncio.Task[bytes]) -> bytes:
        await asyncio.wait([earlier])
        self._now, self._next = self._next, None
        return await asyncio.to_thread(self._make)
