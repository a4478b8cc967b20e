"""What every RecordLog must do, asked of the log in memory and of a real broker through the real adapter."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.errors import CommitRefused, LogTruncated, LogUnavailable, MemberFenced, RecordTooLarge, TopicUnknown
from serving.murmur2 import partition_of
from serving.ports_log import (
    Assignor,
    Committed,
    Delivery,
    GroupOptions,
    LogConsumer,
    LogReader,
    LogRecord,
    Lost,
    NewRecord,
    RecordLog,
    Start,
    TopicPartition,
)

_GROUPS = itertools.count(1)
PATIENCE_S = 20.0


@dataclass
class Bench:
    """A log, and what a test does to it from outside."""

    log: RecordLog
    topic: Callable[[int], str]
    delete_before: Callable[[TopicPartition, int], None]
    remake: Callable[[str], None]
    delete: Callable[[str], None]
    opened: list[Any] = field(default_factory=list)

    def consumer(self, topics: Sequence[str], group: str, **more: Any) -> Member:
        options = GroupOptions(group, session_timeout_s=more.pop("session_timeout_s", 2.0), **more)
        member = Member()
        member.consumer = self.log.consumer(topics, options, member)
        self.opened.append(member.consumer)
        return member

    def reader(self, positions: Mapping[TopicPartition, int]) -> LogReader:
        reader = self.log.reader(positions)
        self.opened.append(reader)
        return reader

    def write(
        self, topic: str, values: Sequence[bytes], key: bytes = b"k", partition: int | None = 0
    ) -> list[Delivery]:
        done: list[Delivery] = []
        producer = self.log.producer()
        for value in values:
            producer.append(NewRecord(topic, key, value, (), partition), done.append)
        assert producer.flush(PATIENCE_S) == 0
        producer.close()
        return done


class Member:
    """Remembers what it was told and what it was given."""

    def __init__(self) -> None:
        self.consumer: LogConsumer = None  # type: ignore[assignment]
        self.given: list[LogRecord] = []
        self.deleted: list[Lost] = []
        self.told: list[tuple[str, tuple[TopicPartition, ...]]] = []
        self.positions: dict[TopicPartition, Committed | None] = {}
        self.on_revoked: Callable[[Sequence[TopicPartition]], None] = lambda places: None

    def assigned(self, positions: Mapping[TopicPartition, Committed | None]) -> None:
        self.told.append(("assigned", tuple(sorted(positions))))
        self.positions.update(positions)

    def revoked(self, places: Sequence[TopicPartition]) -> None:
        self.told.append(("revoked", tuple(sorted(places))))
        self.on_revoked(places)

    def lost(self, places: Sequence[TopicPartition]) -> None:
        self.told.append(("lost", tuple(sorted(places))))

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.given]

    def poll(self, timeout_s: float = 0.1, most: int = 500) -> None:
        polled = self.consumer.poll(timeout_s, most)
        self.given += polled.records
        self.deleted += polled.lost


def until(condition: Callable[[], bool], *members: Member, patience_s: float = PATIENCE_S) -> None:
    """Poll the members in turn until the condition holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "".join(f"\n{m.told} {m.consumer.assignment()} {m.values}" for m in members)
        for member in members:
            member.poll()


def group() -> str:
    return f"group-{next(_GROUPS)}"


def memory_bench() -> Bench:
    from serving.testing.memory_log import MemoryLog

    log = MemoryLog()
    numbers = itertools.count(1)

    def topic(partitions: int) -> str:
        name = f"topic-{next(numbers)}"
        log.make(name, partitions)
        return name

    return Bench(log, topic, log.delete_before, log.remake, log.delete)


