"""What becomes of a source's mixed pictures: HLS with its side channel, recordings, a receiver they are published to.

An output that fails (a full disk, a receiver that is away) is named, tried again later, and takes no other one with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.adapters.video import HlsSettings, HlsWriter, LastShown, PublishWriter, RecordingWriter, last_shown
from serving.adapters.video.address import with_secrets
from serving.clock import NS_PER_S
from serving.config import Settings, child_environment
from serving.errors import StorageFailed
from serving.frames import AlignedFrame, FrameKey
from serving.media import OutputStream, OutputSummary, VideoWriter
from serving.records import StreamMessage
from serving.roles.monitor import RoleMonitor
from serving.roles.sources import registered_policy, registered_secrets
from serving.streams.lines import describe
from serving.types import PixelArray

AGAIN_NS = 5 * NS_PER_S
SEGMENT_NS = 2 * NS_PER_S
RECORDINGS = "recordings"


@dataclass(slots=True)
class Kept:
    """A writer that outlives failures of the disk: what failed is let go and made anew after AGAIN_NS."""

    make: Callable[[], VideoWriter]
    failed: Callable[[StorageFailed | None], None]
    _writer: VideoWriter | None = None
    _again_ns: int | None = None
    _gone: bool = False

    def may_lose(self, key: FrameKey) -> bool:
        """The frame would be missing if this process ended now, and somebody could still write it."""
        if self._gone or self._again_ns is not None:  # it is missing already
            return False
        return not (isinstance(self._writer, HlsWriter) and self._writer.has(key))

    def write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
        """As far as the disk takes it."""
        if self._again_ns is not None and shown.released_mono_ns < self._again_ns:
            return
        try:
            self._writer = self._writer or self.make()
            self._writer.write(shown, rgb)
        except StorageFailed as error:
            self._let_go()
            self._again_ns = shown.released_mono_ns + AGAIN_NS
            self.failed(error)
        else:
            if self._again_ns is not None:
                self._again_ns = None
                self.failed(None)

    def close(self) -> OutputSummary:
        """Of what could be written."""
        try:
            return self._writer.close() if self._writer and not self._gone else OutputSummary("", 0, 0)
        except StorageFailed as error:
            self.failed(error)
            return OutputSummary("", 0, 0, (str(error),))

    def hand_over(self) -> None:
        """Whoever goes on finds all that was written."""
        try:
            if isinstance(self._writer, HlsWriter):
                self._writer.hand_over()
        except StorageFailed as error:
            self.failed(error)

    def abandon(self) -> None:
        """Let go, but for the open segment of an HLS: `hand_over` may still come."""
        self._gone = True
        if not isinstance(self._writer, HlsWriter):
            self._let_go()

    def _let_go(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.abandon()
        except StorageFailed as error:
            self.failed(error)


@dataclass(frozen=True, slots=True)
class SourceOutputs:
    """The outputs of one source. wished: its record on `streams`; None where nobody registered it: HLS alone.

    owner(epoch): who claimed it, None where nobody did.
    """

    settings: Settings
    root: Path
    source_id: str
    live: bool
    wished: StreamMessage | None
    monitor: RoleMonitor
    owner: Callable[[int], str | None]
    hls: list[Kept] = field(default_factory=list)

    def may_lose(self, key: FrameKey) -> bool:
        """A frame is shown again where the process ends before its segment was whole."""
        if not (self.wished is None or self.wished.mixed):
            return False
        return not self.hls or self.hls[-1].may_lose(key)

    def hand_over(self) -> None:
        """Another goes on, behind the last picture that was shown here."""
        for kept in self.hls:
            kept.hand_over()

    @property
    def folder(self) -> Path:
        """Of the HLS."""
        return self.root / self.source_id

    def last_shown(self) -> LastShown | None:
        """The last frame in its HLS; None where the log's timeline is another one: made anew, or of another system."""
        last = last_shown(self.folder) if self.wished is None or self.wished.mixed else None
        if last is None or last.key.source_id != self.source_id or last.ingest_id != self.owner(last.key.epoch):
            return None
        return last

    def writers(self, stream: OutputStream) -> Sequence[VideoWriter]:
        """Made when the first picture is shown."""
        wished, made = self.wished, list[VideoWriter]()
        if wished is None or wished.mixed:
            self.hls.append(Kept(lambda: self._hls(stream), self._told("hls")))
            made.append(self.hls[-1])
        if wished is not None and wished.recording:
            made.append(Kept(lambda: self._recording(stream), self._told("recording")))
        if wished is not None and wished.publish:
            made.append(
                PublishWriter(
                    wished.publish, stream, self._resolve, self._dropped, lambda text: self._wrong("publish", text)
                )
            )
        return made

    def _hls(self, stream: OutputStream) -> HlsWriter:
        window = max(3, self.settings.hls_window_s * NS_PER_S // SEGMENT_NS) if self.live else 0
        return HlsWriter(self.folder, stream, self._described, HlsSettings(SEGMENT_NS, window, resume=True))

    def _described(self, shown: AlignedFrame) -> dict[str, Any]:
        """With the name of the epoch's claim: by it a mixer that goes on knows its folder."""
        return {**describe(shown), "ingest_id": self.owner(shown.frame.epoch)}

    def _recording(self, stream: OutputStream) -> RecordingWriter:
        folder = self.root / RECORDINGS / self.source_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"{folder}: cannot be made: {error.strerror}") from error
        return RecordingWriter(folder, self.source_id, stream, self.settings.recording_s * NS_PER_S)

    def _resolve(self, address: str) -> str:
        """Held to the policy of registered sources, unless an operator's own process reads the source."""
        if self.wished is not None and not self.wished.supervised:
            return with_secrets(address, child_environment())
        full = with_secrets(address, registered_secrets(self.settings))
        registered_policy(self.settings).check(full)
        return full

    def _told(self, output: str) -> Callable[[StorageFailed | None], None]:
        def told(error: StorageFailed | None) -> None:
            if error is None:
                self.monitor.right(f"{output} of {self.source_id}")
            else:
                self._wrong(output, str(error))
                self.monitor.wrong(f"{output} of {self.source_id}", str(error))

        return told

    def _wrong(self, output: str, text: str) -> None:
        self.monitor.complain(f"{output} of {self.source_id}", text)
        self.monitor.metrics.inc("lockstep_mixer_output_errors_total", source=self.source_id, output=output)

    def _dropped(self, pictures: int) -> None:
        self.monitor.metrics.inc("lockstep_mixer_publish_dropped_total", pictures, source=self.source_id)
