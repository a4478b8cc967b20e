"""What the inner layers need from outside, as protocols. Adapters and engines meet them; wiring hands them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from serving.types import Array, Detections, EngineInfo, TensorSpec


@runtime_checkable
class Engine(Protocol):
    """A loaded artifact that runs batches. One engine belongs to one thread at a time."""

    @property
    def info(self) -> EngineInfo:
        """What the runtime says of itself."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named arrays with a leading batch axis in, named arrays out. Raises EngineFailed."""
        ...

    def close(self) -> None:
        """Give memory and threads back."""
        ...


@dataclass(frozen=True, slots=True)
class ServerTensor:
    """A named array of a KServe V2 request or answer."""

    name: str
    array: Array


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """One call to the inference server: named tensors plus scalar parameters."""

    model_name: str
    tensors: Sequence[ServerTensor]
    parameters: Mapping[str, str | int | bool] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    model_version: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """The answer of the inference server."""

    model_name: str
    model_version: str
    tensors: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class ServerModel:
    """What the server says of one model."""

    name: str
    version: str
    ready: bool
    reason: str = ""


class InferenceServer(Protocol):
    """Triton as the gateway sees it. Every call takes a deadline in seconds and raises ServingError classes:
    Overloaded (queue full), DeadlineExceeded, Unavailable, NotFound, InputError classes by the backend's code."""

    async def infer(self, request: ServerRequest, timeout_s: float) -> ServerReply: ...

    async def live(self, timeout_s: float) -> bool: ...

    async def models(self, timeout_s: float) -> Sequence[ServerModel]: ...

    async def metadata(self, model_name: str, timeout_s: float) -> Mapping[str, Any]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """Inputs and outputs of a served model, without the batch axis."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Tracker(Protocol):
    """Gives boxes of successive frames track ids. One tracker serves one timeline of one pipeline."""

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        """The same boxes in the same order with tracker_id (-1: no confirmed track); pts_ns must rise."""
        ...
