"""Do two stages of one model agree? Pure functions from arrays and typed results to one row of the certificate.

Numbers are compared per sample and per output: the largest absolute difference, and the cosine. Decisions are compared
by the task (`Task.agree`). No relative error is used: dividing by values near zero says nothing (design.md traps 18).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from converters.rows_gates import RowGate, within, worse
from serving.spec import ModelSpec
from serving.tasks.base import Task
from serving.types import Array, ImageTransform, TaskResult

Status = Literal["passed", "failed", "not_run"]
Outputs = Mapping[str, Array]
WORST_KEPT = 3
KEPT_ROWS = 20


@dataclass(frozen=True, slots=True)
class SampleVerdict:
    """One sample of one row: its figures, whether it passed, and both answers as documents."""

    sample: str
    ok: bool
    figures: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    reference: Mapping[str, Any] = field(default_factory=dict)
    candidate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def badness(self) -> tuple[bool, float, float]:
        """Sort key: failed first, then the lowest cosine, then the largest difference."""
        cosine = self.figures.get("cosine", 1.0)
        difference = self.figures.get("max_abs", self.figures.get("pixel_difference", 0.0))
        return (
            not self.ok,
            -1.0 if math.isnan(cosine) else 1.0 - cosine,
            math.inf if math.isnan(difference) else difference,
        )


@dataclass(frozen=True, slots=True)
class StageRow:
    """One row of the certificate. `reason` says why it failed or was not run; `loosened` names weakened bounds."""

    stage: str
    status: Status
    compared: str
    reason: str = ""
    gate: Mapping[str, float] = field(default_factory=dict)
    loosened: tuple[str, ...] = ()
    because: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 0
    worst: tuple[SampleVerdict, ...] = ()

    def __post_init__(self) -> None:
        if self.status != "passed" and not self.reason:
            raise ValueError(f"StageRow {self.stage}: status {self.status} needs a reason")

    def to_json(self) -> dict[str, Any]:
        """The row as the certificate holds it; numbers that JSON lacks become text."""
        return {
            "stage": self.stage,
            "status": self.status,
            "reason": self.reason,
            "compared": self.compared,
            "gate": dict(self.gate),
            "loosened": list(self.loosened),
            "because": self.because,
            "figures": {name: _number(value) for name, value in self.figures.items()},
            "samples": self.samples,
            "worst": [_worst_json(w) for w in self.worst],
        }


def not_run(stage: str, compared: str, reason: str, **figures: Any) -> StageRow:
    """A row that could not be measured here, with its reason."""
    return StageRow(stage, "not_run", compared, reason, figures=figures)


def failed(stage: str, compared: str, reason: str, **figures: Any) -> StageRow:
    """A row that failed before any sample was compared."""
    return StageRow(stage, "failed", compared, reason, figures=figures)


def first_failed(rows: Iterable[StageRow]) -> StageRow | None:
    """The stage that is named: rows are in the order of the data's way, so the first failure is the cause."""
    return next((row for row in rows if row.status == "failed"), None)


