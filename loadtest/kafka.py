"""`lockstep bench kafka`: the same clips through the distributed path and through `lockstep run`.

Method: rounds in which both arms come in random order over the same clips (files, not paced; one model, every frame,
HLS of all of them). CPU is read from the processes, start-up taken off: of roles because they run before, of ingest and
`run` by a run of a clip of two pictures. N_max comes from the bare loop of `lockstep bench stream`, in the same round.
Then the log alone: what one worker with a model that costs nothing makes of frames that are already there. Then how
long it takes until a live source is fresh again, that is until a frame that was written later has its result: after
kill -9 of the worker that has it (F1), and after the broker was away (F2); before that, how old results are when they
come. Times are the log's own.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtest import stream, stream_run
from loadtest.facts import ForeignLoad, machine_facts, version
from loadtest.kafka_system import System, wait_for
from loadtest.kafka_times import Times, following
from loadtest.servers import free_port
from loadtest.stream_clips import Clip, read_pictures, write_clip

Say = Callable[[str], None]
ROLES = ("worker", "mixer", "accountant", "broker")
WORKERS = ("worker-1", "worker-2")  # of the live source
STUB = [sys.executable, "-m", "serving.testing.stub_worker"]
DRAIN_S = 600.0
CALM_S = 10.0
SETTLE_S = 5.0  # a source begins with what its camera had sent before


@dataclass(frozen=True, slots=True)
class Job:
    """frames: of each of `streams` clips. stub_frames: for the worker without a model. kills, outages: of F1 and F2."""

    repository: Path
    model: str
    sample: Path
    streams: int = 4
    rounds: int = 5
    frames: int = 300
    size: str = "768x576"
    stub_frames: int = 3000
    kills: int = 20
    outages: int = 5
    outage_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Arm:
    """One pass over all clips. hop_ms: CPU-ms a frame by process (one entry, `run`, for the arm in one process)."""

    frames: int
    seconds: float
    hop_ms: dict[str, float]
    foreign_cores: float

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU-ms a frame, all processes."""
        return sum(self.hop_ms.values())


@dataclass(slots=True)
class Figures:
    """What was measured; times in seconds. result_age_s: p50, p99, and `hop`, p99 of what a reader of the log waits."""

    distributed: list[Arm] = field(default_factory=list)
    in_process: list[Arm] = field(default_factory=list)
    limits: list[stream.Limit] = field(default_factory=list)
    stub_rates: list[float] = field(default_factory=list)
    result_age_s: dict[str, float] = field(default_factory=dict)
    f1_s: list[float] = field(default_factory=list)
    f2_s: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """CPU a frame in one process over CPU a frame distributed, a value a round."""
        return [one.cpu_ms / many.cpu_ms for one, many in zip(self.in_process, self.distributed, strict=True)]

    def quiet(self) -> list[float]:
        """Those of rounds in which others took at most 10 % of the cores."""
        return [
            one.cpu_ms / many.cpu_ms
            for one, many in zip(self.in_process, self.distributed, strict=True)
            if max(one.foreign_cores, many.foreign_cores) <= stream.MAX_FOREIGN
        ]


def run(job: Job, say: Say) -> dict[str, Any]:
    """All of it; what `loadtest.kafka_report` writes down."""
    facts = machine_facts()
    facts["packages"] |= {name: version(name) for name in ("av", "confluent-kafka", "kafka-python")}
    facts["cores used"] = stream.CORES
    figures = Figures()
    pictures, fps = read_pictures(job.sample)
    with tempfile.TemporaryDirectory(prefix="bench-kafka-") as name:
        folder = Path(name)
        clip = write_clip(folder / "clip.mp4", pictures, job.size, job.frames, fps)
        short = write_clip(folder / "short.mp4", pictures, job.size, 2, fps)
        _rounds(job, clip, short, folder, figures, say)
        with System(folder / "faults", job.repository) as system:
            say("one worker with a model that costs nothing")
            long = write_clip(folder / "long.mp4", pictures, job.size, job.stub_frames, fps)
            _stub(system, long, job, figures)
            _recovery(system, clip, job, figures, say)
    return {"facts": facts, "job": _shown(job), "fps": float(fps), "figures": figures}


