"""`lockstep bench load`: open-loop load on every served workload, and one HTML report.

    system (started here, or --against)  ->  closed loop: what rate it reaches  ->  shapes around that rate  ->  report

Latency counts from the time at which a request was meant to be sent; goodput counts right answers within the deadline.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import psutil

from loadtest import arrivals, mix, photos, servers
from loadtest.facts import ForeignLoad, machine_facts
from loadtest.measurements import writable

LEAD_S = 0.5  # from all generators ready to the start
CLOSED_USERS = 8
USERS = 96  # of a workload in a process: more than the server admits at once, so none waits for a free one


@dataclass(frozen=True, slots=True)
class Job:
    """models: those to serve and load. against: a running gateway instead of one started here. rate: requests a second
    taken as the peak; 0: measured first. bad_share: of requests whose body is bad. stream_address: sources of it are
    registered too.
    """

    repository: Path
    models: tuple[str, ...]
    against: str | None = None
    seconds: float = 8.0
    rate: float = 0.0
    bad_share: float = 0.03
    processes: int = 2
    deadline_ms: int = 1000
    stream_address: str | None = None


@dataclass(slots=True)
class Run:
    """What happened. shots: rows (phase, work, payload, due_s, sent_s, ended_s, status). samples: rows (seconds, CPU-s,
    resident bytes) of the server's processes, none where it was not started here. sent: rows (seconds, CPU-s) of the
    generators. closed: right answers a second of the closed loop, 0 where it was skipped, and closed_cores what its
    generators used.
    """

    job: Job
    peak: float
    phases: list[arrivals.Phase]
    works: list[dict[str, Any]]
    payloads: list[mix.Payload]
    shots: np.ndarray
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    unsent: int = 0
    closed: float = 0.0
    closed_cores: float = 0.0
    sent: list[tuple[float, float]] = field(default_factory=list)
    foreign_cores: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def run(job: Job, output: Path, say: Callable[[str], None]) -> Run:
    """The whole of it. Raises RuntimeError in one line where the server is dead or the folder cannot be written."""
    writable(output)
    with tempfile.TemporaryDirectory(prefix="loadtest-") as name:
        folder = Path(name)
        arm = None if job.against else servers.ours(job.models, job.repository, folder / "lockstep.log")
        try:
            if arm is not None:
                say(f"starting {', '.join(job.models)} ...")
                arm.start()
            base = job.against.rstrip("/") if job.against else arm.ready_url.removesuffix("/readyz")  # type: ignore[union-attr]
            return _measure(job, base, arm, folder, say)
        finally:
            if arm is not None:
                arm.stop()


def workloads(job: Job, base: str) -> list[dict[str, Any]]:
    """A row for each ready model that takes pictures, and the streams where they are asked for."""
    try:
        answer = httpx.get(f"{base}/v1/models", timeout=5)
        rows = answer.raise_for_status().json()
        rows = rows["models"] if isinstance(rows, dict) else rows
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
        raise RuntimeError(
            f"{base}: no Lockstep gateway answers there ({str(error) or type(error).__name__}); start `lockstep serve`"
        ) from error
    ready = {row["name"]: row for row in rows if row["state"] == "ready" and row["task"] not in ("raw", "audio")}
    missing = [name for name in job.models if name not in ready]
    names = [name for name in ready if not job.models or name in job.models]
    if missing or not names:
        raise RuntimeError(f"{base}: not ready there: {missing or 'any model'}; it has {sorted(ready)}")
    works = [
        {"kind": ready[n]["task"], "name": n, "route": f"/v1/models/{n}/infer", "users": USERS, "share": 1.0}
        for n in names
    ]
    if job.stream_address:
        row = {"kind": "streams", "name": "streams", "address": job.stream_address, "pipelines": names[:1]}
        works.append({**row, "users": 8, "share": 0.02})
    return works


def _measure(job: Job, base: str, arm: servers.ServerArm | None, folder: Path, say: Callable[[str], None]) -> Run:
    works = workloads(job, base)
    payloads = mix.make(photos.from_packages(), folder / "bodies")
    closed, closed_cores = (0.0, 0.0) if job.rate else _closed(job, base, works, payloads, folder, say)
    peak = job.rate or closed
    phases = arrivals.shapes(peak, job.seconds)
    plan = arrivals.schedule(phases)
    rows = _rows([(a.at_s, a.phase) for a in plan], works, payloads, job.bad_share)
    say(f"{len(rows)} requests in {sum(p.seconds for p in phases):.0f} s, {job.processes} generators")
    watch, foreign = Watch(arm), ForeignLoad()
    foreign.start()
    shots = _shoot(job, base, works, payloads, rows, sum(p.seconds for p in phases), folder, watch)
    if not len(shots) or not (shots[:, 6] > 0).any():
        raise RuntimeError(f"{base}: not one of {len(rows)} requests was answered; look at the server's log")
    foreign_cores = foreign.stop() if arm is not None else 0.0
    unsent = len(rows) - len(shots)
    return Run(
        job, peak, phases, works, payloads, shots, watch.rows, unsent, closed, closed_cores, watch.sent, foreign_cores,
        machine_facts(),
    )  # fmt: skip


def _closed(
    job: Job, base: str, works: list[dict[str, Any]], payloads: list[mix.Payload], folder: Path,
    say: Callable[[str], None],
) -> tuple[float, float]:  # fmt: skip
    """Answers a second of a few users that wait for each answer, and the cores these used; the first run warms every
    shape."""
    pictures = [{**w, "users": max(1, CLOSED_USERS // len(works) // job.processes)} for w in works if "route" in w]
    rate = cores = 0.0
    for seconds in (3.0, max(4.0, job.seconds / 2)):
        rows, watch = _rows([(-1.0, 0)] * 40_000, pictures, payloads, job.bad_share), Watch(None)
        shots = _shoot(job, base, pictures, payloads, rows, seconds, folder, watch)
        cores = cores_between(watch.sent, 0.0, seconds)
        rate = float((shots[:, 6] == 200).sum() / seconds) if len(shots) else 0.0
    if rate <= 0:
        raise RuntimeError(f"{base}: no request was answered with 200; look at the server's log and /readyz")
    say(f"closed loop: {rate:.1f} right answers a second")
    return rate, cores


def _rows(
    due: Sequence[tuple[float, int]], works: list[dict[str, Any]], payloads: list[mix.Payload], bad_share: float
) -> list[list[Any]]:
    """(due, phase, workload, payload) of each request."""
    shares = np.array([w["share"] for w in works])
    which = np.random.default_rng(11).choice(len(works), len(due), p=shares / shares.sum())
    bodies = mix.draw(payloads, len(due), bad_share)
    return [[at, phase, int(w), body] for (at, phase), w, body in zip(due, which, bodies, strict=True)]


def _shoot(
    job: Job, base: str, works: list[dict[str, Any]], payloads: list[mix.Payload], rows: list[list[Any]],
    seconds: float, folder: Path, watch: Watch,
) -> np.ndarray:  # fmt: skip
    """Let the generator processes send; all shots in order of their due time."""
    plan = {
        "host": base, "seconds": seconds, "processes": job.processes, "deadline_ms": job.deadline_ms,
        "works": works, "payloads": [asdict(p) for p in payloads], "arrivals": rows,
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    files = [folder / f"records-{i}.csv" for i in range(job.processes)]
    commands = [[sys.executable, "-m", "loadtest.users", str(folder / "plan.json"), str(i), str(f)]
                for i, f in enumerate(files)]  # fmt: skip
    logs = [(folder / f"users-{i}.log").open("wb") for i in range(job.processes)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children: list[Any] = [
        subprocess.Popen(c, stderr=log, text=True, **pipes) for c, log in zip(commands, logs, strict=True)
    ]
    try:
        ready = [child.stdout.readline() for child in children]
        if all(ready):
            start = time.monotonic() + LEAD_S
            for child in children:
                child.stdin.write(f"{start}\n")
                child.stdin.flush()
            watch.during(children, start, seconds)
        codes = [child.wait(60) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
        for log in logs:
            log.close()
    if any(codes):
        raise RuntimeError(f"a generator ended with {codes}: {(folder / 'users-0.log').read_text()[-400:].strip()}")
    shots = [[float(cell) for cell in row] for f in files for row in csv.reader(f.read_text().splitlines())]
    table = np.array(shots, float).reshape(-1, 7)
    return table[np.argsort(table[:, 3], kind="stable")]


class Watch:
    """CPU and memory of the server's processes, and CPU of the generators, while these run. See `Run` for the rows."""

    def __init__(self, arm: servers.ServerArm | None) -> None:
        self._arm = arm
        self.rows: list[tuple[float, float, float]] = []
        self.sent: list[tuple[float, float]] = []

    def during(self, children: list[Any], start: float, seconds: float) -> None:
        """Sample once a second until the generators ended."""
        used = {child.pid: 0.0 for child in children}
        while any(child.poll() is None for child in children) and time.monotonic() < start + seconds + 60:
            now = time.monotonic() - start
            if self._arm is not None and -1 <= now <= seconds + 5:
                self.rows.append((now, self._arm.cpu_s, float(self._arm.rss_bytes)))
            used |= {child.pid: _cpu_s(child.pid, used[child.pid]) for child in children}
            self.sent.append((now, sum(used.values())))
            time.sleep(1.0 if now >= -1 else 0.3)


def cores_between(rows: Sequence[tuple[float, float]], first: float, last: float) -> float:
    """Cores used from `first` to `last` by rows (seconds, CPU-s), of those that were taken within; NaN where there are
    fewer than two."""
    within = [row for row in rows if first <= row[0] <= last]
    if len(within) < 2:
        return float("nan")
    return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])


def _cpu_s(pid: int, before: float) -> float:
    """CPU seconds of a process; of one that is gone, what it had."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return before
    return float(times.user + times.system)
