"""What the header of an encoded picture says, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ImageFormat = Literal["jpeg", "png", "webp"]


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself.

    stored_width, stored_height: pixels as stored; `width` and `height` are after EXIF orientation (1..8).
    components: channels as stored (palette counts as 1); bits: per component; alpha: some pixel may be
    transparent; scans: passes over the picture (JPEG).
    """

    format: ImageFormat
    stored_width: int
    stored_height: int
    orientation: int = 1
    components: int = 3
    bits: int = 8
    alpha: bool = False
    progressive: bool = False
    scans: int = 1

    @property
    def width(self) -> int:
        """Width in pixels after orientation."""
        return self.stored_height if self.orientation >= 5 else self.stored_width

    @property
    def height(self) -> int:
        """Height in pixels after orientation."""
        return self.stored_width if self.orientation >= 5 else self.stored_height

    @property
    def pixels(self) -> int:
        """Pixels of the whole picture."""
        return self.stored_width * self.stored_height
