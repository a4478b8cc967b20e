"""Audio recognition: scores of windows -> events. Voice activity, keywords, sounds (docs/audio.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import SpecInvalid
from serving.sequences import HEARD
from serving.spec import ModelSpec, SoundSpec
from serving.tasks.audio_session import SoundSession
from serving.tasks.base import Agreement, Gate, Parameter, parse_options, parse_parameters
from serving.tasks.events import NS_PER_S, Event, EventCounts, EventMaker, EventRules, match_events
from serving.types import Array, AudioEvents, FloatArray, ImageTransform, TaskResult, TensorSpec

NS_PER_MS = 1_000_000
_LABELLED = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)(?::(.+))?", re.ASCII)


class AudioOptions(BaseModel):
    """How scores become events; times in milliseconds.

    activation: what turns the network's numbers into scores. background: the label that is no event. hysteresis: an
    event goes on until the score is this much below score_threshold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    background: str = ""
    hysteresis: float = Field(0.15, ge=0, le=1)
    min_duration_ms: int = Field(250, ge=0, le=60_000)
    min_silence_ms: int = Field(100, ge=0, le=60_000)
    pad_ms: int = Field(30, ge=0, le=10_000)


class AudioTask:
    """Events of every class but the background."""

    name = "audio"
    options_model = AudioOptions
    parameters: Mapping[str, Parameter] = {
        "score_threshold": Parameter("float", 0.0, 1.0, 0.5, "an event begins at this score"),
        "pcm": Parameter("str", default="", help="the body is bare 16-bit PCM: RATE or RATExCHANNELS, e.g. 16000x1"),
    }
    # margin: no decision may flip where the reference is at least so far from a threshold, over a whole sequence.
    default_gates: Mapping[str, Gate] = {
        "onnx_fp32": {"threshold": 0.5, "margin": 0.05},
        "onnx_fp16": {"cosine": 0.9995, "threshold": 0.5, "margin": 0.05},
        "engine": {"cosine": 0.995, "threshold": 0.5, "margin": 0.05},
    }

    def check(self, spec: ModelSpec) -> None:
        """The spec has `sound` and labels inside it; the background is one of them."""
        options = parse_options(AudioOptions, spec)
        if spec.sound is None:
            raise SpecInvalid(f"{spec.name}: task audio needs `sound` (sample_rate, window ...)")
        if not isinstance(spec.labels, tuple) or not spec.labels:
            raise SpecInvalid(f"{spec.name}: labels: task audio needs its classes listed in the spec")
        if options.background and options.background not in spec.labels:
            raise SpecInvalid(f"{spec.name}: options.background: {options.background!r} is not among the labels")
        if not spec.outputs:
            raise SpecInvalid(f"{spec.name}: outputs: name the scores first, then each state")

    def outputs(self, spec: ModelSpec) -> tuple[TensorSpec, ...]:
        """scores FP32 [windows, classes], start_ns and end_ns INT64 [n], class_id INT32 [n], state FP32 [m]."""
        return (
            TensorSpec("scores", "FP32", (-1, len(spec.labels))),
            TensorSpec("start_ns", "INT64", (-1,)),
            TensorSpec("end_ns", "INT64", (-1,)),
            TensorSpec("class_id", "INT32", (-1,)),
            TensorSpec("state", "FP32", (-1,)),
        )

    def postprocess(
        self, raw: Mapping[str, Array], transform: ImageTransform | None, spec: ModelSpec, parameters: Mapping[str, Any]
    ) -> AudioEvents:
        """Scores of all windows [t, ...] -> events, from the first window's beginning."""
        scores = scores_of(raw, spec)
        rule = sound_of(spec)
        length = int(raw[HEARD]) * NS_PER_S // rule.sample_rate if HEARD in raw else None
        found = EventMaker(rule, rules_of(spec, parameters)).feed(scores, last=True, length_ns=length)
        state = [np.asarray(raw[s.input], np.float32).ravel() for s in rule.state if s.input in raw]
        return with_state(found, np.concatenate(state) if state else np.zeros(0, np.float32))

    def to_document(self, result: TaskResult, labels: Sequence[str]) -> dict[str, Any]:
        """`sound: {start_pts_ns, end_pts_ns, windows}` and `events`, one row each."""
        assert isinstance(result, AudioEvents)
        columns = (result.event_id, result.class_id, result.score, result.start_ns, result.end_ns, result.open)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        start, end = result.heard_ns
        return {
            "sound": {"start_pts_ns": start, "end_pts_ns": end, "windows": len(result.scores)},
            "events": [
                {
                    "event_id": number,
                    "class_id": kind,
                    "label": labels[kind] if kind < len(labels) else f"class {kind}",
                    "score": round(score, 6),
                    "start_pts_ns": begin,
                    "end_pts_ns": stop,
                    "open": is_open,
                }
                for number, kind, score, begin, stop, is_open in rows
            ],
        }

    def from_document(self, document: Mapping[str, Any]) -> AudioEvents:
        """`events` back; scores of single windows are not told."""
        rows, sound = document["events"], document["sound"]
        event_id, start_ns, end_ns, class_id = (np.array([row[name] for row in rows], np.int64) for name in _INTEGERS)
        score = np.array([row["score"] for row in rows], np.float32)
        is_open = np.array([row["open"] for row in rows], np.bool_)
        heard_ns = int(sound["start_pts_ns"]), int(sound["end_pts_ns"])
        return AudioEvents(event_id, start_ns, end_ns, class_id, score, is_open, heard_ns)

    def to_tensors(self, result: TaskResult, spec: ModelSpec) -> dict[str, Array]:
        """scores, start_ns, end_ns, class_id, state."""
        assert isinstance(result, AudioEvents)
        return {
            "scores": result.scores,
            "start_ns": result.start_ns,
            "end_ns": result.end_ns,
            "class_id": result.class_id.astype(np.int32),
            "state": result.state,
        }

    def agree(self, reference: TaskResult, candidate: TaskResult, gate: Gate, spec: ModelSpec) -> Agreement:
        """No window's decision flips at a threshold of any scenario, over the whole sequence; the same events where
        scores are not told."""
        assert isinstance(reference, AudioEvents) and isinstance(candidate, AudioEvents)
        if not candidate.scores.size or not reference.scores.size:
            return _same_events(reference, candidate, sound_of(spec))
        if reference.scores.shape != candidate.scores.shape:
            shapes = f"{list(reference.scores.shape)} became {list(candidate.scores.shape)}"
            return Agreement(False, {}, f"scores of windows: shape {shapes}")
        return _flips(reference.scores, candidate.scores, gate, spec)

    def score(self, metric: str, results: Sequence[TaskResult], labels: Sequence[str], spec: ModelSpec) -> float:
        """event_f1: labels `begin-end` in seconds, joined by `;` (with `:label` behind where there are several
        classes); top1: the label of the longest event, or the background's, against the file's."""
        heard = [result for result in results if isinstance(result, AudioEvents)]
        if metric == "event_f1":
            counts = [match_events(truth_of(t, spec.labels), events_of(r)) for r, t in zip(heard, labels, strict=True)]
            return sum(counts, EventCounts(0, 0, 0)).f1
        if metric == "top1":
            return float(np.mean([longest(r, spec) == t for r, t in zip(heard, labels, strict=True)]))
        raise SpecInvalid(f"{spec.name}: expect.metric: expected event_f1 or top1, got {metric!r}")

    def check_label(self, metric: str, label: str, labels: Sequence[str]) -> None:
        """event_f1: events that `truth_of` reads."""
        if metric == "event_f1":
            truth_of(label, labels)

    def new_session(self, spec: ModelSpec, parameters: Mapping[str, Any]) -> SoundSession:
        """A stream that is heard piece by piece: the network's state, the rest of a window and open events go along."""
        return SoundSession(sound_of(spec), rules_of(spec, parse_parameters(self, spec, parameters)))


