"""The values that travel between modules: frozen, slotted, checked where they are made.

Boxes are float32 `[x1, y1, x2, y2]` in source pixels unless a name says otherwise, image arrays are RGB uint8 HWC.
Streams have their own values in `serving.frames`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
PixelArray = npt.NDArray[np.uint8]


def _expect(condition: bool, what: str, expected: object, got: object) -> None:
    if not condition:
        raise ValueError(f"{what}: expected {expected}, got {got}")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype (KServe V2 words: FP32, UINT8 ...) and shape of one tensor; -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _expect(bool(self.name), "TensorSpec.name", "a non-empty name", self.name)
        _expect(self.datatype in DATATYPES, f"TensorSpec {self.name}.datatype", sorted(DATATYPES), self.datatype)
        _expect(
            all(d == -1 or d >= 0 for d in self.shape), f"TensorSpec {self.name}.shape", "dims >= 0 or -1", self.shape
        )


DATATYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def datatype_of(array: Array) -> str:
    """The KServe V2 datatype word of an array; ValueError names a dtype that has none."""
    for word, kind in DATATYPES.items():
        if array.dtype == kind:
            return word
    raise ValueError(f"dtype {array.dtype}: expected one of {sorted(DATATYPES)}; convert the array first")


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Width and height in pixels, after EXIF orientation."""

    width: int
    height: int

    def __post_init__(self) -> None:
        _expect(self.width > 0 and self.height > 0, "ImageSize", "positive sides", (self.width, self.height))


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """How source pixels became model pixels: `model = source * scale + offset`, per axis (x, y).

    `source` is the picture after orientation (and after a roi crop); `model` the network's input plane.
    """

    source: ImageSize
    model: ImageSize
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def to_source(self, xyxy: FloatArray) -> FloatArray:
        """Boxes `[n, 4]` in model pixels -> boxes in source pixels, clipped to the picture."""
        _expect(xyxy.ndim == 2 and xyxy.shape[1] == 4, "ImageTransform.to_source boxes", "[n, 4]", xyxy.shape)
        scale = np.array([*self.scale, *self.scale], np.float64)
        offset = np.array([*self.offset, *self.offset], np.float64)
        limit = np.array([self.source.width, self.source.height] * 2, np.float64)
        return np.clip((xyxy - offset) / scale, 0.0, limit).astype(np.float32)


class TaskResult:
    """Base of every task's result; a task's own file may add its own."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Detections(TaskResult):
    """Boxes of one picture as a struct of arrays, best first.

    xyxy: float32 [n, 4] in source pixels; confidence: float32 [n] in 0..1; class_id: int64 [n];
    tracker_id: int64 [n] or None where nothing was tracked; runner_up: float32 [n] or None, the confidence of the best
    box that each one suppressed (0 where it suppressed none): how close non-maximum suppression was to another choice;
    appearance: float32 [n, d] or None, an embedding of each box for trackers, in no document.
    """

    xyxy: FloatArray
    confidence: FloatArray
    class_id: IntArray
    tracker_id: IntArray | None = None
    runner_up: FloatArray | None = None
    appearance: FloatArray | None = None

    def __post_init__(self) -> None:
        n, ids, second, looks = len(self.xyxy), self.tracker_id, self.runner_up, self.appearance
        fits = self.xyxy.shape == (n, 4) and self.confidence.shape == (n,) == self.class_id.shape
        fits = fits and (looks is None or looks.shape[:1] == (n,))
        if fits and (ids is None or ids.shape == (n,)) and (second is None or second.shape == (n,)):
            return  # making the messages below costs more than the check, and streams make this for every frame
        _expect(self.xyxy.shape == (n, 4), "Detections.xyxy", "shape [n, 4]", self.xyxy.shape)
        _expect(self.confidence.shape == (n,), "Detections.confidence", f"shape [{n}]", self.confidence.shape)
        _expect(self.class_id.shape == (n,), "Detections.class_id", f"shape [{n}]", self.class_id.shape)
        for name in ("tracker_id", "runner_up"):
            column = getattr(self, name)
            _expect(column is None or column.shape == (n,), f"Detections.{name}", f"shape [{n}]", np.shape(column))
        _expect(looks is None or len(looks) == n, "Detections.appearance", f"{n} rows", "another number")

    def __len__(self) -> int:
        return len(self.xyxy)

    @classmethod
    def empty(cls) -> Detections:
        """No box at all: a normal answer."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


