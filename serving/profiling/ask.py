"""The sample, and clients that send it: each a thread with one connection, asking without pause."""

from __future__ import annotations

import http.client
import mimetypes
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from serving.bundle import ModelBundle
from serving.config import Settings
from serving.errors import EngineFailed, ParameterInvalid
from serving.preprocess.decode import checked_header
from serving.preprocess.limits import DecodeLimits
from serving.triton.canary import make_inputs
from serving.types import Array, datatype_of

TIMEOUT_S = 60.0
ROUTES = {True: "/v1/models/{name}/infer", False: "/v2/models/{name}/infer"}


@dataclass(frozen=True, slots=True)
class Sample:
    """What is asked. tensor_bytes: what goes on to Triton; size: (width, height) of a picture."""

    name: str
    route: str
    body: bytes
    headers: Mapping[str, str]
    tensor_bytes: int
    size: tuple[int, int] | None


@dataclass(slots=True)
class Asked:
    """What came back. seconds: of each good answer; took: of the whole."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    said: str = ""
    answer_bytes: int = 0
    took: float = 0.0


def sample_for(bundle: ModelBundle, settings: Settings, file: Path | None) -> Sample:
    """The file given; else a sample that the model was certified with, where it lies in the cache; else a drawn
    picture of 640 x 480, a tone, or seeded numbers of a raw model's shapes. Raises ParameterInvalid, InputError."""
    if not bundle.spec.takes_files:
        if file is not None:
            raise ParameterInvalid(f"--sample: {bundle.name} takes named tensors, not files", hint="leave --sample out")
        return _tensors(make_inputs(bundle.spec))
    path = file or _certified_with(bundle, settings.cache_dir)
    try:
        data = path.read_bytes() if path else next(iter(make_inputs(bundle.spec, 640, 480).values())).tobytes()
    except OSError as error:
        raise ParameterInvalid(f"--sample {path}: {error.strerror}", hint="a file the model takes") from error
    sound = bundle.spec.sound is not None
    size = None
    if not sound:
        header = checked_header(data, DecodeLimits(max_pixels=settings.max_pixels, max_side=settings.max_side))
        size = (header.width, header.height)
    kind = mimetypes.guess_type(path or "")[0] or ("audio/wav" if sound else "image/jpeg")
    return Sample(str(path or "drawn"), ROUTES[True], data, {"Content-Type": kind}, len(data), size)


def _certified_with(bundle: ModelBundle, cache: Path) -> Path | None:
    """A file of the samples' folder, the middle one by size; None where there is no such folder."""
    folder = cache / "models" / bundle.name / "samples"
    kinds = (".wav", ".flac") if bundle.spec.sound is not None else (".jpg", ".jpeg", ".png", ".webp")
    files = [p for p in folder.glob("*") if p.suffix.lower() in kinds] if folder.is_dir() else []
    return sorted(files, key=lambda p: (p.stat().st_size, p.name))[len(files) // 2] if files else None


def _tensors(inputs: Mapping[str, Array]) -> Sample:
    """A KServe V2 request with binary tensor data."""
    entries = [
        {
            "name": name,
            "datatype": datatype_of(a),
            "shape": list(a.shape),
            "parameters": {"binary_data_size": a.nbytes},
        }
        for name, a in inputs.items()
    ]
    header = orjson.dumps({"inputs": entries, "parameters": {"binary_data_output": True}})
    blobs = b"".join(array.tobytes() for array in inputs.values())
    headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    return Sample("seeded numbers", ROUTES[False], header + blobs, headers, len(blobs), None)


def ask(address: str, model: str, sample: Sample, clients: int, seconds: float, least: int = 1) -> Asked:
    """Ask for so long, each client `least` times or more. Raises EngineFailed where no answer was good."""
    parts = [Asked() for _ in range(clients)]
    began = time.perf_counter()
    threads = [
        threading.Thread(target=_one, args=(address, model, sample, began + seconds, least, part), daemon=True)
        for part in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _joined(parts, time.perf_counter() - began, model)


def _one(address: str, model: str, sample: Sample, until: float, least: int, asked: Asked) -> None:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    path = sample.route.replace("{name}", model)
    try:
        while len(asked.seconds) + asked.errors < least or time.perf_counter() < until:
            began = time.perf_counter()
            connection.request("POST", path, sample.body, dict(sample.headers))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200:
                asked.seconds.append(time.perf_counter() - began)
                asked.answer_bytes = len(body)
            else:
                asked.errors += 1
                asked.said = body[:300].decode("utf-8", "replace")
                time.sleep(0.01)
    except (OSError, http.client.HTTPException) as error:
        asked.errors += 1
        asked.said = f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def _joined(parts: Sequence[Asked], took: float, model: str) -> Asked:
    whole = Asked(
        seconds=[s for part in parts for s in part.seconds],
        errors=sum(part.errors for part in parts),
        said=next((part.said for part in parts if part.said), ""),
        answer_bytes=max(part.answer_bytes for part in parts),
        took=took,
    )
    if not whole.seconds:
        raise EngineFailed(f"{model}: no request was answered; the first said {whole.said or 'nothing'}")
    return whole
