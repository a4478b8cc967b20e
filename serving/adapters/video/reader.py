"""One connection to a video source: packets in, tagged, decoded; pictures out in presentation order with their own PTS.

Every packet carries a tag through the decoder (libav's `copy_opaque`), so that a picture names the packet it came
from and a packet without picture is noticed. DTS feeds the decoder and nothing else. Pictures stay in the decoder's
format until somebody asks for their RGB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container.core import Flags
from av.stream import Discard

from serving.adapters.video import containers
from serving.adapters.video.address import FORMATS, HTTP, LIVE_SCHEMES, path_of, redacted, scheme_of, with_secrets
from serving.adapters.video.colour import RgbConverter, is_turned, size_of
from serving.adapters.video.http_io import Opener, is_playlist
from serving.adapters.video.options import ReaderOptions, libav_options, with_buffers
from serving.clock import NS_PER_S, Clock
from serving.errors import SourceError, SourceInvalid, SourceNotFound, SourceRefused, SourceStalled, SourceUnreachable
from serving.frames import CaptureQuality, Picture, PtsSource, SourceKind, StreamInfo
from serving.media import DecoderRefused, MediaEvent, PacketSeen, PictureSeen, StreamEnded, StreamOpened


class _Tag:
    """What a picture is told of its packet. An object of its own: libav's table of opaque values goes by identity."""

    __slots__ = ("arrival_ns", "capture_ns", "index", "raw_pts")

    def __init__(self, index: int, raw_pts: int | None, arrival_ns: int, capture_ns: int | None) -> None:
        self.index = index
        self.raw_pts = raw_pts
        self.arrival_ns = arrival_ns
        self.capture_ns = capture_ns


def open_reader(source_id: str, address: str, options: ReaderOptions, clock: Clock) -> AvReader:
    """Connect. Raises SourceRefused, SourceNotFound, SourceInvalid, SourceUnreachable or SourceStalled."""
    real = with_secrets(address, options.secrets)
    options.policy.check(real)
    shown, scheme = redacted(address), scheme_of(real)
    if scheme == "file" and not path_of(real).exists():
        raise SourceNotFound(f"{shown}: no such file")
    hook = Opener(real, options.policy, options.read_timeout_s) if scheme in HTTP or is_playlist(real) else None
    try:
        container = av.open(
            str(path_of(real)) if scheme == "file" else with_buffers(real),
            options=libav_options(real, options.policy),
            timeout=(options.open_timeout_s, options.read_timeout_s),
            io_open=hook,
            metadata_errors="replace",
        )
    except (OSError, ValueError, av.FFmpegError, SourceError) as error:
        refused = _closed(hook)
        raise refused or _translated(shown, error, options.open_timeout_s) from None
    try:
        return AvReader(container, source_id, shown, _kind(scheme, container), options, clock, hook)
    except SourceError:
        container.close()
        _closed(hook)
        raise


