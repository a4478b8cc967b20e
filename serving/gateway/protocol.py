"""HTTP on the socket: uvicorn's llhttp protocol with the bounds it lacks: headers, unread answers, connections."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
import termios
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.gateway import errors

HEADER_S = 5.0
HEADER_BYTES = 64 * 1024
MAX_CONNECTIONS = 4096
UNSENT_S = 10.0
UNSENT_BYTES = 10 * 1024  # a client takes so much of its answers in UNSENT_S, or its connection ends
ABORT = "lockstep.abort"  # in a request's scope: ends its connection at once, whatever is still to be sent
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 429: b"Too Many Requests"}


class GatewayProtocol(HttpToolsProtocol):
    """Headers have to be complete HEADER_S after their first byte (or after the connection) and within HEADER_BYTES;
    answers have to be read, UNSENT_BYTES in UNSENT_S."""

    _header_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True
    _unsent_timer: asyncio.TimerHandle | None = None
    _took = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Arm the header timer; over the cap, refuse at once."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._context().metrics.inc("lockstep_shed_total", reason="connections")
            self._refuse("overloaded")
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection."""
        self._disarm()
        if self._unsent_timer is not None:
            self._unsent_timer.cancel()
            self._unsent_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; bytes that begin no request keep no connection open."""
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or not self._in_headers:
            return
        if self._header_bytes > HEADER_BYTES:
            self._refuse("http_invalid")
        elif self._header_timer is None:
            self._arm()

    def on_message_begin(self) -> None:
        """A new request's headers begin."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = 0
        if not self.transport.get_write_buffer_size():
            self._took = True

    def on_headers_complete(self) -> None:
        """Headers are here: from now on the app keeps time."""
        self._disarm()
        self._in_headers = False
        super().on_headers_complete()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[ABORT] = self.transport.abort

    def on_response_complete(self) -> None:
        """Between requests: the keep-alive timer of the base runs, and the next bytes are headers."""
        super().on_response_complete()
        if not self.pipeline:
            self._in_headers = True
            self._header_bytes = 0
        self._watch_unsent()

    def resume_writing(self) -> None:
        """The client took most of what waited."""
        super().resume_writing()
        self._took = True

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses is a problem document like any other error; the connection ends."""
        self._refuse("http_invalid")

    def _arm(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_S, self._header_late)

    def _disarm(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_late(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self._header_bytes:
            self._refuse("body_timeout")
        else:
            self.transport.close()

    def _refuse(self, code: str) -> None:
        request_id = os.urandom(8).hex()
        members = errors.document(code, errors.TABLE[code].title, request_id)
        status, body = members["status"], orjson.dumps(members)
        lines = [
            b"HTTP/1.1 %d %s" % (status, _REASONS[status]),
            b"content-type: " + errors.PROBLEM_JSON.encode(),
            b"content-length: %d" % len(body),
            b"x-request-id: " + request_id.encode(),
            b"connection: close",
        ]
        if errors.TABLE[code].retry_after:
            lines.append(b"retry-after: %d" % errors.RETRY_AFTER_S)
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()
        self._watch_unsent()

    def _watch_unsent(self) -> None:
        """Closing waits for what is unsent, and so does the next answer: neither may wait for ever."""
        if self._unsent_timer is None and self.transport.get_write_buffer_size():
            self._took = False
            self._unsent_timer = self.loop.call_later(UNSENT_S, self._unsent_late, self._unsent())

    def _unsent_late(self, before: int) -> None:
        self._unsent_timer = None
        if self.transport.get_write_buffer_size() and not self._took and before - self._unsent() < UNSENT_BYTES:
            self.transport.abort()
        else:
            self._watch_unsent()

    def _unsent(self) -> int:
        """Bytes that the client has not taken: ours, and the kernel's, which has room for more in large steps only."""
        number = self.transport.get_extra_info("socket").fileno()
        queued = int.from_bytes(fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return self.transport.get_write_buffer_size() + queued

    def _context(self) -> Any:
        app: Any = self.config.app
        return app.state.context
