"""Limits at the door: size and pace of a body, requests in flight, deadlines. Times are of the event loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Receive

from serving.errors import BodyInvalid, BodyTimeout, BodyTooLarge, DeadlineExceeded, Overloaded, ParameterInvalid

GRACE_S = 5.0
BODIES_IN_MEMORY = 512 * 1024 * 1024
MAX_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """A body may hold `max_bytes`, take `timeout_s` in all, and come no slower than `min_rate` bytes a second."""

    max_bytes: int
    timeout_s: float
    min_rate: int
    grace_s: float = GRACE_S

    def due(self, received: int) -> float:
        """Seconds after the headers by which the next piece has to be here."""
        if not self.min_rate:
            return self.timeout_s
        return min(self.timeout_s, self.grace_s + received / self.min_rate)


class Gauge:
    """A bounded amount in use: `take` refuses with Overloaded at once (more than all there is: BodyInvalid), it never
    waits."""

    def __init__(self, limit: int, reason: str, shed: Callable[[str], None], show: Callable[[int], None]) -> None:
        self.limit = limit
        self.used = 0
        self._reason = reason
        self._shed = shed
        self._show = show

    def check(self, amount: int = 1) -> None:
        """Raise Overloaded where `amount` does not fit now, BodyInvalid where it never will."""
        if amount > self.limit:
            raise BodyInvalid(
                f"{self._reason}: expected at most {self.limit} in one request, got {amount}",
                hint="send them in several requests",
            )
        if self.used + amount > self.limit:
            self._shed(self._reason)
            raise Overloaded(f"{self._reason}: {self.used} of {self.limit} in use")

    @contextmanager
    def take(self, amount: int = 1) -> Iterator[None]:
        """Hold `amount` for the block."""
        self.check(amount)
        self.add(amount)
        try:
            yield
        finally:
            self.add(-amount)

    def add(self, amount: int) -> None:
        """Change what is in use, unchecked."""
        self.used += amount
        self._show(self.used)


def content_length(headers: dict[bytes, bytes]) -> int | None:
    """The announced length, None where there is none (chunked, or no body)."""
    text = headers.get(b"content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise BodyInvalid("Content-Length: expected a number of bytes")
    return int(text)


async def read_body(
    receive: Receive, announced: int | None, limits: BodyLimits, started: float, deadline: float, held: Gauge
) -> bytes:
    """The whole body, counted as it comes. `started` and `deadline` are times of the loop's clock, seconds.

    Raises BodyTooLarge (before reading, where it is announced), BodyTimeout, BodyInvalid (the caller went away),
    DeadlineExceeded, Overloaded (`held`: too many bytes of all callers are on their way in).
    """
    if announced is not None and announced > limits.max_bytes:
        raise _too_large(limits)
    chunks: list[bytes] = []
    received = counted = 0
    more = True
    try:
        async with asyncio.timeout_at(min(deadline, started + limits.due(0))) as pace:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BodyInvalid("the connection was closed before the body was complete")
                chunk: bytes = message.get("body", b"")
                received += len(chunk)
                if received > limits.max_bytes:
                    raise _too_large(limits)
                held.check(len(chunk))
                held.add(len(chunk))
                counted += len(chunk)
                chunks.append(chunk)
                more = message.get("more_body", False)
                pace.reschedule(min(deadline, started + limits.due(received)))
    except TimeoutError:
        if deadline <= started + limits.due(received):  # not by the clock: a loop's timers ring a little early
            raise DeadlineExceeded("the deadline passed before the body was complete") from None
        raise BodyTimeout(
            f"{received} bytes had come when the time was over; expected at least {limits.min_rate} bytes a second"
            f" after {limits.grace_s:g} s, and all of it in {limits.timeout_s:g} s"
        ) from None
    finally:
        held.add(-counted)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limits: BodyLimits) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limits.max_bytes} bytes")


def request_timeout_s(header: bytes | None, default_ms: int) -> float:
    """Seconds a request may take: X-Request-Timeout-Ms, or the default. ParameterInvalid where it is no such number."""
    if header is None:
        return default_ms / 1000
    if not header.isdigit() or not 1 <= int(header[:9]) <= MAX_TIMEOUT_MS or len(header) > 9:
        shown = header[:20].decode("latin-1")
        raise ParameterInvalid(f"X-Request-Timeout-Ms: expected 1 to {MAX_TIMEOUT_MS} milliseconds, got {shown!r}")
    return int(header) / 1000
