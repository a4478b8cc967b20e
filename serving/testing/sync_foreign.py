"""Clips for other programs to mix, and what they made of them: `sync-test --make` and `--check`.

A stranger draws a box in its own way, so the picture of what should be there is made again and what differs is looked
at: of all places on the known path, the one that a frame around the square fits best gives the number of the picture
that the box was computed from. At 2 pixels a picture this tells neighbours apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.adapters.video import AddressSource
from serving.adapters.video.clips import ClipSpec, write_clip
from serving.adapters.video.storage import make_folder, storage_error
from serving.errors import ParameterInvalid
from serving.media import PictureSeen
from serving.testing.sync_clips import KINDS, NS_PER_S, Kind
from serving.testing.sync_code import PATHS, SIDE, picture, read_own
from serving.types import PixelArray

NEAR = 45  # pictures before and after in which the box's own picture is looked for
DIFFERS = 48  # levels
LEAST_FIT = 0.6


@dataclass(frozen=True, slots=True)
class ForeignScore:
    """errors: alignment error in frames of every picture with a box. unreadable: pictures without a readable number."""

    pictures: int
    with_box: int
    unreadable: int
    errors: tuple[int, ...]

    @property
    def exact(self) -> float:
        """Share of boxes nearest to their own picture's place."""
        return self.errors.count(0) / len(self.errors) if self.errors else 0.0

    def to_document(self) -> dict[str, object]:
        """For `--json`."""
        size = [abs(error) for error in self.errors] or [0]
        return {
            "pictures": self.pictures,
            "with_box": self.with_box,
            "unreadable": self.unreadable,
            "exact": self.exact,
            "ae_mean": float(np.mean(size)),
            "ae_p95": float(np.percentile(size, 95)),
            "ae_max": max(size),
            "late_by": float(np.mean(self.errors)) if self.errors else 0.0,
        }

    def text(self) -> str:
        """One line for people; late_by below 0: boxes are of earlier pictures."""
        d = self.to_document()
        seen = f"{self.pictures} pictures, {self.with_box} with a box, {self.unreadable} unreadable"
        ae = f"AE mean {d['ae_mean']:.2f} p95 {d['ae_p95']:.0f} max {d['ae_max']} frames, mean {d['late_by']:+.2f}"
        return f"{seen}: exact {self.exact:.1%}, {ae}"


def make_clip(kind: str, path: Path) -> int:
    """Write a clip of one part, in the container that the suffix names; how many pictures. Raises ParameterInvalid,
    StorageFailed."""
    found = _one_part(kind)
    container = {".mp4": "mp4", ".ts": "mpegts", ".mkv": "matroska", ".flv": "flv"}.get(path.suffix)
    if container is None:
        raise ParameterInvalid(f"--make {path}: expected .mp4, .ts, .mkv or .flv")
    times = found.true_ns(0)
    base = Fraction(1, 1000) if container in ("flv", "matroska") else Fraction(1, 90_000)
    spec = ClipSpec(container, base, found.parts[0].spec.x264, found.parts[0].spec.rate)
    stamps = [round(t / NS_PER_S / base) for t in times]
    shown = (
        (picture(n, 0, PATHS[found.path](t / NS_PER_S)), p) for n, (t, p) in enumerate(zip(times, stamps, strict=True))
    )
    make_folder(path.parent)
    try:
        return write_clip(path, spec, shown)
    except OSError as error:  # as PyAV says it
        raise storage_error(path, error) from error


def check_mixed(kind: str, path: str) -> ForeignScore:
    """Compare the boxes in a mixed video of `kind`'s clip with their pictures. Raises SourceError, ParameterInvalid."""
    found = _one_part(kind)
    track = [PATHS[found.path](t / NS_PER_S) for t in found.true_ns(0)]
    errors: list[int] = []
    pictures = unreadable = 0
    for rgb in _pictures(path):
        pictures += 1
        own = read_own(rgb)
        if own is None or own[1] >= len(track):
            unreadable += 1
            continue
        clean = picture(own[1], own[0], track[own[1]])
        number = number_of_box(np.abs(rgb.astype(np.int16) - clean).max(axis=2) > DIFFERS, track, own[1])
        if number is not None:
            errors.append(number - own[1])
    return ForeignScore(pictures, len(errors), unreadable, tuple(errors))


def number_of_box(drawn: npt.NDArray[np.bool_], track: list[tuple[float, float]], own: int) -> int | None:
    """The picture whose square a drawn frame fits best, None where there is none. drawn: [240, 320], what differs.

    A place fits by its weaker upright side, less what is drawn between the sides, so that plates and lines do not
    count. Of equal places the one nearest in time is taken.
    """
    near = range(max(0, own - NEAR), min(len(track), own + NEAR + 1))
    fits = {number: _fit(drawn, track[number]) for number in near}
    best = max(near, key=lambda number: (fits[number], -abs(number - own)))
    return best if fits[best] >= LEAST_FIT else None


def _fit(drawn: npt.NDArray[np.bool_], centre: tuple[float, float]) -> float:
    x, y = centre
    rows = slice(round(y - SIDE / 2) + 3, round(y + SIDE / 2) - 3)
    left, right = round(x - SIDE / 2), round(x + SIDE / 2)
    if left < 1 or right > drawn.shape[1] - 2:
        return 0.0
    sides = (float(drawn[rows, column - 1 : column + 1].any(axis=1).mean()) for column in (left, right))
    return min(sides) - float(drawn[rows, left + 4 : right - 4].mean())


def _pictures(path: str) -> Iterator[PixelArray]:
    for event in AddressSource("mixed", path).connect().events():
        if isinstance(event, PictureSeen):
            yield event.picture.rgb()


def _one_part(kind: str) -> Kind:
    found = KINDS.get(kind)
    if found is None or len(found.parts) > 1 or found.parts[0].surgery is not None:
        good = [name for name, k in KINDS.items() if len(k.parts) == 1 and k.parts[0].surgery is None]
        raise ParameterInvalid(f"--kind: expected one of {', '.join(good)}, got {kind!r}")
    return found
