"""The cheaper path: JPEG decoded at 1/2, 1/4 or 1/8, then a quicker resize. A Pillow kernel stays what it is, over
fewer pixels; any other becomes OpenCV's linear one.

Its pixels are not those of the reference, so a model uses it only when its certificate row `preprocess_fast` passed
(same decisions). Geometry is the reference's: size, offset and the transform of boxes are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from serving.preprocess.decode import checked_header, decode_checked
from serving.preprocess.geometry import Placement, place
from serving.preprocess.header import ImageHeader
from serving.preprocess.kernels import PIL_KERNELS, resize
from serving.preprocess.limits import DecodeLimits
from serving.preprocess.reference import Prepared, finish, frame_size, on_plane, to_colour
from serving.spec import Kernel, PreprocessSpec
from serving.types import FloatArray, ImageSize, PixelArray

# Below this a full decode costs less than a millisecond and saves nothing worth another picture.
MIN_PIXELS = 500_000
_DEFAULT_LIMITS = DecodeLimits()
# Orientations after which the first column (row) of the upright picture is the last one stored.
_FLIPPED_X, _FLIPPED_Y = {2, 3, 6, 7}, {3, 4, 7, 8}


def choose_reduce(header: ImageHeader, spec: PreprocessSpec) -> int:
    """1, 2, 4 or 8: the strongest reduction that leaves both sides at least as large as the resize wants them.

    More than 1 only for a JPEG of over half a megapixel at least twice as large as its target.
    """
    if header.format != "jpeg" or header.pixels <= MIN_PIXELS:
        return 1
    target = place(ImageSize(header.width, header.height), spec).resized
    ratio = min(header.width / target.width, header.height / target.height)
    if spec.kernel in PIL_KERNELS:  # Pillow's own filter still shrinks by two or more, so it decides what is seen
        ratio /= 2
    return next((reduce for reduce in (8, 4, 2) if ratio >= reduce), 1)


@dataclass(frozen=True, slots=True)
class Reduced:
    """A decoded picture at 1/`reduce` of its size, and where it goes."""

    pixels: PixelArray
    placement: Placement
    reduce: int
    orientation: int


def decode_fast(data: bytes, spec: PreprocessSpec, limits: DecodeLimits = _DEFAULT_LIMITS) -> Reduced:
    """Decode no more than the resize needs. Raises what `decode` raises."""
    return reduced_of(data, checked_header(data, limits), spec)


def reduced_of(data: bytes, header: ImageHeader, spec: PreprocessSpec) -> Reduced:
    """`decode_fast` for bytes whose header was read and checked already."""
    placement = place(ImageSize(header.width, header.height), spec)
    reduce = choose_reduce(header, spec)
    return Reduced(decode_checked(data, header, reduce), placement, reduce, header.orientation)


def prepare_reduced(reduced: Reduced, spec: PreprocessSpec) -> Prepared:
    """What `decode_fast` gave, as the network's input."""
    pillow = spec.kernel in PIL_KERNELS
    resized = _resize_pillow(reduced, spec.kernel) if pillow else _resize(reduced)
    colour = to_colour(resized, spec.colour, spec.kernel if pillow else "cv2_linear")
    plane = on_plane(colour, reduced.placement, spec.pad_value)
    return finish(plane, reduced.placement, spec)


def prepare_fast(source: bytes | PixelArray, spec: PreprocessSpec, limits: DecodeLimits = _DEFAULT_LIMITS) -> Prepared:
    """An encoded picture, or an upright RGB uint8 `[h, w, 3]` one, as the network's input.

    Raises what `decode` and `reference.prepare` raise.
    """
    if isinstance(source, bytes):
        return prepare_reduced(decode_fast(source, spec, limits), spec)
    return prepare_reduced(Reduced(source, place(frame_size(source), spec), 1, 1), spec)


def _beyond(reduced: Reduced) -> FloatArray:
    """Where the source begins in the reduced picture (x, y): that one covers whole blocks, so it reaches beyond."""
    source = reduced.placement.source
    height, width = reduced.pixels.shape[:2]
    beyond = np.array([width - source.width / reduced.reduce, height - source.height / reduced.reduce])
    return beyond * [reduced.orientation in _FLIPPED_X, reduced.orientation in _FLIPPED_Y]


def _resize_pillow(reduced: Reduced, kernel: Kernel) -> PixelArray:
    """The spec's own Pillow kernel over the part of the reduced picture that is the source."""
    source, target = reduced.placement.source, reduced.placement.resized
    if reduced.reduce == 1:
        return np.asarray(resize(reduced.pixels, target, kernel), np.uint8)
    x, y = _beyond(reduced)
    box = (x, y, x + source.width / reduced.reduce, y + source.height / reduced.reduce)
    picture = Image.fromarray(reduced.pixels)
    return np.asarray(picture.resize((target.width, target.height), PIL_KERNELS[kernel], box=box))


def _resize(reduced: Reduced) -> PixelArray:
    """Linear resize to the placement's size, by the true scale.

    A reduced picture covers whole blocks of `reduce` pixels, so it reaches up to reduce - 1 pixels beyond the source:
    on sides that are no multiple of it the plain resize would squeeze the picture.
    """
    source, target, reduce = reduced.placement.source, reduced.placement.resized, reduced.reduce
    size = (target.width, target.height)
    if reduced.pixels.shape[:2] == (target.height, target.width) and reduce == 1:
        return reduced.pixels
    if source.width % reduce == 0 and source.height % reduce == 0:
        return np.asarray(cv2.resize(reduced.pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    step = np.array([source.width / reduce / target.width, source.height / reduce / target.height])
    # Centre of target pixel i lies at first + (i + 0.5) * step - 0.5 of the reduced picture.
    shift = _beyond(reduced) + 0.5 * step - 0.5
    matrix = np.array([[step[0], 0, shift[0]], [0, step[1], shift[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(reduced.pixels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)
