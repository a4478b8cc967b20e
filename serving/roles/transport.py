"""Pictures between the log and a model: what came as JPEG is checked by decoding it, and sent on unchanged."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial

import cv2
import numpy as np

from serving.frames import Frame, FrameRecord, Picture, PictureCodec
from serving.records import FrameMessage
from serving.types import PixelArray


class LogTransport:
    """`serving.frames.PictureCodec` of one worker thread. A picture that was only looked at is not encoded again."""

    def __init__(self, codec: PictureCodec) -> None:
        self._codec = codec
        self._data = b""
        self._rgb: PixelArray | None = None

    def decode(self, data: bytes) -> PixelArray:
        """The picture; ValueError where it is none."""
        self._data, self._rgb = data, self._codec.decode(data)
        return self._rgb

    def encode(self, rgb: PixelArray) -> bytes:
        """The bytes it came as, unless it is another picture (a mask was laid over it)."""
        return self._data if rgb is self._rgb else self._codec.encode(rgb)


def at_source_size(message: FrameMessage, codec: PictureCodec) -> FrameMessage:
    """The same frame with a picture of the source's size, made when it is asked for; scale is 1 then."""
    record = message.record
    if not isinstance(record, Frame) or record.picture is None or record.picture.encoded is None or message.scale == 1:
        return message
    picture = Picture(load=partial(enlarged, codec, record.picture.encoded, (message.width, message.height)))
    return replace(message, record=replace(record, picture=picture), scale=Fraction(1))


def lazily(message: FrameMessage, codec: PictureCodec) -> FrameRecord:
    """Its record, with a picture that is decoded where it is drawn, at the source's size: boxes are in its pixels."""
    record = message.record
    if not isinstance(record, Frame) or record.picture is None or record.picture.encoded is None:
        return record
    load = partial(codec.decode, record.picture.encoded)
    if message.scale != 1:
        load = partial(enlarged, codec, record.picture.encoded, (message.width, message.height))
    return replace(record, picture=Picture(load=load))


def enlarged(codec: PictureCodec, data: bytes, size: tuple[int, int]) -> PixelArray:
    """The picture at the source's size (width, height). ValueError where it is none, or cannot be made so large."""
    rgb = codec.decode(data)
    try:
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    except cv2.error as error:
        raise ValueError(f"expected a picture that can be {size[0]}x{size[1]}: {error}") from error
