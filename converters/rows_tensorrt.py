"""Rows of the TensorRT family: dtypes of the parsed network where no device is there, answers where one is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from converters.certificate import NO_DEVICE
from converters.parity import StageRow, failed, not_run

COMPARED = "dtypes of the parsed, strongly typed network; outputs need a device"
NO_LIMIT_BELOW = "engine too small to compare its size with an FP32 build's"


def built_row(stage: str, report: Mapping[str, Any], precision: str, why_no_device: str) -> StageRow:
    """The row of engines that were built here and cannot be run here.

    Judged again from the read-back dtypes, not from the builder's word: the edge is FP32, halves are inside when the
    spec says fp16 and none when it says fp32.
    """
    engines: Sequence[Mapping[str, Any]] = report["engines"]
    figures = _figures(engines, report["left_out"])
    if not engines:
        return failed(stage, COMPARED, f"no engine was built: {dict(report['left_out'])}", **figures)
    problems = [problem for engine in engines for problem in dtype_problems(engine, precision)]
    if problems:
        return failed(stage, COMPARED, "; ".join(problems), **figures)
    return not_run(stage, COMPARED, f"{NO_DEVICE}: {why_no_device}", **figures)


def dtype_problems(engine: Mapping[str, Any], precision: str) -> list[str]:
    """What the read-back dtypes of one engine say against the spec's precision."""
    file, problems = engine["file"], []
    for tensor in (*engine["inputs"], *engine["outputs"]):
        if tensor["datatype"] == "FP16":
            problems.append(f"{file}: {tensor['name']} is FP16 at the edge, expected FP32")
    halves = [layer for layer in engine["layers"] if layer["dtype"] == "f16" and layer["kind"] != "CAST"]
    if precision == "fp16" and not halves:
        problems.append(f"{file}: no layer computes in half precision: an FP32 engine under an FP16 name")
    if precision == "fp32" and halves:
        problems.append(f"{file}: {halves[0]['name']} computes in half precision, the spec says fp32")
    if precision == "fp16" and engine["ratio"] is not None and engine["ratio"] >= 1.0:
        problems.append(f"{file}: {engine['ratio']:.2f} of an FP32 build's size")
    return problems


def built_dtypes(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By file: dtypes of every input, output and layer, and where they were read."""
    found = {}
    for engine in report["engines"]:
        told: dict[str, Any] = {
            "read_from": engine["dtypes_from"],
            "precision": engine["precision"],
            "library": f"{engine['library']} {engine['library_version']}",
            "targets": engine["targets"],
            "profile": str(engine["profile"]),
        }
        told |= {f"input {t['name']}": f"{t['datatype']} {list(t['shape'])}" for t in engine["inputs"]}
        told |= {f"output {t['name']}": f"{t['datatype']} {list(t['shape'])}" for t in engine["outputs"]}
        told |= {f"layer {layer['name']} ({layer['kind']})": layer["dtype"] for layer in engine["layers"]}
        found[engine["file"]] = told
    return found


def _figures(engines: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> dict[str, Any]:
    figures: dict[str, Any] = {"dtypes_from": "parsed network"}
    for engine in engines:
        words = "_".join(engine["targets"]).lower()
        layers = Counter(layer["dtype"] for layer in engine["layers"])
        figures[f"{words}_layers"] = ", ".join(f"{count} {dtype}" for dtype, count in layers.most_common())
        figures[f"{words}_bytes"] = engine["size_bytes"]
        figures[f"{words}_of_fp32_size"] = NO_LIMIT_BELOW if engine["ratio"] is None else round(engine["ratio"], 3)
    figures |= {f"{target}_left_out": reason for target, reason in left_out.items()}
    return figures
