"""`results` far ahead of `frames`: a role that begins anew on a file, a slower model, hours of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from test_mixer_role import tables, turn
from test_roles_on_memory import INFO, JPEG, NAMES, records, settled

from serving.align import CloseRule
from serving.frames import Frame, SourceKind, TimelineRecord
from serving.ports_log import GroupOptions, Polled, TopicPartition
from serving.records import FrameMessage, StreamMessage, decode_outcome, encode_frame, encode_result, encode_stream
from serving.roles import accountant as accountant_role
from serving.roles import ahead as ahead_module
from serving.roles.accountant import LogAccountant
from serving.roles.ahead import FORGET_NS, Ahead
from serving.roles.mixer import LogMixer
from serving.roles.sender import Sender
from serving.roles.timelines import LogClaims, Timelines
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog
from serving.testing.stub_streams import a_result

FRAMES = 300
RESULTS = TopicPartition(NAMES.topic("results"), 0)


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of what is kept: the same with a hundredth of the frames."""
    monkeypatch.setattr(ahead_module, "PAUSE_AT", 20)
    monkeypatch.setattr(ahead_module, "MOST", 40)
    monkeypatch.setattr(accountant_role, "PAUSE_EARLY", 20)
    monkeypatch.setattr(accountant_role, "MAX_EARLY", 80)
    for module in ("mixer", "accountant"):
        monkeypatch.setattr(f"serving.align.{module}.MAX_EARLY", 80)


@pytest.fixture
def log() -> MemoryLog:
    topics = ("frames", "results", "outcomes", "timelines", "dead_letter", "streams")
    return MemoryLog({NAMES.topic(topic): 1 for topic in topics})


def results_first(consumer: Any) -> None:
    """Ten records a poll, and as long as there are results, results: as a broker gives large and small records."""
    poll = consumer.poll

    def polled(timeout_s: float) -> Polled:
        frames = [place for place in consumer.assignment() if place != RESULTS and place not in consumer._paused]
        consumer.pause(frames)
        found = poll(timeout_s, 10)
        consumer.resume(frames)
        return cast("Polled", found if found.records else poll(timeout_s, 10))

    consumer.poll = polled


def claim(log: MemoryLog, pipelines: tuple[str, ...], kind: SourceKind = SourceKind.FILE) -> LogClaims:
    wish = StreamMessage("gate", "rtsp://10.0.0.1/", pipelines, mixed=True)
    sender = Sender(log.producer())
    sender.send(NAMES.topic("streams"), encode_stream(wish), None)
    sender.flush(5)
    claims = LogClaims(Timelines(log, NAMES), sender, NAMES, "ingest-1", lambda: replace(INFO, kind=kind))
    draft = TimelineRecord("gate", 0, "ingest-1", INFO.time_base, 0, 0, None, pipelines)
    assert claims.claim(draft) is not None
    return claims


def write(log: MemoryLog, seqs: Sequence[int], pipelines: tuple[str, ...]) -> None:
    sender = Sender(log.producer())
    for seq in seqs:
        frame = Frame("gate", 1, seq, seq * 40_000_000, seq * 3600, INFO.time_base, pipelines, 0)
        sender.send(NAMES.topic("frames"), encode_frame(FrameMessage(frame, 64, 48), JPEG), None)
    sender.flush(5)


def answered(log: MemoryLog, seqs: Sequence[int], pipeline: str = "person", source: str = "gate") -> None:
    sender = Sender(log.producer())
    for seq in seqs:
        sender.send(NAMES.topic("results"), encode_result(a_result(source, 1, seq, pipeline)), None)
    sender.flush(5)


def test_a_mixer_that_begins_anew_on_a_file_shows_each_frame_with_its_result(
    log: MemoryLog, mixer: Callable[[], LogMixer], tmp_path: Path
) -> None:
    """The results of all frames are on the log; others come before them whose frames are gone."""
    claims = claim(log, ("person",))
    answered(log, range(60), source="gone")
    answered(log, range(FRAMES))
    write(log, range(FRAMES), ("person",))
    claims.ended(1, FRAMES, last=True)
    role = mixer()
    results_first(role._consumer)
    turn(role, lambda: role.outputs("gate") is not None)
    assert tables(tmp_path / "gate") == list(range(FRAMES))
    mix = role.role("gate")
    assert mix is not None and mix.mixer.counters.early_refused == 0 and not mix.counters.missing["person"]
    assert len(role._ahead[0]) <= 40


