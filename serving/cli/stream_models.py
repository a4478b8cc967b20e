"""Where the models of a stream run: in this process, or in a Triton, started for the run or already there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serving.bundle import ModelBundle, catalogue
from serving.cli.answer import open_model
from serving.config import Settings
from serving.errors import NotFound
from serving.streams.main import OpenModel, in_process, through_triton
from serving.triton.embedded import EmbeddedTriton

EMBEDDED = "embedded"
START_TIMEOUT_S = 180.0


@contextmanager
def stream_models(settings: Settings, models: Sequence[str], triton: str = "") -> Iterator[OpenModel]:
    """How to open a model by name. triton: '' (in process), `embedded`, or an address."""
    if not triton:
        yield lambda name: in_process(open_model(settings, name))
        return
    if triton != EMBEDDED:
        yield lambda name: through_triton(_bundle(settings, name), triton)
        return
    server = EmbeddedTriton(settings.repository, models, settings)
    try:
        server.start(START_TIMEOUT_S)
        server.wait_ready(START_TIMEOUT_S)
        yield lambda name: through_triton(_bundle(settings, name), f"grpc://{server.grpc_url}")
    finally:
        server.stop()


def _bundle(settings: Settings, name: str) -> ModelBundle:
    good, bad = catalogue(settings.repository)
    if name not in good:
        raise bad.get(name) or NotFound(f"no model {name!r} in {settings.repository}", hint="lockstep models")
    return good[name]
