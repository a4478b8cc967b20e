"""Rows of the network itself: ONNX in FP32, ONNX in FP16, and each engine, against what the checkpoint computed.

Every row runs each sample alone and then all of them shuffled in batches, on the same inputs as the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converters.parity import Judge, Outputs, SampleVerdict, StageRow, failed, summarise
from converters.rows_gates import RowGate
from converters.sequence import sounding
from serving.errors import LockstepError
from serving.types import Array, EngineInfo, ImageTransform, TensorSpec

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
SEED = 20240513  # order of the shuffled batches: fixed, so that two runs of one certificate compare the same rows


@dataclass(frozen=True, slots=True)
class Reference:
    """What the checkpoint computed, sample by sample, without a batch axis.

    inputs: the network's named inputs; outputs: its named outputs; transforms: the way back for boxes (None: task raw).
    """

    names: Sequence[str]
    inputs: Sequence[Mapping[str, Array]]
    outputs: Sequence[Outputs]
    transforms: Sequence[ImageTransform | None]

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.inputs), len(self.outputs), len(self.transforms)}
        if len(lengths) != 1:
            raise ValueError(f"Reference: expected one entry a sample in every column, got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.names)


def network_row(
    stage: str,
    compared: str,
    run: Run,
    reference: Reference,
    judge: Judge,
    gate: RowGate,
    *,
    batches: Sequence[int] = (),
    problems: Sequence[str] = (),
    figures: Mapping[str, Any] | None = None,
) -> StageRow:
    """Run every sample alone, then shuffled in each of `batches`; both must keep the gate and stay in their row."""
    run = sounding(judge.spec, run)
    try:
        singles = [alone(run, inputs) for inputs in reference.inputs]
        verdicts = _judge(reference, singles, judge, gate)
        row = summarise(stage, compared, gate, verdicts, problems=problems, figures=figures)
        for size in batches:
            row = _with_batch(row, size, run, reference, singles, judge, gate)
    except LockstepError as error:
        return failed(stage, compared, str(error), **(figures or {}))
    return row


def engine_row(
    stage: str,
    info: EngineInfo,
    run: Run,
    reference: Reference,
    judge: Judge,
    gate: RowGate,
    *,
    expected: Sequence[TensorSpec],
    batches: Sequence[int],
) -> StageRow:
    """An engine against the checkpoint; its input shapes, names and I/O datatypes are part of the row."""
    compared = f"{info.engine} {info.library_version} in {info.precision} against the checkpoint"
    problems = signature_problems(info, expected)
    figures = {"precision": info.precision, "device": info.device, "dtypes_from": info.dtypes_from}
    return network_row(
        stage, compared, run, reference, judge, gate, batches=batches, problems=problems, figures=figures
    )


def signature_problems(info: EngineInfo, expected: Sequence[TensorSpec]) -> list[str]:
    """Where the engine takes something else than the spec's input: a name, a datatype, a size it should refuse."""
    problems = []
    got = {spec.name: spec for spec in info.inputs}
    if got.keys() != {spec.name for spec in expected}:
        problems.append(f"inputs {sorted(got)}, expected {sorted(spec.name for spec in expected)}")
    for wanted in expected:
        have = got.get(wanted.name)
        if have is None:
            continue
        if have.datatype != wanted.datatype:
            problems.append(f"input {have.name} is {have.datatype}, expected {wanted.datatype}")
        if have.shape[1:] != wanted.shape:
            problems.append(f"input {have.name} takes {list(have.shape[1:])}, expected {list(wanted.shape)}")
    problems += [f"output {o.name} is FP16, expected FP32 at the edge" for o in info.outputs if o.datatype == "FP16"]
    return problems


def _with_batch(
    row: StageRow,
    size: int,
    run: Run,
    reference: Reference,
    singles: Sequence[Outputs],
    judge: Judge,
    gate: RowGate,
) -> StageRow:
    answers, problems = _batched(run, reference, size)
    figures: dict[str, Any] = {"batches": [*row.figures.get("batches", []), size]}
    if not problems:
        verdicts = _judge(reference, answers, judge, gate)
        batched = summarise(row.stage, row.compared, gate, verdicts)
        problems += [batched.reason] if batched.status == "failed" else []
        problems += foreign_rows(reference.names, singles, answers)
        figures |= {f"batch_{n}": batched.figures[n] for n in ("max_abs", "cosine") if n in batched.figures}
    status, reason = row.status, row.reason
    if problems:
        status, reason = "failed", "; ".join(filter(None, [row.reason, f"at batch {size}: {'; '.join(problems)}"]))
    return replace(row, status=status, reason=reason, figures={**row.figures, **figures})


