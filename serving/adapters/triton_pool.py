"""Several Tritons that serve the same models, as one `ports.InferenceServer`: asked in turn, left when they are down.

An inference changes nothing, so what one server could not take (it is gone, it is ending, its model's process died) is
asked of the next. What a server decided (a full queue, a deadline, a bad input) is the answer: asking others under
overload would only pass the load around.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from serving.adapters.triton import TritonServer
from serving.errors import NotFound, ServingError, Unavailable
from serving.ports import InferenceServer, ServerModel, ServerReply, ServerRequest

T = TypeVar("T")
# A server that is back is found again by its breaker's next probe and its channel's next connection, a quarter of a
# second each: where all seem away, that long may be waited for one that is not.
PATIENCE_S, AGAIN_S = 0.6, 0.1


def open_triton(url: str, models: Iterable[str] = ()) -> InferenceServer:
    """The Triton at `grpc://host:port`, or those at several such addresses, comma-separated.

    models: names that are expected to be served. Raises Unavailable for anything else.
    """
    names = tuple(models)
    servers = [TritonServer(part.strip(), names) for part in url.split(",")]
    return servers[0] if len(servers) == 1 else TritonPool(servers)


class TritonPool:
    """`servers`: two or more, each with breakers of its own, so that one which is down costs next to nothing."""

    def __init__(self, servers: Sequence[InferenceServer], patience_s: float = PATIENCE_S) -> None:
        self._servers, self._patience_s = tuple(servers), patience_s
        self._turn = 0

    async def infer(self, request: ServerRequest, timeout_s: float) -> ServerReply:
        """As one server; Unavailable only where every one is."""
        return await self._first(lambda server, left: server.infer(request, left), timeout_s)

    async def metadata(self, model_name: str, timeout_s: float) -> Mapping[str, Any]:
        """Of the first that answers."""
        return await self._first(lambda server, left: server.metadata(model_name, left), timeout_s)

    async def live(self, timeout_s: float) -> bool:
        """Whether any answers."""
        return any(await asyncio.gather(*(server.live(timeout_s) for server in self._servers)))

    async def models(self, timeout_s: float) -> Sequence[ServerModel]:
        """Each model as the best placed server has it. Raises Unavailable where none answers."""
        answers = await asyncio.gather(*(s.models(timeout_s) for s in self._servers), return_exceptions=True)
        told = [answer for answer in answers if not isinstance(answer, BaseException)]
        if not told:
            raise next(answer for answer in answers if isinstance(answer, BaseException))
        best: dict[str, ServerModel] = {}
        for model in (model for models in told for model in models):
            if model.name not in best or (model.ready and not best[model.name].ready):
                best[model.name] = model
        return [best[name] for name in sorted(best)]

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(server.close() for server in self._servers))

    async def _first(self, ask: Callable[[InferenceServer, float], Awaitable[T]], timeout_s: float) -> T:
        """The answer of the next server in turn that is there, in rounds until one is or the patience is over."""
        began = time.monotonic()
        self._turn += 1
        while True:
            try:
                return await self._round(ask, began + timeout_s)
            except Unavailable:
                if time.monotonic() + AGAIN_S > began + min(self._patience_s, timeout_s):
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _round(self, ask: Callable[[InferenceServer, float], Awaitable[T]], deadline: float) -> T:
        refused: ServingError = Unavailable("the deadline passed before an inference server was found")
        for number in range(len(self._servers)):
            if (left := deadline - time.monotonic()) <= 0:
                break
            try:
                return await ask(self._servers[(self._turn + number) % len(self._servers)], left)
            except Unavailable as error:
                refused = error
            except NotFound as error:  # of one that is still loading; "unknown" only if all say so
                refused = error if number == 0 or isinstance(refused, NotFound) else refused
        raise refused
