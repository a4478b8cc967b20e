"""S11: strangers cannot make series. 10 000 random paths, model names, methods and ids add at most 50."""

from __future__ import annotations

import asyncio
import random
import string
from pathlib import Path

from serving.config import Settings
from serving.gateway.app import create_app
from serving.gateway.catalogue import Catalogue
from serving.metrics import Metrics
from serving.testing.asgi import ask
from serving.testing.stub_bundles import stub_bundles, stub_canaries
from serving.testing.stub_server import StubServer

REQUESTS = 10_000


def test_s11_random_requests_make_no_series(tmp_path: Path) -> None:
    bundles = stub_bundles(tmp_path)
    metrics = Metrics()
    app = create_app(Settings(), StubServer(bundles), Catalogue(bundles), stub_canaries(bundles), metrics=metrics)
    rng = random.Random(11)

    async def flood() -> None:
        for _ in range(REQUESTS):
            word = "".join(rng.choices(string.ascii_letters + string.digits + "-_.~", k=rng.randint(1, 12)))
            forms = [
                f"/{word}",
                f"/v1/models/{word}",
                f"/v1/models/{word}/infer",
                f"/v1/models/{word}/certificate",
                f"/v1/models/digits/infer?{word}={word}",
                f"/v1/streams/{word}",
                f"/v2/models/{word}/infer",
                f"/v2/models/{word}/versions/{word}/infer",
                f"/v2/models/adder/versions/{word}",
            ]
            method = rng.choice(["GET", "POST", "PUT", word.upper()])
            await ask(app, method, rng.choice(forms), word.encode())

    asyncio.run(ask(app, "GET", "/healthz"))
    before = _series(metrics)
    asyncio.run(flood())
    added = _series(metrics) - before
    assert 1 <= len(added) <= 50, sorted(added)
    templates = {r.path for r in app.router.routes} | {"other"}  # type: ignore[attr-defined]
    assert {line.split('route="')[1].split('"')[0] for line in added if 'route="' in line} <= templates
    assert _total(metrics) == REQUESTS + 1


def _series(metrics: Metrics) -> set[str]:
    lines = metrics.exposition().decode().splitlines()
    return {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}


def _total(metrics: Metrics) -> float:
    lines = metrics.exposition().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("lockstep_http_requests_total{"))
