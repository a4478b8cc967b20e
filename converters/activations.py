"""The largest finite |activation| of every float tensor, measured on real samples by ONNX Runtime in FP32.

The maxima are taken inside the graph (Abs, ReduceMax), so that no intermediate tensor has to be carried out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from converters.arrays import Sample, batches
from serving.engines.onnxruntime import FAILURES, session_options
from serving.errors import PrecisionFailed
from serving.types import Array

_UNMEASURED: tuple[type[BaseException], ...] = (*FAILURES, KeyError)
_SMALL_BIAS = 1e-3
_PREFIX = "lockstep.max/"


def largest_activations(
    model: Any, float_tensors: Sequence[str], samples: Sequence[Sample], batch: int, threads: int = 2
) -> dict[str, float]:
    """Tensor name -> largest finite |value| over the samples; infinite values (masks) are left out of the maximum.

    Raises PrecisionFailed when the FP32 graph does not run on the samples.
    """
    if not samples:
        return {}
    probed = type(model)()
    probed.CopyFrom(model)
    outputs = [_probe(probed, name) for name in float_tensors]
    del probed.graph.output[:]
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs)
    probed.graph.initializer.append(helper.make_tensor(f"{_PREFIX}zero", TensorProto.FLOAT, [], [0.0]))
    try:
        options = session_options(threads)
        session = ort.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = np.zeros(len(outputs), np.float64)
        wanted = [value.name for value in session.get_inputs()]
        for group in batches(samples, batch):
            values = session.run(outputs, {name: group[name] for name in wanted})
            found = np.fmax(found, np.array(values, np.float64))
    except _UNMEASURED as error:
        text = " ".join(str(error).split())[:300]
        raise PrecisionFailed(f"the activations cannot be measured on the samples: {text}") from error
    return dict(zip(float_tensors, found.tolist(), strict=True))


def largest_weights(weights: Mapping[str, Array]) -> dict[str, float]:
    """Weight name -> largest finite |value|; 0 for an empty one and for a bias that is small as a whole.

    A small bias vector changes little when it loses digits; a small constant (an epsilon) or kernel changes much.
    """
    found = {}
    for name, value in weights.items():
        finite = np.abs(value[np.isfinite(value)]) if value.size else value
        largest = float(finite.max()) if finite.size else 0.0
        found[name] = 0.0 if value.ndim == 1 and value.size > 1 and largest < _SMALL_BIAS else largest
    return found


def _probe(model: Any, name: str) -> str:
    """Append |x| with infinities set to 0, reduced to one number; returns the output's name."""
    prefix = f"{_PREFIX}{name}"
    model.graph.node.extend(
        [
            helper.make_node("IsInf", [name], [f"{prefix}/inf"]),
            helper.make_node("Abs", [name], [f"{prefix}/abs"]),
            helper.make_node("Where", [f"{prefix}/inf", f"{_PREFIX}zero", f"{prefix}/abs"], [f"{prefix}/finite"]),
            helper.make_node("ReduceMax", [f"{prefix}/finite"], [prefix], keepdims=0),
        ]
    )
    return prefix
