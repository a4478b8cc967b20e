"""The reference path on a GPU for the kernel `cv2_linear`: letterbox.cu compiled by NVRTC for the device at hand.

Needs `cuda-bindings` and `nvidia-cuda-nvrtc` (torch's CUDA build brings both); imported only when used. Compiling needs
no GPU. Results are equal to `reference.prepare`, pixel for pixel and float for float.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import EngineFailed
from serving.preprocess.geometry import Placement, place
from serving.preprocess.reference import Prepared, frame_size, value_table
from serving.spec import PreprocessSpec
from serving.types import Array, FloatArray, PixelArray

SOURCE = Path(__file__).with_name("letterbox.cu")
_OPTIONS = ("--fmad=false", "--std=c++17")
_BLOCK = (32, 8)


class Plan(ctypes.Structure):
    """`LetterboxPlan` of letterbox.cu."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            "source_width",
            "source_height",
            "resized_width",
            "resized_height",
            "offset_x",
            "offset_y",
            "plane_width",
            "plane_height",
            "pad_value",
            "reversed",
            "channels_last",
        )
    ]


def supported(spec: PreprocessSpec) -> bool:
    """Whether the kernel can do what the spec says: OpenCV's linear resize, in colour, padded after it if at all."""
    return spec.kernel == "cv2_linear" and spec.colour in ("rgb", "bgr") and spec.resize != "pad_square"


def plan_of(placement: Placement, spec: PreprocessSpec) -> Plan:
    """The kernel's arguments for one picture."""
    return Plan(
        placement.source.width,
        placement.source.height,
        placement.resized.width,
        placement.resized.height,
        *placement.offset,
        placement.plane.width,
        placement.plane.height,
        spec.pad_value,
        int(spec.colour == "bgr"),
        int(spec.layout == "nhwc"),
    )


def table_of(spec: PreprocessSpec) -> FloatArray:
    """float32 `[3, 256]`: what each level of each channel becomes."""
    return np.ascontiguousarray(value_table(spec).T)


@lru_cache(maxsize=16)
def compile_cubin(architecture: str) -> bytes:
    """letterbox.cu as machine code for an architecture, such as `sm_89`. Raises EngineFailed with NVRTC's log."""
    nvrtc: Any = importlib.import_module("cuda.bindings.nvrtc")
    program = _checked(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], []))
    options = [f"--gpu-architecture={architecture}".encode(), *(option.encode() for option in _OPTIONS)]
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    try:
        if int(status):
            log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise EngineFailed(f"{SOURCE.name} does not compile for {architecture}: {log.decode(errors='replace')}")
        cubin: bytes = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, cubin))
        return cubin
    finally:
        nvrtc.nvrtcDestroyProgram(program)


class GpuPreprocessor:
    """letterbox.cu loaded on one device. Belongs to one thread at a time; `close` gives the memory back."""

    def __init__(self, device: int = 0) -> None:
        driver: Any = importlib.import_module("cuda.bindings.driver")
        self._driver = driver
        _checked(driver.cuInit(0))
        self._device = _checked(driver.cuDeviceGet(device))
        self._context = _checked(driver.cuDevicePrimaryCtxRetain(self._device))
        _checked(driver.cuCtxSetCurrent(self._context))
        attribute = driver.CUdevice_attribute
        major, minor = (
            _checked(driver.cuDeviceGetAttribute(which, self._device))
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self._module = _checked(driver.cuModuleLoadData(compile_cubin(f"sm_{major}{minor}")))
        self._kernel = _checked(driver.cuModuleGetFunction(self._module, b"lockstep_letterbox"))

    def prepare(self, frame: PixelArray, spec: PreprocessSpec) -> Prepared:
        """As `reference.prepare`, computed on the device and copied back. Raises ValueError for another kernel."""
        if not supported(spec):
            raise ValueError(
                "GPU preprocessing: expected kernel cv2_linear in rgb or bgr and no resize pad_square, "
                f"got {spec.kernel} {spec.colour} {spec.resize}"
            )
        placement = place(frame_size(frame), spec)
        rows, columns = placement.plane.height, placement.plane.width
        shape = (3, rows, columns) if spec.layout == "nchw" else (rows, columns, 3)
        tensor, pixels = np.empty(shape, np.float32), np.empty((rows, columns, 3), np.uint8)
        arrays: tuple[Array, ...] = (np.ascontiguousarray(frame), table_of(spec), tensor, pixels)
        held: list[Any] = []
        try:
            for array in arrays:
                held.append(_checked(self._driver.cuMemAlloc(array.nbytes)))
            for pointer, array in zip(held[:2], arrays[:2], strict=True):
                _checked(self._driver.cuMemcpyHtoD(pointer, array.ctypes.data, array.nbytes))
            self.launch(held[0], plan_of(placement, spec), held[1], held[2], held[3])
            for pointer, array in zip(held[2:], arrays[2:], strict=True):
                _checked(self._driver.cuMemcpyDtoH(array.ctypes.data, pointer, array.nbytes))
        finally:
            for pointer in held:
                self._driver.cuMemFree(pointer)
        return Prepared(pixels, tensor, placement.transform)

    def launch(self, source: Any, plan: Plan, table: Any, tensor: Any, pixels: Any = 0, stream: int = 0) -> None:
        """Queue the kernel on device pointers (`tensor` may be a slot of a batch; `pixels` 0: not wanted)."""
        pointers = [ctypes.c_void_p(int(p)) for p in (source, table, tensor, pixels)]
        arguments = (pointers[0], plan, pointers[1], pointers[2], pointers[3])
        addresses = (ctypes.c_void_p * 5)(*(ctypes.addressof(a) for a in arguments))
        grid = (-(-plan.plane_width // _BLOCK[0]), -(-plan.plane_height // _BLOCK[1]))
        _checked(
            self._driver.cuLaunchKernel(self._kernel, *grid, 1, *_BLOCK, 1, 0, stream, ctypes.addressof(addresses), 0)
        )

    def close(self) -> None:
        """Unload the kernel and let go of the device."""
        self._driver.cuModuleUnload(self._module)
        self._driver.cuDevicePrimaryCtxRelease(self._device)


def _checked(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, whose first item is its status. Raises EngineFailed."""
    if int(answer[0]):
        raise EngineFailed(f"CUDA call failed: {answer[0].name}", hint="see `lockstep doctor`")
    return answer[1] if len(answer) > 1 else None
