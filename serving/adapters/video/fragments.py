"""Fragmented MP4 (ISO/IEC 14496-12): what the muxer writes, cut into the init segment and whole fragments."""

from __future__ import annotations

from collections.abc import Iterator


class FragmentSink:
    """A file for the muxer that hands on `init` (ftyp + moov) and fragments (moof + mdat), each once and whole."""

    name = "fragments"

    def __init__(self) -> None:
        self._data = bytearray()
        self._pending = bytearray()
        self.init = b""

    def write(self, data: bytes) -> int:
        """Called by the muxer."""
        self._data += data
        return len(data)

    def fragments(self) -> Iterator[bytes]:
        """The fragments that are complete by now."""
        for kind, box in self._boxes():
            if kind in (b"ftyp", b"moov"):
                self.init += box
            elif kind in (b"styp", b"sidx", b"moof", b"mdat"):
                self._pending += box
                if kind == b"mdat":
                    fragment, self._pending = bytes(self._pending), bytearray()
                    yield fragment

    def _boxes(self) -> Iterator[tuple[bytes, bytes]]:
        while len(self._data) >= 8:
            size = int.from_bytes(self._data[:4], "big")
            if size == 1 and len(self._data) >= 16:
                size = int.from_bytes(self._data[8:16], "big")
            if size < 8 or len(self._data) < size:
                return
            box = bytes(self._data[:size])
            del self._data[:size]
            yield box[4:8], box
