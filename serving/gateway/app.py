"""The ASGI application: what is served is handed in, nothing is read from the environment or the disk here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serving.config import Settings
from serving.gateway import (
    routes_galleries,
    routes_health,
    routes_infer,
    routes_models,
    routes_streams,
    routes_targets,
    routes_v2,
    schemas,
)
from serving.gateway.catalogue import Catalogue
from serving.gateway.context import Context
from serving.gateway.edge import Edge
from serving.gateway.gallery_desk import GalleryDesk
from serving.gateway.readiness import CanaryCheck
from serving.gateway.routing import DirectRoute
from serving.gateway.series import prepare
from serving.gateway.streams import StreamServices
from serving.machine import machine_watch
from serving.metrics import Metrics
from serving.ports import InferenceServer

MACHINE_EVERY_S = 5.0


def create_app(
    settings: Settings,
    server: InferenceServer,
    catalogue: Catalogue,
    canaries: Mapping[str, CanaryCheck],
    *,
    metrics: Metrics | None = None,
    metrics_dir: Path | None = None,
    streams: StreamServices | None = None,
) -> FastAPI:
    """The gateway's app. `canaries`: one for each model, by name. `metrics_dir`: the folder that all workers share
    (prometheus multiprocess mode), None where there is one process. streams: None where no Kafka is configured."""
    context = Context(settings, server, catalogue, canaries, metrics or Metrics(), metrics_dir, streams=streams)
    app = FastAPI(
        title="Lockstep gateway",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.context = context
    document: dict[str, Any] = schemas.openapi(catalogue)
    app.openapi = lambda: document  # type: ignore[method-assign]
    for routes in (routes_infer, routes_models, routes_v2, routes_streams, routes_targets, routes_health):
        routes.register(app)
    if routes_galleries.served_galleries(catalogue):
        context.galleries = GalleryDesk(settings.galleries)
        routes_galleries.register(app)
    prepare(context.metrics, [route for route in app.router.routes if isinstance(route, DirectRoute)], catalogue)
    app.add_exception_handler(HTTPException, _to_the_edge)
    app.add_middleware(Edge, context=context)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    watches = [asyncio.create_task(w) for w in (context.readiness.run(), _watch_machine(context))]
    if context.streams is not None:
        context.streams.start(context.metrics)
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        await context.server.close()
        if context.streams is not None:
            await asyncio.to_thread(context.streams.close)


async def _watch_machine(context: Context) -> None:
    """This worker's memory and CPU, now and then: the scrape may be answered by another worker."""
    machine = machine_watch(context.metrics, context.settings, children=False)
    while True:
        machine.look()
        await asyncio.sleep(MACHINE_EVERY_S)


async def _to_the_edge(request: Request, error: Exception) -> Response:
    raise error
