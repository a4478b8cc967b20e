"""/healthz, /readyz, /metrics, /docs, /openapi.json."""

from __future__ import annotations

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from serving import metrics
from serving.gateway import docs_page
from serving.gateway.context import context_of
from serving.gateway.routing import add

JSON = "application/json"


def register(app: FastAPI) -> None:
    """Put this file's routes into the app."""
    add(app, "GET", "/healthz", healthz)
    add(app, "GET", "/readyz", readyz)
    add(app, "GET", "/metrics", exposition)
    add(app, "GET", "/openapi.json", openapi)
    add(app, "GET", "/docs", docs)


async def healthz(request: Request) -> Response:
    """The process runs; says nothing about models."""
    return _json({"status": "alive"})


async def readyz(request: Request) -> Response:
    """200 when every required model's canary passes and the process is not on its way out."""
    context = context_of(request)
    ready = context.readiness.ready() and not context.draining
    states = context.readiness.states()
    body = {
        "status": "draining" if context.draining else "ready" if ready else "not_ready",
        "models": {
            b.name: {
                "ready": states[b.name].ready,
                "required": b.spec.serving.required,
                "reason": states[b.name].reason,
            }
            for b in context.catalogue
        },
    }
    return _json(body, 200 if ready else 503)


async def exposition(request: Request) -> Response:
    """Prometheus text of all workers; 503 where it could not be true."""
    context = context_of(request)
    if context.metrics.untold:
        return Response(f"{context.metrics.untold}\n", 503, None, "text/plain; charset=utf-8")
    page = await context.page.newest()
    return Response(page, 200, None, metrics.CONTENT_TYPE)


async def openapi(request: Request) -> Response:
    """The OpenAPI document of the models that are served now."""
    return Response(orjson.dumps(request.app.openapi()), 200, None, JSON)


async def docs(request: Request) -> Response:
    """The same for people, without scripts from other places."""
    return Response(docs_page.render(request.app.openapi()), 200, None, "text/html; charset=utf-8")


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, {"cache-control": "no-store"}, JSON)
