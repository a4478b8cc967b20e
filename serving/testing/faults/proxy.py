"""A bad network between a client and a broker: a TCP proxy that delays, loses and cuts.

What TCP makes of a lost packet is a pause of that direction for one retransmission timeout, so that is what a loss is
here: the bytes come later, in order. `cut` holds everything back until `mend`.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Coroutine
from typing import Any

RETRANSMIT_S = 0.3
CHUNK = 64 << 10


class BadNetwork:
    """Listens on 127.0.0.1:port, passes on to target. delay_s, jitter_s: each way; loss: share of chunks. In a thread;
    use as a context manager."""

    def __init__(self, port: int, target: int, delay_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0) -> None:
        self.port, self._target = port, target
        self.delay_s, self.jitter_s, self.loss = delay_s, jitter_s, loss
        self.chunks = self.lost = 0
        self._rng = random.Random(port)
        self._loop = asyncio.new_event_loop()
        self._open: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="bad network", daemon=True)

    def __enter__(self) -> BadNetwork:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut(self) -> None:
        """Nothing passes any more, in either direction."""
        assert self._open is not None
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        """All that was held back passes."""
        assert self._open is not None
        self._loop.call_soon_threadsafe(self._open.set)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _end(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            writer.close()
            back.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Chunks leave in the order in which they came, each not before it is due."""
        waiting: deque[tuple[float, bytes]] = deque()
        more = asyncio.Event()
        delivering = asyncio.create_task(self._deliver(waiting, more, writer))
        try:
            while data := await reader.read(CHUNK):
                waiting.append((self._loop.time() + self._delay(), data))
                more.set()
            waiting.append((self._loop.time(), b""))
            more.set()
            await delivering
        except OSError:
            delivering.cancel()
            writer.close()

    def _delay(self) -> float:
        delay = max(0.0, self.delay_s + self._rng.uniform(-1, 1) * self.jitter_s)
        self.chunks += 1
        if self._rng.random() < self.loss:
            self.lost += 1
            delay += RETRANSMIT_S + 2 * self.delay_s
        return delay

    async def _deliver(
        self, waiting: deque[tuple[float, bytes]], more: asyncio.Event, writer: asyncio.StreamWriter
    ) -> None:
        assert self._open is not None
        while True:
            while not waiting:
                more.clear()
                await more.wait()
            due, data = waiting.popleft()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._open.wait()
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()
