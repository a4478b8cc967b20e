"""Mixed pictures to an RTSP or RTMP receiver (ANNOUNCE and RECORD of RFC 2326; RTMP publish).

A thread encodes; a process of its own (`publish_child`) holds the connection.
A receiver that is slow or away never holds up the mixer: the queue is short and drops its oldest picture, and the
connection is made again after a back-off. Packets carry the output time, so what was left out is a gap, not a delay.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av

from serving.adapters.video.address import redacted, scheme_of
from serving.adapters.video.encode import add_video, picture_for
from serving.errors import SourceError
from serving.frames import AlignedFrame
from serving.media import OutputStream, OutputSummary, nearest_tick
from serving.types import PixelArray

TICKS = Fraction(1, 90_000)
QUEUE = 8
FIRST_S, MOST_S = 0.5, 8.0
TIMEOUT_US = "5000000"
CLOSE_S = 2.0
SILENT_NS = 15_000_000_000
ENCODER = {"preset": "veryfast", "crf": "23", "tune": "zerolatency", "g": "60", "bf": "0", "flags": "+global_header"}
CHILD = str(Path(__file__).with_name("publish_child.py"))  # by its file: it needs nothing of ours, and starts at once
_FORMATS = {"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv"}


class _Ended(Exception):
    """The connection is over; says why."""


class _Pipe:
    """The write end of a pipe as libav may use it: it cannot be sought."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        return len(data)


class PublishWriter:
    """See `serving.media.VideoWriter`; `write` never waits and never raises.

    address: secrets by name. resolve(address): checked, with its secrets; called before each connection, and what it
    raises is told. on_drop(pictures), on_error(text without secrets): told on the thread that notices.
    """

    def __init__(
        self, address: str, stream: OutputStream, resolve: Callable[[str], str], on_drop: Callable[[int], None],
        on_error: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._address, self._format = address, _FORMATS[scheme_of(address)]
        self._stream = OutputStream(stream.width, stream.height, TICKS, 0, stream.average_rate)
        self._resolve, self._on_drop, self._on_error = resolve, on_drop, on_error
        self._changed = threading.Condition()
        self._queue: deque[tuple[int, PixelArray]] = deque()
        self._closed = False
        self._frames = self._moved_ns = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        self._thread.start()

    def write(self, shown: AlignedFrame, rgb: PixelArray) -> None:
        """Queue a picture; the oldest goes where there is no room."""
        dropped = 0
        with self._changed:
            while len(self._queue) >= QUEUE:
                self._queue.popleft()
                dropped += 1
            self._queue.append((nearest_tick(shown.out_pts_ns, TICKS), rgb))
            self._changed.notify()
        if dropped:
            self._on_drop(dropped)
            if self._child is not None and shown.released_mono_ns - self._moved_ns > SILENT_NS:
                self._child.kill()  # it takes nothing: connect anew
                self._moved_ns = shown.released_mono_ns
        else:
            self._moved_ns = shown.released_mono_ns

    def close(self) -> OutputSummary:
        """Send what is queued, if that is quick."""
        self._no_more()
        self._thread.join(CLOSE_S)
        self._kill()  # a receiver that takes nothing holds up nobody's end
        return OutputSummary(redacted(self._address), self._frames, 0)

    def abandon(self) -> None:
        """At once: what was sent is sent, and nothing more is told."""
        self._on_error = lambda text: None
        self._no_more()
        self._kill()

    def _no_more(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        delay_s = FIRST_S
        while not self._closed:
            before = self._frames
            try:
                self._connection()
            except SourceError as error:
                self._on_error(str(error))
            except (_Ended, OSError, subprocess.TimeoutExpired) as error:
                self._on_error(f"{redacted(self._address)}: {error}")
            delay_s = FIRST_S if self._frames > before else min(2 * delay_s, MOST_S)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, delay_s)

    def _connection(self) -> None:
        """One connection, until the receiver ends it or we are closed."""
        options = {"rtsp_transport": "tcp", "timeout": TIMEOUT_US} if self._format == "rtsp" else {}
        told = {"address": self._resolve(self._address), "format": self._format, "options": options}
        with subprocess.Popen(
            [sys.executable, "-P", CHILD],
            bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        ) as child:  # fmt: skip
            self._child = child
            try:
                self._feed(child, told)
            except (OSError, av.FFmpegError) as error:
                raise _Ended(self._last_words(child) or "the receiver left, or took nothing") from error
            finally:
                child.kill()

    def _feed(self, child: subprocess.Popen[bytes], told: dict[str, Any]) -> None:
        """Encoded pictures to the process that holds the connection; what it cannot take in time waits in the queue."""
        assert child.stdin is not None
        child.stdin.write(json.dumps(told).encode() + b"\n")
        container: Any = av.open(_Pipe(child.stdin), "w", format="nut", options={"flush_packets": "1"})
        video = add_video(container, self._stream, ENCODER)
        last = -1
        while (item := self._next()) is not None:
            tick, rgb = item
            if tick > last:
                last = tick
                for packet in video.encode(picture_for(rgb, self._stream, tick)):
                    container.mux(packet)
                self._frames += 1
        container.close()
        child.stdin.close()
        child.wait(CLOSE_S)

    @staticmethod
    def _last_words(child: subprocess.Popen[bytes]) -> str:
        assert child.stdout is not None
        try:
            child.wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        return child.stdout.read(200).decode(errors="replace").strip()

    def _next(self) -> tuple[int, PixelArray] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return self._queue.popleft() if self._queue else None
