"""The certificate as one page for people: self-contained, no script, nothing fetched.

Worst samples are shown as pictures with both answers. What comes from files (names, labels, messages) is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serving.errors import InputError
from serving.preprocess.decode import decode
from serving.types import PixelArray

THUMBNAIL = 180
_RED, _GREEN = (214, 40, 40), (30, 150, 70)

# What helps, by the stage that failed. Stages not listed get the general line.
NEXT_STEPS: Mapping[str, str] = {
    "load": "Compare the checkpoint's keys with the module that `factory` builds. A multi-GPU checkpoint needs "
    "`checkpoint.strip_prefix: module.`; a key that is rightly absent is named in `checkpoint.allow_missing`.",
    "preprocess": "The spec's `preprocess` does not do what the training side did. Look at the pictures' shape, mean "
    "by channel and range: swapped channels, a missing mean or std, another resize rule, kernel or pad value show.",
    "preprocess_fast": "The fast path changes decisions for this model, or saves nothing: leave `preprocess.fast` off.",
    "onnx_fp32": "The export computes something else than the checkpoint. Check export options and operators whose "
    "behaviour differs between training and inference.",
    "onnx_fp16": "A layer does not survive half precision. Name its operator or node in `keep_fp32`, or set "
    "`precision: fp32`.",
    "engine_openvino": "Convert again; if it stays, compare `onnx_fp32` and the precision in effect.",
    "engine_onnxruntime": "Convert again; if it stays, compare `onnx_fp32`: both run the same graph.",
    "engine_tensorrt_rtx": "Read the build's message: an operator that the library lacks, or a graph that is not in "
    "half precision. `engines:` of the spec says which engines are built.",
    "labels": "One label a class of the network, in the order of training (and of the source package).",
    "constants": "Set the task's `options` to the values of the source package.",
    "server": "The served model answers something else than the same artifact in this process: look at the backend.",
    "gateway": "The gateway changed an answer on its way, or gave none (see the reason): compare with the row "
    "`server`.",
    "transport": "JPEG of the log changes this model's decisions. On live video it will answer other than on files; if "
    "that is acceptable, widen `parity.gates.transport` and say `because`.",
    "expected_score": "The checkpoint itself, or the spec's preprocessing and labels, do not reach the expected score. "
    "If `checkpoint` is low, look at colour order, range, mean, labels; if only `served` is, look at the engine rows.",
    "memory": "The served instance's memory could not be read; see the server's log.",
}
GENERAL = "Read the reason, repair its cause and convert again."


def next_steps(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(stage, what helps) for each failed row of a certificate document, in their order."""
    return [(row["stage"], NEXT_STEPS.get(row["stage"], GENERAL)) for row in rows if row["status"] == "failed"]


def render(document: Mapping[str, Any], certificate_id: str, pictures: Mapping[str, bytes]) -> bytes:
    """The page. `pictures` are the samples' own bytes by file name; missing ones are shown by name only."""
    rows = [
        {**row, "worst": [_worst(w, pictures, row["gate"].get("threshold", 0.0)) for w in row["worst"]]}
        for row in document["rows"]
    ]
    steps = next_steps(rows)
    text = _template().render(
        c=document, id=certificate_id, rows=rows, shown=[r for r in rows if _worth_showing(r)], steps=steps
    )
    return str(text).encode()


def figure(value: Any) -> str:
    """A figure as people read it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef"):
        return f"{value[:16]}..."  # a hash; the JSON has all of it
    return ", ".join(map(figure, value)) if isinstance(value, list | tuple) else str(value)


def answers(document: Mapping[str, Any], threshold: float = 0.0) -> list[str]:
    """Lines of one side's answer: classes, boxes from the threshold on, or whatever the task gave."""
    if "classes" in document:
        return [f"{row['label']} {row['score']:.4f}" for row in document["classes"]]
    if "detections" in document:
        rows = _sure(document, threshold)
        lines = [f"{r['label']} {r['confidence']:.3f} [{', '.join(f'{v:.0f}' for v in r['xyxy'])}]" for r in rows[:8]]
        return lines + ([f"and {len(rows) - 8} more"] if len(rows) > 8 else []) or [f"nothing from {threshold:g} on"]
    if "embedding" in document:
        return [
            f"{len(document['embedding'])} numbers, first {', '.join(f'{v:.4f}' for v in document['embedding'][:4])}"
        ]
    if "input" in document:
        return [f"{name}: {figure(value)}" for name, value in document["input"].items()]
    return [f"{name}: {value}" for name, value in document.items()] or ["no answer"]


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["figure"] = figure
    return environment.get_template("certificate.html")


def _worth_showing(row: Mapping[str, Any]) -> bool:
    """Samples of failed rows, and of one numeric row where all is well."""
    return bool(row["worst"]) and (row["status"] == "failed" or row["stage"].startswith(("engine_", "server")))


def _sure(document: Mapping[str, Any], threshold: float) -> list[Mapping[str, Any]]:
    return [row for row in document.get("detections", []) if row["confidence"] >= threshold]


def _worst(worst: Mapping[str, Any], pictures: Mapping[str, bytes], threshold: float) -> dict[str, Any]:
    sides: list[dict[str, Any]] = [
        {"name": n, "lines": answers(worst[n], threshold), "boxes": _sure(worst[n], threshold), "colour": colour}
        for n, colour in (("reference", _GREEN), ("candidate", _RED))
    ]
    data = pictures.get(worst["sample"])
    frame = _frame(data) if data is not None else None
    shown = [] if frame is None else sides if any(side["boxes"] for side in sides) else sides[:1]
    images = [] if frame is None else [_thumbnail(frame, side["boxes"], side["colour"]) for side in shown]
    return {**worst, "sides": sides, "images": images}


def _frame(data: bytes) -> PixelArray | None:
    try:
        return decode(data)
    except InputError:
        return None


def _thumbnail(frame: PixelArray, boxes: list[Mapping[str, Any]], colour: tuple[int, int, int]) -> str:
    """A data: address of the small picture with its boxes."""
    gain = THUMBNAIL / max(frame.shape[:2])
    size = (max(1, round(frame.shape[1] * gain)), max(1, round(frame.shape[0] * gain)))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if gain < 1 else cv2.INTER_NEAREST)
    for box in boxes[:20]:
        x1, y1, x2, y2 = (round(v * gain) for v in box["xyxy"])
        cv2.rectangle(small, (x1, y1), (x2, y2), colour, 2)
    ok, encoded = cv2.imencode(".jpg", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}" if ok else ""