def kafka_bench(request: pytest.FixtureRequest) -> Bench:
    from confluent_kafka import TopicPartition as RdPartition
    from confluent_kafka.admin import AdminClient
    from kafka_support import new_topic, shared_kafka

    from serving.adapters.kafka import KafkaLog, KafkaOptions

    options = KafkaOptions(shared_kafka(request).bootstrap, topic_patience_s=2.0)
    admin = AdminClient({"bootstrap.servers": options.bootstrap, "log_level": 2})

    def delete_before(place: TopicPartition, offset: int) -> None:
        for future in admin.delete_records([RdPartition(*place, offset)]).values():
            future.result(10)

    def remake(topic: str) -> None:
        partitions = len(admin.list_topics(topic).topics[topic].partitions)
        admin.delete_topics([topic])[topic].result(10)
        from confluent_kafka.admin import NewTopic

        for _ in range(50):
            try:
                admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(10)
                return
            except Exception as error:  # noqa: BLE001 - still being deleted
                assert "TOPIC_ALREADY_EXISTS" in str(error)
                time.sleep(0.1)
        raise AssertionError("the topic does not go away")

    def delete(topic: str) -> None:
        admin.delete_topics([topic])[topic].result(10)

    return Bench(KafkaLog(options), lambda n: new_topic(options, n), delete_before, remake, delete)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.needs("kafka"))])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = memory_bench() if request.param == "memory" else kafka_bench(request)
    yield made
    for opened in made.opened:
        opened.close()
    made.log.close()


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_written(bench: Bench) -> None:
    topic = bench.topic(2)
    headers = (("a", b"1"), ("b", b""), ("a", b"\xff\x00"))
    done: list[Delivery] = []
    producer = bench.log.producer()
    for value in (b"value", b"", None):
        producer.append(NewRecord(topic, b"key", value, headers, 1), done.append)
    assert producer.flush(PATIENCE_S) == 0 and producer.waiting() == 0
    assert [(d.partition, d.offset, d.error) for d in done] == [(1, 0, None), (1, 1, None), (1, 2, None)]
    member = bench.consumer([topic], group())
    until(lambda: len(member.given) == 3, member)
    assert member.values == [b"value", b"", None]
    record = member.given[0]
    assert (record.topic, record.partition, record.offset, record.key) == (topic, 1, 0, b"key")
    assert record.headers == headers and record.timestamp_ms > 0


def test_the_partition_of_a_key_is_murmur2s(bench: Bench) -> None:
    topic = bench.topic(7)
    keys = [b"", b"k", b"gate-1", b"a-rather-long-source-name-of-61-characters", "tür".encode()]
    done: list[Delivery] = []
    producer = bench.log.producer()
    for key in keys:
        producer.append(NewRecord(topic, key, b"v"), done.append)
    producer.flush(PATIENCE_S)
    assert {d.record.key: d.partition for d in done} == {key: partition_of(key, 7) for key in keys}


def test_nothing_is_reported_before_the_log_has_it(bench: Bench) -> None:
    topic = bench.topic(1)
    done: list[Delivery] = []
    producer = bench.log.producer()
    producer.append(NewRecord(topic, b"k", b"v"), done.append)
    assert done == [] and producer.waiting() == 1
    producer.flush(PATIENCE_S)
    assert len(done) == 1
    assert producer.close() == 0


def test_an_unknown_topic_and_partition_are_reported(bench: Bench) -> None:
    topic = bench.topic(2)
    with pytest.raises(TopicUnknown):
        bench.log.partitions("no-such-topic")
    assert bench.log.partitions(topic) == 2
    done: list[Delivery] = []
    producer = bench.log.producer()
    producer.append(NewRecord(topic, b"k", b"v", (), 9), done.append)
    producer.append(NewRecord("no-such-topic", b"k", b"v"), done.append)
    assert producer.flush(PATIENCE_S) == 0
    assert [type(d.error) for d in done] == [TopicUnknown, TopicUnknown]


def test_a_record_over_the_limit_is_refused_and_the_next_one_is_fine(bench: Bench) -> None:
    topic = bench.topic(1)
    producer = bench.log.producer()
    done: list[Delivery] = []
    with pytest.raises(RecordTooLarge, match="at most"):
        producer.append(NewRecord(topic, b"k", bytes(4 << 20)), done.append)
    producer.append(NewRecord(topic, b"k", b"small"), done.append)
    producer.flush(PATIENCE_S)
    assert [d.error for d in done] == [None]


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_partition_keeps_its_order_and_a_poll_its_bound(bench: Bench) -> None:
    topic = bench.topic(1)
    wanted = [str(n).encode() for n in range(300)]
    bench.write(topic, wanted)
    reader = bench.reader({TopicPartition(topic, 0): 0})
    values: list[bytes | None] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(values) < 300 and time.monotonic() < deadline:
        records = reader.poll(0.2, 7).records
        assert len(records) <= 7
        values += [record.value for record in records]
    assert values == wanted


