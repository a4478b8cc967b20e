"""`config.pbtxt` of a served model, written from its spec.

The words are those of Triton's `model_config.proto`
(https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto); a test parses every text with
the protobuf that tritonclient ships and compares field by field, so nothing here rests on our reading of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import SpecInvalid
from serving.sequences import WINDOW
from serving.spec import MAX_QUEUE_SIZE, ModelSpec, SoundSpec
from serving.tasks import task_named
from serving.types import TensorSpec

# A photograph of ordinary size: what the warm-up sends where the network itself takes any size.
WARMUP_WIDTH, WARMUP_HEIGHT = 640, 480
IMAGE_INPUTS = (TensorSpec("image", "UINT8", (-1,)), TensorSpec("frame", "UINT8", (-1, -1, 3)))
RESULT = TensorSpec("result", "UINT8", (-1,))

# A message: field -> scalar, enum word, list of scalars, message, or list of messages (a repeated field).
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Word:
    """An enum value: printed without quotes."""

    text: str


def config_pbtxt(spec: ModelSpec, engine_outputs: Sequence[TensorSpec] = (), version: int | None = None) -> str:
    """The text of config.pbtxt of the Python-backend model that serves `spec` on a CPU.

    engine_outputs: the engine's outputs with their batch axis, needed by task raw, whose tensors have the network's
    own ranks. version: the one that is served (the spec's by default). Raises SpecInvalid.
    """
    inputs = served_inputs(spec)
    outputs = served_outputs(spec, engine_outputs)
    config: dict[str, Any] = {
        "name": spec.name,
        "backend": "python",
        "max_batch_size": spec.batch.max,
        "input": [input_of(tensor, optional=spec.task != "raw") for tensor in inputs],
        "output": [tensor_of(tensor) for tensor in outputs],
        "version_policy": {"specific": {"versions": [version or spec.version]}},
        "instance_group": [{"name": spec.name, "kind": Word("KIND_CPU"), "count": spec.serving.instances}],
        "dynamic_batching": dynamic_batching(spec),
        "model_warmup": [_warmup(spec, inputs, size) for size in sorted({1, spec.batch.opt, spec.batch.max})],
        "parameters": [parameter("task", spec.task), parameter("threads", str(spec.serving.threads)), room(spec)],
    }
    return render(config)


def served_inputs(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Inputs without the batch axis: `image` and `frame`, or the named tensors of a raw model."""
    if spec.sound is not None:
        return sound_inputs(spec.sound)
    if spec.task != "raw":
        return IMAGE_INPUTS
    return tuple(
        TensorSpec(t.name, t.datatype, tuple(-1 if axis in t.dynamic else size for axis, size in enumerate(t.shape)))
        for t in spec.inputs
    )


def sound_inputs(rule: SoundSpec) -> tuple[TensorSpec, ...]:
    """`audio` (an encoded sound), or `window` with the state that went before: a stream that is heard in pieces."""
    window = TensorSpec(WINDOW, "FP32", (-1, rule.context + rule.window))
    states = (TensorSpec(state.input, "FP32", state.shape) for state in rule.state)
    return (TensorSpec("audio", "UINT8", (-1,)), window, *states)


def served_outputs(spec: ModelSpec, engine_outputs: Sequence[TensorSpec] = ()) -> tuple[TensorSpec, ...]:
    """The task's typed tensors and `result`, without the batch axis."""
    typed = task_named(spec.task).outputs(spec)
    if spec.task == "raw":
        known = {tensor.name: tensor for tensor in engine_outputs}
        missing = [tensor.name for tensor in typed if tensor.name not in known]
        if missing:
            raise SpecInvalid(f"{spec.name}: outputs {missing}: expected among the engine's, got {sorted(known)}")
        typed = tuple(TensorSpec(t.name, known[t.name].datatype, known[t.name].shape[1:] or (1,)) for t in typed)
    return (*typed, RESULT)


def dynamic_batching(spec: ModelSpec) -> dict[str, Any]:
    """Batch what waits. Needed for batch 1 too: it is the queue.

    A policy only where the YAML asks for one: with any, Triton forgets what came while a batch ran, for up to half a
    second (docs/decisions/0022). Its bound is kept by who asks: `room`.
    """
    batching: dict[str, Any] = {"max_queue_delay_microseconds": spec.serving.max_queue_delay_us}
    if spec.serving.queue_timeout_ms is None:
        return batching
    policy = {
        "timeout_action": Word("REJECT"),
        "default_timeout_microseconds": spec.serving.queue_timeout_ms * 1000,
        "allow_timeout_override": True,
        "max_queue_size": spec.serving.max_queue_size,
    }
    return {**batching, "default_queue_policy": policy}


def room(spec: ModelSpec) -> dict[str, Any]:
    """The parameter that tells a client how many requests of it may wait (`serving.adapters.triton_room`)."""
    return parameter(MAX_QUEUE_SIZE, str(spec.serving.max_queue_size))


def tensor_of(tensor: TensorSpec) -> dict[str, Any]:
    """ModelInput or ModelOutput."""
    return {"name": tensor.name, "data_type": Word(f"TYPE_{tensor.datatype}"), "dims": list(tensor.shape)}


def input_of(tensor: TensorSpec, optional: bool) -> dict[str, Any]:
    """ModelInput; an optional one may have another shape in each request of a batch."""
    if not optional:
        return tensor_of(tensor)
    return {**tensor_of(tensor), "optional": True, "allow_ragged_batch": True}


def parameter(key: str, value: str) -> dict[str, Any]:
    """An entry of ModelConfig.parameters."""
    return {"key": key, "value": {"string_value": value}}


def _warmup(spec: ModelSpec, inputs: Sequence[TensorSpec], batch_size: int) -> dict[str, Any]:
    """A request of zeros in a shape that real requests have (as `frame`: zeros are no JPEG)."""
    shapes: dict[str, tuple[TensorSpec, tuple[int, ...]]]
    if spec.sound is not None:
        shapes = {WINDOW: (inputs[1], (1, inputs[1].shape[1]))}
    elif spec.task != "raw":
        frame = next(tensor for tensor in inputs if tensor.name == "frame")
        shapes = {frame.name: (frame, (WARMUP_HEIGHT, WARMUP_WIDTH, 3))}
    else:
        shapes = {t.name: (t, _largest(spec, t)) for t in inputs}
    entries: list[dict[str, Any]] = [
        {
            "key": name,
            "value": {"data_type": Word(f"TYPE_{tensor.datatype}"), "dims": list(shape), "zero_data": True},
        }
        for name, (tensor, shape) in shapes.items()
    ]
    return {"name": f"batch_{batch_size}", "batch_size": batch_size, "inputs": entries}


def _largest(spec: ModelSpec, tensor: TensorSpec) -> tuple[int, ...]:
    declared = next(t for t in spec.inputs if t.name == tensor.name)
    return tuple(declared.dynamic[a][1] if a in declared.dynamic else size for a, size in enumerate(declared.shape))


def render(config: Message) -> str:
    """Protobuf text format of nested mappings; a sequence of mappings is a repeated message."""
    return "\n".join(_lines(config, "")) + "\n"


def _lines(message: Message, indent: str) -> Iterator[str]:
    for key, value in message.items():
        nested = [value] if isinstance(value, Mapping) else value
        if not (isinstance(nested, list) and nested and isinstance(nested[0], Mapping)):
            yield f"{indent}{key}: {_scalar(value)}"
            continue
        for item in nested:
            yield f"{indent}{key} {{"
            yield from _lines(item, indent + "  ")
            yield f"{indent}}}"


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value.text
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    # JSON and the text format agree on true, false, integers and quoted strings.
    return json.dumps(value, ensure_ascii=False)
