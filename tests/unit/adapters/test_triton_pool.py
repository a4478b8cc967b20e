"""Several servers as one: who is asked, who is left, and whose word counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from serving.adapters.triton import TritonServer
from serving.adapters.triton_pool import TritonPool, open_triton
from serving.errors import NotFound, Overloaded, ServingError, Unavailable
from serving.ports import ServerRequest, ServerTensor
from serving.testing.fake_triton import FakeModel, FakeTriton
from serving.types import TensorSpec

ASKED = ServerRequest("adder", [ServerTensor("a", np.ones((1, 2), np.float32))])


def server(**options: object) -> FakeTriton:
    tensors = [TensorSpec("a", "FP32", (-1,))]
    return FakeTriton([FakeModel("adder", lambda r: {"a": r.tensors[0].array + 1}, tensors, tensors, **options)])  # type: ignore[arg-type]


def ask(pool: TritonPool, times: int = 1) -> list[float | type[ServingError]]:
    async def run() -> list[float | type[ServingError]]:
        said: list[float | type[ServingError]] = []
        for _ in range(times):
            try:
                said.append(float((await pool.infer(ASKED, 1.0)).tensors["a"][0, 0]))
            except ServingError as error:
                said.append(type(error))
        return said

    return asyncio.run(run())


def asked(servers: Sequence[FakeTriton]) -> list[int]:
    return [len(server.requests) for server in servers]


def test_servers_are_asked_in_turn() -> None:
    servers = [server(), server(), server()]
    assert ask(TritonPool(servers), 9) == [2.0] * 9
    assert asked(servers) == [3, 3, 3]


def test_a_server_that_is_away_costs_no_request() -> None:
    servers = [server(), server()]
    servers[0].stopped = True
    assert ask(TritonPool(servers), 6) == [2.0] * 6
    servers[0].stopped = False
    servers[1].model("adder").down = "its process ended"
    assert ask(TritonPool(servers), 6) == [2.0] * 6
    assert asked(servers) == [6, 6]


def test_all_away_is_unavailable_and_all_without_it_is_unknown() -> None:
    away = [server(), server()]
    for one in away:
        one.stopped = True
    assert ask(TritonPool(away, 0.0), 2) == [Unavailable, Unavailable]
    assert ask(TritonPool([FakeTriton([]), FakeTriton([])])) == [NotFound]
    away[0].stopped = True
    for order in ([away[0], FakeTriton([])], [FakeTriton([]), away[0]]):
        assert ask(TritonPool(order, 0.0), 2) == [Unavailable, Unavailable]


def test_one_that_is_still_loading_is_passed_over() -> None:
    assert ask(TritonPool([FakeTriton([]), server()]), 4) == [2.0] * 4


def test_one_that_is_back_in_a_moment_is_waited_for() -> None:
    servers = [server(), server()]
    for one in servers:
        one.stopped = True

    async def run() -> float:
        asyncio.get_running_loop().call_later(0.15, setattr, servers[1], "stopped", False)
        return float((await TritonPool(servers, patience_s=5.0).infer(ASKED, 5.0)).tensors["a"][0, 0])

    assert asyncio.run(run()) == 2.0


def test_a_full_queue_is_an_answer_and_not_passed_around() -> None:
    servers = [server(max_queue_size=0), server()]
    assert ask(TritonPool(servers), 4) == [2.0, Overloaded, 2.0, Overloaded]


def test_the_best_placed_server_says_what_is_ready() -> None:
    servers = [server(), server()]
    servers[0].model("adder").down = "its process ended"
    (told,) = asyncio.run(TritonPool(servers).models(1.0))
    assert told.ready
    servers[1].stopped = True
    assert asyncio.run(TritonPool(servers).live(1.0))
    servers[0].stopped = True
    assert not asyncio.run(TritonPool(servers).live(1.0))
    with pytest.raises(Unavailable):
        asyncio.run(TritonPool(servers).models(1.0))


def test_addresses_are_read_strictly() -> None:
    assert isinstance(open_triton("grpc://a:1"), TritonServer)
    assert isinstance(open_triton("grpc://a:1, grpc://b:2"), TritonPool)
    for wrong in ("grpc://a:1,", "grpc://a:1;grpc://b:2,http://c:3", ""):
        with pytest.raises(Unavailable, match="expected grpc://host:port"):
            open_triton(wrong)