def test_a_record_is_given_as_soon_as_it_is_there(bench: Bench) -> None:
    topic = bench.topic(1)
    place = TopicPartition(topic, 0)
    reader = bench.reader({place: 0})
    bench.write(topic, [b"first"])
    deadline = time.monotonic() + PATIENCE_S
    while reader.position(place) == 0 and time.monotonic() < deadline:
        reader.poll(0.1)
    started = time.monotonic()
    bench.write(topic, [b"second"])
    assert [record.value for record in reader.poll(5.0, 100).records] == [b"second"]
    assert time.monotonic() - started < 2.0, "a poll must not wait for more than one record"


def test_a_reader_starts_where_it_is_told_and_seeks(bench: Bench) -> None:
    topic = bench.topic(1)
    place = TopicPartition(topic, 0)
    bench.write(topic, [b"0", b"1", b"2", b"3"])
    member = Member()
    member.consumer = bench.reader({place: 2})  # type: ignore[assignment]
    until(lambda: len(member.given) == 2, member)
    assert member.values == [b"2", b"3"] and bench.opened[0].position(place) == 4
    bench.opened[0].seek(place, 1)
    assert bench.opened[0].position(place) == 1
    until(lambda: len(member.given) == 5, member)
    assert member.values[2:] == [b"1", b"2", b"3"]
    assert bench.opened[0].lag() == {place: 0}


def test_bounds_of_many_partitions_come_at_once_while_they_are_read(bench: Bench) -> None:
    """A broker answers one connection in turn, so a question behind an open fetch waits for it: here 24 of them."""
    first, second = bench.topic(12), bench.topic(12)
    places = [TopicPartition(topic, number) for topic in (first, second) for number in range(12)]
    bench.write(second, [b"0", b"1", b"2"])
    reader = bench.reader(dict.fromkeys(places, 0))
    reader.poll(0.5)
    bench.log.bounds(places)  # connected
    started = time.monotonic()
    found = bench.log.bounds(places)
    took_s = time.monotonic() - started
    assert list(found) == places and sum(high for _, high in found.values()) == 3
    assert all(low == 0 for low, _ in found.values()) and took_s < 1.0, f"{took_s:.1f} s"
    assert bench.log.bounds([]) == {}
    for unknown in (TopicPartition("no-such-topic", 0), TopicPartition(first, 12)):
        with pytest.raises(TopicUnknown):
            bench.log.bounds([places[0], unknown])


def test_a_member_that_seeks_back_gets_each_record_again_in_order(bench: Bench) -> None:
    """Though what lies behind was fetched already and waits in the client."""
    topic, last = bench.topic(1), 1999
    place = TopicPartition(topic, 0)
    bench.write(topic, [b"%d" % n for n in range(last + 1)])
    member = bench.consumer([topic], group())
    until(lambda: bool(member.given), member)
    for back in (10, 300, 0):
        member.consumer.pause([place])
        member.consumer.resume([place])
        member.consumer.seek(place, back)
        member.given.clear()
        deadline = time.monotonic() + PATIENCE_S
        while (not member.given or member.given[-1].offset < last - back) and time.monotonic() < deadline:
            member.poll(most=70)
        offsets = [record.offset for record in member.given]
        assert offsets == list(range(back, back + len(offsets))) and offsets[-1] >= last - back


def test_a_paused_partition_gives_nothing_and_loses_nothing(bench: Bench) -> None:
    topic = bench.topic(2)
    first, second = (TopicPartition(topic, n) for n in range(2))
    member = bench.consumer([topic], group())
    until(lambda: member.consumer.assignment() == (first, second), member)
    member.consumer.pause([first])
    bench.write(topic, [b"a", b"b"], partition=0)
    bench.write(topic, [b"c"], partition=1)
    until(lambda: len(member.given) >= 1, member)
    for _ in range(5):
        member.poll()
    assert member.values == [b"c"]
    member.consumer.resume([first])
    until(lambda: len(member.given) == 3, member)
    assert member.values == [b"c", b"a", b"b"]


