"""One answer for `lockstep infer`: through the same ServedModel a server uses, or through a running gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2 as httpx

from serving.backend import Served, open_served
from serving.bundle import newest_certified
from serving.config import Settings
from serving.errors import LockstepError, ServingError, Unavailable
from serving.types import InferRequest


class RemoteError(LockstepError):
    """The gateway answered with a problem document; its own code is in the message."""

    code = "remote_failed"


def open_model(settings: Settings, name: str) -> Served:
    """The newest certified version of a model, loaded in this process."""
    return open_served(newest_certified(settings.repository, name).version_dir, settings)


def answer_in_process(settings: Settings, name: str, data: bytes, parameters: Mapping[str, str]) -> dict[str, Any]:
    """The result document of one picture or sound."""
    model = open_model(settings, name)
    try:
        answer = model.infer([InferRequest(encoded=data, parameters=parameters)])[0]
        if isinstance(answer, ServingError):
            raise answer
        return model.document(answer)
    finally:
        model.close()


def answer_from_server(
    server: str, name: str, data: bytes, media_type: str, parameters: Mapping[str, str]
) -> dict[str, Any]:
    """The same from `POST /v1/models/{name}/infer`. Raises Unavailable and RemoteError."""
    url = f"{server.rstrip('/')}/v1/models/{name}/infer"
    try:
        reply = httpx.post(url, content=data, params=dict(parameters), headers={"content-type": media_type}, timeout=60)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{server}: {error}", hint="is it running? lockstep serve") from error
    document = _document(url, reply)
    if reply.status_code != 200:
        raise RemoteError(f"{document.get('code')}: {document.get('detail')}", hint=str(document.get("hint") or ""))
    return document


def _document(url: str, reply: httpx.Response) -> dict[str, Any]:
    """A result or a problem. Raises Unavailable for what no gateway says."""
    try:
        document = reply.json()
    except ValueError:
        document = None
    if isinstance(document, dict) and ("model" if reply.status_code == 200 else "code") in document:
        return document
    told = f"{url}: {reply.status_code} with {reply.text[:60]!r}, expected a result or a problem document"
    raise Unavailable(told, hint="--server: the address of a running gateway, as `lockstep serve` prints it")


def describe(document: Mapping[str, Any]) -> str:
    """A result document as a few lines of text."""
    lines = [f"{document['model']} version {document['model_version']}, certificate {document['certificate_id']}"]
    for row in document.get("classes", []):
        lines.append(f"  {row['score']:.3f}  {row['label']}")
    for row in document.get("detections", []):
        box = ", ".join(f"{v:.1f}" for v in row["xyxy"])
        lines.append(f"  {row['confidence']:.3f}  {row['label']:<12} [{box}]")
    if "detections" in document and not document["detections"]:
        lines.append("  nothing found")
    for row in document.get("events", []):
        begin, end = row["start_pts_ns"] / 1e9, row["end_pts_ns"] / 1e9
        lines.append(f"  {row['score']:.3f}  {row['label']:<12} {begin:.3f} to {end:.3f} s")
    if "events" in document and not document["events"]:
        lines.append("  nothing heard")
    if "embedding" in document:
        lines.append(f"  embedding of {len(document['embedding'])} numbers")
    timings = ", ".join(f"{name} {ms:.1f}" for name, ms in document.get("timings_ms", {}).items())
    return "\n".join([*lines, f"  ms: {timings}"])