def test_a_file_whose_fast_model_is_far_ahead_of_the_slow_one_is_shown_whole(
    log: MemoryLog, mixer: Callable[[], LogMixer], tmp_path: Path
) -> None:
    """The mixer waits for the slow one's results, which lie behind all of the fast one's."""
    claims = claim(log, ("fast", "slow"))
    write(log, range(FRAMES), ("fast", "slow"))
    answered(log, range(FRAMES), "fast")
    role = mixer()
    results_first(role._consumer)
    for _ in range(40):
        role.step(0.0)
    assert tables(tmp_path / "gate") == []
    for begin in range(0, FRAMES, 50):
        answered(log, range(begin, begin + 50), "slow")
        for _ in range(30):
            role.step(0.0)
    claims.ended(1, FRAMES, last=True)
    turn(role, lambda: role.outputs("gate") is not None)
    assert tables(tmp_path / "gate") == list(range(FRAMES))
    mix = role.role("gate")
    assert mix is not None and mix.counters.missing.total() == 0


def test_the_position_of_results_follows_though_frames_of_a_live_source_are_always_open(
    log: MemoryLog, clock: HandClock, mixer: Callable[[], LogMixer]
) -> None:
    """Else a mixer that is started again reads six hours of results before it has one for the newest frame."""
    claim(log, ("person",), SourceKind.LIVE)
    role = mixer()
    for seq in range(200):
        write(log, [seq], ("person",))
        answered(log, [seq])
        clock.advance(40_000_000)
        role.step(0.0)
        assert role._progress[0].open > 0 or seq < 3
    probe = log.consumer([RESULTS.topic], GroupOptions(NAMES.group("mixer")))
    found = probe.committed([RESULTS])[RESULTS]
    probe.close()
    assert found is not None and 150 <= found.offset <= 200
    first_open = next(iter(role._progress[0]._open))
    assert found.offset <= first_open, "the results of what is not shown yet are read again"


def test_an_accountant_that_begins_anew_on_a_file_loses_no_result(log: MemoryLog, clock: HandClock) -> None:
    claims = claim(log, ("person",))
    answered(log, range(FRAMES))
    write(log, range(FRAMES), ("person",))
    claims.ended(1, FRAMES, last=True)
    role = LogAccountant(log, NAMES, CloseRule(live=True), clock)
    results_first(role._consumer)
    most = 0
    for _ in range(120):
        clock.advance(300_000_000)
        role.step(0.0)
        most = max(most, len(role._accounts[0].early))
    assert role.is_finished("gate") and role.dead_letters == 0 and most <= 40
    ended = {m.key.frame_seq: m for m in records(log, "outcomes", decode_outcome)}
    assert len(ended) == FRAMES and all(m.closed and m.outcome.result is not None for m in ended.values())
    role.close()


def test_results_that_never_had_a_frame_are_given_up_by_number_too(log: MemoryLog, clock: HandClock) -> None:
    claim(log, ("person",), SourceKind.LIVE)
    role = LogAccountant(log, NAMES, CloseRule(live=True), clock)
    answered(log, range(200), source="forged")
    settled(role, clock)
    assert role.dead_letters == 120 and len(role._accounts[0].early) == 80
    write(log, [0], ("person",))
    answered(log, [0])
    settled(role, clock)
    assert role.totals("gate")["person"].results == 1, "and others are served"
    role.close()


# -- the bounds -------------------------------------------------------------------------------------------------------


def postings(seqs: Sequence[int], source: str = "gate") -> list[tuple[int, object]]:
    return [(seq, a_result(source, 1, seq, "person").posting) for seq in seqs]


def test_what_finds_no_room_is_read_again_once_there_is_some() -> None:
    ahead = Ahead(0)
    for offset, posting in postings(range(60)):
        ahead.next = offset + 1
        ahead.keep(posting, offset, 0, all_read=False)  # type: ignore[arg-type]
    assert (len(ahead), ahead.crowded, ahead.all_taken_to, ahead.again()) == (40, True, 40, None)
    assert ahead.oldest == 0, "nothing is committed that a later frame needs"
    assert [offset for _, offset in ahead.take("gate", 1, 0, 24)] == list(range(25))
    assert ahead.oldest == 25 and ahead.again() == 40 and ahead.next == 40 and ahead.again() is None


def test_what_never_had_a_frame_goes_by_number_and_by_age() -> None:
    ahead = Ahead(0)
    for offset, posting in postings(range(50)):
        ahead.keep(posting, offset, offset, all_read=True)  # type: ignore[arg-type]
    assert len(ahead) == 30 and ahead.again() is None and not ahead.take("gate", 1, 0, 19)
    ahead.forget_before("gate", 1, 30)
    assert len(ahead) == 20
    ahead.forget_old(FORGET_NS + 45)
    assert len(ahead) == 5 and len(ahead.take("gate", 1, 0, 99)) == 5 and len(ahead) == 0


def test_of_two_results_of_one_frame_only_the_old_one_goes() -> None:
    ahead = Ahead(0)
    for offset, (name, since_ns) in enumerate((("young", FORGET_NS), ("old", 0))):
        ahead.keep(a_result("gate", 1, 7, name).posting, offset, since_ns, all_read=True)
    ahead.forget_old(FORGET_NS + 1)
    ((left, _),) = ahead.take("gate", 1, 7, 7)
    assert left.key.pipeline == "young" and len(ahead) == 0
