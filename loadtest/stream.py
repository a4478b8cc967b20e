"""`lockstep bench stream`: `lockstep run` over several copies of a clip against the bare loop's own stage costs.

Method: for each size and k a clip is made, both arms are warmed and what they find is compared; then rounds in which
the arms come in random order. N_max of a round is the cores left by others over the CPU seconds that the bare loop,
one process a core, spent on a frame (benchmark formula: sum of stage costs, inference every k-th frame); what
`lockstep run` sustained in the same round is divided by it. Files are not paced: the number of streams held at their
frame rate is the sustained frames a second over the rate.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest import stream_run, stream_tracker
from loadtest.bare import THREAD_CAPS
from loadtest.facts import PACKAGES, ForeignLoad, machine_facts, version
from loadtest.stream_clips import SIZES, Clip, read_pictures, write_clip
from loadtest.stream_loop import STAGES
from loadtest.workload import Workload

CORES = len(os.sched_getaffinity(0))
MAX_FOREIGN = 0.10 * CORES
EVERY = (1, 5)
COMPARED = 12  # analysed frames on which both arms must find the same before anything is timed


@dataclass(frozen=True, slots=True)
class Limit:
    """One block of the bare loops. stage_ms: CPU ms of each stage a shown frame; per_call_ms: a call of the stage."""

    rate: float
    cpu_ms: float
    stage_ms: dict[str, float]
    per_call_ms: dict[str, float]
    foreign_cores: float

    def most(self, cores: float) -> float:
        """Frames a second that `cores` cores could do at these costs."""
        return cores * 1e3 / self.cpu_ms


@dataclass(frozen=True, slots=True)
class Held:
    """One run of ours. cpu_ms: CPU a frame without the start-up measured on its own."""

    rate: float
    cpu_ms: float
    rss_mib: float
    foreign_cores: float


@dataclass(slots=True)
class StreamCase:
    """One row of the table."""

    size: str
    every: int
    fps: float
    streams: int
    frames: int
    startup_s: float
    limits: list[Limit] = field(default_factory=list)
    ours: list[Held] = field(default_factory=list)


def limit_of(blocks: Sequence[dict[str, Any]], foreign_cores: float) -> Limit:
    """The blocks of all bare processes of one round as one limit."""
    frames = sum(block["frames"] for block in blocks)
    stages = {stage: sum(block["stages"][stage] for block in blocks) for stage in STAGES}
    calls = {stage: sum(block["calls"][stage] for block in blocks) for stage in STAGES}
    return Limit(
        rate=frames / max(block["wall_s"] for block in blocks),
        cpu_ms=sum(stages.values()) * 1e3 / frames,
        stage_ms={stage: seconds * 1e3 / frames for stage, seconds in stages.items()},
        per_call_ms={stage: stages[stage] * 1e3 / max(1, calls[stage]) for stage in STAGES},
        foreign_cores=foreign_cores,
    )


def shares(case: StreamCase) -> list[float]:
    """Ours over N_max, a value a round; rounds in which others took over 10 % are left out.

    Cores that others took while ours ran are not held against it.
    """
    return [
        ours.rate / limit.most(CORES - ours.foreign_cores)
        for ours, limit in zip(case.ours, case.limits, strict=True)
        if max(ours.foreign_cores, limit.foreign_cores) <= MAX_FOREIGN
    ]


def against_loop(case: StreamCase) -> list[float]:
    """Ours over what the bare processes sustained by the clock in the same round."""
    return [
        ours.rate / limit.rate
        for ours, limit in zip(case.ours, case.limits, strict=True)
        if max(ours.foreign_cores, limit.foreign_cores) <= MAX_FOREIGN
    ]


class BareStreams:
    """One bare-loop process a core, loaded once."""

    def __init__(self, workload: Workload, clip: Clip, every: int, folder: Path) -> None:
        base = [sys.executable, "-m", "loadtest.stream_loop", str(workload.version_dir), str(clip.path), str(every)]
        env = {**os.environ, **THREAD_CAPS}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
        self._children = [
            subprocess.Popen([*base, str(folder / f"bare-{number}.mp4")], **pipes) for number in range(CORES)
        ]
        try:
            first_lines = [self._read(child) for child in self._children]
            self.found: list[list[float]] = first_lines[0]
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _read(child: subprocess.Popen[str]) -> Any:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"a bare stream loop ended with {child.wait()}; its own message is above")
        return json.loads(line)

    def block(self, seconds: float) -> Limit:
        """All processes for `seconds` at once."""
        foreign = ForeignLoad()
        foreign.start()
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(f"{seconds}\n")
            child.stdin.flush()
        blocks = [self._read(child) for child in self._children]
        return limit_of(blocks, foreign.stop())

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
        for child in self._children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@dataclass(frozen=True, slots=True)
class Job:
    """What is measured: a published model, `streams` copies of a clip, rounds, and the length of a block."""

    repository: Path
    model: str
    sample: Path
    streams: int
    rounds: int
    seconds: float

    @property
    def workload(self) -> Workload:
        """The newest version."""
        versions = [p for p in (self.repository / self.model).glob("*") if p.name.isdigit()]
        if not versions:
            raise RuntimeError(
                f"{self.model} has no published version in {self.repository}: lockstep models lists what is there"
            )
        return Workload.read(max(versions, key=lambda p: int(p.name)))


def run(job: Job, say: Callable[[str], None]) -> dict[str, Any]:
    """All cases, the core and the tracker; what `loadtest.stream_report` writes down."""
    facts = machine_facts()
    facts["packages"] |= {name: version(name) for name in ("av", "trackers", *PACKAGES[:1])}
    facts["cores used"] = CORES
    pictures, fps = read_pictures(job.sample)
    cases = []
    with tempfile.TemporaryDirectory(prefix="bench-stream-") as name:
        folder = Path(name)
        for size in SIZES:
            for every in EVERY:
                draft = write_clip(folder / "first.mp4", pictures, size, every * COMPARED, fps)
                cases.append(_case(job, pictures, draft, every, folder, say))
    say("alignment core and tracker")
    return {
        "facts": facts,
        "job": {"model": job.model, "streams": job.streams, "rounds": job.rounds, "seconds": job.seconds},
        "cases": cases,
        "core": core(),
        "tracker_ms": {objects: stream_tracker.cost_ms(objects) for objects in stream_tracker.OBJECTS},
    }


def core() -> list[dict[str, Any]]:
    """The alignment core alone, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "serving.testing.align_bench"], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"serving.testing.align_bench ended with {done.returncode}:\n{done.stderr[-2000:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _case(
    job: Job, pictures: list[Any], draft: Clip, every: int, folder: Path, say: Callable[[str], None]
) -> StreamCase:
    bare = BareStreams(job.workload, draft, every, folder)
    try:
        warm = bare.block(min(1.0, job.seconds))
    finally:
        bare.close()
    startup = _first_run(job, draft, every, folder, bare.found)
    frames = frames_for(warm.rate, job.seconds, job.streams, every)
    clip = write_clip(folder / f"{draft.size}-{every}.mp4", pictures, draft.size, frames, draft.fps)
    case = StreamCase(draft.size, every, float(draft.fps), job.streams, frames, startup.wall_s - startup.seconds)
    bare = BareStreams(job.workload, clip, every, folder)
    try:
        idle_cpu_s = max(0.0, startup.cpu_s - startup.frames * warm.cpu_ms / 1e3)
        for number in range(1, job.rounds + 1):
            _round(job, case, clip, bare, folder, idle_cpu_s, number)
            say(f"{case.size} k={every}: round {number}/{job.rounds}, {case.ours[-1].rate:.1f} frames/s")
    finally:
        bare.close()
    return case


