"""Classification: logits [classes] -> the best classes with their scores, or `unknown`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.tasks.base import Agreement, Gate, Parameter, for_each_class, parse_options, parse_parameters
from serving.types import (
    UNKNOWN,
    UNKNOWN_LABEL,
    Array,
    Classification,
    FloatArray,
    ImageTransform,
    TaskResult,
    TensorSpec,
)

MOST_TOLD = 1000  # classes of one answer
NOTHING = -2  # no class reached its threshold, and the options know no `unknown`
_REFUSALS = {UNKNOWN: UNKNOWN_LABEL, NOTHING: "nothing"}
NOISE = 1e-3  # what sums in another order move a score by, at most


class ClassificationOptions(BaseModel):
    """What the network's numbers are, and when an answer is refused as `unknown`.

    activation: softmax for one class a sample, sigmoid for a multi-label head (each class on its own), cosine for
    similarities to class embeddings (-1..1 -> 0..1), none where the numbers are scores already.
    unknown: an answer in which no class reaches its threshold, or the best leads by less than `margin`, is `unknown`.
    other_class: the class that stands for 'none of these'; where it is the best one, the answer is `unknown`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    activation: Literal["softmax", "sigmoid", "cosine", "none"] = "softmax"
    unknown: bool = False
    other_class: int | None = Field(None, ge=0, description="class_id of 'none of these'; needs unknown: true")


