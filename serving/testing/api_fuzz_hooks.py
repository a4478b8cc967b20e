"""What schemathesis cannot know from OpenAPI: real pictures, and V2 tensors whose shape, data and size agree.

Loaded by SCHEMATHESIS_HOOKS. Only cases that are meant to be right are touched; wrong ones stay as wrong as they came.
Each operation that answered 2xx is written to `succeeded.txt` in the working folder.
"""

from __future__ import annotations

import base64
import itertools
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from serving.gateway.bodies import SOUND_TYPES
from serving.preprocess.audio import wav_of

_SIDE = 64
_PIXELS = np.full((_SIDE, _SIDE, 3), (30, 120, 200), np.uint8)
FILES = {kind: cv2.imencode(f".{kind}", _PIXELS)[1].tobytes() for kind in ("jpeg", "png", "webp")}
SOUND = wav_of(np.zeros(800, np.float32), 8000)
ENOUGH_MS = 10_000
BOX = [4, 4, 40, 30]
ROI = f"1,2,{_SIDE - 3},{_SIDE}"
_DTYPES = {"FP32": 0.5, "FP64": 0.5, "BOOL": True}

for _kind, _data in FILES.items():
    schemathesis.openapi.media_type(f"image/{_kind}", st.just(_data))
for _kind in SOUND_TYPES[:-1]:
    schemathesis.openapi.media_type(_kind, st.just(SOUND))
schemathesis.openapi.media_type("application/octet-stream", st.sampled_from(sorted(FILES.values())))
_TEXTS = sorted(base64.b64encode(data).decode() for data in FILES.values())
schemathesis.openapi.format("base64-image", st.sampled_from(_TEXTS))
schemathesis.openapi.format("roi", st.just(ROI))
schemathesis.openapi.format("base64-sound", st.just(base64.b64encode(SOUND).decode()))
ADDRESS = "rtsp://{CAMERA_1_USER}:{CAMERA_1_PASSWORD}@198.51.100.7/live"  # a host of the stub's allowed network
schemathesis.openapi.format("source-address", st.just(ADDRESS))
schemathesis.openapi.format("mask-path", st.sampled_from(["", "masks/gate.png"]))
schemathesis.openapi.format("publish-address", st.sampled_from(["", "rtsp://198.51.100.8/mixed"]))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Give every request time enough: a 504 is right for 1 ms, and no server error."""
    header = str((case.headers or {}).get("X-Request-Timeout-Ms", ""))
    if header.isdigit() and 1 <= int(header) < ENOUGH_MS:
        case.headers["X-Request-Timeout-Ms"] = str(ENOUGH_MS)
    if _is_right(case):
        for values in (case.query, case.body.get("parameters") if isinstance(case.body, dict) else None):
            if isinstance(values, dict) and "roi" in values:
                values["roi"] = ROI  # a pattern cannot say that a box lies inside a picture
    if case.operation.path.startswith("/v1/streams"):
        _streams(case, _is_right(case))
    if case.operation.path.startswith("/v2/") and case.method == "POST" and isinstance(case.body, dict):
        _v2(case, _is_right(case))


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Keep the names of the operations that work."""
    if 200 <= response.status_code < 300:
        with Path("succeeded.txt").open("a") as file:
            file.write(f"{case.operation.label}\n")


def _is_right(case: Any) -> bool:
    return case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE


EVENTS_MOST = 12
_EVENTS = itertools.count()
_EVENT_ID = re.compile(r"[1-9][0-9]*/[0-9]+/\w|\Z")


def _streams(case: Any, right: bool) -> None:
    """Sources that are there; live events that end, and few of them: each takes its second."""
    path, method = case.operation.path, case.method
    if path.endswith("/events") and method == "GET":
        if right or "seconds" not in (case.query or {}):
            case.query = {**(case.query or {}), "seconds": 1}
        if right and case.headers and not _EVENT_ID.match(str(case.headers.get("Last-Event-ID", ""))):
            del case.headers["Last-Event-ID"]
        if next(_EVENTS) >= EVENTS_MOST and case.path_parameters:
            case.path_parameters["source_id"] = "nobody"
            return
    if not right or not case.path_parameters or case.meta is None:
        return  # stateful cases have names of their own
    case.path_parameters["source_id"] = "gate"
    if "file" in case.path_parameters:
        case.path_parameters["file"] = "index.m3u8"
    if "/targets" in path:
        _targets(case)
    elif method == "DELETE":
        case.path_parameters["source_id"] = "leaves"
        body = {"source_id": "leaves", "address": ADDRESS, "pipelines": ["persons"]}
        base = case.operation.base_url.rstrip("/")
        requests.post(f"{base}/v1/streams", json=body, timeout=10).raise_for_status()


def _targets(case: Any) -> None:
    """A box inside the stub's picture, room for it, and one to delete."""
    url = f"{case.operation.base_url.rstrip('/')}/v1/streams/gate/targets"
    if case.method == "GET":
        return
    for target in requests.get(url, timeout=10).json().get("targets", []):
        requests.delete(f"{url}/{target['target_id']}", timeout=10)
    if case.method == "POST" and isinstance(case.body, dict):
        case.body["xyxy"] = BOX
    if case.method == "DELETE":
        made = requests.post(url, json={"xyxy": BOX}, timeout=10)
        case.path_parameters["target_id"] = made.json().get("target_id", 1)  # 1: the gate was taken away meanwhile


def _v2(case: Any, right: bool) -> None:
    parameters = case.body.get("parameters")
    if isinstance(parameters, dict):
        timeout = parameters.get("timeout")
        if isinstance(timeout, int | float) and not isinstance(timeout, bool) and 1 <= timeout < ENOUGH_MS * 1000:
            parameters["timeout"] = ENOUGH_MS * 1000 + timeout % 1
    if not right:
        return
    case.body["inputs"] = _inputs(case)
    if isinstance(outputs := case.body.get("outputs"), list):
        case.body["outputs"] = list({output["name"]: output for output in outputs}.values())


def _inputs(case: Any) -> list[dict[str, Any]]:
    """One sample that fits what the model says of itself."""
    path = case.operation.path.removesuffix("/infer")
    described = requests.get(case.operation.base_url.rstrip("/") + path, timeout=10).json()["inputs"]
    names = {tensor["name"] for tensor in described}
    for name, file in (("image", FILES["jpeg"]), ("audio", SOUND)):
        if name in names:
            return [{"name": name, "datatype": "UINT8", "shape": [1, len(file)], "data": list(file)}]
    return [_sample(tensor) for tensor in described]


def _sample(tensor: dict[str, Any]) -> dict[str, Any]:
    shape = [1, *(max(1, size) for size in tensor["shape"][1:])]
    data = [_DTYPES.get(tensor["datatype"], 1)] * int(np.prod(shape))
    return {"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": data}
