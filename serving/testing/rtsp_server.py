"""A camera: a small RTSP server (RFC 2326) that sends H.264 over RTP (RFC 6184) inside the RTSP connection.

It offers sound too, which a reader of pictures should not ask for, and sends sender reports (RFC 3550) whose wall clock
is wrong, as many cameras do. RTP carries presentation times only.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MTU = 1200
WRAP = 1 << 32
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 0.0.0.0
t=0 0
a=control:*
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track0
m=audio 0 RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=control:track1
"""


@dataclass(slots=True)
class Camera:
    """Serves `units` (RTP timestamp at 90 kHz, H.264 with start codes) to everybody who connects, paced by `pace_s`.

    after: what happens when all are sent: `close` the connection, or stay `silent`. Use as a context manager.
    """

    units: Sequence[tuple[int, bytes]]
    start: int = 0
    pace_s: float = 0.002
    after: str = "close"
    password: str = ""
    set_up: list[str] = field(default_factory=list)
    connections: int = 0
    _socket: socket.socket | None = None
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Camera:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self._begin(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(5)
        if self._socket is not None:
            self._socket.close()

    @property
    def address(self) -> str:
        """Where it is."""
        assert self._socket is not None
        return f"rtsp://127.0.0.1:{self._socket.getsockname()[1]}/cam"

    def _begin(self, work, *arguments: object) -> None:  # type: ignore[no-untyped-def]
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        assert self._socket is not None
        while not self._over.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            self.connections += 1
            self._begin(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5)
            try:
                for request in _requests(connection):
                    connection.sendall(self._answer(request))
                    if request[0].startswith("PLAY"):
                        self._play(connection)
                        return
            except (OSError, TimeoutError):
                return  # the client is gone, which is its right

    def _answer(self, request: list[str]) -> bytes:
        method, address = request[0].split()[:2]
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in request[1:]}
        extra, body = "", ""
        if method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = SDP.replace("\n", "\r\n")
            extra = f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            self.set_up.append(address.rpartition("/")[2])
            extra = f"Transport: {headers.get('transport', '')}\r\n"
        return f"RTSP/1.0 200 OK\r\nCSeq: {headers.get('cseq', '0')}\r\nSession: 1\r\n{extra}\r\n{body}".encode()

    def _play(self, connection: socket.socket) -> None:
        sequence = 0
        for number, (pts, unit) in enumerate(self.units):
            stamp = (self.start + pts) % WRAP
            if number % 20 == 0:
                _send(connection, 1, _sender_report(stamp, number))
            for packet in _packets(unit, stamp, sequence):
                _send(connection, 0, packet)
                sequence += 1
            if self._over.wait(self.pace_s):
                return
        while self.after == "silent" and not self._over.wait(0.1):
            time.sleep(0)


def _requests(connection: socket.socket) -> Iterator[list[str]]:
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = connection.recv(4096)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        yield head.decode().split("\r\n")


def _send(connection: socket.socket, channel: int, packet: bytes) -> None:
    connection.sendall(struct.pack(">cBH", b"$", channel, len(packet)) + packet)


def _sender_report(stamp: int, number: int) -> bytes:
    """A wall clock that jumps by an hour each time."""
    return struct.pack(">BBHIQIII", 0x80, 200, 6, 7, (3_900_000_000 + 3600 * number) << 32, stamp, number, number)


def _packets(unit: bytes, stamp: int, sequence: int) -> Iterator[bytes]:
    """One access unit: small NAL units as they are, large ones in pieces (FU-A); the marker ends it."""
    nals = (raw.rstrip(b"\x00") for raw in unit.split(b"\x00\x00\x01"))
    parts = [part for nal in nals if nal for part in _pieces(nal)]
    for place, part in enumerate(parts):
        marker = 0x80 if place == len(parts) - 1 else 0
        yield struct.pack(">BBHII", 0x80, marker | 96, (sequence + place) % 65536, stamp, 7) + part


def _pieces(nal: bytes) -> Iterator[bytes]:
    if len(nal) <= MTU:
        yield nal
        return
    body = nal[1:]
    for at in range(0, len(body), MTU):
        first, last = at == 0, at + MTU >= len(body)
        head = bytes(((nal[0] & 0xE0) | 28, (0x80 if first else 0) | (0x40 if last else 0) | (nal[0] & 0x1F)))
        yield head + body[at : at + MTU]
