"""letterbox.cu: the same body compiled by g++ equals the reference; by NVRTC it compiles for every architecture."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.errors import EngineFailed
from serving.preprocess import gpu
from serving.preprocess.decode import decode
from serving.preprocess.geometry import place
from serving.preprocess.reference import Prepared, frame_size, prepare
from serving.spec import PreprocessSpec

Run = Callable[[np.ndarray, PreprocessSpec], Prepared]
_EM_CUDA = 190


@pytest.fixture(scope="session")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The kernel's pixel function, compiled by g++."""
    library = tmp_path_factory.mktemp("letterbox") / "letterbox.so"
    compiler = shutil.which("g++")
    assert compiler is not None
    options = ["-O2", "-std=c++17", "-ffp-contract=off", "-Wall", "-Werror", "-shared", "-fPIC"]
    source = Path(__file__).with_name("letterbox_host.cpp")
    subprocess.run(
        [compiler, *options, f"-I{gpu.SOURCE.parent}", str(source), "-o", str(library)], check=True, timeout=120
    )
    function = ctypes.CDLL(str(library)).letterbox_host

    def run(frame: np.ndarray, spec: PreprocessSpec) -> Prepared:
        placement = place(frame_size(frame), spec)
        rows, columns = placement.plane.height, placement.plane.width
        tensor = np.empty((3, rows, columns) if spec.layout == "nchw" else (rows, columns, 3), np.float32)
        pixels, table = np.empty((rows, columns, 3), np.uint8), gpu.table_of(spec)
        frame = np.ascontiguousarray(frame)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (frame, table, tensor, pixels)]
        function(pointers[0], ctypes.byref(gpu.plan_of(placement, spec)), *pointers[1:])
        return Prepared(pixels, tensor, placement.transform)

    return run


def _assert_equal(one: Prepared, other: Prepared) -> None:
    assert np.array_equal(one.pixels, other.pixels)
    assert np.array_equal(one.tensor, other.tensor)
    assert one.transform == other.transform


@pytest.mark.needs("g++")
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_photo_is_letterboxed_pixel_for_pixel(photo: bytes, on_host: Run, colour: str, layout: str) -> None:
    spec = PreprocessSpec.model_validate(
        {
            "width": 640,
            "height": 416,
            "resize": "letterbox",
            "kernel": "cv2_linear",
            "pad_value": 114,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "colour": colour,
            "layout": layout,
        }
    )
    frame = decode(photo)
    _assert_equal(on_host(frame, spec), prepare(frame, spec))


@pytest.mark.needs("g++")
@settings(deadline=None, max_examples=150)
@given(
    sizes=st.tuples(*[st.integers(1, 130)] * 4),
    rule=st.sampled_from(["stretch", "letterbox", "shortest_side_crop", "center_crop", "min_max_side", "none"]),
    multiple=st.sampled_from([1, 32]),
    seed=st.integers(0, 1000),
)
@example(sizes=(64, 48, 32, 24), rule="stretch", multiple=1, seed=1)  # OpenCV takes the mean of four here
@example(sizes=(32, 24, 64, 48), rule="stretch", multiple=1, seed=2)
def test_any_size_and_rule_on_noise(
    on_host: Run, sizes: tuple[int, int, int, int], rule: str, multiple: int, seed: int
) -> None:
    height, width, rows, columns = sizes
    free = rule in ("none", "min_max_side")
    spec = PreprocessSpec.model_validate(
        {
            "width": 0 if free else columns,
            "height": 0 if free else rows,
            "resize": rule,
            "kernel": "cv2_linear",
            "shortest_side": rows,
            "min_side": rows,
            "max_side": 140,
            "pad_value": 9,
            "pad_multiple": multiple,
            "range": "signed",
        }
    )
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    _assert_equal(on_host(frame, spec), prepare(frame, spec))


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_it_compiles_for_every_architecture_without_a_gpu(architecture: str) -> None:
    cubin = gpu.compile_cubin(architecture)
    assert cubin[:4] == b"\x7fELF" and int.from_bytes(cubin[18:20], "little") == _EM_CUDA
    assert b"lockstep_letterbox" in cubin


@pytest.mark.needs("nvrtc")
def test_an_unknown_architecture_is_an_error_of_ours() -> None:
    with pytest.raises(EngineFailed, match="sm_12"):
        gpu.compile_cubin("sm_12")


def test_what_the_kernel_can_do() -> None:
    assert gpu.supported(PreprocessSpec(width=4, height=4, kernel="cv2_linear", colour="bgr"))
    assert not gpu.supported(PreprocessSpec(width=4, height=4, kernel="cv2_linear", colour="grey"))
    assert not gpu.supported(PreprocessSpec(width=4, height=4, kernel="pil_bilinear"))


@pytest.fixture
def device() -> Iterator[gpu.GpuPreprocessor]:
    made = gpu.GpuPreprocessor()
    yield made
    made.close()


@pytest.mark.needs("gpu", "nvrtc")
def test_the_device_gives_the_reference(photo: bytes, device: gpu.GpuPreprocessor) -> None:
    spec = PreprocessSpec(width=640, height=640, resize="letterbox", kernel="cv2_linear", pad_value=114)
    frame = decode(photo)
    _assert_equal(device.prepare(frame, spec), prepare(frame, spec))
