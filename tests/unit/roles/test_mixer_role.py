"""The mixer over the log: goes on where it ended, follows what is wished, and no output takes another one with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from test_roles_on_memory import INFO, JPEG, NAMES, PLACE, claim, ingested, records, worked, write_frames

from serving.cli.commands_roles import _for_people
from serving.errors import StorageFailed
from serving.frames import AlignedFrame, Frame, SourceKind
from serving.media import OutputSummary
from serving.ports_log import Committed, GroupOptions, TopicPartition
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage, decode_result, encode_stream
from serving.roles.ledger import GRACE_MS, Due, read_ledger
from serving.roles.mixer import LogMixer
from serving.roles.outputs import RECORDINGS, Kept
from serving.roles.sender import Sender
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog
from serving.types import PixelArray

FRAMES, SHOWN_FIRST = 150, 120  # 25 a second: a segment has 50


@pytest.fixture
def log() -> MemoryLog:
    topics = ("frames", "results", "outcomes", "timelines", "dead_letter", "streams")
    return MemoryLog({NAMES.topic(topic): 1 for topic in topics})


def wish(log: MemoryLog, **changes: object) -> None:
    sender = Sender(log.producer())
    message = StreamMessage("gate", "rtsp://10.0.0.1/", ("person",), mixed=True, **changes)  # type: ignore[arg-type]
    sender.send(NAMES.topic("streams"), encode_stream(message), None)
    sender.close()


def analysed(log: MemoryLog, seqs: range) -> None:
    """Frames with their results: a file's frame waits for its own."""
    write_frames(log, seqs)
    worked(log, lambda worker: len(records(log, "results", decode_result)) == seqs.stop, in_flight=200)


def shown_of(role: LogMixer) -> int:
    mix = role.role("gate")
    return mix.counters.frames if mix is not None else 0


def turn(role: LogMixer, until: Callable[[], bool]) -> None:
    for _ in range(400):
        role.step(0.0)
        if until():
            return
    raise AssertionError("the condition was never met")


def tables(folder: Path) -> list[int]:
    """frame_seq of every picture in every segment that is listed, in order."""
    playlist = folder / "index.m3u8"
    names = [line for line in playlist.read_text().splitlines() if line.endswith(".m4s")] if playlist.exists() else []
    found = [json.loads((folder / name).with_suffix(".json").read_bytes()) for name in names]
    assert [table["media_sequence"] for table in found] == list(range(len(found)))
    return [frame["frame_seq"] for table in found for frame in table["frames"]]


@pytest.mark.parametrize("end", ["killed at once", "killed after a commit", "left in good order"])
def test_f1_a_mixer_s_successor_goes_on_and_shows_no_frame_twice(
    log: MemoryLog, clock: HandClock, mixer: Callable[[], LogMixer], tmp_path: Path, end: str
) -> None:
    claims = claim(log)
    analysed(log, range(SHOWN_FIRST))
    first = mixer()
    turn(first, lambda: shown_of(first) == SHOWN_FIRST)
    before = tables(tmp_path / "gate")
    assert before == list(range(len(before))) and 50 <= len(before) < SHOWN_FIRST, "the last segment was not whole"
    if end == "killed after a commit":
        clock.advance(2_000_000_000)
        first.step(0.0)
        assert committed(log) == Committed(len(before)), "what is in no whole segment is not done with"
    if end == "left in good order":
        first.close()
    else:
        log.expire(first._consumer)  # type: ignore[arg-type]
    analysed(log, range(SHOWN_FIRST, FRAMES))
    claims.ended(1, FRAMES, last=True)
    second = mixer()
    turn(second, lambda: second.outputs("gate") is not None)
    assert tables(tmp_path / "gate") == list(range(FRAMES)), "nothing committed was lost: no gap, no frame twice"
    playlist = (tmp_path / "gate" / "index.m3u8").read_text()
    assert playlist.count("#EXT-X-DISCONTINUITY\n") == 1 and "init-002.mp4" in playlist and "ENDLIST" in playlist
    with av.open(str(tmp_path / "gate" / "index.m3u8")) as mixed:
        assert sum(1 for _ in mixed.decode(video=0)) == FRAMES
    clock.advance(2_000_000_000)
    second.step(0.0)
    assert committed(log) == Committed(FRAMES), "what was passed over is done with as well"


def committed(log: MemoryLog) -> Committed | None:
    probe = log.consumer([PLACE.topic], GroupOptions(NAMES.group("mixer")))
    found = probe.committed([PLACE])[PLACE]
    probe.close()
    return found


