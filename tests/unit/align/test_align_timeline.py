"""Ingest rules, one by one, and the bugs of other systems that they answer."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from serving.align import LocalClaims, PacketIn, PictureIn, SourceTimeline, TimelineSettings, pts_modulus
from serving.align.unwrap import FLV_MODULUS, MPEG_TS_MODULUS, centred_mod, ticks_to_ns, unwrap
from serving.frames import (
    NO_PTS,
    DroppedRun,
    DropReason,
    Frame,
    FrameRecord,
    PtsSource,
    SourceKind,
    StreamInfo,
    TimelineRecord,
)

S = 1_000_000_000
MS = 1_000_000


class Ingest:
    """A timeline with a hand on it: pictures 40 ms apart unless told otherwise."""

    def __init__(self, *, live: bool = True, depth: int = 0, modulus: int | None = None, **more: object) -> None:
        settings = TimelineSettings(**{k: v for k, v in more.items() if k in ("every", "max_fps", "window_ns")})  # type: ignore[arg-type]
        self.timeline = SourceTimeline("cam", "me", ("p",), LocalClaims(), settings)
        self.info = StreamInfo(
            "cam",
            SourceKind.LIVE if live else SourceKind.FILE,
            Fraction(1, 90_000),
            64,
            48,
            pts_modulus=modulus,
            reorder_depth=depth,
            hidden_frames=bool(more.get("hidden_frames")),
        )
        self.now = 0
        self.records: list[FrameRecord] = list(self.timeline.open(self.info, 0))

    def picture(self, raw: int | None, after: int = 40 * MS, **more: object) -> None:
        self.now += after
        self.records += self.timeline.picture(PictureIn(raw, self.now, **more), self.now)  # type: ignore[arg-type]

    def run(self, *raws: int | None) -> None:
        for raw in raws:
            self.picture(raw)

    def seen(self) -> list[tuple[int, int | str]]:
        return [(r.epoch, r.pts_ns if isinstance(r, Frame) else r.reason.value) for r in self.records]

    def pts_ms(self) -> list[int]:
        return [r.pts_ns // MS for r in self.records if isinstance(r, Frame)]


def test_frame_seq_has_no_holes_and_the_claim_lets_a_stranger_compute_pts_ns() -> None:
    ingest = Ingest(modulus=MPEG_TS_MODULUS)
    raws = [(MPEG_TS_MODULUS - 7200 + i * 3600) % MPEG_TS_MODULUS for i in range(5)]
    ingest.run(*raws[:2], None, *raws[3:])
    assert [r.frame_seq for r in ingest.records if isinstance(r, Frame)] == [0, 1, 2, 3, 4]
    claim = ingest.timeline.record
    assert claim is not None and (claim.epoch, claim.first_raw_pts, claim.pts_modulus) == (1, raws[0], MPEG_TS_MODULUS)
    ref = claim.u0
    for raw, record in zip(raws, ingest.records, strict=True):
        assert isinstance(record, Frame)
        ref = unwrap(raw, ref, claim.pts_modulus)
        if record.raw_pts is not None:
            assert record.pts_ns == ticks_to_ns(ref - claim.u0, claim.time_base)


def test_rounding_is_half_up_in_integers() -> None:
    assert [ticks_to_ns(t, Fraction(1, 2 * S)) for t in (0, 1, 2, 3, -1, -3)] == [0, 1, 1, 2, 0, -1]
    assert ticks_to_ns(MPEG_TS_MODULUS, Fraction(1, 90_000)) == 95443717688889  # no float has this


def test_unwrap_looks_both_ways() -> None:
    m = MPEG_TS_MODULUS
    assert centred_mod(m // 2, m) == -m // 2 and centred_mod(m // 2 - 1, m) == m // 2 - 1
    assert unwrap(5, m - 5, m) == m + 5
    assert unwrap(m - 5, m + 5, m) == m - 5
    assert unwrap(-3, 4, m) == -3 and unwrap(m + 7, 4, m) == 7  # values libav hands out outside [0, M)


def test_random_streams_near_a_wrap_unwrap_without_error_where_an_increment_fails() -> None:
    rng, m, one_way_wrong = random.Random(1), MPEG_TS_MODULUS, 0
    for _ in range(500):
        start, true = m - rng.randrange(0, 40_000), [0]
        for _ in range(40):
            true.append(true[-1] + rng.randrange(1000, 6000))
        order = [i for b in range(0, 40, 4) for i in (b + 4, b + 2, b + 1, b + 3)]  # packets of a 3-B pyramid
        ref = turns = last = start
        turns, wrong = 0, False
        for index in order:
            raw = (start + true[index]) % m
            ref = unwrap(raw, ref, m)
            assert ref == start + true[index]
            turns, last = turns + (raw < last % m), raw
            wrong |= raw + turns * m != start + true[index]
        one_way_wrong += wrong
    assert one_way_wrong > 250


@pytest.mark.parametrize(
    ("name", "modulus"),
    [
        ("mpegts", 1 << 33),
        ("mpeg", 1 << 33),
        ("hls", 1 << 33),
        ("rtsp", 1 << 32),
        ("flv", 1 << 31),
        ("mov,mp4,m4a,3gp,3g2,mj2", None),
    ],
)
def test_the_modulus_follows_from_the_container(name: str, modulus: int | None) -> None:
    assert pts_modulus(name) == modulus


def test_pts_past_zero_while_dts_is_before_the_wrap_is_no_step() -> None:
    """shaka-packager#1050."""
    ingest = Ingest(modulus=MPEG_TS_MODULUS)
    ingest.picture(10, packet_dts=MPEG_TS_MODULUS - 3000)
    ingest.picture(3610, packet_dts=600)
    assert ingest.seen() == [(1, 0), (1, 40 * MS)]


