"""What the gateway's page shows at 0 before anything happens: labels whose values are known when it starts.

A counter that first appears at 1 has no increase that Prometheus could see, and a panel over it has nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.gateway.catalogue import Catalogue
from serving.gateway.errors import TABLE
from serving.gateway.routing import DirectRoute
from serving.metrics import OTHER, Metrics

FAILURES = sorted({str(row.status) for row in TABLE.values() if row.status >= 500})
SHED = ("in_flight", "wait", "body_bytes", "connections")
CUTS = ("stalled", "overflow", "index", "log")
STAGES = ("decode", "preprocess", "infer", "postprocess")
GAUGES = (
    "lockstep_http_requests_in_flight", "lockstep_http_bodies_held_bytes", "lockstep_inference_in_flight",
    "lockstep_draining", "lockstep_event_subscribers",
)  # fmt: skip


def prepare(metrics: Metrics, routes: Sequence[DirectRoute], catalogue: Catalogue) -> None:
    """Make the series of one worker: of its routes, its models, and every error there is."""
    for template in {*(route.path for route in routes), OTHER}:
        metrics.prepare("lockstep_http_request_seconds", route=template)
    for route in routes:
        for method in route.methods:
            for status in FAILURES:
                metrics.prepare("lockstep_http_requests_total", route=route.path, method=method, status=status)
    for name, label, values in (
        ("lockstep_http_errors_total", "code", TABLE),
        ("lockstep_shed_total", "reason", SHED),
        ("lockstep_event_cuts_total", "reason", CUTS),
    ):
        for value in values:
            metrics.prepare(name, **{label: value})
    for name in GAUGES:
        metrics.set(name, 0)
    for bundle in catalogue:
        _prepare_model(metrics, bundle.name)


def _prepare_model(metrics: Metrics, model: str) -> None:
    metrics.prepare("lockstep_inference_server_seconds", model=model)
    metrics.prepare("lockstep_inference_requests_total", model=model, outcome="ok")
    metrics.prepare("lockstep_certificate_mismatches_total", model=model)
    for outcome in ("passed", "failed"):
        metrics.prepare("lockstep_canary_total", model=model, outcome=outcome)
    for stage in STAGES:
        metrics.prepare("lockstep_inference_stage_seconds_total", model=model, stage=stage)
