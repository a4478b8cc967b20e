"""What a stranger on this machine finds: three loopback ports, and nothing that changes the server."""

from __future__ import annotations

import http.client
import socket

import psutil
import pytest
from triton_support import shared_triton

from serving.triton.embedded import EmbeddedTriton

pytestmark = pytest.mark.needs("triton")


@pytest.fixture
def triton(request: pytest.FixtureRequest) -> EmbeddedTriton:
    return shared_triton(request)


def post(port: int, path: str, body: bytes = b"{}") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", path, body)
        return connection.getresponse().status
    finally:
        connection.close()


def test_it_listens_on_loopback_only(triton: EmbeddedTriton) -> None:
    processes = [psutil.Process(triton.pid), *psutil.Process(triton.pid).children(recursive=True)]
    listening = [c.laddr for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    ports = triton.ports
    assert {address.port for address in listening} == {ports.grpc, ports.http, ports.metrics}


def test_from_another_address_of_this_machine_no_port_answers(triton: EmbeddedTriton) -> None:
    addresses = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]
    for address in {*addresses, "127.0.0.2"} - {"127.0.0.1"}:
        for port in (triton.ports.grpc, triton.ports.http, triton.ports.metrics):
            with socket.socket() as probe:
                probe.settimeout(2)
                assert probe.connect_ex((address, port)) != 0, f"{address}:{port} answers"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/colours/unload",
        "/v2/repository/models/colours/load",
        "/v2/repository/models/..%2f..%2fetc/load",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/systemsharedmemory/unregister",
        "/v2/cudasharedmemory/region/x/register",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2//repository/models/colours/unload",
        "/V2/repository/models/colours/unload",
        "/invocations",
        "/models",
        "/predict",
    ],
)
def test_without_the_key_nothing_changes(triton: EmbeddedTriton, path: str) -> None:
    for port in (triton.ports.http, triton.ports.metrics):
        assert post(port, path) in (400, 403, 404, 405)
    assert all(model.ready for model in triton.states())


def test_over_grpc_the_key_is_asked_for_too(triton: EmbeddedTriton) -> None:
    client = pytest.importorskip("tritonclient.grpc")
    server = client.InferenceServerClient(triton.grpc_url)
    try:
        for call in (
            lambda: server.unload_model("colours"),
            lambda: server.load_model("colours"),
            lambda: server.get_model_repository_index(),
            lambda: server.register_system_shared_memory("x", "/x", 1),
            lambda: server.update_log_settings({"log_verbose_level": 9}),
        ):
            with pytest.raises(Exception, match="restricted"):
                call()
    finally:
        server.close()
    assert all(model.ready for model in triton.states())


def test_the_key_is_long_and_in_no_answer(triton: EmbeddedTriton) -> None:
    key = triton.watch("colours").control.key
    assert len(key) >= 32
    connection = http.client.HTTPConnection("127.0.0.1", triton.ports.http, timeout=5)
    connection.request("GET", "/v2")
    assert key.encode() not in connection.getresponse().read()
    connection.close()
