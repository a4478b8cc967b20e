"""Consensus over a track: one name for all its frames once enough agree, unknowns kept apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.tasks.pipeline import PipelineResult, TrackNames

PIXELS = np.zeros((4, 4, 3), np.uint8)


def identity(subject: str = "", score: float = 0.95, reason: str = "below_threshold") -> dict[str, Any]:
    known = {"status": "known", "label": subject.title(), "subject": subject, "score": score, "margin": 0.1}
    return known if subject else {"status": "unknown", "label": "unknown", "score": 0.2, "margin": 0, "reason": reason}


def frame(*tracks: tuple[int, dict[str, Any] | None]) -> PipelineResult:
    n = len(tracks)
    joined = tuple({} if found is None else {"who": found} for _, found in tracks)
    names = tuple("" if found is None else found["label"] for _, found in tracks)
    ids = np.array([track for track, _ in tracks], np.int64)
    return PipelineResult(
        np.zeros((n, 4), np.float32), np.ones(n, np.float32), np.zeros(n, np.int64), ids, joined=joined, names=names
    )


def after(session: TrackNames, *frames: PipelineResult) -> PipelineResult:
    for number, one in enumerate(frames):
        found = session.update(one, number * 40_000_000, PIXELS)
    assert isinstance(found, PipelineResult)
    return found


def test_a_name_comes_with_the_third_frame_and_stays_over_a_wrong_one() -> None:
    session = TrackNames(["who"])
    assert after(session, frame((1, identity("anna")))).names == ("unknown",)
    assert after(session, frame((1, identity("anna")))).names == ("unknown",)
    third = after(session, frame((1, identity("anna"))))
    assert third.names == ("Anna",) and third.joined[0]["track"] == {
        "status": "known", "subject": "anna", "label": "Anna", "votes": 3, "of": 3,
    }  # fmt: skip
    wrong = after(session, frame((1, identity("ben"))))
    assert wrong.names == ("Anna",) and wrong.joined[0]["who"]["subject"] == "ben", "what the frame said stays told"


def test_a_frame_without_a_good_face_is_called_by_its_track() -> None:
    session = TrackNames(["who"])
    after(session, *[frame((1, identity("anna")))] * 3)
    assert after(session, frame((1, None))).names == ("Anna",)
    blurred = after(session, frame((1, identity(reason="low_quality: blurred"))))
    assert blurred.names == ("Anna",) and blurred.joined[0]["track"]["of"] == 3


def test_a_share_too_small_is_unknown() -> None:
    session = TrackNames(["who"])
    frames = [frame((1, identity("anna"))), frame((1, identity()))] * 4
    found = after(session, *frames)
    assert found.names == ("unknown",) and found.joined[0]["track"]["votes"] == 4


def test_tracks_are_told_apart_and_boxes_without_one_keep_their_own() -> None:
    session = TrackNames(["who"])
    found = after(session, *[frame((1, identity("anna")), (2, identity("ben")), (-1, identity("cleo")))] * 3)
    assert found.names == ("Anna", "Ben", "Cleo") and "track" not in found.joined[2]


@pytest.mark.parametrize("steps", [[], ["other"]])
def test_a_pipeline_without_galleries_is_left_alone(steps: list[str]) -> None:
    given = frame((1, identity("anna")))
    assert after(TrackNames(steps), given).names == given.names


def test_tracks_long_gone_are_forgotten() -> None:
    session = TrackNames(["who"])
    for track in range(200):
        session.update(frame((track, identity("anna"))), track * 2_000_000_000, PIXELS)
    assert len(session._tracks) < 120


def test_columns_must_have_the_length_of_the_boxes() -> None:
    box = np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="names: expected 1 names, got 0"):
        PipelineResult(*box)
    with pytest.raises(ValueError, match="joined: expected 1, one a box, got 0"):
        PipelineResult(*box, names=("a",))
