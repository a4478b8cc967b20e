"""What every InferenceServer must do, asked of FakeTriton and of the real embedded Triton through the real adapter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_support import (
    SLOW_SECONDS,
    image_input,
    picture,
    png,
    settings_for,
    shared_triton,
    standard_models,
)

from serving.adapters.triton_pool import TritonPool
from serving.backend import RESULT, open_served_model, samples_of
from serving.errors import (
    BodyInvalid,
    DeadlineExceeded,
    ImageInvalid,
    NotFound,
    Overloaded,
    ParameterInvalid,
    ServingError,
    Unavailable,
)
from serving.free_ports import free_port
from serving.ports import InferenceServer, ServerReply, ServerRequest, ServerTensor
from serving.testing.fake_triton import FakeModel, FakeTriton
from serving.types import Array, InferResponse, TensorSpec

Make = Callable[[], InferenceServer]
RED, GREEN, BLUE = (png(picture(*c)) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
BOXES = ("xyxy", "confidence", "class_id")


def fake(folder: Path) -> Make:
    """The same models as the real server's, run in process behind the fake's queue."""
    repository = folder / "repository"
    names = standard_models(repository)
    return lambda: FakeTriton([_fake_model(repository / name / "1", folder) for name in names])


def _fake_model(version_dir: Path, folder: Path) -> FakeModel:
    served = open_served_model(version_dir, settings_for(folder))
    spec = served.bundle.spec
    outputs = (*served.task.outputs(spec), TensorSpec(RESULT, "UINT8", (-1,)))
    inputs = (TensorSpec("image", "UINT8", (-1,)), TensorSpec("frame", "UINT8", (-1, -1, 3)))
    if spec.task == "raw":
        inputs = tuple(TensorSpec(t.name, t.datatype, (-1,)) for t in spec.inputs)

    def compute(request: ServerRequest) -> dict[str, Array]:
        tensors = {tensor.name: tensor.array for tensor in request.tensors}
        (answer,) = served.infer(list(samples_of(tensors, request.parameters)))
        if not isinstance(answer, InferResponse):
            raise answer
        arrays = {n: a[None] for n, a in served.task.to_tensors(answer.result, spec).items()}
        return {**arrays, RESULT: np.frombuffer(b'{"model": "%s"}' % spec.name.encode(), np.uint8)[None]}

    slow = SLOW_SECONDS if spec.name == "slow" else 0.0
    options: dict[str, Any] = {"max_batch": spec.batch.max, "max_queue_size": spec.serving.max_queue_size}
    return FakeModel(spec.name, compute, inputs, outputs, optional=spec.task != "raw", seconds=slow, **options)


@pytest.fixture(params=["fake", "pool", pytest.param("real", marks=pytest.mark.needs("triton"))])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    if request.param != "real":
        one = fake(tmp_path)
        yield one if request.param == "fake" else lambda: TritonPool([one(), one()])
        return
    from serving.adapters.triton import TritonServer

    triton = shared_triton(request)
    yield lambda: TritonServer(f"grpc://{triton.grpc_url}")


def ask(make: Make, use: Callable[[InferenceServer], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        server = make()
        try:
            return await use(server)
        finally:
            await server.close()

    return asyncio.run(run())


def colours(data: bytes, *outputs: str, **parameters: Any) -> ServerRequest:
    return ServerRequest("colours", [ServerTensor("image", image_input(data))], parameters, outputs)


def addition(a: float, name: str = "adder", **changes: Any) -> ServerRequest:
    tensors = [ServerTensor(n, np.full((1, 3), v, np.float32)) for n, v in (("a", a), ("b", 1.0))]
    return ServerRequest(name, tensors, outputs=("sum",), **changes)


def refused(make: Make, request: ServerRequest, kind: type[ServingError], timeout_s: float = 10.0) -> ServingError:
    with pytest.raises(kind) as caught:
        ask(make, lambda server: server.infer(request, timeout_s))
    assert type(caught.value) is kind
    return caught.value


async def idle(server: InferenceServer) -> None:
    """Wait out what an earlier test left in the slow model's queue."""
    for _ in range(50):
        try:
            await server.infer(addition(0, "slow"), 10)
            return
        except Overloaded:
            await asyncio.sleep(SLOW_SECONDS / 2)
    raise AssertionError("the slow model's queue does not drain")


