"""The CPU's engine file: OpenVINO IR from the checked FP32 graph, weights stored in FP16, computed in bf16 or f32."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import openvino as ov

from converters.modules import described
from serving.engines.openvino import load
from serving.errors import BuildFailed, EngineFailed, OperatorUnsupported, StorageFailed

OPENVINO_IR = "engine.openvino.xml"


def openvino_from_onnx(source: Path, folder: Path) -> Path:
    """Write engine.openvino.xml and .bin into `folder`; the engine is compiled once to prove that it can be.

    Raises OperatorUnsupported with module paths, BuildFailed, StorageFailed.
    """
    target = folder / OPENVINO_IR
    try:
        # Not openvino.convert_model: that one reports its use over the network.
        model = ov.Core().read_model(source)
        ov.save_model(model, target, compress_to_fp16=True)
    except RuntimeError as error:
        raise _readable(source, str(error)) from error
    except OSError as error:
        raise StorageFailed(f"{target}: {error.strerror}") from error
    try:
        load(target).close()
    except EngineFailed as error:
        raise _readable(source, error.message) from error
    return target


def _readable(source: Path, text: str) -> BuildFailed | OperatorUnsupported:
    """OpenVINO names operators, not modules: find them in the graph."""
    if re.search(r"not supported|unsupported|No conversion|doesn't support", text, re.IGNORECASE):
        graph = onnx.load(source, load_external_data=False).graph
        named = [described(node) for node in graph.node if re.search(rf"\b{node.op_type}\b", text)]
        if named:
            return OperatorUnsupported(
                f"OpenVINO cannot take {', '.join(dict.fromkeys(named[:8]))}", hint="leave openvino out of `engines`"
            )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return BuildFailed(f"OpenVINO cannot build {source.name}: {lines[-1][:300] if lines else 'no reason given'}")
