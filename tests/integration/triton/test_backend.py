"""The served flow inside a real Triton: DLPack both ways, batches, errors that stay with their request."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import numpy as np
import pytest
from triton_support import COLOURS, image_input, picture, png, shared_triton

from serving.adapters.triton import infer_once
from serving.errors import EngineFailed
from serving.ports import ServerRequest, ServerTensor
from serving.stage_costs import STAGES
from serving.triton.control import Control
from serving.types import Array

pytestmark = pytest.mark.needs("triton")


@pytest.fixture
def control(request: pytest.FixtureRequest) -> Control:
    return shared_triton(request).watch("colours").control


def colours(control: Control, inputs: dict[str, Array], *outputs: str, **parameters: object) -> dict[str, Array]:
    return control.infer("colours", inputs, parameters, outputs or ("class_id", "score", "result"), 10)


@pytest.mark.parametrize("index", range(3))
def test_content_arrives_whole_in_both_directions(control: Control, index: int) -> None:
    """NumPy 2 under a stub built for NumPy 1: the shape alone proves nothing."""
    rgb = [0, 0, 0]
    rgb[index] = 255
    answer = colours(control, {"image": image_input(png(picture(rgb[0], rgb[1], rgb[2])))})
    document = json.loads(answer["result"].tobytes())
    assert answer["class_id"][0].tolist()[0] == index
    assert document["classes"][0]["label"] == COLOURS[index]
    assert document["classes"][0]["score"] == pytest.approx(float(answer["score"][0, 0]), abs=1e-5)
    assert document["image"] == {"width": 20, "height": 12}
    assert len(document["certificate_id"]) == 12


def test_no_answer_is_ever_empty(control: Control) -> None:
    def one(i: int) -> int:
        data = png(picture(i % 256, 255 - i % 256, 7, width=5 + i % 90, height=4 + i % 70))
        answer = colours(control, {"image": image_input(data)}, "result")
        document = json.loads(answer["result"].tobytes())
        assert document["image"] == {"width": 5 + i % 90, "height": 4 + i % 70}
        return len(document["classes"])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(200))) == {3}


def test_a_frame_and_the_same_pixels_as_a_file_agree(control: Control) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (33, 47, 3), np.uint8)
    by_file = colours(control, {"image": image_input(png(pixels))}, "score")
    by_frame = colours(control, {"frame": pixels[None]}, "score")
    np.testing.assert_array_equal(by_file["score"], by_frame["score"])


def test_errors_stay_with_their_request_in_a_batch(control: Control) -> None:
    good, bad = png(picture(0, 255, 0)), b"text as a picture"

    def one(i: int) -> str:
        try:
            answer = colours(control, {"image": image_input(bad if i % 3 == 0 else good)}, "class_id")
            return str(answer["class_id"][0, 0])
        except EngineFailed as error:
            return str(error)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, range(48)))
    assert {a for i, a in enumerate(answers) if i % 3} == {"1"}
    assert all(a.startswith("lockstep:image_") for a in answers[::3])


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"image": np.zeros((1, 0), np.uint8)}, "image_invalid"),
        ({"image": image_input(b"GIF89a" + bytes(40))}, "image_unsupported"),
        ({"image": image_input(png(picture(1, 2, 3))), "frame": picture(1, 2, 3)[None]}, "body_invalid"),
    ],
    ids=["zero bytes", "gif", "both"],
)
def test_bad_input_has_its_code(control: Control, inputs: dict[str, Array], code: str) -> None:
    with pytest.raises(EngineFailed, match=f"^lockstep:{code}: ") as caught:
        colours(control, inputs)
    assert "/" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_several_pictures_in_one_request_when_their_answers_have_one_shape(control: Control) -> None:
    frames = np.stack([picture(255, 0, 0), picture(0, 0, 255)])
    answer = colours(control, {"frame": frames}, "class_id", "result", top_k=1)
    assert answer["class_id"].tolist() == [[0], [2]]
    assert [json.loads(row.tobytes())["classes"][0]["label"] for row in answer["result"]] == ["red", "blue"]


def test_raw_tensors_of_several_samples(control: Control) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    answer = control.infer("adder", {"a": a, "b": np.ones_like(a)}, {}, ("sum",), 10)
    np.testing.assert_array_equal(answer["sum"], a + 1)


def test_a_program_without_an_event_loop_asks_once(request: pytest.FixtureRequest) -> None:
    tensors = [ServerTensor("image", image_input(png(picture(255, 0, 0))))]
    asked = ServerRequest("colours", tensors, {"top_k": 1}, ("class_id",))
    reply = infer_once(f"grpc://{shared_triton(request).grpc_url}", asked, 10)
    assert reply.tensors["class_id"].tolist() == [[0]]


def test_every_answer_of_the_python_stub_is_silent(request: pytest.FixtureRequest, control: Control) -> None:
    """A consumed DLPack capsule that NumPy does not recognise prints a traceback with each answer."""
    for _ in range(20):
        colours(control, {"image": image_input(png(picture(9, 9, 9)))})
    supervisor = shared_triton(request)._supervisor
    assert supervisor is not None and supervisor.process is not None
    assert not [line for line in supervisor.process.last_lines if "PyCapsule" in line or "Traceback" in line]


def test_what_the_stages_cost_stands_on_tritons_own_page(request: pytest.FixtureRequest, control: Control) -> None:
    url = shared_triton(request).metrics_url

    def told() -> dict[str, float]:
        lines = httpx.get(url).text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if 'model="colours"' in line}

    before, deadline = told(), time.monotonic() + 30
    names = [f'lockstep_model_stage_cpu_seconds_total{{model="colours",stage="{stage}"}}' for stage in STAGES]
    names.append('lockstep_model_copied_bytes_total{model="colours"}')
    while not all(told().get(name, 0) > before.get(name, 0) for name in names):  # told once a second at most
        assert time.monotonic() < deadline, told()
        colours(control, {"image": image_input(png(picture(9, 9, 9)))})
        time.sleep(0.1)
    copied = 'lockstep_model_copied_bytes_total{model="colours"}'
    samples = 'nv_inference_count{model="colours",version="1"}'
    sample_bytes = 3 * 8 * 8 * 4
    assert told()[copied] % sample_bytes == 0 and told()[copied] <= told()[samples] * sample_bytes
