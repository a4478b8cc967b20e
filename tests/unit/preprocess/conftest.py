"""Real photos and ways to encode them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage
from PIL import Image

Pixels = npt.NDArray[np.uint8]
PHOTOS = ("rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "astronaut.png", "chelsea.png", "coffee.png")


@pytest.fixture(scope="session", params=PHOTOS)
def photo(request: pytest.FixtureRequest) -> bytes:
    """The bytes of a photo that scikit-image ships; one test a photo."""
    return (Path(skimage.__file__).parent / "data" / request.param).read_bytes()


@pytest.fixture(scope="session")
def rocket() -> bytes:
    """A 640 x 427 JPEG."""
    return (Path(skimage.__file__).parent / "data" / "rocket.jpg").read_bytes()


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """A photo with odd sides, 331 x 237."""
    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    with Image.open(path) as image:
        return image.convert("RGB").crop((90, 10, 421, 247))


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encode a Pillow picture: encode(image, "JPEG", quality=90)."""

    def run(image: Image.Image, kind: str, **options: Any) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    return run


@pytest.fixture(scope="session")
def pillow() -> Callable[[bytes], Pixels]:
    """What a dataset class gets from the same bytes."""

    def run(data: bytes) -> Pixels:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    return run