def test_a_pause_in_the_middle_goes_on_where_it_stopped(bench: Bench) -> None:
    topic = bench.topic(1)
    place = TopicPartition(topic, 0)
    bench.write(topic, [str(n).encode() for n in range(50)])
    member = bench.consumer([topic], group())
    while len(member.given) < 5:
        member.poll(0.5, 5)
    member.consumer.pause([place])
    seen = len(member.given)
    for _ in range(3):
        member.poll()
    assert len(member.given) == seen
    member.consumer.resume([place])
    until(lambda: len(member.given) >= 50, member)
    assert member.values == [str(n).encode() for n in range(50)]


def test_what_is_not_read_here_cannot_be_paused_or_sought(bench: Bench) -> None:
    reader = bench.reader({TopicPartition(bench.topic(2), 0): 0})
    for use in (lambda p: reader.pause([p]), lambda p: reader.seek(p, 0), reader.position):
        with pytest.raises(ValueError, match="not read here"):
            use(TopicPartition("other", 1))


# -- positions --------------------------------------------------------------------------------------------------------


def test_a_position_is_kept_with_what_was_written_beside_it(bench: Bench) -> None:
    topic, name = bench.topic(1), group()
    place = TopicPartition(topic, 0)
    bench.write(topic, [b"0", b"1", b"2"])
    member = bench.consumer([topic], name)
    until(lambda: len(member.given) == 3, member)
    assert member.positions == {place: None}
    mark = '{"offset":1,"attempt":2}'
    member.consumer.commit({place: Committed(1, mark)})
    assert member.consumer.committed([place]) == {place: Committed(1, mark)}
    member.consumer.close()
    second = bench.consumer([topic], name)
    until(lambda: len(second.given) == 2, second)
    assert second.values == [b"1", b"2"]
    assert second.positions == {place: Committed(1, mark)}


def overtaken(bench: Bench) -> tuple[TopicPartition, Member, Member]:
    """A partition, the member that slept too long to keep it, and the one that has it now."""
    topic, name = bench.topic(1), group()
    place = TopicPartition(topic, 0)
    bench.write(topic, [b"0"])
    asleep = bench.consumer([topic], name, session_timeout_s=1.0, max_poll_interval_s=1.0)
    until(lambda: len(asleep.given) == 1, asleep)
    other = bench.consumer([topic], name, session_timeout_s=2.0)
    until(lambda: other.consumer.assignment() == (place,), other)
    return place, asleep, other


def test_a_position_may_be_written_without_waiting_and_what_was_refused_is_told(bench: Bench) -> None:
    topic, name = bench.topic(1), group()
    place = TopicPartition(topic, 0)
    bench.write(topic, [b"0", b"1"])
    member = bench.consumer([topic], name)
    until(lambda: len(member.given) == 2, member)
    member.consumer.commit_later({place: Committed(1, "beside it")})
    until(lambda: member.consumer.committed([place]) == {place: Committed(1, "beside it")}, member)
    assert member.consumer.uncommitted() == set()
    member.consumer.commit_later({TopicPartition(topic, 5): Committed(1)})
    refused: set[TopicPartition] = set()
    until(lambda: bool(refused.update(member.consumer.uncommitted()) or refused), member)
    assert refused == {TopicPartition(topic, 5)} and member.consumer.uncommitted() == set()


def test_what_a_member_writes_later_than_its_partition_is_its_own_is_told(bench: Bench) -> None:
    place, asleep, other = overtaken(bench)
    asleep.consumer.commit_later({place: Committed(1)})
    until(lambda: place in asleep.consumer.uncommitted(), asleep, other)
    assert other.consumer.committed([place]) == {place: None}


def test_nothing_is_committed_by_itself(bench: Bench) -> None:
    topic, name = bench.topic(1), group()
    bench.write(topic, [b"0", b"1"])
    member = bench.consumer([topic], name)
    until(lambda: len(member.given) == 2, member)
    for _ in range(3):
        member.poll()
    member.consumer.close()
    second = bench.consumer([topic], name)
    until(lambda: len(second.given) == 2, second)
    assert second.positions == {TopicPartition(topic, 0): None}


def test_a_new_group_may_start_at_the_end(bench: Bench) -> None:
    topic = bench.topic(1)
    bench.write(topic, [b"old"])
    member = bench.consumer([topic], group(), start=Start.END)
    until(lambda: bool(member.consumer.assignment()), member)
    bench.write(topic, [b"new"])
    until(lambda: len(member.given) == 1, member)
    assert member.values == [b"new"]


