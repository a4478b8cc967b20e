"""Homography: where a picture lies on the pitch, by classical vision (serving/pitch). No network: its steps are a
pipeline's.

A video's maps go through a filter for each timeline (`serving.pitch.track`); the map before is a hint for the next
frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.errors import ParameterInvalid, ServingError, SpecInvalid
from serving.pitch.draw import draw_map, draw_markings
from serving.pitch.model import FieldMap, Matrix, Pitch, metres_of, normalised
from serving.pitch.track import MapFilter
from serving.spec import ModelSpec
from serving.tasks.base import Agreement, Gate, Infer, Parameter
from serving.types import Array, ImageTransform, InferRequest, InferResponse, PixelArray, TaskResult, TensorSpec

KIND = "pitch"  # the kind of step that finds the map
NEAR = Parameter("str", help="the map of the picture before, 9 numbers with commas: tried first (video)")


@dataclass(frozen=True, slots=True)
class Homography(TaskResult):
    """matrix: float64 [3, 3] pixels -> metres, last element 1; None: unknown. error: RMS reprojection in pixels. why:
    why it is unknown or held. length, width: of the pitch in metres. held_ns: how long it was carried without
    markings."""

    matrix: Matrix | None
    error: float = 0.0
    inliers: int = 0
    coverage: float = 0.0
    why: str = ""
    length: float = 105.0
    width: float = 68.0
    held_ns: int = 0

    @classmethod
    def of(cls, found: FieldMap, pitch: Pitch, held_ns: int = 0) -> Homography:
        """A map of that pitch."""
        return cls(found.to_metres, found.error, found.inliers, found.coverage, found.reason,
                   pitch.length, pitch.width, held_ns)  # fmt: skip

    @property
    def pitch(self) -> Pitch:
        """The pitch that it is a map of."""
        return Pitch(self.length, self.width)

    @property
    def field(self) -> FieldMap:
        """Without what belongs to a video."""
        return FieldMap(self.matrix, self.error, self.inliers, self.coverage, self.why)


class HomographyTask:
    """See the module."""

    name = "homography"
    parameters: Mapping[str, Parameter] = {"near": NEAR}
    default_gates: Mapping[str, Gate] = {"transport": {"metres": 1.0}}

    def check(self, spec: ModelSpec) -> None:
        """One step, of kind pitch, told."""
        if [step.do for step in spec.steps] != [KIND] or spec.answer.fields != (spec.steps[0].name,):
            raise SpecInvalid(f"{spec.name}: task homography has one step `do: {KIND}`, told by answer.fields")
        if spec.options:
            raise SpecInvalid(f"{spec.name}: options: they stand in the step")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """homography FP32 [3, 3] (zeros: unknown), reprojection_error FP32 [1], inliers INT32 [1]."""
        return (
            TensorSpec("homography", "FP32", (3, 3)),
            TensorSpec("reprojection_error", "FP32", (1,)),
            TensorSpec("inliers", "INT32", (1,)),
        )

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> Homography:
        """There is no network."""
        raise SpecInvalid(f"{spec.name}: task homography has no outputs to read")

    def from_steps(self, told: Mapping[str, Any]) -> Homography:
        """told: what the step found in the whole picture, by its name."""
        return self.from_document(next(iter(told.values())))

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`state`, `homography` (rows, null where unknown), `reprojection_error_px`, `inliers`, `coverage`, `pitch`;
        `why` where unknown, `held_ms` where carried."""
        assert isinstance(result, Homography)
        known = result.matrix is not None
        document: dict[str, Any] = {
            "state": "known" if known else "unknown",
            "homography": result.matrix.tolist() if result.matrix is not None else None,
            "reprojection_error_px": round(result.error, 3) if known and not result.held_ns else None,
            "inliers": result.inliers,
            "coverage": round(result.coverage, 3),
            "pitch": {"length_m": result.length, "width_m": result.width},
        }
        document |= {"why": result.why} if result.why else {}
        return {**document, "held_ms": round(result.held_ns / 1e6, 3)} if result.held_ns else document

    def from_document(self, document: Mapping[str, Any]) -> Homography:
        """The document back."""
        rows, pitch = document["homography"], document["pitch"]
        return Homography(
            None if rows is None else np.array(rows, np.float64).reshape(3, 3),
            float(document["reprojection_error_px"] or 0.0), int(document["inliers"]), float(document["coverage"]),
            str(document.get("why", "")), float(pitch["length_m"]), float(pitch["width_m"]),
            round(float(document.get("held_ms", 0)) * 1e6),
        )  # fmt: skip

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """See `outputs`."""
        assert isinstance(result, Homography)
        matrix = np.zeros((3, 3)) if result.matrix is None else result.matrix
        return {
            "homography": matrix.astype(np.float32),
            "reprojection_error": np.array([result.error], np.float32),
            "inliers": np.array([result.inliers], np.int32),
        }

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Both known or both unknown, and the known ones within gate.metres (0.1) along the markings' plane."""
        assert isinstance(reference, Homography) and isinstance(candidate, Homography)
        if (reference.matrix is None) != (candidate.matrix is None):
            said = ["unknown" if one.matrix is None else "known" for one in (reference, candidate)]
            return Agreement(False, {}, f"{said[0]} became {said[1]}")
        if reference.matrix is None or candidate.matrix is None:
            return Agreement(True)
        off = apart(reference.matrix, candidate.matrix, reference.pitch)
        return Agreement(off <= gate.get("metres", 0.1), {"metres": off}, f"the map moved by {off:.2f} m")

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """known_right: share of samples whose label (known, unknown) is the state that was told."""
        if metric != "known_right":
            raise SpecInvalid(f"{spec.name}: expect.metric: expected known_right, got {metric!r}")
        told = ["unknown" if isinstance(r, Homography) and r.matrix is None else "known" for r in results]
        return float(np.mean([a == b for a, b in zip(told, labels, strict=True)]))

    def move(self, result: TaskResult, scale: float, offset: tuple[float, float]) -> TaskResult:
        """The same map from pixels `place * scale + offset`."""
        assert isinstance(result, Homography)
        if result.matrix is None:
            return result
        return replace(result, matrix=moved_map(result.matrix, scale, offset), error=result.error * scale)

    def draw(self, rgb: PixelArray, result: TaskResult, labels: Sequence[str], threshold: float) -> None:
        """The markings on the picture, and the part of the pitch that it shows on a small map."""
        assert isinstance(result, Homography)
        if result.matrix is not None:
            draw_markings(rgb, result.matrix, result.pitch)
        draw_map(rgb, result.pitch, result.matrix, held=result.held_ns > 0)

    def new_session(self, spec: ModelSpec, parameters: Mapping[str, Any]) -> MapSession:
        """A filter for one timeline."""
        return MapSession()


