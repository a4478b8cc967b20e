"""From raw PTS to unwrapped ticks to nanoseconds, in integers only (docs/alignment.md, "From raw PTS to pts_ns").

MPEG-TS and -PS count 33 bits at 90 kHz (ISO/IEC 13818-1), RTP 32 bits (RFC 3550), FLV and RTMP 31 bits of milliseconds.
"""

from __future__ import annotations

from fractions import Fraction

NS_PER_S = 1_000_000_000
MPEG_TS_MODULUS = 1 << 33
RTP_MODULUS = 1 << 32
FLV_MODULUS = 1 << 31


def centred_mod(value: int, modulus: int) -> int:
    """`value` modulo `modulus`, in [-modulus/2, modulus/2)."""
    half = modulus // 2
    return (value + half) % modulus - half


def unwrap(raw: int, ref: int, modulus: int | None) -> int:
    """The unwrapped tick nearest to `ref` that shows as `raw` modulo `modulus`; `raw` itself without a modulus.

    Looks both ways, because with B-frames a stream can step back over a wrap as well as forward.
    """
    return raw if modulus is None else ref + centred_mod(raw - ref, modulus)


def ticks_to_ns(ticks: int, time_base: Fraction) -> int:
    """Ticks of `time_base` seconds in nanoseconds, halves rounded up."""
    numerator = ticks * time_base.numerator * NS_PER_S
    denominator = time_base.denominator
    return (2 * numerator + denominator) // (2 * denominator)


def pts_modulus(container: str) -> int | None:
    """The modulus M of a container's or protocol's PTS; None where they never wrap.

    `container` is libav's format name (one of a comma-separated list is enough).
    """
    names = set(container.lower().split(","))
    if names & {"mpegts", "mpegtsraw", "mpeg", "hls"}:
        return MPEG_TS_MODULUS
    if names & {"rtsp", "rtp", "sdp"}:
        return RTP_MODULUS
    if names & {"flv", "live_flv", "rtmp"}:
        return FLV_MODULUS
    return None
