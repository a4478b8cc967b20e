"""The row `preprocess_fast`: decisions of the served engine on pictures that were decoded at a fraction of their size.

A small picture and a PNG never are, and samples are often nothing else. Such ones are asked once more as the photos
that a camera sends: their reference is the same engine's answer to the full decode, and its own row holds that answer
to the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np

from converters.parity import Judge, StageRow
from converters.rows_gates import RowGate
from converters.rows_network import Reference, Run, alone, network_row
from converters.samples import Sample
from serving.errors import InputError
from serving.preprocess.decode import DecodeLimits, decode, read_header
from serving.preprocess.fast import choose_reduce, prepare_fast
from serving.preprocess.header import ImageHeader
from serving.preprocess.jpeg import JpegCodec
from serving.preprocess.kernels import resize
from serving.preprocess.reference import prepare
from serving.spec import PreprocessSpec
from serving.types import ImageSize

STAGE = "preprocess_fast"
COMPARED = "scaled decode and linear resize, through the served engine, against the checkpoint"
ENOUGH, PHOTO_PIXELS = 8, 12_000_000
NOTHING_REDUCED = (
    "no picture is decoded at a fraction, neither a sample nor one of them as the largest photo that is decoded at "
    "all: preprocess.fast saves nothing here"
)


def fast_decisions_row(
    run: Run, reference: Reference, samples: Sequence[Sample], rule: PreprocessSpec, judge: Judge, gate: RowGate
) -> StageRow:
    """Every sample by the fast path. `reduced` of the figures counts pictures that were decoded at a fraction, `photos`
    those of them that were made; at 0 the row does not pass. Raises what `decode` raises.
    """
    name = next(iter(reference.inputs[0]))
    inputs = [{name: prepare_fast(sample.data, rule).tensor} for sample in samples]
    reduced = [choose_reduce(read_header(sample.data), rule) > 1 for sample in samples]
    small = [sample for sample, is_reduced in zip(samples, reduced, strict=True) if not is_reduced]
    photos = _photos(small, rule, max(0, ENOUGH - sum(reduced)))
    whole = [prepare(decode(photo), rule) for _, photo in photos]
    told = Reference(
        [*reference.names, *(photo_name for photo_name, _ in photos)],
        [*inputs, *({name: prepare_fast(photo, rule).tensor} for _, photo in photos)],
        [*reference.outputs, *(alone(run, {name: one.tensor}) for one in whole)],
        [*reference.transforms, *(one.transform for one in whole)],
    )
    count = sum(reduced) + len(photos)
    problems = [] if count else [NOTHING_REDUCED]
    figures = {"reduced": count, "photos": len(photos)}
    return network_row(STAGE, COMPARED, run, told, judge, gate, problems=problems, figures=figures)


def _photos(samples: Sequence[Sample], rule: PreprocessSpec, most: int) -> list[tuple[str, bytes]]:
    """Evenly spread samples as JPEG of a size that is decoded at a fraction, with names that say so."""
    places = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int))
    photos = []
    for sample in (samples[place] for place in places.tolist()):
        header = read_header(sample.data)
        size = _photo_size(ImageSize(header.width, header.height), rule)
        if size is not None:
            photo = np.asarray(resize(decode(sample.data), size, "pil_bicubic"), np.uint8)
            photos.append((f"{sample.name} as a photo of {size.width} x {size.height}", JpegCodec().encode(photo)))
    return photos


def _photo_size(source: ImageSize, rule: PreprocessSpec) -> ImageSize | None:
    """A camera's size in the picture's proportions, else the largest that is decoded; None where neither is reduced."""
    limits = DecodeLimits()
    for pixels in (PHOTO_PIXELS, limits.max_pixels):
        gain = math.sqrt(pixels / (source.width * source.height))
        gain = min(gain, limits.max_side / max(source.width, source.height))
        size = ImageSize(max(1, int(source.width * gain)), max(1, int(source.height * gain)))
        with contextlib.suppress(InputError):  # a rule that does not take this size at all
            if choose_reduce(ImageHeader("jpeg", size.width, size.height), rule) > 1:
                return size
    return None