def summarise(
    stage: str,
    compared: str,
    gate: RowGate,
    verdicts: Sequence[SampleVerdict],
    *,
    problems: Sequence[str] = (),
    figures: Mapping[str, Any] | None = None,
) -> StageRow:
    """Samples (and problems of the stage as a whole) -> the row. No sample at all is a failure."""
    bad = [v for v in verdicts if not v.ok]
    reasons = list(problems)
    if bad:
        reasons.append(f"{len(bad)} of {len(verdicts)} samples, first {bad[0].sample}: {bad[0].why}")
    if not verdicts and not problems:
        reasons.append("no samples")
    measured: dict[str, Any] = {}
    for verdict in verdicts:
        for name, value in verdict.figures.items():
            measured[name] = worse(name, measured[name], value) if name in measured else value
    worst = tuple(sorted(verdicts, key=lambda v: v.badness, reverse=True)[:WORST_KEPT])
    return StageRow(
        stage,
        "failed" if reasons else "passed",
        compared,
        "; ".join(reasons),
        dict(gate.bounds),
        gate.loosened,
        gate.because,
        {**measured, **(figures or {})},
        len(verdicts),
        worst,
    )


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares outputs of one model's network as numbers and as decisions of its task."""

    task: Task
    spec: ModelSpec
    labels: Sequence[str] = ()

    def parameters(self, gate: Mapping[str, float]) -> dict[str, Any]:
        """The task's defaults, but every class, and thresholds so low that both sides of a borderline box are seen."""
        values = {name: parameter.default for name, parameter in self.task.parameters.items()}
        if "score_threshold" in values:
            slack = gate.get("margin", 0.0) + gate.get("score", 0.0) + 0.01
            values["score_threshold"] = max(0.0, gate.get("threshold", 0.0) - slack)
        if "top_k" in values:
            values["top_k"] = int(self.task.parameters["top_k"].maximum or values["top_k"])
        return values

    def result(self, outputs: Outputs, transform: ImageTransform | None, gate: Mapping[str, float]) -> TaskResult:
        """One sample's outputs as the task reads them."""
        return self.task.postprocess(outputs, transform, self.spec, self.parameters(gate))

    def outputs(
        self, sample: str, reference: Outputs, candidate: Outputs, transform: ImageTransform | None, gate: RowGate
    ) -> SampleVerdict:
        """One sample, network outputs of both sides without a batch axis."""
        figures, why = numbers(reference, candidate)
        if why:
            return SampleVerdict(sample, False, figures, why)
        broken = [
            f"{name} {figures[name]:.6g}, expected {bound:g}"
            for name, bound in gate.bounds.items()
            if name in figures and not within(name, figures[name], bound)
        ]
        a = self.result(reference, transform, gate.bounds)
        b = self.result(candidate, transform, gate.bounds)
        return self.results(sample, a, b, gate, figures, broken)

    def results(
        self,
        sample: str,
        reference: TaskResult,
        candidate: TaskResult,
        gate: RowGate,
        figures: Mapping[str, float] | None = None,
        broken: Sequence[str] = (),
    ) -> SampleVerdict:
        """One sample, typed results of both sides; `broken` are bounds that its numbers already missed."""
        agreement = self.task.agree(reference, candidate, gate.bounds, self.spec)
        why = [*broken, *([agreement.why or "decisions differ"] if not agreement.ok else [])]
        return SampleVerdict(
            sample,
            not why,
            {**(figures or {}), **{k: float(v) for k, v in agreement.figures.items()}},
            "; ".join(why),
            shortened(self.task.to_document(reference, self.labels)),
            shortened(self.task.to_document(candidate, self.labels)),
        )


def shortened(document: Mapping[str, Any]) -> dict[str, Any]:
    """A task's document with the first rows of each list: what the certificate keeps of an answer."""
    return {name: value[:KEPT_ROWS] if isinstance(value, list) else value for name, value in document.items()}


def numbers(reference: Outputs, candidate: Outputs) -> tuple[dict[str, float], str]:
    """max_abs, max_abs_scaled (over max(1, max abs of the reference)) and cosine, the worst over the outputs.

    The second value says why they cannot be compared: other names, another shape, NaN or infinity.
    """
    if reference.keys() != candidate.keys():
        return {}, f"outputs {sorted(candidate)}, expected {sorted(reference)}"
    figures = {"max_abs": 0.0, "max_abs_scaled": 0.0, "cosine": 1.0}
    for name, wanted in reference.items():
        got = candidate[name]
        if got.shape != wanted.shape:
            return {}, f"output {name}: shape {list(got.shape)}, expected {list(wanted.shape)}"
        a, b = np.asarray(wanted, np.float64).ravel(), np.asarray(got, np.float64).ravel()
        if not np.isfinite(b).all():
            bad = int((~np.isfinite(b)).sum())
            return {"cosine": math.nan, "max_abs": math.nan}, f"output {name}: {bad} of {b.size} values NaN or infinite"
        if not np.isfinite(a).all():
            return {"cosine": math.nan, "max_abs": math.nan}, f"output {name}: the reference itself is not finite"
        difference = float(np.abs(a - b).max(initial=0.0))
        scaled = difference / max(1.0, float(np.abs(a).max(initial=0.0)))
        for key, value in (("max_abs", difference), ("max_abs_scaled", scaled), ("cosine", cosine(a, b))):
            figures[key] = worse(key, figures[key], value)
    return figures, ""


def cosine(a: Array, b: Array) -> float:
    """Cosine of two vectors; two zero vectors agree (1), one zero vector does not (0)."""
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if norms == 0.0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return min(1.0, float(a @ b) / norms)


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return float(value) if isinstance(value, np.floating) else int(value) if isinstance(value, np.integer) else value


def _worst_json(verdict: SampleVerdict) -> dict[str, Any]:
    return {
        "sample": verdict.sample,
        "ok": verdict.ok,
        "why": verdict.why,
        "figures": {name: _number(value) for name, value in verdict.figures.items()},
        "reference": dict(verdict.reference),
        "candidate": dict(verdict.candidate),
    }
