"""Where the source picture lands on the network's plane: sizes and offsets of every resize rule, in whole pixels.

Pure integer bookkeeping; docs/preprocessing.md says where each rounding comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import ImageTooLarge, ImageUnsupported
from serving.spec import PreprocessSpec
from serving.types import ImageSize, ImageTransform

# A 16384 x 2 picture brought to 256 on its short side is 2 097 152 pixels wide: bound what a resize may make.
MAX_RESIZED_PIXELS = 40_000_000
# A 40 megapixel photo of 3:2 is 60 million pixels as a square; 16384 x 2 would be 268 million.
MAX_PADDED_PIXELS = 80_000_000
# Between them lies what a network with free sides is given: less than 32 leaves nothing of it after five halvings.
LEAST_SIDE, GREATEST_SIDE = 32, 1333


@dataclass(frozen=True, slots=True)
class Placement:
    """Put `border` (left, top, right, bottom) around the source, resize it to `resized`, then put it at `offset` (x, y;
    negative: cropped) on a plane of size `plane`."""

    source: ImageSize
    resized: ImageSize
    plane: ImageSize
    offset: tuple[int, int]
    border: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def padded(self) -> ImageSize:
        """The source with its border."""
        left, top, right, bottom = self.border
        return ImageSize(self.source.width + left + right, self.source.height + top + bottom)

    @property
    def transform(self) -> ImageTransform:
        """The same as scale and offset: `model = source * scale + offset`, pixel edges to pixel edges."""
        padded = self.padded
        scale = (self.resized.width / padded.width, self.resized.height / padded.height)
        offset = (self.offset[0] + self.border[0] * scale[0], self.offset[1] + self.border[1] * scale[1])
        return ImageTransform(self.source, self.plane, scale, offset)


def place(source: ImageSize, spec: PreprocessSpec) -> Placement:
    """The placement of a picture under a spec.

    Raises ImageUnsupported (rule `none`, or a plane for `min_max_side`, that the picture does not fit) and
    ImageTooLarge (an aspect ratio that makes the resized picture huge).
    """
    border = _square_border(source, spec)
    resized = _resized(source, spec)
    if resized.width * resized.height > max(MAX_RESIZED_PIXELS, source.width * source.height):
        raise ImageTooLarge(
            f"picture of {source.width} x {source.height}: resize {spec.resize} would make "
            f"{resized.width} x {resized.height} pixels of it",
            hint="the picture is too narrow for this model",
        )
    content = _content(resized, spec)
    plane = ImageSize(_round_up(content.width, spec.pad_multiple), _round_up(content.height, spec.pad_multiple))
    first = _offset(resized, content, spec)
    second = _offset(content, plane, spec)
    return Placement(source, resized, plane, (first[0] + second[0], first[1] + second[1]), border)


def plane_of(spec: PreprocessSpec) -> ImageSize | None:
    """The network's plane where the spec fixes it, padding to a multiple included; None where it is free."""
    if not (spec.width and spec.height):
        return None
    return ImageSize(_round_up(spec.width, spec.pad_multiple), _round_up(spec.height, spec.pad_multiple))


def free_sides(spec: PreprocessSpec) -> tuple[int, int]:
    """The least and the greatest a free side may be, in pixels, padding to a multiple included.

    `max_side` leaves a long picture's short side under `min_side`, and without `scale_up` a small picture stays small:
    there the least is LEAST_SIDE. What nothing bounds from above ends at GREATEST_SIDE.
    """
    shrinks = spec.resize == "min_max_side" and (spec.max_side is not None or not spec.scale_up)
    low = LEAST_SIDE if shrinks else spec.min_side or LEAST_SIDE
    high = spec.max_side or max(GREATEST_SIDE, low, spec.min_side or 0)
    return _round_up(min(low, high), spec.pad_multiple), _round_up(max(low, high), spec.pad_multiple)