class AvReader:
    """See `serving.media.VideoReader`. `events` ends with StreamEnded whatever happens to the input."""

    def __init__(
        self,
        container: Any,
        source_id: str,
        shown: str,
        kind: SourceKind,
        options: ReaderOptions,
        clock: Clock,
        hook: Opener | None = None,
    ) -> None:
        self._container, self._options, self._clock = container, options, clock
        self._source_id, self._shown, self._kind, self._hook = source_id, shown, kind, hook
        self._stream = _video_stream(container, shown, options)
        self._codec = self._stream.codec_context
        self._codec.copy_opaque = True
        self._codec.thread_type = "SLICE" if kind is SourceKind.LIVE else "AUTO"
        self._codec.thread_count = options.threads
        container.flags = container.flags & ~Flags.gen_pts.value  # PyAV asks libav to invent missing PTS
        extradata = self._codec.extradata
        self._nal_size = containers.nal_length_size(self._codec.name, extradata)
        self._parameters = extradata if self._nal_size else b""
        self._info: StreamInfo | None = None
        self._waiting: list[PacketSeen] | None = []  # until the next picture shows what its parameters are
        self._next_tag = self._pictures = 0
        self._is_avi = container.format.name == "avi"
        self._number = self._numbering()
        self._closing = False
        self._rgb = RgbConverter()

    @property
    def kind(self) -> SourceKind:
        """Live, or a file with an end."""
        return self._kind

    def close(self) -> None:
        """Ask the reading thread to end; it does so after its present read, at most read_timeout_s later."""
        self._closing = True

    def events(self) -> Iterator[MediaEvent]:
        """Everything there is to tell about this connection, once. Whoever stops asking lets go of the connection."""
        try:
            yield from self._all_events()
        finally:
            self._release()  # libav's objects must not be left to the garbage collector, which may end the process

    def _release(self) -> SourceError | None:
        """Close everything, more than once if need be; what the hook refused last."""
        self._container.close()
        return _closed(self._hook)

    def _all_events(self) -> Iterator[MediaEvent]:
        error: SourceError | None = None
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield from self._feed(packet)
                if self._closing:
                    break
        except (OSError, ValueError, av.FFmpegError, SourceError) as failure:
            error = _translated(self._shown, failure, self._options.read_timeout_s)
        try:
            yield from self._drain()
        except SourceError as failure:
            error = error or failure
        refused = self._release()
        if self._pictures == 0 and not self._closing and (refused or error is None):
            error = refused or SourceInvalid(f"{self._shown}: no picture in {self._next_tag} packets")
        yield StreamEnded(error)

    # -- packets ----------------------------------------------------------------------------------------------------

    def _feed(self, packet: Any) -> Iterator[MediaEvent]:
        tag = _Tag(self._next_tag, self._raw_pts(packet), self._clock.monotonic_ns(), _producer_time(packet))
        self._next_tag += 1
        if self._has_new_parameters(packet):
            yield from self._drain()
            self._codec.flush_buffers()
            self._waiting = []
        keyframe = packet.is_keyframe or self._intra_only()
        seen = [PacketSeen(tag.index, tag.raw_pts, keyframe, packet.is_discard, packet.dts)]
        if containers.shows_nothing(self._codec.name, memoryview(packet)):
            seen = []  # not told: nobody is to wait for its picture
        packet.opaque = tag
        refused = ""
        pictures: list[Any] = []
        try:
            pictures = self._codec.decode(packet)
        except av.FFmpegError as error:
            refused = error.strerror or type(error).__name__
        yield from self._ordered(seen, pictures)
        if refused:
            yield DecoderRefused(refused)

    def _ordered(self, seen: list[PacketSeen], pictures: list[Any]) -> Iterator[MediaEvent]:
        if self._waiting is not None:
            self._waiting += seen
            if len(self._waiting) > self._options.max_packets:
                raise SourceInvalid(f"{self._shown}: no picture in {len(self._waiting)} packets")
        else:
            yield from seen
        for picture in pictures:
            yield from self._out(picture)

    def _out(self, picture: Any) -> Iterator[MediaEvent]:
        tag = picture.opaque
        capture_ns = tag.capture_ns if tag else None
        if self._waiting is not None:
            yield StreamOpened(self._opened(picture))
            waiting, self._waiting = self._waiting, None
            yield from waiting
        elif self._differs(picture):
            yield StreamOpened(self._opened(picture), tag.index if tag else None)
        self._pictures += 1
        yield PictureSeen(
            tag=tag.index if tag else None,
            raw_pts=self._picture_pts(picture, tag),
            arrival_mono_ns=tag.arrival_ns if tag else self._clock.monotonic_ns(),
            picture=Picture(load=lambda: self._rgb(picture)),
            corrupt=picture.is_corrupt,
            packet_dts=picture.dts,
            capture_ns=capture_ns,
            capture_quality=self._capture_quality(capture_ns),
        )

    def _raw_pts(self, packet: Any) -> int | None:
        """The container's PTS. AVI has none, only a count of packets, which its demuxer gives as the other stamp."""
        if self._number is not None:
            return None
        counted = packet.dts if self._is_avi and packet.pts is None else packet.pts
        return None if counted is None else int(counted)

    def _picture_pts(self, picture: Any, tag: _Tag | None) -> int | None:
        if self._number is not None:
            return self._number.tick()
        if self._is_avi and tag is not None:
            return tag.raw_pts
        return None if picture.pts is None else int(picture.pts)

    def _drain(self) -> Iterator[MediaEvent]:
        """Every picture the decoder still holds; a refused packet in between does not end it."""
        for _ in range(self._options.max_packets):
            try:
                pictures = self._codec.decode(None)
            except EOFError:
                return
            except av.FFmpegError as error:
                yield DecoderRefused(error.strerror or type(error).__name__)
                continue
            for picture in pictures:
                yield from self._out(picture)

    # -- parameters -------------------------------------------------------------------------------------------------

    def _has_new_parameters(self, packet: Any) -> bool:
        if packet.has_sidedata("new_extradata"):
            found = bytes(packet.get_sidedata("new_extradata"))
        elif packet.is_keyframe:
            found = containers.parameter_sets(self._codec.name, bytes(packet), self._nal_size)
        else:
            return False
        if not found or found == self._parameters:
            return False
        known, self._parameters = self._parameters, found
        repeats_header = found in known  # in-band sets that say what the container's header says
        return bool(known) and self._pictures > 0 and not repeats_header

    def _differs(self, picture: Any) -> bool:
        return self._info is not None and size_of(picture) != (self._info.width, self._info.height)

    def _intra_only(self) -> bool:
        return self._codec.name in ("mjpeg", "png", "rawvideo", "bmp", "webp", "prores", "dvvideo")

    def _opened(self, picture: Any) -> StreamInfo:
        width, height = size_of(picture)
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self._info = StreamInfo(
            source_id=self._source_id,
            kind=self._kind,
            time_base=self._number.time_base if self._number else self._stream.time_base,
            width=width,
            height=height,
            codec=self._codec.name,
            pts_modulus=containers.pts_modulus(self._container.format.name),
            average_rate=self._stream.average_rate or None,
            reorder_depth=0 if self._intra_only() else max(0, self._codec.reorder_depth),
            hidden_frames=self._codec.name in containers.HIDDEN_FRAME_CODECS,
            pts_source=self._pts_source(),
            sample_aspect=1 / aspect if is_turned(picture) else aspect,
            segment_ns=self._hook.segment_s * NS_PER_S if self._hook and self._kind is SourceKind.LIVE else 0,
        )
        return self._info

    def _pts_source(self) -> PtsSource:
        if self._number is not None and self._options.assume_fps is not None:
            return PtsSource.ASSUMED
        return PtsSource.DEMUXER if containers.has_no_pts(self._container.format.name) else PtsSource.CONTAINER

    def _numbering(self) -> _Numbering | None:
        """For containers without PTS. AVI's demuxer counts packets, which will do where each gives one picture."""
        if not containers.has_no_pts(self._container.format.name):
            return None
        rate = self._options.assume_fps
        if rate is None and self._codec.reorder_depth > 0:
            raise SourceInvalid(
                f"{self._shown}: {self._container.format.name} holds no PTS and this stream has B-frames",
                hint="give --assume-fps to number its pictures",
            )
        if rate is None and self._is_avi:
            return None
        known = self._stream.guessed_rate or self._stream.average_rate  # the first one knows what the codec says
        return _Numbering(1 / Fraction(rate or known or 25))

    def _capture_quality(self, capture_ns: int | None) -> CaptureQuality:
        if capture_ns is None:
            return CaptureQuality.NONE
        return CaptureQuality.SR if "rtsp" in self._container.format.name else CaptureQuality.PRODUCER


