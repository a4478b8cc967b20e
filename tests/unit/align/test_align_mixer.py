"""The mixer's rules, one by one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from serving.align import Joined, Mixer, MixerFull, MixerSettings
from serving.align.anchor import Anchor
from serving.align.durations import AnalysisInterval
from serving.align.watermark import Watermark
from serving.frames import AlignedFrame, DroppedRun, DropReason, Frame, FrameKey, FrameResult, Origin, Outcome, Posting
from serving.types import Classification, Detections

MS = 1_000_000
S = 1000 * MS


def frame(
    i: int, epoch: int = 1, analyse: bool = True, step_ms: int = 40, pipelines: tuple[str, ...] = ("p",)
) -> Frame:
    return Frame("s", epoch, i, i * step_ms * MS, i, Fraction(1, 25), pipelines, 0, analyse=analyse)


def boxes(tracks: dict[int, float], score: float = 0.5, tracked: bool = True) -> Detections:
    xyxy = np.array([[x, 0, x + 10, 20] for x in tracks.values()], np.float32).reshape(-1, 4)
    n, ids = len(tracks), np.array(list(tracks), np.int64)
    return Detections(xyxy, np.full(n, score, np.float32), np.zeros(n, np.int64), ids if tracked else None)


def post(f: Frame, found: Detections | None, pipeline: str = "p") -> Posting:
    if found is None:
        return Posting(f.ledger_key(pipeline), f.pts_ns, Outcome.dropped(DropReason.STALE))
    return Posting(f.ledger_key(pipeline), f.pts_ns, Outcome.of_result(FrameResult("m", 1, "detection", found, "h")))


def seen(shown: AlignedFrame) -> list[tuple[int, float, str]]:
    o = shown.overlays[0]
    ids = o.boxes.tracker_id if o.boxes.tracker_id is not None else [-1] * len(o.boxes)
    rows = zip(ids, o.boxes.xyxy[:, 0], o.origin, strict=True)
    return [(int(t), round(float(x), 2), Origin(int(k)).name.lower()) for t, x, k in rows]


def mix_file(found: list[Detections | None], **settings: float) -> list[list[tuple[int, float, str]]]:
    mixer, out = Mixer("s", MixerSettings(live=False, **settings)), []  # type: ignore[arg-type]
    for i, what in enumerate(found):
        out += mixer.frame(frame(i), 0)
        mixer.post(post(frame(i), what), 0)
        out += mixer.poll(0)
    mixer.end()
    return [seen(s) for s in out + mixer.poll(0)]


def test_a_track_appears_after_two_measured_frames() -> None:
    shown = mix_file([boxes({1: 0.0}), boxes({1: 1.0}), boxes({1: 2.0})])
    assert shown == [[], [(1, 1.0, "measured")], [(1, 2.0, "measured")]]


def test_or_at_once_with_a_high_score() -> None:
    assert mix_file([boxes({1: 0.0}, 0.9)]) == [[(1, 0.0, "measured")]]
    assert mix_file([boxes({1: 0.0}, 0.9)], high_threshold=0.95) == [[]]


def test_between_two_measurements_a_box_is_interpolated_in_centre_and_log_size() -> None:
    a, b = boxes({1: 0.0}, 0.9), boxes({1: 30.0}, 0.9)
    b.xyxy[0, 2] = b.xyxy[0, 0] + 40
    shown = mix_file([a, None, None, b])
    assert [s[0][2] for s in shown] == ["measured", "interpolated", "interpolated", "measured"]
    centre, width = 5 + (50 - 5) / 3, 10 * 4 ** (1 / 3)
    assert shown[1][0][1] == pytest.approx(centre - width / 2, abs=0.01)


def test_beyond_the_last_measurement_a_box_goes_on_for_h_and_hides() -> None:
    shown = mix_file([boxes({1: 0.0}, 0.9), boxes({1: 4.0}, 0.9)] + [boxes({})] * 30)
    assert shown[2] == [(1, 8.0, "extrapolated")] and shown[3] == [(1, 12.0, "extrapolated")]
    last = max(i for i, s in enumerate(shown) if s)
    assert last == 1 + 150 // 40


def test_a_track_measured_once_stays_where_it_was() -> None:
    assert mix_file([boxes({1: 5.0}, 0.9), boxes({})])[1] == [(1, 5.0, "extrapolated")]


def test_the_other_tracks_of_a_measured_frame_are_kept_over_a_hole() -> None:
    shown = mix_file([boxes({1: 0.0, 2: 50.0}, 0.9), boxes({1: 4.0}, 0.9), boxes({1: 8.0, 2: 50.0}, 0.9)])
    assert shown[1] == [(1, 4.0, "measured"), (2, 50.0, "extrapolated")]


def test_without_tracking_nothing_is_filled_or_held_back() -> None:
    shown = mix_file([boxes({1: 0.0}, 0.1, tracked=False), None, boxes({1: 0.0}, 0.1, tracked=False)])
    assert shown == [[(-1, 0.0, "measured")], [], [(-1, 0.0, "measured")]]


def test_results_without_boxes_draw_nothing_and_are_not_missing() -> None:
    mixer = Mixer("s", MixerSettings(live=False))
    mixer.frame(frame(0), 0)
    answer = FrameResult("m", 1, "classification", Classification(np.array([1]), np.array([0.5], np.float32)), "h")
    mixer.post(Posting(frame(0).ledger_key("p"), 0, Outcome.of_result(answer)), 0)
    (shown,) = mixer.poll(0)
    assert not shown.overlays[0].missing and len(shown.overlays[0].boxes) == 0


def test_no_box_crosses_an_epoch() -> None:
    mixer, out = Mixer("s", MixerSettings(live=False)), []
    for i in range(3):
        mixer.frame(frame(i), 0)
        mixer.post(post(frame(i), boxes({1: float(i)}, 0.9)), 0)
    mixer.frame(frame(0, epoch=2), 0)
    mixer.post(post(frame(0, epoch=2), None), 0)
    mixer.end()
    out = mixer.poll(0)
    assert [seen(s) for s in out][3] == [] and out[3].discontinuity and not out[0].discontinuity


def test_output_time_goes_on_over_epochs() -> None:
    mixer, out = Mixer("s"), []
    for i in range(3):
        out += mixer.frame(frame(i), i * 40 * MS)
    out += mixer.poll(S) + mixer.frame(frame(0, epoch=2), 5 * S) + mixer.poll(6 * S)
    assert [s.out_pts_ns // MS for s in out] == [0, 40, 80, 80 + 5000 - 80]


def test_output_time_of_files_goes_on_by_the_nominal_duration() -> None:
    mixer = Mixer("s", MixerSettings(live=False))
    for at, f in enumerate([frame(0), frame(1), frame(2), frame(0, epoch=2)]):
        mixer.frame(f, at * 100 * S)
        mixer.post(post(f, None), 0)
    mixer.end()
    assert [s.out_pts_ns // MS for s in mixer.poll(0)] == [0, 40, 80, 120]


def test_a_live_frame_is_shown_at_its_deadline_with_or_without_a_result() -> None:
    mixer = Mixer("s")
    mixer.frame(frame(0), 7 * S)
    mixer.frame(frame(1), 7 * S + 40 * MS)
    mixer.post(post(frame(1), boxes({1: 0.0}, 0.9)), 7 * S + 100 * MS)
    assert mixer.poll(7 * S + 250 * MS - 1) == [] and mixer.next_due_ns == 7 * S + 250 * MS
    (first,) = mixer.poll(7 * S + 250 * MS)
    assert first.overlays[0].missing and first.deadline_mono_ns == 7 * S + 250 * MS
    (second,) = mixer.poll(7 * S + 290 * MS)
    assert not second.overlays[0].missing


def test_a_late_result_is_drawn_nowhere_but_teaches_where_its_track_was() -> None:
    mixer, shown = Mixer("s", MixerSettings(delay_ns=50 * MS)), []
    for i in range(6):
        now = i * 40 * MS
        shown += mixer.frame(frame(i), now)
        if i >= 3:
            assert mixer.post(post(frame(i - 3), boxes({1: float(i - 3)}, 0.9)), now) is Joined.SHOWN
        shown += mixer.poll(now + 39 * MS)
    assert seen(shown[3]) == [(1, 3.0, "extrapolated")] and seen(shown[4]) == [(1, 4.0, "extrapolated")]
    assert mixer.counters.late == 3


def test_wrong_keys_are_drawn_nowhere() -> None:
    mixer = Mixer("s", MixerSettings(live=False))
    mixer.frame(frame(0), 0)
    wrong = Posting(frame(0).ledger_key("p"), 40 * MS, post(frame(1), boxes({1: 0.0}, 0.9)).outcome)
    assert mixer.post(wrong, 0) is Joined.NO_PICTURE
    mixer.frame(frame(1), 0)
    assert mixer.post(wrong, 0) is Joined.MISMATCH
    assert mixer.post(Posting(frame(0).ledger_key("q"), 0, wrong.outcome), 0) is Joined.MISMATCH
    assert mixer.counters.mismatched == 2


def test_results_may_come_before_their_frame_and_are_bounded() -> None:
    mixer = Mixer("s", MixerSettings(live=False))
    assert mixer.post(post(frame(0), boxes({1: 3.0}, 0.9)), 0) is Joined.EARLY
    for i in range(1, 6000):
        mixer.post(post(frame(i), None), 0)
    assert mixer.counters.early_refused == 6000 - 4096
    mixer = Mixer("s", MixerSettings(live=False))
    mixer.post(post(frame(0), boxes({1: 3.0}, 0.9)), 0)
    mixer.frame(frame(0), 0)
    assert seen(mixer.poll(0)[0]) == [(1, 3.0, "measured")]


def test_a_lower_epoch_after_a_higher_one_is_never_shown() -> None:
    mixer = Mixer("s")
    shown = mixer.frame(frame(0, epoch=2), 0) + mixer.frame(frame(5, epoch=1), 0) + mixer.poll(S)
    assert [s.frame.epoch for s in shown] == [2] and mixer.counters.fenced == 1


def test_a_mixer_that_starts_on_a_backlog_shows_the_newest() -> None:
    mixer, shown = Mixer("s"), []
    for i in range(50):
        shown += mixer.frame(frame(i), 0, at_end=False) + mixer.poll(0)
    assert shown == [] and mixer.held == 1
    shown += mixer.frame(frame(50), MS) + mixer.poll(S // 4 + 2 * MS)
    assert [s.frame.frame_seq for s in shown] == [49, 50] and mixer.counters.jumps == 1
    assert shown[0].out_pts_ns == 0


def test_a_mixer_that_was_stopped_jumps_to_the_newest() -> None:
    mixer, shown = Mixer("s"), []
    for i in range(4):
        shown += mixer.frame(frame(i), i * 40 * MS)
    shown += mixer.poll(20 * S)
    assert [s.frame.frame_seq for s in shown] == [3]
    assert (mixer.counters.jumps, mixer.counters.skipped) == (1, 3)


def test_a_source_that_falls_behind_for_good_gets_its_delay_again() -> None:
    """A detour of 3 s in the network: without a new anchor no result would be in time for 100 minutes."""
    mixer, shown = Mixer("s"), []
    for i in range(200):
        now = i * 40 * MS + (3 * S if i >= 100 else 0)
        while (due := mixer.next_due_ns) is not None and due <= now:
            shown += mixer.poll(due)
        shown += mixer.frame(frame(i), now) + mixer.poll(now)
    late = [s for s in shown if s.frame.frame_seq > 101]
    assert len(late) > 80 and all(s.released_mono_ns - 3 * S - s.frame.pts_ns == S // 4 for s in late)


def test_pictures_are_bounded_when_everything_comes_at_once() -> None:
    mixer, shown = Mixer("s", MixerSettings(reorder_depth=2)), []
    for i in range(200):
        shown += mixer.frame(frame(i, step_ms=17), 0)
    assert mixer.held == mixer.settings.bound(0) == 18
    assert [s.frame.frame_seq for s in shown] == list(range(182))


def test_a_burst_of_early_frames_leaves_early_rather_than_being_lost() -> None:
    mixer, shown = Mixer("s"), []
    for i in range(100):
        shown += mixer.frame(frame(i), 5 * S + i * 40 * MS) + mixer.poll(5 * S + i * 40 * MS)
    for i in range(100, 150):  # the network catches up on 2 s all at once
        shown += mixer.frame(frame(i), 9 * S)
    early = [s for s in shown if s.deadline_mono_ns is not None and s.released_mono_ns < s.deadline_mono_ns]
    assert mixer.held == 16 and mixer.counters.released_early == len(early) == 40
    assert [s.frame.frame_seq for s in shown] == list(range(134))


def test_a_full_file_mixer_says_so_and_never_blocks_itself() -> None:
    mixer, i, shown = Mixer("s", MixerSettings(live=False)), 0, []
    while not mixer.full:
        shown += mixer.frame(frame(i, step_ms=17), 0)
        i += 1
    with pytest.raises(MixerFull, match="pictures held"):
        mixer.frame(frame(i), 0)
    for n in range(i):
        mixer.post(post(frame(n, step_ms=17), None), 0)
    assert mixer.poll(0) and not mixer.full


def test_files_wait_for_the_next_analysed_frame_within_h() -> None:
    mixer = Mixer("s", MixerSettings(live=False))
    frames = [frame(i, analyse=i % 3 == 0) for i in range(7)]
    out: list[AlignedFrame] = []
    for f in frames:
        mixer.frame(f, 0)
    mixer.post(post(frames[0], boxes({1: 0.0}, 0.9)), 0)
    out += mixer.poll(0)
    assert [s.frame.frame_seq for s in out] == [0]
    mixer.post(post(frames[3], boxes({1: 12.0}, 0.9)), 0)
    out += mixer.poll(0)
    assert [s.frame.frame_seq for s in out] == [0, 1, 2, 3]
    assert seen(out[1]) == [(1, 4.0, "interpolated")] and seen(out[2]) == [(1, 8.0, "interpolated")]


def test_resume_shows_nothing_twice_and_goes_on_in_output_time() -> None:
    mixer = Mixer("s", MixerSettings(live=False))
    mixer.resume(FrameKey("s", 1, 80 * MS), 500 * MS)
    for i in range(5):
        mixer.frame(frame(i), 0)
        mixer.post(post(frame(i), boxes({1: float(i)}, 0.5)), 0)
    out = mixer.poll(0)
    assert [(s.frame.frame_seq, s.out_pts_ns // MS) for s in out] == [(3, 540), (4, 580)]
    assert seen(out[0]) == [(1, 3.0, "measured")] and not out[0].discontinuity


def test_a_little_backlog_of_a_live_source_is_shown_where_an_output_goes_on() -> None:
    """After a restart: as it comes, then each frame at its deadline; without `catch_up` it jumps to the newest."""
    for little in (True, False):
        mixer = Mixer("s", MixerSettings(delay_ns=100 * MS, max_fps=25))
        mixer.resume(FrameKey("s", 1, 80 * MS), 500 * MS)
        if little:
            mixer.catch_up()
        out = []
        for i in range(60):
            mixer.post(post(frame(i), boxes({1: float(i)}, 0.5)), S)
            out += mixer.frame(frame(i), S, at_end=i == 59)
        out += mixer.poll(S)
        assert out == [] or [s.frame.frame_seq for s in out] == list(range(3, 3 + len(out)))
        assert (len(out) > 50) is little and all(seen(s)[0][2] == "measured" for s in out)
        assert mixer.counters.skipped == (0 if little else 58) and mixer.counters.released_early == 0
        before = len(out)
        out += mixer.poll(S + 99 * MS)
        assert len(out) == before + (2 if little else 1), "at their deadlines now"
        out += mixer.poll(S + 100 * MS)
        assert out[-1].frame.frame_seq == 59
        if little:
            assert [s.out_pts_ns // MS for s in out] == [540 + 40 * i for i in range(57)]
        mixer.frame(frame(200), S + 3 * S)
        mixer.frame(frame(201), S + 8 * S)
        assert mixer.poll(S + 12 * S) is not None and mixer.counters.jumps > 0, "only once"


def test_an_epoch_that_opened_while_nobody_mixed_follows_at_once_in_the_output() -> None:
    """What the clock said when the last process ended is not known here."""
    mixer = Mixer("s", MixerSettings(delay_ns=0))
    mixer.resume(FrameKey("s", 1, 80 * MS), 500 * MS)
    hours = 9 * 3600 * S
    (shown,) = mixer.frame(frame(0, epoch=2), hours) or mixer.poll(hours)
    assert shown.out_pts_ns == 540 * MS and shown.discontinuity


def test_dropped_runs_hold_no_picture() -> None:
    mixer = Mixer("s", MixerSettings(live=False))
    mixer.frame(DroppedRun("s", 1, 0, 9, DropReason.NO_PTS, ("p",)), 0)
    mixer.frame(frame(10), 0)
    assert mixer.held == 1 and mixer.post(post(frame(3), None), 0) is Joined.NO_PICTURE


def test_the_anchor_falls_freely_for_two_seconds_and_then_slews() -> None:
    anchor = Anchor()
    anchor.sample(5 * S, 0)
    anchor.sample(5 * S + 40 * MS, 140 * MS)
    assert anchor.value_ns == 4900 * MS
    anchor.sample(6 * S, S)
    assert anchor.value_ns == 4900 * MS
    anchor.sample(8 * S, 3300 * MS)  # 200 ms lower, after the first two seconds
    assert anchor.value_ns == 4900 * MS - 2 * S * 500 // 1_000_000
    before = anchor.value_ns
    for i in range(1, 1000):
        anchor.sample(8 * S + i * 40 * MS, 3300 * MS + i * 40 * MS)
        assert 0 <= before - anchor.value_ns <= 20_000
        before = anchor.value_ns


def test_the_anchor_follows_a_slow_camera_up() -> None:
    anchor = Anchor()
    for i in range(5000):
        anchor.sample(i * 40 * MS, i * 40 * MS - i * 4_000)  # 100 ppm
    assert anchor.value_ns is not None
    assert 5000 * 4_000 - anchor.value_ns <= 30 * S * 100 // 1_000_000 + MS


def test_h_follows_the_analysis_interval() -> None:
    interval = AnalysisInterval()
    assert interval.h_ns == S
    for i in range(20):
        interval.add(i * 33 * MS)
    assert (interval.interval_ns, interval.h_ns) == (33 * MS, 150 * MS)
    for i in range(20):
        interval.add(20 * 33 * MS + i * 200 * MS)
    assert interval.h_ns == 500 * MS
    for i in range(20):
        interval.add(10 * S + i * 900 * MS)
    assert interval.h_ns == S


def test_the_watermark_covers_what_is_settled() -> None:
    mark = Watermark()
    for pts in (0, 40, 80, 120):
        mark.frame(pts)
    mark.terminal(40)
    assert mark.value_ns is None and not mark.covers(0)
    mark.terminal(0)
    assert mark.value_ns == 40 and mark.covers(40) and not mark.covers(80)
    mark.past_deadline(80)
    assert mark.value_ns == 80


@pytest.mark.parametrize("tracks", [1, 5, 6, 20])
def test_a_measurement_that_comes_while_boxes_are_filled_changes_where_they_go(tracks: int) -> None:
    """Live, and for few tracks as for many: extrapolated until the next result comes, then interpolated towards it."""
    mixer, shown = Mixer("s", MixerSettings(delay_ns=400 * MS)), []

    def result(i: int, x: float) -> None:
        mixer.post(post(frame(i), boxes({t: x + t for t in range(tracks)}, 0.9)), 400 * MS)

    for i in range(11):
        shown += mixer.frame(frame(i, analyse=i in (0, 3, 8, 10)), i * 40 * MS)
    for i, x in ((0, 0.0), (3, 12.0)):
        result(i, x)
    shown += mixer.poll(400 * MS + 4 * 40 * MS)
    result(10, 82.0)
    shown += mixer.poll(400 * MS + 5 * 40 * MS)
    result(8, 22.0)
    shown += mixer.poll(400 * MS + 7 * 40 * MS)
    last, top = [seen(s)[-1] for s in shown], tracks - 1
    assert last[4] == (top, 16.0 + top, "extrapolated")
    assert last[5] == (top, 12 + 70 * 2 / 7 + top, "interpolated"), "towards frame 10"
    assert last[6] == (top, 12 + 10 * 3 / 5 + top, "interpolated"), "towards frame 8, which is nearer"
    assert last[7] == (top, 12 + 10 * 4 / 5 + top, "interpolated")


def test_nothing_is_interpolated_over_more_than_h() -> None:
    """H is 150 ms: a measurement 160 ms after the last one is too far to draw a line to."""
    first = [boxes({1: 0.0}, 0.9), boxes({1: 4.0}, 0.9)]
    near = mix_file([*first, None, None, boxes({1: 40.0}, 0.9)])
    far = mix_file([*first, None, None, None, boxes({1: 40.0}, 0.9)])
    assert [s[0][2] for s in near[2:4]] == ["interpolated"] * 2
    assert far[2:5] == [[(1, 8.0, "extrapolated")], [(1, 12.0, "extrapolated")], [(1, 16.0, "extrapolated")]]
