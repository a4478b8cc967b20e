"""Cameras: coded clips with B-frames as MPEG-TS over UDP, paced by their own time, PTS running on.

    python fault_sender.py FOLDER '{"fps": 15, "seconds": 40, "cameras": [{"clip": 0, "port": 5000}, ...]}'

It says `ready`, and sends after the first line on its input.
Orders come as JSON lines on its input: {"camera": 0, "do": "pause", "s": 9}, "restart" (a new connection, counting from
`pts`), "spoil" (share of transport packets that are cut, flipped or zeroed) and "stop".
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from serving.adapters.video.clips import ClipSpec, write_clip
from serving.testing.faults.role import end_with_parent
from serving.testing.sync_code import PATHS, picture
from serving.types import PixelArray

TICKS = 90_000
DATAGRAM = 7 * 188
LARGE = (1080, 1440, 3)
LARGE_S = 4.0  # of such a clip
X264 = "bframes=2:b-adapt=0:b-pyramid=none:scenecut=0:keyint={key}:min-keyint={key}"


def make_clip(path: Path, clip: int, fps: int, seconds: float, large: bool = False) -> None:
    """IBBP with a keyframe every two seconds. large: 1440x1080, and every tenth picture is noise."""
    rng = np.random.default_rng(clip)

    def shot(n: int) -> PixelArray:
        small = picture(n, clip, PATHS["linear"](n / fps))
        if not large:
            return small
        if n % 10 == 9:
            return rng.integers(0, 256, LARGE, np.uint8)
        return np.asarray(cv2.resize(small, LARGE[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)

    shown = ((shot(n), n * TICKS // fps) for n in range(round(fps * seconds)))
    spec = ClipSpec("mpegts", Fraction(1, TICKS), X264.format(key=2 * fps), Fraction(fps))
    write_clip(path, spec, shown)


class Datagrams:
    """What the muxer writes goes out over UDP; spoil: the share of packets that are damaged on the way."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._to = ("127.0.0.1", port)
        self._rng = random.Random(port)
        self.spoil = 0.0

    def write(self, data: bytes) -> int:
        out = self._spoilt(data) if self.spoil else data
        for at in range(0, len(out), DATAGRAM):
            self._socket.sendto(out[at : at + DATAGRAM], self._to)
        return len(data)

    def _spoilt(self, data: bytes) -> bytes:
        out = bytearray()
        for at in range(0, len(data), 188):
            packet = bytearray(data[at : at + 188])
            if self._rng.random() < self.spoil and packet[0] == 0x47 and not packet[1] & 0x40:
                kind = self._rng.randrange(3)
                if kind == 0:
                    continue  # cut
                place = self._rng.randrange(20, len(packet))
                packet[place:] = bytes(len(packet) - place) if kind == 1 else packet[place:]
                packet[place % len(packet)] ^= 1 << self._rng.randrange(8)
            out += packet
        return bytes(out)


class Camera:
    """One clip, over and over, as one stream whose PTS never fall."""

    def __init__(self, path: Path, port: int, fps: int, start: int = 0) -> None:
        self._out, self._start, self._over = Datagrams(port), start, threading.Event()
        self._restart = threading.Event()
        self._pause_s = 0.0
        with av.open(str(path)) as container:
            self._packets = [(p.pts, p.dts, bytes(p), p.is_keyframe) for p in container.demux(video=0) if p.size]
            self._template = path
        self._length = len(self._packets) * TICKS // fps
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def order(self, told: dict[str, Any]) -> None:
        what = told["do"]
        if what == "pause":
            self._pause_s = float(told["s"])
        elif what == "restart":
            self._start = int(told.get("pts", 0))
            self._pause_s = float(told.get("s", 0))
            self._restart.set()
        elif what == "spoil":
            self._out.spoil = float(told["share"])
        elif what == "stop":
            self._over.set()
            self._thread.join(2)
        else:
            raise ValueError(f"order: {told}")

    def _run(self) -> None:
        while not self._over.is_set():
            self._restart.clear()
            if self._pause_s:
                self._over.wait(self._pause_s)
                self._pause_s = 0.0
            self._connection()

    def _connection(self) -> None:
        options = {"flush_packets": "1"}
        with (
            av.open(str(self._template)) as given,
            av.open(self._out, "w", format="mpegts", options=options) as container,
        ):
            stream = container.add_stream_from_template(given.streams.video[0])
            began, first = time.monotonic(), self._packets[0][1]
            turn = 0
            while True:
                for pts, dts, data, key in self._packets:
                    if self._pause_s and not self._restart.is_set():
                        self._over.wait(self._pause_s)
                        self._pause_s = 0.0
                    shift = turn * self._length
                    wait = began + (dts + shift - first) / TICKS - time.monotonic()
                    if self._over.wait(max(0.0, wait)) or self._restart.is_set():
                        return
                    packet = av.Packet(data)
                    packet.pts, packet.dts = pts + shift + self._start, dts + shift + self._start
                    packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, TICKS), stream, key
                    container.mux(packet)
                turn += 1


def main() -> None:
    """Until its input ends."""
    end_with_parent()
    folder, told = Path(sys.argv[1]), json.loads(sys.argv[2])
    paths = {}
    for camera in told["cameras"]:
        clip, large = camera["clip"], camera.get("large", False)
        seconds = LARGE_S if large else told["seconds"]
        paths[clip] = folder / f"clip-{clip}-{told['fps']}-{seconds}{'-large' if large else ''}.ts"
        if not paths[clip].exists():
            make_clip(paths[clip], clip, told["fps"], seconds, large)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()  # any line: go
    running = [Camera(paths[c["clip"]], c["port"], told["fps"], c.get("pts", 0)) for c in told["cameras"]]
    for line in sys.stdin:
        order = json.loads(line)
        running[order["camera"]].order(order)


if __name__ == "__main__":
    main()
