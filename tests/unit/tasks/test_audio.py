"""Scores -> events: hysteresis, hangover, pieces of a stream equal to the whole, flips named by place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evaluation.metrics.events import score_by_class, score_events
from serving.errors import SpecInvalid
from serving.sequences import run_windows
from serving.spec import ModelSpec, SoundSpec
from serving.tasks import task_named
from serving.tasks.audio import AudioTask, events_of
from serving.tasks.audio_session import SoundSession, audio_of
from serving.tasks.events import EventMaker, EventRules, match_events
from serving.types import Array, AudioEvents, InferRequest, InferResponse
from tests.unit.preprocess.test_sound import file_of, tone

MS = 1_000_000
RULE = SoundSpec(sample_rate=16_000, window=160)  # 10 ms
RULES = EventRules(0.5, 0.35, 50 * MS, 40 * MS, 0, (0,))
NO_PICTURE = np.zeros((1, 1, 3), np.uint8)


def spec(**changes: object) -> ModelSpec:
    values: dict[str, object] = {
        "name": "ears", "task": "audio", "checkpoint": {"path": "x.pth"}, "factory": {"callable": "a:b"},
        "sound": {"sample_rate": 16_000, "window": 160}, "labels": ["speech"], "outputs": ["probability"],
        "options": {"min_duration_ms": 50, "min_silence_ms": 40, "pad_ms": 0}, "parity": {"samples": "s"},
    }  # fmt: skip
    return ModelSpec.model_validate(values | changes)


def scores(text: str) -> Array:
    """One window a character: 0 to 9 are tenths."""
    return np.array([[int(c) / 10] for c in text], np.float32)


def made(text: str) -> list[tuple[int, int]]:
    """Begin and end of each event, in windows."""
    found = EventMaker(RULE, RULES).feed(scores(text), last=True)
    return [(a // (10 * MS), b // (10 * MS)) for a, b in zip(found.start_ns, found.end_ns, strict=True)]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("0000000000", []),
        ("0009999990000", [(3, 9)]),
        ("0009444990000", [(3, 9)]),  # under on, over off: goes on
        ("000999119990000", [(3, 11)]),  # a hole shorter than the hangover
        ("00099999111119999900", [(3, 8), (13, 18)]),
        ("00099000", []),  # too short to tell
        ("00009999999", [(4, 11)]),  # open at the end
    ],
)
def test_hysteresis_and_hangover(text: str, events: list[tuple[int, int]]) -> None:
    assert made(text) == events


@pytest.mark.parametrize("sizes", [[1], [3], [7, 1], [50]])
def test_pieces_of_a_stream_give_the_events_of_the_whole(sizes: list[int]) -> None:
    text = "000999119990000" * 3 + "0009990000" + "0000099999999"  # one that is too short to tell
    whole = EventMaker(RULE, RULES).feed(scores(text), last=True)
    maker, last, at, turn = EventMaker(RULE, RULES), {}, 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        piece = maker.feed(scores(text[at : at + size]), last=at + size >= len(text))
        for row in zip(piece.event_id.tolist(), piece.start_ns.tolist(), piece.end_ns.tolist(), strict=True):
            last[row[0]] = row[1:]
        at, turn = at + size, turn + 1
    assert list(last.values()) == list(zip(whole.start_ns.tolist(), whole.end_ns.tolist(), strict=True))


def test_a_gap_in_time_ends_what_was_open() -> None:
    maker = EventMaker(RULE, RULES)
    first = maker.feed(scores("999999"))
    assert first.open.tolist() == [True]
    maker.gap(10_000 * MS)
    second = maker.feed(scores("999999"), last=True)
    assert [(s // MS, e // MS) for s, e in zip(second.start_ns, second.end_ns, strict=True)] == [
        (0, 60), (10_000, 10_060)
    ]  # fmt: skip
    assert second.heard_ns[0] == 10_000 * MS


def test_a_flip_is_named_by_place_and_near_the_threshold_it_is_none() -> None:
    task, gate = AudioTask(), {"threshold": 0.5, "margin": 0.05}

    def result(values: Sequence[float]) -> AudioEvents:
        return audio_of(np.array(values, np.float32)[:, None], np.zeros(0, np.float32))

    reference = result([0.1, 0.9, 0.9, 0.52])
    assert task.agree(reference, result([0.2, 0.8, 0.9, 0.48]), gate, spec()).ok
    refused = task.agree(reference, result([0.1, 0.9, 0.3, 0.9]), gate, spec())
    assert not refused.ok
    assert refused.why == "1 of 4 decisions flip, first in window 2 at 0.020 s: 0.900 became 0.300"


@pytest.mark.parametrize(
    ("thresholds", "was", "became", "ok"),
    [
        ({}, 0.8, 0.6, True),
        ({"default": {"score_threshold": 0.7}}, 0.8, 0.6, False),
        ({"sure": {"score_threshold": 0.7}}, 0.6, 0.8, False),
        ({"sure": {"score_threshold": 0.7}}, 0.74, 0.6, True),
        ({}, 0.42, 0.3, False),  # events end 0.15 below where they begin
        ({"default": {"score_threshold": 0.7}}, 0.62, 0.52, False),
    ],
)
def test_a_flip_counts_where_events_of_any_scenario_begin_and_end(
    thresholds: dict[str, object], was: float, became: float, ok: bool
) -> None:
    reference, candidate = (
        audio_of(np.array([[score]], np.float32), np.zeros(0, np.float32)) for score in (was, became)
    )
    gate = {"threshold": 0.5, "margin": 0.05}
    assert AudioTask().agree(reference, candidate, gate, spec(thresholds=thresholds)).ok is ok


def test_the_document_and_back() -> None:
    task = AudioTask()
    found = task.postprocess({"probability": scores("0009999990000")}, None, spec(), {"score_threshold": 0.5})
    document = task.to_document(found, ("speech",))
    assert document["sound"] == {"start_pts_ns": 0, "end_pts_ns": 130 * MS, "windows": 13}
    assert document["events"][0] == {
        "event_id": 1, "class_id": 0, "label": "speech", "score": 0.9,
        "start_pts_ns": 30 * MS, "end_pts_ns": 90 * MS, "open": False,
    }  # fmt: skip
    assert task.to_document(task.from_document(document), ("speech",))["events"] == document["events"]


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"sound": None, "preprocess": {"width": 8, "height": 8}}, "needs `sound`"),
        ({"labels": []}, "labels"),
        ({"options": {"background": "noise"}}, "background"),
        ({"options": {"hysterese": 1}}, "hysterese"),
        ({"outputs": []}, "outputs"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(changes: dict[str, object], about: str) -> None:
    with pytest.raises(SpecInvalid, match=about):
        task_named("audio").check(spec(**changes))


class Counter:
    """A network with state: 0.9 while a window is louder than a tenth; the state counts windows."""

    rule = SoundSpec.model_validate(
        {"window": 160, "state": [{"input": "state", "output": "state_out", "shape": [1]}]}
    )  # fmt: skip

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        loud = np.abs(inputs["window"]).max(axis=1, keepdims=True) > 0.1
        return {"p": np.where(loud, 0.9, 0.0).astype(np.float32), "state_out": inputs["state"] + 1}

    def infer(self, requests: Sequence[InferRequest]) -> list[InferResponse]:
        answers = []
        for request in requests:
            assert request.tensors is not None
            windows, state = request.tensors["window"], {"state": request.tensors["state"][None]}
            out, after = run_windows(self.run, windows[None], self.rule, state)  # type: ignore[arg-type]
            answers.append(InferResponse(audio_of(out["p"][0], after["state"][0]), None, {}))
        return answers


def test_a_session_carries_state_windows_and_events_on_the_streams_time() -> None:
    network, begin_ns = Counter(), 5_000 * MS
    session = SoundSession(network.rule, RULES)
    samples = np.concatenate([np.zeros(3200), tone(0.4), np.zeros(3200)]).astype(np.float32)
    events = {}
    pts_ns = begin_ns
    for piece in np.array_split(samples, 11):
        answer = session.ask(InferRequest(encoded=file_of(piece)), network.infer, pts_ns)
        assert isinstance(answer, InferResponse)
        found = session.update(answer.result, pts_ns, NO_PICTURE)
        assert isinstance(found, AudioEvents)
        for event_id, event in zip(found.event_id.tolist(), events_of(found), strict=True):
            events[event_id] = event
        pts_ns += len(piece) * 1_000_000_000 // 16_000
    assert len(events) == 1
    start, end, _ = events[1]
    assert start == pytest.approx(5.2, abs=0.011) and end == pytest.approx(5.6, abs=0.011)
    assert session._state.tolist() == [len(samples) // 160]


def test_event_scores() -> None:
    truth = [(1.0, 2.0, 0), (4.0, 5.0, 0), (7.0, 8.0, 1)]
    found = [(1.1, 2.1, 0), (4.5, 5.0, 0), (7.0, 8.0, 0)]  # right, late, of another class
    scores_of = score_events([(truth, found)])
    assert (scores_of.matched, scores_of.misses, scores_of.false_alarms) == (1, 2, 2)
    assert scores_of.f1 == pytest.approx(1 / 3)
    assert score_by_class([(truth, found)])[1].recall == 0
    assert score_events([([], [])]).f1 == 1
    # One estimate cannot stand for two events, and the assignment is the best one, not the first.
    assert match_events([(0, 1, 0), (0.1, 1.1, 0)], [(0.15, 1.1, 0)]).matched == 1
    assert match_events([(0, 1, 0), (0.2, 1.2, 0)], [(0.1, 1.1, 0), (0.3, 1.3, 0)]).matched == 2
