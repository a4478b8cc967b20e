"""`lockstep profile`: a private Triton and gateway, one client, then several; the stages out of both metrics pages."""

from __future__ import annotations

import contextlib
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from serving.backend_metrics import TOLD_EVERY_S
from serving.bundle import ModelBundle, newest_certified
from serving.config import Settings
from serving.launcher import gateway_process
from serving.profiling.ask import Asked, Sample, ask, sample_for
from serving.profiling.cause import binding_cause
from serving.profiling.facts import Facts, Level
from serving.profiling.pages import Between, Pages
from serving.triton.embedded import EmbeddedTriton
from serving.tuning import read_tuning

READY_S = 60.0
# A canary in the middle would count as a request of ours; the first one, which readiness needs, comes before.
QUIET_S = 24 * 3600.0
Progress = Callable[[str], None]
Look = Callable[[], Pages]


def profile_model(
    settings: Settings,
    model: str,
    *,
    sample: Path | None = None,
    clients: int = 8,
    seconds: float = 3.0,
    progress: Progress = lambda text: None,
) -> dict[str, Any]:
    """Profile a certified model: `{model, version, sample, cause, share, why, try_next, levels, bytes}`.

    clients: of the loaded level, at most what the model's queue holds. seconds: of one level. Raises
    CertificateRefused, InputError for a sample that the model does not take, EngineFailed where nothing was answered.
    """
    bundle = newest_certified(settings.repository, model)
    asked = sample_for(bundle, settings, sample)
    clients = max(1, min(clients, bundle.spec.serving.max_queue_size, settings.max_in_flight))
    progress(f"{model} version {bundle.version}, sample {asked.name}: about {10 + 3 * seconds:.0f} s")
    with _served(settings, bundle) as (address, look):
        ask(address, model, asked, 1, seconds / 4)  # warm
        alone, answer_bytes, _ = _level(address, bundle, asked, 1, seconds, look)
        progress(f"1 client: {alone.requests_per_s:.0f}/s, p50 {alone.p50_ms:.1f} ms, p95 {alone.p95_ms:.1f} ms (1/2)")
        loaded, _, copied = _level(address, bundle, asked, clients, seconds, look)
        progress(
            f"{clients} clients: {loaded.requests_per_s:.0f}/s, p50 {loaded.p50_ms:.1f} ms, "
            f"p95 {loaded.p95_ms:.1f} ms (2/2)"
        )
    facts = _facts(settings, bundle, asked, (alone, loaded), _bytes(asked, copied, answer_bytes))
    return {
        "model": model,
        "version": str(bundle.version),
        "sample": asked.name,
        **asdict(binding_cause(facts)),
        "levels": [asdict(alone), asdict(loaded)],
        "bytes": dict(facts.bytes),
    }


@contextlib.contextmanager
def _served(settings: Settings, bundle: ModelBundle) -> Iterator[tuple[str, Look]]:
    """The gateway's address, and what reads both metrics pages; everything ends with the block."""
    private = settings.model_copy(
        update={"host": "127.0.0.1", "port": 0, "triton_url": "", "triton_metrics_port": 0, "kafka": "", "redis": "",
                "drain_s": 0.0, "canary_interval_s": QUIET_S, "log_level": "warning"}
    )  # fmt: skip
    with EmbeddedTriton(private.repository, [bundle.name], private) as triton:
        triton.wait_ready(READY_S)
        with gateway_process(private, [bundle.name], f"grpc://{triton.grpc_url}") as (_, address):
            yield address, lambda: Pages(_page(f"{address}/metrics"), _page(triton.metrics_url))


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode("utf-8")
        return text


def _level(
    address: str, bundle: ModelBundle, sample: Sample, clients: int, seconds: float, look: Look
) -> tuple[Level, int, int]:
    """One level, the bytes of an answer, and the bytes copied a request."""
    tuning = read_tuning(bundle.version_dir)
    instances = tuning.instances if tuning else bundle.spec.serving.instances
    _settle(address, bundle.name, sample, instances)
    before = look()
    asked = ask(address, bundle.name, sample, clients, seconds)
    _settle(address, bundle.name, sample, instances)
    between = Between(before, look(), bundle.name, sample.route)
    return _figures(asked, clients, between), asked.answer_bytes, between.copied_bytes


def _settle(address: str, model: str, sample: Sample, instances: int) -> None:
    """A model's process tells its sums with a request, once a second; so a second, and a request for each."""
    time.sleep(1.05 * TOLD_EVERY_S)
    ask(address, model, sample, 2 * instances if instances > 1 else 1, 0.0)


def _figures(asked: Asked, clients: int, between: Between) -> Level:
    times = np.array(asked.seconds) * 1e3
    mean = float(times.mean())
    return Level(
        clients=clients,
        requests=len(times),
        errors=asked.errors,
        requests_per_s=round(len(times) / asked.took, 2),
        mean_ms=round(mean, 3),
        p50_ms=round(float(np.percentile(times, 50)), 3),
        p95_ms=round(float(np.percentile(times, 95)), 3),
        batch=round(between.batch, 2),
        stages_ms=between.stages_ms(mean),
        cpu_ms=between.cpu_ms(),
    )


def _bytes(sample: Sample, copied: int, answer: int) -> dict[str, int]:
    """Bytes of one request by step: as sent, to Triton, as pixels, copied into the engine's batch, answered."""
    pixels = 3 * sample.size[0] * sample.size[1] if sample.size else 0
    return {
        "request": len(sample.body),
        "to_triton": sample.tensor_bytes,
        "pixels": pixels,
        "copied": copied,
        "answer": answer,
    }


def _facts(
    settings: Settings, bundle: ModelBundle, sample: Sample, levels: tuple[Level, Level], sizes: dict[str, int]
) -> Facts:
    rule, tuning = bundle.spec.preprocess, read_tuning(bundle.version_dir)
    looks_at = (rule.width, rule.height) if rule and rule.width and rule.height and sample.size else None
    return Facts(
        model=bundle.name,
        sample=sample.name,
        alone=levels[0],
        loaded=levels[1],
        source=sample.size,
        model_size=looks_at,
        fast=bool(rule and rule.fast),
        batch_limit=tuning.max_batch if tuning else bundle.spec.batch.max,
        tuned=tuning is not None,
        cores=len(os.sched_getaffinity(0)),
        workers=settings.workers,
        bytes=sizes,
    )
