"""/v1/models, health, metrics, documents."""

from __future__ import annotations

import asyncio
import re
import selectors
from typing import Any

import pytest
from gateway_kit import assert_problem
from starlette.testclient import TestClient

from serving.config import Settings
from serving.errors import Overloaded, Unavailable
from serving.gateway.app import create_app
from serving.gateway.catalogue import Catalogue
from serving.gateway.readiness import Readiness
from serving.gateway.routes_models import prefers_html
from serving.metrics import Metrics
from serving.ports import ServerReply, ServerRequest
from serving.testing.stub_bundles import make_bundle, stub_canaries
from serving.testing.stub_server import PICTURE, StubServer


def test_models_with_state_version_and_certificate(client: TestClient) -> None:
    models = {m["name"]: m for m in client.get("/v1/models").json()["models"]}
    assert sorted(models) == ["adder", "digits", "faces", "persons"]
    assert models["digits"] == {
        "name": "digits",
        "task": "classification",
        "model_version": "1",
        "certificate_id": "abcdef012345",
        "state": "ready",
        "reason": "",
        "required": True,
    }


def test_one_model(client: TestClient) -> None:
    model = client.get("/v1/models/persons").json()
    assert model["parameters"]["score_threshold"] == {
        "type": "float",
        "minimum": 0.0,
        "maximum": 1.0,
        "default": 0.3,
        "help": "boxes below this confidence are left out",
    }
    assert sorted(model["parameters"]) == ["max_detections", "roi", "scenario", "score_threshold"]
    assert model["scenarios"] == {"night": {"score_threshold": 0.2}}
    assert [t["name"] for t in model["outputs"]] == ["xyxy", "confidence", "class_id"]
    assert_problem(client.get("/v1/models/nope"), 404, "not_found")