def test_many_wraps_in_a_row_open_no_epoch() -> None:
    """hls.js#3311: cue times after several wraps."""
    ingest = Ingest(live=False, modulus=FLV_MODULUS)
    step = FLV_MODULUS // 3
    ingest.run(*[(i * step) % FLV_MODULUS for i in range(20)])
    assert [r.pts for r in ingest.records if isinstance(r, Frame)] == [i * step for i in range(20)]


def test_the_no_pts_sentinel_is_no_time() -> None:
    """jmisb#427 printed INT64_MIN / 90000 as seconds."""
    ingest = Ingest(depth=1)
    ingest.run(0, NO_PTS, 7200)
    assert ingest.seen() == [(1, 0), (1, "no_pts"), (1, 80 * MS)]


def test_missing_pts_is_inferred_without_reordering_only() -> None:
    """torchcodec#1363 and gstreamer-media-SDK#78 copied DTS; PyAV#1105 took None for a time."""
    ingest = Ingest(depth=0)
    ingest.picture(0)
    ingest.picture(3600)
    ingest.picture(None, packet_dts=999)
    ingest.picture(10_800)
    assert ingest.seen() == [(1, 0), (1, 40 * MS), (1, 80 * MS), (1, 120 * MS)]
    inferred = [r.pts_source for r in ingest.records if isinstance(r, Frame)]
    assert inferred[2] is PtsSource.INFERRED and inferred[1] is PtsSource.CONTAINER


def test_pts_zero_is_a_time() -> None:
    """PyAV#493: 0 was taken for missing."""
    ingest = Ingest(depth=2)
    ingest.run(-3600, 0, 3600)
    assert ingest.pts_ms() == [0, 40, 80]


def test_first_decoded_duplicate_wins() -> None:
    ingest = Ingest(depth=2)
    ingest.run(0, 3600, 3600, 7200, 3600, 10_800)
    assert [x for _, x in ingest.seen()] == [0, 40 * MS, "duplicate_pts", 80 * MS, "duplicate_pts", 120 * MS]


def test_a_step_back_within_the_reorder_depth_is_out_of_order() -> None:
    ingest = Ingest(depth=2)
    ingest.run(0, 3600, 7200, 5400, 10_800)
    assert [x for _, x in ingest.seen()][3] == "out_of_order"


def test_a_step_back_beyond_the_depth_opens_an_epoch_and_keeps_the_first_picture() -> None:
    """Savant#182, go2rtc#1943: the camera starts again at 0."""
    ingest = Ingest()
    ingest.run(900_000, 903_600, 0, 3600, 7200)
    assert ingest.seen() == [(1, 0), (1, 40 * MS), (2, 0), (2, 40 * MS), (2, 80 * MS)]


def test_a_single_stray_stamp_is_bad_pts() -> None:
    """mediamtx#6255: DVR stamps hours away."""
    ingest = Ingest()
    ingest.run(0, 3600, 3600 * 90_000, 7200, -3600 * 90_000, 10_800)
    assert [x for _, x in ingest.seen()] == [0, 40 * MS, "bad_pts", 80 * MS, "bad_pts", 120 * MS]
    assert {e for e, _ in ingest.seen()} == {1}


