"""`lockstep bench rest`: the running server against the bare loops and peers, interleaved in one run.

Method: every arm is loaded and warmed once and its answers are compared; then rounds of a few seconds an arm in a
fresh random order. A ratio is taken between blocks of the same round; the limit is BEST scaled to the cores that the
generator and foreign processes left. Median and bootstrap interval over the rounds.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from loadtest import servers
from loadtest.bare import BareArm
from loadtest.facts import ForeignLoad, machine_facts
from loadtest.generators import Wrk
from loadtest.workload import Workload, make_corpus

CORES = len(os.sched_getaffinity(0))  # as many processes of every arm but ours, which has its defaults
CLIENTS = 4 * CORES
MAX_FOREIGN = 0.10 * CORES
BATCH = 4
LEAST_EQUAL, LEAST_EQUAL_PLAIN = 15 / 16, 12 / 16


@dataclass(slots=True)
class Sample:
    """One arm's block in one round."""

    arm: str
    rate: float
    cpu_ms: float
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    generator_cores: float = 0.0
    foreign_cores: float = 0.0
    refused: int = 0
    broken: int = 0


@dataclass(slots=True)
class Case:
    """One row of the table: a model, a picture size, a number of clients."""

    model: str
    size: str
    clients: int
    samples: list[Sample] = field(default_factory=list)
    rss_mib: dict[str, float] = field(default_factory=dict)

    def of(self, arm: str) -> list[Sample]:
        """The blocks of one arm, in round order."""
        return [sample for sample in self.samples if sample.arm == arm]


def run(
    repository: Path, models: Sequence[str], sizes: Sequence[str], photos: list[Path], *, rounds: int, seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """All cases; returns facts and cases for `loadtest.report`."""
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        for model in models:
            newest = max((p for p in (repository / model).iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
            arms = _Servers(model, repository, newest, Path(folder))
            try:
                arms.start(say)
                for size in sizes:
                    corpus = make_corpus(photos, Path(folder) / size, size)
                    cases += _cases(arms, newest, corpus, size, rounds, seconds, say)
            finally:
                arms.stop()
    return {"facts": {**machine_facts(), "cores used": CORES}, "rounds": rounds, "seconds": seconds, "cases": cases}


class _Servers:
    """The three servers of one model, up during all its cases."""

    def __init__(self, model: str, repository: Path, version_dir: Path, folder: Path) -> None:
        self.model = model
        self.arms = [
            servers.ours((model,), repository, folder / "lockstep.log"),
            servers.mosec(version_dir, folder / "mosec.log", CORES),
            servers.fastapi(version_dir, folder / "fastapi.log", CORES),
        ]

    def start(self, say: Callable[[str], None]) -> None:
        """One after the other."""
        for arm in self.arms:
            say(f"{self.model}: starting {arm.name}")
            arm.start()

    def stop(self) -> None:
        """All of them."""
        for arm in self.arms:
            arm.stop()


def _cases(
    arms: _Servers, version_dir: Path, corpus: list[Path], size: str, rounds: int, seconds: float,
    say: Callable[[str], None],
) -> list[Case]:  # fmt: skip
    workload = Workload.read(version_dir)
    bare = {
        kind: BareArm(kind, workload, corpus[0].parent, BATCH if kind == "best" else 1, CORES)
        for kind in ("best", "plain")
    }
    wrk = Wrk(corpus)
    try:
        check_answers(arms, bare, corpus)
        cases = [Case(arms.model, size, clients) for clients in (CLIENTS, 1)]
        for case in cases:
            _measure(case, arms, bare, wrk, rounds, seconds, say)
        return cases
    finally:
        wrk.close()
        for arm in bare.values():
            arm.close()


def check_answers(arms: _Servers, bare: dict[str, BareArm], corpus: list[Path]) -> None:
    """Every arm decides as the server on nearly all pictures, or nothing is timed.

    PLAIN resizes with another kernel (OpenCV without antialiasing), so borderline pictures may differ there.
    """
    answers = {name: [_decision(a) for a in arm.answers] for name, arm in bare.items()}
    for server in arms.arms:
        found = [
            httpx.post(server.url, content=p.read_bytes(), headers={"content-type": "image/jpeg"}, timeout=30)
            for p in corpus
        ]
        answers[server.name] = [_decision_of(reply.json()) for reply in found]
    ours = answers["lockstep"]
    for name, theirs in answers.items():
        equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
        least = LEAST_EQUAL_PLAIN if name == "plain" else LEAST_EQUAL
        if equal < len(ours) * least:
            raise RuntimeError(
                f"{name} answers differently: {equal} of {len(ours)} equal; a timing would compare two jobs"
            )


def _decision(answer: list[tuple[int, float]]) -> tuple[int, int]:
    sure = sum(score >= 0.4 for _, score in answer)
    return (answer[0][0] if answer else -1, sure)


def _decision_of(document: dict[str, Any]) -> tuple[int, int]:
    if "answer" in document:
        return _decision(document["answer"])
    rows = document.get("classes", document.get("detections", []))
    return _decision([(row["class_id"], row.get("score", row.get("confidence"))) for row in rows])


def _measure(
    case: Case,
    arms: _Servers,
    bare: dict[str, BareArm],
    wrk: Wrk,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> None:
    names = [*(bare if case.clients > 1 else ["best"]), *(arm.name for arm in arms.arms)]
    by_name = {arm.name: arm for arm in arms.arms}
    for number in range(rounds + 1):  # round 0 warms every shape and is thrown away
        for name in random.Random(number).sample(names, len(names)):
            foreign = ForeignLoad()
            foreign.start()
            sample = (
                _bare(name, bare[name], seconds) if name in bare else _served(by_name[name], wrk, case.clients, seconds)
            )
            sample.foreign_cores = foreign.stop()
            if number:
                case.samples.append(sample)
        say(f"{case.model} {case.size} c{case.clients}: round {number}/{rounds}")
    case.rss_mib = {arm.name: arm.rss_bytes / 2**20 for arm in arms.arms}


def _bare(name: str, arm: BareArm, seconds: float) -> Sample:
    block = arm.block(seconds)
    return Sample(
        name, block.count / block.wall_s, block.cpu_s * 1e3 / block.count, block.wall_s * 1e3 * CORES / block.count
    )


def _served(arm: servers.ServerArm, wrk: Wrk, clients: int, seconds: float) -> Sample:
    before = arm.cpu_s
    load = wrk.block(arm.url, clients, seconds)
    cpu_ms = (arm.cpu_s - before) * 1e3 / max(1, load.good)
    generator = load.generator_cpu_s / load.wall_s
    return Sample(
        arm.name, load.good / load.wall_s, cpu_ms, load.p50_ms, load.p95_ms, generator, 0.0, load.refused, load.broken
    )
