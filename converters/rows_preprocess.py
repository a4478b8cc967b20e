"""Rows of the preprocessing: our reference path against the training side, and the fast path against decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from converters.parity import SampleVerdict, StageRow, not_run, summarise
from converters.rows_gates import RowGate, within
from serving.preprocess.reference import Prepared
from serving.types import Array, FloatArray, PixelArray

COMPARED = "serving/preprocess against the training side, from the file's bytes"
NO_TRAINING_SIDE = "no training side in the spec (parity.training_side)"


@dataclass(frozen=True, slots=True)
class TrainingSide:
    """What the training side made of one file. pixels: uint8 [h, w, c] before normalising, None where it has none;
    tensor: float32, the network's input without a batch axis, None where only pixels are given."""

    pixels: PixelArray | None
    tensor: FloatArray | None


def preprocess_row(
    names: Sequence[str], ours: Sequence[Prepared], training: Sequence[TrainingSide] | None, gate: RowGate
) -> StageRow:
    """Pixels equal (SHA-256 before normalising), then the tensors within the stated bound."""
    if training is None:
        return not_run("preprocess", COMPARED, NO_TRAINING_SIDE)
    columns = zip(names, ours, training, strict=True)
    return summarise("preprocess", COMPARED, gate, [_compare(n, a, b, gate) for n, a, b in columns])


def windows_row(
    names: Sequence[str], ours: Sequence[Array], training: Sequence[TrainingSide] | None, gate: RowGate
) -> StageRow:
    """The windows of every sound within the stated bound."""
    if training is None:
        return not_run("preprocess", COMPARED, NO_TRAINING_SIDE)
    verdicts = []
    for name, mine, other in zip(names, ours, training, strict=True):
        figures: dict[str, float] = {}
        why = ["the training side gave no tensor"] if other.tensor is None else _tensor(mine, other.tensor, figures)
        if not why and not within("tensor_difference", figures["tensor_difference"], gate.bounds["tensor_difference"]):
            why.append(f"windows differ by {figures['tensor_difference']:.6g}")
        verdicts.append(SampleVerdict(name, not why, figures, "; ".join(why)))
    return summarise("preprocess", COMPARED, gate, verdicts)


def _compare(name: str, ours: Prepared, training: TrainingSide, gate: RowGate) -> SampleVerdict:
    figures: dict[str, float] = {}
    why: list[str] = []
    if training.pixels is not None:
        why += _pixels(ours.pixels, training.pixels, figures)
    if training.tensor is not None and not why:
        why += _tensor(ours.tensor, training.tensor, figures)
    for bound, limit in gate.bounds.items():
        if bound in figures and not within(bound, figures[bound], limit):
            why.append(f"{bound} {figures[bound]:.6g}, expected at most {limit:g}")
    documents = ({"input": _describe(side.pixels, side.tensor)} for side in (training, ours))
    return SampleVerdict(name, not why, figures, "; ".join(why), *documents)


def _pixels(ours: PixelArray, training: PixelArray, figures: dict[str, float]) -> list[str]:
    if ours.shape != training.shape or training.dtype != np.uint8:
        return [f"pixels {_hwc(ours)}, the training side has {_hwc(training)}"]
    difference = np.abs(ours.astype(np.int16) - training.astype(np.int16))
    figures["pixel_difference"] = float(difference.max(initial=0))
    figures["pixels_that_differ"] = float((difference > 0).mean())
    return []


def _tensor(ours: Array, training: Array, figures: dict[str, float]) -> list[str]:
    if ours.shape != training.shape:
        return [f"tensor {list(ours.shape)}, the training side has {list(training.shape)}"]
    scale = max(1.0, float(np.abs(training).max(initial=0.0)))
    difference = np.abs(ours.astype(np.float64) - training.astype(np.float64)).max(initial=0.0)
    figures["tensor_difference"] = float(difference) / scale
    return []


def _hwc(pixels: Array) -> str:
    return "x".join(map(str, pixels.shape)) + f" {pixels.dtype}"


def _describe(pixels: Array | None, tensor: Array | None) -> dict[str, object]:
    """Shape, hash and mean colour of one side: enough to see a swapped colour or a pad value at a glance."""
    told: dict[str, object] = {}
    if pixels is not None:
        told["pixels"] = _hwc(pixels)
        told["pixels_sha256"] = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[:16]
        told["mean_by_channel"] = [round(float(v), 2) for v in pixels.reshape(-1, pixels.shape[-1]).mean(axis=0)]
    if tensor is not None:
        told["tensor"] = list(tensor.shape)
        told["range"] = [round(float(tensor.min()), 4), round(float(tensor.max()), 4)]
    return told