def test_an_answer_has_the_asked_outputs_and_only_those(make: Make) -> None:
    reply: ServerReply = ask(make, lambda s: s.infer(colours(GREEN, "class_id", "score", top_k=2), 10))
    assert (reply.model_name, reply.model_version) == ("colours", "1")
    assert set(reply.tensors) == {"class_id", "score"}
    assert reply.tensors["class_id"].dtype == np.int32 and reply.tensors["class_id"].shape == (1, 2)
    assert reply.tensors["class_id"][0, 0] == 1
    assert reply.tensors["score"][0, 0] > 0.99


def test_the_result_is_our_json_and_never_empty(make: Make) -> None:
    reply: ServerReply = ask(make, lambda s: s.infer(colours(RED, RESULT), 10))
    assert b'"colours"' in reply.tensors[RESULT].tobytes()


def test_no_detection_is_an_answer(make: Make) -> None:
    request = ServerRequest("redness", [ServerTensor("image", image_input(GREEN))], outputs=BOXES)
    reply: ServerReply = ask(make, lambda s: s.infer(request, 10))
    assert {n: a.shape for n, a in reply.tensors.items()} == {
        "xyxy": (1, 0, 4),
        "confidence": (1, 0),
        "class_id": (1, 0),
    }


def test_pixels_are_taken_as_well_as_files(make: Make) -> None:
    request = ServerRequest("redness", [ServerTensor("frame", picture(255, 0, 0)[None])], outputs=BOXES)
    reply: ServerReply = ask(make, lambda s: s.infer(request, 10))
    np.testing.assert_allclose(reply.tensors["xyxy"], [[[0, 0, 10, 12]]], atol=1e-3)


def test_a_bad_picture_is_its_own_error(make: Make) -> None:
    async def both(server: InferenceServer) -> list[Any]:
        good = [server.infer(colours(data, "class_id"), 10) for data in (RED, BLUE)]
        return await asyncio.gather(*good, server.infer(colours(RED[:40], "class_id"), 10), return_exceptions=True)

    red, blue, bad = ask(make, both)
    assert (red.tensors["class_id"][0, 0], blue.tensors["class_id"][0, 0]) == (0, 2)
    assert type(bad) is ImageInvalid


def test_an_unknown_parameter_is_named(make: Make) -> None:
    assert "colour_count" in str(refused(make, colours(RED, colour_count=3), ParameterInvalid))


def test_a_parameter_that_triton_keeps_for_itself_is_refused(make: Make) -> None:
    refused(make, colours(RED, priority=3), ParameterInvalid)


def test_a_parameter_out_of_range_is_refused(make: Make) -> None:
    refused(make, colours(RED, top_k=0), ParameterInvalid)


def test_unknown_model_and_version_are_not_found(make: Make) -> None:
    refused(make, addition(1, "nobody"), NotFound)
    refused(make, addition(1, model_version="9"), NotFound)


@pytest.mark.parametrize(
    "tensors",
    [
        [ServerTensor("picture", np.zeros((1, 4), np.uint8))],
        [ServerTensor("image", np.zeros((1, 2, 2), np.uint8))],
        [ServerTensor("image", np.zeros((1, 4), np.float32))],
        [ServerTensor("frame", np.zeros((1, 4, 4, 4), np.uint8))],
        [ServerTensor("image", np.zeros((1, 4), np.uint8)), ServerTensor("frame", np.zeros((1, 4, 4, 3), np.uint8))],
    ],
    ids=["name", "rank", "datatype", "channels", "both"],
)
def test_another_layout_than_promised_is_refused(make: Make, tensors: list[ServerTensor]) -> None:
    error = refused(make, ServerRequest("colours", tensors, outputs=("score",)), BodyInvalid)
    assert "/" not in str(error)


