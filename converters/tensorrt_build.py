"""TensorRT-RTX and TensorRT engines from an ONNX graph, by one code path, dtypes read back from what was parsed.

TensorRT-RTX builds ahead of time for a list of GPU generations on a machine without a GPU; TensorRT builds for the GPU
it finds. Networks are strongly typed: 10.x takes a flag for it, 11 knows nothing else. What a file name claims is
checked against the parsed network and against the size of an FP32 build of the same graph.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from converters.signature import network_inputs
from converters.tensorrt_network import (
    Messages,
    ParsedNetwork,
    parse,
    refusal,
)
from serving.engines.layers import LayerDtype
from serving.errors import BuildFailed, ConversionError, StorageFailed
from serving.spec import ModelSpec
from serving.types import TensorSpec

Progress = Callable[[str], None]
DEFAULT_TARGETS: tuple[tuple[str, ...], ...] = (("SM86", "SM89", "SM120"), ("SM75",))
MAX_RATIO = 0.65
# Where weights are less of the FP32 file it is mostly kernels and tables, and its size says nothing about halves.
_WEIGHTS_DOMINATE = 0.75


@dataclass(frozen=True, slots=True)
class BuildReport:
    """One engine file. dtypes: of each layer of the parsed network (the source of all of them: `dtypes_from`).

    ratio: size over an FP32 build of the same graph for the same GPUs, None where weights are not most of it;
    profile: input -> (min, opt, max) shapes.
    """

    library: str
    library_version: str
    file: str
    targets: tuple[str, ...]
    precision: str
    size_bytes: int
    fp32_size_bytes: int
    ratio: float | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[LayerDtype, ...]
    profile: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    seconds: float
    dtypes_from: str = "parsed network"


@dataclass(frozen=True, slots=True)
class TensorRtReport:
    """Engines built, and targets left out with the reason."""

    engines: tuple[BuildReport, ...]
    left_out: Mapping[str, str]


def tensorrt_from_onnx(
    source: Path,
    fp32_source: Path,
    folder: Path,
    spec: ModelSpec,
    *,
    library: str = "tensorrt_rtx",
    targets: Sequence[tuple[str, ...]] = DEFAULT_TARGETS,
    progress: Progress = lambda line: None,
) -> TensorRtReport:
    """Build `source` (model.fp16.onnx, or the FP32 graph where the spec says fp32) for each group of targets.

    Files: engine.tensorrt_rtx.sm86_sm89_sm120.trt, engine.tensorrt.sm90.plan. SM75 is left out, with the layer's
    name, where an FP32 convolution or matrix product remains. Raises OperatorUnsupported, BuildFailed, StorageFailed.
    """
    trt = _library(library)
    groups = list(targets) if library == "tensorrt_rtx" else [(f"SM{_this_gpu()}",)]
    engines, left_out = [], {}
    for group in groups:
        network = parse(trt, source)
        heavy = network.heavy_in("f32")
        if "SM75" in group and heavy:
            left_out["_".join(group).lower()] = f"FP32 {heavy[0].kind} in {heavy[0].name}: SM75 has none"
            continue
        engines.append(_one(trt, network, fp32_source, folder, spec, group, progress))
    return TensorRtReport(tuple(engines), left_out)


def _one(
    trt: Any,
    network: ParsedNetwork,
    fp32_source: Path,
    folder: Path,
    spec: ModelSpec,
    group: tuple[str, ...],
    progress: Progress,
) -> BuildReport:
    words = "_".join(word.lower() for word in group)
    extension = "trt" if trt.__name__ == "tensorrt_rtx" else "plan"
    target = folder / f"engine.{trt.__name__}.{words}.{extension}"
    start = time.monotonic()
    progress(f"{trt.__name__} {words}: build {network.source.name}")
    data = _serialized(trt, network, spec, group, progress)
    size = len(data)
    fp32_size, ratio = size, None
    if spec.precision == "fp16":
        check_half(network, words)
        progress(f"{trt.__name__} {words}: FP32 build to compare sizes")
        fp32_data = _serialized(trt, parse(trt, fp32_source), spec, comparable(group), lambda line: None)
        fp32_size = len(fp32_data)
        ratio = size_ratio(data, fp32_data, network.weights(), same_gpus=comparable(group) == group)
        check_ratio(target.name, ratio, network.weight_share("f32"))
    _write(target, data)
    return BuildReport(
        library=trt.__name__,
        library_version=str(trt.__version__),
        file=target.name,
        targets=group,
        precision="f16" if spec.precision == "fp16" else "f32",
        size_bytes=size,
        fp32_size_bytes=fp32_size,
        ratio=ratio,
        inputs=network.inputs,
        outputs=network.outputs,
        layers=network.layers,
        profile=profile_of(network.inputs, spec),
        seconds=time.monotonic() - start,
    )


def check_half(network: ParsedNetwork, words: str) -> None:
    """FP32 inputs and outputs, halves inside. Raises BuildFailed: an FP32 engine never gets an FP16 file."""
    edges = [tensor.name for tensor in (*network.inputs, *network.outputs) if tensor.datatype == "FP16"]
    if edges:
        raise BuildFailed(f"{words}: {', '.join(edges)}: expected FP32 at the network's edge, parsed as FP16")
    halves = [layer for layer in network.layers if layer.dtype == "f16" and layer.kind != "CAST"]
    if not halves:
        raise BuildFailed(f"{words}: the parsed network has no FP16 layer: an FP32 engine by another name")
    unplanned = [layer.name for layer in network.heavy_in("f32") if not network.planned_in_fp32(layer.name)]
    if unplanned:
        raise BuildFailed(f"{words}: parsed as FP32 although the graph says FP16: {', '.join(unplanned[:8])}")


def size_ratio(data: bytes, fp32_data: bytes, weights: int, *, same_gpus: bool) -> float | None:
    """Size of an engine over its FP32 build; None where the graph's `weights` (a count) are not most of that.

    Where the FP32 build is for another GPU (SM75 has none) both are deflated as well, and the smaller ratio counts:
    SM75 engines are padded with megabytes of zeros (docs/decisions/0006), and weights that were 8-bit numbers once
    deflate as well in floats as in halves. An engine of floats has neither ratio below the bound.
    """
    if 4 * weights < _WEIGHTS_DOMINATE * len(fp32_data):
        return None
    plain = len(data) / len(fp32_data)
    if same_gpus:
        return plain
    return min(plain, len(zlib.compress(data, 1)) / len(zlib.compress(fp32_data, 1)))


def check_ratio(name: str, ratio: float | None, fp32_share: float) -> None:
    """The file must be under 0.65 of the FP32 build, plus what the plan keeps in FP32 on purpose. Raises BuildFailed.

    fp32_share: share of the weights (by count) that the graph keeps in FP32.
    """
    bound = MAX_RATIO + (1 - MAX_RATIO) * fp32_share
    if ratio is not None and ratio >= bound:
        raise BuildFailed(
            f"{name}: {ratio:.2f} of an FP32 build's size, expected under {bound:.2f}: it does not hold halves"
        )


def profile_of(
    inputs: Sequence[TensorSpec], spec: ModelSpec
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """(min, opt, max) shapes for each input: batch from the spec, free sides from the inputs' declared ranges."""
    declared = {tensor.name: tensor for tensor in network_inputs(spec)}
    shapes = {}
    for tensor in inputs:
        ends: list[tuple[int, int, int]] = []
        for axis, side in enumerate(tensor.shape):
            if side != -1:
                ends.append((side, side, side))
            elif axis == 0:
                ends.append((1, spec.batch.opt, spec.batch.max))
            else:
                known = declared.get(tensor.name)
                if known is None or axis - 1 not in known.dynamic:
                    raise BuildFailed(
                        f"input {tensor.name}: axis {axis} is free but has no range", hint="give `dynamic` in `inputs`"
                    )
                low, high = known.dynamic[axis - 1]
                ends.append((low, _usual(low, high, spec), high))
        low_, opt, high_ = zip(*ends, strict=True)
        shapes[tensor.name] = (tuple(low_), tuple(opt), tuple(high_))
    return shapes


