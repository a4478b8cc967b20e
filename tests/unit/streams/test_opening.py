"""Connecting in a thread of its own: a stop does not wait for it, and what comes later is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import pytest

from serving.align import LocalClaims, SourceTimeline
from serving.clock import SystemClock
from serving.errors import SourceUnreachable
from serving.frames import SourceKind, StreamInfo
from serving.media import MediaEvent, StreamEnded, StreamOpened
from serving.streams.ingest import IngestStage, ReconnectRules
from serving.streams.opening import Opening

INFO = StreamInfo("cam", SourceKind.LIVE, Fraction(1, 90_000), 64, 48)


@dataclass
class SlowReader:
    closed: threading.Event = field(default_factory=threading.Event)
    read_out: threading.Event = field(default_factory=threading.Event)
    readings: int = 0

    def events(self) -> Iterator[MediaEvent]:
        self.readings += 1
        yield StreamOpened(INFO)
        self.closed.wait(20)
        yield StreamEnded()
        self.read_out.set()

    def close(self) -> None:
        self.closed.set()


@dataclass
class SlowSource:
    """Connects when it is let go."""

    error: Exception | None = None
    source_id: str = "cam"
    kind: SourceKind = SourceKind.LIVE
    go: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)
    reader: SlowReader = field(default_factory=SlowReader)

    def connect(self) -> SlowReader:
        self.asked.set()
        self.go.wait(30)
        if self.error is not None:
            raise self.error
        return self.reader


def stage_of(source: SlowSource) -> IngestStage:
    timeline = SourceTimeline("cam", "me", ("p",), LocalClaims())
    return IngestStage(source, timeline, SystemClock(), ReconnectRules(), lambda seconds: False)


def test_a_stop_while_it_connects_is_over_at_once_and_the_late_connection_is_closed() -> None:
    source = SlowSource()
    stage = stage_of(source)
    records: list[object] = []
    thread = threading.Thread(target=lambda: records.extend(stage.records()))
    thread.start()
    assert source.asked.wait(10)
    began = time.monotonic()
    stage.stop()
    thread.join(10)
    assert not thread.is_alive() and time.monotonic() - began < 2.0
    assert records == [] and stage.counters.connections == 0 and stage.error is None
    assert not source.reader.read_out.is_set()
    source.go.set()
    assert source.reader.closed.wait(10) and source.reader.read_out.wait(10), "nobody would ever close it"


def test_what_the_attempt_gave_is_handed_over() -> None:
    source = SlowSource()
    opening = Opening(source)
    assert not opening.wait(0.01)
    source.go.set()
    assert opening.wait(10) and opening.result() is source.reader and not source.reader.closed.is_set()


def test_an_error_is_raised_where_it_is_asked_for_and_nowhere_else() -> None:
    source = SlowSource(SourceUnreachable("nobody answers"))
    source.go.set()
    opening = Opening(source)
    assert opening.wait(10)
    with pytest.raises(SourceUnreachable, match="nobody answers"):
        opening.result()
    Opening(source).abandon()


def test_a_connection_that_is_there_when_it_is_given_up_is_closed() -> None:
    source = SlowSource()
    source.go.set()
    opening = Opening(source)
    assert opening.wait(10)
    opening.abandon()
    assert source.reader.read_out.is_set()


def test_a_connection_that_comes_while_it_is_given_up_is_closed_by_one_thread() -> None:
    source = SlowSource()
    opening = Opening(source)

    class ComesNow:
        """The lock; once `abandon` lets go of it the connection comes, before `abandon` goes on."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *error: object) -> None:
            self._lock.release()
            if threading.current_thread() is threading.main_thread():
                source.go.set()
                assert opening.wait(10)

    opening._lock = ComesNow()  # type: ignore[assignment]
    assert source.asked.wait(10)
    opening.abandon()
    assert source.reader.read_out.wait(10) and source.reader.readings == 1
