"""`python -m serving.testing.stub_gateway FOLDER --set workers=2`: the real gateway processes over a stub server.

Prints the address when it listens. `--delay S` makes each inference take that long.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serving.bundle import ModelBundle
from serving.config import load_settings
from serving.gateway.main import make_streams, serve
from serving.testing.stub_bundles import stub_bundles, stub_canaries

if TYPE_CHECKING:
    from serving.gateway.streams import StreamServices
    from serving.ports import InferenceServer


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--only", action="append", default=[], help="a model to serve (all)")
    parser.add_argument("--set", action="append", default=[], help="name=value of a setting")
    parser.add_argument("--streams", action="store_true", help="over a log and an index in memory, not the settings'")
    given = parser.parse_args()
    overrides = dict(text.split("=", 1) for text in given.set)
    settings = load_settings(None, {}, **{"port": 0, **overrides}).settings
    bundles = stub_bundles(given.folder)
    if given.only:
        bundles = {name: bundles[name] for name in given.only}
    services = (lambda: _streams(given.folder)) if given.streams else (lambda: make_streams(settings))
    canaries = stub_canaries(bundles)
    serve(settings, bundles, canaries, lambda: _server(bundles, given.delay), _announce, make_streams=services)


def _server(bundles: Mapping[str, ModelBundle], delay: float) -> InferenceServer:
    from serving.testing.stub_server import StubServer

    return StubServer(bundles, delay)


def _streams(folder: Path) -> StreamServices:
    from serving.testing.stub_streams import StubStreams

    stub = StubStreams(folder / "streams")
    stub.fill()
    return stub.services


def _announce(host: str, port: int) -> None:
    sys.stdout.write(f"{host} {port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
