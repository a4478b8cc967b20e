"""A Triton of a few lines, in memory: the double of `ports.InferenceServer`, held to the real one's contract tests.

It has what callers can feel: a bounded queue a model, one execution at a time of up to `max_batch` requests, a deadline
that is checked in the queue and while waiting, errors by request, and a server or model that goes away and comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.errors import BodyInvalid, DeadlineExceeded, NotFound, Overloaded, ServingError, Unavailable
from serving.ports import ServerModel, ServerReply, ServerRequest
from serving.types import Array, TensorSpec, datatype_of

Compute = Callable[[ServerRequest], Mapping[str, Array]]


@dataclass(slots=True)
class _Waiting:
    request: ServerRequest
    answer: asyncio.Future[ServerReply]
    deadline: float


@dataclass(slots=True)
class FakeModel:
    """`compute(request)` gives named arrays with the batch axis, or raises a ServingError for that request alone.

    inputs and outputs are without the batch axis; `seconds` is how long one execution takes, whatever its size.
    """

    name: str
    compute: Compute
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    version: str = "1"
    optional: bool = False
    max_batch: int = 8
    max_queue_size: int = 64
    seconds: float = 0.0
    down: str = ""
    batches: list[int] = field(default_factory=list)
    _queue: deque[_Waiting] = field(default_factory=deque)
    _runner: asyncio.Task[None] | None = None


class FakeTriton:
    """`FakeTriton([FakeModel(...)])`. `stopped` True: nobody listens; `model.down`: that model's process is gone."""

    def __init__(self, models: Sequence[FakeModel]) -> None:
        self._models = {model.name: model for model in models}
        self.stopped = False
        self.requests: list[ServerRequest] = []

    def model(self, name: str) -> FakeModel:
        """The model, to look at or to break."""
        return self._models[name]

    async def infer(self, request: ServerRequest, timeout_s: float) -> ServerReply:
        """As ports.InferenceServer."""
        model = self._served(request.model_name, request.model_version)
        _check(model, request)
        if model.down:
            raise Unavailable(f"{model.name}: {model.down}")
        if len(model._queue) >= model.max_queue_size:
            raise Overloaded(f"{model.name}: the queue is full", hint="try again later")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.create_future(), loop.time() + timeout_s)
        self.requests.append(request)
        model._queue.append(waiting)
        if model._runner is None or model._runner.done():
            model._runner = loop.create_task(_drain(model))
        try:
            async with asyncio.timeout(timeout_s):
                return await waiting.answer
        except TimeoutError:
            raise DeadlineExceeded(f"{model.name}: the deadline passed before the answer") from None

    async def live(self, timeout_s: float) -> bool:
        """As ports.InferenceServer."""
        return not self.stopped

    async def models(self, timeout_s: float) -> Sequence[ServerModel]:
        """As ports.InferenceServer."""
        self._reachable()
        return [ServerModel(m.name, m.version, not m.down, m.down) for m in self._models.values()]

    async def metadata(self, model_name: str, timeout_s: float) -> Mapping[str, Any]:
        """As ports.InferenceServer."""
        model = self._served(model_name, "")
        return {
            "name": model.name,
            "versions": [model.version],
            "platform": "python",
            "inputs": [_described(t) for t in model.inputs],
            "outputs": [_described(t) for t in model.outputs],
        }

    async def close(self) -> None:
        """End what still runs."""
        for model in self._models.values():
            if model._runner is not None:
                model._runner.cancel()

    def _reachable(self) -> None:
        if self.stopped:
            raise Unavailable("the inference server cannot be reached")

    def _served(self, name: str, version: str) -> FakeModel:
        self._reachable()
        model = self._models.get(name)
        if model is None:
            raise NotFound(f"unknown model {name[:60]!r}")
        if version not in ("", model.version):
            raise NotFound(f"{name}: unknown version")
        return model


def _described(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [-1, *tensor.shape]}


def _check(model: FakeModel, request: ServerRequest) -> None:
    known = {tensor.name: tensor for tensor in model.inputs}
    given = {tensor.name: tensor.array for tensor in request.tensors}
    if unknown := given.keys() - known.keys():
        raise BodyInvalid(f"unexpected inference input {sorted(unknown)[0]!r} for model {model.name!r}")
    if not model.optional and (missing := known.keys() - given.keys()):
        raise BodyInvalid(f"expected the inputs {sorted(known)}, missing {sorted(missing)}")
    for name, array in given.items():
        want = (-1, *known[name].shape)
        fits = len(want) == array.ndim and all(w in (-1, g) for w, g in zip(want, array.shape, strict=True))
        if not fits or datatype_of(array) != known[name].datatype:
            raise BodyInvalid(f"input {name}: expected {known[name].datatype} {list(want)}, got {list(array.shape)}")
    outputs = {tensor.name for tensor in model.outputs}
    if unknown := set(request.outputs) - outputs:
        raise BodyInvalid(f"unexpected inference output {sorted(unknown)[0]!r} for model {model.name!r}")


async def _drain(model: FakeModel) -> None:
    loop = asyncio.get_running_loop()
    while model._queue:
        batch = [model._queue.popleft() for _ in range(min(model.max_batch, len(model._queue)))]
        late = [w for w in batch if loop.time() >= w.deadline]
        for waiting in late:
            _settle(waiting, DeadlineExceeded(f"{model.name}: the deadline passed before the answer"))
        batch = [w for w in batch if w not in late]
        if batch:
            model.batches.append(len(batch))
            await asyncio.sleep(model.seconds)
        for waiting in batch:
            _settle(waiting, _answer(model, waiting.request))


def _answer(model: FakeModel, request: ServerRequest) -> ServerReply | ServingError:
    try:
        arrays = model.compute(request)
    except ServingError as error:
        return error
    wanted = request.outputs or tuple(arrays)
    return ServerReply(model.name, model.version, {name: np.asarray(arrays[name]) for name in wanted})


def _settle(waiting: _Waiting, answer: ServerReply | ServingError) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, ServingError):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)
