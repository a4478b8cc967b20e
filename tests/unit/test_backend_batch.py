"""The Triton model's batch: what one request's sample breaks stays with that request."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from serving.backend import Answer, TritonPythonModel
from serving.errors import EngineFailed, ImageInvalid
from serving.types import InferRequest, InferResponse


class Model:
    """Answers frames; one that holds 13 fails the whole batch, by `error`; one of zeros is no picture."""

    def __init__(self, error: Exception) -> None:
        self.bundle = SimpleNamespace(name="m")
        self.error = error
        self.batches: list[int] = []

    def infer(self, samples: Sequence[InferRequest]) -> list[Answer]:
        self.batches.append(len(samples))
        values = [int(np.max(np.asarray(sample.frame))) for sample in samples]
        whole: list[Answer]
        if 13 not in values:
            whole = [_answer(value) for value in values]
        elif isinstance(self.error, EngineFailed):
            whole = [self.error] * len(values)
        else:
            raise self.error
        return [answer if value else ImageInvalid("x") for value, answer in zip(values, whole, strict=True)]


def _answer(value: int) -> InferResponse:
    return InferResponse(value, None, {})  # type: ignore[arg-type]


def infer(model: Model, *values: int) -> list[Answer]:
    backend = TritonPythonModel()
    backend._model = model  # type: ignore[assignment]
    backend._pb = SimpleNamespace(Logger=SimpleNamespace(log_error=lambda text: None))
    return list(backend._infer([InferRequest(frame=np.full((2, 2, 3), value, np.uint8)) for value in values]))


@pytest.mark.parametrize("error", [IndexError("list index out of range"), EngineFailed("m: bad values")], ids=repr)
def test_a_sample_that_fails_the_batch_fails_alone(error: Exception) -> None:
    model = Model(error)
    answers = infer(model, 1, 13, 0, 3)
    assert [type(answer) for answer in answers] == [InferResponse, EngineFailed, ImageInvalid, InferResponse]
    assert [a.result for a in answers if isinstance(a, InferResponse)] == [1, 3]
    assert model.batches[0] == 4 and set(model.batches[1:]) == {1} and len(model.batches) <= 5


@pytest.mark.parametrize("values", [(13,), (13, 0), (13, 13, 13)])
def test_nobody_is_asked_more_than_once_again(values: tuple[int, ...]) -> None:
    model = Model(EngineFailed("m: broken"))
    infer(model, *values)
    assert model.batches == [len(values)] + [1] * (3 if len(values) == 3 else 0)


def test_a_batch_without_failures_is_one() -> None:
    model = Model(IndexError())
    assert [type(answer) for answer in infer(model, 1, 0, 3)] == [InferResponse, ImageInvalid, InferResponse]
    assert model.batches == [3]
