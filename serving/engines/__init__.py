"""Load an artifact of a published version and run batches. Each module is the only importer of its runtime."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from serving.errors import EngineFailed
from serving.ports import Engine

ARTIFACTS = {
    "openvino": "engine.openvino.xml",
    "onnxruntime": "model.onnx",
    "tensorrt_rtx": "engine.tensorrt_rtx.*.trt",
    "tensorrt": "engine.tensorrt.*.plan",
}
_MODULES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "tensorrt_rtx": "tensorrt", "tensorrt": "tensorrt"}


def open_engine(name: str, version_dir: Path, threads: int = 1, precision: str | None = None) -> Engine:
    """Load the artifact of engine `name` (openvino, onnxruntime, tensorrt_rtx, tensorrt) from a version's folder.

    A runtime is imported only when its engine is asked for. Raises EngineFailed for an unknown name, a runtime that
    is not installed, a missing artifact or one that does not load.
    """
    if name not in _MODULES:
        raise EngineFailed(f"engine: expected one of {sorted(_MODULES)}, got {name!r}")
    try:
        module: Any = import_module(f"serving.engines.{_MODULES[name]}")
    except ImportError as error:
        raise EngineFailed(f"engine {name}: its runtime is not installed: {error}") from error
    if name.startswith("tensorrt"):
        engine: Engine = module.load_fitting(name, sorted(version_dir.glob(ARTIFACTS[name])), threads=threads)
    else:
        engine = module.load(version_dir / ARTIFACTS[name], threads=threads, precision=precision)
    return engine