def test_the_certificate_in_both_forms(client: TestClient, catalogue: Catalogue) -> None:
    path = "/v1/models/digits/certificate"
    assert client.get(path).json()["verdict"] == "passed"
    page = client.get(path, headers={"accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html") and "<title>certificate" in page.text
    assert page.headers["etag"] == '"abcdef012345"' and page.headers["vary"] == "Accept"
    (catalogue.get("digits").version_dir / "certificate.cpu.html").unlink()
    body = assert_problem(client.get(path, headers={"accept": "text/html"}), 404, "not_found")
    assert str(catalogue.get("digits").version_dir) not in str(body)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html", True),
        ("text/html;q=0.5, application/json", False),
        ("text/html, application/json;q=0.9", True),
        ("text/html;q=nan, */*;q=0.1", False),
        ("text/html;q=\xb2", False),
    ],
)
def test_accept(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


def test_health_and_readiness(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz")
    assert ready.status_code == 200 and ready.json()["status"] == "ready"
    assert ready.json()["models"]["digits"] == {"ready": True, "required": True, "reason": ""}
    client.app.state.context.draining = True  # type: ignore[attr-defined]
    answer = client.get("/readyz")
    assert answer.status_code == 503 and answer.json()["status"] == "draining"
    assert answer.headers["connection"] == "close"
    assert client.get("/healthz").status_code == 200


def _readiness(catalogue: Catalogue) -> tuple[Readiness, StubServer]:
    server = StubServer(catalogue.bundles)
    return Readiness(server, catalogue, stub_canaries(catalogue.bundles), Metrics(), 2.0), server


def test_not_ready_before_the_first_canary_and_for_no_models(catalogue: Catalogue) -> None:
    async def check() -> None:
        readiness, server = _readiness(catalogue)
        assert not readiness.ready() and readiness.state("digits").reason == "no canary inference yet"
        await readiness.check_all()
        assert readiness.ready()
        assert not Readiness(server, Catalogue({}), {}, Metrics(), 2.0).ready()

    asyncio.run(check())


def test_one_dead_model_is_named_and_comes_back(catalogue: Catalogue) -> None:
    async def check() -> None:
        readiness, server = _readiness(catalogue)
        await readiness.check_all()

        def down(request: ServerRequest) -> None:
            if request.model_name == "persons":
                raise Unavailable("Stub process is not healthy at 127.0.0.1:8001")

        server.canary_hook = down
        await readiness.check_all()
        assert not readiness.ready()
        assert readiness.state("persons").reason == "canary failed: unavailable"
        assert readiness.state("digits").ready
        server.canary_hook = lambda request: None
        await readiness.check_all()
        assert readiness.ready()

    asyncio.run(check())


def test_a_wrong_answer_is_not_ready(catalogue: Catalogue) -> None:
    async def check() -> None:
        readiness, server = _readiness(catalogue)
        await readiness.check_all()
        right = server.document

        def other_class(name: str) -> dict[str, Any]:
            document = right(name)
            if name == "digits":
                document["classes"][0]["class_id"] = 2
            return document

        server.document = other_class  # type: ignore[method-assign]
        await readiness.check_all()
        assert not readiness.state("digits").ready and readiness.state("persons").ready

        def other_version(name: str) -> dict[str, Any]:
            return {**right(name), "certificate_id": "000000000000"}

        server.document = other_version  # type: ignore[method-assign]
        await readiness.check_all()
        assert not readiness.state("persons").ready

    asyncio.run(check())


def test_canaries_ask_for_the_version_that_is_served(catalogue: Catalogue) -> None:
    seen: list[tuple[str, str]] = []

    async def check() -> None:
        readiness, server = _readiness(catalogue)
        server.canary_hook = lambda request: seen.append((request.model_name, request.model_version))
        await readiness.check_all()

    asyncio.run(check())
    assert sorted(seen) == [("adder", "1"), ("digits", "1"), ("faces", "1"), ("persons", "1")]


def test_overload_alone_does_not_take_a_model_out(catalogue: Catalogue) -> None:
    async def check() -> None:
        readiness, server = _readiness(catalogue)
        await readiness.check_all()

        def full(request: ServerRequest) -> None:
            raise Overloaded("Exceeds maximum queue size")

        server.canary_hook = full
        readiness.answered("digits")
        await readiness.check_all()
        assert readiness.state("digits").ready  # real answers come
        assert not readiness.state("persons").ready  # none came: it may as well hang

    asyncio.run(check())


class _Jumping(selectors.SelectSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


@pytest.mark.parametrize(("takes_s", "ready"), [(3600.0, False), (3.5, True)])
def test_a_model_that_hangs_takes_no_other_with_it(catalogue: Catalogue, takes_s: float, ready: bool) -> None:
    class Slow(StubServer):
        async def infer(self, request: ServerRequest, timeout_s: float) -> ServerReply:
            await asyncio.sleep(takes_s if request.model_name == "persons" else 0.01)
            return await super().infer(request, timeout_s)

    async def follow() -> tuple[set[str], set[bool]]:
        canaries = stub_canaries(catalogue.bundles)
        readiness = Readiness(Slow(catalogue.bundles), catalogue, canaries, Metrics(), 2.0)
        running = asyncio.create_task(readiness.run())
        await asyncio.sleep(4.1)  # the first answers, or none
        seen = []
        for _ in range(300):
            seen.append((readiness.state("digits").reason, readiness.state("persons").ready))
            await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return {reason for reason, _ in seen}, {slow for _, slow in seen}

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(follow()) == ({""}, {ready})


def test_a_model_that_is_not_required_does_not_hold_the_others_back(tmp_path: Any, settings: Settings) -> None:
    bundles = [
        make_bundle(tmp_path, "digits", "classification", preprocess={"width": 8, "height": 8}),
        make_bundle(
            tmp_path, "extra", "classification", preprocess={"width": 8, "height": 8}, serving={"required": False}
        ),
    ]
    catalogue = Catalogue({b.name: b for b in bundles})
    server = StubServer(catalogue.bundles)

    def down(request: ServerRequest) -> None:
        if request.model_name == "extra":
            raise Unavailable("gone")

    server.canary_hook = down
    with TestClient(create_app(settings, server, catalogue, stub_canaries(catalogue.bundles))) as client:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["models"]["extra"] == {
            "ready": False,
            "required": False,
            "reason": "canary failed: unavailable",
        }
        assert {m["name"]: m["state"] for m in client.get("/v1/models").json()["models"]} == {
            "digits": "ready",
            "extra": "unavailable",
        }


def test_metrics_count_what_happened(client: TestClient) -> None:
    client.post("/v1/models/digits/infer", content=PICTURE)
    client.post("/v1/models/nope/infer", content=PICTURE)
    client.get("/what/ever")
    text = client.get("/metrics").text
    infer = 'route="/v1/models/{name}/infer"'
    assert f'lockstep_http_requests_total{{method="POST",{infer},status="200"}} 1.0' in text
    assert f'lockstep_http_requests_total{{method="POST",{infer},status="404"}} 1.0' in text
    assert 'lockstep_http_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'lockstep_inference_requests_total{model="digits",outcome="ok"} 1.0' in text
    assert 'lockstep_inference_stage_seconds_total{model="digits",stage="infer"} 0.002' in text
    assert 'lockstep_http_errors_total{code="not_found"} 2.0' in text
    assert f"lockstep_http_body_bytes_total {len(PICTURE):.1f}" in text
    assert 'lockstep_model_ready{model="adder"} 1.0' in text
    assert "nope" not in text


def _template(path: str) -> str:
    """Infer stands as one path a model, with and without its version."""
    return re.sub(r"/(digits|persons|faces|adder)(/versions)?(/1)?/infer", _parts, path)


def _parts(match: re.Match[str]) -> str:
    return "/{name}/versions/{version}/infer" if match[2] else "/{name}/infer"


def test_openapi_lists_every_route_and_the_page_shows_them(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = {(_template(path), m.upper()) for path, methods in document["paths"].items() for m in methods}
    routes = {(r.path, m) for r in client.app.router.routes for m in r.methods}  # type: ignore[attr-defined]
    # One route only says why a source's name cannot hold a slash; nobody is told to use it.
    assert routes - {("/v1/streams/{source_id:path}", "GET")} == described
    page = client.get("/docs").text
    for path, methods in document["paths"].items():
        assert all(operation["operationId"] in page for operation in methods.values()), path
    assert "<script" not in page and "src=" not in page and "https:" not in page and "href=http" not in page


def test_wrong_method_and_unknown_routes_are_problems(client: TestClient) -> None:
    answer = client.delete("/v1/models")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"
    for path in ("/", "/v1", "/v1/models/", "/v1/models/digits/infer/", "/v3", "/docs/oauth2-redirect", "/redoc"):
        assert_problem(client.get(path), 404, "not_found")


def test_a_failure_of_ours_says_nothing_from_inside(
    settings: Settings, server: StubServer, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    async def burst(request: ServerRequest, timeout_s: float) -> None:
        raise ZeroDivisionError("secret /etc/shadow 0xdeadbeef")

    server.infer = burst  # type: ignore[method-assign, assignment]
    with TestClient(create_app(settings, server, catalogue, stub_canaries(catalogue.bundles))) as client:
        body = assert_problem(client.post("/v1/models/digits/infer", content=PICTURE), 500, "internal")
    assert "secret" not in str(body) and body["request_id"] in caplog.text and "ZeroDivisionError" in caplog.text
