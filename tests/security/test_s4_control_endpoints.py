"""S4: the control endpoints of an inference server are not reachable through the gateway, however they are spelt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving.config import Settings
from serving.gateway.app import create_app
from serving.gateway.catalogue import Catalogue
from serving.testing.asgi import ask
from serving.testing.gateway_process import Running, gateways
from serving.testing.stub_bundles import stub_bundles, stub_canaries
from serving.testing.stub_server import StubServer

SPELLINGS = [
    "/v2/repository/index",
    "/v2/repository/models/digits/load",
    "/v2/repository/models/digits/unload",
    "/v2/repository/models/../../etc/load",
    "/v2/repository%2Findex",
    "/v2%2Frepository%2Findex",
    "/v2/%72epository/index",
    "/v2/repositor%79/index",
    "/V2/repository/index",
    "/v2/Repository/index",
    "/v2/REPOSITORY/INDEX",
    "//v2/repository/index",
    "/v2//repository/index",
    "/v2/repository//index",
    "/v2/repository/index/",
    "/v2/repository/index;a=b",
    "/v2/./repository/index",
    "/v2/models/../repository/index",
    "/v2/models/digits/../../repository/index",
    "/v2/models/digits/%2e%2e/%2e%2e/repository/index",
    "/v2/models/..%2frepository%2findex",
    "/v2\\repository\\index",
    "/v2/repository/index%00",
    "/v2/repository/index%20",
    "/v2/repository/index?ready=true",
    "/v1/../v2/repository/index",
    "/v1/models/digits/../../../v2/repository/index",
    "/v2/models/digits/load",
    "/v2/models/digits/unload",
    "/v2/models/digits/trace/setting",
    "/v2/models/stats",
    "/v2/models/digits/stats",
    "/v2/models/digits/versions/1/stats",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/a/register",
    "/v2/systemsharedmemory/unregister",
    "/v2/cudasharedmemory/status",
    "/v2/cudasharedmemory/region/a/register",
    "/v2/sharedmemory/register",
    "/v2/shm/region/a/register",
    "/v2/models/digits/generate",
    "/v2/models/digits/generate_stream",
    "/v1/repository/index",
    "/models",
    "/models/digits",
    "/ping",
    "/invocations",
    "/predict",
    "/api/status",
    "/metrics/",
    "/console",
    "/management",
    "/workflows",
]
# A GET of a model called `stats` is a lookup of that model: 404 as well.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_s4_no_spelling_reaches_a_control_endpoint(tmp_path: Path, method: str) -> None:
    bundles = stub_bundles(tmp_path)
    server = StubServer(bundles)
    app = create_app(Settings(), server, Catalogue(bundles), stub_canaries(bundles))
    found = {target: asyncio.run(ask(app, method, target)) for target in SPELLINGS}
    # `/v2/models/stats` has a GET (a model of that name), so another method on it is refused as a method.
    wrong = {
        t: status for t, (status, _) in found.items() if status != 404 and (t, status) != ("/v2/models/stats", 405)
    }
    assert not wrong
    assert all(b'"not_found"' in body or b'"method_not_allowed"' in body for _, body in found.values())
    assert not server.requests  # nothing went on to the server


def test_s4_on_the_wire(tmp_path: Path) -> None:
    with gateways(tmp_path) as start:
        _all_spellings(start(workers=1))


def _all_spellings(gateway: Running) -> None:
    for method in ("GET", "POST"):
        for target in SPELLINGS:
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            raw = gateway.exchange(head.encode())
            status = raw.split(b" ", 2)[1]
            expected = (b"404", b"405") if target == "/v2/models/stats" else (b"404",)
            assert status in expected, (method, target, raw[:200])