def _usual(low: int, high: int, spec: ModelSpec) -> int:
    """What a free side is tuned for: the middle of what the rule aims at, as it is padded."""
    rule = spec.preprocess
    if rule is None:
        return (low + high) // 2
    aimed = min(max(low, rule.min_side or low), high)
    return max(low, (aimed + high) // 2 // rule.pad_multiple * rule.pad_multiple)


def _serialized(trt: Any, network: ParsedNetwork, spec: ModelSpec, group: tuple[str, ...], progress: Progress) -> bytes:
    config = network.builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, progress)
    shapes = profile_of(network.inputs, spec)
    if any(-1 in tensor.shape for tensor in network.inputs):
        profile = network.builder.create_optimization_profile()
        for name, (low, opt, high) in shapes.items():
            profile.set_shape(name, low, opt, high)
        config.add_optimization_profile(profile)
    if trt.__name__ == "tensorrt_rtx":
        config.num_compute_capabilities = len(group)
        for index, word in enumerate(group):
            if word not in trt.ComputeCapability.__members__:
                known = sorted(k for k in trt.ComputeCapability.__members__ if k.startswith("SM"))
                raise BuildFailed(f"tensorrt_rtx {trt.__version__} does not know {word}, it knows {', '.join(known)}")
            config.set_compute_capability(trt.ComputeCapability.__members__[word], index)
    else:
        # TF32 would make FP32 layers answer with ten bits of mantissa.
        config.clear_flag(trt.BuilderFlag.TF32)
    data = network.builder.build_serialized_network(network.network, config)
    if data is None:
        raise refusal(trt.__name__, "_".join(group).lower(), network.messages, network)
    return bytes(data)


def comparable(group: tuple[str, ...]) -> tuple[str, ...]:
    """The targets whose FP32 build a group is compared with: SM75 has no FP32 GEMM."""
    return tuple("SM86" if word == "SM75" else word for word in group)


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Outermost phases only; returning False would cancel the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                progress(f"{trt.__name__}: {phase_name} ({num_steps} steps)")

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            return None

    return Monitor()


def _library(name: str) -> Any:
    if name not in ("tensorrt_rtx", "tensorrt"):
        raise ConversionError(f"library: expected tensorrt_rtx or tensorrt, got {name!r}")
    try:
        return import_module(name)
    except ImportError as error:
        raise BuildFailed(
            f"{name} is not installed: {error}", hint="install the extra `convert`, or leave it out of `engines`"
        ) from error


def _this_gpu() -> int:
    from serving.engines.tensorrt import compute_capability
    from serving.errors import EngineFailed

    try:
        return compute_capability()
    except EngineFailed as error:
        raise BuildFailed(f"tensorrt builds on the GPU it is for: {error.message}", hint="use tensorrt_rtx") from error


def _write(target: Path, data: bytes) -> None:
    try:
        target.write_bytes(data)
    except OSError as error:
        raise StorageFailed(f"{target}: {error.strerror}") from error


__all__ = ["DEFAULT_TARGETS", "BuildReport", "Messages", "TensorRtReport", "tensorrt_from_onnx"]
