"""Rows of the served model: the same file bytes through Triton, or through Triton and the gateway, against the same
artifact in this process.

First one by one: the documents are identical but for timings. Then many at once in shuffled order, so that the server
joins them: decisions agree, and each answer belongs to its own request (the hash of the pixels says so).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from converters.parity import Judge, SampleVerdict, StageRow, failed, shortened, summarise
from converters.rows_gates import RowGate
from converters.rows_network import SEED
from converters.samples import Sample
from serving.errors import LockstepError
from serving.types import RawTensors, TaskResult

CONCURRENT = 32
# What differs between two right answers: times, and the certificate that the staged version does not have yet.
_NOT_COMPARED = ("timings_ms", "certificate_id")
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One served answer: the document, and the typed result that was read from it or from the tensors."""

    document: Document
    result: TaskResult


class Runner(Protocol):
    """A way to ask the model: in this process, through Triton, through the gateway. Thread-safe."""

    def ask(self, sample: Sample, parameters: Mapping[str, Any]) -> Answer:
        """Raises ServingError classes."""
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """How the second part asks: so many at once, with these parameters (thresholds low enough to see both sides)."""

    parameters: Mapping[str, Any]
    concurrent: int = CONCURRENT


def served_row(
    stage: str,
    compared: str,
    runner: Runner,
    local: Runner,
    samples: Sequence[Sample],
    judge: Judge,
    gate: RowGate,
    load: Load,
    done: Callable[[int], None] = lambda count: None,
) -> StageRow:
    """Both parts. An error of the served side is the row's reason."""
    try:
        alone = [_identical(s, local.ask(s, {}), runner.ask(s, {}), judge, done) for s in samples]
        references = [local.ask(s, load.parameters) for s in samples]
        crowd = _together(runner, samples, references, judge, gate, load, done)
    except LockstepError as error:
        return failed(stage, compared, f"{error.code}: {error}")
    row = summarise(stage, compared, gate, alone)
    joined = summarise(stage, compared, gate, crowd, figures={"requests": len(crowd), "concurrent": load.concurrent})
    reasons = [
        *([row.reason] if row.reason else []),
        *([f"{load.concurrent} at once: {joined.reason}"] if joined.reason else []),
    ]
    figures = {"identical": sum(v.ok for v in alone), **joined.figures}
    return StageRow(
        stage, "failed" if reasons else "passed", compared, "; ".join(reasons), dict(gate.bounds), gate.loosened,
        gate.because, figures, len(samples), row.worst if row.reason else joined.worst,
    )  # fmt: skip


def other_pixels(reference: Answer, candidate: Answer) -> str:
    """Why the two answers cannot be compared: the uint8 pixels before normalising differ. '' also where one side, a
    certified server, does not tell their hash."""
    wanted, got = (answer.document.get("pixels_sha256") for answer in (reference, candidate))
    if not wanted or not got or wanted == got:
        return ""
    return f"other pixels (SHA-256 {got[:8]}, expected {wanted[:8]}): another request's, or prepared in another way"


def difference(reference: Any, candidate: Any, path: str = "") -> str:
    """Where two documents differ first, as `path: a became b`; '' where they are equal."""
    if isinstance(reference, Mapping) and isinstance(candidate, Mapping):
        for key in [*reference, *(k for k in candidate if k not in reference)]:
            if not path and key in _NOT_COMPARED:
                continue
            if not path and key == "pixels_sha256" and not (key in reference and key in candidate):
                continue  # a certified server does not say it
            if found := difference(reference.get(key), candidate.get(key), f"{path}.{key}".lstrip(".")):
                return found
        return ""
    if isinstance(reference, list) and isinstance(candidate, list) and len(reference) == len(candidate):
        pairs = enumerate(zip(reference, candidate, strict=True))
        return next((told for i, (a, b) in pairs if (told := difference(a, b, f"{path}[{i}]"))), "")
    return "" if reference == candidate else f"{path}: {_short(reference)} became {_short(candidate)}"


def _identical(
    sample: Sample, reference: Answer, candidate: Answer, judge: Judge, done: Callable[[int], None]
) -> SampleVerdict:
    done(1)
    why = other_pixels(reference, candidate) or difference(reference.document, candidate.document)
    if not why and isinstance(reference.result, RawTensors):
        why = _tensors_differ(reference.result, candidate.result)
    documents = (_task_part(reference, judge), _task_part(candidate, judge))
    return SampleVerdict(sample.name, not why, {}, why, *documents)


def _together(
    runner: Runner,
    samples: Sequence[Sample],
    references: Sequence[Answer],
    judge: Judge,
    gate: RowGate,
    load: Load,
    done: Callable[[int], None],
) -> list[SampleVerdict]:
    """Every sample once, and again until at least twice as many requests were made as run at once."""
    rounds = max(1, -(-2 * load.concurrent // max(1, len(samples))))
    rng = np.random.default_rng(SEED)
    order = [i for _ in range(rounds) for i in rng.permutation(len(samples)).tolist()]

    def ask(index: int) -> SampleVerdict:
        answer = runner.ask(samples[index], load.parameters)
        done(1)
        verdict = judge.results(samples[index].name, references[index].result, answer.result, gate)
        if why := other_pixels(references[index], answer):
            return SampleVerdict(verdict.sample, False, verdict.figures, why, verdict.reference, verdict.candidate)
        return verdict

    with ThreadPoolExecutor(load.concurrent) as pool:
        return list(pool.map(ask, order))


def _tensors_differ(reference: RawTensors, candidate: TaskResult) -> str:
    assert isinstance(candidate, RawTensors)
    for name, wanted in reference.tensors.items():
        if name not in candidate.tensors or not np.array_equal(wanted, candidate.tensors[name]):
            return f"tensor {name} differs"
    return ""


def _task_part(answer: Answer, judge: Judge) -> dict[str, Any]:
    return shortened(judge.task.to_document(answer.result, judge.labels))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
