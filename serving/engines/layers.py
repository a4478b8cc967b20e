"""What every engine shares: the dtype of one executed layer, and the check of a batch before a runtime sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serving.errors import EngineFailed
from serving.types import DATATYPES, Array, TensorSpec

# TensorRT's and TensorRT-RTX's names of element types -> KServe V2 datatypes.
TENSORRT_DATATYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT64": "INT64",
    "INT32": "INT32",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}


@dataclass(frozen=True, slots=True)
class LayerDtype:
    """One layer as the runtime (or the parsed network) says it computes.

    dtype: the word of that source (f32, bf16, f16, i32 ...); implementation: kernel name where the source tells it.
    """

    name: str
    kind: str
    dtype: str
    implementation: str = ""


def check_inputs(engine: str, specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Refuse a batch whose names, dtypes or shapes are not the engine's own. Raises EngineFailed.

    Runtimes differ in what they take in silence (a missing input keeps the last call's data, another size reshapes
    the network), so nothing is left to them.
    """
    wanted = {spec.name for spec in specs}
    if inputs.keys() != wanted:
        raise EngineFailed(f"{engine}: expected the inputs {sorted(wanted)}, got {sorted(inputs)}")
    batches = set()
    for spec in specs:
        array = inputs[spec.name]
        if array.dtype != np.dtype(DATATYPES[spec.datatype]):
            raise EngineFailed(f"{engine}: input {spec.name}: expected {spec.datatype}, got {array.dtype}")
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            raise EngineFailed(f"{engine}: input {spec.name}: expected shape {list(spec.shape)}, got {array.shape}")
        batches.add(array.shape[0] if array.shape else 1)
    if len(batches) > 1:
        raise EngineFailed(f"{engine}: the inputs disagree on the batch size: {sorted(batches)}")


def dominant_dtype(layers: Sequence[LayerDtype]) -> str:
    """The dtype in which most of the multiplying layers (convolution, matrix product, recurrence) compute."""
    heavy = [layer.dtype for layer in layers if _is_heavy(layer.kind)] or [layer.dtype for layer in layers]
    return max(sorted(set(heavy)), key=heavy.count) if heavy else "unknown"


def _is_heavy(kind: str) -> bool:
    lowered = kind.lower()
    return any(word in lowered for word in ("conv", "fullyconnected", "matmul", "matrix", "rnn", "lstm", "attention"))