def test_what_is_skipped_to_catch_up_does_not_hold_the_position(
    log: MemoryLog, clock: HandClock, mixer: Callable[[], LogMixer]
) -> None:
    claim(log, kind=SourceKind.LIVE)
    write_frames(log, range(100), analyse=False)
    role = mixer()
    turn(role, lambda: shown_of(role) > 0 or clock.advance(50_000_000) is not None)
    mix = role.role("gate")
    assert mix is not None and mix.mixer.counters.skipped > 90, "a backlog is not shown late, frame by frame"
    write_frames(log, range(100, 103), analyse=False)
    for _ in range(60):
        clock.advance(50_000_000)
        role.step(0.0)
    assert shown_of(role) <= 5 and committed(log) is None, "they are in no whole segment"
    for _ in range(200):
        clock.advance(50_000_000)
        role.step(0.0)
    assert shown_of(role) <= 5 and committed(log) == Committed(103), "a camera that stopped holds no position for ever"


def live(log: MemoryLog, clock: HandClock, role: LogMixer, seqs: range) -> None:
    """Frames come at 25 a second, and the mixer turns after each."""
    for seq in seqs:
        write_frames(log, [seq], analyse=False)
        clock.advance(40_000_000)
        role.step(0.0)


@pytest.mark.parametrize("missed", [30, 400], ids=["little", "much"])
def test_f1_a_live_source_s_successor_shows_what_lies_between_where_it_is_little(
    log: MemoryLog, clock: HandClock, mixer: Callable[[], LogMixer], tmp_path: Path, missed: int
) -> None:
    claim(log, kind=SourceKind.LIVE)
    first = mixer()
    live(log, clock, first, range(SHOWN_FIRST))
    whole = tables(tmp_path / "gate")
    assert whole == list(range(len(whole))) and 50 <= len(whole) < SHOWN_FIRST
    log.expire(first._consumer)  # type: ignore[arg-type]
    begins = SHOWN_FIRST + missed
    write_frames(log, range(SHOWN_FIRST, begins))
    worked(log, lambda worker: len(records(log, "results", decode_result)) >= missed, in_flight=1000)
    clock.advance(missed * 40_000_000)
    second = mixer()
    live(log, clock, second, range(begins, begins + 120))
    mix, found = second.role("gate"), tables(tmp_path / "gate")
    assert mix is not None and found[: len(whole)] == whole and found[-1] > begins
    if missed == 30:
        assert found == list(range(len(found))), "no gap, no frame twice"
        assert mix.counters.boxes["measured"] > 0 and mix.mixer.counters.skipped == 0
        assert mix.counters.missing.total() == 0, "with their results"
    else:
        assert mix.mixer.counters.skipped > 300 and found[len(whole)] >= begins - 1, "a jump to the newest"


def test_f15_a_live_sources_mixer_that_leaves_well_hands_over_all_that_it_showed(
    log: MemoryLog, clock: HandClock, mixer: Callable[[], LogMixer], tmp_path: Path
) -> None:
    """Its open segment is written, short as it is, so nobody draws these frames again."""
    claim(log, kind=SourceKind.LIVE)
    first = mixer()
    live(log, clock, first, range(SHOWN_FIRST))
    shown = shown_of(first)
    assert len(tables(tmp_path / "gate")) < shown, "a segment is open"
    first.close()
    assert tables(tmp_path / "gate") == list(range(shown)) and committed(log) == Committed(shown)
    second = mixer()
    live(log, clock, second, range(SHOWN_FIRST, SHOWN_FIRST + 120))
    found = tables(tmp_path / "gate")
    assert found == list(range(len(found))) and len(found) > SHOWN_FIRST
    assert shown_of(second) >= len(found) - shown, "and none of the first one's"
    mix = second.role("gate")
    assert mix is not None and mix.mixer.counters.skipped == 0


@pytest.mark.parametrize("between", ["nobody", "another"])
def test_f2_a_live_sources_mixer_that_loses_it_and_gets_it_back_shows_no_frame_twice(
    log: MemoryLog, clock: HandClock, mixer: Callable[[], LogMixer], tmp_path: Path, between: str
) -> None:
    """A broker that was away forgets its groups: what was drawn into the open segment is in no whole one yet."""
    claim(log, kind=SourceKind.LIVE)
    first = mixer()
    live(log, clock, first, range(SHOWN_FIRST))
    shown, whole = shown_of(first), tables(tmp_path / "gate")
    assert whole == list(range(len(whole))) and len(whole) < shown, "a segment is open"
    log.expire(first._consumer)  # type: ignore[arg-type]
    if between == "another":
        other = mixer()
        live(log, clock, other, range(SHOWN_FIRST, SHOWN_FIRST + 60))
        other.close()
    begins = SHOWN_FIRST + 60 * (between == "another")
    live(log, clock, first, range(begins, begins + 120))
    again, found = first.role("gate"), tables(tmp_path / "gate")
    assert again is not None and found == list(range(len(found))) and len(found) > begins, "no gap, no frame twice"
    if between == "nobody":
        assert again.counters.frames <= begins + 120 - shown, "what it had shown is not drawn again"