class _Numbering:
    """Pictures counted at a fixed rate."""

    __slots__ = ("_next", "time_base")

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self._next = 0

    def tick(self) -> int:
        """The next picture's tick."""
        self._next += 1
        return self._next - 1


def _video_stream(container: Any, shown: str, options: ReaderOptions) -> Any:
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise SourceInvalid(f"{shown}: holds no video, {f'only {kinds}' if kinds else 'and nothing else either'}")
    stream = container.streams.best("video") or container.streams.video[0]
    if stream.codec_context is None or stream.codec_context.name not in options.policy.codecs:
        name = "an unknown codec" if stream.codec_context is None else f"codec {stream.codec_context.name}"
        raise SourceRefused(
            f"{shown}: {name} is not allowed", hint=f"allowed: {', '.join(sorted(options.policy.codecs))}"
        )
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all  # by name only newer releases of PyAV take it
    return stream


def _kind(scheme: str, container: Any) -> SourceKind:
    endless = container.duration is None and scheme in HTTP
    return SourceKind.LIVE if scheme in LIVE_SCHEMES or endless else SourceKind.FILE


def _closed(hook: Opener | None) -> SourceError | None:
    """Close what the hook opened; what it refused last."""
    if hook is None:
        return None
    hook.close()
    return hook.error


def _producer_time(packet: Any) -> int | None:
    """Wall-clock nanoseconds of capture by its sender (side data AVProducerReferenceTime)."""
    if not packet.has_sidedata("prft"):
        return None
    data = bytes(packet.get_sidedata("prft"))
    return int(struct.unpack_from("=q", data)[0]) * 1000 if len(data) >= 8 else None


def _translated(shown: str, error: BaseException, timeout_s: float) -> SourceError:
    """libav's error as ours, without the address it may carry."""
    if isinstance(error, SourceError):
        return error
    reason = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, av.error.ArgumentError):  # libav found a format, and not in the list it was given
        return SourceRefused(f"{shown}: its format is not allowed", hint=f"allowed: {FORMATS.replace(',', ', ')}")
    if isinstance(error, av.error.ExitError | TimeoutError):
        return SourceStalled(f"{shown}: nothing came for {timeout_s:g} s")
    if isinstance(error, FileNotFoundError):
        return SourceNotFound(f"{shown}: {reason}")
    if isinstance(error, av.error.InvalidDataError | ValueError | IsADirectoryError | EOFError):
        return SourceInvalid(f"{shown}: {reason}", hint="not a video, or cut off before its first picture")
    if isinstance(error, PermissionError | av.error.ProtocolNotFoundError):
        return SourceRefused(f"{shown}: {reason}")
    return SourceUnreachable(f"{shown}: {reason}")