@pytest.mark.parametrize("live", [True, False])
def test_a_held_frame_at_the_end_of_input_is_bad_pts(live: bool) -> None:
    ingest = Ingest(live=live)
    ingest.run(900_000, 903_600, 0)
    assert len(ingest.records) == 2
    ingest.records += ingest.timeline.close(ingest.now)
    assert ingest.seen()[2] == (1, "bad_pts")


def test_a_held_frame_nobody_follows_is_bad_pts_after_a_second() -> None:
    ingest = Ingest()
    ingest.run(900_000, 903_600, 0)
    assert ingest.timeline.tick(ingest.now + S) == []
    ingest.records += ingest.timeline.tick(ingest.now + S + 1)
    assert ingest.seen()[2] == (1, "bad_pts")


def test_a_file_waits_for_the_next_picture_however_long_that_takes() -> None:
    ingest = Ingest(live=False)
    ingest.run(900_000, 903_600, 0)
    assert ingest.timeline.tick(ingest.now + 100 * S) == []
    ingest.picture(3600, after=100 * S)
    assert ingest.seen()[2:] == [(2, 0), (2, 40 * MS)]


def test_a_timeline_may_be_closed_before_anything_was_opened() -> None:
    timeline = SourceTimeline("cam", "me", ("p",), LocalClaims())
    assert timeline.close(0) == [] and timeline.tick(S) == [] and timeline.reorder_depth == 0


def test_a_camera_joined_between_keyframes_may_refuse_packets_before_its_stream_is_known() -> None:
    timeline = SourceTimeline("gate", "ingest-1", ("person",), LocalClaims())
    assert timeline.packet(PacketIn(1, 90_000, False), 0) == timeline.decoder_error(0) == timeline.tick(10**9) == []
    assert timeline.close(2 * 10**9) == []