_INTEGERS = ("event_id", "start_pts_ns", "end_pts_ns", "class_id")


def sound_of(spec: ModelSpec) -> SoundSpec:
    """spec.sound, which `check` has seen."""
    assert spec.sound is not None
    return spec.sound


def scores_of(raw: Mapping[str, Array], spec: ModelSpec) -> FloatArray:
    """The first output as scores [t, classes]."""
    values = np.asarray(raw[spec.outputs[0]], np.float32)
    values = values.reshape(len(values), -1)
    kind = parse_options(AudioOptions, spec).activation
    if kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-values)), np.float32)
    if kind == "softmax" and values.size:
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    return values


def rules_of(spec: ModelSpec, parameters: Mapping[str, Any]) -> EventRules:
    """The spec's rules at the request's threshold."""
    options = parse_options(AudioOptions, spec)
    on = parameters.get("score_threshold")
    on = 0.5 if on is None else float(on)
    classes = tuple(i for i, label in enumerate(spec.labels) if label != options.background)
    return EventRules(
        on,
        on - options.hysteresis,
        options.min_duration_ms * NS_PER_MS,
        options.min_silence_ms * NS_PER_MS,
        options.pad_ms * NS_PER_MS,
        classes,
    )


def with_state(found: AudioEvents, state: FloatArray) -> AudioEvents:
    """The same events with the network's state."""
    columns = (found.event_id, found.start_ns, found.end_ns, found.class_id, found.score, found.open)
    return AudioEvents(*columns, found.heard_ns, found.scores, state)


