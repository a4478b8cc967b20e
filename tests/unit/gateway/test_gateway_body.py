"""Which bound of a body was over: the request's deadline, or the body's own pace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from serving.errors import BodyTimeout, DeadlineExceeded
from serving.gateway.limits import BodyLimits, Gauge, read_body

LIMITS = BodyLimits(max_bytes=1000, timeout_s=0.002, min_rate=0)


async def never() -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("deadline_s", "error"), [(0.001, DeadlineExceeded), (1.0, BodyTimeout)])
def test_the_bound_that_was_over_is_named(deadline_s: float, error: type[Exception]) -> None:
    """Two hundred times: a loop's timers may ring a rounding error early, so its clock cannot tell which one it was."""

    async def read() -> None:
        now = asyncio.get_running_loop().time()
        held = Gauge(1000, "bytes", lambda reason: None, lambda used: None)
        await read_body(never, None, LIMITS, now, now + deadline_s, held)

    async def many() -> list[Any]:
        return [(await asyncio.gather(read(), return_exceptions=True))[0] for _ in range(200)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the gateway's
        assert {type(found) for found in runner.run(many())} == {error}
