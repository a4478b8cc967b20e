"""Values check themselves: a wrong shape says what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.types import Detections, ImageSize, ImageTransform, InferRequest, TensorSpec, datatype_of


def test_detections_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Detections.confidence: expected shape \[2\], got \(1,\)"):
        Detections(np.zeros((2, 4), np.float32), np.zeros(1, np.float32), np.zeros(2, np.int64))


def test_no_detection_is_a_normal_answer() -> None:
    assert len(Detections.empty()) == 0


def test_a_request_has_exactly_one_input() -> None:
    with pytest.raises(ValueError, match="exactly one of encoded, frame, tensors, got none"):
        InferRequest()
    with pytest.raises(ValueError, match="got \\['encoded', 'frame'\\]"):
        InferRequest(encoded=b"x", frame=np.zeros((1, 1, 3), np.uint8))


sides, scales, offsets = st.integers(1, 5000), st.floats(0.05, 20), st.floats(0, 99)


@given(sides, sides, scales, scales, offsets, offsets)
def test_a_transform_takes_boxes_back_to_the_source(w: int, h: int, sx: float, sy: float, ox: float, oy: float) -> None:
    transform = ImageTransform(ImageSize(w, h), ImageSize(10, 10), (sx, sy), (ox, oy))
    source = np.array([[0, 0, w, h], [w / 4, h / 4, w / 2, h / 2]], np.float64)
    model = source * [sx, sy, sx, sy] + [ox, oy, ox, oy]
    assert np.allclose(transform.to_source(model.astype(np.float64)), source, atol=1e-3 * max(w, h, 1 / min(sx, sy)))


def test_a_transform_clips_to_the_picture() -> None:
    transform = ImageTransform(ImageSize(10, 20), ImageSize(10, 10), (1, 1))
    assert transform.to_source(np.array([[-5, -5, 50, 50]], np.float32)).tolist() == [[0, 0, 10, 20]]


def test_datatypes_are_the_protocols_words() -> None:
    assert datatype_of(np.zeros(1, np.float32)) == "FP32"
    with pytest.raises(ValueError, match="complex64"):
        datatype_of(np.zeros(1, np.complex64))
    with pytest.raises(ValueError, match="FLOAT"):
        TensorSpec("x", "FLOAT", (1,))
