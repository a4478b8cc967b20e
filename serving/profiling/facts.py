"""The figures of a profile: all that `binding_cause` decides from, and what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# A request's way, in order. queue: waits in Triton; batch: in the model's process beside its own stages (the rest of
# its batch, tensors, JSON); transfer: between gateway and Triton; wire: between client and gateway, with the client.
STAGES = (
    "wire", "gateway", "transfer", "queue", "header", "decode", "preprocess", "infer", "postprocess", "batch",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Level:
    """What `clients` clients saw that each asked without pause. Times are means of a request, in milliseconds.

    stages_ms: by name of STAGES, adds up to mean_ms; cpu_ms: of the model's stages, all threads; batch: requests that
    went through the engine together, on average.
    """

    clients: int
    requests: int
    errors: int
    requests_per_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    batch: float
    stages_ms: Mapping[str, float]
    cpu_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """A profile. source, model_size: (width, height) in pixels of the sample and of what the model looks at, None
    where the input is no picture. bytes: of one request, by step."""

    model: str
    sample: str
    alone: Level
    loaded: Level
    source: tuple[int, int] | None
    model_size: tuple[int, int] | None
    fast: bool
    batch_limit: int
    tuned: bool
    cores: int
    workers: int
    bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """cause: a name of CAUSES; share: of a lone request's time that it takes, 0 to 1; try_next: most useful first."""

    cause: str
    share: float
    why: str
    try_next: tuple[str, ...]