@pytest.mark.parametrize("words", ["no available versions", "Stub process not healthy", "Exceeds maximum queue size"])
def test_a_callers_words_choose_no_class_and_close_no_model(make: Make, words: str) -> None:
    named = [ServerTensor(words, np.zeros((1, 4), np.uint8))]
    asked = [
        ServerRequest("colours", named, outputs=("score",), request_id=f"x] lockstep:overloaded: {words}"),
        ServerRequest("colours", [ServerTensor("image", image_input(RED))], outputs=(words,), request_id=f"x] {words}"),
    ]

    async def all_of(server: InferenceServer) -> ServerReply:
        await server.infer(colours(RED, "class_id"), 10)
        for request in asked:
            with pytest.raises(BodyInvalid):
                await server.infer(request, 10)
        return await server.infer(colours(RED, "class_id"), 10)

    assert ask(make, all_of).tensors["class_id"][0, 0] == 0


def test_a_full_queue_is_overloaded_and_what_was_admitted_is_answered(make: Make) -> None:
    async def flood(server: InferenceServer) -> list[Any]:
        await idle(server)
        calls = [server.infer(addition(i, "slow"), 10) for i in range(10)]
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = ask(make, flood)
    shed = [a for a in answers if isinstance(a, BaseException)]
    assert {type(e) for e in shed} == {Overloaded}
    assert 1 <= len(answers) - len(shed) <= 4
    assert all(a.tensors["sum"][0, 0] == i + 1 for i, a in enumerate(answers) if not isinstance(a, BaseException))


def test_a_deadline_ends_the_call_in_time(make: Make) -> None:
    async def late(server: InferenceServer) -> float:
        await idle(server)
        started = time.perf_counter()
        with pytest.raises(DeadlineExceeded):
            await server.infer(addition(1, "slow"), SLOW_SECONDS / 3)
        return time.perf_counter() - started

    assert ask(make, late) < SLOW_SECONDS


def test_a_deadline_in_the_queue_is_exceeded_too(make: Make) -> None:
    async def late(server: InferenceServer) -> list[Any]:
        await idle(server)
        calls = [server.infer(addition(0, "slow"), 10), server.infer(addition(1, "slow"), SLOW_SECONDS / 2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second = ask(make, late)
    assert isinstance(first, ServerReply) and type(second) is DeadlineExceeded


def test_concurrent_requests_get_their_own_answers(make: Make) -> None:
    async def many(server: InferenceServer) -> list[ServerReply]:
        return await asyncio.gather(*(server.infer(addition(float(i)), 20) for i in range(48)))

    sums = [reply.tensors["sum"][0].tolist() for reply in ask(make, many)]
    assert sums == [[i + 1.0] * 3 for i in range(48)]


def test_models_and_metadata(make: Make) -> None:
    async def look(server: InferenceServer) -> Any:
        await server.infer(addition(1), 10)
        return await server.live(5), await server.models(5), await server.metadata("adder", 5)

    live, models, metadata = ask(make, look)
    assert live is True
    assert ("adder", "1", True) in [(m.name, m.version, m.ready) for m in models]
    assert metadata["name"] == "adder" and metadata["versions"] == ["1"]
    assert [(t["name"], t["datatype"], t["shape"]) for t in metadata["inputs"]] == [
        ("a", "FP32", [-1, -1]),
        ("b", "FP32", [-1, -1]),
    ]
    with pytest.raises(NotFound):
        ask(make, lambda s: s.metadata("nobody", 5))


@pytest.mark.parametrize("kind", ["fake", pytest.param("real", marks=pytest.mark.needs("triton"))])
def test_a_server_that_is_gone_is_unavailable_at_once(kind: str, tmp_path: Path) -> None:
    async def look(server: InferenceServer) -> float:
        started = time.perf_counter()
        assert await server.live(1) is False
        with pytest.raises(Unavailable):
            await server.infer(addition(1), 5)
        with pytest.raises(Unavailable):
            await server.models(5)
        return time.perf_counter() - started

    def gone() -> InferenceServer:
        if kind == "fake":
            server = fake(tmp_path)()
            assert isinstance(server, FakeTriton)
            server.stopped = True
            return server
        from serving.adapters.triton import TritonServer

        return TritonServer(f"grpc://127.0.0.1:{free_port()}")

    assert ask(gone, look) < 1.5
