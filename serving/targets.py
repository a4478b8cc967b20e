"""Objects to follow, as a user names them: a box in one picture of a timeline (docs/single-object-tracking.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.errors import InputError, ParameterInvalid

MOST_TARGETS = 8  # of a source at a time: each costs three search crops a picture
LEAST_SIDE = 4  # pixels
_TARGET = re.compile(r"(\d+),(\d+),(\d+),(\d+)(?:@(\d{1,7}(?:\.\d{1,9})?))?", re.ASCII)


class TargetInvalid(ParameterInvalid):
    """A box that cannot be followed: outside the picture, or too small."""

    code = "target_invalid"


class TargetRefused(InputError):
    """Not now: nothing is known of the source's pictures yet, or it has as many targets as it may."""

    code = "target_refused"


@dataclass(frozen=True, slots=True)
class Aim:
    """xyxy: integers in source pixels, in the first analysed picture of `epoch` at `pts_ns` or later.

    target_id: 1 or more; the box's track_id. Raises TargetInvalid for a box without area.
    """

    target_id: int
    xyxy: tuple[int, int, int, int]
    epoch: int = 1
    pts_ns: int = 0

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.xyxy
        if min(x1, y1) < 0 or x2 - x1 < LEAST_SIDE or y2 - y1 < LEAST_SIDE:
            raise TargetInvalid(
                f"target {self.text}: expected x1,y1,x2,y2 from 0 on, sides of {LEAST_SIDE} pixels or more"
            )

    @property
    def text(self) -> str:
        """The box as it is written on a command line."""
        return ",".join(map(str, self.xyxy))

    def check_inside(self, width: int, height: int) -> None:
        """Raises TargetInvalid where any part of the box is outside the picture."""
        if self.xyxy[2] > width or self.xyxy[3] > height:
            raise TargetInvalid(f"target {self.text}: expected a box inside the picture of {width}x{height}")


def parse_target(text: str, target_id: int) -> Aim:
    """`x1,y1,x2,y2[@seconds]`, of a source's first epoch. Raises TargetInvalid."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise TargetInvalid(f"target: expected x1,y1,x2,y2[@seconds] in source pixels, got {text[:60]!r}")
    x1, y1, x2, y2 = (int(found[n]) for n in range(1, 5))
    whole, _, part = (found[5] or "0").partition(".")
    return Aim(target_id, (x1, y1, x2, y2), pts_ns=int(whole) * 1_000_000_000 + int(part.ljust(9, "0")))
