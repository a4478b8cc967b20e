"""ONNX Runtime on the CPU: the second opinion. It computes FP16 graphs in FP32, so it is no evidence about halves.

Threading: one intra-op and one inter-op thread unless asked otherwise, and none of them spins while it waits
(https://onnxruntime.ai/docs/performance/tune-performance/threading.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from serving.engines.layers import check_inputs
from serving.errors import EngineFailed
from serving.types import Array, EngineInfo, TensorSpec

_DATATYPES = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(double)": "FP64",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(int8)": "INT8",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
}
FAILURES: tuple[type[BaseException], ...] = (
    RuntimeError,
    ValueError,
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)


def load(path: Path, *, threads: int = 1, precision: str | None = None) -> OnnxRuntimeEngine:
    """Open the ONNX file at `path`. precision: f32 or None, it has no other on a CPU. Raises EngineFailed."""
    if precision not in (None, "f32"):
        raise EngineFailed(f"onnxruntime: precision: expected f32 on the CPU, got {precision!r}")
    if not path.is_file():
        raise EngineFailed(f"onnxruntime: {path} does not exist")
    try:
        session = ort.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
    except FAILURES as error:
        raise EngineFailed(f"onnxruntime: {path.name} cannot be loaded: {_one_line(error)}") from error
    return OnnxRuntimeEngine(session, threads)


def session_options(threads: int) -> Any:
    """Session options with bounded threads that sleep while they wait."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


class OnnxRuntimeEngine:
    """An open session. Belongs to one thread at a time."""

    def __init__(self, session: Any, threads: int) -> None:
        self._session = session
        self._info = EngineInfo(
            engine="onnxruntime",
            library_version=ort.__version__,
            device="CPU",
            precision="f32",
            inputs=tuple(_tensor(node) for node in session.get_inputs()),
            outputs=tuple(_tensor(node) for node in session.get_outputs()),
            dtypes_from="session",
            threads=threads,
        )

    @property
    def info(self) -> EngineInfo:
        """Names, shapes and datatypes of the session."""
        return self._info

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named arrays with a leading batch axis in, named arrays out. Raises EngineFailed."""
        if self._session is None:
            raise EngineFailed("onnxruntime: the engine is closed")
        check_inputs("onnxruntime", self._info.inputs, inputs)
        names = [spec.name for spec in self._info.outputs]
        try:
            values = self._session.run(names, {k: np.ascontiguousarray(v) for k, v in inputs.items()})
        except FAILURES as error:
            raise EngineFailed(f"onnxruntime: the run failed: {_one_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Give memory and threads back."""
        self._session = None


def _tensor(node: Any) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else -1 for d in node.shape)
    if node.type not in _DATATYPES:
        raise EngineFailed(f"onnxruntime: tensor {node.name} has the datatype {node.type}, which is not served")
    return TensorSpec(node.name, _DATATYPES[node.type], shape)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
