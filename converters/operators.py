"""Which target takes which operator of a graph, answered by the target itself, with the module each came from."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from converters.engine_from_onnx import openvino_from_onnx
from converters.precision import half_precision
from converters.tensorrt_build import tensorrt_from_onnx
from serving.engines.onnxruntime import load
from serving.errors import BuildFailed, ConversionError, EngineFailed, OperatorUnsupported
from serving.spec import ModelSpec

Verdict = Literal["supported", "refused", "unknown"]
TARGETS = ("onnxruntime", "openvino", "tensorrt_rtx")


@dataclass(frozen=True, slots=True)
class TargetVerdict:
    """One target's answer. supported; refused (reason names operators and modules); unknown (library not here)."""

    target: str
    verdict: Verdict
    reason: str = ""


def operators_of(path: Path) -> dict[str, int]:
    """Operators of a graph and how often each occurs."""
    graph = onnx.load(path, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def target_verdicts(path: Path, spec: ModelSpec) -> tuple[TargetVerdict, ...]:
    """Try the checked FP32 graph at `path` on every target; TensorRT-RTX gets it in the spec's precision."""
    with tempfile.TemporaryDirectory(prefix="lockstep-check-") as name:
        folder = Path(name)
        attempts: dict[str, Callable[[], object]] = {
            "onnxruntime": lambda: load(path).close(),
            "openvino": lambda: openvino_from_onnx(path, folder),
            "tensorrt_rtx": lambda: _tensorrt(path, folder, spec),
        }
        return tuple(_verdict(target, attempts[target]) for target in TARGETS)


def _tensorrt(path: Path, folder: Path, spec: ModelSpec) -> None:
    source = path
    if spec.precision == "fp16":
        source = folder / "model.fp16.onnx"
        half_precision(path, source, (), spec)
    tensorrt_from_onnx(source, path, folder, spec, targets=[("SM86", "SM89", "SM120")])


def _verdict(target: str, attempt: Callable[[], object]) -> TargetVerdict:
    try:
        attempt()
    except OperatorUnsupported as error:
        return TargetVerdict(target, "refused", error.message)
    except BuildFailed as error:
        absent = "is not installed" in error.message
        return TargetVerdict(target, "unknown" if absent else "refused", error.message)
    except (ConversionError, EngineFailed) as error:
        return TargetVerdict(target, "refused", error.message)
    return TargetVerdict(target, "supported")
