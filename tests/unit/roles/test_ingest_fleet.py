"""One child a source: started, renewed, started again with back-off, ended; and the registry that says which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from serving.clock import NS_PER_S
from serving.errors import NotFound, RecordInvalid
from serving.frames import SourceKind, StreamInfo, TimelineRecord
from serving.ports_log import TopicPartition
from serving.records import StreamMessage, StreamState, encode_forgotten_stream, encode_stream
from serving.roles.ingest_fleet import ChildEnd, End, Fleet, FleetRules, SourceState
from serving.roles.ingest_supervisor import IngestSupervisor
from serving.roles.main_ingest import report
from serving.roles.monitor import RoleMonitor
from serving.roles.names import Names
from serving.roles.registry import open_registry, stream_document
from serving.roles.sender import Sender
from serving.roles.timelines import LogClaims, Timelines
from serving.streams.observe import StreamMetrics
from serving.testing.hand_clock import HandClock
from serving.testing.memory_log import MemoryLog

NAMES = Names("t.")
GATE = StreamMessage("gate", "rtsp://10.0.0.7/live", ("person",))
RULES = FleetRules(first_s=1, most_s=4, refused_s=3, steady_s=10, silent_s=20, grace_s=2, most=3)
PARTITIONS = 4


class FakeChild:
    """A process that ends when it is told to, unless it is stuck."""

    def __init__(self, stream: StreamMessage, clock: HandClock, pid: int) -> None:
        self.stream, self._clock, self.pid = stream, clock, pid
        self.beats, self.asked, self.killed, self.stuck = 0, list[bool](), False, False
        self.heard = clock.monotonic_ns()
        self.said: Mapping[str, Any] = {
            "frames": 7, "pictures": 7, "picture_age_ms": 40, "epoch": 1, "connections": 2, "errors": {},
        }  # fmt: skip
        self.how: ChildEnd | None = None

    def status(self) -> Mapping[str, Any]:
        return self.said

    def heard_ns(self) -> int:
        return self.heard

    def beat(self) -> None:
        self.beats += 1

    def end(self, over: bool) -> None:
        self.asked.append(over)
        if not self.stuck:
            self.how = self.how or ChildEnd(End.OVER if over else End.HANDED_OVER)

    def ended(self) -> ChildEnd | None:
        return self.how

    def kill(self) -> None:
        self.killed, self.how = True, self.how or ChildEnd(End.CRASHED)

    @property
    def lives(self) -> bool:
        return self.how is None


class World:
    """A fleet, its children and the clock."""

    def __init__(self, rules: FleetRules = RULES) -> None:
        self.clock, self.children = HandClock(NS_PER_S), list[FakeChild]()
        self.fleet = Fleet(self._spawn, rules, self.clock)

    def _spawn(self, stream: StreamMessage) -> FakeChild:
        self.children.append(FakeChild(stream, self.clock, len(self.children) + 100))
        return self.children[-1]

    def after(self, seconds: float, quiet: tuple[int, ...] = ()) -> World:
        self.clock.advance(int(seconds * NS_PER_S))
        for number, child in enumerate(self.children):
            if number not in quiet:
                child.heard = self.clock.monotonic_ns()
        self.fleet.tick()
        return self

    def state(self, source_id: str = "gate") -> SourceState:
        return next(view.state for view in self.fleet.views() if view.source_id == source_id)

    @property
    def living(self) -> list[str]:
        return sorted(child.stream.source_id for child in self.children if child.lives)


@pytest.fixture
def world() -> World:
    return World()


# -- fleet ------------------------------------------------------------------------------------------------------------


def test_a_crashed_child_is_started_again_after_a_back_off_that_doubles(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0)
    for wait in (1, 2, 4, 4):
        started = len(world.children)
        world.children[-1].how = ChildEnd(End.CRASHED, "crashed", "signal 11")
        world.after(0.1)
        assert world.state() is SourceState.BACKOFF and "signal 11" in world.fleet.views()[0].error
        world.after(wait - 0.2)
        assert len(world.children) == started, "not before its time"
        world.after(0.2)
        assert len(world.children) == started + 1 and world.state() is SourceState.RUNNING
    assert world.fleet.views()[0].restarts == 4
    world.after(10.1)  # it ran steadily
    world.children[-1].how = ChildEnd(End.CRASHED)
    world.after(0)
    assert len(world.after(1).children) == 6, "the back-off begins anew"
    assert world.fleet.take_ends() == {"crashed": 5} and not world.fleet.take_ends()


def test_leases_are_renewed_while_the_loop_waits_for_a_broker_but_not_for_ever(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0)
    for _ in range(150):
        world.clock.advance(NS_PER_S)
        world.fleet.beat()
        world.fleet.beat()
    assert 119 <= world.children[0].beats <= 121, "once a second, for two minutes"


def test_one_that_was_refused_waits_longer_and_says_why(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0)
    world.children[0].how = ChildEnd(End.FAILED, "source_refused", "10.0.0.7 is a private address")
    world.after(0)
    assert world.fleet.views()[0].error == "source_refused: 10.0.0.7 is a private address"
    assert len(world.after(2.9).children) == 1 and len(world.after(0.2).children) == 2


def test_f2_a_broker_that_is_away_is_no_refusal(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0)
    world.children[0].how = ChildEnd(End.FAILED, "log_unavailable", "no broker answers")
    world.after(0)
    assert len(world.after(0.9).children) == 1 and len(world.after(0.2).children) == 2


def test_a_child_that_says_nothing_hangs_and_is_killed(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0).children[0].stuck = True
    world.after(19, quiet=(0,))
    assert not world.children[0].killed
    world.after(2, quiet=(0,))
    assert world.children[0].killed and world.state() is SourceState.BACKOFF
    assert world.fleet.take_ends() == {"stalled": 1}
    assert world.after(1).living == ["gate"]


def test_the_newest_picture_ages_while_nothing_reads_and_whoever_reads_next_has_none(world: World) -> None:
    def silent_s() -> float:
        return world.fleet.views()[0].silent_s

    world.fleet.want(GATE)
    assert world.after(0).after(1) and silent_s() == 0.04
    world.children[0].how = ChildEnd(End.CRASHED)
    world.after(0)
    world.clock.advance(NS_PER_S // 2)
    assert world.state() is SourceState.BACKOFF and silent_s() == 0.54
    world.after(1).children[1].said = {"frames": 0, "pictures": 0, "picture_age_ms": 100}
    assert world.state() is SourceState.RUNNING and silent_s() == 1.54, "connected, and no picture yet"
    world.clock.advance(NS_PER_S)
    assert silent_s() == 2.54
    world.children[1].said = {"frames": 1, "pictures": 1, "picture_age_ms": 100}
    assert world.after(0) and silent_s() == 0.1


def test_a_source_that_never_answered_is_silent_since_it_is_wanted(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0).children[0].said = {}
    for started in range(1, 6):
        world.children[-1].how = ChildEnd(End.FAILED, "source_unreachable", "10.0.0.7: no route")
        world.after(0).after(4).children[started].said = {}
    assert world.fleet.views()[0].silent_s == 20


def test_leases_are_renewed_once_a_second(world: World) -> None:
    world.fleet.want(GATE)
    for _ in range(40):
        world.after(0.25)
    assert 9 <= world.children[0].beats <= 11


@pytest.mark.parametrize("how", [End.OVER, End.FENCED])
def test_what_is_over_or_fenced_rests_until_it_is_registered_anew(world: World, how: End) -> None:
    world.fleet.want(GATE)
    world.after(0).children[0].how = ChildEnd(how)
    assert world.after(100).state() is (SourceState.ENDED if how is End.OVER else SourceState.FENCED)
    world.fleet.want(GATE)
    assert len(world.after(100).children) == 1, "the same record, read again after a rebalance"
    world.fleet.want(GATE, again=True)
    assert len(world.after(0).children) == 2 and world.state() is SourceState.RUNNING


def test_a_lease_that_ran_out_by_itself_is_taken_up_at_once(world: World) -> None:
    """The supervisor was stopped for a while; nobody else wanted the source."""
    world.fleet.want(GATE)
    world.after(0).children[0].how = ChildEnd(End.HANDED_OVER)
    assert world.after(0.01).after(0.01).living == ["gate"]


def test_a_change_that_ingest_sees_hands_over_and_one_it_does_not_see_changes_nothing(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0)
    world.fleet.want(replace(GATE, track="bytetrack", roi="0,0,9,9", publish="rtmp://relay/live"), again=True)
    assert world.after(1).living == ["gate"] and len(world.children) == 1
    world.children[0].stuck = True
    world.fleet.want(replace(GATE, every=2), again=True)
    assert world.children[0].asked == [False], "the source goes on"
    assert len(world.after(1).children) == 1, "not read twice at a time"
    assert world.after(1.1).children[0].killed, "it does not end in its time"
    assert world.after(0).living == ["gate"] and world.children[1].stream.every == 2


def test_a_source_taken_away_is_over(world: World) -> None:
    world.fleet.want(GATE)
    world.after(0)
    world.fleet.drop("gate", over=True)
    assert world.children[0].asked == [True] and world.after(1).fleet.views() == [] and world.fleet.leaving == 0


def test_f13_more_sources_than_one_process_may_read_are_named(world: World) -> None:
    """200 sources on a machine that holds 3 of them."""
    for number in range(200):
        world.fleet.want(replace(GATE, source_id=f"s{number}"))
    world.after(0)
    assert len(world.living) == 3
    crowded = [view for view in world.fleet.views() if view.state is SourceState.CROWDED]
    assert len(crowded) == 197 and all("ingest_max_sources" in view.error for view in crowded)
    world.fleet.drop("s0", over=True)
    assert len(world.after(1).after(0).living) == 3, "room is taken"


def test_close_hands_everything_over_and_leaves_nothing(world: World) -> None:
    for number in range(3):
        world.fleet.want(replace(GATE, source_id=f"s{number}"))
    world.after(0).children[1].stuck = True
    world.fleet.close(1.0)
    assert world.fleet.reap() == 1
    world.clock.advance(NS_PER_S)
    assert world.fleet.reap() == 0 and world.children[1].killed and world.living == []
    assert [child.asked for child in world.children] == [[False]] * 3


# -- supervisor: the registry on the log ------------------------------------------------------------------------------


@pytest.fixture
def log() -> MemoryLog:
    alike = dict.fromkeys(("frames", "results", "outcomes", "timelines", "streams"), PARTITIONS)
    return MemoryLog({NAMES.topic(topic): n for topic, n in alike.items()})


class Member:
    """One ingest process without its processes."""

    def __init__(self, log: MemoryLog) -> None:
        self.world = World(replace(RULES, most=99))
        self.monitor = RoleMonitor("ingest", self.world.clock)
        clock = self.world.clock
        self.role = IngestSupervisor(
            log, NAMES, self.world.fleet, clock, self.monitor, lambda s: clock.advance(int(s * NS_PER_S))
        )

    def steps(self, count: int = 3) -> Member:
        for _ in range(count):
            self.role.step(0.0)
            self.world.after(0.01)
        return self

    @property
    def reads(self) -> set[str]:
        return set(self.world.living)


@pytest.fixture
def member(log: MemoryLog) -> Iterator[Member]:
    made = Member(log)
    yield made
    made.role.close()


def write(log: MemoryLog, *streams: StreamMessage) -> None:
    sender = Sender(log.producer())
    for stream in streams:
        sender.send("t.streams", encode_stream(stream), None)
    sender.close()


def claimed(log: MemoryLog, source_id: str, over: bool) -> None:
    info = StreamInfo(source_id, SourceKind.FILE, Fraction(1, 90_000), 64, 48)
    sender = Sender(log.producer())
    claims = LogClaims(Timelines(log, NAMES), sender, NAMES, "before", lambda: info)
    assert claims.claim(TimelineRecord(source_id, 0, "before", info.time_base, 0, 0, None, ("person",))) is not None
    claims.ended(1, 5, last=over)
    sender.close()


def test_what_the_registry_held_before_and_what_comes_live(log: MemoryLog, member: Member) -> None:
    sources = [replace(GATE, source_id=name) for name in ("a", "b")]
    write(log, *sources, replace(sources[0], every=3), replace(sources[1], state=StreamState.REMOVED))
    assert member.steps(6).reads == {"a"} and [c.stream.every for c in member.world.children] == [3], "no history"
    write(log, replace(GATE, source_id="c"))
    assert member.steps().reads == {"a", "c"}
    write(log, replace(sources[0], state=StreamState.REMOVED))
    assert member.steps().reads == {"c"} and member.world.children[0].asked == [True]
    sender = Sender(log.producer())
    sender.send("t.streams", encode_forgotten_stream("c"), None)
    sender.close()
    assert member.steps().reads == set() and member.world.children[1].asked == [True]


def test_what_a_process_of_its_own_reads_is_left_to_it(log: MemoryLog, member: Member) -> None:
    write(log, replace(GATE, supervised=False))
    assert member.steps(6).reads == set()
    write(log, GATE)
    assert member.steps().reads == {"gate"}
    write(log, replace(GATE, supervised=False))
    assert member.steps().reads == set() and member.world.children[0].asked == [False], "handed over"


def test_a_source_that_was_over_is_only_named_until_it_is_registered_again(log: MemoryLog, member: Member) -> None:
    claimed(log, "gate", over=True)
    claimed(log, "yard", over=False)
    write(log, GATE, replace(GATE, source_id="yard"))
    assert member.steps(6).reads == {"yard"} and member.world.state() is SourceState.ENDED
    write(log, GATE)
    assert member.steps().reads == {"gate", "yard"}


def test_a_record_that_is_none_stops_nobody(log: MemoryLog, member: Member) -> None:
    sender = Sender(log.producer())
    sender.send("t.streams", encode_stream(GATE)._replace(value=b'{"schema":1,"source_id":"gate"}'), None)
    sender.close()
    write(log, replace(GATE, source_id="yard"))
    assert member.steps(6).reads == {"yard"}
    assert any("streams.address" in reason for reason in member.monitor.not_ready())


def test_two_share_the_sources_and_one_takes_over_from_the_other(log: MemoryLog, member: Member) -> None:
    names = {f"s{n}" for n in range(24)}
    assert {log_partition(name) for name in names} == set(range(PARTITIONS)), "else there is nothing to share"
    write(log, *(replace(GATE, source_id=name) for name in names))
    assert member.steps(6).reads == names
    other = Member(log)
    for _ in range(6):
        member.steps(1)
        other.steps(1)
    assert member.reads | other.reads == names and not member.reads & other.reads and other.reads and member.reads
    assert all(child.asked in ([], [False]) for child in member.world.children), "handed over, not ended"
    member.role.close()
    assert other.steps(8).reads == names


def log_partition(name: str) -> int:
    from serving.murmur2 import partition_of

    return partition_of(name.encode(), PARTITIONS)


def test_partitions_lost_and_given_back_end_no_child(log: MemoryLog, member: Member) -> None:
    """The broker was away for longer than the session: children kept their frames, and go on."""
    write(log, GATE)
    member.steps(6)
    places = [TopicPartition("t.streams", n) for n in range(PARTITIONS)]
    member.role.lost(places)
    member.world.after(100)
    member.steps()
    assert member.reads == {"gate"}
    member.role._consumer.seek(places[log_partition("gate")], 0)
    member.role.assigned(dict.fromkeys(places))
    assert member.steps(6).reads == {"gate"} and len(member.world.children) == 1
    member.role.lost(places)
    member.role.assigned({places[n]: None for n in range(PARTITIONS) if n != log_partition("gate")})
    assert member.steps(6).reads == {"gate"}
    member.world.after(4)
    assert member.steps().reads == set() and member.world.children[0].asked == [False], "another has it"


def test_while_its_partition_is_lost_no_child_of_a_source_begins_again(log: MemoryLog, member: Member) -> None:
    """This process was held up for longer than the lease: whoever has the partition now reads the source, and a child
    of ours would fence that one."""
    write(log, GATE)
    member.steps(6)
    place = TopicPartition("t.streams", log_partition("gate"))
    member.role.lost([place])
    member.world.children[0].how = ChildEnd(End.HANDED_OVER)
    member.steps().world.after(10)
    assert len(member.world.children) == 1
    member.role._consumer.seek(place, 0)
    member.role.assigned({place: None})
    assert member.steps(6).reads == {"gate"} and len(member.world.children) == 2, "it is ours again"


def test_a_source_that_was_fenced_begins_again_with_its_partition(log: MemoryLog, member: Member) -> None:
    """Another member had it for a while; nobody else would read it any more."""
    write(log, GATE)
    member.steps(6)
    place = TopicPartition("t.streams", log_partition("gate"))
    member.role.lost([place])
    member.world.children[0].how = ChildEnd(End.FENCED)
    member.steps().world.after(100)
    assert len(member.world.children) == 1 and member.world.state() is SourceState.FENCED
    member.role._consumer.seek(place, 0)
    member.role.assigned({place: None})
    assert member.steps(6).reads == {"gate"} and len(member.world.children) == 2


def test_metrics_of_the_fleet(log: MemoryLog, member: Member) -> None:
    write(log, GATE)
    member.steps(6)
    member.world.children[0].how = ChildEnd(End.CRASHED)
    member.world.after(0)
    counted = StreamMetrics(member.monitor.metrics)
    report(member.monitor, member.world.fleet, counted)
    page = member.monitor.metrics.exposition().decode()
    assert (
        'lockstep_ingest_sources{state="backoff"} 1.0' in page and 'lockstep_ingest_sources{state="running"} 0' in page
    )
    assert 'lockstep_ingest_picture_age_seconds{source="gate"}' in page, "its pictures are missed while it backs off"
    assert 'lockstep_ingest_child_ends_total{how="crashed"} 1.0' in page
    assert 'lockstep_ingest_child_ends_total{how="failed"} 0.0' in page, "what has not happened yet is there, at 0"
    member.world.after(2)
    report(member.monitor, member.world.fleet, counted)
    page = member.monitor.metrics.exposition().decode()
    assert 'lockstep_ingest_source_up{source="gate"} 1.0' in page
    assert 'lockstep_ingest_picture_age_seconds{source="gate"} 0.04' in page
    assert 'lockstep_stream_connections_total{source="gate"} 2.0' in page
    member.world.children[-1].said = {**member.world.children[-1].said, "connections": 3}
    report(member.monitor, member.world.fleet, counted)
    assert 'lockstep_stream_connections_total{source="gate"} 3.0' in member.monitor.metrics.exposition().decode()
    member.world.children[-1].how = ChildEnd(End.CRASHED)
    member.world.after(0)
    member.world.after(4)
    report(member.monitor, member.world.fleet, counted)
    page = member.monitor.metrics.exposition().decode()
    assert 'lockstep_stream_connections_total{source="gate"} 5.0' in page, "a new process counts from 0"
    assert 'lockstep_stream_epochs_total{source="gate"} 1.0' in page, "an epoch is told once"
    assert "lockstep_ingest_picture_age_seconds{" in page, "what crashed is expected back, and its pictures missed"
    member.world.children[-1].how = ChildEnd(End.OVER)
    member.world.after(0)
    report(member.monitor, member.world.fleet, counted)
    page = member.monitor.metrics.exposition().decode()
    assert "lockstep_ingest_picture_age_seconds{" not in page and "lockstep_ingest_source_up{" not in page


# -- registry ---------------------------------------------------------------------------------------------------------


def test_the_registry_reads_what_it_wrote_and_shows_no_secret(log: MemoryLog) -> None:
    with open_registry(log, NAMES) as registry:
        registry.write(replace(GATE, address="rtsp://admin:{CAMERA_1}@10.0.0.7/live?token=abc"))
        registry.write(replace(GATE, source_id="yard", state=StreamState.REMOVED))
        registry.write(replace(GATE, source_id="shed"))
        registry.forget("shed")
        found = registry.read()
        assert set(found) == {"gate", "yard"} and registry.find("gate").address.startswith("rtsp://admin:")
        with pytest.raises(NotFound):
            registry.find("yard")
        with pytest.raises(RecordInvalid):
            registry.forget("a/b")
    shown = str(stream_document(found["gate"]))
    assert "abc" not in shown and "CAMERA_1" not in shown and "10.0.0.7" in shown
