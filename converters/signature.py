"""The network's inputs and outputs by name, as the spec declares them: the names that every artifact carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.preprocess.geometry import free_sides, plane_of
from serving.sequences import WINDOW
from serving.spec import ModelSpec, SoundSpec, TensorDecl
from serving.types import DATATYPES, Array

IMAGES = "images"
_FREE_SIDE = 224


def network_inputs(spec: ModelSpec) -> tuple[TensorDecl, ...]:
    """The inputs without their batch axis: the declared ones (raw), else one picture tensor `images`, as padded.

    A side that is free (`width` or `height` 0) is -1 and ranges over what the rule makes (geometry.free_sides).
    """
    if spec.sound is not None:
        return _sound_inputs(spec, spec.sound)
    if spec.task == "raw" or spec.preprocess is None:
        return spec.inputs
    rule = spec.preprocess
    plane = plane_of(rule)
    sides = (plane.height, plane.width) if plane else (rule.height or -1, rule.width or -1)
    first = 0 if rule.layout == "nhwc" else 1
    shape = (*sides, rule.channels) if rule.layout == "nhwc" else (rule.channels, *sides)
    dynamic = {first + i: free_sides(rule) for i, side in enumerate(sides) if side == -1}
    name = spec.inputs[0].name if spec.inputs else IMAGES
    return (TensorDecl(name=name, datatype="FP32", shape=shape, dynamic=dynamic),)


def _sound_inputs(spec: ModelSpec, rule: SoundSpec) -> tuple[TensorDecl, ...]:
    """One window (with the past before it), then the state that goes from window to window."""
    window = TensorDecl(name=WINDOW, datatype="FP32", shape=(rule.context + rule.window,))
    return (window, *(TensorDecl(name=state.input, datatype="FP32", shape=state.shape) for state in rule.state))


def output_names(spec: ModelSpec, count: int) -> list[str]:
    """Names of `count` outputs: the spec's, or output (output_0, output_1 ... where there are several).

    Raises ValueError when the spec names another number of them.
    """
    if spec.outputs:
        if len(spec.outputs) != count:
            raise ValueError(f"outputs: the spec names {len(spec.outputs)}, the network gives {count}")
        return list(spec.outputs)
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def example_inputs(spec: ModelSpec, batch: int, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs of the declared shapes, for tracing; free sides take a middle size of their range."""
    rng = np.random.default_rng(seed)
    multiple = spec.preprocess.pad_multiple if spec.preprocess else 1
    usual = max(_FREE_SIDE, (spec.preprocess.min_side or 0) if spec.preprocess else 0)
    example = {}
    for declared in network_inputs(spec):
        sides = [_side(declared, axis, side, multiple, usual) for axis, side in enumerate(declared.shape)]
        example[declared.name] = _values(rng, declared.datatype, [batch, *sides])
    return example


def _side(declared: TensorDecl, axis: int, side: int, multiple: int, usual: int) -> int:
    if side != -1 and axis not in declared.dynamic:
        return side
    low, high = declared.dynamic.get(axis, (usual, usual))
    middle = min(max(usual, low), high)
    return max(multiple, middle // multiple * multiple)


def _values(rng: np.random.Generator, datatype: str, shape: Sequence[int]) -> Array:
    if datatype == "FP32":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, 2, shape).astype(DATATYPES[datatype])
