"""An unmodified tritonclient.http lists, reads and infers through a real gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from serving.testing.stub_server import PICTURE


@pytest.fixture
def client(shared: Callable[..., Any]) -> Any:
    """A client of the default set-up."""
    gateway = shared(workers=1)
    with triton.InferenceServerClient(f"{gateway.host}:{gateway.port}", connection_timeout=20, network_timeout=20) as c:
        yield c


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("digits") and client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nope") and not client.is_model_ready("digits", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("digits")
    assert [t["name"] for t in metadata["inputs"]] == ["image", "frame"]
    assert client.get_model_config("digits")["max_batch_size"] == 8


@pytest.mark.parametrize("binary", [True, False])
def test_infer_with_tensors(client: Any, binary: bool) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    tensor = triton.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary)
    for outputs in (None, [triton.InferRequestedOutput("y", binary_data=binary)]):
        answer = client.infer("adder", [tensor], outputs=outputs, request_id="r1", model_version="1")
        assert answer.as_numpy("y").tolist() == (x + 1).tolist()
        assert answer.get_response()["id"] == "r1"


def test_infer_with_a_picture_and_parameters(client: Any) -> None:
    picture = np.frombuffer(PICTURE, np.uint8)[None]
    tensor = triton.InferInput("image", list(picture.shape), "UINT8")
    tensor.set_data_from_numpy(picture)
    answer = client.infer("persons", [tensor], parameters={"score_threshold": 0.5, "max_detections": 3})
    assert answer.as_numpy("xyxy").tolist() == [[[1, 2, 30, 40]]]
    assert answer.as_numpy("result").tobytes().startswith(b'{"schema":1,"model":"persons"')


def test_errors_reach_the_caller_as_text(client: Any) -> None:
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    with pytest.raises(InferenceServerException, match="not_found: unknown model 'nope'"):
        client.infer("nope", [tensor])
    with pytest.raises(InferenceServerException, match="media_type_unsupported: Content-Encoding"):
        client.infer("adder", [tensor], request_compression_algorithm="gzip")
    with pytest.raises(InferenceServerException, match="parameter_invalid"):
        client.infer("adder", [tensor], sequence_id=3, sequence_start=True)


def test_asking_for_a_compressed_answer_gets_a_plain_one(client: Any) -> None:
    tensor = triton.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))
    answer = client.infer("adder", [tensor], response_compression_algorithm="gzip")
    assert answer.as_numpy("y").tolist() == [[1, 1, 1, 1]]


def test_control_is_closed(client: Any) -> None:
    calls: list[Callable[[], Any]] = [
        client.get_model_repository_index,
        lambda: client.load_model("digits"),
        lambda: client.unload_model("digits"),
        client.get_system_shared_memory_status,
        lambda: client.register_system_shared_memory("a", "/a", 10),
        client.unregister_cuda_shared_memory,
        client.get_trace_settings,
        client.get_log_settings,
        client.get_inference_statistics,
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match="not_found"):
            call()
