"""Single-object tracking: an object given by a box is followed from picture to picture.

docs/single-object-tracking.md. The network is an embedding of search crops; crops, correlation, scales and the box are
`serving/tracking/siamese.py`. On streams a session makes the crops and asks for their maps. A single picture has no
past: its answer says how alike to its middle each of its places is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import EngineFailed, ServingError, SpecInvalid
from serving.preprocess.decode import decode
from serving.preprocess.region import crop, parse_roi
from serving.spec import ModelSpec
from serving.targets import Aim
from serving.tasks.base import Agreement, Gate, Infer, Parameter, parse_options
from serving.tracking.siamese import SiameseRules, Target, TargetState, begin, follow, likeness_map, score_of
from serving.types import (
    Array,
    Detections,
    FloatArray,
    ImageSize,
    ImageTransform,
    InferRequest,
    InferResponse,
    PixelArray,
    TaskResult,
    TensorSpec,
)

_DEFAULT = SiameseRules()
START_WITHIN_NS = 5_000_000_000  # a target's box is of its own picture; one much later shows it elsewhere


class SingleObjectOptions(BaseModel):
    """What the tracker does with scores; see `serving.tracking.siamese.SiameseRules`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lost_below: float = Field(_DEFAULT.lost_below, ge=0, le=1, description="a lower score: it is lost")
    found_above: float = Field(_DEFAULT.found_above, ge=0, le=1, description="a lost one is found again")
    crops: int = Field(_DEFAULT.crops, ge=1, le=64, description="most search crops a picture while it is lost")
    spread: float = Field(_DEFAULT.spread, ge=0, le=100, description="the search widens, crops a second")
    update: float = Field(_DEFAULT.update, ge=0, le=1, description="share of the present look in the template")


@dataclass(frozen=True, slots=True)
class FeatureMap(TaskResult):
    """One search crop. features: float32 [c, h, w]; likeness: float32 [k, k] in 0..1, of each place to the middle."""

    features: FloatArray
    likeness: FloatArray


@dataclass(frozen=True, slots=True)
class Told:
    """A target in one picture. xyxy: in source pixels, where it was last while it is lost."""

    target_id: int
    state: TargetState
    score: float
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Followed(Detections):
    """The targets of one picture; those that are tracked are its boxes, with the target_id as tracker_id."""

    targets: tuple[Told, ...] = ()


class SingleObjectTask:
    """SiamFC and its kind."""

    name = "single_object_tracking"
    options_model = SingleObjectOptions
    follows_targets = True
    parameters: Mapping[str, Parameter] = {}
    # likeness: the score map of one picture may move so much; the tracker decides on such scores.
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {"likeness": 0.001},
        "onnx_fp16": {"cosine": 0.9995, "likeness": 0.02},
        "engine": {"cosine": 0.995, "likeness": 0.05},
        "transport": {"likeness": 0.2},
    }

    def check(self, spec: ModelSpec) -> None:
        """A plane of the network's size, one output, known options."""
        options, rule = parse_options(SingleObjectOptions, spec), spec.preprocess
        if options.found_above < options.lost_below:
            raise SpecInvalid(f"{spec.name}: options.found_above: expected lost_below ({options.lost_below}) or more")
        side = _DEFAULT.search
        if rule is None or (rule.width, rule.height) != (side, side):
            raise SpecInvalid(f"{spec.name}: preprocess: expected width and height {side}, the search crop")
        if len(spec.outputs) > 1:
            raise SpecInvalid(f"{spec.name}: outputs: expected one, the features, got {list(spec.outputs)}")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """features FP32 [c, h, w], likeness FP32 [k, k]."""
        return TensorSpec("features", "FP32", (-1, -1, -1)), TensorSpec("likeness", "FP32", (-1, -1))

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> FeatureMap:
        """The map, and its middle laid on all of it."""
        rules, features = rules_of(spec), np.asarray(next(iter(raw.values())), np.float32)
        first = (features.shape[1] - rules.cells) // 2
        middle = features[:, first : first + rules.cells, first : first + rules.cells]
        return FeatureMap(features, score_of(likeness_map(middle, features), rules).astype(np.float32))

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """On streams `targets: [{target_id, state, score, xyxy}]` and `detections`; of one picture `features: {shape}`
        and `likeness: [[score]]`."""
        if isinstance(result, FeatureMap):
            likeness = [[round(v, 6) for v in row] for row in result.likeness.tolist()]
            return {"features": {"shape": list(result.features.shape)}, "likeness": likeness}
        assert isinstance(result, Followed)
        rows = [_row(told) for told in result.targets]
        boxes = [
            {"xyxy": row["xyxy"], "confidence": row["score"], "class_id": 0, "label": labels[0] if labels else "target",
             "track_id": row["target_id"], "origin": "measured"}
            for row in rows
            if row["state"] == TargetState.TRACKING
        ]  # fmt: skip
        return {"targets": rows, "detections": boxes}

    def from_document(self, document: Mapping[str, Any]) -> Followed | FeatureMap:
        """Both forms back; features themselves go by /v2, never by JSON."""
        if "likeness" in document:
            none = np.zeros((0, 0, 0), np.float32)
            return FeatureMap(none, np.array(document["likeness"], np.float32))
        return followed(
            [
                Told(int(row["target_id"]), TargetState(row["state"]), float(row["score"]), tuple(row["xyxy"]))
                for row in document["targets"]
            ]
        )

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """features and likeness."""
        assert isinstance(result, FeatureMap)
        return {"features": result.features, "likeness": result.likeness}

    def from_tensors(self, tensors: Mapping[str, Array]) -> FeatureMap:
        """`to_tensors` back: what a session that asks a server gets."""
        return FeatureMap(np.asarray(tensors["features"], np.float32), np.asarray(tensors["likeness"], np.float32))

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """No score of the likeness map differs by more than gate.likeness."""
        assert isinstance(reference, FeatureMap) and isinstance(candidate, FeatureMap)
        if reference.likeness.shape != candidate.likeness.shape:
            shapes = f"{list(reference.likeness.shape)} became {list(candidate.likeness.shape)}"
            return Agreement(False, {}, f"likeness: shape {shapes}")
        off = float(np.abs(reference.likeness - candidate.likeness).max(initial=0.0))
        bound = gate.get("likeness", 0.05)
        return Agreement(off <= bound, {"likeness": off}, f"a score of the likeness map moved by {off:.4f}")

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """Pictures have no score here; clips have (evaluation/metrics/single_object_tracking.py)."""
        raise SpecInvalid(f"{spec.name}: expect: single_object_tracking is scored on clips, got metric {metric!r}")

    def new_session(self, spec: ModelSpec, parameters: Mapping[str, Any]) -> TargetSession:
        """A timeline on which targets are followed."""
        return TargetSession(rules_of(spec), spec.batch.max)


