"""`lockstep tune`: a short profile of instances x threads x batch of one model on this machine.

Each setting is served by a private Triton from a copy of the version and loaded as the rule of thumb says (2 x batch x
instances clients, each calling without pause), then asked by one client alone. First instances and threads are
compared at the full batch, then smaller batches at the best of them. The choice is written to `tuning.json` beside the
engine; the launcher and the backend read it there.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.adapters.triton import TritonServer
from serving.bundle import ModelBundle, newest_certified
from serving.config import Settings
from serving.errors import EngineFailed, ServingError
from serving.ports import ServerRequest, ServerTensor
from serving.triton.canary import make_inputs
from serving.triton.embedded import EmbeddedTriton
from serving.triton.home import cpu_name
from serving.triton.runtime import CONFIG
from serving.tuning import Tuning, TuningRow

MAX_CLIENTS = 64
# Settings within this share of the best throughput count as equal; then fewer processes (less memory) win.
EQUAL_SHARE = 0.95
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting to try."""

    instances: int
    threads: int
    max_batch: int

    def __str__(self) -> str:
        return f"{self.instances} x {self.threads} threads, batch {self.max_batch}"


def tune_model(
    settings: Settings, model: str, *, seconds: float = 2.0, progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Profile a certified model, write its tuning.json, return `{model, version, chosen, why, file, rows}`.

    seconds: length of one measurement. Raises CertificateRefused for a model that cannot be served, and EngineFailed
    where no setting answered.
    """
    bundle = newest_certified(settings.repository, model)
    cores = len(os.sched_getaffinity(0))
    rows: list[TuningRow] = []
    peak = 0
    for stage in (process_candidates(cores, bundle.spec.batch.max), None):
        for candidate in stage if stage is not None else batch_candidates(choose(rows)):
            row, rss = measure(settings, bundle, candidate, seconds)
            progress(
                f"{candidate}: {row.requests_per_s:.0f}/s, p95 {row.p95_ms:.1f} ms, alone {row.alone_p50_ms:.1f} ms"
            )
            rows.append(row)
            peak = max(peak, rss)
    best = choose(rows)
    tuning = Tuning(
        instances=best.instances,
        threads=best.threads,
        max_batch=best.max_batch,
        cores=cores,
        cpu=cpu_name(),
        peak_rss_bytes=peak,
        why=why(best, rows),
        table=tuple(rows),
    )
    return {
        "model": model,
        "version": str(bundle.version),
        "chosen": f"{best.instances} instances x {best.threads} threads, batch {best.max_batch}",
        "why": tuning.why,
        "file": str(tuning.write(bundle.version_dir)),
        "rows": [row.model_dump() for row in rows],
    }


def process_candidates(cores: int, max_batch: int) -> list[Candidate]:
    """Instances in powers of two up to the cores, each with one thread and with its share of the cores."""
    counts = sorted({min(cores, 2**power) for power in range(cores.bit_length())} | {cores})
    pairs = {(count, threads) for count in counts for threads in (1, cores // count)}
    return [Candidate(count, threads, max_batch) for count, threads in sorted(pairs)]


def batch_candidates(best: TuningRow) -> list[Candidate]:
    """Smaller batches for the best processes so far: half, and none at all."""
    sizes = sorted({1, best.max_batch // 2} - {0, best.max_batch})
    return [Candidate(best.instances, best.threads, size) for size in sizes]


def choose(rows: Sequence[TuningRow]) -> TuningRow:
    """The most requests a second; among nearly equal ones the fewest instances, then the lowest p95.

    Raises EngineFailed where every setting had errors.
    """
    clean = [row for row in rows if not row.errors and row.requests_per_s > 0]
    if not clean:
        raise EngineFailed("tune: no setting answered without errors", hint="look at the server's log")
    bound = EQUAL_SHARE * max(row.requests_per_s for row in clean)
    near = [row for row in clean if row.requests_per_s >= bound]
    return min(near, key=lambda row: (row.instances, row.p95_ms))


def why(best: TuningRow, rows: Sequence[TuningRow]) -> str:
    """The choice in one sentence."""
    top = max(rows, key=lambda row: row.requests_per_s)
    if best == top:
        return f"most requests a second ({best.requests_per_s:.0f}) of {len(rows)} settings"
    share = best.requests_per_s / top.requests_per_s
    return f"{share:.0%} of the best throughput ({top.requests_per_s:.0f}/s) with fewer instances or a lower p95"


def measure(settings: Settings, bundle: ModelBundle, candidate: Candidate, seconds: float) -> tuple[TuningRow, int]:
    """Serve the model under one setting and time it: the row, and the greatest resident set of an instance, bytes."""
    with _copy_of(settings, bundle, candidate) as repository:
        triton = EmbeddedTriton(repository, [bundle.name], settings)
        try:
            triton.start(strict=True)
            row = asyncio.run(_profile(triton.grpc_url, bundle, candidate, seconds))
            return row, max((stub.peak_rss_bytes for stub in triton.watch(bundle.name).stubs), default=0)
        finally:
            triton.stop()


@contextmanager
def _copy_of(settings: Settings, bundle: ModelBundle, candidate: Candidate) -> Iterator[Path]:
    """A repository with this version alone, tuned as the candidate. Hard links where the disk is the same."""
    folder = settings.cache_dir.resolve() / "run" / f"tune-{os.getpid()}-{secrets.token_hex(4)}"
    version = folder / bundle.name / str(bundle.version)
    try:
        version.mkdir(parents=True)
        shutil.copyfile(bundle.version_dir.parent / CONFIG, version.parent / CONFIG)
        for path in bundle.version_dir.iterdir():
            if path.is_file() and not path.name.startswith("tuning."):
                _link(path, version / path.name)
        Tuning(instances=candidate.instances, threads=candidate.threads, max_batch=candidate.max_batch, cores=1).write(
            version
        )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


async def _profile(url: str, bundle: ModelBundle, candidate: Candidate, seconds: float) -> TuningRow:
    request = request_for(bundle)
    server = TritonServer(url, [bundle.name])
    clients = min(MAX_CLIENTS, 2 * candidate.max_batch * candidate.instances)
    # The queue may be shorter than that; what it refuses would only measure refusals.
    clients = max(1, min(clients, bundle.spec.serving.max_queue_size))
    try:
        await _load(server, request, clients, seconds / 4)
        alone, _, _ = await _load(server, request, 1, seconds / 2)
        times, errors, took = await _load(server, request, clients, seconds)
    finally:
        await server.close()
    return TuningRow(
        instances=candidate.instances,
        threads=candidate.threads,
        max_batch=candidate.max_batch,
        clients=clients,
        requests_per_s=round(len(times) / took, 2),
        p50_ms=_percentile(times, 50),
        p95_ms=_percentile(times, 95),
        alone_p50_ms=_percentile(alone, 50),
        errors=errors,
    )


def request_for(bundle: ModelBundle) -> ServerRequest:
    """A photograph-like JPEG of 640 x 480 as `image`, or seeded numbers for a raw model."""
    inputs = make_inputs(bundle.spec, width=640, height=480)
    return ServerRequest(bundle.name, [ServerTensor(n, a) for n, a in inputs.items()], outputs=("result",))


async def _load(
    server: TritonServer, request: ServerRequest, clients: int, seconds: float
) -> tuple[list[float], int, float]:
    """Seconds of each answered request, how many failed, and how long it took in all."""
    times: list[float] = []
    errors = 0
    started = time.perf_counter()

    async def client() -> None:
        nonlocal errors
        while (begun := time.perf_counter()) < started + seconds:
            try:
                await server.infer(request, 30.0)
                times.append(time.perf_counter() - begun)
            except ServingError:
                errors += 1
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client() for _ in range(clients)))
    return times, errors, time.perf_counter() - started


def _percentile(times: Sequence[float], percent: int) -> float:
    return round(float(np.percentile(times, percent)) * 1e3, 3) if times else 0.0
