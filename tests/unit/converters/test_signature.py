"""The network's inputs are what the preprocessing really makes: padded planes, free sides as far as the rule goes."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_spec import tiny_spec

from converters.signature import example_inputs, network_inputs
from converters.tensorrt_build import profile_of
from serving.preprocess.geometry import place
from serving.spec import PreprocessSpec
from serving.types import ImageSize, TensorSpec


@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        ({"width": 300, "height": 300, "resize": "letterbox", "pad_multiple": 32}, (3, 320, 320)),
        ({"width": 100, "height": 64, "resize": "stretch", "pad_multiple": 16, "layout": "nhwc"}, (64, 112, 3)),
        ({"width": 300, "height": 200}, (3, 200, 300)),
    ],
)
def test_a_fixed_plane_is_declared_as_it_is_padded(rule: dict[str, Any], shape: tuple[int, ...]) -> None:
    spec = tiny_spec(preprocess=rule)
    assert network_inputs(spec)[0].shape == shape and not network_inputs(spec)[0].dynamic
    assert example_inputs(spec, 2)["images"].shape == (2, *shape)


@pytest.mark.parametrize("pad_multiple", [1, 32])
@pytest.mark.parametrize(
    "rule",
    [
        {"min_side": 800, "max_side": 1333},
        {"min_side": 800, "max_side": 1333, "scale_up": False},
        {"max_side": 640},
        {"min_side": 400},
        {"min_side": 400, "scale_up": False},
    ],
)
def test_free_sides_hold_what_the_rule_makes(rule: dict[str, Any], pad_multiple: int) -> None:
    spec = tiny_spec(preprocess={"resize": "min_max_side", "pad_multiple": pad_multiple, **rule})
    declared = network_inputs(spec)[0]
    assert declared.shape == (3, -1, -1)
    for width, height in ((1200, 300), (300, 1200), (640, 480), (100, 80), (1000, 1000)):
        if "max_side" not in rule and 1200 in (width, height):
            continue  # nothing bounds the long side
        plane = place(ImageSize(width, height), PreprocessSpec.model_validate(spec.preprocess)).plane
        for axis, side in ((1, plane.height), (2, plane.width)):
            low, high = declared.dynamic[axis]
            assert low <= side <= high, f"{width} x {height} became {plane}, declared {low} to {high}"


def test_a_profile_is_tuned_for_a_padded_side() -> None:
    spec = tiny_spec(preprocess={"resize": "min_max_side", "min_side": 800, "max_side": 1333, "pad_multiple": 32})
    low, usual, high = profile_of([TensorSpec("images", "FP32", (-1, 3, -1, -1))], spec)["images"]
    assert (low[2:], usual[2:], high[2:]) == ((32, 32), (1056, 1056), (1344, 1344))
