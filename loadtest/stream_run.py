"""The served arm: `lockstep run` called as a stranger calls it, judged by what it prints."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True)
class Served:
    """One run. seconds: from the first open to the last output closed, as its summary says; the model was loaded
    before. wall_s and cpu_s: of the whole process.
    """

    frames: int
    seconds: float
    wall_s: float
    cpu_s: float
    rss_mib: float


def executable() -> str:
    """`lockstep` beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("lockstep")
    found = str(beside) if beside.exists() else shutil.which("lockstep")
    if not found:
        raise RuntimeError("no `lockstep` beside this Python nor on the path: make setup")
    return found


def command(clip: Path, streams: int, model: str, every: int, folder: Path, repository: Path) -> list[str]:
    """`lockstep run` over `streams` copies of a clip, tracked, mixed and recorded."""
    sources = [f"cam{number}={clip}" for number in range(1, streams + 1)]
    return [
        executable(), "run", *sources, "--model", model, "--track", "bytetrack", "--every", str(every),
        "--output", str(folder / "mixed.mp4"), "--results", str(folder / "results.jsonl"),
        "--repository", str(repository), "--json",
    ]  # fmt: skip


def serve(line: Sequence[str], log: Path) -> tuple[Served, dict[str, Any]]:
    """Run it; its figures and its summary. RuntimeError where it failed or did not balance."""
    cpu, started = children_cpu_s(), time.perf_counter()
    with log.open("w") as errors:
        child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            text, _ = child.communicate(timeout=TIMEOUT_S)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    wall_s = time.perf_counter() - started
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(line)} ended with {child.returncode}:\n{log.read_text()[-2000:]}")
    document = json.loads(text)
    frames = check(document)
    rss_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Served(frames, document["seconds"], wall_s, children_cpu_s() - cpu, rss_mib), document


def check(document: dict[str, Any]) -> int:
    """Frames shown over all sources; RuntimeError unless every source is whole and lost nothing but `not_sampled`."""
    shown = 0
    for source in document["sources"]:
        lost = {
            reason: count
            for balance in source["balances"].values()
            for reason, count in balance["reasons"].items()
            if reason != "not_sampled"
        }
        accepted = {balance["accepted"] for balance in source["balances"].values()}
        if not source["ok"] or lost or accepted != {source["shown"]} or source["mismatched"]:
            raise RuntimeError(f"{source['source_id']}: lost {lost}, accepted {accepted}, shown {source['shown']}")
        shown += source["shown"]
    return shown


def found(results: Path, most: int) -> list[list[float]]:
    """The confidences on the first `most` analysed frames of a results file."""
    rows = (json.loads(line) for line in results.read_text().splitlines())
    analysed = [[box["confidence"] for box in row["detections"]] for row in rows if row["outcome"] == "result"]
    return analysed[:most]


def agree(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], slack: float = 0.04) -> bool:
    """The same boxes of 0.35 and more on at least nine frames of ten, by their sorted confidences.

    Below, a box may fall on either side of the threshold: two converters of YUV to RGB differ by a grey level.
    """
    if not ours or len(ours) != len(theirs):
        return False
    same = sum(_same(a, b, slack) for a, b in zip(ours, theirs, strict=True))
    return same * 10 >= len(ours) * 9


def _same(ours: Sequence[float], theirs: Sequence[float], slack: float) -> bool:
    first, second = (sorted(c for c in found if c >= 0.35) for found in (ours, theirs))
    return len(first) == len(second) and all(abs(a - b) <= slack for a, b in zip(first, second, strict=True))


def children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system
