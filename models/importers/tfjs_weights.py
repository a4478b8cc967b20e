"""TensorFlow.js's weight format: one binary file, the tensors one after the other, described by a JSON manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import ImportFailed

Weights = dict[str, npt.NDArray[np.float32]]


def read_weights(manifest: Sequence[Mapping[str, Any]], data: bytes, what: str) -> Weights:
    """Every tensor as float32. Quantised ones are `uint8 * scale + min`, computed in double.

    Raises ImportFailed where the manifest and the bytes do not fit. Source: TensorFlow.js, io/io_utils (decodeWeights).
    """
    found: Weights = {}
    offset = 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        rule = entry.get("quantization")
        kind = np.dtype(rule["dtype"] if rule else entry["dtype"])
        if entry["dtype"] != "float32" or kind not in (np.dtype(np.uint8), np.dtype(np.float32)):
            raise ImportFailed(f"{what}: {entry['name']}: expected float32, plain or as uint8, got {entry}")
        count = int(np.prod(entry["shape"]))
        end = offset + count * kind.itemsize
        if end > len(data):
            raise ImportFailed(f"{what}: {entry['name']}: expected {end} bytes, the file has {len(data)}")
        raw = np.frombuffer(data, kind.newbyteorder("<"), count, offset)
        values = raw.astype(np.float64) * rule["scale"] + rule["min"] if rule else raw
        found[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
        offset = end
    if offset != len(data):
        raise ImportFailed(f"{what}: expected {offset} bytes, got {len(data)}")
    return found
