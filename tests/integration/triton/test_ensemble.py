"""The GPU ensemble's topology on a CPU: the engine step is a Python model, everything else is as on a GPU."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_support import colours_model, image_input, picture, png, redness_model, settings_for

from converters.config_ensemble import write_ensemble
from serving.adapters.triton import TritonServer
from serving.backend import open_served_model
from serving.bundle import ModelBundle
from serving.errors import ImageInvalid, ParameterInvalid
from serving.ports import ServerReply, ServerRequest, ServerTensor
from serving.triton.control import Control
from serving.triton.home import Ports, TritonHome, command, environment
from serving.triton.logs import log
from serving.triton.process import TritonProcess
from serving.triton.runtime import Runtime
from serving.types import Detections, InferRequest, InferResponse, PixelArray

pytestmark = pytest.mark.needs("triton")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    for build in (colours_model, redness_model):
        version = build(folder / "repository")
        write_ensemble(ModelBundle.load(version), folder / "gpu", engine="python", target="cpu")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    settings = settings_for(folder)
    home, ports = TritonHome(settings.triton_home), Ports.free()
    runtime = Runtime.create(folder / "run", home)
    control = Control(ports.http, "k" * 32)
    line = command(home, runtime.backends, folder / "gpu", ports, control.key, runtime.shm_prefix)
    process = TritonProcess(line, environment(home, settings), log)
    try:
        deadline = time.monotonic() + 30
        while not control.live() and process.exit_code is None and time.monotonic() < deadline:
            time.sleep(0.05)
        for name in ("colours", "redness"):
            control.load(name)
        yield f"grpc://127.0.0.1:{ports.grpc}"
    finally:
        process.end()
        runtime.remove()


def request_for(model: str, data: bytes, **parameters: Any) -> ServerRequest:
    return ServerRequest(model, [ServerTensor("image", image_input(data))], parameters)


def answers(url: str, requests: list[ServerRequest]) -> list[Any]:
    async def run() -> list[Any]:
        server = TritonServer(url)
        try:
            return await asyncio.gather(*(server.infer(r, 20) for r in requests), return_exceptions=True)
        finally:
            await server.close()

    return asyncio.run(run())


def in_process(folder: Path, model: str, pixels: PixelArray, **parameters: Any) -> InferResponse:
    served = open_served_model(folder / "repository" / model / "1", settings_for(folder))
    (answer,) = served.infer([InferRequest(encoded=png(pixels), parameters=parameters)])
    assert isinstance(answer, InferResponse)
    return answer


def test_the_ensemble_answers_as_the_single_model(url: str, folder: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    reply = answers(url, [request_for("colours", png(pixels), top_k=2)])[0]
    assert isinstance(reply, ServerReply)
    expected = in_process(folder, "colours", pixels, top_k=2).result
    np.testing.assert_array_equal(reply.tensors["class_id"][0], expected.class_id)  # type: ignore[union-attr]
    np.testing.assert_allclose(reply.tensors["score"][0], expected.score, rtol=1e-5)  # type: ignore[union-attr]
    document = json.loads(reply.tensors["result"].tobytes())
    assert len(document["classes"]) == 2 and len(document["certificate_id"]) == 12
    assert set(document["timings_ms"]) == {"decode", "preprocess", "infer", "postprocess"}


def test_what_the_first_step_learnt_reaches_the_last(url: str, folder: Path) -> None:
    """roi and transform cross as `meta`: boxes come back in source pixels."""
    pixels = picture(0, 0, 0, 80, 40)
    pixels[10:30, 20:60, 0] = 255
    parameters = {"roi": "20,10,60,30", "score_threshold": "0.5"}
    reply = answers(url, [request_for("redness", png(pixels), **parameters)])[0]
    expected = in_process(folder, "redness", pixels, **parameters).result
    assert isinstance(expected, Detections) and len(expected) == 1
    np.testing.assert_allclose(reply.tensors["xyxy"][0], expected.xyxy, atol=1e-3)
    np.testing.assert_allclose(reply.tensors["xyxy"][0], [[20, 10, 40, 30]], atol=1e-3)


def test_no_detection_is_an_answer_through_the_ensemble_too(url: str) -> None:
    reply = answers(url, [request_for("redness", png(picture(0, 255, 0)))])[0]
    assert reply.tensors["xyxy"].shape == (1, 0, 4)
    assert json.loads(reply.tensors["result"].tobytes())["detections"] == []


def test_errors_of_a_step_have_their_class_and_stay_with_their_request(url: str) -> None:
    good = [request_for("colours", png(picture(0, 0, 255))) for _ in range(6)]
    bad = [
        request_for("colours", b"\xff\xd8\xff\xe0 no picture"),
        request_for("colours", png(picture(1, 2, 3)), top_k=0),
    ]
    *fine, broken, wrong = answers(url, [*good, *bad])
    assert all(r.tensors["class_id"][0, 0] == 2 for r in fine)
    assert type(broken) is ImageInvalid and type(wrong) is ParameterInvalid


def test_concurrent_requests_get_their_own_answers_through_all_steps(url: str) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    requests = [
        request_for("colours", png(picture(*colours[i % 3], width=10 + i, height=9 + i)), top_k=1) for i in range(48)
    ]
    for i, reply in enumerate(answers(url, requests)):
        assert reply.tensors["class_id"].tolist() == [[i % 3]]
        image = json.loads(reply.tensors["result"].tobytes())["image"]
        assert image == {"width": 10 + i, "height": 9 + i}
