"""Routes that call their handler directly: FastAPI's routing without its per-request dependency machinery.

Handlers take the request and give a response; what a route takes and gives is in serving.gateway.schemas.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.gateway.context import STATE_KEY

Handler = Callable[[Request], Awaitable[Response]]


class DirectRoute(APIRoute):
    """One route, one handler. Errors go up to the edge, which makes problem documents of them."""

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        template = self.path_format

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[STATE_KEY].route = template
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


def add(app: FastAPI, method: str, path: str, handler: Handler) -> None:
    """Put a route into the app; the description for /openapi.json is serving.gateway.schemas'."""
    app.router.routes.append(DirectRoute(path, handler, methods=[method], include_in_schema=False))