class MapSession:
    """The map over one timeline. `ask` gives the model the map that the frame should have."""

    def __init__(self) -> None:
        self.filter = MapFilter()

    def ask(self, request: InferRequest, infer: Infer, pts_ns: int) -> InferResponse | ServingError:
        """See `serving.tasks.base.ShapesRequests`."""
        return infer([hinted(request, self.filter, pts_ns)])[0]

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        """See `serving.tasks.base.Session.update`."""
        if not isinstance(result, Homography):
            return result
        found, held_ns = self.filter.update(result.field, pts_ns, picture)
        return Homography.of(found, result.pitch, held_ns)


def hinted(request: InferRequest, maps: MapFilter, pts_ns: int) -> InferRequest:
    """The request with the map that its frame should have, where there is one."""
    expected = maps.ahead(pts_ns)
    if expected is None:
        return request
    near = ",".join(repr(float(v)) for v in normalised(expected).ravel())
    return replace(request, parameters={**request.parameters, "near": near})


def near_of(text: str | None) -> Matrix | None:
    """`near` as a matrix; ParameterInvalid."""
    if not text:
        return None
    try:
        matrix = np.array([float(v) for v in text.split(",")], np.float64).reshape(3, 3)
    except ValueError as error:
        raise ParameterInvalid(f"near: expected 9 numbers with commas, got {text[:60]!r}") from error
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-18:
        raise ParameterInvalid("near: expected a homography, got a matrix that has no inverse")
    return matrix


def moved_map(matrix: Matrix, scale: float, offset: tuple[float, float]) -> Matrix:
    """A map from pixels `place * scale + offset`, of a map from pixels `place`."""
    return normalised(matrix @ np.linalg.inv(np.array([[scale, 0, offset[0]], [0, scale, offset[1]], [0, 0, 1.0]])))


def apart(one: Matrix, other: Matrix, pitch: Pitch) -> float:
    """How far two maps are apart in metres, the median over what the first sees of the pitch."""
    corners = np.array([[x, y] for x in np.linspace(0, pitch.length, 22) for y in np.linspace(0, pitch.width, 15)])
    back = np.linalg.inv(one * (np.sign(one[2, 1]) or 1.0))
    pixels = np.column_stack([corners, np.ones(len(corners))]) @ back.T
    seen = pixels[:, 2] > 1e-9
    at = pixels[seen, :2] / pixels[seen, 2:]
    inside = (at > -50).all(axis=1) & (at < 8000).all(axis=1)
    off = np.hypot(*(metres_of(other, at[inside]) - corners[seen][inside]).T)
    return float(np.median(np.where(np.isfinite(off), off, 1e3))) if inside.any() else 1e3


TASK = HomographyTask()
