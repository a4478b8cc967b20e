"""Call the training side's own preprocessing and the functions that give its constants. Limited child only."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converters.addresses import call, resolve
from converters.signature import network_inputs
from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.types import Array


def training_samples(
    spec: ModelSpec, pictures: tuple[Path, ...], progress: Callable[[str], None]
) -> list[dict[str, Array]]:
    """For each picture what the training side makes of it: `pixels` (uint8 [h, w, c]) and, where given, `tensor`.

    The function takes (bytes, arguments) or (bytes, **arguments) and returns the uint8 pixels before normalising, the
    pair (pixels or None, float32 tensor in the network's layout), or the tensor alone. Raises SpecInvalid.
    """
    address = spec.parity.training_side
    if address is None:
        return []
    function, arguments = resolve(address, "parity.training_side"), dict(spec.parity.training_arguments)
    apart = list(inspect.signature(function).parameters)[1:2] == ["arguments"]
    found = []
    for index, picture in enumerate(pictures):
        data = picture.read_bytes()
        what = f"parity.training_side {address}: {picture.name}"
        answer = call(function, what, data, arguments) if apart else call(function, what, data, **arguments)
        found.append(_sample(spec, address, picture.name, answer))
        if (index + 1) % 16 == 0 or index + 1 == len(pictures):
            progress(f"training side {index + 1}/{len(pictures)}")
    return found


def constant_of(address: str | None, what: str) -> Any:
    """The JSON value of a constants function, or None without one. Raises SpecInvalid when it is no JSON value."""
    if address is None:
        return None
    value = call(resolve(address, what), f"{what} {address}")
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise SpecInvalid(f"{what} {address}: expected a JSON value: {error}") from error


def _sample(spec: ModelSpec, address: str, picture: str, answer: Any) -> dict[str, Array]:
    pixels, tensor = answer if isinstance(answer, tuple) else (answer, None)
    if isinstance(pixels, np.ndarray) and pixels.dtype != np.uint8 and tensor is None:
        pixels, tensor = None, pixels
    sample = {}
    if pixels is not None:
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise SpecInvalid(f"{address}: {picture}: expected uint8 [h, w, c], got {pixels.dtype} {pixels.shape}")
        sample["pixels"] = np.ascontiguousarray(pixels)
    if tensor is not None:
        array = np.asarray(tensor, np.float32)
        rank = len(network_inputs(spec)[0].shape) + (spec.sound is not None)  # a sound is several windows
        if array.ndim != rank:
            raise SpecInvalid(f"{address}: {picture}: expected a tensor of {rank} axes, got shape {array.shape}")
        sample["tensor"] = np.ascontiguousarray(array)
    if not sample:
        raise SpecInvalid(f"{address}: {picture}: gave neither pixels nor a tensor")
    return sample
