"""What containers and codecs promise about PTS and packets; no library is asked here.

MPEG-TS and -PS count 33 bits at 90 kHz (ISO/IEC 13818-1), RTP 32 bits (RFC 3550), FLV and RTMP 31 bits of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

NO_PTS_FORMATS = frozenset({"avi", "h264", "hevc", "m4v", "mjpeg", "mpegvideo"})
HIDDEN_FRAME_CODECS = frozenset({"vp9", "av1", "libdav1d", "libvpx-vp9"})
_VP8 = frozenset({"vp8", "libvpx"})
_MPEG = {"mpeg1video": (0xB3,), "mpeg2video": (0xB3,), "mpeg4": tuple(range(0x20, 0x30))}  # start codes
_SPS_TYPES = {"h264": (7,), "hevc": (32, 33), **_MPEG}
_SIZE_BYTES = {"mpeg1video": 4, "mpeg2video": 4}  # of a sequence header, whose matrices may change with each one
_SEARCHED = 4096  # parameter sets come first in an access unit


def pts_modulus(format_names: str) -> int | None:
    """Ticks after which raw PTS start again, by libav's (comma-separated) format name; None where they never do."""
    names = set(format_names.lower().split(","))
    if names & {"mpegts", "mpeg", "hls"}:
        return 1 << 33
    if names & {"rtsp", "rtp", "sdp"}:
        return 1 << 32
    if names & {"flv", "live_flv"}:
        return 1 << 31
    return None


def has_no_pts(format_names: str) -> bool:
    """The container stores no presentation times (AVI, elementary streams)."""
    return bool(set(format_names.lower().split(",")) & NO_PTS_FORMATS)


def parameter_sets(codec: str, packet: bytes, nal_length_size: int) -> bytes:
    """The sequence parameter sets inside an H.264 or H.265 packet, or the headers of MPEG-1, 2 or 4 with the size,
    joined; b'' where there are none.

    nal_length_size: bytes of the length before each NAL unit (MP4, FLV), 0 for start codes (ITU-T H.264, annex B).
    """
    wanted = _SPS_TYPES.get(codec)
    if wanted is None:
        return b""
    head = packet[:_SEARCHED]
    units = _by_length(head, nal_length_size) if nal_length_size else _by_start_code(head)
    kept = _SIZE_BYTES.get(codec)
    return b"".join(unit[:kept] for unit in units if unit and _unit_type(codec, unit[0]) in wanted)


def shows_nothing(codec: str, packet: bytes | memoryview) -> bool:
    """A VP8 packet that only later ones refer to (an alternate reference), by its own word: no picture is to come.

    The frame tag (RFC 6386, section 9.1): bit 0 is set in all but keyframes, bit 4 in what is shown.
    """
    return codec in _VP8 and packet[0] & 0x11 == 0x01


def nal_length_size(codec: str, extradata: bytes | None) -> int:
    """From avcC or hvcC (ISO/IEC 14496-15); 0 where the stream uses start codes."""
    if not extradata or extradata[0] != 1:
        return 0
    position = {"h264": 4, "hevc": 21}.get(codec, len(extradata))
    return (extradata[position] & 3) + 1 if len(extradata) > position else 0


def _unit_type(codec: str, first: int) -> int:
    if codec in _MPEG:
        return first
    return first & 0x1F if codec == "h264" else (first >> 1) & 0x3F


def _by_length(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        yield data[at + size : at + size + length]
        at += size + length


def _by_start_code(data: bytes) -> Iterator[bytes]:
    for unit in data.split(b"\x00\x00\x01")[1:]:
        yield unit.rstrip(b"\x00")
