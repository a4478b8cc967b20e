"""What the routes of one process share, and what one request carries. Handed in, never global."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request

from serving.config import Settings
from serving.errors import MediaTypeUnsupported
from serving.gateway.catalogue import Catalogue, tuned_batch_max
from serving.gateway.gallery_desk import GalleryDesk
from serving.gateway.limits import BODIES_IN_MEMORY, BodyLimits, Gauge, content_length, read_body, request_timeout_s
from serving.gateway.metrics_page import MetricsPage
from serving.gateway.pace import Pace
from serving.gateway.readiness import CanaryCheck, Readiness
from serving.gateway.streams import StreamServices
from serving.metrics import OTHER, Metrics
from serving.ports import InferenceServer

STATE_KEY = "lockstep"


@dataclass(slots=True)
class Context:
    """Everything a route needs. `draining` is set once, at SIGTERM. streams: None where no Kafka is configured.
    batch_max: by model, the most samples of one request under /v2, as it was at the start."""

    settings: Settings
    server: InferenceServer
    catalogue: Catalogue
    canaries: Mapping[str, CanaryCheck]
    metrics: Metrics
    metrics_dir: Path | None = None
    draining: bool = False
    galleries: GalleryDesk | None = None
    streams: StreamServices | None = None
    readiness: Readiness = field(init=False)
    body_limits: BodyLimits = field(init=False)
    in_flight: Gauge = field(init=False)
    bodies: Gauge = field(init=False)
    page: MetricsPage = field(init=False)
    batch_max: Mapping[str, int] = field(init=False)
    _paces: dict[str, Pace] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        s = self.settings
        self.readiness = Readiness(self.server, self.catalogue, self.canaries, self.metrics, s.canary_interval_s)
        self.batch_max = {b.name: min(s.max_in_flight, tuned_batch_max(b)) for b in self.catalogue}
        self.page = MetricsPage(lambda: self.metrics.exposition(self.metrics_dir))
        self.body_limits = BodyLimits(s.max_body_bytes, s.body_timeout_s, s.body_min_rate)
        self.in_flight = Gauge(
            s.max_in_flight,
            "in_flight",
            self.shed,
            lambda used: self.metrics.set("lockstep_inference_in_flight", used),
        )
        self.bodies = Gauge(
            max(BODIES_IN_MEMORY, s.max_body_bytes),
            "body_bytes",
            self.shed,
            lambda used: self.metrics.set("lockstep_http_bodies_held_bytes", used),
        )

    def pace_of(self, model: str) -> Pace:
        """How fast this model (a label of the catalogue) answers."""
        pace = self._paces.get(model)
        if pace is None:
            pace = self._paces[model] = Pace(time.monotonic)
        return pace

    def shed(self, reason: str) -> None:
        """Count a refusal at the door."""
        self.metrics.inc("lockstep_shed_total", reason=reason)


@dataclass(slots=True)
class RequestState:
    """One request: its id, when its headers were here (the loop's clock, seconds), and what its answer says."""

    request_id: str
    started: float
    headers: dict[bytes, bytes]
    route: str = OTHER
    error_code: str = ""
    body_complete: bool = False

    @classmethod
    def of(cls, request: Request) -> RequestState:
        """The state that the edge put into the scope."""
        state: Any = request.scope[STATE_KEY]
        assert isinstance(state, cls)
        return state


def context_of(request: Request) -> Context:
    """The process's context."""
    context: Any = request.app.state.context
    assert isinstance(context, Context)
    return context


def deadline_of(request: Request) -> float:
    """When the request's time is over, on the loop's clock. Raises ParameterInvalid for a bad header."""
    state = RequestState.of(request)
    default = context_of(request).settings.request_timeout_ms
    return state.started + request_timeout_s(state.headers.get(b"x-request-timeout-ms"), default)


async def body_of(request: Request, deadline: float) -> bytes:
    """The request's body within all limits (serving.gateway.limits.read_body)."""
    context, state = context_of(request), RequestState.of(request)
    if state.headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise MediaTypeUnsupported("Content-Encoding: expected none; bodies are taken as they are, uncompressed")
    announced = content_length(state.headers)
    body = await read_body(request.receive, announced, context.body_limits, state.started, deadline, context.bodies)
    context.metrics.inc("lockstep_http_body_bytes_total", len(body))
    return body


def remaining(deadline: float) -> float:
    """Seconds left."""
    return deadline - asyncio.get_running_loop().time()