def test_a_file_that_is_read_a_second_time_is_shown_a_second_time(
    log: MemoryLog, mixer: Callable[[], LogMixer], tmp_path: Path
) -> None:
    role, picture = mixer(), np.zeros((48, 64, 3), np.uint8)
    for shown in ([0, 1, 2], [0, 1, 2, 0, 1, 2]):
        ingested(log, picture)
        worked(log, lambda worker, n=len(shown): len(records(log, "results", decode_result)) == n)  # type: ignore[misc]
        turn(role, lambda n=len(shown): len(tables(tmp_path / "gate")) == n)  # type: ignore[misc]
        turn(role, lambda: role.outputs("gate") is not None)
        assert tables(tmp_path / "gate") == shown
    with av.open(str(tmp_path / "gate" / "index.m3u8")) as mixed:
        assert sum(1 for _ in mixed.decode(video=0)) == 6


def test_recording_is_switched_on_and_off_while_the_source_runs(
    log: MemoryLog, mixer: Callable[[], LogMixer], tmp_path: Path
) -> None:
    claims = claim(log)
    wish(log)
    analysed(log, range(10))
    role = mixer()
    turn(role, lambda: shown_of(role) == 10)
    folder = tmp_path / RECORDINGS / "gate"
    assert not folder.exists()
    wish(log, recording=True)
    analysed(log, range(10, 30))
    turn(role, lambda: shown_of(role) == 20)
    wish(log, recording=False)
    analysed(log, range(30, 40))
    claims.ended(1, 40, last=True)
    turn(role, lambda: role.outputs("gate") is not None)
    (file,) = folder.glob("*.mp4")
    assert file.name == "gate-00001-00000010.mp4"
    with av.open(str(file)) as recorded:
        times = [frame.pts * frame.time_base for frame in recorded.decode(video=0) if frame.pts is not None]
    assert times == [Fraction(3600 * n, 90_000) for n in range(20)], "from its own first frame on"
    assert tables(tmp_path / "gate") == list(range(40)), "what was shown before a change stays in the HLS"


def test_a_full_disk_under_one_output_is_named_and_tried_again() -> None:
    said: list[StorageFailed | None] = []
    written: list[int] = []

    class Flaky:
        full = True

        def write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
            if Flaky.full:
                raise StorageFailed("gate: no space left")
            written.append(shown.frame.frame_seq)

        def close(self) -> OutputSummary:
            return OutputSummary("", len(written), 0)

        def abandon(self) -> None:
            return None

    kept = Kept(Flaky, said.append)
    rgb = JpegCodec().decode(JPEG)
    for second in range(12):
        Flaky.full = second < 4
        frame = Frame("gate", 1, second, second, second, INFO.time_base, ("person",), 0)
        kept.write(AlignedFrame(frame, second, (), second * 1_000_000_000), rgb)
    assert written == list(range(5, 12)), "five seconds later"
    assert [error is None for error in said] == [False, True] and kept.close().frames == 7


def test_the_ledger_names_its_holes_and_a_span_of_it(log: MemoryLog) -> None:
    from serving.frames import DropReason, LedgerKey, Outcome
    from serving.records import OutcomeMessage, encode_outcome

    sender = Sender(log.producer())
    for seq in (0, 1, 4, 9):
        key = LedgerKey("gate", 1, seq, "person")
        message = OutcomeMessage(key, Outcome.dropped(DropReason.STALE), True)
        sender.send(NAMES.topic("outcomes"), encode_outcome(message), 0)
    sender.flush(5)
    (row,) = read_ledger(log, NAMES, "gate")
    assert (row.accepted, row.dropped, row.holes, row.missing) == (10, 4, 6, ["2-3", "5-8"]) and not row.balanced
    (row,) = read_ledger(log, NAMES, "gate", range(0, 2))
    assert (row.accepted, row.holes, row.missing, row.balanced) == (2, 0, [], True)
    assert read_ledger(log, NAMES, "gate", epoch=2) == []
    log.delete_before(TopicPartition(NAMES.topic("outcomes"), 0), 2)
    (row,) = read_ledger(log, NAMES, "gate")
    assert (row.accepted, row.forgotten, row.missing) == (6, 4, ["5-8"]), "what retention took was closed"