# -- members ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignor", Assignor)
def test_members_share_partitions_and_a_leaver_hands_over(bench: Bench, assignor: Assignor) -> None:
    topic, name = bench.topic(4), group()
    first, second = (bench.consumer([topic], name, assignor=assignor) for _ in range(2))

    def shared() -> bool:
        a, b = (set(m.consumer.assignment()) for m in (first, second))
        return len(a) == len(b) == 2 and not a & b

    def settled() -> bool:
        """Both have their share, and the first has heard that this is how it stays: else its commit is refused."""
        try:
            first.consumer.commit({place: Committed(0) for place in first.consumer.assignment()})
        except (CommitRefused, LogUnavailable):
            return False
        return shared()

    until(settled, first, second)
    handed: list[TopicPartition] = []

    def commit_first(places: Sequence[TopicPartition]) -> None:
        handed.extend(places)
        first.consumer.commit({place: Committed(0, "on leaving") for place in places})

    first.on_revoked = commit_first
    before = set(first.consumer.assignment())
    first.consumer.close()
    assert set(handed) == before, "revoked is told while commits are still taken"
    until(lambda: len(second.consumer.assignment()) == 4, second)
    for place in before:
        assert second.positions[place] == Committed(0, "on leaving")
        with pytest.raises(CommitRefused):
            first.consumer.commit({place: Committed(7)})


@pytest.mark.parametrize("assignor", Assignor)
def test_a_pause_ends_with_the_ownership(bench: Bench, assignor: Assignor) -> None:
    """Who gets a partition back reads it, though it had paused it when it was taken away."""
    topic, name = bench.topic(2), group()
    places = [TopicPartition(topic, n) for n in range(2)]
    first = bench.consumer([topic], name, assignor=assignor)
    until(lambda: len(first.consumer.assignment()) == 2, first)
    first.consumer.pause(places)
    second = bench.consumer([topic], name, assignor=assignor)
    until(lambda: len(second.consumer.assignment()) == len(first.consumer.assignment()) == 1, first, second)
    (back,) = set(places) - set(first.consumer.assignment())
    second.consumer.close()
    until(lambda: len(first.consumer.assignment()) == 2, first)
    bench.write(topic, [b"new"], partition=back.partition)
    until(lambda: first.values == [b"new"], first)


def test_of_two_members_of_one_name_the_newer_stays_and_the_older_is_told(bench: Bench) -> None:
    """Two systems under one prefix, or one --member given twice."""
    topic, name = bench.topic(2), group()
    older = bench.consumer([topic], name, assignor=Assignor.COOPERATIVE_STICKY, member="worker-1")
    until(lambda: len(older.consumer.assignment()) == 2, older)
    newer = bench.consumer([topic], name, assignor=Assignor.COOPERATIVE_STICKY, member="worker-1")
    with pytest.raises(MemberFenced, match=name):
        until(lambda: False, older, newer)
    until(lambda: len(newer.consumer.assignment()) == 2, newer)
    with pytest.raises(CommitRefused):
        older.consumer.commit({TopicPartition(topic, 0): Committed(1)})


def test_two_topics_keep_equal_partition_numbers_together(bench: Bench) -> None:
    topics, name = [bench.topic(3), bench.topic(3)], group()
    members = [bench.consumer(topics, name, assignor=Assignor.RANGE) for _ in range(2)]
    until(lambda: sorted(len(m.consumer.assignment()) for m in members) == [2, 4], *members)
    for member in members:
        numbers = [{p.partition for p in member.consumer.assignment() if p.topic == topic} for topic in topics]
        assert numbers[0] == numbers[1]


def test_a_member_that_does_not_poll_loses_its_partitions_and_may_not_commit(bench: Bench) -> None:
    place, asleep, other = overtaken(bench)
    with pytest.raises(CommitRefused):
        asleep.consumer.commit({place: Committed(1)})
    until(lambda: ("lost", (place,)) in asleep.told, asleep, other)
    assert other.values == [b"0"]


