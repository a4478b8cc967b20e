"""What ingest opens for a record of `streams`, with which role, and what a source with models that hear becomes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from serving.adapters.video import AddressSource, ReaderOptions
from serving.bundle import ModelBundle, versions_of
from serving.clock import SystemClock
from serving.config import Settings
from serving.errors import CertificateRefused, ParameterInvalid
from serving.media import VideoSource
from serving.ports_log import RecordLog
from serving.preprocess.jpeg import frame_codec
from serving.records import StreamMessage
from serving.roles.ingest import IngestSettings, LogIngest
from serving.roles.names import Names, process_name
from serving.spec import SoundSpec
from serving.streams.ingest import ReconnectRules
from serving.streams.sound_jobs import common_rule, sound_name, sound_source


def source_of(stream: StreamMessage, options: ReaderOptions) -> VideoSource:
    """The pictures of its address, or the sound."""
    if stream.sound is not None:
        return sound_source(stream.source_id, stream.address, stream.sound, options)
    return AddressSource(stream.source_id, stream.address, options)


def role_of(
    settings: Settings, log: RecordLog, names: Names, stream: StreamMessage, options: ReaderOptions,
    ending: threading.Event,
) -> LogIngest:  # fmt: skip
    """The role that reads it onto the log, by the settings; `ending` ends its waits."""
    ingest = IngestSettings(
        frame_codec(settings), reduced_side=settings.frame_side, rules=ReconnectRules(lease_s=stream.lease_s)
    )
    source = source_of(stream, options)
    return LogIngest(log, names, source, stream, process_name(), ingest, SystemClock(), ending.wait)


def split(stream: StreamMessage, repository: Path) -> list[StreamMessage]:
    """Pictures for the models that look, and sound for those that hear as a source of its own: `NAME-sound` beside
    pictures, NAME alone. How a model hears is looked up in the repository; one that is not there looks at pictures.

    Raises ParameterInvalid where models of one source hear other windows.
    """
    rules = {name: rule for name in stream.pipelines if (rule := _sound_of(repository, name)) is not None}
    if not rules:
        return [stream]
    seen = tuple(name for name in stream.pipelines if name not in rules)
    name = sound_name(stream.source_id) if seen else stream.source_id
    if seen and name == stream.source_id:
        raise ParameterInvalid(f"{name}: is the name of its sound too", hint="give the source a shorter name")
    sound = StreamMessage(name, stream.address, tuple(rules), sound=common_rule(rules), supervised=stream.supervised)
    return [*([replace(stream, pipelines=seen)] if seen else []), sound]


def _sound_of(repository: Path, name: str) -> SoundSpec | None:
    """Of the newest version that may be served."""
    for version_dir in versions_of(repository, name):
        try:
            sound = ModelBundle.load(version_dir).spec.sound
        except CertificateRefused:
            continue
        return sound and SoundSpec(sample_rate=sound.sample_rate, window=sound.window, hop=sound.hop)
    return None
