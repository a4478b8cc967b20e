"""Mix role: frame records and postings of one source in, shown frames out to every output, an account of all of it.

The mixer decides what is shown when, the accountant what is recorded; this stage draws, writes and counts. It reads no
clock: the time is handed in.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from serving.align import Accountant, Mixer, OutcomeRecord
from serving.align.mixer import MixerCounters
from serving.frames import AlignedFrame, Frame, FrameKey, FrameRecord, Origin, Posting
from serving.media import OutputStream, OutputSummary, VideoWriter, origin_of
from serving.streams.drawing import Draw
from serving.streams.lines import ResultLines
from serving.streams.outputs import OutputGuard
from serving.streams.sheet import ContactSheet
from serving.types import PixelArray

MakeWriters = Callable[[OutputStream], Sequence[VideoWriter]]


class ShownSink(Protocol):
    """Takes every shown frame without its picture (WebVTT, a side channel, a test); where it has `of_video` and that is
    true, those alone whose picture goes to the writers."""

    def write(self, shown: AlignedFrame) -> None: ...


class Observer(Protocol):
    """Told of everything that is counted (`serving.streams.observe.StreamMetrics`)."""

    def accepted(self, record: FrameRecord) -> None: ...
    def outcomes(self, records: Sequence[OutcomeRecord]) -> None: ...
    def shown(self, shown: AlignedFrame) -> None: ...
    def held(self, source_id: str, pictures: int) -> None: ...
    def joined(self, source: str, counters: MixerCounters, undecodable: int) -> None: ...


@dataclass(slots=True)
class MixCounters:
    """What was shown. boxes: drawn or not, by origin; missing: frames shown without a pipeline's result. undecodable:
    frames left out because what the log carries is no picture."""

    frames: int = 0
    undecodable: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    with_boxes: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    latency_ns: deque[int] = field(default_factory=lambda: deque(maxlen=4096))  # release - arrival, newest frames


@dataclass(slots=True)
class MixRole:
    """One source. `make_writers` is called at the first shown frame, when its size and time base are known.

    guard: keeps what an output fails with; that output is let go, the account and the other outputs go on. may_lose: an
    output has this frame, and would not if the process ended now. hand_over: outputs keep all that was shown so far.
    """

    mixer: Mixer
    accountant: Accountant
    lines: ResultLines
    draw: Draw
    make_writers: MakeWriters
    sinks: Sequence[ShownSink] = ()
    sheet: ContactSheet | None = None
    average_rate: Fraction | None = None
    observer: Observer | None = None
    counters: MixCounters = field(default_factory=MixCounters)
    guard: OutputGuard = field(default_factory=OutputGuard)
    may_lose: Callable[[FrameKey], bool] = field(default=lambda key: False)
    hand_over: Callable[[], None] = field(default=lambda: None)
    sample_aspect: Fraction = Fraction(1)
    _writers: Sequence[VideoWriter] | None = None

    def frame(self, record: FrameRecord, now_ns: int, at_end: bool = True) -> None:
        """A record of `frames`; a file's only while not `mixer.full`. at_end: read at the end of the log."""
        self.lines.frame(record)
        if self.observer is not None:
            self.observer.accepted(record)
        self._outcomes(self.accountant.frame(record, now_ns))
        self._show(self.mixer.frame(record, now_ns, at_end))

    def post(self, posting: Posting, now_ns: int) -> None:
        """A record of `results`."""
        self.mixer.post(posting, now_ns)
        self._outcomes(self.accountant.post(posting, now_ns))

    def poll(self, now_ns: int) -> None:
        """Show what is due, close what is due."""
        self._show(self.mixer.poll(now_ns))

    def tick(self, now_ns: int) -> None:
        """Once a second or so: live sources close their keys by time."""
        self._outcomes(self.accountant.tick(now_ns))
        if self.observer is not None:
            self.observer.held(self.mixer.source_id, self.mixer.held)
            self.observer.joined(self.mixer.source_id, self.mixer.counters, self.counters.undecodable)

    def finish(self) -> list[OutputSummary]:
        """The input ended, every stage has answered, `mixer.held` is 0: close all keys and outputs."""
        self._outcomes(self.accountant.finish(self.mixer.source_id))
        if self.observer is not None:
            self.observer.held(self.mixer.source_id, 0)
            self.observer.joined(self.mixer.source_id, self.mixer.counters, self.counters.undecodable)
        outputs: list[OutputSummary] = []
        for writer in self._writers or ():
            self.guard(lambda close: outputs.append(close()), writer.close)
        return outputs

    def abandon(self) -> None:
        """The run failed: leave nothing half-written."""
        for writer in self._writers or ():
            writer.abandon()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _outcomes(self, records: Sequence[OutcomeRecord]) -> None:
        self.guard(self.lines.outcomes, records)
        if self.observer is not None:
            self.observer.outcomes(records)

    def _show(self, frames: Sequence[AlignedFrame]) -> None:
        for shown in frames:
            rgb = self._picture(shown.frame)
            if rgb is None and shown.frame.picture is not None and self._is_drawn:
                self.counters.undecodable += 1  # passed over: its outcome says why nothing is known of it
            else:
                self._count(shown)
                if self.observer is not None:
                    self.observer.shown(shown)
            without = rgb is None
            self.sinks = [s for s in self.sinks if (without and _is_of_video(s)) or self.guard(s.write, shown)]
            if rgb is not None and not self.guard(self._write, shown, rgb):
                self.abandon()
                self._writers = ()

    @property
    def _is_drawn(self) -> bool:
        """Somebody wants pictures, or is to be asked at the first one."""
        return self._writers is None or bool(self._writers) or self.sheet is not None

    def _picture(self, frame: Frame) -> PixelArray | None:
        """None where there is none, nobody wants it, or it does not decode (its outcome says so as well)."""
        if frame.picture is None or not self._is_drawn:
            return None
        try:
            return frame.picture.rgb()
        except ValueError:
            return None

    def _write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
        if self._writers is None:
            self._writers = self.make_writers(self._stream(shown, rgb))
        drawn = self.draw(shown, rgb, self._note(shown))
        for writer in self._writers:
            writer.write(shown, drawn)
        if self.sheet is not None:
            self.sheet.add(drawn)

    def _note(self, shown: AlignedFrame) -> str:
        """The balance of the account at this moment, for the banner."""
        total = self.accountant.total(self.mixer.source_id, shown.frame.pipelines[0])
        open_keys = f" + {total.in_flight} open" if total.in_flight else ""
        return f"{total.accepted} = {total.results} results + {total.dropped} dropped + {total.dead} dead{open_keys}"

    def _stream(self, shown: AlignedFrame, rgb: PixelArray) -> OutputStream:
        """Its first picture keeps the source's own PTS, also where the output goes on after a restart."""
        base, (height, width) = shown.frame.time_base, rgb.shape[:2]
        return OutputStream(width, height, base, origin_of(shown), self.average_rate, self.sample_aspect)

    def _count(self, shown: AlignedFrame) -> None:
        counters = self.counters
        counters.frames += 1
        counters.latency_ns.append(shown.released_mono_ns - shown.frame.arrival_mono_ns)
        boxes = 0
        for overlay in shown.overlays:
            boxes += len(overlay.boxes)
            for value in overlay.origin.tolist():
                counters.boxes[Origin(value).name.lower()] += 1
            counters.missing[overlay.pipeline] += overlay.missing and shown.frame.analyse
        counters.with_boxes += boxes > 0


def _is_of_video(sink: ShownSink) -> bool:
    return bool(getattr(sink, "of_video", False))
