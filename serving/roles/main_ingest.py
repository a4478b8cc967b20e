"""Wiring of ingest: one source in this process, or a supervisor with a child process for each of its sources."""

from __future__ import annotations

import threading
from dataclasses import replace

from serving.adapters.video import AddressSource, ReaderOptions
from serving.clock import SystemClock
from serving.config import Settings, child_environment
from serving.records import StreamMessage, encode_stream
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.main import open_log, stop_on_signals
from serving.roles.names import process_name
from serving.roles.sender import Sender
from serving.streams.ingest import ReconnectRules
from serving.streams.jpeg import JpegCodec


def run_ingest(settings: Settings, stream: StreamMessage) -> LogIngest:
    """One source, read in this process to its end or until a signal. It is registered as one that no supervisor reads."""
    stream = replace(stream, supervised=False)
    log, names = open_log(settings, "ingest")
    reader = ReaderOptions(secrets=child_environment())
    source = AddressSource(stream.source_id, stream.address, reader)
    registering = Sender(log.producer())
    registering.send(names.topic("streams"), encode_stream(stream), None)
    registering.flush(10.0)
    registering.close()
    ending = threading.Event()
    rules = ReconnectRules(lease_s=stream.lease_s)
    role = LogIngest(
        log, names, source, stream, process_name(), IngestSettings(JpegCodec(), rules=rules), SystemClock(), ending.wait
    )

    def end() -> None:
        ending.set()
        role.stop()

    with stop_on_signals(end):
        role.run()
    return role