def test_a_live_source_in_segments_may_have_two_target_durations_of_pictures() -> None:
    def dropped(segment_ns: int) -> int:
        timeline = SourceTimeline("cam", "me", ("p",), LocalClaims(), TimelineSettings(max_fps=30))
        info = StreamInfo("cam", SourceKind.LIVE, Fraction(1, 90_000), 64, 48, segment_ns=segment_ns)
        timeline.open(info, 0)
        for n in range(240):  # four seconds at twice the rate that is allowed
            timeline.picture(PictureIn(n * 1500, n * S // 60), n * S // 60)
        return timeline.counters.by_reason[DropReason.OVERLOAD]

    assert dropped(0) > 0 == dropped(4 * S)


def test_a_slow_source_can_still_open_an_epoch() -> None:
    """One picture in 1.5 s: with a hold of 1 s no step would ever be believed."""
    ingest = Ingest()
    for raw in (9_000_000, 9_135_000, 9_270_000, 0, 135_000, 270_000):
        ingest.picture(raw, after=1500 * MS)
    assert [e for e, _ in ingest.seen()] == [1, 1, 1, 2, 2, 2]


def test_live_gap_beyond_gmax_opens_an_epoch_but_not_in_a_file() -> None:
    for live, epochs in ((True, [1, 1, 2, 2]), (False, [1, 1, 1, 1])):
        ingest = Ingest(live=live)
        for raw, after in ((0, 40), (3600, 40), (1_083_600, 12_000), (1_087_200, 40)):
            ingest.picture(raw, after=after * MS)
        assert [e for e, _ in ingest.seen()] == epochs


def test_a_live_step_that_time_does_not_explain_opens_an_epoch() -> None:
    """A restart at 0 just before a wrap looks like five seconds forward; only elapsed time tells."""
    for elapsed_ms, epochs in ((40, [1, 1, 2, 2]), (5000, [1, 1, 1, 1]), (3100, [1, 1, 1, 1])):
        ingest = Ingest(modulus=MPEG_TS_MODULUS)
        first = MPEG_TS_MODULUS - 450_000
        ingest.run(first - 3600, first)
        ingest.picture(0, after=elapsed_ms * MS)
        ingest.picture(3600)
        assert [e for e, _ in ingest.seen()] == epochs, elapsed_ms


def test_a_step_of_up_to_a_second_is_never_questioned() -> None:
    ingest = Ingest()
    ingest.picture(0)
    ingest.picture(90_000, after=9 * S)
    assert ingest.seen() == [(1, 0), (1, S)]


def test_a_reconnect_opens_its_epoch_with_its_first_picture() -> None:
    ingest = Ingest()
    ingest.run(0, 3600)
    for _ in range(3):  # attempts without a picture
        ingest.records += ingest.timeline.open(ingest.info, ingest.now)
    ingest.run(3600, 7200)
    assert ingest.seen() == [(1, 0), (1, 40 * MS), (2, 0), (2, 40 * MS)]
    assert ingest.timeline.counters.epochs == 2


def packets(ingest: Ingest, *rows: tuple[int, int | None, bool]) -> None:
    for tag, raw, key in rows:
        ingest.records += ingest.timeline.packet(PacketIn(tag, raw, key), ingest.now)


def test_pictures_before_the_first_keyframe_are_preroll_and_get_their_place() -> None:
    ingest = Ingest()
    packets(ingest, (0, 0, False), (1, 3600, False), (2, 7200, True))
    ingest.picture(0, tag=0)
    ingest.picture(7200, tag=2)
    assert ingest.seen() == [(1, "preroll"), (1, 0)]
    assert [r.frame_seq if isinstance(r, Frame) else r.first_seq for r in ingest.records] == [0, 1]


def test_corrupt_leading_pictures_are_preroll_and_later_ones_decode_errors() -> None:
    ingest = Ingest(depth=1)
    packets(ingest, (0, 7200, True), (1, 3600, False), (2, 10_800, False))
    ingest.picture(3600, tag=1, corrupt=True)
    ingest.picture(7200, tag=0)
    ingest.picture(10_800, tag=2, corrupt=True)
    assert ingest.seen() == [(1, "preroll"), (1, 0), (1, "decode_error")]


def test_discarded_packets_are_no_frames() -> None:
    """Edit lists: decoded for their references, no frame_seq."""
    ingest = Ingest()
    ingest.records += ingest.timeline.packet(PacketIn(0, 0, True, discard=True), 0)
    ingest.records += ingest.timeline.packet(PacketIn(1, 3600, False), 0)
    ingest.picture(0, tag=0)
    ingest.picture(3600, tag=1)
    ingest.records += ingest.timeline.close(ingest.now)
    assert ingest.seen() == [(1, 0)] and ingest.timeline.counters.discarded == 1


def test_a_tag_that_stays_away_is_a_decode_error_in_its_turn() -> None:
    ingest = Ingest()
    packets(ingest, *[(i, i * 3600, i == 0) for i in range(6)])
    for i in (0, 1, 3, 4, 5):
        ingest.picture(i * 3600, tag=i)
    assert [x for _, x in ingest.seen()] == [0, 40 * MS, "decode_error", 120 * MS, 160 * MS, 200 * MS]


def test_what_the_decoder_holds_at_a_change_of_size_is_of_the_new_epoch_from_its_first_packet_on() -> None:
    ingest = Ingest()
    packets(ingest, *[(i, i * 3600, i == 0) for i in range(7)])
    for i in (0, 1):
        ingest.picture(i * 3600, tag=i)
    ingest.records += ingest.timeline.open(ingest.info, ingest.now, first_tag=3)
    for i in (3, 5, 6):
        ingest.picture(i * 3600, tag=i)
    lost = "decode_error"
    assert ingest.seen() == [(1, 0), (1, 40 * MS), (1, lost), (2, 0), (2, lost), (2, 80 * MS), (2, 120 * MS)]


def test_b_frames_that_overtake_are_not_lost_even_if_the_decoder_understates_its_depth() -> None:
    ingest = Ingest(depth=0)
    order = [0, 4, 1, 2, 3, 8, 5, 6, 7]  # one anchor, three B-frames that overtake it
    packets(ingest, *[(tag, index * 3600, tag == 0) for tag, index in enumerate(order)])
    for index in range(9):
        ingest.picture(index * 3600, tag=order.index(index))
    ingest.records += ingest.timeline.close(ingest.now)
    assert ingest.pts_ms() == [40 * i for i in range(9)] and len(ingest.records) == 9
    assert ingest.timeline.reorder_depth == 1


def test_what_the_decoder_kept_at_the_end_is_lost() -> None:
    ingest = Ingest()
    packets(ingest, *[(i, i * 3600, i == 0) for i in range(3)])
    ingest.picture(0, tag=0)
    ingest.records += ingest.timeline.close(ingest.now)
    assert [x for _, x in ingest.seen()] == [0, "decode_error", "decode_error"]


def test_a_picture_that_comes_after_its_packet_was_given_up_is_not_counted_twice() -> None:
    ingest = Ingest()
    packets(ingest, *[(i, i * 3600, i == 0) for i in range(5)])
    for i in (0, 2, 3, 4, 1):
        ingest.picture(i * 3600, tag=i)
    assert len(ingest.records) == 5 and ingest.timeline.counters.returned_after_loss == 1


def test_hidden_frames_are_counted_by_decoder_errors_only() -> None:
    ingest = Ingest(hidden_frames=True)
    packets(ingest, *[(i, i * 3600, i == 0) for i in range(5)])
    for i in (0, 2, 4):
        ingest.picture(i * 3600, tag=i)
    ingest.records += ingest.timeline.decoder_error(ingest.now) + ingest.timeline.close(ingest.now)
    assert [x for _, x in ingest.seen()] == [0, 80 * MS, 160 * MS, "decode_error"]


def test_memory_of_packets_is_bounded() -> None:
    ingest = Ingest()
    packets(ingest, *[(i, None, i == 0) for i in range(10)])
    ingest.picture(0, tag=0)
    packets(ingest, *[(i, 10_000_000 + i, False) for i in range(10, 2000)])
    assert len(ingest.timeline._tags._sent) <= 256
    assert ingest.timeline.counters.by_reason[DropReason.DECODE_ERROR] == 1999 - 256


def test_a_thousand_pictures_a_second_are_overload_beyond_the_bound() -> None:
    ingest = Ingest(max_fps=60, window_ns=S // 4)
    for i in range(1000):
        ingest.picture(i * 90, after=MS)
    frames = [r for r in ingest.records if isinstance(r, Frame)]
    dropped = {r.reason for r in ingest.records if isinstance(r, DroppedRun)}
    assert dropped == {DropReason.OVERLOAD} and 60 <= len(frames) <= 80


def test_sixty_a_second_with_rounded_stamps_is_no_overload() -> None:
    ingest = Ingest(max_fps=60, window_ns=S // 4)
    for i in range(600):
        ingest.picture(i * 1000 // 60 * 90, after=S // 60)
    assert all(isinstance(r, Frame) for r in ingest.records)


def test_every_nth_accepted_picture_is_analysed() -> None:
    ingest = Ingest(every=3)
    ingest.run(0, 3600, 3600, 7200, 10_800, 14_400)
    assert [r.analyse for r in ingest.records if isinstance(r, Frame)] == [True, False, False, True, False]


def test_drops_before_any_accepted_picture_open_no_epoch() -> None:
    ingest = Ingest(depth=1)
    ingest.run(None, None)
    assert ingest.records == [] and ingest.timeline.counters.epochs == 0
    assert ingest.timeline.close(ingest.now) == [] and ingest.timeline.counters.unclaimed == 2


class LosingClaims:
    """Another ingester has the source."""

    def claim(self, draft: TimelineRecord) -> None:
        return None


def test_a_lost_claim_stops_the_source() -> None:
    timeline = SourceTimeline("cam", "me", ("p",), LosingClaims())
    timeline.open(StreamInfo("cam", SourceKind.LIVE, Fraction(1, 90_000), 64, 48), 0)
    assert timeline.picture(PictureIn(0, 0), 0) == [] and timeline.fenced
    assert timeline.picture(PictureIn(3600, 40 * MS), 40 * MS) == [] and timeline.counters.after_fencing == 2


def test_ten_hours_at_29_97_do_not_drift() -> None:
    """opencv#8834: time from frame_number / fps; adding 33 ms a frame drifts 36 s an hour."""
    ingest = Ingest(live=False)
    ingest.info = StreamInfo("cam", SourceKind.FILE, Fraction(1, 30_000), 64, 48)
    ingest.records += ingest.timeline.open(ingest.info, 0)
    last = 0
    for i in range(0, 30_000 * 3600 * 10 // 1001, 9973):
        for record in ingest.timeline.picture(PictureIn(i * 1001, 0), 0):
            assert isinstance(record, Frame)
            last = i
            assert record.pts_ns == (2 * i * 1001 * S + 30_000) // 60_000
    assert last > 1_000_000