def test_commits_to_foreign_partitions_are_refused(bench: Bench) -> None:
    topic = bench.topic(1)
    member = bench.consumer([topic], group())
    until(lambda: bool(member.consumer.assignment()), member)
    with pytest.raises(CommitRefused):
        member.consumer.commit({TopicPartition(topic, 5): Committed(0)})


# -- what is gone -----------------------------------------------------------------------------------------------------


def test_records_deleted_before_they_were_read_are_a_range(bench: Bench) -> None:
    topic, name = bench.topic(1), group()
    place = TopicPartition(topic, 0)
    bench.write(topic, [str(n).encode() for n in range(10)])
    member = bench.consumer([topic], name)
    until(lambda: len(member.given) == 10, member)
    member.consumer.commit({place: Committed(3)})
    member.consumer.close()
    bench.delete_before(place, 7)
    second = bench.consumer([topic], name)
    until(lambda: len(second.given) == 3, second)
    assert second.values == [b"7", b"8", b"9"]
    assert second.deleted == [Lost(place, 3, 6)] and second.deleted[0].count == 4
    assert bench.log.bounds([place]) == {place: (7, 10)}


def test_a_reader_behind_the_deletion_is_told_under_way(bench: Bench) -> None:
    topic = bench.topic(1)
    place = TopicPartition(topic, 0)
    bench.write(topic, [str(n).encode() for n in range(6)])
    bench.delete_before(place, 4)
    member = Member()
    member.consumer = bench.reader({place: 1})  # type: ignore[assignment]
    until(lambda: len(member.given) == 2, member)
    assert member.values == [b"4", b"5"] and member.deleted == [Lost(place, 1, 3)]


def test_a_new_group_without_position_has_lost_nothing(bench: Bench) -> None:
    topic = bench.topic(1)
    place = TopicPartition(topic, 0)
    bench.write(topic, [b"0", b"1", b"2"])
    bench.delete_before(place, 2)
    member = bench.consumer([topic], group())
    until(lambda: len(member.given) == 1, member)
    assert member.values == [b"2"] and member.deleted == []


def test_a_topic_made_anew_is_an_error_and_no_silent_start(bench: Bench) -> None:
    topic = bench.topic(1)
    bench.write(topic, [b"0", b"1", b"2"])
    bench.remake(topic)
    bench.write(topic, [b"other"])
    member = Member()
    member.consumer = bench.reader({TopicPartition(topic, 0): 3})  # type: ignore[assignment]
    with pytest.raises(LogTruncated, match="made anew"):
        until(lambda: bool(member.given), member)
    assert member.values == []


def test_a_topic_deleted_under_way_is_an_error(bench: Bench) -> None:
    topic = bench.topic(1)
    bench.write(topic, [b"0"])
    member = bench.consumer([topic], group())
    until(lambda: len(member.given) == 1, member)
    bench.delete(topic)
    with pytest.raises(TopicUnknown):
        until(lambda: len(member.given) > 1, member)


def test_a_topic_that_nobody_made_is_an_error(bench: Bench) -> None:
    member = bench.consumer(["never-made"], group())
    with pytest.raises(TopicUnknown):
        until(lambda: bool(member.given), member)


def test_a_deletion_under_way_leaves_other_partitions_and_pauses_alone(bench: Bench) -> None:
    topic, name = bench.topic(3), group()
    places = [TopicPartition(topic, n) for n in range(3)]
    for number in range(3):
        bench.write(topic, [b"%d-%d" % (number, n) for n in range(4)], partition=number)
    member = bench.consumer([topic], name)
    until(lambda: len(member.given) == 12, member)
    member.consumer.pause([places[2]])
    member.consumer.commit({places[0]: Committed(1), places[1]: Committed(3), places[2]: Committed(4)})
    member.consumer.close()
    bench.delete_before(places[0], 3)
    second = bench.consumer([topic], name)
    until(lambda: len(second.consumer.assignment()) == 3, second)
    second.consumer.pause([places[2]])
    bench.write(topic, [b"2-4"], partition=2)
    until(lambda: len(second.given) == 2, second)
    for _ in range(3):
        second.poll()
    assert sorted(v or b"" for v in second.values) == [b"0-3", b"1-3"] and second.deleted == [Lost(places[0], 1, 2)]
    second.consumer.resume([places[2]])
    until(lambda: len(second.given) == 3, second)
    assert second.values[2] == b"2-4"
