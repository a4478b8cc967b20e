"""OpenVINO on the CPU: an IR (.xml beside its .bin) compiled for this machine, run with a batch of any size.

The precision is a hint to OpenVINO, so what it did with it is read back from the compiled runtime model:
https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/precision-control.html
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from serving.engines.layers import LayerDtype, check_inputs, dominant_dtype
from serving.errors import EngineFailed
from serving.types import Array, EngineInfo, TensorSpec

_PRECISIONS = ("bf16", "f32")
_DATATYPES = {
    "f32": "FP32",
    "f16": "FP16",
    "f64": "FP64",
    "i64": "INT64",
    "i32": "INT32",
    "i8": "INT8",
    "u8": "UINT8",
    "boolean": "BOOL",
}
_NO_ARITHMETIC = ("Input", "Output", "Const", "Reorder")


def bf16_supported() -> bool:
    """Whether this CPU multiplies bf16 natively (AMX or avx512_bf16), as OpenVINO sees it."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load(path: Path, *, threads: int = 1, precision: str | None = None) -> OpenVinoEngine:
    """Compile the IR (or ONNX file) at `path` for the CPU.

    precision: bf16 or f32; None is f32. bf16 is refused where the CPU would only emulate it.
    Raises EngineFailed for a file that cannot be read or compiled.
    """
    wanted = precision or "f32"
    if wanted not in _PRECISIONS:
        raise EngineFailed(f"openvino: precision: expected one of {_PRECISIONS}, got {precision!r}")
    if wanted == "bf16" and not bf16_supported():
        raise EngineFailed("openvino: this CPU has neither AMX nor avx512_bf16", hint="use precision f32")
    if not path.is_file():
        raise EngineFailed(f"openvino: {path} does not exist")
    # Cores are not pinned: every instance is a process of its own and each would pin itself to the same first cores.
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": wanted,
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = _core().compile_model(_core().read_model(path), "CPU", settings)
        return OpenVinoEngine(compiled, threads)
    except RuntimeError as error:
        raise EngineFailed(f"openvino: {path.name} cannot be loaded: {_first_line(error)}") from error


class OpenVinoEngine:
    """A compiled model with one infer request. Belongs to one thread at a time."""

    def __init__(self, compiled: Any, threads: int) -> None:
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._info = EngineInfo(
            engine="openvino",
            library_version=ov.get_version(),
            device=str(_core().get_property("CPU", "FULL_DEVICE_NAME")).strip(),
            precision=dominant_dtype(self.layers()),
            inputs=tuple(_tensor(port) for port in compiled.inputs),
            outputs=tuple(_tensor(port) for port in compiled.outputs),
            dtypes_from="runtime model",
            threads=threads,
        )

    @property
    def info(self) -> EngineInfo:
        """Names, shapes and the precision in effect, from the compiled model."""
        return self._info

    def layers(self) -> tuple[LayerDtype, ...]:
        """Every computing layer of the runtime model with its execution precision (constants and reorders left out)."""
        if self._compiled is None:
            raise EngineFailed("openvino: the engine is closed")
        found = []
        for node in self._compiled.get_runtime_model().get_ops():
            facts = node.get_rt_info()
            kind = _text(facts, "layerType")
            if kind not in _NO_ARITHMETIC:
                kernel = _text(facts, "primitiveType")
                # The kernel's name ends with what it computes in; runtimePrecision says f16 where only weights are so.
                computed = kernel.rsplit("_", 1)[-1]
                dtype = computed if computed in _DATATYPES or computed == "bf16" else _text(facts, "runtimePrecision")
                found.append(LayerDtype(node.get_friendly_name(), kind, dtype, kernel))
        return tuple(found)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named arrays with a leading batch axis in, fresh arrays out. Raises EngineFailed."""
        if self._request is None:
            raise EngineFailed("openvino: the engine is closed")
        check_inputs("openvino", self._info.inputs, inputs)
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            # Inputs are shared (no copy in); outputs are copied, as the request reuses its memory in the next call.
            results = self._request.infer(contiguous, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise EngineFailed(f"openvino: the run failed: {_first_line(error)}") from error
        return {spec.name: results[index] for index, spec in enumerate(self._info.outputs)}

    def close(self) -> None:
        """Give memory and threads back."""
        self._request = None
        self._compiled = None


@cache
def _core() -> Any:
    return ov.Core()


def _tensor(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    if kind not in _DATATYPES:
        raise EngineFailed(f"openvino: tensor {port.get_any_name()} has the datatype {kind}, which is not served")
    return TensorSpec(port.get_any_name(), _DATATYPES[kind], shape)


def _text(facts: Any, key: str) -> str:
    return str(facts[key].astype(str)) if key in facts else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # OpenVINO begins with the place in its own source; the reason is in the last line.
    return lines[-1][:300] if lines else type(error).__name__