def test_the_ledger_of_a_live_source_says_up_to_where_it_is_closed(log: MemoryLog) -> None:
    from serving.frames import DropReason, LedgerKey, Outcome
    from serving.records import OutcomeMessage, encode_outcome

    sender = Sender(log.producer())
    for seq in range(6):
        message = OutcomeMessage(LedgerKey("gate", 1, seq, "person"), Outcome.dropped(DropReason.STALE), seq < 4)
        sender.send(NAMES.topic("outcomes"), encode_outcome(message), 0)
    sender.flush(5)
    (row,) = read_ledger(log, NAMES, "gate")
    assert (row.open, row.closed_to, row.balanced) == (2, 4, False)
    (row,) = read_ledger(log, NAMES, "gate", range(0, row.closed_to))
    assert (row.accepted, row.open, row.closed_to, row.balanced) == (4, 0, 4, True)


def test_the_ledger_of_a_live_source_that_goes_on_balances_what_is_closed(log: MemoryLog) -> None:
    from serving.frames import DropReason, LedgerKey, Outcome
    from serving.records import OutcomeMessage, encode_outcome

    claims, sender = claim(log, kind=SourceKind.LIVE), Sender(log.producer())
    for seq in (0, 1, 2, 3, 4, 6):  # nothing was told of 5 yet
        message = OutcomeMessage(LedgerKey("gate", 1, seq, "person"), Outcome.dropped(DropReason.STALE), seq < 3)
        sender.send(NAMES.topic("outcomes"), encode_outcome(message), 0)
    sender.flush(5)
    (row,) = read_ledger(log, NAMES, "gate")
    assert (row.accepted, row.dropped, row.in_flight, row.open, row.holes, row.balanced) == (3, 3, 4, 0, 0, True)
    (shown,) = _for_people([asdict(row)])
    assert shown["reasons"] == "stale 3" and "missing" not in shown
    (row,) = read_ledger(log, NAMES, "gate", range(0, 7))
    assert (row.accepted, row.open, row.missing, row.balanced) == (7, 3, ["5"], False), "what was asked for by number"
    assert _for_people([asdict(row)])[0]["missing"] == ["5"]
    late_ms = log.clock.monotonic_ns() // 1_000_000 + 60_000 + GRACE_MS
    (row,) = read_ledger(log, NAMES, "gate", due=Due(late_ms - 1_000))
    assert row.balanced
    (row,) = read_ledger(log, NAMES, "gate", due=Due(late_ms + 1))
    assert (row.accepted, row.in_flight, row.open, row.holes, row.balanced) == (7, 0, 3, 1, False), "late is no excuse"
    claims.ended(1, 7, last=True)
    (row,) = read_ledger(log, NAMES, "gate")
    assert (row.accepted, row.in_flight, row.open, row.holes, row.balanced) == (7, 0, 3, 1, False)


def test_f5_a_picture_that_does_not_decode_is_left_out_and_ends_nobody(
    log: MemoryLog, clock: HandClock, mixer: Callable[[], LogMixer], tmp_path: Path
) -> None:
    """Damaged on the log, the first and the last one too: seen in F5, where every such frame ended the mixer."""
    spoilt, claims = (0, 7, 8, 59), claim(log)
    for seq in range(60):
        write_frames(log, [seq], **({"payload": JPEG[:40]} if seq in spoilt else {}))
    worked(log, lambda worker: len(records(log, "results", decode_result)) == 60, in_flight=200)
    claims.ended(1, 60, last=True)
    role = mixer()
    turn(role, lambda: role.outputs("gate") is not None)
    assert tables(tmp_path / "gate") == [seq for seq in range(60) if seq not in spoilt]
    mix = role.role("gate")
    assert mix is not None and (mix.counters.frames, mix.counters.undecodable) == (56, 4)
    reasons = {m.posting.key.frame_seq: m.posting.outcome.reason for m in records(log, "results", decode_result)}
    assert [seq for seq, reason in reasons.items() if reason] == list(spoilt)
    assert {reasons[seq] for seq in spoilt} == {"decode_error"}
    clock.advance(2_000_000_000)
    role.step(0.0)
    assert committed(log) == Committed(60), "they are done with as well"
    assert 'lockstep_mixer_undecodable_total{source="gate"} 4.0' in role.monitor.metrics.exposition().decode()


@pytest.mark.parametrize("supervised", [True, False], ids=["registered", "an_ingest_of_ones_own"])
def test_the_delay_of_a_live_source_is_its_record_s(
    log: MemoryLog, mixer: Callable[[], LogMixer], supervised: bool
) -> None:
    """Workers shed by it, so a mixer that waits for less shows what they send too late; seen in F19."""
    wish(log, delay_ms=2000, supervised=supervised)
    claim(log, kind=SourceKind.LIVE)
    write_frames(log, range(2))
    role = mixer()
    turn(role, lambda: role.role("gate") is not None)
    mix = role.role("gate")
    assert mix is not None and mix.mixer.settings.delay_ns == 2_000_000_000