class ClassificationTask:
    """Top-k by score, ties to the lower class_id. Unknown is a label of its own: class_id -1, first in its answer."""

    name = "classification"
    options_model = ClassificationOptions
    parameters: Mapping[str, Parameter] = {
        "top_k": Parameter("int", 1, MOST_TOLD, 5, "how many classes, best first"),
        "score_threshold": Parameter("float", 0.0, 1.0, 0.0, "classes below this score are left out", by_class=True),
        "margin": Parameter("float", 0.0, 1.0, 0.0, "options.unknown: a best class that leads by less is unknown"),
    }
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {"margin": 0.0},
        "onnx_fp16": {"cosine": 0.9995, "margin": 0.05},
        "engine": {"cosine": 0.995, "margin": 0.10},
        "transport": {"margin": 0.20},
    }

    def check(self, spec: ModelSpec) -> None:
        """One output of logits or scores, and known options that go together."""
        options = parse_options(ClassificationOptions, spec)
        if options.other_class is not None and not options.unknown:
            raise SpecInvalid(f"{spec.name}: options.other_class: needs options.unknown: true")
        if not options.unknown and any(values.get("margin") for values in spec.thresholds.values()):
            raise SpecInvalid(f"{spec.name}: thresholds: margin: needs options.unknown: true")
        if len(spec.outputs) > 1:
            raise SpecInvalid(f"{spec.name}: outputs: classification has one, got {list(spec.outputs)}")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """class_id INT32 [k], score FP32 [k]."""
        return TensorSpec("class_id", "INT32", (-1,)), TensorSpec("score", "FP32", (-1,))

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> Classification:
        """Logits -> scores -> top_k at or above their thresholds, behind `unknown` where the answer is refused."""
        options = parse_options(ClassificationOptions, spec)
        scores = activate(next(iter(raw.values())), options.activation)
        bounds = for_each_class(parameters.get("score_threshold"), 0.0, len(scores))
        order = np.argsort(-scores, kind="stable")
        named = order[(scores[order] >= bounds[order]) & (order != options.other_class)]
        shown = named[: int(parameters.get("top_k") or 5)].astype(np.int64)
        if options.unknown and is_unknown(scores, order, named, options, float(parameters.get("margin") or 0.0)):
            best = scores[order[order != options.other_class][:1]]
            return Classification(np.append(UNKNOWN, shown), np.append(1 - best, scores[shown]))
        return Classification(shown, scores[shown])

    def count_classes(self, raw: Mapping[str, Array], spec: ModelSpec) -> int:
        """The length of the scores."""
        return int(np.shape(next(iter(raw.values())))[-1])

    def check_label(self, metric: str, label: str, labels: Sequence[str]) -> None:
        """Class ids joined by `;`, of the classes that there are; -1: unknown."""
        for part in filter(None, label.split(";")):
            number = int(part) if part.removeprefix("-").isdecimal() else None
            if number is None or number < UNKNOWN or (labels and number >= len(labels)):
                raise SpecInvalid(f"expected a class_id or a class's name, got {part!r}")

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`classes: [{class_id, label, score}]`, best first."""
        assert isinstance(result, Classification)
        rows = zip(result.class_id.tolist(), result.score.tolist(), strict=True)
        return {"classes": [{"class_id": c, "label": label_of(labels, c), "score": round(s, 6)} for c, s in rows]}

    def from_document(self, document: Mapping[str, Any]) -> Classification:
        """`classes` back."""
        rows = document["classes"]
        class_id = np.array([row["class_id"] for row in rows], np.int64)
        return Classification(class_id, np.array([row["score"] for row in rows], np.float32))

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """class_id and score."""
        assert isinstance(result, Classification)
        return {"class_id": result.class_id.astype(np.int32), "score": result.score}

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """Top-1 equal wherever the reference's margin to its runner-up is at least the gate's.

        Known and unknown are another decision, unless the best class scores the same within that margin; so is what a
        scenario serves first, by its own thresholds. Multi-label heads have as many decisions as classes: the score of
        each one moves by no more than it.
        """
        assert isinstance(reference, Classification) and isinstance(candidate, Classification)
        bound, a, b = gate.get("margin", 0.0), _named(reference), _named(candidate)
        margin = float(a.score[0] - a.score[1]) if len(a.score) > 1 else 1.0
        same = a.class_id[:1].tolist() == b.class_id[:1].tolist()
        moved = abs(_best(reference) - _best(candidate))
        flipped = _unknown(reference) != _unknown(candidate) and moved >= bound
        ok = (same or margin < bound) and not flipped
        if parse_options(ClassificationOptions, spec).activation == "sigmoid":
            moved = _most_moved(a, b)
            ok = ok and moved <= max(bound, NOISE)
        why = f"top-1 {reference.class_id[:1].tolist()} became {candidate.class_id[:1].tolist()}, moved {moved:.4f}"
        if ok and (otherwise := _served_otherwise(reference, candidate, bound, spec)):
            ok, why = False, otherwise
        return Agreement(ok, {"top1_equal": float(same), "margin": margin, "moved": moved}, "" if ok else why)

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """top1, top5: share of samples whose label (a class_id as text; -1: unknown) is among the first 1 or 5.

        f1: of multi-label heads, over all (sample, class) pairs as served; labels as `3;7`, '' for none.
        """
        found = [r.class_id.tolist() for r in results if isinstance(r, Classification)]
        truth = [[int(part) for part in label.split(";") if part] for label in labels]
        pairs = list(zip(found, truth, strict=True))
        if metric in ("top1", "top5"):
            return float(np.mean([bool(set(wanted) & set(got[: int(metric[3:])])) for got, wanted in pairs]))
        if metric == "f1":
            pairs = [([c for c in got if c != UNKNOWN], wanted) for got, wanted in pairs]
            right = sum(len(set(got) & set(wanted)) for got, wanted in pairs)
            return 2 * right / max(1, sum(len(got) + len(wanted) for got, wanted in pairs))
        raise SpecInvalid(f"{spec.name}: expect.metric: expected top1, top5 or f1, got {metric!r}")


def is_unknown(scores: Array, order: Array, named: Array, options: ClassificationOptions, margin: float) -> bool:
    """No class reached its threshold, 'none of these' is the best, or the best leads its runner-up by too little."""
    if not len(named) or order[0] == options.other_class:
        return True
    second = next((scores[c] for c in order.tolist() if c != named[0]), -np.inf)
    return bool(margin and scores[named[0]] - second < margin)


def _unknown(result: Classification) -> bool:
    return bool(len(result.class_id)) and int(result.class_id[0]) == UNKNOWN


def _named(result: Classification) -> Classification:
    start = int(_unknown(result))
    return Classification(result.class_id[start:], result.score[start:])


def _best(result: Classification) -> float:
    """The best class's score, also of a refused answer."""
    if not len(result.score):
        return 0.0
    return 1 - float(result.score[0]) if _unknown(result) else float(result.score[0])


