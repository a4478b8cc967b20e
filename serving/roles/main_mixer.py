"""Wiring of the mixer: what becomes of the mixed pictures of each source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from serving.align import Accountant, CloseRule, Mixer, MixerSettings
from serving.align.freshness import presentation_delay_ns
from serving.bundle import catalogue
from serving.clock import NS_PER_MS, SystemClock
from serving.config import Settings
from serving.frames import AlignedFrame, SourceKind
from serving.preprocess.jpeg import JpegCodec
from serving.records import TimelineMessage
from serving.roles.index_open import open_states
from serving.roles.main import loop, open_log
from serving.roles.mixer import LogMixer, NewMixRole, Owner
from serving.roles.monitor import RoleMonitor
from serving.roles.outputs import SourceOutputs
from serving.roles.page import open_page
from serving.roles.registered import Registered
from serving.streams.drawing import Drawing
from serving.streams.lines import ResultLines
from serving.streams.mix_role import MixRole
from serving.streams.observe import MixedMetrics


@dataclass(frozen=True, slots=True)
class MixerOptions:
    """output: a folder for each source is made in it. delay_ms: D of live sources that nobody registered."""

    output: Path
    delay_ms: int = 250
    draw_threshold: float = 0.2
    member: str = ""


def run_mixer(settings: Settings, options: MixerOptions) -> LogMixer:
    """Until a signal: every source to the outputs that are wished for it."""
    log, names = open_log(settings, "mixer")
    good, _ = catalogue(settings.repository)
    labels = {name: bundle.labels for name, bundle in good.items()}
    clock = SystemClock()
    monitor = RoleMonitor("mixer", clock, names.prefix)
    registered = Registered(log, names)
    registered.catch_up()
    new_role = _new_mix_role(settings, options, labels, registered, monitor)
    with ExitStack() as stack:
        if (index := open_states(settings)) is not None:
            stack.callback(index.close)
        role = LogMixer(log, names, new_role, JpegCodec(), clock, options.member, monitor, index, registered)
        stack.enter_context(open_page(monitor, settings, log, names))
        loop(role, monitor)
    return role


def _new_mix_role(
    settings: Settings, options: MixerOptions, labels: Mapping[str, Sequence[str]], registered: Registered,
    monitor: RoleMonitor,
) -> NewMixRole:  # fmt: skip
    def make(timeline: TimelineMessage, told: Callable[[AlignedFrame], None], owner: Owner) -> MixRole:
        source_id, info = timeline.claim.source_id, timeline.info
        wished = registered.get(source_id)
        live, captions = info.kind is SourceKind.LIVE, wished is None or wished.captions
        delay_ms = wished.delay_ms if wished is not None else options.delay_ms
        delay_ns, lateness_ns = presentation_delay_ns(info, delay_ms * NS_PER_MS), settings.lateness_ms * NS_PER_MS
        outputs = SourceOutputs(settings, options.output, source_id, live, wished, monitor, owner)
        mixer = Mixer(source_id, MixerSettings(live, delay_ns, lateness_ns, reorder_depth=info.reorder_depth))
        if (last := outputs.last_shown()) is not None:
            mixer.resume(last.key, last.out_pts_ns)
            monitor.metrics.inc("lockstep_mixer_resumed_total", source=source_id)
        return MixRole(
            mixer,
            Accountant(CloseRule(delay_ns, lateness_ns, live)),
            ResultLines(source_id, {}, None),
            Drawing(labels, options.draw_threshold, banner=captions, names=captions),
            outputs.writers,
            [_Told(told)],
            average_rate=Fraction(info.average_rate) if info.average_rate else None,
            observer=MixedMetrics(monitor.metrics),
            may_lose=outputs.may_lose,
            hand_over=outputs.hand_over,
        )

    return make


@dataclass(frozen=True, slots=True)
class _Told:
    tell: Callable[[AlignedFrame], None]

    def write(self, shown: AlignedFrame) -> None:
        self.tell(shown)
