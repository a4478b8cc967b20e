"""Bytes of a JPEG, PNG or WebP file -> RGB uint8 pixels `[h, w, 3]`, upright. Limits are checked on the header first.

JPEG is decoded by simplejpeg (libjpeg-turbo, accurate DCT, fancy upsampling: the same pixels as Pillow and OpenCV),
which reports what other decoders paper over. PNG and WebP are decoded by Pillow, each by its own plug-in only.
No message of a decoder is ever repeated: such texts have leaked addresses (vLLM CVE-2026-22778).
"""

from __future__ import annotations

import io
import warnings
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from serving.errors import ImageInvalid, ImageTooLarge, ImageUnsupported
from serving.preprocess.header import ImageHeader
from serving.preprocess.limits import DecodeLimits, check_limits, check_size
from serving.preprocess.sniff import read_header
from serving.types import PixelArray

__all__ = [
    "DecodeLimits",
    "ImageHeader",
    "check_limits",
    "check_size",
    "checked_header",
    "decode",
    "decode_checked",
    "read_header",
]

# Our own limits are checked before, and `max_pixels` may allow more than Pillow's own bound. Should a library set that
# one again, it is an error of the picture and not a line on stderr.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

_REDUCTIONS = (1, 2, 4, 8)
_DEFAULT_LIMITS = DecodeLimits()


def decode(data: bytes, limits: DecodeLimits = _DEFAULT_LIMITS, reduce: int = 1) -> PixelArray:
    """Pixels of an encoded picture: RGB uint8 `[h, w, 3]`, contiguous, EXIF orientation applied.

    Alpha is composed onto black, 16 bits become 8 by the high byte, grey is repeated, CMYK becomes RGB; colour
    profiles are ignored, as training code does. `reduce` 2, 4 or 8 decodes a JPEG at that fraction (sides rounded
    up); it is another picture than the full decode, for certified fast paths only.
    Raises ImageInvalid, ImageUnsupported, ImageTooLarge (before any pixel is decoded).
    """
    return decode_checked(data, checked_header(data, limits), reduce)


def checked_header(data: bytes, limits: DecodeLimits = _DEFAULT_LIMITS) -> ImageHeader:
    """The file's header, within the limits; no pixel is decoded. Raises what `decode` raises before pixels."""
    header = read_header(data)
    check_limits(header, limits)
    return header


def decode_checked(data: bytes, header: ImageHeader, reduce: int = 1) -> PixelArray:
    """`decode` for bytes whose header was read and checked already."""
    if reduce not in _REDUCTIONS or (reduce > 1 and header.format != "jpeg"):
        raise ValueError(f"reduce: expected one of {_REDUCTIONS} (1 for {header.format}), got {reduce}")
    pixels = _jpeg(data, header, reduce) if header.format == "jpeg" else _pillow(data, header)
    expected = (-(-header.stored_height // reduce), -(-header.stored_width // reduce), 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ImageInvalid(f"the {header.format} does not hold the picture that its header declares")
    return np.ascontiguousarray(_upright(pixels, header.orientation))


def _jpeg(data: bytes, header: ImageHeader, reduce: int) -> PixelArray:
    smallest = {"min_height": -(-header.stored_height // reduce), "min_width": -(-header.stored_width // reduce)}
    colorspace = "CMYK" if header.components == 4 else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace=colorspace, **smallest)
    except ValueError as error:
        pixels = _jpeg_second_try(data, str(error), colorspace, smallest, reduce)
        if pixels is None:
            raise ImageInvalid("the JPEG is truncated or damaged") from error
    return _rgb_of_cmyk(pixels) if header.components == 4 else pixels


def _jpeg_second_try(
    data: bytes, complaint: str, colorspace: str, smallest: dict[str, int], reduce: int
) -> PixelArray | None:
    """Two complaints leave every pixel intact; where the file has its end marker it is decoded all the same.

    Stray bytes between markers (some cameras write them), and sampling factors that TurboJPEG has no name for.
    """
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return None
    if "extraneous bytes before marker" in complaint:
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace=colorspace, strict=False, **smallest))
        except ValueError:
            return None
    if "subsampling" in complaint and colorspace == "RGB" and reduce == 1:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        return None if bgr is None else np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    return None


def _rgb_of_cmyk(light: PixelArray) -> PixelArray:
    """R = round((255 - C)(255 - K) / 255), and so on: Pillow's arithmetic.

    The file is taken to hold 255 - C, 255 - K (Adobe's convention), with or without its marker, as Pillow does.
    """
    key = np.ascontiguousarray(light[:, :, 3])
    planes = [cv2.multiply(np.ascontiguousarray(light[:, :, i]), key, scale=1 / 255) for i in range(3)]
    return np.asarray(cv2.merge(planes), np.uint8)


def _pillow(data: bytes, header: ImageHeader) -> PixelArray:
    try:
        # PNG or WebP alone: no other plug-in may look at these bytes.
        with Image.open(io.BytesIO(data), formats=(header.format.upper(),)) as image:
            if image.size != (header.stored_width, header.stored_height):
                raise ImageInvalid(f"the {header.format} does not hold the picture that its header declares")
            if getattr(image, "n_frames", 1) != 1:
                raise ImageUnsupported(f"animated {header.format} is not served", hint="send a single picture")
            image.load()
            return _rgb_of_pillow(image, header)
    except (ImageInvalid, ImageUnsupported):
        raise
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, zlib.error, UnidentifiedImageError) as error:
        raise ImageInvalid(f"the {header.format} is truncated or damaged") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageTooLarge(f"the {header.format} has more pixels than its decoder takes") from error


def _rgb_of_pillow(image: Image.Image, header: ImageHeader) -> PixelArray:
    if header.bits == 16 and header.components == 1:
        # Pillow's own way from 16-bit grey to RGB saturates instead of scaling.
        wide = np.asarray(image).astype(np.uint16)
        grey = (wide >> 8).astype(np.uint8)
        if "transparency" in image.info:
            grey[wide == image.info["transparency"]] = 0
        return np.repeat(grey[:, :, None], 3, axis=2)
    if header.bits == 16 and isinstance(image.info.get("transparency"), tuple):
        raise ImageUnsupported("16-bit RGB PNG with a transparent colour is not served", hint="save it with 8 bits")
    if not header.alpha:
        return np.asarray(image.convert("RGB"))
    rgba = image.convert("RGBA")
    black = Image.new("RGB", rgba.size)
    black.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(black)


def _upright(pixels: PixelArray, orientation: int) -> PixelArray:
    """EXIF orientation 1..8 applied (2 mirrored, 3 by 180, 4 upside down, 5 transposed, 6 by 90, 7, 8 by 270)."""
    if orientation in (5, 7):
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    if orientation in (6, 8):
        return np.asarray(
            cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE if orientation == 6 else cv2.ROTATE_90_COUNTERCLOCKWISE)
        )
    flip = {2: 1, 3: -1, 4: 0, 7: -1}.get(orientation)
    return pixels if flip is None else np.asarray(cv2.flip(pixels, flip))