def served_first(result: Classification, options: ClassificationOptions, values: Mapping[str, Any]) -> int:
    """What a scenario's values put first, of a result that tells every class: its class_id, UNKNOWN or NOTHING."""
    if _unknown(result):
        return UNKNOWN
    bounds = for_each_class(values.get("score_threshold"), 0.0, int(result.class_id.max(initial=-1)) + 1)
    reached = result.class_id[result.score >= bounds[result.class_id]]
    if not len(reached):
        return UNKNOWN if options.unknown else NOTHING
    first, margin = int(reached[0]), float(values.get("margin") or 0.0)
    return UNKNOWN if options.unknown and margin and _lead(result, first, options) < margin else first


def _served_otherwise(reference: Classification, candidate: Classification, bound: float, spec: ModelSpec) -> str:
    """Where a scenario serves something else first, by scores that moved `bound` or more; '' for nowhere."""
    options, sides = parse_options(ClassificationOptions, spec), (reference, candidate)
    a, b = _named(reference), _named(candidate)
    same = a.class_id[:1].tolist() == b.class_id[:1].tolist()
    for scenario in dict.fromkeys(("default", *spec.scenarios)):
        values = parse_parameters(TASK, spec, {"scenario": scenario})
        was, became = (served_first(side, options, values) for side in sides)
        if was == became or (min(was, became) >= 0 and not same):  # of two classes that tie either may be first
            continue
        without_margin = {served_first(side, options, {**values, "margin": 0.0}) for side in sides}
        if len(without_margin) == 1:
            moved = abs(_lead(a, max(was, became), options) - _lead(b, max(was, became), options))
        else:
            moved = max(abs(_score_of(a, c) - _score_of(b, c)) for c in (was, became) if c >= 0)
        if moved >= max(bound, NOISE):
            told = (f"class {first}" if first >= 0 else _REFUSALS[first] for first in (was, became))
            return f"scenario {scenario}: {' became '.join(told)}, moved {moved:.4f}"
    return ""


def _lead(result: Classification, class_id: int, options: ClassificationOptions) -> float:
    """How far a class is before the best of the others. 'None of these' is not told: of a softmax it is the rest."""
    others = result.score[result.class_id != class_id]
    best = float(others.max(initial=-np.inf))
    if options.other_class is not None and options.activation == "softmax":
        best = max(best, 1.0 - float(result.score.sum()))
    return _score_of(result, class_id) - best


def _score_of(result: Classification, class_id: int) -> float:
    """The score of a class, 0 where it is not told."""
    return float(result.score[result.class_id == class_id].max(initial=0.0))


def _most_moved(a: Classification, b: Classification) -> float:
    """The largest change of a class's score. One that a side lacks moved by its whole score; where that side tells as
    many classes as an answer may, by what it is above the last of them."""
    x, y = (dict(zip(side.class_id.tolist(), side.score.tolist(), strict=True)) for side in (a, b))
    least_x, least_y = (float(side.score[-1]) if len(side.score) >= MOST_TOLD else 0.0 for side in (a, b))
    both = [abs(score - y[c]) for c, score in x.items() if c in y]
    one = [x[c] - least_y for c in x.keys() - y.keys()] + [y[c] - least_x for c in y.keys() - x.keys()]
    return max([*both, *one], default=0.0)


def activate(logits: Array, activation: str) -> FloatArray:
    """softmax (shifted by the maximum), sigmoid, (1 + cosine) / 2 or nothing, in float32 over the last axis."""
    x = np.asarray(logits, np.float32)
    if activation == "softmax":
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)
    if activation == "sigmoid":
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float32)
    if activation == "cosine":
        return np.asarray(np.clip(0.5 * (1.0 + x), 0.0, 1.0), np.float32)
    return x


def label_of(labels: Sequence[str], class_id: int) -> str:
    """The label, `unknown`, or `class_<id>` where the list is shorter."""
    if class_id == UNKNOWN:
        return UNKNOWN_LABEL
    return labels[class_id] if class_id < len(labels) else f"class_{class_id}"


TASK = ClassificationTask()
