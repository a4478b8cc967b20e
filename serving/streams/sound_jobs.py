"""Wiring of sounds in `lockstep run`: models that hear and the sound of a file become a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from serving.adapters.video import ReaderOptions
from serving.adapters.video.address import redacted
from serving.adapters.video.heard import SoundTrack
from serving.clock import SystemClock
from serving.errors import ParameterInvalid
from serving.preprocess.audio import SoundLimits
from serving.spec import SoundSpec
from serving.streams.drawing import Drawing
from serving.streams.outputs import TextSink
from serving.streams.sound_source import SoundSource
from serving.streams.source_run import SourceJob


def common_rule(rules: Mapping[str, SoundSpec]) -> SoundSpec:
    """How all of them hear, by model. Raises ParameterInvalid where they hear other windows: those are other frames."""
    (first, rule), *others = rules.items()
    for name, other in others:
        if (other.sample_rate, other.window, other.step) != (rule.sample_rate, rule.window, rule.step):
            raise ParameterInvalid(f"--model: {first} and {name} hear other windows", hint="a source for each of them")
    return rule


def sound_name(source_id: str) -> str:
    """Of the sound beside the pictures of a source."""
    return f"{source_id[:58]}-sound"


def sound_source(source_id: str, address: str, rule: SoundSpec, options: ReaderOptions) -> SoundSource:
    """The sound of the file at `address`."""
    clock = SystemClock()
    return SoundSource(source_id, partial(SoundTrack, address, options, clock), rule, clock, SoundLimits())


def sound_job(source: SoundSource, address: str, pipelines: Sequence[str], results: TextSink | None) -> SourceJob:
    """Nothing is drawn: the results are its output."""
    return SourceJob(
        source=source,
        draw=Drawing({}, 1.0, False),
        make_writers=lambda stream: [],
        shown_as=redacted(address),
        results=results,
        mixed=False,
        pipelines=tuple(pipelines),
        heard=True,
    )
