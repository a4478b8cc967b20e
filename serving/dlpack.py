"""Arrays to and from Triton's Python backend, by DLPack only.

The backend's stub was built for NumPy 1. Under NumPy 2 its `as_numpy()` gives arrays of the right shape with the wrong
content, in silence, and BYTES inputs crash it; DLPack (https://dmlc.github.io/dlpack/latest/) is right. Three more
things were found by trying, and `to_triton` is where they are dealt with; tests/integration/triton proves each:

- the stub demands the strides of a C-contiguous array even for axes of length 0, where NumPy's differ;
- NumPy refuses to export a read-only array;
- the stub marks a consumed capsule with a name NumPy does not know, and every answer prints a traceback.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from serving.types import Array

_CONSUMED = b"used_dltensor"
_set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
_set_capsule_name.restype = ctypes.c_int


def from_triton(tensor: Any) -> Array:
    """A view of a `pb_utils.Tensor` on the CPU. Valid until the backend's `execute` returns."""
    view: Array = np.from_dlpack(tensor)
    return view


def to_triton(pb_utils: Any, name: str, array: Array) -> Any:
    """A `pb_utils.Tensor` with a copy of `array`. DLPack owns the copy and frees it after the answer is sent."""
    capsule = canonical(array).__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(name, capsule)
    _set_capsule_name(capsule, _CONSUMED)
    return tensor


def canonical(array: Array) -> Array:
    """A writable copy whose strides are products of the dimensions, also where a dimension is 0."""
    copy: Array = np.empty(array.shape, array.dtype)
    copy[...] = array
    strides, step = [], array.itemsize
    for size in reversed(array.shape):
        strides.append(step)
        step *= size
    return np.lib.stride_tricks.as_strided(copy, array.shape, strides[::-1])
