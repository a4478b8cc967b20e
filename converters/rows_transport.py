"""The row `transport`: what JPEG on the log does to answers.

A live frame reaches the worker as JPEG, so its pixels are not quite those of the decoded frame. The same served model
answers both; their decisions must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from converters.parity import Judge, SampleVerdict, StageRow, failed, not_run, summarise
from converters.rows_gates import RowGate
from converters.samples import Sample
from serving.errors import LockstepError, ServingError
from serving.frames import PictureCodec
from serving.preprocess.decode import decode
from serving.preprocess.jpeg import JpegCodec
from serving.served_model import ServedModel
from serving.types import InferRequest, TaskResult

STAGE = "transport"
COMPARED = "the picture as JPEG of the log ({codec}) against the picture as it was decoded, through the served engine"
NO_PICTURES = "no pictures: the log carries nothing else"


def transport_row(
    model: ServedModel,
    samples: Sequence[Sample],
    codec: JpegCodec,
    judge: Judge,
    gate: RowGate,
    done: Callable[[int], None] = lambda count: None,
) -> StageRow:
    """Every sample's picture with and without JPEG. `pixels_mean_abs` is how far JPEG moved the pixels, in levels."""
    compared = COMPARED.format(codec=codec)
    if model.bundle.spec.task == "raw" or not model.bundle.spec.takes_pictures:
        return not_run(STAGE, compared, NO_PICTURES)
    parameters = {name: value for name, value in judge.parameters(gate.bounds).items() if value is not None}
    try:
        verdicts = [_verdict(model, sample, codec, judge, gate, parameters, done) for sample in samples]
    except LockstepError as error:
        return failed(STAGE, compared, f"{error.code}: {error}")
    return summarise(STAGE, compared, gate, verdicts)


def _verdict(
    model: ServedModel,
    sample: Sample,
    codec: PictureCodec,
    judge: Judge,
    gate: RowGate,
    parameters: dict[str, Any],
    done: Callable[[int], None],
) -> SampleVerdict:
    decoded = decode(sample.data)
    data = codec.encode(decoded)
    sent = codec.decode(data)
    figures = {"pixels_mean_abs": float(np.abs(sent.astype(np.int16) - decoded).mean())}
    reference = _ask(model, InferRequest(frame=decoded, parameters=parameters))
    candidate = _ask(model, InferRequest(encoded=data, parameters=parameters))
    done(1)
    return judge.results(sample.name, reference, candidate, gate, figures)


def _ask(model: ServedModel, request: InferRequest) -> TaskResult:
    (answer,) = model.infer([request])
    if isinstance(answer, ServingError):
        raise answer
    return answer.result