def _shown(job: Job) -> dict[str, Any]:
    """The repository and the sample are this machine's affair."""
    return {name: value for name, value in asdict(job).items() if name not in ("repository", "sample")}


# -- the same clips, twice ------------------------------------------------------------------------------------------


def _rounds(job: Job, clip: Clip, short: Clip, folder: Path, figures: Figures, say: Say) -> None:
    bare = stream.Job(job.repository, job.model, job.sample, job.streams, job.rounds, 2.0)
    start_s = _run_line(job, short, folder / "start").cpu_s
    loops = stream.BareStreams(bare.workload, clip, 1, folder)
    try:
        for number in range(1, job.rounds + 1):
            arms = ["distributed", "in_process"]
            random.Random(number).shuffle(arms)
            figures.limits.append(loops.block(2.0))
            for arm in arms:
                place = folder / f"{arm}-{number}"
                if arm == "distributed":
                    figures.distributed.append(_distributed(job, clip, short, place))
                else:
                    figures.in_process.append(_in_process(job, clip, place, start_s))
            say(
                f"round {number}/{job.rounds}: {figures.distributed[-1].cpu_ms:.1f} CPU-ms a frame distributed,"
                f" {figures.in_process[-1].cpu_ms:.1f} in one process"
            )
    finally:
        loops.close()


def _run_line(job: Job, clip: Clip, place: Path) -> stream_run.Served:
    place.mkdir(parents=True)
    sources = [f"cam{number}={clip.path}" for number in range(1, job.streams + 1)]
    outputs = ["--output", str(place / "mixed"), "--repository", str(job.repository), "--json"]
    line = [stream_run.executable(), "run", *sources, "--model", job.model, *outputs]
    (place / "mixed").mkdir()
    served, _ = stream_run.serve(line, place / "run.log")
    return served


def _in_process(job: Job, clip: Clip, place: Path, start_s: float) -> Arm:
    foreign = ForeignLoad()
    foreign.start()
    served = _run_line(job, clip, place)
    cpu_ms = max(0.0, served.cpu_s - start_s) * 1e3 / served.frames
    return Arm(served.frames, served.seconds, {"run": cpu_ms}, foreign.stop())


def _distributed(job: Job, clip: Clip, short: Clip, place: Path) -> Arm:
    """Roles are up and have shown a source before the clock runs; it stops when the last playlist has ended."""
    with System(place, job.repository) as system:
        system.role("worker", "worker", "--model", job.model)
        system.role("mixer", "mixer", "--output", str(place / "mixed"))
        system.role("accountant", "accountant")
        ingest_start_s = _ingested(system, job.model, {"warm": short}, place, job.repository)
        before = {role: system.cpu_s(role) for role in ROLES}
        foreign = ForeignLoad()
        foreign.start()
        began = time.monotonic()
        clips = {f"cam{number}": clip for number in range(1, job.streams + 1)}
        ingest_s = _ingested(system, job.model, clips, place, job.repository)
        seconds, frames = time.monotonic() - began, job.streams * clip.frames
        outside = foreign.stop()
        hops = {role: (system.cpu_s(role) - before[role]) * 1e3 / frames for role in ROLES}
        hops["ingest"] = max(0.0, ingest_s - job.streams * ingest_start_s) * 1e3 / frames
        return Arm(frames, seconds, hops, outside)


def _ingested(system: System, model: str, clips: dict[str, Clip], place: Path, repository: Path) -> float:
    """Feed clips at once and wait until each was shown to its end; CPU seconds of the processes that fed them."""
    before = stream_run.children_cpu_s()
    for name, clip in clips.items():
        system.job(name, "ingest", name, str(clip.path), "--model", model)
    for name in clips:
        system.join(name, DRAIN_S)
    spent = stream_run.children_cpu_s() - before
    for name in clips:
        playlist = place / "mixed" / name / "index.m3u8"
        wait_for(lambda: playlist.exists() and "ENDLIST" in playlist.read_text(), f"{name} shown", DRAIN_S)  # noqa: B023
    return spent


# -- the log alone --------------------------------------------------------------------------------------------------


