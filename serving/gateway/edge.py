"""The outermost layer of the app, plain ASGI: request ids, errors, metrics, and bodies that nobody read."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import LockstepError, Unavailable
from serving.gateway import errors
from serving.gateway.context import STATE_KEY, Context, RequestState
from serving.metrics import OTHER

logger = logging.getLogger("lockstep.gateway")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "http_invalid"}
DRAIN_BEFORE_S = 0.05
DRAIN_AFTER_S = 1.0
DRAIN_BYTES = 64 * 1024 * 1024


class Edge:
    """Wraps the router. Every answer, good or bad, leaves through here."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self.context, scope, receive, send)
        self._open += 1
        self.context.metrics.set("lockstep_http_requests_in_flight", self._open)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # this worker ends before the request does
            if exchange.begun:
                raise
            await exchange.fail(Unavailable("cancelled: the worker ends"))
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is becomes a problem document
            await exchange.fail(error)
        finally:
            self._open -= 1
            self.context.metrics.set("lockstep_http_requests_in_flight", self._open)
            exchange.count()


class _Exchange:
    """One request and its answer on the wire."""

    def __init__(self, context: Context, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
        self._began = time.perf_counter()
        self.state = RequestState(request_id, asyncio.get_running_loop().time(), headers)
        self.state.body_complete = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        scope[STATE_KEY] = self.state
        self._context, self._scope, self._receive, self._send = context, scope, receive, send
        self._status = 0
        self._linger = False

    @property
    def begun(self) -> bool:
        """Whether an answer is on its way."""
        return self._status != 0

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self.state.body_complete = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._linger and not message.get("more_body", False):
            # The answer is on its way; closing now would reset the connection under a caller who is still sending,
            # and the caller would never read why. So what it sends is thrown away for a moment first.
            await self._send({**message, "more_body": True})
            await self._drain(DRAIN_AFTER_S, DRAIN_BYTES)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        self._status = message["status"]
        headers = [*message.get("headers", ()), (b"x-request-id", self.state.request_id.encode())]
        headers.append((b"x-content-type-options", b"nosniff"))
        if not self.state.body_complete and b"expect" not in self.state.headers:
            await self._drain(DRAIN_BEFORE_S, self._context.settings.max_body_bytes)
        self._linger = not self.state.body_complete
        if self._linger or self._context.draining:
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})

    async def _drain(self, seconds: float, most: int) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not self.state.body_complete and most > 0:
                    most -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return

    async def fail(self, error: Exception) -> None:
        """Answer with a problem document; an answer that had begun can only be cut."""
        if self.begun:
            logger.error("request %s: failed after its answer began", self.state.request_id, exc_info=error)
            raise error
        members = self._members(error)
        self.state.error_code = members["code"]
        kserve = self._scope["path"].startswith("/v2")
        extra = dict(error.headers or {}) if isinstance(error, HTTPException) else None
        response: Response = errors.response(members, kserve=kserve, headers=extra)
        await response(self._scope, self.receive, self.send)

    def _members(self, error: Exception) -> dict[str, Any]:
        request_id = self.state.request_id
        if isinstance(error, HTTPException):
            code = _HTTP_CODES.get(error.status_code, "internal")
            return errors.document(code, errors.TABLE[code].title, request_id)
        status, members = errors.problem(error, request_id)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            known = isinstance(error, LockstepError)
            logger.warning("request %s: %s", request_id, error, exc_info=None if known else error)
        return members

    def count(self) -> None:
        """Metrics of the finished exchange, by closed labels."""
        metrics = self._context.metrics
        route = self.state.route
        method = self._scope["method"]
        method = method if method in _METHODS else OTHER
        metrics.inc("lockstep_http_requests_total", route=route, method=method, status=str(self._status or 499))
        metrics.observe("lockstep_http_request_seconds", time.perf_counter() - self._began, route=route)
        if self.state.error_code:
            metrics.inc("lockstep_http_errors_total", code=self.state.error_code)
