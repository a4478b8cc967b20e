"""The one flow from bytes to result: errors are a request's own, batches keep their order, boxes come home."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving import served_model
from serving.bundle import UNCERTIFIED, ModelBundle
from serving.errors import EngineFailed, ImageInvalid, ParameterInvalid, ServingError
from serving.served_model import ServedModel
from serving.spec import ModelSpec
from serving.testing.fake_engine import FunctionEngine
from serving.types import Array, Classification, Detections, ImageSize, InferRequest, InferResponse, TensorSpec

INPUT = TensorSpec("input", "FP32", (3, 8, 8))


def served(task: str, function: Any, outputs: tuple[str, ...], **options: Any) -> tuple[ServedModel, FunctionEngine]:
    spec = ModelSpec.model_validate(
        {
            "name": "m", "task": task, "checkpoint": {"format": "onnx", "path": "m.onnx"}, "outputs": outputs,
            "preprocess": {"width": 8, "height": 8, "range": "byte"}, "options": options,
        }
    )  # fmt: skip
    engine = FunctionEngine(function, (INPUT,), tuple(TensorSpec(n, "FP32", (-1,)) for n in outputs))
    bundle = ModelBundle(
        spec,
        ("dark", "bright"),
        3,
        Path(),
        "abc123abc123",
        "openvino",
        "f32",
        1,
        engine.info.inputs,
        engine.info.outputs,
    )
    return ServedModel(bundle, engine), engine


def brightness(inputs: Mapping[str, Array]) -> dict[str, Array]:
    mean = inputs["input"].mean(axis=(1, 2, 3)) / 255
    return {"logits": np.stack([1 - mean, mean], 1).astype(np.float32) * 9}


def png(value: int, size: tuple[int, int] = (16, 12)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_bad_request_in_a_batch_hurts_nobody_else() -> None:
    model, engine = served("classification", brightness, ("logits",))
    requests = [
        InferRequest(encoded=png(255)),
        InferRequest(encoded=b"not a picture"),
        InferRequest(encoded=png(0)),
        InferRequest(encoded=png(0), parameters={"top_k": 0}),
        InferRequest(frame=np.full((4, 4, 3), 255, np.uint8)),
    ]
    answers = model.infer(requests)
    assert engine.batches == [3], "the good ones ran as one batch"
    assert isinstance(answers[1], ImageInvalid) and isinstance(answers[3], ParameterInvalid)
    best = [
        a.result.class_id[0] for a in answers if isinstance(a, InferResponse) and isinstance(a.result, Classification)
    ]
    assert best == [1, 0, 1]


def test_the_document_has_the_published_fields() -> None:
    model, _ = served("classification", brightness, ("logits",))
    answer = model.infer([InferRequest(encoded=png(255), parameters={"top_k": 1})])[0]
    assert isinstance(answer, InferResponse)
    document = model.document(answer)
    assert document["image"] == {"width": 16, "height": 12}
    assert document["classes"][0]["label"] == "bright" and len(document["classes"]) == 1
    assert (document["model"], document["model_version"], document["certificate_id"]) == ("m", "3", "abc123abc123")
    assert set(document["timings_ms"]) == {"decode", "preprocess", "infer", "postprocess"}
    assert answer.pixels_sha256 == "", "hashed in staging only"
    model.bundle = dataclasses.replace(model.bundle, certificate_id=UNCERTIFIED)
    staged = model.infer([InferRequest(encoded=png(255))])[0]
    assert isinstance(staged, InferResponse) and len(staged.pixels_sha256) == 64


@pytest.mark.parametrize("fast", [False, True])
def test_fast_preprocessing_runs_only_where_the_spec_says_so(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    for name in ("decode_checked", "reduced_of", "prepare", "prepare_fast"):
        real = getattr(served_model, name)
        monkeypatch.setattr(served_model, name, lambda *a, _n=name, _r=real: (used.append(_n), _r(*a))[1])
    model, _ = served("detection", full_box, ("boxes", "scores"))
    rule = model.bundle.spec.preprocess.model_copy(update={"fast": fast})
    model.bundle = dataclasses.replace(model.bundle, spec=model.bundle.spec.model_copy(update={"preprocess": rule}))
    buffer = io.BytesIO()
    Image.effect_noise((1600, 1200), 40).convert("RGB").save(buffer, "JPEG")
    for parameters in ({}, {"roi": "0,0,800,600"}):
        answer = model.infer([InferRequest(encoded=buffer.getvalue(), parameters=parameters)])[0]
        assert isinstance(answer, InferResponse) and answer.image == ImageSize(1600, 1200)
        assert isinstance(answer.result, Detections)
        assert answer.result.xyxy.tolist() == [[0, 0, 800, 600] if parameters else [0, 0, 1600, 1200]]
    assert used == (["reduced_of", "decode_checked", "prepare_fast"] if fast else ["decode_checked", "prepare"] * 2)


def full_box(inputs: Mapping[str, Array]) -> dict[str, Array]:
    n = len(inputs["input"])
    return {"boxes": np.tile([[[0, 0, 8, 8]]], (n, 1, 1)).astype(np.float32), "scores": np.ones((n, 1, 1), np.float32)}


def test_a_roi_is_analysed_alone_and_its_boxes_come_home() -> None:
    model, _ = served("detection", full_box, ("boxes", "scores"))
    answer = model.infer([InferRequest(encoded=png(9), parameters={"roi": "4,2,12,10"})])[0]
    assert isinstance(answer, InferResponse) and isinstance(answer.result, Detections)
    assert answer.result.xyxy.tolist() == [[4, 2, 12, 10]]


@pytest.mark.parametrize("roi", ["1,2,3", "0,0,99,4", "5,5,5,9", "a,b,c,d", "-1,0,4,4"])
def test_a_roi_outside_the_picture_is_refused(roi: str) -> None:
    model, _ = served("detection", full_box, ("boxes", "scores"))
    answer = model.infer([InferRequest(encoded=png(9), parameters={"roi": roi})])[0]
    assert isinstance(answer, ParameterInvalid) and "roi" in str(answer)


def test_an_engine_that_loses_a_row_is_an_error_not_a_wrong_answer() -> None:
    model, _ = served("classification", lambda inputs: {"logits": brightness(inputs)["logits"][:-1]}, ("logits",))
    answers = model.infer([InferRequest(encoded=png(1)), InferRequest(encoded=png(255))])
    assert all(isinstance(a, EngineFailed) for a in answers)
    assert "2 rows in, 1 out" in str(answers[0])


def test_an_engine_error_reaches_every_request_of_its_batch() -> None:
    def broken(inputs: Mapping[str, Array]) -> dict[str, Array]:
        raise EngineFailed("out of memory")

    model, _ = served("classification", broken, ("logits",))
    answers = model.infer([InferRequest(encoded=png(1))] * 2)
    assert [isinstance(a, ServingError) for a in answers] == [True, True]
