"""Triton's refusals as our error classes. A pure function of status and text; tests/contract holds it to a real server.

Triton has one gRPC status for a full queue, a request that waited too long and a server that is gone (UNAVAILABLE), so
the text decides, but only under the status that Triton gives it: an INVALID_ARGUMENT repeats what the caller named its
tensors. The texts are those of Triton 2.51; nothing of an unknown text reaches a caller, it may name paths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving import errors_audio as errors_audio  # a model may raise these too
from serving import errors_gallery as errors_gallery  # and these
from serving.errors import (
    BodyInvalid,
    BodyTooLarge,
    DeadlineExceeded,
    EngineFailed,
    NotFound,
    Overloaded,
    ServingError,
    Unavailable,
    subclasses_by_code,
)

_OURS = re.compile(r"^lockstep:([a-z_]+): (.*)$", re.DOTALL)
# What Triton puts before a model's own text: the request's id, the ensemble it is a step of.
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] ?|in ensemble '[a-z0-9_]+', )+")
_CODES = {code: kind for code, kind in subclasses_by_code(ServingError).items() if issubclass(kind, ServingError)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What to raise. `down`: the next request would meet it too, so the breaker opens."""

    error: ServingError
    down: bool = False


def refusal_of(status: str, text: str, model: str, known: bool) -> Refusal:
    """status: gRPC's word (UNAVAILABLE ...); known: this very thing was served before: 'not found' means 'not now'."""
    text = _PREFIX.sub("", text)
    if match := _OURS.match(text):
        return Refusal(_CODES.get(match[1], EngineFailed)(match[2]))
    if status == "INVALID_ARGUMENT":
        return Refusal(BodyInvalid(_one_line(text)))
    if status == "UNAVAILABLE" and "Exceeds maximum queue size" in text:
        return Refusal(Overloaded(f"{model}: the queue is full", hint="try again later"))
    if status == "DEADLINE_EXCEEDED" or (status == "UNAVAILABLE" and "Request timeout expired" in text):
        return Refusal(DeadlineExceeded(f"{model}: the deadline passed before the answer"))
    if status == "INTERNAL" and "Stub process" in text and "not healthy" in text:
        return Refusal(Unavailable(f"{model}: its process ended; it is being loaded again"), down=True)
    if status == "NOT_FOUND" or (status == "UNAVAILABLE" and "no available versions" in text):
        return _not_found(text, model, known)
    if status in ("UNAVAILABLE", "CANCELLED"):
        return Refusal(Unavailable("the inference server cannot be reached"), down=status == "UNAVAILABLE")
    if status == "RESOURCE_EXHAUSTED":
        return Refusal(BodyTooLarge(f"{model}: the request is larger than the inference server takes"))
    return Refusal(EngineFailed(f"{model}: the inference server failed ({status})", hint="see the server's log"))


def _not_found(text: str, model: str, known: bool) -> Refusal:
    if known:
        return Refusal(Unavailable(f"{model}: not loaded at the moment"), down=True)
    if "version" in text and "no available versions" not in text:
        return Refusal(NotFound(f"{model}: unknown version"))
    return Refusal(NotFound(f"unknown model {model[:60]!r}"))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