def _resized(source: ImageSize, spec: PreprocessSpec) -> ImageSize:
    if spec.resize in ("none", "center_crop"):
        return source
    if spec.resize in ("stretch", "pad_square"):
        return ImageSize(spec.width, spec.height)
    if spec.resize == "letterbox":
        return _fit(source, spec)
    return _short_and_long(source, spec)


def _square_border(source: ImageSize, spec: PreprocessSpec) -> tuple[int, int, int, int]:
    """pad_square: what makes a square of the picture before it is resized; no border by the other rules."""
    if spec.resize != "pad_square":
        return (0, 0, 0, 0)
    side = max(source.width, source.height)
    if side * side > MAX_PADDED_PIXELS:
        raise ImageTooLarge(
            f"picture of {source.width} x {source.height}: resize pad_square would make {side} x {side} pixels of it",
            hint="the picture is too narrow for this model",
        )
    x, y = _pad(source.width, side, spec.pad_position), _pad(source.height, side, spec.pad_position)
    return (x, y, side - source.width - x, side - source.height - y)


def _fit(source: ImageSize, spec: PreprocessSpec) -> ImageSize:
    """YOLO letterbox: one ratio for both sides, sides rounded half to even."""
    ratio = min(spec.height / source.height, spec.width / source.width)
    if not spec.scale_up:
        ratio = min(ratio, 1.0)
    return ImageSize(max(1, round(source.width * ratio)), max(1, round(source.height * ratio)))


def _short_and_long(source: ImageSize, spec: PreprocessSpec) -> ImageSize:
    """torchvision's Resize(size, max_size): the wanted side exact, the other truncated."""
    short, long = sorted((source.width, source.height))
    side = spec.shortest_side if spec.resize == "shortest_side_crop" else spec.min_side
    limit = spec.max_side if spec.resize == "min_max_side" else None
    new_short, new_long = short, long
    if side is not None and (spec.scale_up or side < short):
        new_short, new_long = side, int(side * long / short)
    if limit is not None and (new_long > limit or (side is None and spec.scale_up)):
        new_short, new_long = int(limit * new_short / new_long), limit
    new_short, new_long = max(1, new_short), max(1, new_long)
    return ImageSize(new_short, new_long) if source.width <= source.height else ImageSize(new_long, new_short)


def _content(resized: ImageSize, spec: PreprocessSpec) -> ImageSize:
    """The plane before padding to a multiple."""
    if not (spec.width and spec.height):
        return resized
    wanted = ImageSize(spec.width, spec.height)
    if spec.resize == "none" and resized != wanted:
        raise ImageUnsupported(
            f"picture of {resized.width} x {resized.height}: this model takes {wanted.width} x {wanted.height} only",
            hint="resize the picture before sending it",
        )
    if spec.resize == "min_max_side" and (resized.width > wanted.width or resized.height > wanted.height):
        raise ImageUnsupported(
            f"picture of {resized.width} x {resized.height} after resizing does not fit the model's plane of "
            f"{wanted.width} x {wanted.height}",
            hint="the spec's max_side is larger than its width or height",
        )
    return wanted


def _offset(inner: ImageSize, outer: ImageSize, spec: PreprocessSpec) -> tuple[int, int]:
    crops = spec.resize in ("shortest_side_crop", "center_crop")
    pairs = ((inner.width, outer.width), (inner.height, outer.height))
    x, y = (_crop_or_pad(*pair) if crops else _pad(*pair, spec.pad_position) for pair in pairs)
    return x, y


def _crop_or_pad(inner: int, outer: int) -> int:
    """torchvision's CenterCrop: a larger picture is cropped from round((in - out) / 2), a smaller one is padded."""
    return -round((inner - outer) / 2) if inner > outer else (outer - inner) // 2


def _pad(inner: int, outer: int, position: str) -> int:
    """YOLO letterbox: the odd pixel goes to the right and to the bottom."""
    return 0 if position == "right_bottom" else round((outer - inner) / 2 - 0.1)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