class TargetSession:
    """See `serving.tasks.base.Session`, `ShapesRequests` and `TakesTargets`. Nothing is kept until `update`."""

    def __init__(self, rules: SiameseRules, most: int) -> None:
        self._rules, self._most = rules, most
        self._aims: tuple[Aim, ...] = ()
        self._known: dict[Aim, Target | None] = {}
        self._next: tuple[int, dict[Aim, Target | None]] | None = None

    def aim(self, aims: Sequence[Aim]) -> None:
        """The targets of this epoch from now on; one that is no more among them is forgotten."""
        self._aims = tuple(aims)

    def ask(self, request: InferRequest, infer: Infer, pts_ns: int) -> InferResponse | ServingError:
        """Follow every target into this picture. Called again for it, it begins from the picture before again."""
        picture = decode(request.encoded) if request.encoded is not None else request.frame
        assert picture is not None
        size = ImageSize(picture.shape[1], picture.shape[0])
        roi = parse_roi(request.parameters.get("roi"), size)
        asking = _Asking(infer, self._most)
        found = {
            aim: self._step(aim, crop(picture, roi), roi[:2] if roi else (0, 0), size, pts_ns, asking)
            for aim in self._aims
            if aim.pts_ns <= pts_ns or self._known.get(aim)
        }
        self._next = pts_ns, found
        told = [_told(aim, target, roi[:2] if roi else (0, 0)) for aim, target in found.items()]
        return InferResponse(followed(told), size, asking.timings)

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        """What was asked for this picture counts from now on."""
        assert self._next is not None and self._next[0] == pts_ns
        self._known = self._next[1]
        return result

    def _step(
        self, aim: Aim, picture: PixelArray, corner: tuple[int, int], size: ImageSize, pts_ns: int, asking: _Asking
    ) -> Target | None:
        """None: its picture was missed, so that nobody knows what it looks like."""
        if aim in self._known:
            before = self._known[aim]
            return before and follow(before, picture, pts_ns, asking.maps, self._rules)
        aim.check_inside(size.width, size.height)
        if pts_ns - aim.pts_ns > START_WITHIN_NS:
            return None
        box = np.array(aim.xyxy) - np.array([*corner, *corner])
        return begin(picture, [float(v) for v in box], pts_ns, asking.maps, self._rules)


class _Asking:
    """Maps of search crops by the pipeline's model, at most `most` at once; times add up."""

    def __init__(self, infer: Infer, most: int) -> None:
        self._infer, self._most = infer, most
        self.timings: dict[str, float] = {}

    def maps(self, crops: Sequence[PixelArray]) -> FloatArray:
        """float32 [n, c, h, w]. Raises what the model answered."""
        found = []
        for start in range(0, len(crops), self._most):
            part = [InferRequest(frame=pixels) for pixels in crops[start : start + self._most]]
            answers = self._infer(part)
            if len(answers) != len(part):
                raise EngineFailed(f"{len(part)} search crops were sent, {len(answers)} answers came")
            for answer in answers:
                if isinstance(answer, ServingError):
                    raise answer
                assert isinstance(answer.result, FeatureMap)
                found.append(answer.result.features)
                self.timings |= {n: self.timings.get(n, 0.0) + ms for n, ms in answer.timings_ms.items()}
        return np.stack(found)


def rules_of(spec: ModelSpec) -> SiameseRules:
    """The rules with the spec's options."""
    return replace(_DEFAULT, **parse_options(SingleObjectOptions, spec).model_dump())


def followed(targets: Sequence[Told]) -> Followed:
    """The targets of a picture as its result."""
    seen = [told for told in targets if told.state is TargetState.TRACKING]
    return Followed(
        np.array([told.xyxy for told in seen], np.float32).reshape(-1, 4),
        np.array([told.score for told in seen], np.float32),
        np.zeros(len(seen), np.int64),
        np.array([told.target_id for told in seen], np.int64),
        targets=tuple(targets),
    )


def _told(aim: Aim, target: Target | None, corner: tuple[int, int]) -> Told:
    if target is None:
        return Told(aim.target_id, TargetState.LOST, 0.0, tuple(map(float, aim.xyxy)))  # type: ignore[arg-type]
    x1, y1, x2, y2 = target.xyxy
    right, down = corner
    return Told(aim.target_id, target.state, target.score, (x1 + right, y1 + down, x2 + right, y2 + down))


def _row(told: Told) -> dict[str, Any]:
    box = [round(v, 3) for v in told.xyxy]
    return {"target_id": told.target_id, "state": told.state.value, "score": round(told.score, 6), "xyxy": box}


TASK = SingleObjectTask()
