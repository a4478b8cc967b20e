"""A contact sheet: a few of the shown pictures, evenly over a stream of unknown length, as one PNG."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from serving.errors import StorageFailed
from serving.types import PixelArray

GAP = 6


class ContactSheet:
    """Keeps every n-th picture, doubling n when there are twice as many as wanted, so memory is bounded."""

    def __init__(self, wanted: int = 12, width: int = 320) -> None:
        if wanted < 1 or width < 16:
            raise ValueError(f"ContactSheet: expected wanted >= 1 and width >= 16, got {wanted}, {width}")
        self._wanted, self._width = wanted, width
        self._kept: list[PixelArray] = []
        self._every = 1
        self._seen = 0

    def add(self, rgb: PixelArray) -> None:
        """A shown picture, RGB uint8 [h, w, 3]."""
        if self._seen % self._every == 0:
            height = max(1, round(rgb.shape[0] * self._width / rgb.shape[1]))
            self._kept.append(
                np.asarray(cv2.resize(rgb, (self._width, height), interpolation=cv2.INTER_AREA), np.uint8)
            )
            if len(self._kept) >= 2 * self._wanted:
                self._kept = self._kept[::2]
                self._every *= 2
        self._seen += 1

    def picture(self) -> PixelArray | None:
        """The sheet, RGB uint8; None where nothing was shown."""
        if not self._kept:
            return None
        count = min(self._wanted, len(self._kept))
        places = [round(i * (len(self._kept) - 1) / max(1, count - 1)) for i in range(count)]
        tiles = [self._kept[place] for place in places]
        columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / columns)
        height = max(tile.shape[0] for tile in tiles)
        sheet = np.full((rows * (height + GAP) + GAP, columns * (self._width + GAP) + GAP, 3), 32, np.uint8)
        for place, tile in enumerate(tiles):
            y, x = GAP + place // columns * (height + GAP), GAP + place % columns * (self._width + GAP)
            sheet[y : y + tile.shape[0], x : x + self._width] = tile
        return sheet

    def save(self, path: Path) -> bool:
        """Write the PNG; False where nothing was shown. Raises StorageFailed."""
        sheet = self.picture()
        if sheet is None:
            return False
        good, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        try:
            if good:
                path.write_bytes(data.tobytes())
        except OSError as error:
            raise StorageFailed(f"{path}: cannot be written: {error.strerror}") from error
        return bool(good)