UNKNOWN, UNKNOWN_LABEL = -1, "unknown"
APPEARANCE = "appearance"  # the tensor of `Detections.appearance` between processes


@dataclass(frozen=True, slots=True)
class NamedDetections(Detections):
    """Boxes that have names of their own. names: one a box, '' where it is called by its class."""

    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Detections.__post_init__(self)
        _expect(len(self.names) == len(self), "NamedDetections.names", f"{len(self)} names", len(self.names))


@dataclass(frozen=True, slots=True)
class Classification(TaskResult):
    """Classes of one sample, best first. class_id: int64 [k]; score: float32 [k] in 0..1.

    An answer that is refused starts with class_id UNKNOWN, whose score is 1 less the best class's; what follows are the
    classes that it would have been.
    """

    class_id: IntArray
    score: FloatArray

    def __post_init__(self) -> None:
        _expect(self.class_id.ndim == 1, "Classification.class_id", "shape [k]", self.class_id.shape)
        _expect(self.score.shape == self.class_id.shape, "Classification.score", self.class_id.shape, self.score.shape)


@dataclass(frozen=True, slots=True)
class Embedding(TaskResult):
    """One vector, float32 [d]."""

    vector: FloatArray

    def __post_init__(self) -> None:
        _expect(self.vector.ndim == 1, "Embedding.vector", "shape [d]", self.vector.shape)


@dataclass(frozen=True, slots=True)
class AudioEvents(TaskResult):
    """What was heard from `heard_ns[0]` to `heard_ns[1]`, in the order of its beginning.

    event_id: int64 [n], the same event keeps its number from piece to piece of a stream; start_ns, end_ns: int64 [n];
    class_id: int64 [n]; score: float32 [n], the event's highest; open: bool [n], not over where the hearing ended.
    scores: float32 [windows, classes], what the network said of each window ([0, 0] where it is not told);
    state: float32 [m], the network's state after the last window ([0] where it has none, or the session keeps it).
    """

    event_id: IntArray
    start_ns: IntArray
    end_ns: IntArray
    class_id: IntArray
    score: FloatArray
    open: npt.NDArray[np.bool_]
    heard_ns: tuple[int, int]
    scores: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    state: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        columns = (self.event_id, self.start_ns, self.end_ns, self.class_id, self.score, self.open)
        shapes = {column.shape for column in columns}
        _expect(shapes == {(len(self.event_id),)}, "AudioEvents columns", "one shape [n]", shapes)
        _expect(self.scores.ndim == 2, "AudioEvents.scores", "[windows, classes]", self.scores.shape)
        _expect(bool(np.all(self.end_ns >= self.start_ns)), "AudioEvents", "ends behind starts", self.end_ns)

    def __len__(self) -> int:
        return len(self.event_id)


@dataclass(frozen=True, slots=True)
class RawTensors(TaskResult):
    """Named output tensors of one sample, as the network gave them (task raw)."""

    tensors: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself, read back from the runtime, never from a file name.

    engine: openvino, onnxruntime, tensorrt, tensorrt_rtx; precision: the one in effect (f32, bf16, f16);
    dtypes_from: where the dtypes were read (runtime model, parsed network, inspector).
    """

    engine: str
    library_version: str
    device: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dtypes_from: str = "runtime model"
    threads: int = 1


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One picture (or sample) for one model.

    Exactly one of `encoded` (bytes of a JPEG, PNG or WebP file), `frame` (RGB uint8 [h, w, 3]) or `tensors`
    (task raw: named arrays without a batch axis) is given. `parameters` are the task's own (top_k, roi ...).
    """

    encoded: bytes | None = None
    frame: PixelArray | None = None
    tensors: Mapping[str, Array] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [n for n in ("encoded", "frame", "tensors") if getattr(self, n) is not None]
        _expect(len(given) == 1, "InferRequest", "exactly one of encoded, frame, tensors", given or "none")


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The typed result of one request, with what the result document needs.

    `timings_ms` keys: decode, preprocess, infer, postprocess (batch stages are shared evenly by the batch).
    `pixels_sha256` is the SHA-256 of the uint8 pixels before normalising (in staging only; '' for task raw).
    """

    result: TaskResult
    image: ImageSize | None
    timings_ms: Mapping[str, float]
    pixels_sha256: str = ""
