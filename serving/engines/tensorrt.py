"""TensorRT and TensorRT-RTX on a GPU, by one code path: their Python interfaces are the same from 10 on.

Memory goes through the CUDA runtime's Python bindings, torch is not needed. Deserialising a plan equals running
native code, so a version's manifest hashes are verified before this module sees the file (serving.bundle).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from serving.engines.layers import TENSORRT_DATATYPES, LayerDtype, check_inputs, dominant_dtype
from serving.errors import EngineFailed
from serving.types import DATATYPES, Array, EngineInfo, TensorSpec


def load_fitting(name: str, files: Sequence[Path], *, threads: int = 1) -> TensorRtEngine:
    """Of a version's plans (named `engine.<name>.sm86_sm89.trt`) load the one built for this GPU."""
    wanted = f"sm{compute_capability()}"
    for path in files:
        if wanted in path.name.split(".")[2].split("_"):
            return load(path, threads=threads, library=name)
    built = ", ".join(path.name for path in files) or "none"
    raise EngineFailed(f"{name}: no plan for {wanted} (built: {built})", hint="convert again on or for this GPU")


def load(
    path: Path, *, threads: int = 1, precision: str | None = None, library: str = "tensorrt_rtx"
) -> TensorRtEngine:
    """Deserialise a plan. Its precision is in the plan; asking for another one is an error. Raises EngineFailed."""
    if precision is not None:
        raise EngineFailed(f"{library}: the precision is part of the plan, it cannot be set to {precision!r}")
    compute_capability()
    if not path.is_file():
        raise EngineFailed(f"{library}: {path} does not exist")
    return TensorRtEngine(import_module(library), path, threads)


def compute_capability() -> int:
    """major * 10 + minor of GPU 0. Raises EngineFailed where there is none, or no CUDA bindings."""
    cuda = _cuda()
    error, count = cuda.cudaGetDeviceCount()
    if int(error) != 0 or not count:
        raise EngineFailed(f"tensorrt: no usable GPU: {getattr(error, 'name', error)}", hint="use engine openvino")
    attribute = cuda.cudaDeviceAttr
    major = _ask(cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMajor, 0))
    minor = _ask(cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMinor, 0))
    return int(major) * 10 + int(minor)


class TensorRtEngine:
    """A deserialised plan, one execution context, one stream. Belongs to one thread at a time."""

    def __init__(self, trt: Any, path: Path, threads: int) -> None:
        self._trt = trt
        self._library = trt.__name__
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineFailed(
                f"{self._library}: {path.name} cannot be deserialised",
                hint=f"it was built by another version than {trt.__version__}, or for another GPU: convert again",
            )
        self._context = self._engine.create_execution_context()
        self._stream = _ask(_cuda().cudaStreamCreate())
        self._memory: dict[str, tuple[int, int]] = {}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._info = EngineInfo(
            engine=self._library,
            library_version=trt.__version__,
            device=f"GPU sm{compute_capability()}",
            precision=dominant_dtype(self.layers()),
            inputs=tuple(self._tensor(n) for n in inputs),
            outputs=tuple(self._tensor(n) for n in names if n not in inputs),
            dtypes_from="inspector",
            threads=threads,
        )

    @property
    def info(self) -> EngineInfo:
        """Names, shapes and datatypes as the plan has them; the precision from the engine inspector."""
        return self._info

    def layers(self) -> tuple[LayerDtype, ...]:
        """Layers with the datatype of their first output, from the engine inspector (a detailed plan is needed)."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        found = []
        for layer in json.loads(text).get("Layers", []):
            if isinstance(layer, dict):
                outputs = layer.get("Outputs") or [{}]
                dtype = str(outputs[0].get("Format/Datatype", "unknown"))
                found.append(LayerDtype(str(layer.get("Name", "")), str(layer.get("LayerType", "")), dtype))
        return tuple(found)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named arrays with a leading batch axis in, named arrays out. Raises EngineFailed."""
        if self._context is None:
            raise EngineFailed(f"{self._library}: the engine is closed")
        check_inputs(self._library, self._info.inputs, inputs)
        cuda = _cuda()
        to_device, to_host = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in held.items():
            if not self._context.set_input_shape(name, array.shape):
                raise EngineFailed(f"{self._library}: input {name}: {array.shape} is outside the plan's profile")
            address = self._room(name, array.nbytes)
            _ask(cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, to_device, self._stream))
        results = {spec.name: self._empty(spec) for spec in self._info.outputs}
        for name, array in results.items():
            self._room(name, array.nbytes)
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineFailed(f"{self._library}: the run failed")
        for name, array in results.items():
            address = self._memory[name][0]
            _ask(cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, to_host, self._stream))
        _ask(cuda.cudaStreamSynchronize(self._stream))
        return results

    def close(self) -> None:
        """Give device memory and the stream back."""
        if self._context is None:
            return
        self._context = None
        self._engine = None
        for address, _ in self._memory.values():
            _ask(_cuda().cudaFree(address))
        self._memory.clear()
        _ask(_cuda().cudaStreamDestroy(self._stream))

    def _room(self, name: str, size: int) -> int:
        """Device memory of at least `size` bytes bound to tensor `name`."""
        address, held = self._memory.get(name, (0, 0))
        if held < size or not held:
            if held:
                _ask(_cuda().cudaFree(address))
            address = int(_ask(_cuda().cudaMalloc(max(size, 1))))
            self._memory[name] = (address, max(size, 1))
        self._context.set_tensor_address(name, address)
        return address

    def _empty(self, spec: TensorSpec) -> Array:
        shape = tuple(self._context.get_tensor_shape(spec.name))
        if -1 in shape:
            raise EngineFailed(f"{self._library}: output {spec.name} has a size known only after the run: {shape}")
        return np.empty(shape, DATATYPES[spec.datatype])

    def _tensor(self, name: str) -> TensorSpec:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in TENSORRT_DATATYPES:
            raise EngineFailed(f"{self._library}: tensor {name} has the datatype {kind}, which is not served")
        return TensorSpec(name, TENSORRT_DATATYPES[kind], tuple(self._engine.get_tensor_shape(name)))


def _cuda() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise EngineFailed("tensorrt: the CUDA bindings are not installed", hint="pip install cuda-python") from error


def _ask(answer: tuple[Any, ...]) -> Any:
    error, *values = answer
    if int(error) != 0:
        raise EngineFailed(f"tensorrt: CUDA says {getattr(error, 'name', error)}")
    return values[0] if values else None