def events_of(result: AudioEvents) -> list[Event]:
    """Begin and end in seconds, class."""
    rows = zip(result.start_ns.tolist(), result.end_ns.tolist(), result.class_id.tolist(), strict=True)
    return [(start / NS_PER_S, end / NS_PER_S, kind) for start, end, kind in rows]


def truth_of(text: str, labels: Sequence[str], where: str = "labels") -> list[Event]:
    """`begin-end` in seconds, with `:label` behind where there are several classes, joined by `;`, as events.

    Raises SpecInvalid, naming `where`.
    """
    events: list[Event] = []
    only = labels[0] if len(labels) == 1 else ""
    for part in filter(None, text.split(";")):
        match = _LABELLED.fullmatch(part.strip())
        if match is None:
            raise SpecInvalid(f"{where}: expected begin-end:label in seconds, as 0.5-1.25:{labels[0]}, got {part!r}")
        begin, end, label = float(match[1]), float(match[2]), match[3] or only
        if label not in labels or end < begin:
            wrong = f"unknown label {label!r}" if label not in labels else f"{part} ends before it begins"
            raise SpecInvalid(f"{where}: {wrong}", hint=f"labels are {', '.join(labels)}")
        events.append((begin, end, list(labels).index(label)))
    return events


def longest(result: AudioEvents, spec: ModelSpec) -> str:
    """Class id, as text, of the longest event; the background's (or '') where there is none."""
    background = parse_options(AudioOptions, spec).background
    if not len(result):
        return str(list(spec.labels).index(background)) if background else ""
    return str(int(result.class_id[int(np.argmax(result.end_ns - result.start_ns))]))


def _thresholds(spec: ModelSpec) -> list[float]:
    """Where events of the scenarios begin, and where they end."""
    names = ("default", *spec.scenarios)
    rules = [rules_of(spec, parse_parameters(TASK, spec, {"scenario": name})) for name in names]
    return [bound for rule in rules for bound in (rule.on, rule.off)]


def _flips(reference: FloatArray, candidate: FloatArray, gate: Gate, spec: ModelSpec) -> Agreement:
    margin, flipped = gate.get("margin", 0.05), np.zeros(reference.shape, np.bool_)
    for threshold in {gate.get("threshold", 0.5), *_thresholds(spec)}:
        sure = np.abs(reference.astype(np.float64) - threshold) >= margin
        flipped |= sure & ((reference >= threshold) != (candidate >= threshold))
    difference = float(np.abs(reference - candidate).max(initial=0.0))
    figures = {"flips": float(flipped.sum()), "score_difference": difference}
    if not flipped.any():
        return Agreement(True, figures)
    place, kind = (int(v) for v in np.argwhere(flipped)[0])
    seconds = place * sound_of(spec).step / sound_of(spec).sample_rate
    was, became = float(reference[place, kind]), float(candidate[place, kind])
    label = f" ({spec.labels[kind]})" if len(spec.labels) > 1 else ""
    why = f"{int(flipped.any(axis=1).sum())} of {len(reference)} decisions flip, first in window {place} at "
    return Agreement(False, figures, f"{why}{seconds:.3f} s: {was:.3f} became {became:.3f}{label}")


def _same_events(reference: AudioEvents, candidate: AudioEvents, rule: SoundSpec) -> Agreement:
    if not np.array_equal(reference.class_id, candidate.class_id):
        return Agreement(False, {}, f"events {events_of(reference)[:4]} became {events_of(candidate)[:4]}")
    edges = np.abs(np.concatenate([reference.start_ns - candidate.start_ns, reference.end_ns - candidate.end_ns]))
    moved, most = float(edges.max(initial=0)), 2 * NS_PER_S * rule.step / rule.sample_rate
    return Agreement(moved <= most, {"edge_ms": moved / NS_PER_MS}, f"an event's edge moved {moved / NS_PER_MS:.0f} ms")


TASK = AudioTask()