def _stub(system: System, clip: Clip, job: Job, figures: Figures) -> None:
    """Frames are on the log before the worker starts: what it makes of them from a tenth to nine tenths of the way."""
    before = system.written("results")
    system.job("ingest", "ingest", "still", str(clip.path), "--model", "stub")
    system.join("ingest", DRAIN_S)
    system.job("stub", "stub", command=STUB)
    marks: list[tuple[float, int]] = []

    def drained() -> bool:
        marks.append((time.monotonic(), system.written("results") - before))
        return marks[-1][1] >= clip.frames

    wait_for(drained, "results of the stub", DRAIN_S, 0.02)
    system.kill("stub")
    middle = [mark for mark in marks if 0.1 * clip.frames <= mark[1] <= 0.9 * clip.frames]
    if len(middle) >= 2:
        figures.stub_rates.append((middle[-1][1] - middle[0][1]) / (middle[-1][0] - middle[0][0]))


# -- F1 and F2 ------------------------------------------------------------------------------------------------------


def _recovery(system: System, clip: Clip, job: Job, figures: Figures, say: Say) -> None:
    """A live source, two workers; for outages of the broker they have member names, as those of `lockstep up` do."""
    address = f"udp://127.0.0.1:{free_port()}"
    for name in WORKERS:
        system.role(name, "stub", command=STUB)
    system.job("sender", str(clip.path), address, command=[sys.executable, "-m", "deploy.embedded.sender"])
    system.job("live", "ingest", "live", address, "--model", "stub", "--no-mixed")
    wait_for(lambda: _owner(system) != "", "a worker has the source")
    with following(system.address, system.prefix, "live") as times:
        figures.result_age_s = _age(times)
        for number in range(1, job.kills + 1):
            figures.f1_s.append(_kill(system, times, number))
            say(f"F1 {number}/{job.kills}: fresh again after {figures.f1_s[-1]:.1f} s")
        if job.outages:
            _with_members(system)
        for number in range(1, job.outages + 1):
            system.stop_broker()
            time.sleep(job.outage_s)
            system.start_broker()
            figures.f2_s.append(_until_fresh(times, time.time()))
            say(f"F2 {number}/{job.outages}: fresh again {figures.f2_s[-1]:.1f} s after the broker's return")


def _with_members(system: System) -> None:
    """Start both again under member names: a nameless one that lost its session in an outage comes back as a new
    member, and the group waits for the old one."""
    for name in WORKERS:
        system.kill(name)
    for name in WORKERS:
        system.role(name, "stub", name, command=STUB)
    wait_for(lambda: _owner(system) != "", "a worker has the source again")


def _age(times: Times) -> dict[str, float]:
    time.sleep(SETTLE_S)
    since, read = time.time(), len(times.hops)
    time.sleep(CALM_S)
    until = time.time()
    time.sleep(1.0)  # results of the last of them
    ages, hops = times.ages(since, until), times.hops[read:]
    if not ages:
        raise RuntimeError(f"the live source: no result in {CALM_S:.0f} s")
    return {name: float(np.percentile(values, q)) for name, values, q in (
        ("p50", ages, 50), ("p99", ages, 99), ("hop", hops, 99)
    )}  # fmt: skip


def _kill(system: System, times: Times, number: int) -> float:
    name, at = _owner(system), time.time()
    system.kill(name)
    system.job(name, "stub", command=STUB)  # a supervisor would: its page comes back below
    seconds = _until_fresh(times, at)
    system.kill(name)
    system.role(name, "stub", command=STUB)
    wait_for(lambda: _owner(system) != "", f"kill {number}: a worker has the source")
    return seconds


def _until_fresh(times: Times, at: float) -> float:
    wait_for(lambda: times.fresh_after(at) is not None, "a fresh result of the live source")
    return times.fresh_after(at) or 0.0


def _owner(system: System) -> str:
    """The worker whose count of the live source rises."""
    sample = 'lockstep_worker_analysed_total{pipeline="stub",source="live"}'
    names = [name for name in WORKERS if name in system.running]
    first = {name: system.metric(name, sample) for name in names}
    time.sleep(1.0)
    rising = [name for name in names if system.metric(name, sample) > first[name]]
    return rising[0] if rising else ""