def frames_for(rate: float, seconds: float, streams: int, every: int) -> int:
    """Frames of a clip, so that `streams` of it take about `seconds` at `rate` frames a second; a multiple of k."""
    return max(2, round(rate * seconds / streams / every)) * every


def _first_run(job: Job, draft: Clip, every: int, folder: Path, expected: list[list[float]]) -> stream_run.Served:
    """A short run of one stream: warms caches, gives the cost of starting, and must find what the bare loop found."""
    line = stream_run.command(draft.path, 1, job.model, every, folder, job.repository)
    served, _ = stream_run.serve(line, folder / "run.log")
    ours = stream_run.found(folder / "results.jsonl", COMPARED)
    if not stream_run.agree(ours, expected):
        raise RuntimeError(
            f"{draft.size} k={every}: lockstep run and the bare loop find different boxes; a timing would compare two "
            f"jobs\nours {ours[:3]}\nbare {expected[:3]}"
        )
    return served


def _round(
    job: Job, case: StreamCase, clip: Clip, bare: BareStreams, folder: Path, idle_cpu_s: float, number: int
) -> None:
    arms = ["ours", "bare"]
    random.Random(f"{case.size} {case.every} {number}").shuffle(arms)
    for arm in arms:
        if arm == "bare":
            case.limits.append(bare.block(job.seconds))
        else:
            case.ours.append(_ours(job, case, clip, folder, idle_cpu_s))


def _ours(job: Job, case: StreamCase, clip: Clip, folder: Path, idle_cpu_s: float) -> Held:
    foreign = ForeignLoad()
    foreign.start()
    line = stream_run.command(clip.path, job.streams, job.model, case.every, folder, job.repository)
    served, _ = stream_run.serve(line, folder / "run.log")
    others = foreign.stop()
    if served.frames != job.streams * clip.frames:
        raise RuntimeError(f"expected {job.streams} x {clip.frames} frames, {served.frames} were shown")
    cpu_ms = max(0.0, served.cpu_s - idle_cpu_s) * 1e3 / served.frames
    return Held(served.frames / served.seconds, cpu_ms, served.rss_mib, others)
