"""The shipped `sync_code` model as the detector of sync-test: its boxes for bits become the number of the picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from serving.errors import ServingError
from serving.streams.worker import Infer
from serving.types import Detections, InferRequest, InferResponse

SQUARE, BITS = 0, 16


def as_detector(infer: Infer) -> Infer:
    """A detector that answers with the square's box and, as class_id, the number that the bits make."""

    def detect(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        return [_folded(answer) for answer in infer(requests)]

    return detect


def number_of(found: Detections) -> int:
    """The number whose bits were detected: class k + 1 is the k-th bit from the left of 16."""
    return number_of_bits(found.class_id.tolist())


def number_of_bits(class_ids: Iterable[int]) -> int:
    """The same, by the class ids alone."""
    return sum(1 << (BITS - k) for k in set(class_ids) if k != SQUARE)


def _folded(answer: InferResponse | ServingError) -> InferResponse | ServingError:
    if isinstance(answer, ServingError):
        return answer
    found = answer.result
    assert isinstance(found, Detections)
    square = np.flatnonzero(found.class_id == SQUARE)[:1]
    ids = np.full(len(square), number_of(found), np.int64)
    folded = Detections(found.xyxy[square], found.confidence[square], ids)
    return InferResponse(folded, answer.image, answer.timings_ms, answer.pixels_sha256)