def alone(run: Run, inputs: Mapping[str, Array]) -> Outputs:
    """One sample (no batch axis) through `run`: its outputs without the batch axis."""
    outputs = run({name: array[None] for name, array in inputs.items()})
    return {name: _row(array, 0) for name, array in outputs.items()}


def _row(array: Array, index: int) -> Array:
    return array[index] if array.ndim and len(array) > index else np.zeros((0,), array.dtype)


def _batched(run: Run, reference: Reference, size: int) -> tuple[list[Outputs], list[str]]:
    """Answers in the order of the samples, each computed in a shuffled batch of `size`; the rest is filled up."""
    answers: list[Outputs | None] = [None] * len(reference)
    for group in groups(reference, size):
        inputs = [reference.inputs[i] for i in group]
        outputs = run({name: np.stack([one[name] for one in inputs]) for name in inputs[0]})
        for name, array in outputs.items():
            if not array.ndim or len(array) != len(group):
                rows = len(array) if array.ndim else "no"
                return [], [f"output {name}: {len(group)} rows in, {rows} out"]
        for place, index in enumerate(group):
            answers[index] = {name: array[place] for name, array in outputs.items()}
    return [a for a in answers if a is not None], []


def groups(reference: Reference, size: int) -> Iterator[list[int]]:
    """Sample numbers in shuffled groups of exactly `size`, equal shapes together; a short group starts again."""
    order = np.random.default_rng(SEED + size).permutation(len(reference))
    by_shape: dict[Any, list[int]] = {}
    for index in order.tolist():
        shapes = tuple((name, array.shape) for name, array in reference.inputs[index].items())
        by_shape.setdefault(shapes, []).append(index)
    for members in by_shape.values():
        for start in range(0, len(members), size):
            group = members[start : start + size]
            yield [*group, *(members[i % len(members)] for i in range(size - len(group)))]


def _judge(reference: Reference, candidates: Sequence[Outputs], judge: Judge, gate: RowGate) -> list[SampleVerdict]:
    columns = zip(reference.names, reference.outputs, candidates, reference.transforms, strict=True)
    return [judge.outputs(name, a, b, transform, gate) for name, a, b, transform in columns]


def foreign_rows(names: Sequence[str], singles: Sequence[Outputs], batched: Sequence[Outputs]) -> list[str]:
    """Samples whose answer in a batch is another sample's: much nearer to that one's answer than to its own.

    A gate on cosines lets neighbours that look alike pass; this does not. Rounding of a batched kernel is left out:
    the own answer must be off by more than 1e-3 of the scale and four times as far as the other's.
    """
    if not (_same_sizes(singles) and _same_sizes(batched)):
        return []
    alone, together = np.stack([_flat(o) for o in singles]), np.stack([_flat(o) for o in batched])
    if alone.shape != together.shape or not (np.isfinite(alone).all() and np.isfinite(together).all()):
        return []
    noise = 1e-3 * max(1e-12, float(np.abs(alone).max(initial=0.0)))
    for index, answer in enumerate(together):
        own = float(np.abs(alone[index] - answer).max(initial=0.0))
        if own <= noise:
            continue
        distances = [float(np.abs(other - answer).max(initial=0.0)) for other in alone]
        nearest = int(np.argmin(distances))
        if distances[nearest] < 0.25 * own:
            return [f"{names[index]} got the answer of {names[nearest]}"]
    return []


def _flat(outputs: Outputs) -> Array:
    return np.concatenate([np.asarray(outputs[name], np.float32).ravel() for name in sorted(outputs)])


def _same_sizes(side: Sequence[Outputs]) -> bool:
    return bool(side) and len({tuple((n, a.shape) for n, a in sorted(o.items())) for o in side}) == 1
