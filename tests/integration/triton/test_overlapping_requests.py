"""A request that comes while another one is being answered is answered right after it.

With a queue policy Triton's batcher is not woken for it, and an idle model lets it wait for up to half a second; that
this is seen here is proved with the policy put back (docs/decisions/0022).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from triton_load import request_for
from triton_support import PATCHED_PY, adder_model, settings_for

from serving.adapters.triton import TritonServer
from serving.triton.embedded import EmbeddedTriton

pytestmark = pytest.mark.needs("triton")
RUN_S, LATER_S, MANY_S = 0.05, 0.02, 0.2
TIMES = 30
SLOW = PATCHED_PY.format(body=f"time.sleep({RUN_S})")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("overlapping")
    adder_model(folder / "repository", model_py=SLOW)
    adder_model(folder / "repository", "policy", model_py=SLOW, serving={"queue_timeout_ms": 5000})
    with EmbeddedTriton(folder / "repository", (), settings_for(folder, canary_interval_s=60.0)) as triton:
        triton.wait_ready(30)
        yield triton.grpc_url


def waited(url: str, name: str) -> list[float]:
    """Seconds of each request that came while another one ran, and nothing after it."""

    async def second(server: TritonServer) -> float:
        await asyncio.sleep(LATER_S)
        began = time.perf_counter()
        await server.infer(request_for(2.0, name), 5.0)
        return time.perf_counter() - began

    async def run() -> list[float]:
        server, found = TritonServer(url), []
        await server.infer(request_for(0.0, name), 5.0)
        for _ in range(TIMES):
            _, took = await asyncio.gather(server.infer(request_for(1.0, name), 5.0), second(server))
            found.append(took)
        await server.close()
        return found

    return asyncio.run(run())


def test_a_request_that_comes_during_another_one_follows_it_at_once(url: str) -> None:
    late = [took for took in waited(url, "adder") if took > MANY_S]
    assert len(late) <= TIMES // 10, f"{len(late)} of {TIMES} waited in front of an idle model: {sorted(late)}"


def test_with_a_queue_policy_the_same_test_would_fail(url: str) -> None:
    late = [took for took in waited(url, "policy") if took > MANY_S]
    assert len(late) > TIMES // 10, "this Triton does not forget any more: decision 0022 can be taken back"
