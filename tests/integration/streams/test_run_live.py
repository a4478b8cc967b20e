"""Live sources: paced, interrupted, silent, and mixed with others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from stream_helpers import box_of, level_model, pipeline, run_one  # type: ignore[import-not-found]

from serving.errors import ServingError, SourceInvalid, SourceStalled, SourceUnreachable
from serving.frames import Origin, Picture, SourceKind, StreamInfo
from serving.media import MediaEvent, PictureSeen
from serving.streams.drawing import Drawing
from serving.streams.ingest import ReconnectRules
from serving.streams.run import RunSettings, run
from serving.streams.source_run import SourceJob
from serving.streams.worker import Region
from serving.testing.list_source import Connection, ListReader, ListSource, grey, steady
from serving.tracking.bytetrack import ByteTrack
from serving.types import Detections, InferRequest, InferResponse, PixelArray

QUICK = RunSettings(rules=ReconnectRules(first_s=0.02, most_s=0.05, lease_s=0.4))


def measured_on_own_frames(shown: Sequence[object]) -> bool:
    seen = 0
    for frame in shown:
        level = float(frame.frame.picture.rgb().mean())  # type: ignore[attr-defined]
        for overlay in frame.overlays:  # type: ignore[attr-defined]
            for box, origin in zip(overlay.boxes.xyxy.tolist(), overlay.origin.tolist(), strict=True):
                if origin == Origin.MEASURED.value:
                    seen += 1
                    if abs(box[0] - box_of(level)[0]) > 0.3:
                        return False
    return seen > 0


def test_a_live_source_is_shown_at_a_constant_delay_and_ends_by_its_lease() -> None:
    source = ListSource("cam", [Connection(steady(60, level=lambda n: 3 * n), silent_s=0.1)], pace_s=1 / 30)
    ran = run_one(source, settings=QUICK)
    assert ran.summary.ok and ran.source.balances["level"].accepted == 60 and len(ran.shown) == 60
    assert measured_on_own_frames(ran.shown)
    lateness = [s.released_mono_ns - s.deadline_mono_ns for s in ran.shown if s.deadline_mono_ns]
    assert min(lateness) >= 0 and sorted(lateness)[len(lateness) // 2] < 40e6
    assert len(ran.lines) == 60


def test_a_reconnect_is_one_epoch_more_and_no_box_crosses() -> None:
    first = steady(20, level=lambda n: 2 * n)
    again = steady(20, level=lambda n: 100 + 2 * n)
    broken = Connection(first, end=SourceUnreachable("gone"), silent_s=0.1)
    source = ListSource("cam", [broken, Connection(refuse=SourceUnreachable("no")), Connection(again)], pace_s=0.03)
    ran = run_one(source, [pipeline(new_tracker=lambda: ByteTrack())], QUICK)
    assert ran.source.epochs == 2 and ran.source.balances["level"].accepted == 40 and ran.summary.ok
    assert measured_on_own_frames(ran.shown)
    assert [s.frame.epoch for s in ran.shown] == [1] * 20 + [2] * 20
    assert [s.discontinuity for s in ran.shown].count(True) == 1
    outs = [s.out_pts_ns for s in ran.shown]
    assert outs == sorted(set(outs))
    for shown in ran.shown:
        low = float(shown.frame.picture.rgb().mean()) < 90
        assert all((box[0] < 25) == low for box in shown.overlays[0].boxes.xyxy.tolist())


@pytest.mark.parametrize(
    "connections",
    [
        [Connection(refuse=SourceUnreachable("nobody"))] * 50,
        [Connection(end=SourceStalled("silent"), silent_s=0.2)] * 10,
        [Connection(end=SourceInvalid("garbage"))] * 50,
    ],
    ids=["never_connects", "connects_and_stays_silent", "sends_garbage"],
)
def test_a_source_without_pictures_ends_by_its_lease(connections: list[Connection]) -> None:
    started = time.monotonic()
    ran = run_one(ListSource("cam", connections), settings=QUICK)
    assert time.monotonic() - started < 5
    assert not ran.summary.ok and ran.source.error_code.startswith("source_") and ran.lines == []


def test_a_slow_model_sheds_by_age_and_everything_is_accounted_for() -> None:
    def slow(requests: Sequence[InferRequest]) -> list[InferResponse | ServingError]:
        time.sleep(0.12)
        return level_model(requests)

    source = ListSource("cam", [Connection(steady(60, level=lambda n: 3 * n))], pace_s=1 / 30)
    ran = run_one(source, [pipeline(infer=slow)], QUICK)
    balance = ran.source.balances["level"]
    assert ran.summary.ok and balance.accepted == 60 == balance.results + balance.dropped
    assert {"stale"} <= set(dict(balance.reasons)) <= {"stale", "overload"} and balance.results >= 4
    assert len(ran.shown) + ran.source.skipped == 60 and measured_on_own_frames(ran.shown)


def test_stamps_hours_away_and_a_restart_at_zero() -> None:
    pictures = steady(60, level=lambda n: 3 * n)
    pictures[20] = (pictures[20][0] + 10 * 3600 * 90_000, pictures[20][1])
    restart = steady(30, level=lambda n: 3 * n)
    source = ListSource("cam", [Connection([*[(p + 90_000_000, r) for p, r in pictures], *restart])], pace_s=0.02)
    ran = run_one(source, settings=QUICK)
    balance = ran.source.balances["level"]
    assert ran.source.epochs == 2 and dict(balance.reasons).get("bad_pts") == 1 and ran.summary.ok
    assert measured_on_own_frames(ran.shown)


def test_a_thousand_pictures_a_second_are_shed_at_ingest() -> None:
    source = ListSource("cam", [Connection(steady(400, step=90, level=lambda n: n % 200))], pace_s=0.001)
    ran = run_one(source, settings=QUICK)
    balance = ran.source.balances["level"]
    assert ran.summary.ok and balance.accepted == 400 and dict(balance.reasons)["overload"] > 200


def test_one_silent_source_costs_the_others_nothing() -> None:
    good = ListSource("good", [Connection(steady(40, level=lambda n: 3 * n))], pace_s=1 / 30)
    bad = ListSource("bad", [Connection(end=SourceStalled("silent"), silent_s=0.3)] * 20)
    jobs = [SourceJob(source, Drawing({}), lambda stream: []) for source in (bad, good)]
    silent, healthy = run(jobs, [pipeline()], QUICK).sources
    assert healthy.ok and healthy.balances["level"].results >= 39 and silent.error_code == "source_stalled"


class Fussy:
    """A tracker that fails on every picture."""

    def update(self, detections: Detections, pts_ns: int) -> Detections:
        raise ValueError("cost matrix is infeasible")


SMALLER = [(3000 * n, grey(9, 32, 24)) for n in range(10, 20)]


@pytest.mark.parametrize(
    ("region", "pictures", "results", "code", "words"),
    [
        (Region(mask=np.ones((48, 64), np.bool_)), [*steady(10), *SMALLER], 10, "parameter_invalid", "expected 32x24"),
        (Region(new_tracker=Fussy), steady(20), 0, "engine_failed", "gate: epoch 1, frame 0: ValueError: cost matrix"),
    ],
    ids=["a_mask_of_the_size_before", "a_tracker_that_raises"],
)
def test_what_does_not_suit_one_source_costs_the_others_nothing(
    region: Region, pictures: list[tuple[int, PixelArray]], results: int, code: str, words: str
) -> None:
    gate = ListSource("gate", [Connection(pictures)], SourceKind.FILE)
    yard = ListSource("yard", [Connection(steady(40))], SourceKind.FILE)
    jobs = [SourceJob(gate, Drawing({}), lambda stream: [], region=region)]
    jobs.append(SourceJob(yard, Drawing({}), lambda stream: []))
    summary = run(jobs, [pipeline()])
    bad, good = summary.sources
    assert good.ok and good.balances["level"].results == 40 and not summary.ok
    assert bad.error_code == code and words in bad.error and bad.balanced
    assert bad.balances["level"].results == results and [r for r, _ in bad.balances["level"].reasons] == [
        "retry_exhausted"
    ]


def test_a_picture_that_does_not_decode_costs_itself() -> None:
    class Torn(ListSource):
        def connect(self) -> ListReader:
            return TornReader(self, self.connections[0])

    class TornReader(ListReader):
        def events(self) -> Iterator[MediaEvent]:
            for event in super().events():
                torn = isinstance(event, PictureSeen) and event.tag == 3
                yield replace(event, picture=Picture(load=refuse)) if torn else event

    def refuse() -> PixelArray:
        raise ValueError("img3.png: No such file or directory")

    ran = run_one(Torn("folder", [Connection(steady(10))], SourceKind.FILE))
    assert ran.summary.ok and dict(ran.source.balances["level"].reasons) == {"decode_error": 1}
    assert ran.source.balances["level"].results == 9


def test_a_live_source_in_segments_is_shown_two_target_durations_behind() -> None:
    """The pictures of a segment come at once, so the delay of other sources would show them in bursts."""

    class Segmented(ListSource):
        def connect(self) -> ListReader:
            return SegmentedReader(self, self.connections[0])

    class SegmentedReader(ListReader):
        def _info(self, rgb: PixelArray) -> StreamInfo:
            return replace(super()._info(rgb), segment_ns=600_000_000)

    source = Segmented("cam", [Connection(steady(20, level=lambda n: 3 * n), silent_s=5.0)], pace_s=0.001)
    ran = run_one(source, settings=replace(QUICK, rules=ReconnectRules(lease_s=0.2)))
    assert ran.source.balances["level"].results == 20 and len(ran.shown) == 20 and measured_on_own_frames(ran.shown)
    delays = [s.deadline_mono_ns - s.frame.arrival_mono_ns for s in ran.shown if s.deadline_mono_ns]
    assert max(delays) >= 1.19e9, "two target durations for the last picture of the segment"
    assert min(delays) >= 0.3e9, "and time is left for the first one, although the whole segment was there with it"
