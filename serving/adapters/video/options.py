"""How a source is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from serving.adapters.video.address import AUDIO_CODECS, FORMATS, LIVE_SCHEMES, PROTOCOLS, SourcePolicy, scheme_of

ANALYSE_LIVE_US = 1_000_000  # libav looks at FLV for 5 s, in case sound comes later
UDP_BUFFERS = "fifo_size=50000&overrun_nonfatal=1"


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """open_timeout_s, read_timeout_s: silence after which opening and reading give up.

    threads: of the decoder; frame threads hold pictures back, so live sources use slices only.
    assume_fps: number the decoded pictures of a source that has no PTS at this rate.
    max_packets: packets without any picture before a source counts as not video.
    """

    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0
    threads: int = 1
    assume_fps: Fraction | None = None
    max_packets: int = 600
    policy: SourcePolicy = field(default_factory=SourcePolicy)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("open_timeout_s", "read_timeout_s", "threads", "max_packets"):
            if getattr(self, name) <= 0:
                raise ValueError(f"ReaderOptions.{name}: expected more than 0, got {getattr(self, name)}")
        if self.assume_fps is not None and self.assume_fps <= 0:
            raise ValueError(f"ReaderOptions.assume_fps: expected more than 0, got {self.assume_fps}")


def libav_options(address: str, policy: SourcePolicy) -> dict[str, str]:
    """The allow-lists, raw timestamps (unwrapping is ours), and what a protocol needs."""
    scheme = scheme_of(address)
    options = {
        "format_whitelist": FORMATS,
        "codec_whitelist": ",".join(sorted(policy.codecs | AUDIO_CODECS)),
        "protocol_whitelist": PROTOCOLS[scheme] + ",crypto,data",
        "correct_ts_overflow": "0",
    }
    if scheme not in ("rtsp", "rtsps"):  # RTP has no DTS, and libav cannot tell how long it has looked without one
        options["fflags"] = "nofillin"  # stamps as the container holds them: neither guessed nor moved over a wrap
    if scheme in LIVE_SCHEMES:
        options["analyzeduration"] = str(ANALYSE_LIVE_US)
    if scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_transport": "tcp", "allowed_media_types": "video"}
    if scheme in ("http", "https", "file"):
        options["http_persistent"] = "0"  # libav would ask our own files for its connection
    return options


def with_buffers(address: str) -> str:
    """A UDP address with room for bursts, unless it names its own."""
    if scheme_of(address) != "udp" or "fifo_size" in address:
        return address
    return address + ("&" if "?" in address else "?") + UDP_BUFFERS
