"""What may be decoded at all: checked on header values, before a single pixel exists."""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import ImageTooLarge
from serving.preprocess.header import ImageHeader

SEQUENTIAL_SCANS = 4  # one, or one for each component (ITU-T T.81 annex B)


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Upper bounds on one encoded picture.

    `max_scans` bounds progressive JPEG: each scan walks over the whole picture, so a small file of empty scans costs
    seconds. `max_scan_pixels` bounds scans x pixels for the same reason. Other JPEGs have SEQUENTIAL_SCANS at most.
    """

    max_pixels: int = 40_000_000
    max_side: int = 16_384
    max_scans: int = 100
    max_scan_pixels: int = 800_000_000

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_side", "max_scans", "max_scan_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"DecodeLimits.{name}: expected at least 1, got {getattr(self, name)}")


def check_size(width: int, height: int, limits: DecodeLimits) -> None:
    """Raise ImageTooLarge when a plane of `width` x `height` pixels is over the limits."""
    if max(width, height) > limits.max_side:
        raise ImageTooLarge(
            f"picture of {width} x {height}: the longest side may be {limits.max_side} pixels",
            hint="scale the picture down before sending it",
        )
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"picture of {width} x {height}: at most {limits.max_pixels / 1e6:g} megapixels are decoded, "
            f"this one has {width * height / 1e6:.1f}",
            hint="scale the picture down before sending it",
        )


def check_limits(header: ImageHeader, limits: DecodeLimits) -> None:
    """Raise ImageTooLarge when the header promises more than the limits. Reads no pixel."""
    check_size(header.width, header.height, limits)
    most = limits.max_scans if header.progressive else SEQUENTIAL_SCANS
    if header.scans > most or header.scans * header.pixels > max(limits.max_scan_pixels, header.pixels):
        kind = "progressive" if header.progressive else "sequential"
        raise ImageTooLarge(
            f"{kind} JPEG of {header.width} x {header.height} with {header.scans} scans: too costly to decode",
            hint="save the picture as a baseline JPEG",
        )
