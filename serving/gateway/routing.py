"""Routes that call their handler directly: FastAPI's routing without its per-request dependency machinery.

Handlers take the request and give a response; what a route takes and gives is in serving.gateway.schemas.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.gateway.context import STATE_KEY

Handler = Callable[[Request], Awaitable[Response]]


class DirectRoute(APIRoute):
    """One route, one handler. Errors go up to the edge, which makes problem documents of them."""

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.methods: set[str] = set(self.methods or ())
        template = self.path_format

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[STATE_KEY].route = template
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app
        self.allowed = set(self.methods)  # of all routes of this path

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """405 names every method of the path, not only this route's (RFC 9110, section 15.5.6)."""
        if scope["method"] not in self.methods:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.allowed))})
        await self.app(scope, receive, send)


def add(app: FastAPI, method: str, path: str, handler: Handler) -> None:
    """Put a route into the app; the description for /openapi.json is serving.gateway.schemas'."""
    route = DirectRoute(path, handler, methods=[method], include_in_schema=False)
    for other in app.router.routes:
        if isinstance(other, DirectRoute) and other.path == path:
            other.allowed |= route.methods
            route.allowed |= other.allowed
    app.router.routes.append(route)
