"""Real photos that packages carry, as the raw material of the corpora."""

from __future__ import annotations

import importlib.util
from pathlib import Path

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")


def from_packages() -> list[Path]:
    """scikit-image's photos (BSD-3; origins in its data README)."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise RuntimeError("scikit-image is not installed: make setup")
    folder = Path(found.origin).parent / "data"
    photos = [folder / name for name in NAMES if (folder / name).is_file()]
    if not photos:
        raise RuntimeError(f"no photo of {NAMES} in scikit-image's data folder; another version of it is installed")
    return photos
