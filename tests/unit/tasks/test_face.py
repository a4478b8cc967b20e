"""Task face: landmarks go where their box goes, through documents, crops and the certificate's gate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.tasks import task_named
from serving.tasks.base import moved
from serving.tasks.face import TASK, Faces
from serving.types import Detections, ImageSize, ImageTransform

SPEC = ModelSpec.model_validate(
    {
        "name": "faces", "task": "face", "checkpoint": {"format": "onnx"}, "labels": ["face"],
        "preprocess": {"width": 100, "height": 100}, "outputs": ["boxes", "scores", "landmarks"],
        "options": {"box_frame": "unit"},
    }
)  # fmt: skip
MARKS = np.array([[0.3, 0.3], [0.5, 0.3], [0.4, 0.4], [0.32, 0.5], [0.48, 0.5]], np.float32)
RAW = {
    "boxes": np.array([[0.2, 0.2, 0.6, 0.6], [0.21, 0.2, 0.6, 0.6], [0.7, 0.7, 0.9, 0.9]], np.float32),
    "scores": np.array([[0.9], [0.8], [0.4]], np.float32),
    "landmarks": np.stack([MARKS, MARKS, MARKS + 0.4]).reshape(3, 10),
}
TWICE = ImageTransform(ImageSize(200, 200), ImageSize(100, 100), (0.5, 0.5))


def found(**parameters: float) -> Faces:
    return TASK.postprocess(RAW, TWICE, SPEC, parameters)


def test_landmarks_follow_their_box_through_suppression_into_source_pixels() -> None:
    faces = found(score_threshold=0.3)
    assert len(faces) == 2 and faces.landmarks is not None
    assert np.allclose(faces.landmarks[0], MARKS * 200) and np.allclose(faces.landmarks[1], (MARKS + 0.4) * 200)
    assert len(found(score_threshold=0.5)) == 1
    none = found(score_threshold=0.95)
    assert len(none) == 0 and none.landmarks is not None and none.landmarks.shape == (0, 5, 2)


def test_the_document_tells_all_of_it() -> None:
    faces = found(score_threshold=0.3)
    again = TASK.from_document(TASK.to_document(faces, ["face"]))
    assert np.allclose(again.xyxy, faces.xyxy) and np.allclose(again.landmarks, faces.landmarks, atol=0.01)


def test_a_crop_moves_both() -> None:
    faces = found(score_threshold=0.3)
    other = moved(task_named("face"), faces, 2.0, (10, 20))
    assert isinstance(other, Faces) and other.landmarks is not None and faces.landmarks is not None
    assert np.allclose(other.landmarks, faces.landmarks * 2 + [10, 20])
    assert np.allclose(other.xyxy, faces.xyxy * 2 + [10, 20, 10, 20])
    plain = Detections(faces.xyxy, faces.confidence, faces.class_id)  # as the log gives it back
    assert np.allclose(moved(task_named("face"), plain, 2.0).xyxy, faces.xyxy * 2)  # type: ignore[attr-defined]


def test_landmarks_that_moved_are_a_disagreement() -> None:
    faces = found(score_threshold=0.3)
    assert faces.landmarks is not None
    gate = TASK.default_gates["engine"]
    assert TASK.agree(faces, faces, gate, SPEC).ok
    near = replace(faces, landmarks=faces.landmarks + 1)
    far = replace(faces, landmarks=faces.landmarks + 8)
    assert TASK.agree(faces, near, gate, SPEC).ok
    verdict = TASK.agree(faces, far, gate, SPEC)
    assert not verdict.ok and "landmarks" in verdict.why and verdict.figures["landmarks"] > 0.05


def test_a_spec_that_names_other_outputs_is_refused() -> None:
    for change in ({"outputs": ("boxes", "scores")}, {"options": {"nms": "none"}}):
        with pytest.raises(SpecInvalid, match="task face"):
            TASK.check(SPEC.model_copy(update=change))


def test_outputs_of_another_shape_are_named() -> None:
    with pytest.raises(SpecInvalid, match=r"landmarks \[9\]"):
        TASK.postprocess({**RAW, "landmarks": np.zeros(9, np.float32)}, TWICE, SPEC, {})


@pytest.mark.parametrize(("activation", "background"), [("sigmoid", False), ("softmax", True)])
def test_logits_become_scores_before_the_background_goes(activation: str, background: bool) -> None:
    scores = RAW["scores"]
    logits = np.log(np.concatenate([1 - scores, scores], 1)) if background else np.log(scores / (1 - scores))
    options = {**SPEC.options, "activation": activation, "background_class": background}
    spec = SPEC.model_copy(update={"options": options})
    faces = TASK.postprocess({**RAW, "scores": logits.astype(np.float32)}, TWICE, spec, {"score_threshold": 0.3})
    plain = found(score_threshold=0.3)
    assert np.allclose(faces.confidence, plain.confidence, atol=1e-6) and np.array_equal(faces.xyxy, plain.xyxy)
