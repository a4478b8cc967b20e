"""The bounds of a certificate row: design defaults of the task, merged with what the spec's `parity.gates` says.

Tightening is free. Loosening needs `parity.because` and is named in the certificate (printed red).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serving.errors import SpecInvalid
from serving.spec import ModelSpec, Threshold
from serving.tasks.base import Task

# Which way is stricter. A bound that is in neither set is unknown and refused.
HIGHER_IS_STRICTER = frozenset({"cosine", "iou", "embedding_cosine", "tensor_cosine"})
LOWER_IS_STRICTER = frozenset(
    {"max_abs_scaled", "margin", "score", "threshold", "pixel_difference", "tensor_difference", "landmarks"}
)
# Figures that are added up over the samples: how much was compared at all.
COUNTED = frozenset({"boxes"})
BASE: Mapping[str, Mapping[str, float]] = {
    "preprocess": {"pixel_difference": 0.0, "tensor_difference": 1e-5},
    "onnx_fp32": {"max_abs_scaled": 1e-4},
}
# Rows that share the bounds of another: a served answer differs from the engine's by batch composition only.
_FAMILY = {"server": "engine", "gateway": "engine", "preprocess_fast": "engine", "transport": "engine"}
ROWS_WITH_GATES = ("preprocess", "preprocess_fast", "onnx_fp32", "onnx_fp16", "engine", "server", "gateway",
                   "transport")  # fmt: skip
# Rows that see network outputs, besides the engines': any of them may bound the numbers too.
_NUMBERS, _SEE_NUMBERS = ("cosine", "max_abs_scaled"), ("onnx_fp32", "onnx_fp16")


@dataclass(frozen=True, slots=True)
class RowGate:
    """The bounds of one row. `loosened` names those weaker than the default, with the spec's reason."""

    bounds: Mapping[str, float] = field(default_factory=dict)
    loosened: tuple[str, ...] = ()
    because: str = ""


def gate_of(row: str, task: Task, spec: ModelSpec) -> RowGate:
    """Bounds of a row: base, then the task's, then the spec's.

    `engine_openvino`, `server` and `gateway` take the spec's bounds of `engine` first, then their own.
    A detector's `threshold` is the lowest at which anything is served: a scenario can lower it, never raise it.
    Raises SpecInvalid for an unknown row, a bound that its row does not read, and a loosened one without
    `parity.because`.
    """
    check_names(task, spec)
    default = _defaults(row, task)
    if "threshold" in default:
        served = [
            bound
            for values in spec.thresholds.values()
            if "score_threshold" in values
            for bound in bounds_in(values["score_threshold"])
        ]
        default["threshold"] = min(default["threshold"], *served) if served else default["threshold"]
    bounds = dict(default)
    for name in dict.fromkeys(("engine" if _as_engines(row) else row, row)):
        bounds.update(spec.parity.gates.get(name, {}))
    loosened = tuple(sorted(n for n, bound in bounds.items() if n in default and is_looser(n, bound, default[n])))
    if loosened and not spec.parity.because.strip():
        what = ", ".join(f"{n} {default[n]:g} -> {bounds[n]:g}" for n in loosened)
        raise SpecInvalid(f"{spec.name}: parity.gates.{row}: {what} is looser than the default", hint="add `because:`")
    return RowGate(bounds, loosened, spec.parity.because if loosened else "")


def bounds_in(threshold: Threshold) -> Sequence[float]:
    """The bounds that a threshold holds: one, or one a class."""
    return tuple(threshold.values()) if isinstance(threshold, dict) else (threshold,)


def check_gates(task: Task, spec: ModelSpec) -> None:
    """Every row's gate, before any work. Raises SpecInvalid as `gate_of` does."""
    for row in (*ROWS_WITH_GATES, *(f"engine_{name}" for name in spec.engines)):
        gate_of(row, task, spec)


def decisions_only(gate: RowGate) -> RowGate:
    """The gate without its bounds on numbers, for rows that see results and no network outputs."""
    bounds = {name: bound for name, bound in gate.bounds.items() if name not in _NUMBERS}
    return RowGate(bounds, tuple(n for n in gate.loosened if n not in _NUMBERS), gate.because)


def check_names(task: Task, spec: ModelSpec) -> None:
    """Refuse rows and bounds that nothing reads: a typing error must not look like a gate."""
    rows = {*ROWS_WITH_GATES, *(f"engine_{name}" for name in spec.engines)}
    for row, bounds in spec.parity.gates.items():
        if row not in rows:
            raise SpecInvalid(f"{spec.name}: parity.gates: unknown row {row!r}; known: {', '.join(sorted(rows))}")
        for name in bounds:
            if name not in HIGHER_IS_STRICTER | LOWER_IS_STRICTER:
                known = ", ".join(sorted(HIGHER_IS_STRICTER | LOWER_IS_STRICTER))
                raise SpecInvalid(f"{spec.name}: parity.gates.{row}: unknown bound {name!r}; known: {known}")
            if name not in (read := _read_by(row, task)):
                what = f"{spec.name}: parity.gates.{row}: bound {name!r} is not read by this row of task {task.name}"
                raise SpecInvalid(f"{what}; it reads: {', '.join(sorted(read)) or 'none'}")


def is_looser(name: str, bound: float, default: float) -> bool:
    """Whether `bound` lets more pass than `default`; NaN always does."""
    if math.isnan(bound):
        return True
    return bound < default if name in HIGHER_IS_STRICTER else bound > default


def within(name: str, figure: float, bound: float) -> bool:
    """Whether a measured figure keeps its bound; NaN never does."""
    return figure >= bound if name in HIGHER_IS_STRICTER else figure <= bound


def worse(name: str, a: float, b: float) -> float:
    """The worse of two figures of one name, or their sum where they count; NaN is the worst of all."""
    if math.isnan(a) or math.isnan(b):
        return math.nan
    if name in COUNTED:
        return a + b
    lowest_is_worst = name in HIGHER_IS_STRICTER or name in ("margin", "top1_equal")
    return min(a, b) if lowest_is_worst else max(a, b)


def _as_engines(row: str) -> bool:
    return row.startswith("engine_") or row in ("server", "gateway")


def _defaults(row: str, task: Task) -> dict[str, float]:
    family = "engine" if row.startswith("engine_") else _FAMILY.get(row, row)
    return {**BASE.get(row, {}), **(task.default_gates.get(row) or task.default_gates.get(family, {}))}


def _read_by(row: str, task: Task) -> set[str]:
    """Names of the bounds that keep a row of this task from passing. Rows of results never see numbers."""
    names = set(_defaults(row, task)).difference(_NUMBERS)
    return names.union(_NUMBERS) if row.startswith("engine") or row in _SEE_NUMBERS else names
