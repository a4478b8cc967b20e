"""Where the models of a stream run: in this process, or in a Triton, started for the run or already there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serving.bundle import newest_certified
from serving.cli.answer import open_model
from serving.config import Settings
from serving.streams.models import OpenModel, in_process, through_triton
from serving.triton.embedded import EmbeddedTriton

EMBEDDED = "embedded"
START_TIMEOUT_S = 180.0


@contextmanager
def stream_models(
    settings: Settings, models: Sequence[str], triton: str = "", target: str = "cpu"
) -> Iterator[OpenModel]:
    """How to open a model by name. triton: '' (in process), `embedded`, or an address. target: of the certificates that
    Triton serves by; an answer under another one is refused."""
    if not triton:
        yield lambda name: in_process(open_model(settings, name))
        return
    if triton != EMBEDDED:
        yield lambda name: through_triton(newest_certified(settings.repository, name, target), triton)
        return
    server = EmbeddedTriton(settings.repository, models, settings, target)
    try:
        server.start(START_TIMEOUT_S)
        server.wait_ready(START_TIMEOUT_S)
        url = f"grpc://{server.grpc_url}"
        yield lambda name: through_triton(newest_certified(settings.repository, name, target), url)
    finally:
        server.stop()
